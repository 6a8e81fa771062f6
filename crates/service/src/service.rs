//! One gateway's view of the object store: which bucket a request is about, whether it may, and the way
//! to the commit pipeline.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use fula_core::{BucketAddress, BucketName, ObjectKey, OwnerId};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    arbiter::{Arbiter, Head},
    auth::{
        access::{self, Action, Holder, Target, Verb},
        policy::PublicRead,
    },
    budget::MemoryBudget,
    caller::{BucketOwner, Caller, IdempotencyKey},
    commit::{Answer, Change, CommitRequest, Committer},
    error::ServiceError,
    limits::Limits,
    names::{NameMeaning, NamePolicy},
};

/// The bucket that a write is about.
pub(crate) struct WriteTarget {
    pub(crate) head: Arc<Head>,
    /// Whether that is the last state known, and perhaps not the newest.
    pub(crate) is_guess: bool,
}

/// Which state of a bucket a request can do with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// The last one known, where reads may be stale and the arbiter is away.
    MayBeStale,
    /// The newest: something is written that is made of it.
    Newest,
}

impl Freshness {
    fn of(action: Action) -> Self {
        if action.verb() == Verb::Read { Self::MayBeStale } else { Self::Newest }
    }
}

/// What of a bucket an action is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part<'a> {
    /// The bucket as a whole.
    Whole,
    /// Whether it is there.
    Anything,
    /// Keys by prefix.
    Prefix(&'a str),
    /// One key.
    Key(&'a ObjectKey),
}

impl<'a> Part<'a> {
    pub(crate) fn target(self, bucket: &'a BucketName) -> Target<'a> {
        let bucket = bucket.as_str();
        match self {
            Self::Whole => Target::Bucket(bucket),
            Self::Anything => Target::Anything(bucket),
            Self::Prefix(prefix) => Target::Prefix(bucket, prefix),
            Self::Key(key) => Target::Object(bucket, key.as_str()),
        }
    }
}

/// Draws random bytes; the operating system's unless a test says otherwise.
pub type Random = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// Returns the operating system's randomness.
pub fn system_random() -> Random {
    Arc::new(|bytes| getrandom::fill(bytes).expect("the operating system has randomness"))
}

/// Bodies whose sender is not known yet get a budget of their own: this part of `body_bytes`.
const UNAUTHENTICATED_PART: usize = 4;

/// One gateway's view of the object store; cloned freely, shared by all requests.
#[derive(Clone)]
pub struct Service {
    pub(crate) committer: Committer,
    pub(crate) body_budget: MemoryBudget,
    /// For bodies whose sender is not known yet, so that they cannot take what others need.
    unauthenticated_budget: MemoryBudget,
    pub(crate) random: Random,
    pub(crate) names: NamePolicy,
    /// Where the next look for expired uploads begins, by bucket.
    pub(crate) sweeps: Arc<Mutex<HashMap<BucketAddress, Bytes>>>,
    /// Held by whoever collects, or drops rows.
    pub(crate) collecting: Arc<tokio::sync::Mutex<()>>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("committer", &self.committer).finish_non_exhaustive()
    }
}

impl Service {
    /// Serves the buckets of `arbiter`, within `limits`.
    pub fn new(arbiter: Arbiter, limits: Limits, random: Random, names: NamePolicy) -> Self {
        let bytes = limits.body_bytes;
        let (body_budget, unauthenticated_budget) =
            (MemoryBudget::new(bytes), MemoryBudget::new(bytes / UNAUTHENTICATED_PART));
        Self {
            committer: Committer::new(arbiter, limits),
            body_budget,
            unauthenticated_budget,
            random,
            names,
            sweeps: Arc::default(),
            collecting: Arc::default(),
        }
    }

    /// Returns the commit pipeline.
    pub fn committer(&self) -> &Committer {
        &self.committer
    }

    /// Returns the arbiter as this master sees it.
    pub fn arbiter(&self) -> &Arbiter {
        self.committer.arbiter()
    }

    /// Returns whether any write is in flight, or any body on its way.
    pub fn is_busy(&self) -> bool {
        self.arbiter().pins().is_busy()
    }

    /// Returns the memory budget of request and response bodies.
    pub fn body_budget(&self) -> &MemoryBudget {
        &self.body_budget
    }

    /// Returns the memory budget of bodies that are read before their sender is known.
    pub fn unauthenticated_budget(&self) -> &MemoryBudget {
        &self.unauthenticated_budget
    }

    pub(crate) fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.random)(&mut bytes);
        bytes
    }

    /// Finds the bucket `name` means to the caller ([`NamePolicy::meaning`]), and checks that `action` is
    /// allowed on what of it is asked for.
    pub(crate) async fn resolve(
        &self,
        caller: &Caller,
        name: &BucketName,
        action: Action,
        part: Part<'_>,
    ) -> Result<Arc<Head>, ServiceError> {
        if action.verb() != Verb::Read {
            caller.pins.begin_write(self.arbiter().pins());
        }
        let owner = caller.bucket_owner;
        let found = self.find(caller, owner, name, Freshness::of(action)).await?;
        self.decide(caller, owner, found, action, part.target(name)).await
    }

    /// Finds the bucket that the source of a copy lies in, and checks that the object may be read. Its state
    /// is the newest: what a copy writes is as good as what was just put.
    pub(crate) async fn resolve_source(
        &self,
        caller: &Caller,
        owner: BucketOwner,
        bucket: &BucketName,
        key: &ObjectKey,
    ) -> Result<Arc<Head>, ServiceError> {
        let found = self.find(caller, owner, bucket, Freshness::Newest).await?;
        let target = Part::Key(key).target(bucket);
        self.decide(caller, owner, found, Action::GetObject, target).await
    }

    /// Checks that the caller may do `action` to `target` in the bucket that was found.
    async fn decide(
        &self,
        caller: &Caller,
        owner: BucketOwner,
        found: Option<Arc<Head>>,
        action: Action,
        target: Target<'_>,
    ) -> Result<Arc<Head>, ServiceError> {
        let decided = self.authorize(caller, found.as_deref(), action, target).await;
        match (decided, found) {
            (Ok(()), Some(head)) => {
                if action.verb() != Verb::Read {
                    self.arbiter().guard().require_disk()?;
                }
                caller.seen.note(head.row.pointer.version);
                caller.pins.pin_head(&head);
                Ok(head)
            }
            // Nobody may do anything to nothing.
            (Ok(()), None) => Err(ServiceError::NoSuchBucket),
            // Whose bucket was asked for is said: whether they have one is not.
            (Err(ServiceError::NoSuchBucket), _) if owner.is_foreign(caller) => {
                Err(ServiceError::AccessDenied)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// The same for a write of an object, which costs no read of the arbiter where the caller's own
    /// bucket was seen before: the commit finds out whether it is still there. What is refused
    /// must be refused on the newest state; ask [`Self::resolve`] before.
    pub(crate) async fn resolve_for_write(
        &self,
        caller: &Caller,
        name: &BucketName,
        action: Action,
        part: Part<'_>,
    ) -> Result<WriteTarget, ServiceError> {
        let own = self.own_of(caller, caller.bucket_owner);
        let address = own.map(|owner| BucketAddress::new(owner, name.clone()));
        if let Some(head) = address.and_then(|address| self.arbiter().last_known(&address)) {
            self.authorize(caller, Some(&head), action, part.target(name)).await?;
            self.arbiter().guard().require_disk()?;
            caller.pins.begin_write(self.arbiter().pins());
            caller.pins.pin_head(&head);
            return Ok(WriteTarget { head, is_guess: true });
        }
        let head = self.resolve(caller, name, action, part).await?;
        Ok(WriteTarget { head, is_guess: false })
    }

    /// Returns where to look for the bucket that a name means to the caller.
    pub(crate) fn meaning(&self, caller: &Caller, owner: BucketOwner) -> NameMeaning {
        let identity = caller.identity.as_ref();
        self.names.meaning(identity.map(|identity| identity.owner), owner)
    }

    /// Returns the caller, if a name means one of the caller's own buckets first.
    pub(crate) fn own_of(&self, caller: &Caller, owner: BucketOwner) -> Option<OwnerId> {
        let own = caller.identity.as_ref()?.owner;
        (self.meaning(caller, owner).owner() == Some(own)).then_some(own)
    }

    /// Returns the bucket that a name means to the caller, whoever's it is.
    pub(crate) async fn find(
        &self,
        caller: &Caller,
        owner: BucketOwner,
        name: &BucketName,
        freshness: Freshness,
    ) -> Result<Option<Arc<Head>>, ServiceError> {
        let meaning = self.meaning(caller, owner);
        if let Some(owner) = meaning.owner()
            && let Some(head) =
                self.state(caller, &BucketAddress::new(owner, name.clone()), freshness).await?
        {
            return Ok(Some(head));
        }
        if !meaning.is_global() {
            return Ok(None);
        }
        let asked = self.arbiter().find_bucket(name);
        let row = match freshness {
            Freshness::MayBeStale => asked.await?,
            Freshness::Newest => self.before_write(caller, "arbiter", asked).await?,
        };
        let Some(row) = row.filter(|row| row.deleted.is_none()) else { return Ok(None) };
        self.state(caller, &row.address, freshness).await
    }

    /// Decides whether the caller may do `action` to `target`, in the bucket that `head` is of.
    pub(crate) async fn authorize(
        &self,
        caller: &Caller,
        head: Option<&Head>,
        action: Action,
        target: Target<'_>,
    ) -> Result<(), ServiceError> {
        let identity = caller.identity.as_ref();
        let Some(head) = head else { return access::authorize(identity, action, target, None) };
        let owner = head.row.address.owner;
        // Most requests are the owner's, who need nothing public.
        let is_granted = identity.is_some_and(|identity| {
            identity.owner == owner && identity.grant.allows(action.verb(), target)
        });
        let public = if is_granted { PublicRead::default() } else { self.public(head).await? };
        let holder = Holder { owner, public: &public };
        access::authorize(identity, action, target, Some(holder))
    }

    /// Returns the bucket's state: what is read may be outdated where that is allowed, what a
    /// change starts from may not.
    pub(crate) async fn state(
        &self,
        caller: &Caller,
        address: &BucketAddress,
        freshness: Freshness,
    ) -> Result<Option<Arc<Head>>, ServiceError> {
        if freshness == Freshness::MayBeStale {
            return self.arbiter().readable(address, &caller.seen).await;
        }
        self.before_write(caller, "arbiter", self.arbiter().current(address)).await
    }

    /// Asks a store something before a write, within the write's deadline.
    ///
    /// # Errors
    /// What is answered; [`ServiceError::Unavailable`] when it is late.
    pub(crate) async fn before_write<T>(
        &self,
        caller: &Caller,
        backend: &'static str,
        asked: impl Future<Output = Result<T, ServiceError>>,
    ) -> Result<T, ServiceError> {
        let (started, deadline) = (Instant::now(), self.committer.limits().commit_deadline);
        let answer = tokio::time::timeout(caller.seen.left_of(deadline), asked).await;
        caller.seen.note_waited(started.elapsed());
        answer.unwrap_or_else(|_| Err(ServiceError::late(backend, "read")))
    }

    /// Commits a change to the life of the bucket that `head` is of.
    ///
    /// With `idempotency_key`, a retry of it gets the first answer.
    pub(crate) async fn change(
        &self,
        caller: &Caller,
        head: &Head,
        change: Change,
        idempotency_key: Option<IdempotencyKey>,
    ) -> Result<Answer, ServiceError> {
        let request = CommitRequest::of(caller, Some(head.root.id), idempotency_key, change);
        self.submit(caller, head.address(), request).await
    }

    /// Commits a change to the bucket that a write aims at, in whichever life of its name if that
    /// is a guess.
    pub(crate) async fn change_at(
        &self,
        caller: &Caller,
        target: &WriteTarget,
        change: Change,
        idempotency_key: Option<IdempotencyKey>,
    ) -> Result<Answer, ServiceError> {
        let bucket = (!target.is_guess).then_some(target.head.root.id);
        let request = CommitRequest::of(caller, bucket, idempotency_key, change);
        self.submit(caller, target.head.address(), request).await
    }

    /// Commits a change if the caller's credential still allows it.
    pub(crate) async fn submit(
        &self,
        caller: &Caller,
        bucket: &BucketAddress,
        request: CommitRequest,
    ) -> Result<Answer, ServiceError> {
        caller.check_credential(self.committer.limits().commit_deadline)?;
        self.committer.submit(bucket, request, &caller.seen).await
    }
}
