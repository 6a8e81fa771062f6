//! What a Fula gateway does, in domain words: no HTTP types, no backend names.
//!
//! Requests come in as [`Service`] methods. Reads resolve the bucket's newest root and walk its
//! trees; every change goes through the one commit pipeline in [`commit`].

pub mod access;
mod batch;
pub mod body;
mod bucket;
mod caller;
mod checksum;
pub mod commit;
pub mod condition;
pub mod error;
pub mod flaw;
pub mod fsck;
pub mod history;
pub mod keys;
pub mod limits;
mod list;
mod merge;
mod multipart;
mod object;
mod pointers;
mod recovery;
mod witness;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use fula_core::{BucketName, id::ObjectKey};
use tokio::time::Instant;

pub use self::{
    access::Identity,
    batch::{BatchAction, BatchChange, BatchResult},
    bucket::{BucketInfo, BucketPage, NamePolicy},
    caller::{Caller, Invocation, Seen},
    commit::{Committer, Head},
    error::{Applied, ConditionName, ServiceError},
    limits::Limits,
    list::{ListRequest, Listing, ListingLine},
    merge::Merged,
    multipart::{
        CompletePart, CompleteRequest, CreateUploadRequest, ListUploadsRequest, PartInfo,
        PartsPage, UploadInfo, UploadLine, UploadsPage,
    },
    object::{CopyRequest, CopySourceRequest, DeleteKey, Object, ObjectFacts, PutRequest},
    recovery::{Claim, Recovery, Status},
    witness::{Alarm, Known, Witness},
};
use crate::commit::{Answer, Ask, BucketAddress, Change, Print};

/// Draws random bytes; the operating system's unless a test says otherwise.
pub type Random = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// Returns the operating system's randomness.
pub fn system_random() -> Random {
    Arc::new(|bytes| getrandom::fill(bytes).expect("the operating system has randomness"))
}

/// One gateway's view of the object store; cloned freely, shared by all requests.
#[derive(Clone)]
pub struct Service {
    committer: Committer,
    random: Random,
    names: NamePolicy,
    /// Where the next look for expired uploads begins, by bucket.
    sweeps: Arc<Mutex<HashMap<BucketAddress, Bytes>>>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("committer", &self.committer).finish_non_exhaustive()
    }
}

impl Service {
    /// Serves what `committer` publishes.
    pub fn new(committer: Committer, random: Random, names: NamePolicy) -> Self {
        Self { committer, random, names, sweeps: Arc::default() }
    }

    /// Returns the commit pipeline.
    pub fn committer(&self) -> &Committer {
        &self.committer
    }

    fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.random)(&mut bytes);
        bytes
    }

    /// Finds the bucket `name` means to the caller, and checks that the action is allowed: first
    /// among the caller's own, then by global name.
    async fn resolve(
        &self,
        caller: &Caller,
        name: &str,
        action: access::Action,
    ) -> Result<Arc<Head>, ServiceError> {
        let name = BucketName::parse(name).map_err(|_| ServiceError::NoSuchBucket)?;
        let identity = caller.identity.as_ref();
        if let Some(identity) = identity {
            let own = (identity.owner, name.clone());
            if let Some(head) = self.state(caller, &own, action).await? {
                access::authorize(Some(identity), action, own.0)?;
                caller.seen.note(head.row.pointer.version);
                return Ok(head);
            }
        }
        let row = self.committer.find_bucket(&name).await?;
        let row = row.filter(|row| row.deleted.is_none());
        // The anonymous are refused alike whether there is a bucket or not.
        let owner = match (&row, identity) {
            (Some(row), _) => row.owner,
            (None, None) => return Err(ServiceError::AccessDenied),
            (None, Some(_)) => return Err(ServiceError::NoSuchBucket),
        };
        access::authorize(identity, action, owner)?;
        let address = (owner, name);
        let head = self.state(caller, &address, action).await?;
        let head = head.ok_or(ServiceError::NoSuchBucket)?;
        caller.seen.note(head.row.pointer.version);
        Ok(head)
    }

    /// Returns the bucket's state: what is read may be outdated where that is allowed, what a
    /// change starts from may not.
    async fn state(
        &self,
        caller: &Caller,
        address: &BucketAddress,
        action: access::Action,
    ) -> Result<Option<Arc<Head>>, ServiceError> {
        match action {
            access::Action::Read => self.committer.readable(address, &caller.seen).await,
            access::Action::Write | access::Action::Admin => {
                let (started, deadline) = (Instant::now(), self.committer.limits().commit_deadline);
                let left = caller.seen.left_of(deadline);
                let state = tokio::time::timeout(left, self.committer.current(address)).await;
                caller.seen.note_waited(started.elapsed());
                state.unwrap_or(Err(ServiceError::Busy(Applied::None)))
            }
        }
    }

    /// Commits a change to the life of the bucket that `head` is of.
    ///
    /// With `print`, a retry of it gets the first answer.
    async fn change(
        &self,
        caller: &Caller,
        head: &Head,
        change: Change,
        print: Option<Print>,
    ) -> Result<Answer, ServiceError> {
        let ask = Ask { bucket: Some(head.root.id), if_version: caller.if_version, print, change };
        self.committer.submit(&head.address(), ask, &caller.seen).await
    }
}

/// Parses an object key. Keys with characters that XML 1.0 cannot carry are refused: no listing
/// could name them.
///
/// # Errors
/// [`ServiceError::InvalidArgument`] for one that is empty or too long.
pub fn parse_key(key: &str) -> Result<ObjectKey, ServiceError> {
    let unspeakable = |c: char| matches!(c, '\u{0}'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
    if key.contains(unspeakable) {
        let text = "object keys must not contain control characters other than tab and line ends";
        return Err(ServiceError::InvalidArgument(text.to_owned()));
    }
    ObjectKey::parse(key.to_owned())
        .map_err(|error| ServiceError::InvalidArgument(error.to_string()))
}
