//! Versions: their ids in requests and answers, listing them, and whether a bucket keeps them.

use fula_core::bucket::{ListedVersion, ObjectKind, ObjectRecord, VersionId, Versioning};
use fula_service::{ListRequest, ServiceError};
use http::{HeaderMap, HeaderValue};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    Api,
    bucket::{Names, none_if_empty, owner_of, page_size},
    caller,
    convert::{bucket_name, etag},
};
use crate::{
    date::timestamp,
    error::{not_implemented, s3_error as to_s3, with_argument},
};

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
        let owner = owner_of(&request.extensions, listing.owner);
        let mut output = ListObjectVersionsOutput {
            name: Some(input.bucket.clone()),
            prefix: Some(names.encode(&query.prefix)),
            key_marker: Some(names.encode(input.key_marker.as_deref().unwrap_or_default())),
            version_id_marker: Some(marker.cloned().unwrap_or_default()),
            max_keys: i32::try_from(limit).ok(),
            is_truncated: Some(listing.truncated),
            delimiter: names.encode_opt(input.delimiter.as_ref()),
            ..ListObjectVersionsOutput::default()
        };
        if let Some(last) = listing.lines.last().filter(|_| listing.truncated) {
            let (name, version) = match last {
                // The position of a null version is named: it may be deleted before the next page.
                ListedVersion::Version { key, record, .. } => {
                    (key, Some(VersionId::At(record.seq)))
                }
                ListedVersion::Prefix(prefix) => (prefix, None),
            };
            output.next_key_marker = Some(names.encode(name));
            output.next_version_id_marker = version.map(|version| version.to_string());
        }
        let (mut versions, mut markers, mut prefixes) = (Vec::new(), Vec::new(), Vec::new());
        for line in listing.lines {
            match line {
                ListedVersion::Prefix(prefix) => {
                    prefixes.push(CommonPrefix { prefix: Some(names.encode(&prefix)) });
                }
                ListedVersion::Version { key, record, is_latest } => {
                    let line = (names.encode(&key), *record, is_latest, owner.clone());
                    if line.1.kind == ObjectKind::DeleteMarker {
                        markers.push(marker_line(line));
                    } else {
                        versions.push(version_line(line));
                    }
                }
            }
        }
        output.versions = none_if_empty(versions);
        output.delete_markers = none_if_empty(markers);
        output.common_prefixes = none_if_empty(prefixes);
        output.encoding_type = names.encoding;
        Ok(S3Response::new(output))
    }
}

/// Encoded key, record, whether it is the newest, owner.
type Line = (String, ObjectRecord, bool, Owner);

fn marker_line((key, record, is_latest, owner): Line) -> DeleteMarkerEntry {
    DeleteMarkerEntry {
        key: Some(key),
        version_id: Some(record.version_id().to_string()),
        is_latest: Some(is_latest),
        last_modified: Some(timestamp(record.time)),
        owner: Some(owner),
    }
}

fn version_line((key, record, is_latest, owner): Line) -> ObjectVersion {
    let algorithms = super::bucket::algorithms(&record);
    let class = ObjectVersionStorageClass::from_static(ObjectVersionStorageClass::STANDARD);
    ObjectVersion {
        key: Some(key),
        version_id: Some(record.version_id().to_string()),
        is_latest: Some(is_latest),
        last_modified: Some(timestamp(record.time)),
        e_tag: Some(etag(&record.etag)),
        size: i64::try_from(record.size).ok(),
        storage_class: Some(class),
        owner: Some(owner),
        checksum_type: super::convert::checksum_type(&record.checksums),
        checksum_algorithm: none_if_empty(algorithms),
        ..ObjectVersion::default()
    }
}
