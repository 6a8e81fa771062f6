//! Applies the rules of a bucket: a page at a time, each in one small commit.

use fula_core::{
    BucketAddress, ObjectKey, StoreError,
    bucket::{
        ListQuery, ListedVersion, ObjectKind, ObjectRecord, Seq, UploadRecord, keys, list_versions,
    },
    root::TimeMs,
    tree::Cursor,
};
use serde::{Deserialize, Serialize};

use super::{
    Lifecycle,
    rules::{Place, Version},
};
use crate::{
    arbiter::Head,
    caller::Caller,
    commit::{Answer, Change, CommitRequest, Expired, Expiry, SettingsLink},
    error::ServiceError,
    objects::multipart::parse_upload_id,
    service::Service,
};

/// Number of versions that are looked at for one commit.
const PAGE: usize = 500;

/// Number of uploads that are ended by one commit: each may have ten thousand parts.
const UPLOADS: usize = 16;

/// The place in a bucket at which the work goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LifecycleCursor {
    /// Whether the objects are done, and uploads follow.
    uploads: bool,
    /// Key of the last version or upload that was looked at.
    after: Option<String>,
    /// Position of that version in the history of the bucket.
    at: Option<(u64, u32)>,
    /// Time at which it was written.
    written: TimeMs,
    /// Number of versions of its key up to it that are not the newest.
    older: u32,
    /// Id of that upload.
    upload: Option<String>,
}

/// The outcome of a page.
#[derive(Clone, Debug, Default)]
pub struct LifecyclePage {
    /// Where to go on; `None` when the bucket is done.
    pub next: Option<LifecycleCursor>,
    /// Number of objects, versions, markers and uploads that have ended.
    pub ended: u64,
}

impl Service {
    /// Applies the lifecycle rules of a bucket from a place on, in one commit at most.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Busy`]: try the same place again.
    pub async fn expire_page(
        &self,
        address: &BucketAddress,
        cursor: LifecycleCursor,
    ) -> Result<LifecyclePage, ServiceError> {
        let caller = Caller::default();
        caller.pins.begin_write(self.arbiter().pins());
        let Some(head) = self.arbiter().current(address).await? else {
            return Ok(LifecyclePage::default());
        };
        caller.pins.pin_head(&head);
        let rules = self.rules_of(&head.root).await?.filter(|rules| rules.has_effect());
        let Some(rules) = rules else { return Ok(LifecyclePage::default()) };
        let now = self.arbiter().now().await?;
        let (ended, next) = if cursor.uploads {
            self.ended_uploads(&head, &rules, now, cursor.clone()).await?
        } else {
            self.ended_versions(&head, &rules, now, cursor.clone()).await?
        };
        if ended.is_empty() {
            return Ok(LifecyclePage { next, ended: 0 });
        }
        let count = ended.len() as u64;
        let mut request =
            CommitRequest::of(&caller, Some(head.root.id), None, Change::Expire(ended));
        request.settings = Some(SettingsLink(head.root.settings));
        match self.submit(&caller, address, request).await {
            // The rules have changed: they are read again.
            Ok(Answer::AllowAgain) => Ok(LifecyclePage { next: Some(cursor), ended: 0 }),
            Ok(_) => Ok(LifecyclePage { next, ended: count }),
            // The bucket was deleted in the meantime.
            Err(ServiceError::NoSuchBucket) => Ok(LifecyclePage::default()),
            Err(error) => Err(error),
        }
    }

    /// Returns what ends among the versions of a page, and where to go on.
    async fn ended_versions(
        &self,
        head: &Head,
        rules: &Lifecycle,
        now: TimeMs,
        mut cursor: LifecycleCursor,
    ) -> Result<(Vec<Expiry>, Option<LifecycleCursor>), ServiceError> {
        let trees = (&head.root.objects, &head.root.versions);
        let at = cursor.at.map(|(version, index)| Seq { version, index });
        let query = ListQuery {
            prefix: "",
            delimiter: "",
            after: cursor.after.as_deref(),
            // One more tells whether the last one is alone.
            limit: PAGE + 1,
        };
        let page = list_versions(self.arbiter().nodes(), trees, &query, at).await?;
        let mut lines: Vec<(String, Box<ObjectRecord>, bool)> = Vec::with_capacity(PAGE + 1);
        for line in page.items {
            if let ListedVersion::Version { key, record, is_latest } = line {
                lines.push((key, record, is_latest));
            }
        }
        let mut ended = Vec::new();
        for (n, (key, record, is_latest)) in lines.iter().enumerate().take(PAGE) {
            let is_same_key = cursor.after.as_ref() == Some(key);
            let place = if *is_latest {
                let has_more = lines.get(n + 1).is_some_and(|(next, ..)| next == key);
                Place::Newest { alone: !has_more }
            } else {
                // An older version follows the one before it. If that is gone, nothing is known of it.
                let since = if is_same_key { cursor.written } else { now };
                Place::Older { since, newer: if is_same_key { cursor.older } else { 0 } }
            };
            let tags = self.tags_for(rules, record).await?;
            let version = Version { key, record, tags: &tags, place };
            if rules.end(version).is_some_and(|(time, _)| time <= now) {
                ended.push(expiry(key, record, *is_latest)?);
            }
            let older = match place {
                Place::Newest { .. } => 0,
                Place::Older { newer, .. } => newer + 1,
            };
            cursor = LifecycleCursor {
                uploads: false,
                after: Some(key.clone()),
                at: Some((record.seq.version, record.seq.index)),
                written: record.time,
                older,
                upload: None,
            };
        }
        let is_done = lines.len() <= PAGE && !page.truncated;
        let uploads = LifecycleCursor { uploads: true, ..LifecycleCursor::default() };
        Ok((ended, Some(if is_done { uploads } else { cursor })))
    }

    /// Returns which uploads of a page end, and where to go on.
    async fn ended_uploads(
        &self,
        head: &Head,
        rules: &Lifecycle,
        now: TimeMs,
        cursor: LifecycleCursor,
    ) -> Result<(Vec<Expiry>, Option<LifecycleCursor>), ServiceError> {
        let mut ended = Vec::new();
        let mut uploads = Cursor::new(self.arbiter().nodes(), &head.root.uploads);
        let mut from = bytes::Bytes::new();
        if let (Some(key), Some(id)) = (&cursor.after, &cursor.upload) {
            from = keys::upload(&key_of(key)?, parse_upload_id(id)?, u32::MAX);
        }
        let mut next = cursor;
        for _ in 0..PAGE {
            uploads.seek(&from).await?;
            let Some(entry) = uploads.next().await? else { return Ok((ended, None)) };
            let (key, id, number) = keys::parse_upload(&entry.key)
                .ok_or(StoreError::Malformed { what: "upload key", why: "not of its form" })?;
            // The next upload begins after all possible parts of this one.
            from = keys::upload(&key_of(&key)?, id, u32::MAX);
            (next.after, next.upload) = (Some(key.clone()), Some(id.to_string()));
            if number != 0 {
                continue;
            }
            let upload = UploadRecord::decode(&entry.value)?;
            let end = rules.upload_end(&key, upload.initiated);
            if upload.completed.is_none() && end.is_some_and(|end| end <= now) {
                ended.push(Expiry { key: key_of(&key)?, what: Expired::Upload(id) });
            }
            if ended.len() == UPLOADS {
                break;
            }
        }
        Ok((ended, Some(next)))
    }
}

fn key_of(text: &str) -> Result<ObjectKey, ServiceError> {
    ObjectKey::parse(text.to_owned()).map_err(|_| ServiceError::bug("a key in a tree is none"))
}

fn expiry(key: &str, record: &ObjectRecord, is_latest: bool) -> Result<Expiry, ServiceError> {
    let key = key_of(key)?;
    let is_marker = record.kind == ObjectKind::DeleteMarker;
    let what = match (is_latest, is_marker) {
        (true, true) => Expired::Marker(record.seq),
        (true, false) => Expired::Current(record.seq, record.tags.clone()),
        (false, _) => Expired::Version(record.seq, record.tags.clone()),
    };
    Ok(Expiry { key, what })
}
