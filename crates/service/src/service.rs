//! The object store as one gateway sees it: which bucket a request is about, whether it is allowed, and the
//! way to the commit pipeline.

mod allowed;

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use fula_core::{BucketAddress, BucketName, Cid, ObjectKey, OwnerId, bucket::VersionId};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::time::Instant;

pub(crate) use crate::part::Part;
use crate::{
    arbiter::{Arbiter, Head},
    auth::{
        access::{self, Action, Verb},
        bucket_policy::BucketAccess,
    },
    budget::MemoryBudget,
    caller::{BucketOwner, Caller, IdempotencyKey},
    commit::{Answer, Change, CommitRequest, Committer, SettingsLink},
    error::{Applied, ServiceError},
    lifecycle::Lifecycle,
    limits::Limits,
    mapping::{Mapping, PinQueue},
    names::{NameMeaning, NamePolicy},
    pins::Keeper,
    sse::Encryption,
};

/// The bucket that a write is about.
pub(crate) struct WriteTarget {
    pub(crate) head: Arc<Head>,
    /// What was decided by the last known state, which may not be the newest.
    pub(crate) guessed: Option<(Action, ObjectKey)>,
}

impl WriteTarget {
    /// Returns whether the state is the last known one.
    pub(crate) fn is_guess(&self) -> bool {
        self.guessed.is_some()
    }
}

/// Number of times that a write is allowed again because settings have changed meanwhile.
const ALLOWED_AGAIN_MAX: usize = 8;

/// Number of buckets whose policies are kept ready to be asked.
const ACCESS_MAX: usize = 256;

/// The state of a bucket that a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// The last known state suffices, where stale reads are allowed and the arbiter is away.
    MayBeStale,
    /// The newest state is needed, because something is written that depends on it.
    Newest,
}

impl Freshness {
    fn of(action: Action) -> Self {
        if action.verb() == Verb::Read { Self::MayBeStale } else { Self::Newest }
    }
}

/// A source of random bytes: the operating system, or a test.
pub type Random = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// Returns the random number generator of the operating system.
pub fn system_random() -> Random {
    Arc::new(|bytes| getrandom::fill(bytes).expect("the operating system has randomness"))
}

/// Bodies whose sender is not authenticated yet have a budget of `body_bytes` divided by this.
const UNAUTHENTICATED_PART: usize = 4;

/// The object store as one gateway sees it. Clones share one state.
#[derive(Clone)]
pub struct Service {
    pub(crate) committer: Committer,
    pub(crate) body_budget: MemoryBudget,
    /// Separate budget for bodies whose sender is not authenticated yet, so that they cannot use up the
    /// main one.
    unauthenticated_budget: MemoryBudget,
    pub(crate) random: Random,
    pub(crate) names: NamePolicy,
    /// Key at which the next search for expired uploads begins, by bucket.
    pub(crate) sweeps: Arc<Mutex<HashMap<BucketAddress, Bytes>>>,
    /// Held during a collection, and while rows are dropped.
    pub(crate) collecting: Arc<tokio::sync::Mutex<()>>,
    /// Storage nodes that hold content; `None` where there are none.
    pub(crate) mapping: Option<Mapping>,
    pub(crate) pin_queue: PinQueue,
    /// What policies say, by the address of the settings of a bucket.
    access: Arc<Cache<Cid, Arc<BucketAccess>>>,
    /// What a bucket without settings says: nothing.
    no_access: Arc<BucketAccess>,
    /// Lifecycle rules, by the same address.
    pub(crate) lifecycles: Arc<Cache<Cid, Option<Arc<Lifecycle>>>>,
    /// Keys of encrypted objects, and the buckets that encrypt.
    pub(crate) encryption: Encryption,
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
            mapping: None,
            pin_queue: PinQueue::default(),
            access: Arc::new(Cache::new(ACCESS_MAX)),
            no_access: Arc::default(),
            lifecycles: Arc::new(Cache::new(ACCESS_MAX)),
            encryption: Encryption::default(),
        }
    }

    /// Returns the commit pipeline.
    pub fn committer(&self) -> &Committer {
        &self.committer
    }

    /// Returns the arbiter.
    pub fn arbiter(&self) -> &Arbiter {
        self.committer.arbiter()
    }

    /// Keeps blocks from the collector that `keeper` names: those that a storage node holds.
    pub fn keep(&self, keeper: Keeper) {
        self.arbiter().pins().add_keeper(keeper);
    }

    /// Returns whether any write is in flight, or any body on its way.
    pub fn is_busy(&self) -> bool {
        self.arbiter().pins().is_busy()
    }

    /// Returns whether any write is in flight.
    pub fn is_writing(&self) -> bool {
        self.arbiter().pins().is_writing()
    }

    /// Returns the memory budget of request and response bodies.
    pub fn body_budget(&self) -> &MemoryBudget {
        &self.body_budget
    }

    /// Returns the memory budget of bodies that are read before their sender is authenticated.
    pub fn unauthenticated_budget(&self) -> &MemoryBudget {
        &self.unauthenticated_budget
    }

    /// Returns 16 random bytes.
    pub fn draw(&self) -> [u8; 16] {
        self.random()
    }

    pub(crate) fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.random)(&mut bytes);
        bytes
    }

    /// Finds the bucket that `name` means to the caller ([`NamePolicy::meaning`]), and checks that `action`
    /// is allowed on `part` of it.
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
        self.note_read(caller);
        let owner = caller.bucket_owner;
        let found = self.find(caller, owner, name, Freshness::of(action)).await?;
        self.decide(caller, owner, found, action, (name, part)).await
    }

    /// Records, before a root is read, that the request needs what was current at this time.
    pub(crate) fn note_read(&self, caller: &Caller) {
        let arbiter = self.arbiter();
        if arbiter.nodes().blocks().generation().is_some() {
            caller.pins.note_read(arbiter.pins(), arbiter.time().unwrap_or_default());
        }
    }

    /// Finds the bucket of the source of a copy, and checks that the object may be read. The state is the
    /// newest one, because the copy must be as current as an object that was just put.
    pub(crate) async fn resolve_source(
        &self,
        caller: &Caller,
        owner: BucketOwner,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<VersionId>,
    ) -> Result<Arc<Head>, ServiceError> {
        self.note_read(caller);
        let found = self.find(caller, owner, bucket, Freshness::Newest).await?;
        let action = if version.is_some() { Action::GetVersion } else { Action::GetObject };
        self.decide(caller, owner, found, action, (bucket, Part::of(key, version))).await
    }

    /// Checks that the caller may do `action` to a part of the bucket of this name, which was found.
    async fn decide(
        &self,
        caller: &Caller,
        owner: BucketOwner,
        found: Option<Arc<Head>>,
        action: Action,
        (name, part): (&BucketName, Part<'_>),
    ) -> Result<Arc<Head>, ServiceError> {
        let decided = if let Some(head) = found.as_deref() {
            self.authorize(caller, head, action, part).await
        } else {
            let (identity, target) = (caller.identity.as_ref(), part.target(name));
            access::authorize(identity, action, target, None, &|_: &str| None)
        };
        match (decided, found) {
            (Ok(()), Some(head)) => {
                if action.verb() != Verb::Read {
                    self.arbiter().guard().require_disk()?;
                }
                caller.seen.note(head.row.pointer.version);
                caller.pins.pin_head(&head);
                Ok(head)
            }
            // The action may be allowed, but there is no bucket.
            (Ok(()), None) => Err(ServiceError::NoSuchBucket),
            // The request named the owner, so whether that owner has such a bucket is not revealed.
            (Err(ServiceError::NoSuchBucket), _) if owner.is_foreign(caller) => {
                Err(ServiceError::AccessDenied)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Does the same for a write of an object. If a bucket of the caller is in memory, it does not read the
    /// arbiter; the commit finds out whether the bucket still exists, and whether its settings still allow the
    /// write. A refusal must be based on the newest state: call [`Self::resolve`] before refusing.
    pub(crate) async fn resolve_for_write(
        &self,
        caller: &Caller,
        name: &BucketName,
        action: Action,
        key: &ObjectKey,
    ) -> Result<WriteTarget, ServiceError> {
        let part = Part::Key(key);
        let own = self.own_of(caller, caller.bucket_owner);
        let address = own.map(|owner| BucketAddress::new(owner, name.clone()));
        if let Some(head) = address.and_then(|address| self.arbiter().last_known(&address))
            && !self.access_of(caller, &head.root, action).await?.needs_tags()
            && self.authorize(caller, &head, action, part).await.is_ok()
        {
            self.arbiter().guard().require_disk()?;
            caller.pins.begin_write(self.arbiter().pins());
            caller.pins.pin_head(&head);
            return Ok(WriteTarget { head, guessed: Some((action, key.clone())) });
        }
        let head = self.resolve(caller, name, action, part).await?;
        Ok(WriteTarget { head, guessed: None })
    }

    /// Returns the place of the bucket that a name means to the caller.
    pub(crate) fn meaning(&self, caller: &Caller, owner: BucketOwner) -> NameMeaning {
        let identity = caller.identity.as_ref();
        self.names.meaning(identity.map(|identity| identity.owner), owner)
    }

    /// Returns the caller, if a name means one of the caller's own buckets first.
    pub(crate) fn own_of(&self, caller: &Caller, owner: BucketOwner) -> Option<OwnerId> {
        let own = caller.identity.as_ref()?.owner;
        (self.meaning(caller, owner).owner() == Some(own)).then_some(own)
    }

    /// Returns the bucket that a name means to the caller, which any user may own.
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

    /// Returns the state of the bucket. A read may get an outdated one where that is allowed; a change may
    /// not.
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

    /// Runs an operation of a store before a write, within the deadline of the write.
    ///
    /// # Errors
    /// The error of the operation; [`ServiceError::Unavailable`] when it is late.
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

    /// Commits a change to the life of the bucket that `head` belongs to.
    ///
    /// With `idempotency_key`, a retry gets the answer of the first attempt.
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

    /// Commits a change to the bucket that a write is about. If its state is only the last known one, any
    /// life of the name will do.
    pub(crate) async fn change_at(
        &self,
        caller: &Caller,
        target: &WriteTarget,
        change: Change,
        idempotency_key: Option<IdempotencyKey>,
    ) -> Result<Answer, ServiceError> {
        let Some((action, key)) = &target.guessed else {
            return self.change(caller, &target.head, change, idempotency_key).await;
        };
        let (change, mut settings) = (Arc::new(change), target.head.root.settings);
        let address = target.head.address();
        for _ in 0..ALLOWED_AGAIN_MAX {
            let (key_of_retry, again) = (idempotency_key.clone(), Arc::clone(&change));
            let mut request = CommitRequest::of(caller, None, key_of_retry, again);
            request.settings = Some(SettingsLink(settings));
            match self.submit(caller, address, request).await? {
                Answer::AllowAgain => {
                    let part = Part::Key(key);
                    let again = Box::pin(self.resolve(caller, &address.name, *action, part));
                    let head = again.await?;
                    if change.stores_plain() && self.encrypts(&head.root).await? {
                        return Err(ServiceError::Busy(Applied::None));
                    }
                    settings = head.root.settings;
                }
                answer => return Ok(answer),
            }
        }
        Err(ServiceError::Busy(Applied::None))
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
