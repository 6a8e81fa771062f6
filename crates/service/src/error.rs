//! The errors of requests, and what the caller can do about them ([`ErrorKind`]).
//!
//! The module knows nothing of HTTP. The gateway maps every error to an S3 code, without a catch-all.

mod condition;
#[cfg(test)]
mod tests;

use std::{error::Error, fmt, sync::Arc};

use fula_core::{Cid, StoreError};

pub use self::condition::ConditionName;

/// Whether a failed write may have been applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The write was certainly not applied.
    None,
    /// The write may have been applied, or may still be.
    Unknown,
}

/// The reason why a request was not carried out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ServiceError {
    /// The bucket does not exist, or the caller may not know of it.
    #[error("the bucket does not exist")]
    NoSuchBucket,
    /// The caller already has a bucket of this name.
    #[error("you already own this bucket")]
    BucketAlreadyOwned,
    /// Another owner holds the name, and bucket names are global here.
    #[error("another owner holds the bucket name")]
    BucketNameTaken,
    /// The owner has the largest allowed number of buckets. Delete one, or raise the limit.
    #[error("the owner has {0} buckets, and may not have more")]
    TooManyBuckets(u64),
    /// The owner has the largest allowed number of public buckets. Make one private, or raise the limit.
    #[error("the owner has {0} public buckets, and may not have more")]
    TooManyPublicBuckets(u64),
    /// The owner has the largest allowed number of pins. Remove some, or raise the limit.
    #[error("the owner has {0} pins, and may not have more; remove some, or raise FULA_PSA_PINS")]
    TooManyPins(u64),
    /// The bucket would grow beyond this number of bytes. Delete objects, or raise the quota.
    #[error("the bucket may not grow beyond {0} bytes; delete objects, or raise FULA_BUCKET_QUOTA")]
    QuotaExceeded(u64),
    /// The buckets of the owner would grow beyond this number of bytes together. Delete objects, or raise the quota.
    #[error(
        "the buckets of one owner may not grow beyond {0} bytes together; delete objects, or raise FULA_OWNER_QUOTA"
    )]
    OwnerQuotaExceeded(u64),
    /// The bucket is not empty. Delete its objects first.
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// The policy is malformed.
    #[error("the policy is malformed: {0}")]
    MalformedPolicy(String),
    /// The policy would make something public, and the public access block of the bucket forbids that.
    #[error("the public access block of the bucket refuses policies that make something public")]
    PublicPolicyBlocked,
    /// The bucket has no policy.
    #[error("the bucket has no policy")]
    NoSuchPolicy,
    /// The bucket's object ownership lets no access control list count.
    #[error("the bucket does not allow access control lists")]
    AclsNotSupported,
    /// Lists cannot stop counting while that of the bucket lets others in.
    #[error("the access control list of the bucket lets others in")]
    BucketAclInUse,
    /// The object does not exist.
    #[error("the object does not exist")]
    NoSuchKey,
    /// The version does not exist.
    #[error("the version does not exist")]
    NoSuchVersion,
    /// The bucket had this version once, or never. What it was is not retained: read the bucket as a whole.
    #[error("version {0} of the bucket is not retained; list the bucket again with ?fula-list")]
    VersionExpired(u64),
    /// The object was deleted, and the newest version is a delete marker; or the version that was named is
    /// one, which has no content.
    #[error("the version is a delete marker")]
    DeleteMarker {
        /// Id of the marker.
        id: fula_core::bucket::VersionId,
        /// Time at which it was made, in milliseconds since 1970.
        time_ms: u64,
        /// Whether the request named it.
        is_named: bool,
    },
    /// The upload does not exist, or it was completed or aborted.
    #[error("the upload does not exist, or has ended")]
    NoSuchUpload,
    /// A part is missing, or is not the one that the caller named.
    #[error("part {0} was not found, or its ETag or checksum differs")]
    InvalidPart(u32),
    /// The part numbers do not ascend.
    #[error("the part numbers do not ascend")]
    InvalidPartOrder,
    /// A part other than the last is smaller than the minimum.
    #[error("part {0} is smaller than the minimum of 5 MiB")]
    PartTooSmall(u32),
    /// A condition does not hold.
    #[error("the condition {0} does not hold")]
    PreconditionFailed(ConditionName),
    /// The caller's copy of the object is current.
    #[error("the object was not modified")]
    NotModified {
        /// Current entity tag.
        etag: fula_core::bucket::ETag,
        /// Time of the last modification, in milliseconds since 1970.
        time_ms: u64,
    },
    /// One change of a commit of several keys was refused, so none was carried out.
    #[error("{key:?}: {error}")]
    InCommit {
        /// Key of the change.
        key: String,
        /// Reason of the refusal.
        error: Box<ServiceError>,
    },
    /// The range lies outside the object.
    #[error("the range lies outside the object, which has {size} bytes")]
    InvalidRange {
        /// Length of the object in bytes.
        size: u64,
    },
    /// The credential ended too long before the write could be committed. Nothing was written.
    #[error("the credential has expired")]
    CredentialExpired,
    /// The caller may not do this.
    #[error("access denied")]
    AccessDenied,
    /// The received bytes do not match the digest.
    #[error("{0} does not match the content")]
    BadDigest(&'static str),
    /// A digest header is malformed.
    #[error("{0} is malformed")]
    InvalidDigest(&'static str),
    /// The received bytes do not match the signed hash.
    #[error("the content does not match x-amz-content-sha256")]
    PayloadMismatch,
    /// A chunk or a trailer of the body has a wrong signature.
    #[error("signature of a chunk does not match")]
    ChunkSignatureMismatch,
    /// The body is shorter or longer than announced.
    #[error("the body ended after {received} of {announced} bytes")]
    IncompleteBody {
        /// Announced length in bytes.
        announced: u64,
        /// Received length in bytes.
        received: u64,
    },
    /// The body could not be read, because the client went away or sent malformed data.
    #[error("the body could not be read: {0}")]
    BodyFailed(String),
    /// The body is longer than this kind of request allows.
    #[error("the request is larger than {0} bytes")]
    EntityTooLarge(u64),
    /// The user metadata is longer than the limit.
    #[error("the user metadata is longer than {0} bytes")]
    MetadataTooLarge(usize),
    /// A body was to be added at another place than the end of the object, which has this length in bytes.
    #[error("the write offset is not the end of the object, which has {0} bytes")]
    InvalidWriteOffset(u64),
    /// The object has the largest allowed number of parts.
    #[error("the object has the largest allowed number of parts")]
    TooManyParts,
    /// An argument is not valid.
    #[error("{0}")]
    InvalidArgument(String),
    /// The request as a whole is not valid.
    #[error("{0}")]
    InvalidRequest(String),
    /// A receipt or an object proves no right to the blocks of a mapping.
    #[error("{0}")]
    NotProved(String),
    /// Blocks of a mapping are not held for the caller. Send them, or the content itself.
    #[error("{0}")]
    NotHeld(String),
    /// A storage node that holds the content does not answer. Retry later.
    #[error("storage node {0} does not answer")]
    NodeAway(String),
    /// The feature is not supported. Such requests are refused rather than partly carried out.
    #[error("{0} is not implemented")]
    NotImplemented(&'static str),
    /// The server is too busy, or the deadline has passed. Retry later.
    #[error("{}", match .0 {
        Applied::None => "the server is too busy, or too slow; nothing was changed; try again later",
        Applied::Unknown => "no answer came in time; before trying again, check if it was carried out",
    })]
    Busy(Applied),
    /// The object is encrypted under a master key that this gateway does not have, or there is none to encrypt
    /// under. The text is the id of the key. Let the operator add the key.
    #[error("the master key {0} is not in the file of FULA_SECRETS_KEY_FILE")]
    NoMasterKey(String),
    /// The medium is full.
    #[error("the server is out of space")]
    Full,
    /// The bucket is written in a format that is newer than this program.
    #[error("the bucket was written by a newer version of Fula and is read-only here")]
    NewerFormat,
    /// The arbiter went back in time. Nothing is written until the masters have recovered.
    #[error("the arbiter went back in time: {0}")]
    Regressed(String),
    /// A bug: a rule of this program does not hold. The text is for the log.
    #[error(transparent)]
    Internal(Source),
    /// A store does not answer. Retry later. The text is for the log.
    #[error(transparent)]
    Unavailable(Source),
    /// A block is missing or damaged. The text is for the log.
    #[error(transparent)]
    Damaged(Source),
}

/// The cause that prevents an answer at present, as far as the client may know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// The arbiter cannot be used.
    Arbiter {
        /// Whether it can be reached but does not answer in time.
        is_late: bool,
    },
    /// The block store cannot be used.
    Blocks {
        /// Whether it can be reached but does not answer in time.
        is_late: bool,
    },
    /// The disk of this gateway cannot be used.
    OwnDisk,
    /// The arbiter went back in time, and the masters have not recovered yet.
    InDoubt,
    /// The bucket is quarantined, because its masters remember states that exclude one another.
    Forked,
    /// A block is missing.
    BlockMissing,
    /// A block is damaged.
    BlockDamaged,
    /// Another cause, which is in the log.
    Other,
}

/// The reason why requests for a forked bucket are refused.
pub(crate) const FORKED: &str = "the masters remember states that exclude one another";

/// The kind of an error, by what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Use another credential, or ask the owner.
    Denied,
    /// Name something that exists.
    NotFound,
    /// Read the state again and decide anew, because a condition does not hold.
    Precondition,
    /// Remove the obstacle first: a taken name, a bucket that is not empty, a limit.
    Conflict,
    /// Correct the request.
    Invalid,
    /// Send the request again later. After an unknown outcome, check first whether it was carried out.
    Retry(Applied),
    /// Free space.
    Full,
    /// Let the operator restore what is missing or damaged.
    Damaged,
    /// Report a bug.
    Bug,
}

/// The underlying error of another one, with its own sources. Clones share it.
#[derive(Clone)]
pub struct Source(Arc<dyn Error + Send + Sync>);

impl Source {
    fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(source.into().into())
    }
}

impl Source {
    /// Returns the error of a store, if this is one or has one as its source.
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
                // The last two are texts of Tokio and of the pool of connections.
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

    /// Returns the block that is missing or damaged, if that is the reason.
    pub fn unreadable_block(&self) -> Option<Cid> {
        let Self::Damaged(source) = self else { return None };
        match source.store_error()? {
            StoreError::Damaged { cid } | StoreError::Missing { cid } => Some(*cid),
            _ => None,
        }
    }

    /// Returns the cause that prevents an answer, for errors that have one.
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
    /// Returns whether the request itself was refused. Otherwise the server cannot answer at present.
    pub(crate) fn is_refusal(&self) -> bool {
        match self.kind() {
            ErrorKind::Denied
            | ErrorKind::NotFound
            | ErrorKind::Precondition
            | ErrorKind::Conflict
            | ErrorKind::Invalid => true,
            ErrorKind::Retry(_) | ErrorKind::Full | ErrorKind::Damaged | ErrorKind::Bug => false,
        }
    }

    /// Returns the error for a record that is a delete marker.
    pub(crate) fn delete_marker(record: &fula_core::bucket::ObjectRecord, is_named: bool) -> Self {
        Self::DeleteMarker { id: record.version_id(), time_ms: record.time, is_named }
    }

    /// Returns what the caller can do about the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::AccessDenied
            | Self::CredentialExpired
            | Self::PublicPolicyBlocked
            | Self::QuotaExceeded(_)
            | Self::OwnerQuotaExceeded(_)
            | Self::NotProved(_) => ErrorKind::Denied,
            Self::NoSuchBucket
            | Self::NoSuchPolicy
            | Self::NoSuchKey
            | Self::NoSuchVersion
            | Self::VersionExpired(_)
            | Self::DeleteMarker { .. }
            | Self::NoSuchUpload
            | Self::InvalidPart(_) => ErrorKind::NotFound,
            Self::PreconditionFailed(_) | Self::NotModified { .. } => ErrorKind::Precondition,
            Self::BucketAlreadyOwned
            | Self::BucketNameTaken
            | Self::TooManyBuckets(_)
            | Self::TooManyPublicBuckets(_)
            | Self::TooManyPins(_)
            | Self::BucketNotEmpty
            | Self::NotHeld(_)
            | Self::NewerFormat => ErrorKind::Conflict,
            Self::MalformedPolicy(_)
            | Self::AclsNotSupported
            | Self::BucketAclInUse
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
            | Self::InvalidWriteOffset(_)
            | Self::TooManyParts
            | Self::InvalidArgument(_)
            | Self::InvalidRequest(_)
            | Self::NotImplemented(_) => ErrorKind::Invalid,
            Self::Busy(applied) => ErrorKind::Retry(*applied),
            Self::Regressed(_)
            | Self::Unavailable(_)
            | Self::NodeAway(_)
            | Self::NoMasterKey(_) => ErrorKind::Retry(Applied::None),
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
            StoreError::Unavailable { backend: crate::mapping::BACKEND, source, .. } => {
                Self::NodeAway(source.to_string())
            }
            StoreError::Unavailable { .. } => Self::unavailable(error),
            StoreError::Damaged { .. } | StoreError::Missing { .. } => {
                Self::Damaged(Source::new(error))
            }
            StoreError::TooLarge { .. } | StoreError::Malformed { .. } => Self::bug(error),
        }
    }
}

/// Adds the key of a change to its error. Errors about the whole commit are returned unchanged.
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

/// Joins the texts of an error and its sources, for the log and for commands. The text of a source that is
/// part of the text before it is not repeated.
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
