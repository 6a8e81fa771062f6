//! How much the buckets of an owner may hold together.
//!
//! A round takes room before it is published, so that rounds of different buckets on this master never exceed the
//! quota together. What other masters have committed is read again every two seconds, and so is what came in by
//! other ways than commits.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use fula_core::{BucketAddress, BucketName, Cid, OwnerId, block::require, bucket::BucketRoot};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    arbiter::{Arbiter, Head},
    error::ServiceError,
    limits::PAGE_MAX,
};

/// Time after which the sizes of buckets are read again.
const FRESH: Duration = Duration::from_secs(2);

/// Largest number of owners whose sizes are remembered.
const OWNERS_MAX: usize = 1024;

/// The sizes of all buckets of the owners that write.
#[derive(Debug, Default)]
pub(super) struct Owners(Mutex<BTreeMap<OwnerId, Arc<Owner>>>);

/// What one owner stores.
#[derive(Debug, Default)]
struct Owner {
    sizes: Mutex<Sizes>,
    /// Held while the sizes are read.
    reading: tokio::sync::Mutex<Option<Instant>>,
}

/// What one bucket stores.
#[derive(Clone, Copy, Debug)]
struct Stored {
    root: Cid,
    /// Version of that root.
    version: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Sizes {
    /// What each bucket stores.
    stored: HashMap<BucketName, Stored>,
    /// Bytes by which rounds make buckets grow that are not published yet.
    taken: HashMap<BucketName, u64>,
    /// Buckets of which rounds have noted the size since the last reading began.
    noted: HashSet<BucketName>,
}

impl Sizes {
    /// Notes the size of a bucket, as a round of this master knows it.
    fn note(&mut self, name: &BucketName, found: Option<Stored>) {
        self.noted.insert(name.clone());
        match found {
            Some(found) => self.stored.insert(name.clone(), found),
            None => self.stored.remove(name),
        };
    }

    /// Takes over the sizes that a reading has found. It may have read a row before a round of this master replaced
    /// it. So what rounds have noted since the reading began stays, and so does what running rounds began on, unless
    /// the reading has found a later version.
    fn replace(&mut self, mut found: HashMap<BucketName, Stored>) {
        for name in self.noted.iter().chain(self.taken.keys()) {
            match self.stored.get(name) {
                Some(known) => {
                    let is_later = found.get(name).is_some_and(|it| it.version > known.version);
                    if !is_later {
                        found.insert(name.clone(), *known);
                    }
                }
                None => drop(found.remove(name)),
            }
        }
        self.noted.clear();
        self.stored = found;
    }

    fn total(&self) -> u64 {
        let stored = self.stored.values().map(|stored| stored.bytes);
        stored.chain(self.taken.values().copied()).fold(0, u64::saturating_add)
    }
}

/// Returns the bytes of all objects, versions and parts of a bucket.
fn bytes_of(root: &BucketRoot) -> u64 {
    let trees = [root.objects.bytes, root.versions.bytes, root.uploads.bytes];
    if root.deleted.is_some() { 0 } else { trees.into_iter().fold(0, u64::saturating_add) }
}

impl Owners {
    /// Returns the share of a round of `bucket`, for an owner who may have `max` bytes.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Damaged`].
    pub(super) async fn share(
        &self,
        arbiter: &Arbiter,
        bucket: &BucketAddress,
        max: u64,
    ) -> Result<OwnerShare, ServiceError> {
        let owner = self.of(arbiter, bucket.owner).await?;
        Ok(OwnerShare { owner, name: bucket.name.clone(), max })
    }

    /// Returns the bytes that an owner may still store who may have `max`.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Damaged`].
    pub(super) async fn room(
        &self,
        arbiter: &Arbiter,
        owner: OwnerId,
        max: u64,
    ) -> Result<u64, ServiceError> {
        let owner = self.of(arbiter, owner).await?;
        let total = owner.sizes.lock().total();
        Ok(max.saturating_sub(total))
    }

    async fn of(&self, arbiter: &Arbiter, id: OwnerId) -> Result<Arc<Owner>, ServiceError> {
        let owner = {
            let mut owners = self.0.lock();
            if owners.len() >= OWNERS_MAX && !owners.contains_key(&id) {
                // Those with a round that runs stay.
                owners.retain(|_, owner| Arc::strong_count(owner) > 1);
            }
            Arc::clone(owners.entry(id).or_default())
        };
        owner.read_again(arbiter, id).await?;
        Ok(owner)
    }
}

impl Owner {
    async fn read_again(&self, arbiter: &Arbiter, owner: OwnerId) -> Result<(), ServiceError> {
        let mut read = self.reading.lock().await;
        if read.is_some_and(|read| read.elapsed() < FRESH) {
            return Ok(());
        }
        let began = Instant::now();
        self.sizes.lock().noted.clear();
        let (mut after, mut found) = (None, HashMap::new());
        loop {
            let rows = arbiter.list_buckets(owner, after.as_ref(), PAGE_MAX).await?;
            let Some(last) = rows.last() else { break };
            after = Some(last.address.name.clone());
            for row in rows.iter().filter(|row| row.deleted.is_none()) {
                let (name, root) = (&row.address.name, row.pointer.root);
                let known = self.sizes.lock().stored.get(name).copied();
                let bytes = match known {
                    Some(known) if known.root == root => known.bytes,
                    _ => {
                        let block = require(arbiter.nodes().blocks().as_ref(), &root).await?;
                        bytes_of(&BucketRoot::from_block(&block)?)
                    }
                };
                let version = row.pointer.version;
                found.insert(name.clone(), Stored { root, version, bytes });
            }
        }
        self.sizes.lock().replace(found);
        *read = Some(began);
        Ok(())
    }
}

/// What one round may take of an owner's quota. Dropping it gives back what was not published.
#[derive(Debug)]
pub(super) struct OwnerShare {
    owner: Arc<Owner>,
    name: BucketName,
    max: u64,
}

impl OwnerShare {
    /// Begins an attempt on a base, and gives back what an earlier attempt has taken.
    pub(super) fn begin(&self, base: Option<&Head>) {
        let mut sizes = self.owner.sizes.lock();
        sizes.taken.remove(&self.name);
        let found = base.map(|head| Stored {
            root: head.row.pointer.root,
            version: head.row.pointer.version,
            bytes: bytes_of(&head.root),
        });
        sizes.note(&self.name, found);
    }

    /// Takes room for `grown` bytes.
    ///
    /// # Errors
    /// [`ServiceError::OwnerQuotaExceeded`]. Nothing was taken.
    pub(super) fn take(&self, grown: u64) -> Result<(), ServiceError> {
        let mut sizes = self.owner.sizes.lock();
        if grown > 0 && sizes.total().saturating_add(grown) > self.max {
            return Err(ServiceError::OwnerQuotaExceeded(self.max));
        }
        *sizes.taken.entry(self.name.clone()).or_default() += grown;
        Ok(())
    }

    /// Notes that the round was published.
    pub(super) fn published(&self, head: &Head) {
        self.begin(Some(head));
    }
}

impl Drop for OwnerShare {
    fn drop(&mut self) {
        self.owner.sizes.lock().taken.remove(&self.name);
    }
}
