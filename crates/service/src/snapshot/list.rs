//! All objects of a bucket at one version.

use fula_core::{
    BucketName,
    bucket::{ListQuery, Listed, list_page},
};
use futures::{StreamExt, stream};

use super::{PAGE, Reader, STREAM_MEMORY, Snapshot, item::Items};
use crate::{
    auth::access::Action,
    caller::Caller,
    car::paced,
    error::ServiceError,
    pins::PinnedBlocks,
    service::{Part, Service},
};

/// The objects to list.
#[derive(Clone, Debug, Default)]
pub struct SnapshotRequest {
    /// Lists only keys that start with this.
    pub prefix: String,
    /// Lists only keys after this one.
    pub after: Option<String>,
    /// Name of a metadata value that comes with each object, without the prefix `x-amz-meta-`.
    pub meta: Option<String>,
}

impl Service {
    /// Returns the objects of a bucket as they are at one version, in order of key. Memory is bounded, however many
    /// there are. A metadata value comes only with objects that the caller may read.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`]; [`ServiceError::Busy`] when other bodies use
    /// all the memory; [`ServiceError::Unavailable`], [`ServiceError::Damaged`].
    pub async fn snapshot(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        request: SnapshotRequest,
    ) -> Result<Snapshot, ServiceError> {
        let part = Part::Prefix(&request.prefix);
        let head = self.resolve(caller, bucket, Action::ListObjects, part).await?;
        let permit = self.body_budget.take(STREAM_MEMORY, caller.closer.as_ref()).await?;
        let time = self.arbiter().now().await?;
        let pointer = head.row.pointer;
        let SnapshotRequest { prefix, after, meta } = request;
        let reader = Reader {
            service: self.clone(),
            caller: caller.clone(),
            _pinned: PinnedBlocks::of_read(self.arbiter().pins(), time),
            head,
            prefix,
            meta,
            count: 0,
        };
        let mut begin = Items::new();
        begin.begin(pointer.version, &pointer.root, None);
        let state = Some((reader, after, begin));
        let pieces = stream::try_unfold(state, |state| async move {
            let Some((mut reader, after, mut items)) = state else { return Ok(None) };
            let (last, truncated) = reader.list(after, &mut items).await?;
            if truncated {
                return Ok(Some((items.finish(), Some((reader, last, Items::new())))));
            }
            items.end(reader.count);
            Ok(Some((items.finish(), None)))
        });
        let mut items = paced::<ServiceError>(pieces.boxed(), permit);
        // A store that does not answer is reported with a status.
        let first = items.next().await.transpose()?;
        let items = stream::iter(first.map(Ok)).chain(items).boxed();
        Ok(Snapshot { version: pointer.version, root: pointer.root, items })
    }
}

impl Reader {
    /// Writes a page of objects after a key. Returns the last key, and whether more follow.
    async fn list(
        &mut self,
        after: Option<String>,
        items: &mut Items,
    ) -> Result<(Option<String>, bool), ServiceError> {
        let query =
            ListQuery { prefix: &self.prefix, delimiter: "", after: after.as_deref(), limit: PAGE };
        let nodes = self.service.arbiter().nodes();
        let page = list_page(nodes, &self.head.root.objects, &query).await?;
        let entries = page.items.into_iter().filter_map(|listed| match listed {
            Listed::Key(_, entry) => Some(entry),
            Listed::Prefix(_) => None,
        });
        let lines = self.lines(entries.collect()).await?;
        for line in &lines {
            items.object(line);
        }
        self.count += lines.len() as u64;
        Ok((lines.into_iter().next_back().map(|line| line.key), page.truncated))
    }
}
