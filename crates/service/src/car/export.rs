//! A bucket as a CAR file.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use fula_core::{
    BucketAddress, BucketName, Cid, Codec, StoreError, block::require, bucket::BucketRoot, car,
    root::TimeMs,
};
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};

use super::{check::part_of, walk::Walk};
use crate::{
    admin::fsck::links,
    arbiter::Head,
    auth::access::Action,
    budget::{self, MemoryPermit},
    caller::Caller,
    error::ServiceError,
    pins::PinnedBlocks,
    service::{Part, Service},
};

/// Memory of a file on its way in bytes: leaves that are read at a time, those that are being written, and the
/// table of addresses.
pub(super) const CAR_MEMORY: usize = 14 << 20;

/// Bytes of blocks that are handed on at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Length in bytes of blocks that are handed on without copying them.
const UNCOPIED_BYTES: usize = 64 << 10;

/// A bucket as a CAR file: its root, and everything that it links in depth-first order. It is the same file
/// for the same root.
pub struct BucketCar {
    /// Address of the bucket.
    pub bucket: BucketAddress,
    /// The root, which the header of the file names.
    pub root: Cid,
    /// Version of the bucket that the root is.
    pub version: u64,
    /// Number of blocks that were written so far.
    pub blocks: Arc<AtomicU64>,
    /// Number of leaves of mapped objects that were left out so far, because storage nodes hold them.
    pub left_out: Arc<AtomicU64>,
    /// The bytes of the file. If it is of the current root, that is kept from the collector until it is dropped.
    pub bytes: BoxStream<'static, Result<Bytes, StoreError>>,
}

impl std::fmt::Debug for BucketCar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bucket, root, version, .. } = self;
        write!(f, "BucketCar({bucket}, {root}, {version})")
    }
}

impl Service {
    /// Returns a bucket as a CAR file: as it is, or as it was at `version`. With `since`, blocks are left out
    /// that the bucket had at that version, as far as it is still known.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`]; [`ServiceError::InvalidArgument`] for a
    /// version that is not known. [`ServiceError::Unavailable`], [`ServiceError::Damaged`].
    pub async fn bucket_car(
        &self,
        caller: &Caller,
        name: &BucketName,
        version: Option<u64>,
        since: Option<u64>,
    ) -> Result<BucketCar, ServiceError> {
        let head = self.resolve(caller, name, Action::ExportBucket, Part::Whole).await?;
        let permit = self.body_budget.take(CAR_MEMORY, caller.closer.as_ref()).await?;
        let car = self.car_of(&head, version, since).await?;
        let mut bytes = paced(car.bytes, permit);
        // A store that does not answer is reported with a status.
        let first = bytes.next().await.transpose()?;
        let bytes = stream::iter(first.map(Ok)).chain(bytes).boxed();
        Ok(BucketCar { bytes, ..car })
    }

    /// Does the same for an operator.
    ///
    /// # Errors
    /// The errors of [`Self::bucket_car`].
    pub async fn export(
        &self,
        bucket: &BucketAddress,
        version: Option<u64>,
        since: Option<u64>,
    ) -> Result<BucketCar, ServiceError> {
        let head = self.arbiter().current(bucket).await?.ok_or(ServiceError::NoSuchBucket)?;
        self.car_of(&head, version, since).await
    }

    async fn car_of(
        &self,
        head: &Arc<Head>,
        version: Option<u64>,
        since: Option<u64>,
    ) -> Result<BucketCar, ServiceError> {
        let (root, time) = match version {
            Some(version) => self.root_at(head, version).await?,
            None => (head.row.pointer.root, self.arbiter().now().await?),
        };
        let older = match since {
            Some(since) => Some(self.root_at(head, since).await?.0),
            None => None,
        };
        let version = version.unwrap_or(head.row.pointer.version);
        Ok(self.car(head, (root, version, time), older, false))
    }

    /// Returns a root of a bucket, which was current at a time, as a CAR file without what `older` has.
    pub(crate) fn car(
        &self,
        head: &Arc<Head>,
        (root, version, time): (Cid, u64, TimeMs),
        older: Option<Cid>,
        without_mapped: bool,
    ) -> BucketCar {
        // An older root may be collected in part. If it were pinned, a collection would fail at what is gone.
        let pinned = PinnedBlocks::of_read(self.arbiter().pins(), time);
        let blocks = Arc::clone(self.arbiter().nodes().blocks());
        let left_out = Arc::<AtomicU64>::default();
        let mut walk = Walk::new(blocks, root, older);
        if without_mapped {
            walk = walk.without_mapped(Arc::clone(&left_out));
        }
        let bucket = head.address().clone();
        let (blocks, kept) = (Arc::<AtomicU64>::default(), (pinned, Arc::clone(head)));
        let begin = BytesMut::from(car::header(&[root]));
        let bytes = bytes_of(walk, begin, Arc::clone(&blocks), kept);
        BucketCar { bucket, root, version, blocks, left_out, bytes }
    }

    /// Finds the root of a version in the history of a bucket. Returns it with a time at which it was current.
    async fn root_at(&self, head: &Head, version: u64) -> Result<(Cid, TimeMs), ServiceError> {
        let blocks = self.arbiter().nodes().blocks();
        let name = &head.address().name;
        let newest = head.row.pointer.version;
        let unknown = || {
            let text = format!(
                "version {version} of bucket {name} is not known: `fula roots log {name}` lists those that are; \
                 the newest is {newest}"
            );
            ServiceError::InvalidArgument(text)
        };
        let (mut cid, mut root) = (head.row.pointer.root, head.root.clone());
        let mut current_at = self.arbiter().now().await?;
        while root.version > version {
            cid = root.parent.ok_or_else(unknown)?;
            current_at = root.time;
            let block = blocks.get(&cid).await?.ok_or_else(unknown)?;
            root = BucketRoot::from_block(&block)?;
        }
        if root.version == version { Ok((cid, current_at)) } else { Err(unknown()) }
    }

    /// Returns the current root of a bucket as a CAR file, without what `older` has. An older root that cannot be
    /// read any more is left out of account.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::Unavailable`], [`ServiceError::Damaged`].
    pub async fn pin_car(
        &self,
        bucket: &BucketAddress,
        older: Option<Cid>,
    ) -> Result<BucketCar, ServiceError> {
        let head = self.arbiter().current(bucket).await?.ok_or(ServiceError::NoSuchBucket)?;
        let (pointer, now) = (head.row.pointer, self.arbiter().now().await?);
        Ok(self.car(&head, (pointer.root, pointer.version, now), older, false))
    }

    /// Does the same for a backup, and also returns the number of objects and the sum of their sizes in bytes.
    /// Leaves of mapped objects that only storage nodes have are left out: the mapping is in the file
    /// (docs/adr/0054).
    ///
    /// # Errors
    /// The errors of [`Self::pin_car`].
    pub async fn backup_car(
        &self,
        bucket: &BucketAddress,
        older: Option<Cid>,
    ) -> Result<(BucketCar, (u64, u64)), ServiceError> {
        let head = self.arbiter().current(bucket).await?.ok_or(ServiceError::NoSuchBucket)?;
        let (pointer, now) = (head.row.pointer, self.arbiter().now().await?);
        let car = self.car(&head, (pointer.root, pointer.version, now), older, true);
        Ok((car, (head.root.objects.count, head.root.objects.bytes)))
    }

    /// Counts the blocks of a bucket, and their bytes. Returns its root with them. It needs 16 bytes of memory and
    /// some for each block.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::Unavailable`], [`ServiceError::Damaged`].
    pub async fn tally(&self, bucket: &BucketAddress) -> Result<(Cid, (u64, u64)), ServiceError> {
        // It keeps its root from the collector.
        let head = self.arbiter().current(bucket).await?.ok_or(ServiceError::NoSuchBucket)?;
        let root = head.row.pointer.root;
        let _pinned = PinnedBlocks::of_read(self.arbiter().pins(), self.arbiter().now().await?);
        let blocks = self.arbiter().nodes().blocks();
        let (mut seen, mut stack, mut total) = (HashSet::new(), vec![root], 0);
        while let Some(cid) = stack.pop() {
            if !seen.insert(part_of(&cid)) {
                continue;
            }
            if cid.codec() == Codec::Raw {
                let size = blocks.size(&cid).await?;
                total += size.ok_or(StoreError::Missing { cid })?;
                continue;
            }
            let block = require(blocks.as_ref(), &cid).await?;
            total += block.bytes().len() as u64;
            let linked = links(&cid, &block);
            stack.extend(linked.map_err(|why| StoreError::Malformed { what: "block", why })?);
        }
        Ok((root, (seen.len() as u64, total)))
    }
}

/// Hands bytes on in frames, so that the progress of a slow reader is visible, within a memory permit.
pub(crate) fn paced<E: Send + 'static>(
    bytes: BoxStream<'static, Result<Bytes, E>>,
    permit: MemoryPermit,
) -> BoxStream<'static, Result<Bytes, E>> {
    let permit = Arc::new(permit);
    let framed = move |piece: Result<Bytes, E>| {
        let (held, failed) = match piece {
            Ok(bytes) => (permit.hold(bytes), None),
            Err(error) => (Bytes::new(), Some(Err(error))),
        };
        let permit = Arc::clone(&permit);
        // A connection that asks for a frame has sent most of those before it.
        let sent = budget::frames(held).inspect(move |frame| permit.moved(frame.len()));
        stream::iter(sent.map(Ok).chain(failed))
    };
    bytes.flat_map(framed).boxed()
}

/// Returns the bytes of a file, which begins with `begin`: in pieces of about [`CHUNK_BYTES`], and each large block
/// as a piece of its own.
pub(super) fn bytes_of<T: Send + 'static>(
    walk: Walk,
    begin: BytesMut,
    count: Arc<AtomicU64>,
    kept: T,
) -> BoxStream<'static, Result<Bytes, StoreError>> {
    let begin = Some((walk, begin, (count, kept)));
    let pieces = stream::try_unfold(begin, |state| async move {
        let Some((mut walk, mut out, kept)) = state else { return Ok(None) };
        let mut pieces = Vec::new();
        loop {
            let blocks = walk.next().await?;
            if blocks.is_empty() {
                pieces.extend(Some(out.freeze()).filter(|out| !out.is_empty()));
                return Ok(Some((pieces, None)));
            }
            kept.0.fetch_add(blocks.len() as u64, Ordering::Relaxed);
            for block in blocks {
                if block.bytes().len() < UNCOPIED_BYTES {
                    car::put_section(&mut out, &block.cid(), block.bytes());
                } else {
                    car::begin_section(&mut out, &block.cid(), block.bytes().len());
                    pieces.extend([out.split().freeze(), block.bytes().clone()]);
                }
            }
            if out.len() >= CHUNK_BYTES {
                pieces.push(out.split().freeze());
            }
            if !pieces.is_empty() {
                return Ok(Some((pieces, Some((walk, out, kept)))));
            }
        }
    });
    pieces.map_ok(|pieces| stream::iter(pieces.into_iter().map(Ok))).try_flatten().boxed()
}
