//! Deleting objects and versions.

use fula_core::bucket::VersionId;
use fula_service::{
    DeleteKey, Deleted,
    condition::{Tags, WriteConditions},
    limits::DELETE_KEYS_MAX,
};
use s3s::{S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    Api, caller,
    convert::{bucket_name, object_key, refuse_conditions, write_conditions},
    versions::version_of,
};
use crate::{
    error::{not_implemented, s3_error as to_s3},
    xml::printable,
};

/// Parses one key of a batch.
fn key_to_delete(object: &ObjectIdentifier) -> S3Result<(DeleteKey, Option<VersionId>)> {
    let if_match = object.e_tag.as_ref().map(|tag| match tag.value() {
        "*" => Tags::Any,
        value => Tags::Of(vec![value.to_owned()]),
    });
    let version = version_of(object.version_id.as_ref())?;
    if version.is_some() && if_match.is_some() {
        return Err(not_implemented("A condition together with a version"));
    }
    let conditions = WriteConditions { if_match, if_none_match: None };
    Ok((DeleteKey { key: object_key(&object.key)?, conditions }, version))
}

/// Returns the line of the answer for a key that was deleted.
fn line(object: &ObjectIdentifier, outcome: Deleted) -> DeletedObject {
    let mut line = DeletedObject {
        key: Some(printable(&object.key)),
        version_id: object.version_id.clone(),
        ..DeletedObject::default()
    };
    match outcome {
        Deleted::Plain => {}
        Deleted::MadeMarker(id) => {
            line.delete_marker = Some(true);
            line.delete_marker_version_id = Some(id.to_string());
        }
        Deleted::RemovedMarker => {
            line.delete_marker = Some(true);
            line.delete_marker_version_id.clone_from(&object.version_id);
        }
    }
    line
}

impl Api {
    pub(super) async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = &request.input;
        let conditional = request.headers.contains_key(http::header::IF_MATCH);
        if conditional && input.version_id.is_some() {
            return Err(not_implemented("If-Match together with versionId"));
        }
        if input.if_match_size.is_some() || input.if_match_last_modified_time.is_some() {
            return Err(not_implemented("The header x-amz-if-match-size or -last-modified-time"));
        }
        let version = version_of(input.version_id.as_ref())?;
        refuse_conditions(&request.headers, &["if-match"])?;
        let conditions = write_conditions(&request.headers)?;
        let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
        let delete = DeleteKey { key, conditions };
        let caller = &caller(&request)?;
        let deleted = self.service.delete_version(caller, &bucket, delete, version).await;
        let (delete_marker, version_id) = match deleted.map_err(to_s3)? {
            Deleted::Plain => (None, version),
            Deleted::MadeMarker(id) => (Some(true), Some(id)),
            Deleted::RemovedMarker => (Some(true), version),
        };
        Ok(S3Response::new(DeleteObjectOutput {
            delete_marker,
            version_id: version_id.map(|version| version.to_string()),
            ..DeleteObjectOutput::default()
        }))
    }

    pub(super) async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        refuse_conditions(&request.headers, &[])?;
        let caller = &caller(&request)?;
        let input = request.input;
        let objects = input.delete.objects;
        if objects.is_empty() || objects.len() > DELETE_KEYS_MAX {
            return Err(s3_error!(MalformedXML));
        }
        for object in &objects {
            if object.size.is_some() || object.last_modified_time.is_some() {
                return Err(not_implemented("A condition on size or time of a key to delete"));
            }
        }
        let bucket = bucket_name(&input.bucket)?;
        let parsed: Vec<_> = objects.iter().map(key_to_delete).collect();
        let deletes = parsed.iter().filter_map(|parsed| parsed.as_ref().ok().cloned()).collect();
        let outcomes = self.service.delete_versions(caller, &bucket, deletes);
        let mut outcomes = outcomes.await.map_err(to_s3)?.into_iter();
        let (mut deleted, mut failed) = (Vec::new(), Vec::new());
        for (object, parsed) in objects.into_iter().zip(parsed) {
            let outcome =
                parsed.and_then(|_| outcomes.next().unwrap_or(Ok(Deleted::Plain)).map_err(to_s3));
            match outcome {
                Ok(outcome) => deleted.push(line(&object, outcome)),
                Err(error) => {
                    failed.push(Error {
                        key: Some(printable(&object.key)),
                        version_id: object.version_id.as_deref().map(printable),
                        code: Some(error.code().as_str().to_owned()),
                        message: error.message().map(ToOwned::to_owned),
                    });
                }
            }
        }
        let quiet = input.delete.quiet.unwrap_or_default();
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: Some(deleted).filter(|all| !quiet && !all.is_empty()),
            errors: Some(failed).filter(|all| !all.is_empty()),
            ..DeleteObjectsOutput::default()
        }))
    }
}
