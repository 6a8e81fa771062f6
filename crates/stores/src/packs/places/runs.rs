//! Replaces index runs: merges of the newest entries, collections, and runs that are lost.

use std::collections::HashSet;

use fula_core::{StoreError, packs::PackId};
use object_store::path::Path;

use super::{
    super::{
        known::{Held, Manifest},
        merge::merge,
        place::{Located, Place, Tag},
        run::{self, Records, Run},
    },
    HOLD_TRIES, Places, RUN_RATIO,
};

impl Places {
    /// Moves the entries of the directory into an index run, together with runs that are not much larger.
    /// Returns how many blocks the new run knows; `None` where there is not enough to do unless `is_asked`, or
    /// where another master was faster.
    ///
    /// # Errors
    /// [`StoreError`]; nothing changed then, or all of it.
    pub(in crate::packs) async fn merge(
        &self,
        is_asked: bool,
        fresh_id: impl FnMut() -> [u8; 16],
    ) -> Result<Option<u64>, StoreError> {
        let _one_at_a_time = self.merging.lock().await;
        if !is_asked && self.state.read().fill() < 1 {
            return Ok(None);
        }
        // A run that is written beside the store would be hidden once the store is mounted again.
        self.objects.check_named().await?;
        // What is removed from the list must be what goes into the run.
        self.reread_all().await?;
        let (version, newest, before) = {
            let state = self.state.read();
            let through = state.through;
            let of_entries = |(tag, (seq, place)): (&Tag, &(u64, Place))| {
                (*seq <= through).then_some(Located { tag: *tag, place: *place })
            };
            let mut newest: Vec<_> = state.places.iter().filter_map(of_entries).collect();
            newest.sort_unstable_by_key(|located| located.tag);
            (state.manifest_version, newest, Manifest { through, ..state.manifest.clone() })
        };
        let free = &before.runs[..before.free()];
        let taken = self.mergeable(newest.len() as u64, free).await?;
        let (taken, left) = before.runs.split_at(taken);
        let run = merge(&self.objects, &newest, taken, fresh_id).await?;
        let manifest = Manifest {
            through: before.through,
            runs: std::iter::once(run).chain(left.iter().copied()).collect(),
            retired: taken.iter().map(|run| run.id).collect(),
            held: before.held,
        };
        self.objects.check_named().await?;
        let (through, encoded) = (manifest.through, manifest.encode());
        let replaced = self.directory.replace_manifest(version, encoded, through, 0).await?;
        // Deletions may fail: what they leave behind is only garbage.
        let garbage = if replaced { before.retired } else { vec![run.id] };
        for id in garbage {
            if let Err(error) = self.objects.delete(&run::path_of(&id)).await {
                tracing::warn!(%error, "cannot delete an index run that is not used any more");
            }
        }
        self.refresh().await?;
        Ok(replaced.then_some(run.records))
    }

    /// Puts all entries into runs, and takes the runs for a collection: merges leave them alone until they are
    /// replaced, or another collection takes them. Returns the name of the collection, and the runs.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(in crate::packs) async fn hold_runs(
        &self,
        mut fresh_id: impl FnMut() -> [u8; 16],
    ) -> Result<([u8; 16], Vec<Run>), StoreError> {
        self.reread_all().await?;
        self.replace_with(|manifest| Some(Manifest { held: None, ..manifest.clone() }), 0).await?;
        for _ in 0..HOLD_TRIES {
            self.merge(true, &mut fresh_id).await?;
            let by = fresh_id();
            let hold = |manifest: &Manifest| {
                let held = Some(Held { by, count: manifest.runs.len() });
                Some(Manifest { held, ..manifest.clone() })
            };
            if self.replace_with(hold, 0).await? {
                return Ok((by, self.runs().to_vec()));
            }
        }
        let source = "other masters keep merging the list of packs".into();
        Err(StoreError::Unavailable { backend: "block store", action: "collect", source })
    }

    /// Replaces the runs that a collection holds by one, and lets no packs below a generation be added any
    /// more. Returns `false` where it does not hold them any more.
    ///
    /// # Errors
    /// [`StoreError`]; it may have been done all the same.
    pub(in crate::packs) async fn replace_held(
        &self,
        by: [u8; 16],
        run: Run,
        min_generation: u64,
    ) -> Result<bool, StoreError> {
        let replace = |manifest: &Manifest| {
            let held = manifest.held.as_ref().filter(|held| held.by == by)?;
            let (newer, old) = manifest.runs.split_at(manifest.runs.len() - held.count);
            let retired = manifest.retired.iter().copied().chain(old.iter().map(|run| run.id));
            Some(Manifest {
                through: manifest.through,
                runs: newer.iter().copied().chain([run]).collect(),
                retired: retired.collect(),
                held: None,
            })
        };
        loop {
            self.refresh().await?;
            let is_ours = {
                let held = self.state.read().manifest.held.clone();
                held.is_some_and(|held| held.by == by)
            };
            if !is_ours {
                return Ok(false);
            }
            if self.replace_with(replace, min_generation).await? {
                return Ok(true);
            }
        }
    }

    /// Replaces the manifest that is known by what `change` makes of it. Returns `false` where it was replaced
    /// meanwhile, or where `change` makes nothing.
    async fn replace_with(
        &self,
        change: impl FnOnce(&Manifest) -> Option<Manifest>,
        min_generation: u64,
    ) -> Result<bool, StoreError> {
        let (version, manifest) = {
            let state = self.state.read();
            (state.manifest_version, change(&state.manifest))
        };
        let Some(manifest) = manifest else { return Ok(false) };
        let (through, encoded) = (manifest.through, manifest.encode());
        let replaced =
            self.directory.replace_manifest(version, encoded, through, min_generation).await?;
        self.refresh().await?;
        Ok(replaced)
    }

    /// Returns the packs that the list or runs other than `run` name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(in crate::packs) async fn newer_packs(
        &self,
        run: &Run,
    ) -> Result<HashSet<PackId>, StoreError> {
        self.reread_all().await?;
        let mut packs: HashSet<PackId> = self.state.read().packs.keys().copied().collect();
        for newer in self.runs().iter().filter(|newer| newer.id != run.id) {
            let mut records = Records::new(&self.objects, *newer);
            while let Some(record) = records.next().await? {
                packs.insert(record.place.pack);
            }
        }
        Ok(packs)
    }

    /// Returns the paths of all runs that the manifest names, also of those that are about to be deleted.
    pub(in crate::packs) fn named_runs(&self) -> impl Iterator<Item = Path> + use<> {
        let state = self.state.read();
        let runs = state.manifest.runs.iter().map(|run| run.id);
        let ids: Vec<_> = runs.chain(state.manifest.retired.iter().copied()).collect();
        ids.into_iter().map(|id| run::path_of(&id))
    }

    /// Returns how many of the newest runs are to be merged with so many records: those that are not much
    /// larger, up to the first that cannot be read.
    async fn mergeable(&self, mut records: u64, runs: &[Run]) -> Result<usize, StoreError> {
        let mut count = 0;
        for run in runs {
            if run.records > RUN_RATIO * records || !run.is_whole(&self.objects).await? {
                break;
            }
            (records, count) = (records + run.records, count + 1);
        }
        Ok(count)
    }

    /// Reads the directory anew, and returns the runs that are whole. Reads every run.
    ///
    /// # Errors
    /// [`StoreError`], also where the store itself seems to be another one.
    pub(in crate::packs) async fn whole_runs(&self) -> Result<Vec<Run>, StoreError> {
        self.objects.check_named().await?;
        // What was known before may be listed no more.
        self.reread_all().await?;
        let mut whole = Vec::new();
        for run in self.runs().iter() {
            if run.is_whole(&self.objects).await? {
                whole.push(*run);
            } else {
                tracing::warn!(run = %run.path(), "an index run is missing or damaged");
            }
        }
        Ok(whole)
    }

    /// Leaves runs out of the manifest that are not whole, after everything that they knew was listed again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(in crate::packs) async fn forget_lost_runs(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.merging.lock().await;
        let whole = self.whole_runs().await?;
        let (version, manifest) = {
            let state = self.state.read();
            (state.manifest_version, state.manifest.clone())
        };
        if whole.len() < manifest.runs.len() {
            let through = manifest.through;
            // A collection that works on a run which is lost ends without a result.
            let manifest = Manifest { runs: whole.into(), held: None, ..manifest };
            self.directory.replace_manifest(version, manifest.encode(), through, 0).await?;
            self.refresh().await?;
        }
        Ok(())
    }
}
