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

/// Returns what an error of the operating system means, without its number.
pub fn io_text(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    let text = match error.kind() {
        // What is not the operating system's says more than its kind.
        _ if error.raw_os_error().is_none() && error.get_ref().is_some() => {
            return error.to_string();
        }
        ErrorKind::NotFound => "there is no such file or directory",
        ErrorKind::PermissionDenied => "permission denied",
        ErrorKind::AlreadyExists => "there is such a file already",
        ErrorKind::NotADirectory => "a part of the path is not a directory",
        ErrorKind::IsADirectory => "it is a directory, not a file",
        ErrorKind::AddrInUse => "the address is in use",
        ErrorKind::AddrNotAvailable => "no network interface of this machine has the address",
        ErrorKind::ConnectionRefused => "connection refused: nothing listens there",
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            "the other side closed the connection"
        }
        ErrorKind::TimedOut => "no answer in time",
        ErrorKind::UnexpectedEof => "it ends too early",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "the disk is full",
        ErrorKind::ReadOnlyFilesystem => "the file system is mounted read-only",
        ErrorKind::InvalidData => "it is no text in UTF-8",
        _ => {
            let text = error.to_string();
            let end = text.find(" (os error ").unwrap_or(text.len());
            return text[..end].to_lowercase();
        }
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::io_text;

    #[test]
    fn an_error_of_the_operating_system_is_told_in_words() {
        let not_found = std::fs::read("/nonexistent/file").unwrap_err();
        assert_eq!(io_text(&not_found), "there is no such file or directory");
        assert_eq!(io_text(&io::Error::from_raw_os_error(24)), "too many open files");
        assert_eq!(io_text(&io::Error::other("the tape is torn")), "the tape is torn");
        let simple = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(io_text(&simple), "permission denied");
    }
}
