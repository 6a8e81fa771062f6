//! Buckets as streams: the objects at one version, and what changed since a version (docs/adr/0057).

mod changes;
mod item;
mod list;

use std::sync::Arc;

use bytes::Bytes;
use fula_core::{Cid, ObjectKey, bucket::ObjectRecord, tree::Entry};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};

use self::item::Line;
pub use self::{changes::ChangesRequest, list::SnapshotRequest};
use crate::{
    arbiter::Head,
    auth::access::Action,
    caller::Caller,
    error::ServiceError,
    pins::PinnedBlocks,
    service::{Part, Service},
};

/// Memory of a stream on its way in bytes: a page of entries, and the piece that becomes of it.
const STREAM_MEMORY: usize = 4 << 20;

/// Number of entries that are read at a time. Each has at most 8 KiB.
const PAGE: usize = 256;

/// Number of linked maps of metadata that are read at a time.
const MAPS_AT_ONCE: usize = 16;

/// A bucket, or what changed in it, as a stream of dag-cbor items.
pub struct Snapshot {
    /// Version of the bucket.
    pub version: u64,
    /// Root of the bucket at that version.
    pub root: Cid,
    /// The items. Without the last one, the stream was cut off.
    pub items: BoxStream<'static, Result<Bytes, ServiceError>>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({}, {})", self.version, self.root)
    }
}

/// What the pages of a stream are read from.
struct Reader {
    service: Service,
    caller: Caller,
    head: Arc<Head>,
    prefix: String,
    /// Name of the metadata value that comes with each object.
    meta: Option<String>,
    /// Number of items of objects so far.
    count: u64,
    /// Keeps what is read from the collector.
    _pinned: PinnedBlocks,
}

impl Reader {
    /// Returns the items of objects, with the metadata value that is asked for.
    async fn lines(&mut self, entries: Vec<Entry>) -> Result<Vec<Line>, ServiceError> {
        // The deadline of one decision about rights is not that of the stream.
        self.caller.seen = Arc::default();
        let this = &*self;
        let lines = entries.into_iter().map(|entry| this.line(entry));
        futures::stream::iter(lines).buffered(MAPS_AT_ONCE).try_collect().await
    }

    async fn line(&self, entry: Entry) -> Result<Line, ServiceError> {
        let key = std::str::from_utf8(&entry.key)
            .map_err(|_| ServiceError::bug("an object key is not UTF-8"))?;
        let record = ObjectRecord::decode(&entry.value, entry.weight)?;
        let meta = match &self.meta {
            Some(name) => self.meta_of(key, &record, name).await?,
            None => None,
        };
        Ok(Line { key: key.to_owned(), record, meta })
    }

    /// Returns a metadata value of an object; `None` if it has none, or if the caller may not read the object.
    async fn meta_of(
        &self,
        key: &str,
        record: &ObjectRecord,
        name: &str,
    ) -> Result<Option<String>, ServiceError> {
        let key = ObjectKey::parse(key.to_owned())
            .map_err(|_| ServiceError::bug("an object key is malformed"))?;
        let part = Part::Key(&key);
        match self.service.authorize(&self.caller, &self.head, Action::GetObject, part).await {
            Ok(()) => {}
            Err(error) if error.is_refusal() => return Ok(None),
            Err(error) => return Err(error),
        }
        let metadata = self.service.attached(&record.metadata).await?;
        Ok(metadata.get(name).cloned())
    }
}
