//! Changes of several keys that are carried out together (docs/format.md).

mod wire;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use fula_core::{Block, Cid};
use http::Method;

use self::wire::Answered;
use crate::{
    checksum,
    client::Bucket,
    error::{Error, Result},
    request::Request,
};

/// Largest number of changes of a commit.
pub const CHANGES_MAX: usize = 1000;

/// Longest body of a put in a commit, in bytes.
pub const BODY_MAX: usize = 1 << 20;

/// A put in a commit.
#[derive(Clone, Debug, Default)]
pub struct BatchPut {
    /// Content.
    pub body: Bytes,
    /// Media type.
    pub content_type: Option<String>,
    /// Metadata of the user.
    pub metadata: BTreeMap<String, String>,
    /// Entity tag that the present object must have.
    pub if_match: Option<String>,
    /// Whether there must be no object.
    pub if_absent: bool,
}

/// A copy in a commit, within its bucket. No content is moved.
#[derive(Clone, Debug, Default)]
pub struct BatchCopy {
    /// Key of the source.
    pub from: String,
    /// Entity tag that the source must have.
    pub if_source_match: Option<String>,
    /// Metadata of the copy; that of the source by default.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Media type of the copy, together with `metadata`.
    pub content_type: Option<String>,
    /// Entity tag that the present object at the target must have.
    pub if_match: Option<String>,
    /// Whether there must be no object at the target.
    pub if_absent: bool,
}

/// A receipt of a storage node, and the leaves that it is for, with their lengths in bytes.
pub(crate) type Receipt = (Arc<str>, Vec<(Cid, u32)>);

/// Content that storage nodes hold (ADR 0043).
#[derive(Clone, Debug)]
pub(crate) struct Mapped {
    pub(crate) cid: Cid,
    pub(crate) size: u64,
    /// Inner nodes of the file.
    pub(crate) nodes: Vec<Block>,
    pub(crate) receipts: Vec<Receipt>,
}

/// Where the content of a put comes from.
#[derive(Clone, Debug)]
enum Content {
    Bytes(Bytes),
    /// An upload in parts, by its id: number and entity tag of each part.
    Upload(String, Vec<(u32, String)>),
    Mapped(Mapped),
}

/// What a put and a copy tell of the object.
#[derive(Clone, Debug, Default)]
struct Facts {
    content_type: Option<String>,
    /// `None` to keep that of the source.
    metadata: Option<BTreeMap<String, String>>,
}

/// What is changed at a key.
#[derive(Clone, Debug)]
enum Action {
    Put(Content, Facts),
    Copy { from: String, if_source_match: Option<String>, facts: Facts },
    Check,
    Delete,
}

/// One change.
#[derive(Clone, Debug)]
struct Change {
    key: String,
    action: Action,
    if_match: Option<String>,
    if_absent: bool,
}

impl Change {
    /// Returns whether no version of the object is named.
    fn is_creation(&self) -> bool {
        self.if_match.is_none()
    }
}

/// Changes of one bucket: [`Batch::commit`] carries them out together, [`Batch::each`] each by itself.
#[derive(Clone, Debug)]
pub struct Batch {
    bucket: Bucket,
    changes: Vec<Change>,
    /// What errors call every object, where its key tells nothing.
    shown: Option<String>,
}

/// What a commit has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Version of the bucket.
    pub version: u64,
    /// Entity tags by the order of the changes, without quotes; `None` for deletions.
    pub etags: Vec<Option<String>>,
}

/// What independent changes have made.
#[derive(Debug)]
pub struct Independent {
    /// Version of the bucket, if anything was changed.
    pub version: Option<u64>,
    /// By the order of the changes: the entity tag, without quotes, which is `None` for a deletion; or why the
    /// change was refused.
    pub results: Vec<Result<Option<String>>>,
}

impl Bucket {
    /// Returns an empty batch.
    pub fn batch(&self) -> Batch {
        Batch { bucket: self.clone(), changes: Vec::new(), shown: None }
    }
}

impl Batch {
    /// Adds a write. No key may occur twice.
    #[must_use]
    pub fn put(self, key: &str, put: BatchPut) -> Self {
        let BatchPut { body, content_type, metadata, if_match, if_absent } = put;
        let facts = Facts { content_type, metadata: Some(metadata) };
        self.with(key, Action::Put(Content::Bytes(body), facts), if_match, if_absent)
    }

    /// Adds a write of content that storage nodes hold. The body of `put` is left out.
    #[must_use]
    pub(crate) fn map(self, key: &str, mapped: Mapped, put: BatchPut) -> Self {
        let BatchPut { body: _, content_type, metadata, if_match, if_absent } = put;
        let facts = Facts { content_type, metadata: Some(metadata) };
        self.with(key, Action::Put(Content::Mapped(mapped), facts), if_match, if_absent)
    }

    /// Completes an upload in parts, whose metadata becomes that of `put`. The body of `put` is left out.
    #[must_use]
    pub(crate) fn complete(
        self,
        key: &str,
        (upload, parts): (&str, Vec<(u32, String)>),
        put: BatchPut,
    ) -> Self {
        let BatchPut { body: _, content_type, metadata, if_match, if_absent } = put;
        let facts = Facts { content_type, metadata: Some(metadata) };
        let content = Content::Upload(upload.to_owned(), parts);
        self.with(key, Action::Put(content, facts), if_match, if_absent)
    }

    /// Adds a copy of an object of the bucket. It is that of the state before the commit, so a copy and a deletion
    /// of its source rename it.
    #[must_use]
    pub fn copy(self, key: &str, copy: BatchCopy) -> Self {
        let BatchCopy { from, if_source_match, metadata, content_type, if_match, if_absent } = copy;
        let facts = Facts { content_type, metadata };
        self.with(key, Action::Copy { from, if_source_match, facts }, if_match, if_absent)
    }

    /// Adds a condition on an object that is not changed: it has the entity tag `if_match`, or is not there if that
    /// is `None`.
    #[must_use]
    pub fn check(self, key: &str, if_match: Option<&str>) -> Self {
        self.with(key, Action::Check, if_match.map(str::to_owned), if_match.is_none())
    }

    /// Adds a deletion. With `if_match`, the object must have this entity tag.
    #[must_use]
    pub fn delete(self, key: &str, if_match: Option<&str>) -> Self {
        self.with(key, Action::Delete, if_match.map(str::to_owned), false)
    }

    fn with(
        mut self,
        key: &str,
        action: Action,
        if_match: Option<String>,
        if_absent: bool,
    ) -> Self {
        self.changes.push(Change { key: key.to_owned(), action, if_match, if_absent });
        self
    }

    /// Lets errors call every object `shown`.
    #[must_use]
    pub(crate) fn shown_as(mut self, shown: String) -> Self {
        self.shown = Some(shown);
        self
    }

    /// Returns the number of changes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Returns whether there is no change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Carries out all changes in one step. All conditions are checked against the state before it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no change, too many or too long ones; [`Error::Changed`] and
    /// [`Error::Exists`] if a condition failed; [`Error::Unsupported`] from servers other than Fula. Then
    /// nothing was changed. [`Error::Unavailable`] says whether that is known.
    pub async fn commit(&self) -> Result<Committed> {
        let answered = self.send(false).await.map_err(|error| self.named(error))?;
        let version = answered.version.ok_or_else(|| self.strange("it names no version"))?;
        let etags = answered.results.into_iter().map(|result| match result {
            Ok(etag) => Ok(etag),
            Err(_) => Err(self.strange("a part of it was refused")),
        });
        Ok(Committed { version, etags: etags.collect::<Result<_>>()? })
    }

    /// Carries out each change by itself, all of them in one version of the bucket. One that is refused does
    /// not stop the others.
    ///
    /// # Errors
    /// As for [`Self::commit`], for all changes together: then nothing was changed, unless
    /// [`Error::Unavailable`] says that this is not known.
    pub async fn each(&self) -> Result<Independent> {
        let answered = self.send(true).await?;
        let results = self.changes.iter().zip(answered.results).map(|(change, result)| {
            result.map_err(|refused| {
                let named = || format!("{}/{}", self.bucket.name(), change.key);
                refused.error(&self.shown.clone().unwrap_or_else(named), change.is_creation())
            })
        });
        Ok(Independent { version: answered.version, results: results.collect() })
    }

    /// Sends the changes, in all attempts under one invocation id.
    async fn send(&self, each: bool) -> Result<Answered> {
        self.validate()?;
        let body = wire::encode(&self.changes, each);
        let request = Request::of_bucket(Method::POST, self.bucket.name())
            .query("fula-commit", "")
            .header("content-type", wire::DAG_CBOR)
            .header(checksum::HEADER, checksum::text(checksum::of(&body)))
            .body(body);
        let answer = self.bucket.client().send(&request).await?;
        let answered = wire::decode(&answer.body).map_err(|_| {
            self.strange("the answer is not that of a commit; is this a Fula gateway?")
        })?;
        if answered.results.len() != self.changes.len() {
            return Err(self.strange("it answers another number of changes"));
        }
        Ok(answered)
    }

    fn strange(&self, why: &str) -> Error {
        Error::Http {
            what: self.bucket.name().to_owned(),
            status: 200,
            code: "InvalidAnswer".to_owned(),
            why: why.to_owned(),
        }
    }

    fn validate(&self) -> Result<()> {
        let long = self.changes.iter().find_map(|change| match &change.action {
            Action::Put(Content::Bytes(body), _) if body.len() > BODY_MAX => Some(&change.key),
            _ => None,
        });
        match (self.changes.len(), long) {
            (1..=CHANGES_MAX, None) => Ok(()),
            (_, Some(key)) => Err(Error::Invalid(format!(
                "{key}: a put in a commit has at most {BODY_MAX} bytes; put it alone"
            ))),
            (len, None) => Err(Error::Invalid(format!(
                "a commit has 1 to {CHANGES_MAX} changes, and not {len}"
            ))),
        }
    }

    /// Returns the error of a commit. A failed condition is about an object that is new if all conditions are.
    fn named(&self, error: Error) -> Error {
        match error {
            Error::Changed { what, .. } if self.changes.iter().all(Change::is_creation) => {
                Error::Exists { what }
            }
            Error::NotFound { what } if !self.changes.iter().all(Change::is_creation) => {
                Error::Changed { what, current: None }
            }
            error => error,
        }
    }
}
