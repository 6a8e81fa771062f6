//! Listing parts and uploads.

use bytes::Bytes;
use fula_core::{
    BucketName, ObjectKey,
    bucket::{UploadRecord, keys},
    tree::{Cursor, after_prefix},
};

use super::{
    ListUploadsRequest, PartInfo, PartsPage, UploadLine, UploadsPage, info_of, parse_upload_id,
    parse_upload_key,
};
use crate::{
    auth::access::Action,
    caller::Caller,
    error::ServiceError,
    limits::PAGE_MAX,
    service::{Part, Service},
};

impl Service {
    /// Returns a page of the parts of an upload, after number `after`.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchUpload`].
    pub async fn list_parts(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        key: &ObjectKey,
        id: &str,
        after: u32,
        limit: usize,
    ) -> Result<PartsPage, ServiceError> {
        let head = self.resolve(caller, bucket, Action::ListParts, Part::Key(key)).await?;
        let id = parse_upload_id(id)?;
        let upload = self.open_upload(&head, key, id).await?;
        let limit = limit.min(PAGE_MAX);
        let first = after.saturating_add(1);
        let mut parts = self.parts(&head, key, id, first, limit.saturating_add(1)).await?;
        let truncated = limit > 0 && parts.len() > limit;
        parts.truncate(limit);
        let parts = parts.into_iter().map(|(number, record)| PartInfo { number, record });
        Ok(PartsPage {
            parts: parts.collect(),
            truncated,
            info: info_of(&upload),
            initiator: upload.initiator,
        })
    }

    /// Returns a page of the uploads in progress.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`].
    pub async fn list_uploads(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        request: &ListUploadsRequest,
    ) -> Result<UploadsPage, ServiceError> {
        let part = Part::Prefix(&request.prefix);
        let head = self.resolve(caller, bucket, Action::ListUploads, part).await?;
        let limit = request.limit.min(PAGE_MAX);
        let mut page = UploadsPage::default();
        if limit == 0 {
            return Ok(page);
        }
        let mut cursor = Cursor::new(self.arbiter().nodes(), &head.root.uploads);
        let prefix = keys::upload_prefix(&request.prefix);
        let mut from = uploads_start(request)?.max(prefix);
        loop {
            cursor.seek(&from).await?;
            let Some(entry) = cursor.next().await? else { return Ok(page) };
            let (parsed, id, number) = parse_upload_key(&entry.key)?;
            let key = parsed.as_str().to_owned();
            let Some(rest) = key.strip_prefix(&request.prefix) else { return Ok(page) };
            // The next upload begins after all possible parts of this one.
            from = keys::upload(&parsed, id, u32::MAX);
            if number != 0 {
                continue;
            }
            let upload = UploadRecord::decode(&entry.value)?;
            if upload.completed.is_some() {
                continue;
            }
            if page.lines.len() == limit {
                page.truncated = true;
                return Ok(page);
            }
            let rolled = rest.find(&request.delimiter).filter(|_| !request.delimiter.is_empty());
            page.lines.push(match rolled {
                Some(at) => {
                    let end = request.prefix.len() + at + request.delimiter.len();
                    let prefix = key[..end].to_owned();
                    match after_prefix(&keys::upload_prefix(&prefix)) {
                        Some(next) => from = next,
                        None => from = Bytes::from_static(&[0xff]),
                    }
                    UploadLine::Prefix(prefix)
                }
                None => UploadLine::Upload {
                    key,
                    id,
                    initiated: upload.initiated,
                    info: info_of(&upload),
                    initiator: upload.initiator,
                },
            });
        }
    }
}

/// Returns the key at which a listing of uploads begins.
fn uploads_start(request: &ListUploadsRequest) -> Result<Bytes, ServiceError> {
    let Some(marker) = &request.key_marker else { return Ok(Bytes::new()) };
    if marker.is_empty() {
        return Ok(Bytes::new());
    }
    // When the last name was a common prefix, all keys below it were covered.
    let rest = marker.strip_prefix(&request.prefix);
    let rolled = rest.is_some_and(|rest| {
        let at = rest.find(&request.delimiter).filter(|_| !request.delimiter.is_empty());
        at.is_some_and(|at| at + request.delimiter.len() == rest.len())
    });
    if rolled && let Some(next) = after_prefix(&keys::upload_prefix(marker)) {
        return Ok(next);
    }
    match &request.id_marker {
        Some(id) if !id.is_empty() => {
            let id = id.parse().map_err(|_| {
                ServiceError::InvalidArgument("The upload-id-marker is not an upload id".into())
            })?;
            let key = ObjectKey::parse(marker.clone())
                .map_err(|error| ServiceError::InvalidArgument(error.to_string()))?;
            Ok(keys::upload(&key, id, u32::MAX))
        }
        _ => Ok(keys::after_uploads_of(marker)),
    }
}
