//! Merges the sides of a fork. Changes made on one side only are taken over. Of a key that was changed on
//! both sides, both records are kept.

use std::collections::BTreeMap;

use bytes::Bytes;
use fula_core::{
    Block, BucketAddress, Cid,
    block::{Placement, require},
    bucket::BucketRoot,
    tree::{Change, Edits, Entry, Salt, Tree, diff, edit},
};

use super::recovery::{Candidate, Recovery, RecoveryClaim};
use crate::error::{Applied, ServiceError};

/// Largest number of commits that are examined on each side to find their common state.
const ANCESTORS_MAX: usize = 100_000;

/// The result of a merge.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Merged {
    /// Version of the common state of all sides; 0 when there is none.
    pub base: u64,
    /// Versions of the sides.
    pub sides: Vec<u64>,
    /// Keys that were taken from the one side that changed them.
    pub taken: Vec<String>,
    /// Keys that were changed on both sides, each with the key under which the older record is kept; `None`
    /// for a deletion.
    pub both: Vec<(String, Option<String>)>,
    /// Number of uploads in progress and parts that were taken from the one side that changed them.
    pub uploads: usize,
}

impl Recovery {
    /// Merges the sides of a forked bucket. With `dry_run`, only returns what that would do.
    ///
    /// Of a key that was changed on both sides, the newer record stays, and the older one is kept under the
    /// key followed by `.fork-` and its version. A side on which the bucket was deleted counts as one on
    /// which all objects were deleted: the bucket stays as long as any side has it.
    ///
    /// # Errors
    /// [`ServiceError::InvalidRequest`] for a bucket that is not forked;
    /// [`ServiceError::Unavailable`] while blocks of a side cannot be read.
    pub async fn merge(
        &self,
        bucket: &BucketAddress,
        dry_run: bool,
    ) -> Result<Merged, ServiceError> {
        let Some((version, claims)) = self.fork(bucket).await? else {
            let text = format!("bucket {} is not forked", bucket.name);
            return Err(ServiceError::InvalidRequest(text));
        };
        let (row, all) = self.candidates(bucket, &claims).await?;
        let mut candidates = sides(&all);
        let Some(newest) = candidates.pop() else {
            return Err(ServiceError::bug("a fork without sides"));
        };
        let mut merged = Merged { sides: vec![newest.pointer.version], ..Merged::default() };
        let mut root = newest.root.clone();
        let mut blocks = Vec::new();
        for side in candidates.iter().rev() {
            merged.sides.push(side.pointer.version);
            let base = self.common(&newest, side, &mut Vec::new()).await?;
            merged.base = base.as_ref().map_or(0, |base| base.version);
            let edits = self.edits(base.as_ref(), &root, &side.root, &mut merged).await?;
            let salt = root.salt;
            self.apply(&salt, &mut root.objects, &edits, &mut blocks).await?;
            // Entries with random ids, or named by their content, change on one side only.
            let base = base.unwrap_or_else(|| empty_like(&root));
            let edits = self.one_sided(base.uploads, root.uploads, side.root.uploads).await?;
            merged.uploads += edits.values().flatten().count();
            self.apply(&salt, &mut root.uploads, &edits, &mut blocks).await?;
            let edits = self.one_sided(base.versions, root.versions, side.root.versions).await?;
            self.apply(&salt, &mut root.versions, &edits, &mut blocks).await?;
            let edits = self.one_sided(base.recent, root.recent, side.root.recent).await?;
            self.apply(&salt, &mut root.recent, &edits, &mut blocks).await?;
        }
        if dry_run {
            return Ok(merged);
        }
        if !self.publish(bucket, row, root, &all, blocks).await? {
            return Err(ServiceError::Busy(Applied::None));
        }
        self.end_fork(bucket, version).await?;
        Ok(merged)
    }

    /// Returns what a merge compares the sides of a fork with, for a collection that keeps it: the roots down to
    /// each common state, and these states.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`]; [`ServiceError::Damaged`]: a side is lost.
    pub(crate) async fn bases(
        &self,
        bucket: &BucketAddress,
        claims: &[RecoveryClaim],
    ) -> Result<(Vec<Cid>, Vec<Cid>), ServiceError> {
        let (_, candidates) = self.candidates(bucket, claims).await?;
        let mut candidates = sides(&candidates);
        let (mut passed, mut bases) = (Vec::new(), Vec::new());
        let Some(newest) = candidates.pop() else { return Ok((passed, bases)) };
        for side in &candidates {
            match self.common(&newest, side, &mut passed).await {
                Ok(base) => bases.extend(base.map(|base| base.to_block().cid())),
                // What is older than the history is gone, and no merge finds it either.
                Err(ServiceError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((passed, bases))
    }

    /// Finds the newest root that both sides descend from. Adds the roots on the way to `passed`.
    async fn common(
        &self,
        one: &Candidate,
        other: &Candidate,
        passed: &mut Vec<Cid>,
    ) -> Result<Option<BucketRoot>, ServiceError> {
        let mut sides = [
            (Some(one.pointer.root), one.root.clone()),
            (Some(other.pointer.root), other.root.clone()),
        ];
        for _ in 0..ANCESTORS_MAX {
            if sides[0].0 == sides[1].0 {
                return Ok(sides[0].0.map(|_| sides[0].1.clone()));
            }
            // Versions fall along `parent`, so the side with the higher version goes back one step.
            let back = usize::from(sides[1].1.version > sides[0].1.version);
            let Some(parent) = sides[back].1.parent else { return Ok(None) };
            sides[back] = (Some(parent), self.root(&parent).await?);
            passed.push(parent);
        }
        Ok(None)
    }

    async fn root(&self, cid: &Cid) -> Result<BucketRoot, ServiceError> {
        let block = require(self.arbiter().nodes().blocks().as_ref(), cid).await?;
        Ok(BucketRoot::from_block(&block)?)
    }

    /// Edits a tree and stores the new nodes, so that they can be read at once.
    async fn apply(
        &self,
        salt: &Salt,
        tree: &mut Tree,
        edits: &Edits,
        blocks: &mut Vec<Block>,
    ) -> Result<(), ServiceError> {
        let nodes = self.arbiter().nodes();
        let edited = edit(nodes, salt, tree, edits).await?;
        let mark = nodes.blocks().put(&edited.blocks, Placement::Bulk).await?;
        nodes.blocks().sync(mark).await?;
        *tree = edited.tree;
        blocks.extend(edited.blocks);
        Ok(())
    }

    /// Returns the changes of `theirs` since `base` to keys that `ours` did not change.
    async fn one_sided(&self, base: Tree, ours: Tree, theirs: Tree) -> Result<Edits, ServiceError> {
        let nodes = self.arbiter().nodes();
        let mine = changes(diff(nodes, &base, &ours).await?);
        let other = changes(diff(nodes, &base, &theirs).await?);
        let edit = |(key, entry): (Bytes, Option<Entry>)| {
            let value = entry.map(|entry| (entry.weight, entry.value));
            (!mine.contains_key(&key)).then_some((key, value))
        };
        Ok(other.into_iter().filter_map(edit).collect())
    }

    /// Returns the edits of `ours` that add the changes of `theirs`.
    async fn edits(
        &self,
        base: Option<&BucketRoot>,
        ours: &BucketRoot,
        theirs: &BucketRoot,
        merged: &mut Merged,
    ) -> Result<Edits, ServiceError> {
        let nodes = self.arbiter().nodes();
        let base = base.map(|base| base.objects).unwrap_or_default();
        let mine = changes(diff(nodes, &base, &ours.objects).await?);
        let other = changes(diff(nodes, &base, &theirs.objects).await?);
        let mut edits = Edits::new();
        for (key, entry) in other {
            let name = String::from_utf8_lossy(&key).into_owned();
            match mine.get(&key) {
                None => {
                    edits.insert(key, entry.map(|entry| (entry.weight, entry.value)));
                    merged.taken.push(name);
                }
                Some(same) if *same == entry => {}
                Some(_) => {
                    // `ours` is the newer side, so its record of the key stays.
                    let kept = match entry {
                        Some(entry) => {
                            let kept = self.spare_key(&name, theirs.version, &ours.objects).await?;
                            let value = Some((entry.weight, entry.value));
                            edits.insert(Bytes::from(kept.clone()), value);
                            Some(kept)
                        }
                        None => None,
                    };
                    merged.both.push((name, kept));
                }
            }
        }
        Ok(edits)
    }

    /// Returns a free key for a record that must not be lost.
    async fn spare_key(
        &self,
        name: &str,
        version: u64,
        objects: &Tree,
    ) -> Result<String, ServiceError> {
        let mut key = format!("{name}.fork-{version}");
        while objects.get(self.arbiter().nodes(), key.as_bytes()).await?.is_some() {
            key.push('~');
        }
        Ok(key)
    }
}

/// Returns the states that a merge joins, the newest last. A side that another one includes adds nothing.
fn sides(all: &[Candidate]) -> Vec<Candidate> {
    let mut sides = all.to_vec();
    sides.retain(|side| {
        let covers =
            |other: &Candidate| other.pointer.root != side.pointer.root && other.includes(side);
        !all.iter().any(covers)
    });
    sides.sort_by_key(|side| (side.root.deleted.is_none(), side.root.time));
    sides
}

/// Returns the common state of two lives of a name, which is empty.
fn empty_like(root: &BucketRoot) -> BucketRoot {
    BucketRoot::new(root.owner, root.name.clone(), root.id, root.salt, 0, 0)
}

/// Returns the new entry of every key that differs; `None` where it was removed.
fn changes(differences: Vec<Change>) -> BTreeMap<Bytes, Option<Entry>> {
    let change = |difference| match difference {
        Change::Added(entry) | Change::Changed { new: entry, .. } => {
            (entry.key.clone(), Some(entry))
        }
        Change::Removed(entry) => (entry.key, None),
    };
    differences.into_iter().map(change).collect()
}
