//! Versions: their ids in requests and answers, listing them, and whether a bucket keeps them.

use fula_core::bucket::{ListedVersion, ObjectKind, ObjectRecord, VersionId, Versioning};
use fula_service::{ListRequest, ServiceError};
use http::{HeaderMap, HeaderValue};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    Api, caller,
    convert::bucket_name,
    listing::{Names, Owners, Page, page_size},
};
use crate::error::{not_implemented, s3_error as to_s3, with_argument};

/// Returns the version that a request names.
///
/// # Errors
/// 400 `InvalidArgument` for a text that is no version id.
pub(super) fn version_of(text: Option<&String>) -> S3Result<Option<VersionId>> {
    let Some(text) = text else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        let message = if text.is_empty() {
            "Version id cannot be the empty string"
        } else {
            "Invalid version id specified"
        };
        let error = s3_error!(InvalidArgument, "{message}");
        let value = HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
        with_argument(error, "versionId", &value)
    })
}

/// Sets the header that names a version.
pub(super) fn set_version(headers: &mut HeaderMap, version: VersionId) {
    if let Ok(value) = HeaderValue::from_str(&version.to_string()) {
        headers.insert("x-amz-version-id", value);
    }
}

/// Returns the id of a version that a write made. As on AWS, the null version is not named.
pub(super) fn made_version(record: &ObjectRecord) -> Option<String> {
    record.is_versioned.then(|| record.version_id().to_string())
}

/// Maps an error of a copy. A delete marker cannot be copied.
pub(super) fn copy_fault(error: ServiceError) -> S3Error {
    match error {
        ServiceError::DeleteMarker { is_named: true, .. } => {
            let text = "The source of a copy request may not specifically refer to a delete marker by \
                        version id.";
            s3_error!(InvalidRequest, "{text}")
        }
        error => to_s3(error),
    }
}

impl Api {
    pub(super) async fn get_bucket_versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let bucket = bucket_name(&request.input.bucket)?;
        let found = self.service.versioning(&caller(&request)?, &bucket).await.map_err(to_s3)?;
        let status = found.map(|versioning| match versioning {
            Versioning::Enabled => BucketVersioningStatus::ENABLED,
            Versioning::Suspended => BucketVersioningStatus::SUSPENDED,
        });
        Ok(S3Response::new(GetBucketVersioningOutput {
            status: status.map(BucketVersioningStatus::from_static),
            ..GetBucketVersioningOutput::default()
        }))
    }

    pub(super) async fn put_bucket_versioning(
        &self,
        request: S3Request<PutBucketVersioningInput>,
    ) -> S3Result<S3Response<PutBucketVersioningOutput>> {
        let bucket = bucket_name(&request.input.bucket)?;
        let asked = &request.input.versioning_configuration;
        if asked.mfa_delete.as_ref().is_some_and(|mfa| mfa.as_str() == MFADelete::ENABLED) {
            return Err(not_implemented("MFA delete"));
        }
        let versioning = match asked.status.as_ref().map(BucketVersioningStatus::as_str) {
            Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
            Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
            Some(_) => return Err(s3_error!(MalformedXML)),
            None => {
                let text = "The Versioning element must be specified";
                let code = S3ErrorCode::IllegalVersioningConfigurationException;
                return Err(S3Error::with_message(code, text));
            }
        };
        let put = self.service.set_versioning(&caller(&request)?, &bucket, versioning).await;
        put.map_err(to_s3)?;
        Ok(S3Response::new(PutBucketVersioningOutput::default()))
    }

    pub(super) async fn list_object_versions(
        &self,
        request: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let input = &request.input;
        let names = Names::new(input.encoding_type.clone())?;
        let limit = page_size(input.max_keys, "max-keys")?;
        let after = input.key_marker.clone().filter(|marker| !marker.is_empty());
        let marker = input.version_id_marker.as_ref();
        if marker.is_some() && after.is_none() {
            let text = "A version-id marker cannot be specified without a key marker.";
            return Err(s3_error!(InvalidArgument, "{text}"));
        }
        let after_version = version_of(marker)?;
        let query = ListRequest {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().unwrap_or_default(),
            after,
            limit,
        };
        let bucket = bucket_name(&input.bucket)?;
        let caller = &caller(&request)?;
        let listing = self.service.list_versions(caller, &bucket, &query, after_version).await;
        let listing = listing.map_err(to_s3)?;
        let owners = Owners::new(&request.extensions, listing.owner, listing.has_owners);
        let mut page = Page::new("ListVersionsResult", &names, listing.lines.len());
        page.text("Name", &input.bucket);
        page.name("Prefix", &query.prefix);
        page.name("KeyMarker", input.key_marker.as_deref().unwrap_or_default());
        page.text("VersionIdMarker", marker.map_or("", String::as_str));
        if let Some(last) = listing.lines.last().filter(|_| listing.truncated) {
            match last {
                // The position of a null version is named: it may be deleted before the next page.
                ListedVersion::Version { key, record, .. } => {
                    page.name("NextKeyMarker", key);
                    page.text("NextVersionIdMarker", &VersionId::At(record.seq).to_string());
                }
                ListedVersion::Prefix(prefix) => page.name("NextKeyMarker", prefix),
            }
        }
        page.number("MaxKeys", limit as u64);
        page.name_opt("Delimiter", input.delimiter.as_deref());
        page.end_of_head(listing.truncated);
        for line in &listing.lines {
            match line {
                ListedVersion::Prefix(prefix) => page.prefix(prefix),
                ListedVersion::Version { key, record, is_latest } => {
                    write_version(&mut page, (key, record, *is_latest), &owners);
                }
            }
        }
        Ok(page.answer())
    }
}

/// Writes a version, or a delete marker, which has no content.
fn write_version(
    page: &mut Page<'_>,
    (key, record, is_latest): (&str, &ObjectRecord, bool),
    owners: &Owners<'_>,
) {
    let is_marker = record.kind == ObjectKind::DeleteMarker;
    let line = if is_marker { "DeleteMarker" } else { "Version" };
    page.start_line(line, key);
    page.version(record.version_id());
    page.flag("IsLatest", is_latest);
    page.time(record);
    if !is_marker {
        page.content(record);
    }
    page.owner(record, owners);
    if !is_marker {
        page.class();
    }
    page.end_line(line);
}
