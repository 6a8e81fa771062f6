//! The CORS configuration of a bucket, as clients set and read it.

use s3s::{S3Error, S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{Api, caller, convert::bucket_name, settings::not_set};
use crate::{
    cors::{Rule, stored_rules},
    error::s3_error as to_s3,
    xml::escape,
};

/// Largest number of rules, as on AWS.
const RULES_MAX: usize = 100;

/// Largest configuration in bytes, as on AWS.
const BYTES_MAX: usize = 64 << 10;

const ID_MAX: usize = 255;

const METHODS: [&str; 5] = ["GET", "PUT", "HEAD", "POST", "DELETE"];

fn invalid(text: &str) -> S3Error {
    s3_error!(InvalidRequest, "{text}")
}

/// Checks a rule, with the texts of AWS.
fn checked(rule: &CORSRule) -> S3Result<Rule> {
    let wildcards = |text: &String| text.bytes().filter(|byte| *byte == b'*').count();
    let has_many = |text: &&String| wildcards(text) > 1;
    let (origins, methods) = (&rule.allowed_origins, &rule.allowed_methods);
    let headers = rule.allowed_headers.as_deref().unwrap_or_default();
    let expose = rule.expose_headers.as_deref().unwrap_or_default();
    if origins.is_empty() || methods.is_empty() {
        return Err(s3_error!(MalformedXML));
    }
    if let Some(method) = methods.iter().find(|method| !METHODS.contains(&method.as_str())) {
        let method = escape(method);
        return Err(invalid(&format!(
            "Found unsupported HTTP method in CORS config. Unsupported method is {method}"
        )));
    }
    for (name, all) in [("AllowedOrigin", origins.as_slice()), ("AllowedHeader", headers)] {
        if let Some(text) = all.iter().find(has_many) {
            let text = escape(text);
            return Err(invalid(&format!(
                "{name} \"{text}\" can not have more than one wildcard."
            )));
        }
    }
    if let Some(text) = expose.iter().find(|text| wildcards(text) > 0) {
        let text = escape(text);
        return Err(invalid(&format!(
            "ExposeHeader \"{text}\" contains wildcard. We currently do not support wildcard for \
             ExposeHeader."
        )));
    }
    if rule.id.as_ref().is_some_and(|id| id.len() > ID_MAX) {
        return Err(s3_error!(MalformedXML));
    }
    Ok(Rule {
        id: rule.id.clone(),
        origins: origins.clone(),
        methods: methods.clone(),
        headers: headers.to_vec(),
        expose: expose.to_vec(),
        max_age: rule.max_age_seconds,
    })
}

fn some(list: Vec<String>) -> Option<Vec<String>> {
    Some(list).filter(|list| !list.is_empty())
}

impl Api {
    pub(super) async fn get_bucket_cors(
        &self,
        request: S3Request<GetBucketCorsInput>,
    ) -> S3Result<S3Response<GetBucketCorsOutput>> {
        let bucket = bucket_name(&request.input.bucket)?;
        let text = self.service.cors(&caller(&request)?, &bucket).await.map_err(to_s3)?;
        let rules = text.map(|text| stored_rules(&text)).transpose()?;
        let Some(rules) = rules else {
            let text = "The CORS configuration does not exist";
            return Err(not_set("NoSuchCORSConfiguration", text, &request.input.bucket));
        };
        let rules = rules.into_iter().map(|rule| CORSRule {
            allowed_headers: some(rule.headers),
            allowed_methods: rule.methods,
            allowed_origins: rule.origins,
            expose_headers: some(rule.expose),
            id: rule.id,
            max_age_seconds: rule.max_age,
        });
        Ok(S3Response::new(GetBucketCorsOutput { cors_rules: Some(rules.collect()) }))
    }

    pub(super) async fn put_bucket_cors(
        &self,
        request: S3Request<PutBucketCorsInput>,
    ) -> S3Result<S3Response<PutBucketCorsOutput>> {
        let bucket = bucket_name(&request.input.bucket)?;
        let rules = &request.input.cors_configuration.cors_rules;
        if rules.is_empty() || rules.len() > RULES_MAX {
            return Err(s3_error!(MalformedXML));
        }
        let rules = rules.iter().map(checked).collect::<S3Result<Vec<_>>>()?;
        let text = serde_json::to_string(&rules).map_err(|_| s3_error!(InternalError))?;
        if text.len() > BYTES_MAX {
            return Err(s3_error!(MalformedXML));
        }
        let put = self.service.set_cors(&caller(&request)?, &bucket, Some(&text)).await;
        put.map_err(to_s3)?;
        Ok(S3Response::new(PutBucketCorsOutput::default()))
    }

    pub(super) async fn delete_bucket_cors(
        &self,
        request: S3Request<DeleteBucketCorsInput>,
    ) -> S3Result<S3Response<DeleteBucketCorsOutput>> {
        let bucket = bucket_name(&request.input.bucket)?;
        let put = self.service.set_cors(&caller(&request)?, &bucket, None).await;
        put.map_err(to_s3)?;
        Ok(S3Response::new(DeleteBucketCorsOutput::default()))
    }
}
