//! A bucket from a CAR file. Nothing of it is visible before everything was checked.

use fula_core::{
    Block, BucketAddress, BucketName, Cid, OwnerId, StoreError,
    block::{Placement, SyncMark},
    car::{CarError, CarReader},
};

use super::check::{Contents, check};
use crate::{
    arbiter::Adopted,
    error::ServiceError,
    pins::{PinnedBlocks, RequestPins},
    service::Service,
};

/// Bytes of blocks that are stored together.
const BATCH_BYTES: usize = 4 << 20;

/// Most blocks that are stored together.
const BATCH_BLOCKS: usize = 1024;

/// The reason why a file is not imported. Nothing of it is visible.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read further.
    #[error("at byte {offset}: {error}")]
    File {
        /// Offset of the section.
        offset: u64,
        /// What is wrong with it.
        error: CarError,
    },
    /// The bytes of a block are not what its address names.
    #[error("at byte {offset}: the bytes of block {cid} do not match its hash")]
    WrongHash {
        /// Offset of the section.
        offset: u64,
        /// Address of the block.
        cid: Cid,
    },
    /// The header does not name exactly one root.
    #[error("at byte 0: the header names {0} roots, and the file of a bucket has one")]
    Roots(usize),
    /// The root is another one than was asked for.
    #[error("the root of the file is {found}, and not {wanted}")]
    OtherRoot {
        /// Root of the file.
        found: Cid,
        /// Root that was asked for.
        wanted: Cid,
    },
    /// The root is not in the file.
    #[error("the root {0} is not in the file")]
    NoRoot(Cid),
    /// Something that is linked is not in the file.
    #[error(
        "the file is not whole: the block {parent}, at byte {offset}, links to the block {cid}, which is not in it"
    )]
    Lacks {
        /// Offset of the block with the link.
        offset: u64,
        /// Address of the block that is not there.
        cid: Cid,
        /// Address of the block with the link.
        parent: Cid,
    },
    /// A block is not what it is linked as.
    #[error("the block {cid}, at byte {offset}, is not part of a bucket: {why}")]
    Malformed {
        /// Offset of the block.
        offset: u64,
        /// Its address.
        cid: Cid,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// The file has too many blocks.
    #[error("at byte {offset}: the file has more than {max} blocks")]
    TooMany {
        /// Offset of the first block that is too much.
        offset: u64,
        /// Most blocks.
        max: usize,
    },
    /// The bucket exists in another state.
    #[error(
        "there is a bucket {name} of this owner already, at version {version}: delete it, or give the imported \
         bucket another name"
    )]
    Exists {
        /// Name of the bucket.
        name: BucketName,
        /// Version of the bucket.
        version: u64,
    },
    /// A collection began while the file was read.
    #[error(
        "a collection of garbage has begun meanwhile, and some of the blocks may be gone again: try again"
    )]
    Collected,
    /// A store refused.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl From<StoreError> for ImportError {
    fn from(error: StoreError) -> Self {
        Self::Service(error.into())
    }
}

/// Which bucket a file becomes.
#[derive(Clone, Debug, Default)]
pub struct ImportTarget {
    /// Owner; by default the one that the root names.
    pub owner: Option<OwnerId>,
    /// Name; by default the one that the root names.
    pub name: Option<BucketName>,
    /// Root that the file must have.
    pub root: Option<Cid>,
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
}

/// A file that is being read.
#[derive(Debug)]
pub struct Import {
    service: Service,
    reader: CarReader,
    contents: Contents,
    blocks: u64,
    batch: Vec<Block>,
    batch_bytes: usize,
    mark: SyncMark,
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
            reader: CarReader::default(),
            contents: Contents::default(),
            blocks: 0,
            batch: Vec::new(),
            batch_bytes: 0,
            mark: SyncMark::default(),
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
        loop {
            let next = self.reader.next_block();
            let offset = self.reader.offset();
            let Some((cid, bytes)) = next.map_err(|error| ImportError::File { offset, error })?
            else {
                return Ok(());
            };
            let block = Block::verify(cid, bytes);
            let block = block.map_err(|_| ImportError::WrongHash { offset, cid })?;
            self.contents.add(&cid, offset)?;
            self.blocks += 1;
            self.batch_bytes += block.bytes().len();
            self.batch.push(block);
            if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_BLOCKS {
                self.store().await?;
            }
        }
    }

    async fn store(&mut self) -> Result<(), StoreError> {
        let blocks = self.service.arbiter().nodes().blocks();
        let mark = blocks.put(&self.batch, Placement::Bulk).await?;
        self.mark = self.mark.and(mark);
        (self.batch, self.batch_bytes) = (Vec::new(), 0);
        Ok(())
    }

    /// Returns the root that the header names, once it was read.
    ///
    /// # Errors
    /// [`ImportError::Roots`], [`ImportError::OtherRoot`].
    fn root(&self, wanted: Option<Cid>) -> Result<Cid, ImportError> {
        let found = match self.reader.roots() {
            Some([root]) => *root,
            roots => return Err(ImportError::Roots(roots.map_or(0, <[Cid]>::len))),
        };
        match wanted {
            Some(wanted) if wanted != found => Err(ImportError::OtherRoot { found, wanted }),
            _ => Ok(found),
        }
    }

    /// Checks the whole bucket at the end of the file, and publishes it.
    ///
    /// # Errors
    /// [`ImportError`].
    pub async fn finish(mut self, target: ImportTarget) -> Result<Imported, ImportError> {
        let offset = self.reader.offset();
        self.reader.end().map_err(|error| ImportError::File { offset, error })?;
        let file_root = self.root(target.root)?;
        self.store().await?;
        let arbiter = self.service.arbiter();
        let blocks = arbiter.nodes().blocks();
        blocks.sync(self.mark).await?;
        let root = check(blocks.as_ref(), std::mem::take(&mut self.contents), file_root).await?;
        let owner = target.owner.unwrap_or(root.owner);
        let bucket = BucketAddress::new(owner, target.name.unwrap_or_else(|| root.name.clone()));
        let objects = (root.objects.count, root.objects.bytes);
        let (names, random) = (self.service.names, &self.service.random);
        let origin = self.pins.origin();
        let adopted = arbiter.adopt_root(&bucket, file_root, &root, origin, names, random).await?;
        let (pointer, already) = match adopted {
            Adopted::Published(pointer) => (pointer, false),
            Adopted::Already(pointer) => (pointer, true),
            Adopted::Collected => return Err(ImportError::Collected),
            Adopted::Taken(version) => {
                return Err(ImportError::Exists { name: bucket.name, version });
            }
        };
        let (root, version) = (pointer.root, pointer.version);
        let blocks = self.blocks;
        Ok(Imported { bucket, root, version, file_root, blocks, objects, already })
    }

    /// Refuses a root other than `wanted` as soon as the header was read.
    ///
    /// # Errors
    /// [`ImportError::Roots`], [`ImportError::OtherRoot`].
    pub fn expect_root(&self, wanted: Option<Cid>) -> Result<(), ImportError> {
        if self.reader.roots().is_some() { self.root(wanted).map(drop) } else { Ok(()) }
    }
}
