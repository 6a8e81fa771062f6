//! Publishes the root of a bucket that came from elsewhere (docs/adr/0047).

use fula_core::{
    Block, BucketAddress, BucketId, Cid, RootPointer, WriterId,
    block::{Placement, require},
    bucket::{BucketRoot, Settings},
    root::{NewRoot, RootRow},
};

use super::{Arbiter, SwapAnswer};
use crate::{
    Random,
    auth::bucket_policy::POLICY,
    error::{Applied, ServiceError},
    limits::AUTHORS_KEPT_MS,
    names::NamePolicy,
    pins::Origin,
};

/// Number of attempts to publish a root while the version floor or the row changes.
const TRIES: usize = 4;

/// The outcome of publishing a root.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Adopted {
    /// The bucket has this root now. Its policy was left out if the flag is set.
    Published(RootPointer, bool),
    /// The bucket had the root already.
    Already(RootPointer),
    /// There is a bucket of this name, at this version.
    Taken(u64),
    /// Blocks of the root may have been collected meanwhile.
    Collected,
}

impl Arbiter {
    /// Publishes a root whose blocks are durable, and were put under `origin`. If the name was never used, and
    /// the root is that of this bucket, the bucket gets exactly this root. Otherwise it gets a new root over
    /// the same trees, which begins a new life of the name. A bucket of another name or owner is private: a policy
    /// says who may use the bucket that it was made for, and is left out.
    ///
    /// # Errors
    /// [`ServiceError::BucketNameTaken`]; [`ServiceError::Busy`]: the outcome is unknown, or the row keeps
    /// changing. [`ServiceError::Unavailable`], [`ServiceError::Regressed`].
    pub(crate) async fn adopt_root(
        &self,
        bucket: &BucketAddress,
        cid: Cid,
        root: &BucketRoot,
        origin: Option<Origin>,
        names: NamePolicy,
        random: &Random,
    ) -> Result<Adopted, ServiceError> {
        self.permit_write(bucket)?;
        let mut floor = None;
        for _ in 0..TRIES {
            let row = self.bucket_row(bucket).await?;
            if let Some(row) = row.as_ref().filter(|row| row.deleted.is_none()) {
                let is_same = row.pointer.root == cid;
                let pointer = row.pointer;
                return Ok(if is_same {
                    Adopted::Already(pointer)
                } else {
                    Adopted::Taken(pointer.version)
                });
            }
            let is_its_own = (root.owner, &root.name) == (bucket.owner, &bucket.name);
            let mut published = match (&row, floor) {
                (None, None) if is_its_own => root.clone(),
                _ => self.renewed(bucket, root, row.as_ref(), floor, random).await?,
            };
            let made = if is_its_own { None } else { self.without_policy(&published).await? };
            let is_made_private = made.is_some();
            if let Some(made) = made {
                published.settings = self.put_settings(made).await?;
            }
            let new = self.new_row(row.as_ref(), &published, origin.as_ref(), names).await?;
            let Some(new) = new else { return Ok(Adopted::Collected) };
            let expected = row.map(|row| row.pointer);
            match self.swap(bucket, expected, &new, false).await {
                SwapAnswer::Won => {
                    // The next read is compared with what the other masters remember, and then with this root.
                    self.forget_head(bucket);
                    self.current(bucket).await?;
                    self.guard().flush().await?;
                    return Ok(Adopted::Published(new.pointer, is_made_private));
                }
                SwapAnswer::BelowFloor(version) => floor = Some(version),
                // Another master has created or dropped the bucket, or a collection has raised its row.
                SwapAnswer::Conflict(_) | SwapAnswer::BelowGeneration => {}
                SwapAnswer::LeaseBroken => return Ok(Adopted::Collected),
                SwapAnswer::NameTaken => return Err(ServiceError::BucketNameTaken),
                SwapAnswer::NotPermitted(error) => return Err(error),
                SwapAnswer::NotSent(error) => return Err(error.into()),
                SwapAnswer::InDoubt | SwapAnswer::Unanswered(_) => {
                    return Err(ServiceError::Busy(Applied::Unknown));
                }
            }
        }
        Err(ServiceError::Busy(Applied::None))
    }

    /// Returns a root over the same trees in a new life of the name.
    async fn renewed(
        &self,
        bucket: &BucketAddress,
        root: &BucketRoot,
        row: Option<&RootRow>,
        floor: Option<u64>,
        random: &Random,
    ) -> Result<BucketRoot, ServiceError> {
        let [mut writer, mut id] = [[0; 16]; 2];
        random(&mut writer);
        random(&mut id);
        let before = row.map_or(0, |row| row.pointer.version);
        let mut renewed = root.clone();
        (renewed.owner, renewed.name) = (bucket.owner, bucket.name.clone());
        renewed.id = BucketId(id);
        renewed.version = root.version.max(before).max(floor.unwrap_or(0)) + 1;
        renewed.parent = None;
        renewed.time = root.time.max(self.now().await?);
        renewed.created = renewed.time;
        // The new root has all commits of the tombstone.
        renewed.authors = match row {
            Some(row) => self.authors_of(row).await?.unwrap_or_default(),
            None => Vec::new(),
        };
        // A separate writer id is used, so that no process takes the swap for one of its unanswered ones.
        renewed.sign(WriterId(writer), renewed.time.saturating_sub(AUTHORS_KEPT_MS));
        Ok(renewed)
    }

    /// Returns the settings of a root without the policy; `None` if there is no policy.
    async fn without_policy(&self, root: &BucketRoot) -> Result<Option<Settings>, ServiceError> {
        let Some(cid) = &root.settings else { return Ok(None) };
        let block = require(self.nodes().blocks().as_ref(), cid).await?;
        let mut settings = Settings::from_block(&block)?;
        Ok(settings.blocks.remove(POLICY).map(|_| settings))
    }

    /// Stores settings. Returns the link to them; `None` if there are none.
    async fn put_settings(&self, settings: Settings) -> Result<Option<Cid>, ServiceError> {
        if settings.blocks.is_empty() {
            return Ok(None);
        }
        let (block, blocks): (Block, _) = (settings.to_block(), self.nodes().blocks());
        let mark = blocks.put(std::slice::from_ref(&block), Placement::Commit).await?;
        blocks.sync(mark).await?;
        Ok(Some(block.cid()))
    }

    /// Stores a root block. Returns the row that publishes it; `None` if what it links may be collected.
    async fn new_row(
        &self,
        row: Option<&RootRow>,
        root: &BucketRoot,
        origin: Option<&Origin>,
        names: NamePolicy,
    ) -> Result<Option<NewRoot>, ServiceError> {
        self.learn_generation().await?;
        let generation = row.map_or_else(|| self.generation(), |row| row.pointer.generation);
        let mut lease = None;
        if let Some(origin) = origin.filter(|origin| u64::from(origin.generation.0) < generation) {
            lease.clone_from(&origin.lease);
            // The first row of a name compares no lease.
            if lease.is_none() || row.is_none() {
                return Ok(None);
            }
        }
        let (block, blocks) = (root.to_block(), self.nodes().blocks());
        let global_name = names.of_root(blocks.as_ref(), root).await?;
        let mark = blocks.put(std::slice::from_ref(&block), Placement::Commit).await?;
        blocks.sync(mark).await?;
        let pointer = RootPointer { root: block.cid(), version: root.version, generation };
        let (bucket_id, created, deleted) = (root.id, root.created, root.deleted);
        Ok(Some(NewRoot { pointer, bucket_id, created, deleted, global_name, lease }))
    }
}
