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
    #[error("{} is full", place(backend))]
    Full {
        /// Name of the implementation, e.g. `"log"`.
        backend: &'static str,
    },
    /// The backend refused or did not answer, and nothing was changed. Retry with backoff.
    #[error("{} cannot be used{}", place(backend), cure(backend))]
    Unavailable {
        /// Name of the implementation, e.g. `"postgres"`.
        backend: &'static str,
        /// Name of the method, e.g. `"sync"`, for `Debug`.
        action: &'static str,
        /// The underlying error, for the log.
        source: Source,
    },
}

/// Returns what an operator calls a backend.
fn place(backend: &str) -> &str {
    match backend {
        "postgres" => "the arbiter's database",
        "log" => "the disk of the data directory",
        "object store" | "block store" => "the block store",
        "metadata" | "arbiter" => "the arbiter",
        other => other,
    }
}

/// Returns what an operator does about a backend that cannot be used, as the end of a sentence.
fn cure(backend: &str) -> &'static str {
    match backend {
        "postgres" => " (look whether it runs, and whether FULA_DATABASE_URL names it)",
        "object store" | "block store" => {
            " (look whether it runs, and whether FULA_BLOCKS names it)"
        }
        _ => "",
    }
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
