//! The state of a bucket while a round edits it: the base root, and the changes so far.

mod room;
mod versions;

use std::collections::HashSet;

use bytes::Bytes;
use fula_core::{
    Block, BucketAddress, BucketId, Cid, StoreError, WriterId,
    block::require,
    bucket::{BucketRoot, ObjectRecord, PartRecord, Recent, Seq, Settings, UploadRecord, keys},
    id::{ObjectKey, UploadId},
    root::{GlobalName, LeaseId, NewRoot, RootPointer, TimeMs},
    tree::{Cursor, Edits, Entry, Nodes, Salt, Tree, edit},
};

pub(super) use self::versions::Newest;
use super::{SettingsLink, overlay::Overlay, owner::OwnerShare};
use crate::{
    arbiter::Head,
    error::{Applied, ServiceError},
    limits::{AUTHORS_KEPT_MS, RECENT_CARRIED_MAX},
    names::NamePolicy,
    objects::condition::WriteConditions,
    pins::Origin,
};

/// The bucket that a round edits, if it exists.
#[derive(Clone, Debug)]
struct Open {
    root: BucketRoot,
    objects: Overlay,
    versions: Overlay,
    uploads: Overlay,
}

/// The result of a round that is ready to be published.
pub(super) struct Sealed {
    pub(super) root: BucketRoot,
    pub(super) row: NewRoot,
    /// Blocks that must be durable first, with the root block last.
    pub(super) blocks: Vec<Block>,
    /// Replaced nodes, which can be removed from the cache once this is the newest root.
    pub(super) replaced: Vec<Cid>,
}

/// A bucket that one round edits. Every change is applied in full or not at all: a change reads everything
/// first, and its edits cannot fail.
#[derive(Clone)]
pub(super) struct Working<'a> {
    nodes: &'a Nodes,
    address: &'a BucketAddress,
    base: Option<&'a Head>,
    /// Version of the root that this round would publish.
    version: u64,
    open: Option<Open>,
    /// Effect of the last change that concerned the global name.
    global_name: GlobalName,
    blocks: Vec<Block>,
    /// Remembered outcomes of writes. They continue from one life of the name to the next.
    recent: Overlay,
    time: TimeMs,
    changes: u32,
    /// Number of delete markers that were made.
    markers: u32,
    ignores_conditions: bool,
    /// Generation of the root that this round would publish.
    generation: u64,
    /// Lease that the round relies on.
    lease: Option<LeaseId>,
    /// Bytes by which the bucket may still grow; `None` for any number.
    room: Option<u64>,
    /// The largest number of bytes, for the error.
    quota: u64,
    /// What the round may take of the quota of the owner, if there is one.
    share: Option<&'a OwnerShare>,
}

impl<'a> Working<'a> {
    /// Starts from `base`. `now` is the arbiter's time, `sent` the highest version for which this writer
    /// has sent a swap. Without a base, the first row has this `generation`.
    pub(super) fn new(
        nodes: &'a Nodes,
        address: &'a BucketAddress,
        base: Option<&'a Head>,
        now: TimeMs,
        sent: u64,
        generation: u64,
    ) -> Result<Self, ServiceError> {
        // Time never runs backwards within a bucket.
        let time = base.map_or(now, |head| head.root.time.max(now));
        let open = match base {
            Some(head) if head.root.format > fula_core::bucket::FORMAT => {
                return Err(ServiceError::NewerFormat);
            }
            Some(head) if head.root.deleted.is_none() => Some(Open {
                objects: Overlay { tree: head.root.objects, edits: Edits::new() },
                versions: Overlay { tree: head.root.versions, edits: Edits::new() },
                uploads: Overlay { tree: head.root.uploads, edits: Edits::new() },
                root: head.root.clone(),
            }),
            _ => None,
        };
        let global_name = GlobalName::Keep;
        let version = base.map_or(0, |head| head.row.pointer.version).max(sent) + 1;
        let generation = base.map_or(generation, |head| head.row.pointer.generation);
        let blocks = Vec::new();
        let tree = base.map(|head| head.root.recent).unwrap_or_default();
        let recent = Overlay { tree, edits: Edits::new() };
        let (changes, markers) = (0, 0);
        let ignores_conditions = false;
        let (lease, room) = (None, None);
        Ok(Self {
            nodes,
            address,
            base,
            version,
            open,
            global_name,
            blocks,
            recent,
            time,
            changes,
            markers,
            ignores_conditions,
            generation,
            lease,
            room,
            quota: 0,
            share: None,
        })
    }

    /// Ignores conditions from now on, which is a fault for tests.
    pub(super) fn ignore_conditions(&mut self, ignore: bool) {
        self.ignores_conditions = ignore;
    }

    /// Checks that content which a change links to, and does not carry, cannot have been collected: it was put
    /// under the generation of this round or a later one, or `lease` of this master has kept it since.
    ///
    /// # Errors
    /// [`ServiceError::Busy`] for content that may be gone.
    pub(super) fn require_origin(
        &mut self,
        origin: Option<&Origin>,
        lease: Option<LeaseId>,
    ) -> Result<(), ServiceError> {
        let Some(origin) = origin else { return Ok(()) };
        if u64::from(origin.generation.0) >= self.generation {
            return Ok(());
        }
        if lease.is_none() || origin.lease != lease {
            return Err(ServiceError::Busy(Applied::None));
        }
        self.lease = lease;
        Ok(())
    }

    /// Checks the conditions of a write against the object that it would replace.
    pub(super) fn judge(
        &self,
        conditions: &WriteConditions,
        current: Option<&ObjectRecord>,
    ) -> Result<(), ServiceError> {
        if self.ignores_conditions { Ok(()) } else { conditions.judge(current) }
    }

    /// Returns the number of edits.
    pub(super) fn changes(&self) -> u32 {
        self.changes
    }

    /// Returns whether anything was changed.
    pub(super) fn is_changed(&self) -> bool {
        self.changes > 0
    }

    /// Returns the time that the records of this round carry.
    pub(super) fn time(&self) -> TimeMs {
        self.time
    }

    /// Returns the version that this round would publish.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Returns the tree nodes.
    pub(super) fn nodes(&self) -> &Nodes {
        self.nodes
    }

    /// Returns the position of the next change in the history of the bucket.
    pub(super) fn seq(&self) -> Seq {
        Seq { version: self.version, index: self.changes }
    }

    /// Returns the id of the bucket, or an error if it does not exist.
    pub(super) fn require_bucket(&self) -> Result<BucketId, ServiceError> {
        self.open.as_ref().map(|open| open.root.id).ok_or(ServiceError::NoSuchBucket)
    }

    fn open(&self) -> Result<&Open, ServiceError> {
        self.open.as_ref().ok_or(ServiceError::NoSuchBucket)
    }

    /// Counts one change, and returns the open bucket for it.
    fn change(&mut self) -> &mut Open {
        self.changes += 1;
        self.open.as_mut().expect("checked by the read before the edit")
    }

    /// Adds blocks that the next edit links to.
    pub(super) fn carry(&mut self, blocks: &[Block]) {
        self.blocks.extend_from_slice(blocks);
    }

    /// Begins a new life of the name.
    pub(super) fn create(
        &mut self,
        id: BucketId,
        salt: Salt,
        global_name: GlobalName,
        recent: Overlay,
    ) {
        let BucketAddress { owner, name } = self.address.clone();
        let root = BucketRoot::new(owner, name, id, salt, self.version, self.time);
        let (objects, versions, uploads) = Default::default();
        self.open = Some(Open { root, objects, versions, uploads });
        self.recent = recent;
        self.say_name(global_name);
        self.changes += 1;
    }

    /// Records what a change does with the global name. `Keep` records nothing.
    fn say_name(&mut self, global_name: GlobalName) {
        if global_name != GlobalName::Keep {
            self.global_name = global_name;
        }
    }

    /// Brings the global name in line with the policy, unless a change of this round has done so.
    pub(super) async fn settle_name(&mut self, names: NamePolicy) -> Result<(), ServiceError> {
        let root = &self.open()?.root;
        if self.global_name == GlobalName::Keep {
            let wanted = names.of_root(self.nodes.blocks().as_ref(), root).await?;
            self.change();
            self.say_name(wanted);
        }
        Ok(())
    }

    /// Ends this life of the name. A tombstone is left.
    pub(super) fn delete_bucket(&mut self, recent: Overlay) {
        self.open = None;
        self.recent = recent;
        self.global_name = GlobalName::Release;
        self.changes += 1;
    }

    /// Returns whether the bucket has no objects, versions or delete markers.
    pub(super) async fn is_empty(&self) -> Result<bool, ServiceError> {
        let Open { objects, versions, .. } = self.open()?;
        Ok(objects.is_empty(self.nodes).await? && versions.is_empty(self.nodes).await?)
    }

    /// Returns the current object of a key.
    pub(super) async fn object(
        &self,
        key: &ObjectKey,
    ) -> Result<Option<ObjectRecord>, ServiceError> {
        self.open()?;
        self.object_if_open(key.as_bytes()).await
    }

    /// Returns the current object of a key; `None` where there is no bucket.
    pub(super) async fn object_if_open(
        &self,
        key: &[u8],
    ) -> Result<Option<ObjectRecord>, ServiceError> {
        let Some(open) = &self.open else { return Ok(None) };
        let found = open.objects.get(self.nodes, key).await?;
        Ok(found.map(|(size, value)| ObjectRecord::decode(&value, size)).transpose()?)
    }

    /// Returns a remembered outcome, encoded.
    pub(super) async fn recent_entry(&self, key: &[u8]) -> Result<Option<Bytes>, ServiceError> {
        Ok(self.recent.get(self.nodes, key).await?.map(|(_, value)| value))
    }

    /// Returns the remembered outcomes as a new tree, for a life with another salt, so that retries of
    /// recent writes are recognised there.
    pub(super) async fn recent_anew(&self) -> Result<Overlay, ServiceError> {
        let mut anew = Overlay::default();
        let mut cursor = Cursor::new(self.nodes, &self.recent.tree);
        cursor.seek(b"").await?;
        for _ in 0..RECENT_CARRIED_MAX {
            let Some(entry) = cursor.next().await? else { break };
            if !crate::limits::is_recent_expired(Recent::decode(&entry.value)?.time, self.time) {
                anew.edits.insert(entry.key, Some((entry.weight, entry.value)));
            }
        }
        for (key, edited) in &self.recent.edits {
            match edited {
                Some(edited) => drop(anew.edits.insert(key.clone(), Some(edited.clone()))),
                None => drop(anew.edits.remove(key)),
            }
        }
        Ok(anew)
    }

    /// Sets a remembered outcome.
    pub(super) fn put_recent(&mut self, key: Bytes, recent: &Recent) {
        self.changes += 1;
        self.recent.edits.insert(key, Some((0, recent.encode())));
    }

    /// Removes a remembered outcome, unless this round set it.
    pub(super) fn forget_recent(&mut self, key: Bytes) {
        self.recent.edits.entry(key).or_insert(None);
    }

    /// Returns the remembered outcomes of the base, and how many this round adds.
    pub(super) fn recent_edited(&self) -> (Tree, usize) {
        (self.recent.tree, self.recent.edits.len())
    }

    /// Sets the current object of a key.
    pub(super) fn put_object(&mut self, key: &ObjectKey, record: &ObjectRecord) {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let value = Some((record.size, record.encode()));
        self.change().objects.edits.insert(key, value);
    }

    /// Removes the current object of a key.
    pub(super) fn remove_object(&mut self, key: &ObjectKey) {
        let key = Bytes::copy_from_slice(key.as_bytes());
        self.change().objects.edits.insert(key, None);
    }

    /// Returns the settings of the bucket.
    pub(super) async fn settings(&self) -> Result<Settings, ServiceError> {
        let Some(cid) = &self.open()?.root.settings else { return Ok(Settings::default()) };
        // Settings that this round has changed are not stored yet.
        let carried = self.blocks.iter().rev().find(|block| block.cid() == *cid);
        match carried {
            Some(block) => Ok(Settings::from_block(block)?),
            None => Ok(Settings::from_block(&require(self.nodes.blocks().as_ref(), cid).await?)?),
        }
    }

    /// Returns the block of one of these settings, which may be of this round.
    pub(super) async fn setting(
        &self,
        settings: &Settings,
        name: &str,
    ) -> Result<Option<Block>, ServiceError> {
        let Some(cid) = settings.blocks.get(name) else { return Ok(None) };
        match self.blocks.iter().rev().find(|block| block.cid() == *cid) {
            Some(block) => Ok(Some(block.clone())),
            None => Ok(Some(require(self.nodes.blocks().as_ref(), cid).await?)),
        }
    }

    /// Returns which settings the bucket has, if it exists.
    pub(super) fn settings_link(&self) -> Option<SettingsLink> {
        self.open.as_ref().map(|open| SettingsLink(open.root.settings))
    }

    /// Replaces the settings of the bucket, and does with the global name what they require.
    pub(super) fn set_settings(&mut self, settings: &Settings, global_name: GlobalName) {
        self.say_name(global_name);
        let block = settings.to_block();
        let link = (!settings.blocks.is_empty()).then(|| block.cid());
        if link.is_some() {
            self.blocks.push(block);
        }
        self.change().root.settings = link;
    }

    /// Returns the header of an upload.
    pub(super) async fn upload(
        &self,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<Option<UploadRecord>, ServiceError> {
        let found = self.open()?.uploads.get(self.nodes, &keys::upload(key, id, 0)).await?;
        Ok(found.map(|(_, value)| UploadRecord::decode(&value)).transpose()?)
    }

    /// Sets the header of an upload.
    pub(super) fn put_upload(&mut self, key: &ObjectKey, id: UploadId, record: &UploadRecord) {
        let value = Some((0, record.encode()));
        self.change().uploads.edits.insert(keys::upload(key, id, 0), value);
    }

    /// Sets a part of an upload.
    pub(super) fn put_part(&mut self, key: &ObjectKey, id: UploadId, n: u32, part: &PartRecord) {
        let value = Some((part.size, part.encode()));
        self.change().uploads.edits.insert(keys::upload(key, id, n), value);
    }

    /// Returns the parts of an upload in order of number.
    pub(super) async fn parts(
        &self,
        key: &ObjectKey,
        id: UploadId,
    ) -> Result<Vec<(u32, PartRecord)>, ServiceError> {
        let (from, to) = (keys::upload(key, id, 1), keys::upload(key, id, u32::MAX));
        let entries = self.open()?.uploads.range(self.nodes, &from, &to).await?;
        entries.iter().map(decode_part).collect()
    }

    /// Removes parts of an upload, and with `header` its header too.
    pub(super) fn remove_upload(
        &mut self,
        key: &ObjectKey,
        id: UploadId,
        parts: impl Iterator<Item = u32>,
        header: bool,
    ) {
        let edits = &mut self.change().uploads.edits;
        for number in parts.chain(header.then_some(0)) {
            edits.insert(keys::upload(key, id, number), None);
        }
    }

    /// Applies all edits. Returns what to publish.
    pub(super) async fn seal(mut self, writer: WriterId) -> Result<Sealed, ServiceError> {
        let generation = self.generation;
        let (version, time) = (self.version, self.time);
        let mut blocks = std::mem::take(&mut self.blocks);
        let mut replaced = Vec::new();
        let mut root = match self.open.take() {
            Some(open) => {
                let mut root = open.root;
                for (tree, overlay) in [
                    (&mut root.objects, open.objects),
                    (&mut root.versions, open.versions),
                    (&mut root.uploads, open.uploads),
                ] {
                    let edited =
                        edit(self.nodes, &root.salt, &overlay.tree, &overlay.edits).await?;
                    *tree = edited.tree;
                    blocks.extend(edited.blocks);
                    replaced.extend(edited.replaced);
                }
                root
            }
            None => self.tombstone(),
        };
        let recent = edit(self.nodes, &root.salt, &self.recent.tree, &self.recent.edits).await?;
        root.recent = recent.tree;
        blocks.extend(recent.blocks);
        replaced.extend(recent.replaced);
        root.parent = self.base.map(|head| head.row.pointer.root);
        root.version = version;
        root.time = time;
        if let Some(base) = self.base {
            root.authors.clone_from(&base.root.authors);
        }
        root.sign(writer, time.saturating_sub(AUTHORS_KEPT_MS));
        let block = root.to_block();
        let row = NewRoot {
            pointer: RootPointer { root: block.cid(), version, generation },
            bucket_id: root.id,
            created: root.created,
            deleted: root.deleted,
            global_name: self.global_name,
            lease: self.lease,
        };
        blocks.push(block);
        // Equal bodies, and nodes that two trees share, are one block.
        let mut seen = HashSet::with_capacity(blocks.len());
        blocks.retain(|block| seen.insert(block.cid()));
        Ok(Sealed { root, row, blocks, replaced })
    }

    fn tombstone(&self) -> BucketRoot {
        let BucketAddress { owner, name } = self.address.clone();
        let old = self.base.map(|head| &head.root);
        let id = old.map_or(BucketId([0; 16]), |root| root.id);
        let mut root = BucketRoot::new(owner, name, id, Salt([0; 32]), 0, self.time);
        root.created = old.map_or(self.time, |root| root.created);
        root.deleted = Some(self.time);
        root
    }
}

/// Decodes an entry of the tree of uploads that is a part.
pub(crate) fn decode_part(entry: &Entry) -> Result<(u32, PartRecord), ServiceError> {
    let (_, _, number) = keys::parse_upload(&entry.key)
        .ok_or(StoreError::Malformed { what: "upload key", why: "not of its form" })?;
    Ok((number, PartRecord::decode(&entry.value, entry.weight)?))
}
