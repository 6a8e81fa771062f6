//! The reasons why a request or a transfer failed, by what the caller does next.

use std::io;

/// Whether a write that failed may have been carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not carried out.
    None,
    /// The server may have carried it out. Sending it again with a condition, or reading, tells.
    Unknown,
}

/// The reason why a request or a transfer failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bucket, the object or the upload does not exist.
    #[error("{what} does not exist")]
    NotFound {
        /// Bucket, or bucket and key.
        what: String,
    },
    /// The write asked for a new object, but there is one.
    #[error("{what} exists already")]
    Exists {
        /// Bucket, or bucket and key.
        what: String,
    },
    /// A condition failed: the object is not the one that the caller knows. Read it, and decide again.
    #[error("{what} is not the version that the request names; read it again")]
    Changed {
        /// Bucket and key.
        what: String,
        /// Entity tag of the object as it is now, where the answer names it.
        current: Option<String>,
    },
    /// The object is the one that the caller has (`If-None-Match` on a read).
    #[error("{what} was not modified")]
    NotModified {
        /// Bucket and key.
        what: String,
    },
    /// The credential was refused, or does not allow the operation.
    #[error("{what}: access is denied: {why} ({code})")]
    Denied {
        /// Bucket, or bucket and key.
        what: String,
        /// S3 error code.
        code: String,
        /// Text of the server.
        why: String,
    },
    /// A quota of the server is used up.
    #[error("{what}: the quota is used up: {why}")]
    Quota {
        /// Bucket, or bucket and key.
        what: String,
        /// Text of the server.
        why: String,
    },
    /// Bytes do not match their checksum. Nothing that was read is to be used.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// Bucket and key, or file.
        what: String,
        /// What does not match.
        why: String,
    },
    /// The server does not offer the operation.
    #[error("the server does not offer this: {0}")]
    Unsupported(String),
    /// An argument is wrong. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// The server did not answer, or could not serve the request, as often as it was tried.
    #[error("{what}: the server is not available: {why}{}", hint(*outcome))]
    Unavailable {
        /// Bucket, or bucket and key.
        what: String,
        /// Whether a write may have been carried out.
        outcome: Outcome,
        /// What the last attempt met with.
        why: String,
    },
    /// No local file can have the name of an object or of a file of a vault. Copy it under another name.
    #[error("{name} is refused, because no file here can have this name: {why}")]
    LocalName {
        /// Name or path.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// Two names would be one in a vault, because Unicode takes them for the same. Rename one of them.
    #[error(
        "{first} and {second} would be one file, because Unicode takes their names for the same: {} and {}",
        escaped(first),
        escaped(second)
    )]
    SameName {
        /// Place of one.
        first: String,
        /// Place of the other one.
        second: String,
    },
    /// A local file or stream failed.
    #[error("{what}: {}", text_of(source))]
    Io {
        /// The file.
        what: String,
        /// The error of the system.
        source: io::Error,
    },
    /// Any other answer of the server.
    #[error("{what}: {why} ({code}, status {status})")]
    Http {
        /// Bucket, or bucket and key.
        what: String,
        /// HTTP status.
        status: u16,
        /// S3 error code.
        code: String,
        /// Text of the server.
        why: String,
    },
    /// What a vault holds is not genuine, or the key does not open it (ADR 0059). Nothing of it is to be used.
    #[error(transparent)]
    Sealed(#[from] fula_seal::SealError),
    /// The caller canceled the transfer.
    #[error("the transfer was canceled")]
    Canceled,
}

/// The result of requests and transfers.
pub type Result<T> = std::result::Result<T, Error>;

fn hint(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::None => "",
        Outcome::Unknown => "; a write may have been carried out",
    }
}

/// Returns a name whose characters outside of ASCII are written as numbers, so that two forms can be told apart.
fn escaped(name: &str) -> String {
    let escape = |c: char| if c.is_ascii() { c.into() } else { c.escape_unicode().to_string() };
    name.chars().map(escape).collect()
}

/// Returns the text of an error of the system, without its number.
fn text_of(error: &io::Error) -> String {
    let text = error.to_string();
    text.find(" (os error ").map_or(text.clone(), |end| text[..end].to_lowercase())
}

impl Error {
    /// Returns a function that makes an error of a local file.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Returns a function that makes an error of a local file that gets its name: [`Error::LocalName`] if it is the
    /// name that the file system does not take.
    pub fn naming(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let name = what.into();
        let is_of_name = |error: &io::Error| {
            let is_spelling = error.raw_os_error() == Some(rustix::io::Errno::ILSEQ.raw_os_error());
            is_spelling
                || matches!(
                    error.kind(),
                    io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput
                )
        };
        move |source| {
            if is_of_name(&source) {
                return Self::LocalName { name, why: text_of(&source) };
            }
            Self::Io { what: name, source }
        }
    }

    /// Returns the error of an answer.
    pub(crate) fn of_answer(
        what: &str,
        status: u16,
        code: &str,
        message: &str,
        is_creation: bool,
    ) -> Self {
        let (what, code, why) = (what.to_owned(), code.to_owned(), message.to_owned());
        match (status, code.as_str()) {
            (304, _) => Self::NotModified { what },
            (_, "QuotaExceeded") | (402, _) => Self::Quota { what, why },
            (401 | 403, _) | (400, "ExpiredToken" | "InvalidToken") => {
                Self::Denied { what, code, why }
            }
            (404, "NoSuchBucket") => {
                Self::NotFound { what: what.split('/').next().unwrap_or_default().to_owned() }
            }
            (404, _) => Self::NotFound { what },
            (412, _) if is_creation => Self::Exists { what },
            (409, "BucketAlreadyOwnedByYou" | "BucketAlreadyExists") => Self::Exists { what },
            (412, _) => Self::Changed { what, current: None },
            (400, "BadDigest" | "XAmzContentSHA256Mismatch") => Self::Damaged { what, why },
            (501, _) => Self::Unsupported(format!("{what}: {why}")),
            _ => Self::Http { what, status, code, why },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_typed_errors() {
        let of = |status, code, new| Error::of_answer("b/k", status, code, "text", new);
        assert!(matches!(of(404, "NoSuchKey", false), Error::NotFound { what } if what == "b/k"));
        assert!(matches!(of(404, "NoSuchBucket", false), Error::NotFound { what } if what == "b"));
        assert!(matches!(of(412, "PreconditionFailed", true), Error::Exists { .. }));
        assert!(matches!(of(412, "PreconditionFailed", false), Error::Changed { .. }));
        assert!(matches!(of(403, "QuotaExceeded", false), Error::Quota { .. }));
        assert!(matches!(of(403, "AccessDenied", false), Error::Denied { .. }));
        assert!(matches!(of(501, "NotImplemented", false), Error::Unsupported(_)));
        assert!(matches!(of(400, "BadDigest", false), Error::Damaged { .. }));
        assert!(matches!(of(409, "OperationAborted", false), Error::Http { status: 409, .. }));
    }

    #[test]
    fn names_that_no_file_can_have_are_told_from_other_failures() {
        let of = |number| Error::naming("a/b")(io::Error::from_raw_os_error(number));
        let too_long = of(rustix::io::Errno::NAMETOOLONG.raw_os_error());
        assert!(matches!(&too_long, Error::LocalName { name, .. } if name == "a/b"), "{too_long}");
        assert!(matches!(of(rustix::io::Errno::ILSEQ.raw_os_error()), Error::LocalName { .. }));
        assert!(matches!(of(rustix::io::Errno::NOSPC.raw_os_error()), Error::Io { .. }));
        let same =
            Error::SameName { first: "x/e\u{301}".to_owned(), second: "x/\u{e9}".to_owned() };
        assert!(same.to_string().ends_with("x/e\\u{301} and x/\\u{e9}"), "{same}");
    }

    #[test]
    fn errors_of_files_show_no_numbers() {
        let error = Error::io("a/b")(io::Error::from_raw_os_error(2));
        assert_eq!(error.to_string(), "a/b: no such file or directory");
    }
}
