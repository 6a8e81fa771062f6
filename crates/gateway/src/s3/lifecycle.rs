//! The lifecycle configuration of a bucket, as clients set and read it, and `x-amz-expiration`.

use std::collections::HashSet;

use fula_core::bucket::TextMap;
use fula_service::{End, Expiration, Filter, FilterForm, Lifecycle, Noncurrent, Rule};
use http::{HeaderMap, HeaderValue};
use s3s::{S3Error, S3Request, S3Response, S3Result, dto::*, s3_error};
use time::OffsetDateTime;

use super::{
    Api, caller,
    convert::{bucket_name, url_encode},
    settings::not_set,
    tags::{OBJECT_TAGS_MAX, of_set, to_set},
};
use crate::{
    date::{http_date, timestamp},
    error::{not_implemented, s3_error as to_s3},
};

/// Largest number of rules, as on AWS.
const RULES_MAX: usize = 1000;

const ID_MAX: usize = 255;

const PREFIX_MAX: usize = 1024;

/// Largest number of noncurrent versions that a rule may keep, as on AWS.
const KEEP_MAX: i32 = 100;

const DAY_MS: i128 = 86_400_000;

fn malformed() -> S3Error {
    s3_error!(MalformedXML)
}

fn invalid_argument(text: &str) -> S3Error {
    s3_error!(InvalidArgument, "{text}")
}

fn invalid_request(text: &str) -> S3Error {
    s3_error!(InvalidRequest, "{text}")
}

/// Returns a number of days.
fn days(number: i32, text: &str) -> S3Result<u32> {
    u32::try_from(number).ok().filter(|days| *days > 0).ok_or_else(|| invalid_argument(text))
}

/// Returns the midnight that a date names, in milliseconds since 1970.
fn midnight(date: &Timestamp) -> S3Result<u64> {
    let nanos = OffsetDateTime::from(date.clone()).unix_timestamp_nanos();
    let ms = nanos / 1_000_000;
    let is_midnight = nanos % 1_000_000 == 0 && ms % DAY_MS == 0;
    let text = "'Date' must be at midnight GMT";
    u64::try_from(ms).ok().filter(|_| is_midnight).ok_or_else(|| invalid_argument(text))
}

fn size(number: Option<i64>) -> S3Result<Option<u64>> {
    let text = "Object size must be a non-negative integer";
    number.map(|number| u64::try_from(number).map_err(|_| invalid_argument(text))).transpose()
}

fn prefix(text: Option<&String>) -> S3Result<Option<String>> {
    match text {
        Some(text) if text.len() > PREFIX_MAX => {
            Err(invalid_request("The maximum size of a prefix is 1024."))
        }
        text => Ok(text.cloned()),
    }
}

/// Reads the filter of a rule, in either form.
fn filter_of(rule: &LifecycleRule) -> S3Result<(Filter, FilterForm)> {
    let Some(filter) = &rule.filter else {
        let prefix = prefix(Some(rule.prefix.as_ref().ok_or_else(malformed)?))?;
        return Ok((Filter { prefix, ..Filter::default() }, FilterForm::Prefix));
    };
    if rule.prefix.is_some() {
        return Err(malformed());
    }
    let given = [
        filter.prefix.is_some(),
        filter.tag.is_some(),
        filter.object_size_greater_than.is_some(),
        filter.object_size_less_than.is_some(),
        filter.and.is_some(),
    ];
    if given.iter().filter(|given| **given).count() > 1 {
        return Err(malformed());
    }
    let and = filter.and.as_ref();
    let tags = match and {
        Some(and) => and.tags.clone().unwrap_or_default(),
        None => filter.tag.iter().cloned().collect(),
    };
    let from = |and: Option<i64>, one: Option<i64>| size(and.or(one));
    let found = Filter {
        prefix: prefix(and.map_or(filter.prefix.as_ref(), |and| and.prefix.as_ref()))?,
        tags: of_set(&tags, OBJECT_TAGS_MAX)?,
        larger_than: from(
            and.and_then(|and| and.object_size_greater_than),
            filter.object_size_greater_than,
        )?,
        smaller_than: from(
            and.and_then(|and| and.object_size_less_than),
            filter.object_size_less_than,
        )?,
    };
    if let (Some(larger), Some(smaller)) = (found.larger_than, found.smaller_than)
        && larger >= smaller
    {
        let text = "'ObjectSizeLessThan' has to be a value greater than 'ObjectSizeGreaterThan'.";
        return Err(invalid_request(text));
    }
    let form = match (and.is_some(), given.contains(&true)) {
        (true, _) => FilterForm::And,
        (false, true) => FilterForm::One,
        (false, false) => FilterForm::Empty,
    };
    Ok((found, form))
}

fn expiration_of(expiration: &LifecycleExpiration) -> S3Result<Expiration> {
    match (&expiration.days, &expiration.date, expiration.expired_object_delete_marker) {
        (Some(number), None, None) => {
            let text = "'Days' for Expiration action must be a positive integer";
            days(*number, text).map(Expiration::Days)
        }
        (None, Some(date), None) => midnight(date).map(Expiration::Date),
        (None, None, Some(ends)) => Ok(Expiration::Markers(ends)),
        _ => Err(malformed()),
    }
}

fn noncurrent_of(noncurrent: &NoncurrentVersionExpiration) -> S3Result<Noncurrent> {
    let text = "'NoncurrentDays' for NoncurrentVersionExpiration action must be a positive integer";
    let number = noncurrent.noncurrent_days.ok_or_else(malformed)?;
    let keep = noncurrent.newer_noncurrent_versions.unwrap_or(0);
    let is_given = noncurrent.newer_noncurrent_versions.is_some();
    if is_given && !(1..=KEEP_MAX).contains(&keep) {
        let text = "'NewerNoncurrentVersions' for NoncurrentVersionExpiration action must be a \
                    positive integer of at most 100";
        return Err(invalid_argument(text));
    }
    Ok(Noncurrent { days: days(number, text)?, keep: u32::try_from(keep).unwrap_or(0) })
}

/// Checks a rule, with the texts of AWS.
fn checked(n: usize, rule: &LifecycleRule) -> S3Result<Rule> {
    if rule.transitions.as_ref().is_some_and(|all| !all.is_empty())
        || rule.noncurrent_version_transitions.as_ref().is_some_and(|all| !all.is_empty())
    {
        return Err(not_implemented("A lifecycle rule with a transition to another storage class"));
    }
    let id =
        rule.id.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| format!("rule-{}", n + 1));
    if id.encode_utf16().count() > ID_MAX {
        return Err(invalid_argument("ID length should not exceed allowed limit of 255"));
    }
    let enabled = match rule.status.as_str() {
        ExpirationStatus::ENABLED => true,
        ExpirationStatus::DISABLED => false,
        _ => return Err(malformed()),
    };
    let (filter, form) = filter_of(rule)?;
    let expiration = rule.expiration.as_ref().map(expiration_of).transpose()?;
    let noncurrent = rule.noncurrent_version_expiration.as_ref().map(noncurrent_of).transpose()?;
    let text = "'DaysAfterInitiation' for AbortIncompleteMultipartUpload action must be a positive \
                integer";
    let abort = rule.abort_incomplete_multipart_upload.as_ref();
    let abort = abort.map(|abort| days(abort.days_after_initiation.unwrap_or(0), text));
    let abort_days = abort.transpose()?;
    if expiration.is_none() && noncurrent.is_none() && abort_days.is_none() {
        return Err(invalid_request("At least one action needs to be specified in a rule"));
    }
    let has_sizes = filter.larger_than.is_some() || filter.smaller_than.is_some();
    for (is_there, name) in [
        (abort_days.is_some(), "AbortIncompleteMultipartUpload"),
        (matches!(expiration, Some(Expiration::Markers(_))), "ExpiredObjectDeleteMarker"),
    ] {
        if is_there && !filter.tags.is_empty() {
            return Err(invalid_request(&format!("{name} cannot be specified with Tags.")));
        }
        if is_there && has_sizes {
            return Err(invalid_request(&format!("{name} cannot be specified with Object Size.")));
        }
    }
    Ok(Rule { id, enabled, filter, form, expiration, noncurrent, abort_days })
}

/// Reads the configuration that a client sends.
fn read(configuration: Option<&BucketLifecycleConfiguration>) -> S3Result<Lifecycle> {
    let rules = configuration.map(|configuration| configuration.rules.as_slice());
    let rules =
        rules.filter(|rules| (1..=RULES_MAX).contains(&rules.len())).ok_or_else(malformed)?;
    let rules = rules.iter().enumerate().map(|(n, rule)| checked(n, rule));
    let rules = rules.collect::<S3Result<Vec<_>>>()?;
    let mut ids = HashSet::new();
    if let Some(twice) = rules.iter().find(|rule| !ids.insert(&rule.id)) {
        let id = crate::xml::escape(&twice.id);
        let text = format!("Rule ID must be unique. Found same ID for more than one rule: {id}");
        return Err(invalid_argument(&text));
    }
    Ok(Lifecycle { rules })
}

fn number(value: u64) -> Option<i64> {
    i64::try_from(value).ok()
}

fn days_to(days: u32) -> Option<i32> {
    i32::try_from(days).ok()
}

fn filter_to(filter: Filter, form: FilterForm) -> Option<LifecycleRuleFilter> {
    let Filter { prefix, tags, larger_than, smaller_than } = filter;
    let (larger, smaller) = (larger_than.and_then(number), smaller_than.and_then(number));
    match form {
        FilterForm::Prefix => None,
        FilterForm::Empty => Some(LifecycleRuleFilter::default()),
        FilterForm::One => Some(LifecycleRuleFilter {
            prefix,
            tag: to_set(tags).into_iter().next(),
            object_size_greater_than: larger,
            object_size_less_than: smaller,
            ..LifecycleRuleFilter::default()
        }),
        FilterForm::And => Some(LifecycleRuleFilter {
            and: Some(LifecycleRuleAndOperator {
                prefix,
                tags: Some(tags).filter(|tags: &TextMap| !tags.is_empty()).map(to_set),
                object_size_greater_than: larger,
                object_size_less_than: smaller,
            }),
            ..LifecycleRuleFilter::default()
        }),
    }
}

/// Returns a rule as it was put.
fn shown(rule: Rule) -> LifecycleRule {
    let Rule { id, enabled, filter, form, expiration, noncurrent, abort_days } = rule;
    let status = if enabled { ExpirationStatus::ENABLED } else { ExpirationStatus::DISABLED };
    let expiration = expiration.map(|expiration| match expiration {
        Expiration::Days(days) => {
            LifecycleExpiration { days: days_to(days), ..LifecycleExpiration::default() }
        }
        Expiration::Date(time) => {
            LifecycleExpiration { date: Some(timestamp(time)), ..LifecycleExpiration::default() }
        }
        Expiration::Markers(ends) => LifecycleExpiration {
            expired_object_delete_marker: Some(ends),
            ..LifecycleExpiration::default()
        },
    });
    let prefix = filter.prefix.clone().filter(|_| form == FilterForm::Prefix);
    LifecycleRule {
        abort_incomplete_multipart_upload: abort_days
            .map(|days| AbortIncompleteMultipartUpload { days_after_initiation: days_to(days) }),
        expiration,
        filter: filter_to(filter, form),
        id: Some(id),
        noncurrent_version_expiration: noncurrent.map(|noncurrent| NoncurrentVersionExpiration {
            newer_noncurrent_versions: days_to(noncurrent.keep).filter(|keep| *keep > 0),
            noncurrent_days: days_to(noncurrent.days),
        }),
        noncurrent_version_transitions: None,
        prefix,
        status: ExpirationStatus::from_static(status),
        transitions: None,
    }
}

/// Tells in the headers of an answer when the object ends.
pub(super) fn set_end(headers: &mut HeaderMap, end: Option<&End>) {
    let Some(End { time, rule }) = end else { return };
    let Some(date) = http_date(timestamp(*time)) else { return };
    let date = date.to_str().unwrap_or_default();
    let text = format!("expiry-date=\"{date}\", rule-id=\"{}\"", url_encode(rule));
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert("x-amz-expiration", value);
    }
}

impl Api {
    pub(super) async fn get_bucket_lifecycle_configuration(
        &self,
        request: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
        let bucket = bucket_name(&request.input.bucket)?;
        let found = self.service.lifecycle(&caller(&request)?, &bucket).await.map_err(to_s3)?;
        let Some(lifecycle) = found else {
            let text = "The lifecycle configuration does not exist";
            return Err(not_set("NoSuchLifecycleConfiguration", text, &request.input.bucket));
        };
        Ok(S3Response::new(GetBucketLifecycleConfigurationOutput {
            rules: Some(lifecycle.rules.into_iter().map(shown).collect()),
            ..GetBucketLifecycleConfigurationOutput::default()
        }))
    }

    pub(super) async fn put_bucket_lifecycle_configuration(
        &self,
        request: S3Request<PutBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<PutBucketLifecycleConfigurationOutput>> {
        let bucket = bucket_name(&request.input.bucket)?;
        let lifecycle = read(request.input.lifecycle_configuration.as_ref())?;
        let put = self.service.set_lifecycle(&caller(&request)?, &bucket, Some(&lifecycle)).await;
        put.map_err(to_s3)?;
        Ok(S3Response::new(PutBucketLifecycleConfigurationOutput::default()))
    }

    pub(super) async fn delete_bucket_lifecycle(
        &self,
        request: S3Request<DeleteBucketLifecycleInput>,
    ) -> S3Result<S3Response<DeleteBucketLifecycleOutput>> {
        let bucket = bucket_name(&request.input.bucket)?;
        let put = self.service.set_lifecycle(&caller(&request)?, &bucket, None).await;
        put.map_err(to_s3)?;
        Ok(S3Response::new(DeleteBucketLifecycleOutput::default()))
    }
}
