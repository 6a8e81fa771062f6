//! A bucket from a CAR file. Nothing of it is visible before everything was checked.

use std::{panic::resume_unwind, sync::Arc};

use fula_core::{
    Block, BucketAddress, BucketName, Cid, OwnerId, StoreError,
    block::{Placement, SyncMark},
};
use tokio::task::JoinHandle;

use super::{
    blocks::VerifiedCar,
    check::{Contents, check},
    fault::ImportError,
};
use crate::{
    arbiter::Adopted,
    error::ServiceError,
    pins::{PinnedBlocks, RequestPins},
    service::Service,
};

/// Bytes of blocks that are stored together. Two batches are in memory at a time.
const BATCH_BYTES: usize = 2 << 20;

/// Most blocks that are stored together.
const BATCH_BLOCKS: usize = 1024;

/// Which bucket a file becomes.
#[derive(Clone, Debug, Default)]
pub struct ImportTarget {
    /// Owner; by default the one that the root names.
    pub owner: Option<OwnerId>,
    /// Name; by default the one that the root names.
    pub name: Option<BucketName>,
    /// Root that the file must have.
    pub root: Option<Cid>,
    /// Whether leaves of mapped objects may be missing, because storage nodes hold them.
    pub without_mapped: bool,
}

/// A bucket that was imported.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Address of the bucket.
    pub bucket: BucketAddress,
    /// Its root now.
    pub root: Cid,
    /// Its version now.
    pub version: u64,
    /// Root of the file.
    pub file_root: Cid,
    /// Number of blocks in the file.
    pub blocks: u64,
    /// Number of objects, and sum of their sizes in bytes.
    pub objects: (u64, u64),
    /// Whether the bucket had this root already.
    pub already: bool,
    /// Whether its policy was left out, because the bucket has another name or owner than in the file.
    pub without_policy: bool,
}

/// A file that is being read.
#[derive(Debug)]
pub struct Import {
    service: Service,
    reader: VerifiedCar,
    contents: Contents,
    blocks: u64,
    batch: Vec<Block>,
    batch_bytes: usize,
    mark: SyncMark,
    /// The batch before, which is being stored while the next one is read and verified.
    storing: Option<JoinHandle<Result<SyncMark, StoreError>>>,
    /// Keeps what was put from collectors.
    pins: RequestPins,
}

impl Service {
    /// Begins to read a file.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Regressed`].
    pub async fn begin_import(&self) -> Result<Import, ServiceError> {
        self.arbiter().learn_generation().await?;
        let pins = RequestPins::default();
        pins.begin_write(self.arbiter().pins());
        pins.pin_blocks(PinnedBlocks::new(self.arbiter().pins()));
        Ok(Import {
            service: self.clone(),
            reader: VerifiedCar::default(),
            contents: Contents::default(),
            blocks: 0,
            batch: Vec::new(),
            batch_bytes: 0,
            mark: SyncMark::default(),
            storing: None,
            pins,
        })
    }
}

impl Import {
    /// Takes in the next bytes of the file: verifies the blocks and stores them.
    ///
    /// # Errors
    /// [`ImportError`]. The import has failed.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        self.reader.push(bytes);
        while let Some((offset, block)) = self.reader.next_block()? {
            self.contents.add(&block.cid(), offset)?;
            self.blocks += 1;
            self.batch_bytes += block.bytes().len();
            self.batch.push(block);
            if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_BLOCKS {
                self.store().await?;
            }
        }
        Ok(())
    }

    /// Begins to store the batch, once the one before is stored.
    async fn store(&mut self) -> Result<(), StoreError> {
        self.stored().await?;
        let blocks = Arc::clone(self.service.arbiter().nodes().blocks());
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let put = async move { blocks.put(&batch, Placement::Bulk).await };
        self.storing = Some(tokio::spawn(put));
        Ok(())
    }

    /// Waits until the batch before is stored.
    async fn stored(&mut self) -> Result<(), StoreError> {
        if let Some(storing) = self.storing.take() {
            let mark = storing.await.unwrap_or_else(|error| resume_unwind(error.into_panic()))?;
            self.mark = self.mark.and(mark);
        }
        Ok(())
    }

    /// Checks the whole bucket at the end of the file, and publishes it.
    ///
    /// # Errors
    /// [`ImportError`].
    pub async fn finish(mut self, target: ImportTarget) -> Result<Imported, ImportError> {
        let file_root = self.reader.end(target.root)?;
        self.store().await?;
        self.stored().await?;
        let arbiter = self.service.arbiter();
        let blocks = arbiter.nodes().blocks();
        blocks.sync(self.mark).await?;
        let contents = std::mem::take(&mut self.contents);
        let root = check(blocks.as_ref(), contents, file_root, target.without_mapped).await?;
        let owner = target.owner.unwrap_or(root.owner);
        let bucket = BucketAddress::new(owner, target.name.unwrap_or_else(|| root.name.clone()));
        let objects = (root.objects.count, root.objects.bytes);
        let (names, random) = (self.service.names, &self.service.random);
        let origin = self.pins.origin();
        let adopted = arbiter.adopt_root(&bucket, file_root, &root, origin, names, random).await?;
        let (pointer, already, without_policy) = match adopted {
            Adopted::Published(pointer, without_policy) => (pointer, false, without_policy),
            Adopted::Already(pointer) => (pointer, true, false),
            Adopted::Collected => return Err(ImportError::Collected),
            Adopted::Taken(version) => {
                return Err(ImportError::Exists { name: bucket.name, version });
            }
        };
        let (root, version) = (pointer.root, pointer.version);
        let blocks = self.blocks;
        Ok(Imported { bucket, root, version, file_root, blocks, objects, already, without_policy })
    }

    /// Refuses a root other than `wanted` as soon as the header was read.
    ///
    /// # Errors
    /// [`ImportError::Roots`], [`ImportError::OtherRoot`].
    pub fn expect_root(&self, wanted: Option<Cid>) -> Result<(), ImportError> {
        if self.reader.has_begun() { self.reader.root(wanted).map(drop) } else { Ok(()) }
    }
}
