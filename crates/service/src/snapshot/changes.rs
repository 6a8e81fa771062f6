//! What changed in a bucket since a version, and waiting for it.

use std::{sync::Arc, time::Duration};

use fula_core::{
    BucketName, Cid, StoreError,
    bucket::BucketRoot,
    root::TimeMs,
    tree::{Change, Tree, after_prefix, diff_page},
};
use futures::{StreamExt, stream};
use tokio::time::{Instant, sleep_until, timeout};

use super::{PAGE, Reader, STREAM_MEMORY, Snapshot, item::Items};
use crate::{
    arbiter::Head,
    auth::access::Action,
    caller::Caller,
    car::paced,
    error::{Applied, ServiceError},
    pins::{PinnedBlocks, RequestPins},
    service::{Part, Service},
};

/// Longest time that a request waits for a change.
pub(crate) const WAIT_MAX: Duration = Duration::from_mins(1);

/// Longest time for which the history of a bucket is searched for a version.
const SEARCH_MAX: Duration = Duration::from_secs(5);

/// The changes to tell.
#[derive(Clone, Debug, Default)]
pub struct ChangesRequest {
    /// Version of the bucket that the caller knows.
    pub since: u64,
    /// Root of that version, if the caller remembers it. A root that is not the one of the version is refused.
    pub root: Option<Cid>,
    /// Only keys that start with this count.
    pub prefix: String,
    /// Name of a metadata value that comes with each object, without the prefix `x-amz-meta-`.
    pub meta: Option<String>,
    /// Time to wait for a change if there is none yet, at most a minute.
    pub wait: Duration,
}

/// An earlier state of a bucket.
struct Earlier {
    root: Cid,
    objects: Tree,
}

impl Service {
    /// Returns the difference between the bucket at a version and now, in order of key: one item for each object that
    /// was added or changed, and for each key that was removed. What was added and removed in between is left out.
    /// The answer names removed keys, so the caller must be allowed to list versions, too.
    ///
    /// # Errors
    /// [`ServiceError::VersionExpired`] for a version that is not retained: begin anew with [`Self::snapshot`].
    /// [`ServiceError::Busy`] when too many requests wait. And the errors of [`Self::snapshot`].
    pub async fn changes(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        request: ChangesRequest,
    ) -> Result<Snapshot, ServiceError> {
        let (caller, head) = self.changed(caller, bucket, &request).await?;
        if caller.seen.is_stale() && head.row.pointer.version < request.since {
            // Another master has told the caller of a newer state, which cannot be read at present.
            return Err(ServiceError::Busy(Applied::None));
        }
        let permit = self.body_budget.take(STREAM_MEMORY, caller.closer.as_ref()).await?;
        let retention = self.committer().limits().retention.as_millis();
        let now = self.arbiter().now().await?;
        let kept_since = now.saturating_sub(u64::try_from(retention).unwrap_or(u64::MAX));
        // From before the search, nothing that was current then is collected.
        let pinned = PinnedBlocks::of_read(self.arbiter().pins(), kept_since);
        let expired = || ServiceError::VersionExpired(request.since);
        let search = timeout(SEARCH_MAX, self.earlier(&head, request.since, kept_since)).await;
        let earlier = search.unwrap_or(Ok(None))?.ok_or_else(expired)?;
        if request.root.is_some_and(|root| root != earlier.root) {
            return Err(expired());
        }
        let pointer = head.row.pointer;
        let ChangesRequest { since, prefix, meta, .. } = request;
        let reader =
            Reader { service: self.clone(), caller, head, prefix, meta, count: 0, _pinned: pinned };
        let mut begin = Items::new();
        begin.begin(pointer.version, &pointer.root, Some(since));
        let from = reader.prefix.clone().into_bytes();
        let state = Some((reader, from, begin));
        let pieces = stream::try_unfold(state, move |state| async move {
            let Some((mut reader, from, mut items)) = state else { return Ok(None) };
            if let Some(from) = reader.differences(&earlier.objects, &from, &mut items).await? {
                return Ok(Some((items.finish(), Some((reader, from, Items::new())))));
            }
            items.end(reader.count);
            Ok(Some((items.finish(), None)))
        });
        let mut items = paced::<ServiceError>(pieces.boxed(), permit);
        // A part of the earlier state may be gone, although it is not older than the retention.
        let first = match items.next().await.transpose() {
            Err(error) if error.is_missing_block() => return Err(expired()),
            first => first?,
        };
        let items = stream::iter(first.map(Ok)).chain(items).boxed();
        Ok(Snapshot { version: pointer.version, root: pointer.root, items })
    }

    /// Lets no request wait for changes any more: those that wait are answered at once. Call it before a shutdown.
    pub fn stop_waits(&self) {
        self.arbiter().watches().stop();
    }

    /// Returns the number of requests that wait for changes.
    pub fn waits(&self) -> usize {
        self.arbiter().watches().len()
    }

    /// Returns the state of the bucket once it is beyond the version, or when the request has waited long enough.
    /// The caller has pins of its own for that state.
    async fn changed(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        request: &ChangesRequest,
    ) -> Result<(Caller, Arc<Head>), ServiceError> {
        let deadline = Instant::now() + request.wait.min(WAIT_MAX);
        let is_known = |head: &Head| head.row.pointer.version == request.since;
        // Nothing is pinned while the request waits.
        let look = async || {
            let fresh = Caller { pins: RequestPins::default(), ..caller.clone() };
            let part = Part::Prefix(&request.prefix);
            self.resolve(&fresh, bucket, Action::ListObjects, part).await?;
            let head = self.resolve(&fresh, bucket, Action::ListVersions, part).await?;
            Ok::<_, ServiceError>((fresh, head))
        };
        let (fresh, head) = look().await?;
        if !is_known(&head) || request.wait.is_zero() {
            return Ok((fresh, head));
        }
        let user = caller.identity.as_ref().ok_or(ServiceError::AccessDenied)?.owner;
        let watch = self.arbiter().watch(head.address(), user);
        let watch = watch.ok_or(ServiceError::Busy(Applied::None))?;
        drop((fresh, head));
        loop {
            let changed = watch.changed();
            let (fresh, head) = look().await?;
            let is_over = Instant::now() >= deadline || self.arbiter().watches().is_stopped();
            if !is_known(&head) || is_over {
                return Ok((fresh, head));
            }
            drop((fresh, head));
            tokio::select! {
                () = changed => {}
                () = sleep_until(deadline) => {}
            }
            // The credential may have ended or been revoked meanwhile.
            caller.check_credential(Duration::ZERO)?;
        }
    }

    /// Finds the state that a bucket had at a version; `None` if that was replaced before `kept_since`, or is not in
    /// the history.
    async fn earlier(
        &self,
        head: &Head,
        version: u64,
        kept_since: TimeMs,
    ) -> Result<Option<Earlier>, ServiceError> {
        let blocks = self.arbiter().nodes().blocks();
        let (mut cid, mut root) = (head.row.pointer.root, head.root.clone());
        while root.version > version {
            // An older state was replaced at this time or before.
            let Some(parent) = root.parent.filter(|_| root.time >= kept_since) else {
                return Ok(None);
            };
            let Some(block) = blocks.get(&parent).await? else { return Ok(None) };
            (cid, root) = (parent, BucketRoot::from_block(&block)?);
        }
        let is_it = root.version == version && root.id == head.root.id;
        Ok(is_it.then_some(Earlier { root: cid, objects: root.objects }))
    }
}

impl ServiceError {
    /// Returns whether a block is missing.
    fn is_missing_block(&self) -> bool {
        self.outage() == Some(crate::error::Outage::BlockMissing)
    }
}

impl Reader {
    /// Writes a page of differences at keys from `from` on. Returns where the next page begins; `None` at the end.
    async fn differences(
        &mut self,
        earlier: &Tree,
        from: &[u8],
        items: &mut Items,
    ) -> Result<Option<Vec<u8>>, ServiceError> {
        let until = after_prefix(self.prefix.as_bytes());
        let trees = (earlier, &self.head.root.objects);
        let nodes = self.service.arbiter().nodes();
        let page = diff_page(nodes, trees, (from, until.as_deref()), PAGE).await?;
        let last = page.changes.last().filter(|_| page.truncated);
        let next = last.map(|change| [change.key(), &[0]].concat());
        self.count += page.changes.len() as u64;
        let (mut removed, mut objects) = (Vec::new(), Vec::new());
        for change in page.changes {
            match change {
                Change::Added(entry) | Change::Changed { new: entry, .. } => objects.push(entry),
                Change::Removed(entry) => removed.push(entry.key),
            }
        }
        // Both are in order of key, and so is what is written.
        let mut removed = removed.into_iter().peekable();
        for line in self.lines(objects).await? {
            while let Some(key) = removed.next_if(|key| key[..] < *line.key.as_bytes()) {
                items.removed(text_of(&key)?);
            }
            items.object(&line);
        }
        for key in removed {
            items.removed(text_of(&key)?);
        }
        Ok(next)
    }
}

fn text_of(key: &[u8]) -> Result<&str, ServiceError> {
    let malformed = StoreError::Malformed { what: "object key", why: "not UTF-8" };
    std::str::from_utf8(key).map_err(|_| malformed.into())
}
