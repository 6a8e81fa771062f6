//! What a request can come to instead of success, and what the caller does next ([`ErrorKind`]).
//!
//! No HTTP here: the gateway maps every error to an S3 code, without a catch-all.

use std::{error::Error, fmt, sync::Arc};

use fula_core::StoreError;

/// Whether a write that failed may have been applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Certainly not.
    None,
    /// It may have been, or may still be.
    Unknown,
}

/// The condition of a request that did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionName {
    /// `If-Match`.
    IfMatch,
    /// `If-None-Match`.
    IfNoneMatch,
    /// `If-Unmodified-Since`.
    IfUnmodifiedSince,
    /// `If-Modified-Since`.
    IfModifiedSince,
    /// `x-fula-if-version`.
    BucketVersion,
}

impl fmt::Display for ConditionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IfMatch => "If-Match",
            Self::IfNoneMatch => "If-None-Match",
            Self::IfUnmodifiedSince => "If-Unmodified-Since",
            Self::IfModifiedSince => "If-Modified-Since",
            Self::BucketVersion => "x-fula-if-version",
        })
    }
}

/// A request that was not carried out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ServiceError {
    /// No such bucket, or none the caller may know of.
    #[error("bucket does not exist")]
    NoSuchBucket,
    /// The caller has a bucket of this name.
    #[error("you already own this bucket")]
    BucketAlreadyOwned,
    /// Someone else holds the name, and names are global here.
    #[error("bucket name is taken")]
    BucketNameTaken,
    /// The owner has as many buckets as they may have: delete one, or raise the limit.
    #[error("the owner has {0} buckets, and may not have more")]
    TooManyBuckets(u64),
    /// The owner has as many public buckets as they may have: make one private, or raise the limit.
    #[error("the owner has {0} public buckets, and may not have more")]
    TooManyPublicBuckets(u64),
    /// Delete its objects first.
    #[error("bucket is not empty")]
    BucketNotEmpty,
    /// The policy is not of the form.
    #[error("the policy is malformed: {0}")]
    MalformedPolicy(String),
    /// The bucket has no policy.
    #[error("the bucket has no policy")]
    NoSuchPolicy,
    /// No such object.
    #[error("object does not exist")]
    NoSuchKey,
    /// No such upload, or it was completed or aborted.
    #[error("upload does not exist")]
    NoSuchUpload,
    /// A part is missing or is not what the caller believes.
    #[error("part {0} was not found, or its ETag or checksum differs")]
    InvalidPart(u32),
    /// Part numbers do not ascend.
    #[error("parts are not in ascending order")]
    InvalidPartOrder,
    /// A part other than the last is below the minimum.
    #[error("part {0} is smaller than the minimum of 5 MiB")]
    PartTooSmall(u32),
    /// A condition is false now.
    #[error("the condition {0} does not hold")]
    PreconditionFailed(ConditionName),
    /// The caller's copy is current.
    #[error("not modified")]
    NotModified {
        /// Current entity tag.
        etag: fula_core::bucket::ETag,
        /// Last modification, milliseconds since 1970.
        time_ms: u64,
    },
    /// One change of a commit cannot be carried out, so none was.
    #[error("{key:?}: {error}")]
    InCommit {
        /// Which.
        key: String,
        /// Why.
        error: Box<ServiceError>,
    },
    /// No byte of the range exists.
    #[error("range lies beyond the object's {size} bytes")]
    InvalidRange {
        /// Length of the object.
        size: u64,
    },
    /// The credential ended too long before the write could be committed; nothing was written.
    #[error("the credential has expired")]
    CredentialExpired,
    /// The caller may not do this.
    #[error("access denied")]
    AccessDenied,
    /// The bytes received are not those the digest was made of.
    #[error("{0} does not match the content")]
    BadDigest(&'static str),
    /// A digest header is malformed.
    #[error("{0} is malformed")]
    InvalidDigest(&'static str),
    /// The bytes received are not those the signature was made over.
    #[error("content does not match x-amz-content-sha256")]
    PayloadMismatch,
    /// A chunk or trailer of the body is not signed by the caller.
    #[error("signature of a chunk does not match")]
    ChunkSignatureMismatch,
    /// Fewer or more bytes than announced.
    #[error("body ended after {received} of {announced} bytes")]
    IncompleteBody {
        /// Announced length.
        announced: u64,
        /// Received length.
        received: u64,
    },
    /// The body broke off: the client went away or sent garbage.
    #[error("body could not be read: {0}")]
    BodyFailed(String),
    /// Larger than this kind of request allows.
    #[error("entity is larger than {0} bytes")]
    EntityTooLarge(u64),
    /// Metadata over the limit.
    #[error("user metadata exceeds {0} bytes")]
    MetadataTooLarge(usize),
    /// An argument makes no sense.
    #[error("{0}")]
    InvalidArgument(String),
    /// The request makes no sense as a whole.
    #[error("{0}")]
    InvalidRequest(String),
    /// Not offered; refused rather than ignored.
    #[error("{0} is not implemented")]
    NotImplemented(&'static str),
    /// Retry later: too much at once, or out of time.
    #[error("{}", match .0 {
        Applied::None => "too much at once, or out of time: nothing was changed; try again later",
        Applied::Unknown => "no answer came in time: look whether it was carried out before trying again",
    })]
    Busy(Applied),
    /// The medium is full.
    #[error("out of space")]
    Full,
    /// The state is written in a format newer than this program.
    #[error("bucket is written by a newer version and is read-only here")]
    NewerFormat,
    /// The arbiter went back in time: nothing is written until its masters agree.
    #[error("the arbiter went back in time: {0}")]
    Regressed(String),
    /// A rule of this program does not hold; the text is for the log.
    #[error(transparent)]
    Internal(Source),
    /// A store does not answer: retry later. The text is for the log.
    #[error(transparent)]
    Unavailable(Source),
    /// A block is missing or damaged. The text is for the log.
    #[error(transparent)]
    Damaged(Source),
}

/// What keeps a request from being answered now, as far as its sender may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// The arbiter cannot be used.
    Arbiter {
        /// Whether it can be reached and does not answer in time.
        is_late: bool,
    },
    /// The block store cannot be used.
    Blocks {
        /// Whether it can be reached and does not answer in time.
        is_late: bool,
    },
    /// The disk of this gateway cannot be used.
    OwnDisk,
    /// The arbiter went back in time, and its masters have not agreed yet.
    InDoubt,
    /// The bucket is sealed: its masters remember states that exclude one another.
    Forked,
    /// A block is nowhere to be found.
    BlockMissing,
    /// A block is damaged.
    BlockDamaged,
    /// The log says what.
    Other,
}

/// Why a forked bucket is refused.
pub(crate) const FORKED: &str = "the masters remember states that exclude one another";

/// What the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Use another credential, or ask the owner.
    Denied,
    /// Name something that exists.
    NotFound,
    /// Read the state again, and decide anew: a condition does not hold.
    Precondition,
    /// Change what excludes the request first: a taken name, a bucket that is not empty, a limit.
    Conflict,
    /// Mend the request.
    Invalid,
    /// Send it again later; after an unknown outcome, look first whether it was carried out.
    Retry(Applied),
    /// Make space.
    Full,
    /// Let the operator restore what is missing or damaged.
    Damaged,
    /// Report it.
    Bug,
}

/// The error below another one, with its own sources. Clones share it.
#[derive(Clone)]
pub struct Source(Arc<dyn Error + Send + Sync>);

impl Source {
    fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(source.into().into())
    }
}

impl Source {
    /// Returns the error of a store that this is, or that is below it.
    fn store_error(&self) -> Option<&StoreError> {
        let mut error: &(dyn Error + 'static) = &*self.0;
        loop {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            error = error.source()?;
        }
    }
}

impl Outage {
    fn of(error: &StoreError) -> Self {
        match error {
            StoreError::Missing { .. } => Self::BlockMissing,
            StoreError::Damaged { .. } => Self::BlockDamaged,
            StoreError::Unavailable { backend, source, .. } => {
                let text = source.to_string();
                // The last two are of Tokio and of the pool of connections.
                let late = ["no answer", "deadline has elapsed", "timed out"];
                let is_late = late.iter().any(|late| text.contains(late));
                match *backend {
                    "postgres" | "arbiter" => Self::Arbiter { is_late },
                    "object store" | "block store" => Self::Blocks { is_late },
                    "log" => Self::OwnDisk,
                    _ => Self::Other,
                }
            }
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Source {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ServiceError {
    /// Returns the error for a rule of this program that does not hold.
    pub(crate) fn bug(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Internal(Source::new(source))
    }

    /// Returns the error for a store that does not answer.
    pub(crate) fn unavailable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(Source::new(source))
    }

    /// Returns the error for a store that has not answered in time.
    pub(crate) fn late(backend: &'static str, action: &'static str) -> Self {
        StoreError::Unavailable { backend, action, source: "no answer in time".into() }.into()
    }

    /// Returns what keeps the request from being answered, for errors that are about that.
    pub fn outage(&self) -> Option<Outage> {
        match self {
            Self::Regressed(why) if why == FORKED => Some(Outage::Forked),
            Self::Regressed(_) => Some(Outage::InDoubt),
            Self::Unavailable(source) | Self::Damaged(source) => {
                Some(source.store_error().map_or(Outage::Other, Outage::of))
            }
            Self::InCommit { error, .. } => error.outage(),
            _ => None,
        }
    }

    /// Returns what the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::AccessDenied | Self::CredentialExpired => ErrorKind::Denied,
            Self::NoSuchBucket
            | Self::NoSuchPolicy
            | Self::NoSuchKey
            | Self::NoSuchUpload
            | Self::InvalidPart(_) => ErrorKind::NotFound,
            Self::PreconditionFailed(_) | Self::NotModified { .. } => ErrorKind::Precondition,
            Self::BucketAlreadyOwned
            | Self::BucketNameTaken
            | Self::TooManyBuckets(_)
            | Self::TooManyPublicBuckets(_)
            | Self::BucketNotEmpty
            | Self::NewerFormat => ErrorKind::Conflict,
            Self::MalformedPolicy(_)
            | Self::InvalidPartOrder
            | Self::PartTooSmall(_)
            | Self::InvalidRange { .. }
            | Self::BadDigest(_)
            | Self::InvalidDigest(_)
            | Self::PayloadMismatch
            | Self::ChunkSignatureMismatch
            | Self::IncompleteBody { .. }
            | Self::BodyFailed(_)
            | Self::EntityTooLarge(_)
            | Self::MetadataTooLarge(_)
            | Self::InvalidArgument(_)
            | Self::InvalidRequest(_)
            | Self::NotImplemented(_) => ErrorKind::Invalid,
            Self::Busy(applied) => ErrorKind::Retry(*applied),
            Self::Regressed(_) | Self::Unavailable(_) => ErrorKind::Retry(Applied::None),
            Self::Full => ErrorKind::Full,
            Self::Damaged(_) => ErrorKind::Damaged,
            Self::Internal(_) => ErrorKind::Bug,
            Self::InCommit { error, .. } => error.kind(),
        }
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Full { .. } => Self::Full,
            StoreError::Unavailable { .. } => Self::unavailable(error),
            StoreError::Damaged { .. } | StoreError::Missing { .. } => {
                Self::Damaged(Source::new(error))
            }
            StoreError::TooLarge { .. } | StoreError::Malformed { .. } => Self::bug(error),
        }
    }
}

/// Says which change of a commit an error is about; what concerns the whole stays as it is.
pub(crate) fn in_commit(key: &str, error: ServiceError) -> ServiceError {
    match error {
        ServiceError::Busy(_)
        | ServiceError::Full
        | ServiceError::Regressed(_)
        | ServiceError::Internal(_)
        | ServiceError::Unavailable(_)
        | ServiceError::Damaged(_)
        | ServiceError::NoSuchBucket => error,
        error => ServiceError::InCommit { key: key.to_owned(), error: Box::new(error) },
    }
}

/// Joins an error and its sources, for the log and for whoever runs a command. What an error says of its
/// source already is not said again.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let in_words = |error: &(dyn std::error::Error + 'static)| {
        error.downcast_ref().map_or_else(|| error.to_string(), fula_core::error::io_text)
    };
    let mut text = in_words(error);
    let mut source = error.source();
    while let Some(error) = source {
        let raw = error.to_string();
        let cause = in_words(error);
        if let Some(before) = text.strip_suffix(&raw) {
            text.truncate(before.len());
            text.push_str(&cause);
        } else if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn what_an_error_says_of_its_source_is_said_once() {
        let layer = |text, source: Option<Layer>| Layer { text, source: source.map(Box::new) };
        let server = layer("permission denied for table t", None);
        let driver = layer("error of the database: permission denied for table t", Some(server));
        let error = layer("cannot migrate", Some(driver));
        let text = "cannot migrate: error of the database: permission denied for table t";
        assert_eq!(chain(&error), text);
    }

    #[test]
    fn an_outage_says_which_part_is_away() {
        let unavailable = |backend, source: &str| {
            let source = source.to_owned().into();
            ServiceError::from(StoreError::Unavailable { backend, action: "read", source })
        };
        let below = fula_core::error::SwapError::NotSent(StoreError::Unavailable {
            backend: "postgres",
            action: "cas_root",
            source: "refused".into(),
        });
        let cid = fula_core::Cid::of(fula_core::Codec::Raw, b"x");
        for (error, outage) in [
            (unavailable("postgres", "refused"), Outage::Arbiter { is_late: false }),
            (unavailable("postgres", "deadline has elapsed"), Outage::Arbiter { is_late: true }),
            (ServiceError::unavailable(below), Outage::Arbiter { is_late: false }),
            (ServiceError::late("block store", "get"), Outage::Blocks { is_late: true }),
            (unavailable("object store", "403 Forbidden"), Outage::Blocks { is_late: false }),
            (unavailable("log", "input/output error"), Outage::OwnDisk),
            (ServiceError::Regressed("its pointer went back".into()), Outage::InDoubt),
            (ServiceError::Regressed(FORKED.into()), Outage::Forked),
            (StoreError::Missing { cid }.into(), Outage::BlockMissing),
            (StoreError::Damaged { cid }.into(), Outage::BlockDamaged),
            (ServiceError::unavailable("stopped"), Outage::Other),
        ] {
            assert_eq!(error.outage(), Some(outage), "{error}");
        }
        assert_eq!(ServiceError::NoSuchKey.outage(), None);
    }
}
