//! What can go wrong below the service, named by what the caller can do next.

use crate::id::Cid;

/// The error a store hit; for the log only, clients never see it.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// A failed block, directory or pointer operation.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Do not retry: the block is over [`crate::block::BLOCK_BYTES_MAX`].
    #[error("block is {len} bytes, limit is {max}")]
    TooLarge {
        /// Bytes offered.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Do not retry, page someone: stored bytes no longer match their address.
    #[error("block {cid} is damaged")]
    Damaged {
        /// Address that was asked for.
        cid: Cid,
    },
    /// Do not retry, page someone: a block that the state needs is nowhere to be found.
    #[error("block {cid} is missing")]
    Missing {
        /// Address that was asked for.
        cid: Cid,
    },
    /// Do not retry, page someone: stored bytes are intact but are not what they should be.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// Kind of thing that was read.
        what: &'static str,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// Free space, then retry: the medium is full.
    #[error("{backend} is out of space")]
    Full {
        /// Which implementation, e.g. `"log"`.
        backend: &'static str,
    },
    /// Retry with backoff: the backend refused or did not answer; nothing was changed.
    #[error("{backend} unavailable during {action}")]
    Unavailable {
        /// Which implementation, e.g. `"postgres"`.
        backend: &'static str,
        /// Which method, e.g. `"sync"`.
        action: &'static str,
        /// For the log.
        source: Source,
    },
}

/// A swap that ended without a definite answer, or was never sent.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// Retry: the swap was certainly not applied.
    #[error("swap was not applied")]
    NotSent(#[source] StoreError),
    /// Read the pointer before deciding anything: the swap may have been applied.
    #[error("outcome of the swap is unknown")]
    Unknown(#[source] StoreError),
}
