//! Errors of the storage traits, told apart by what the caller can do next.

use crate::id::Cid;

/// The underlying error of a store. It goes to the log only; clients never see it.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// A failed operation on blocks, metadata or root pointers.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The block is longer than [`crate::block::BLOCK_BYTES_MAX`]. Do not retry.
    #[error("the block has {len} bytes, and the limit is {max}")]
    TooLarge {
        /// Length of the block in bytes.
        len: usize,
        /// Largest length allowed, in bytes.
        max: usize,
    },
    /// Stored bytes no longer match their address. Do not retry; alert an operator.
    #[error("block {cid} is damaged")]
    Damaged {
        /// Address that was read.
        cid: Cid,
    },
    /// A block that the state needs is not stored. Do not retry; alert an operator.
    #[error("block {cid} is missing")]
    Missing {
        /// Address that was read.
        cid: Cid,
    },
    /// Stored bytes match their address but break a rule of their format. Do not retry; alert an operator.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// Kind of thing that was read, e.g. `"tree node"`.
        what: &'static str,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// The medium is full. Free space, then retry.
    #[error("{backend} is out of space")]
    Full {
        /// Name of the implementation, e.g. `"log"`.
        backend: &'static str,
    },
    /// The backend refused or did not answer, and nothing was changed. Retry with backoff.
    #[error("{backend} is unavailable during {action}")]
    Unavailable {
        /// Name of the implementation, e.g. `"postgres"`.
        backend: &'static str,
        /// Name of the method, e.g. `"sync"`.
        action: &'static str,
        /// The underlying error, for the log.
        source: Source,
    },
}

/// A swap that has no definite outcome, or was never sent.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// The swap was certainly not applied. Retry.
    #[error("the swap was not applied")]
    NotSent(#[source] StoreError),
    /// The swap may have been applied. Read the pointer before you decide anything.
    #[error("the outcome of the swap is unknown")]
    Unknown(#[source] StoreError),
}
