//! Why a file does not become a bucket.

use fula_core::{BucketName, Cid, StoreError, car::CarError};

use crate::error::ServiceError;

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
