//! Checks the log for damage, and sets damaged segments aside.

use std::{collections::BTreeSet, io, sync::Arc};

use fula_core::{
    Cid,
    block::{Listed, Position},
};

use super::{
    Damage, Key, Log, SUSPECTS_MAX, Slot, footer,
    listed::REPAIRING,
    recover,
    segment::{self, HEADER_BYTES, Segment},
};

/// Name of the file with the addresses of blocks that a check found damaged, one after another.
const SUSPECTS: &str = "suspects";

impl Log {
    /// Checks the checksum of every record and the hash of every block. Returns what fails.
    pub(crate) fn verify(&self) -> io::Result<Vec<Damage>> {
        self.verify_reporting(&|_, _| {})
    }

    /// Does the same as [`Self::verify`], and calls `report` with the number of segments checked and of all
    /// segments.
    pub(crate) fn verify_reporting(
        &self,
        report: &dyn Fn(usize, usize),
    ) -> io::Result<Vec<Damage>> {
        let segments: Vec<_> = self.segments.read().values().cloned().collect();
        let count = segments.len();
        let mut damage = Vec::new();
        for (n, segment) in segments.into_iter().enumerate() {
            report(n, count);
            let found =
                until_uncut(&segment, || recover::verify(&segment, self.end_of(&segment)?))?;
            for (found, key) in found {
                if !self.has_good_copy(&segment, &found, key) {
                    damage.push(found);
                }
            }
        }
        for (name, bytes) in self.unreadable()? {
            damage.push(Damage { segment: name, offset: 0, bytes, cid: None });
        }
        for name in self.manifest.lock().missing() {
            damage.push(Damage { segment: name.clone(), offset: 0, bytes: 0, cid: None });
        }
        Ok(damage)
    }

    /// Sets a segment aside that contains no record in use.
    fn set_aside(&self, name: &str) -> io::Result<()> {
        let disk = self.disk.as_ref();
        self.manifest.lock().remove(disk, &BTreeSet::from([name.to_owned()]))?;
        segment::set_aside(disk, name)
    }

    /// Returns the files that are named like segments but could not be read as segments.
    fn unreadable(&self) -> io::Result<Vec<(String, u64)>> {
        let files = self.disk.list()?.into_iter();
        let is_unreadable = |(name, len): &(String, u64)| {
            let id = segment::parse_name(name).map(|(_, id)| id);
            // A file without a record may be a segment that is about to begin.
            *len > HEADER_BYTES && id.is_some_and(|id| !self.segments.read().contains_key(&id))
        };
        Ok(files.filter(is_unreadable).collect())
    }

    /// Returns whether the index has a good copy of a damaged record elsewhere. Such a record is no loss.
    fn has_good_copy(&self, segment: &Segment, found: &Damage, key: Option<Key>) -> bool {
        let slot = key.and_then(|key| self.index().get(&key));
        slot.is_some_and(|slot| {
            slot.segment != segment.id || u64::from(slot.offset) != found.offset
        })
    }

    /// Returns the end of the records of a segment. A file that is being written may be longer.
    fn end_of(&self, segment: &Segment) -> io::Result<u64> {
        for stream in &self.streams {
            let tail = stream.tail.lock();
            if tail.segment.id == segment.id {
                return Ok(tail.offset);
            }
        }
        footer::end_of_records(segment, segment.len()?)
    }

    /// Returns the records of a segment that are in use.
    pub(super) fn records_in(&self, segment: &Segment) -> io::Result<Vec<(Key, Slot)>> {
        let mut found = until_uncut(segment, || {
            if self.streams.iter().any(|stream| stream.place.lock().segment == segment.id) {
                recover::scanned(segment, self.end_of(segment)?)
            } else {
                recover::records(segment)
            }
        })?;
        // The index is locked for one record at a time, because others wait for it.
        found.retain(|(key, slot)| self.index().get(key) == Some(*slot));
        Ok(found)
    }

    /// Returns the blocks of the first segment at or after `from`, which is the number of a segment. A
    /// moved block goes to the last segment of its stream, which comes later. Only when two puts write one
    /// block to both streams at once may it end up in an earlier segment, and be missed if the walk has
    /// passed that.
    pub(crate) fn list(&self, from: Position) -> io::Result<Listed> {
        let from = u32::try_from(from.0).unwrap_or(u32::MAX);
        let first = self.segments.read().range(from..).next().map(|(_, found)| Arc::clone(found));
        let Some(segment) = first else { return Ok(Listed::default()) };
        let records = self.records_in(&segment)?;
        // This is read last: a block that was moved in the meantime may lie in a segment that did not exist
        // before.
        let next = self.segments.read().range(segment.id + 1..).next().map(|(id, _)| *id);
        let next = next.map(|id| Position(id.into()));
        let blocks = records.into_iter().filter_map(|(key, slot)| {
            let Key::Block(cid) = key else { return None };
            Some((Cid::from_bytes(&cid).ok()?, u64::from(slot.value_len)))
        });
        Ok(Listed { blocks: blocks.collect(), next })
    }

    /// Records, durably, which blocks were found damaged, so that a put stores them anew. The index itself
    /// does not know that their bytes are lost.
    pub(crate) fn note_suspects(&self, cids: &[Cid]) -> io::Result<()> {
        match self.disk.remove(SUSPECTS) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
        let cids = &cids[..cids.len().min(SUSPECTS_MAX)];
        if cids.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(cids.len() * Cid::BYTES);
        for cid in cids {
            self.suspect(cid);
            bytes.extend(cid.to_bytes());
        }
        let file = self.disk.create(SUSPECTS)?;
        file.write_at(&bytes, 0)?;
        file.sync()?;
        self.disk.sync()
    }

    /// Reads the list that [`Self::note_suspects`] wrote. An unreadable list counts as empty.
    pub(super) fn read_suspects(&self) {
        let Ok(file) = self.disk.open(SUSPECTS) else { return };
        let len = file.len().ok().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
        let mut bytes = vec![0; len.min(SUSPECTS_MAX * Cid::BYTES)];
        if file.read_at(&mut bytes, 0).is_ok() {
            let cids = bytes.chunks_exact(Cid::BYTES).filter_map(|cid| Cid::from_bytes(cid).ok());
            cids.for_each(|cid| self.suspect(&cid));
        }
    }

    /// Records that a repair begins, until it [ends](Self::end_repair). If it does not end, the next start
    /// knows that more is to be repaired.
    pub(crate) fn begin_repair(&self) -> io::Result<()> {
        match self.disk.create(REPAIRING) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => drop(created?),
        }
        self.disk.sync()
    }

    /// Gives up the missing segments.
    pub(crate) fn give_up_missing(&self) -> io::Result<()> {
        self.manifest.lock().give_up(self.disk.as_ref())
    }

    /// Records that nothing is left to be repaired, and gives up the missing segments.
    pub(crate) fn end_repair(&self) -> io::Result<()> {
        self.give_up_missing()?;
        match self.disk.remove(REPAIRING) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
        self.disk.sync()
    }

    /// Moves the intact records of damaged segments to the end of the log, and renames those segments.
    /// Returns their number.
    pub(crate) fn set_damaged_aside(&self) -> io::Result<usize> {
        let _one_at_a_time = self.compacting.lock();
        let mut names: Vec<String> =
            self.verify()?.into_iter().map(|damage| damage.segment).collect();
        names.dedup();
        for name in &names {
            let segments = self.segments.read();
            let found = segments.values().find(|segment| segment.name() == name).cloned();
            drop(segments);
            let Some(segment) = found else {
                if !self.manifest.lock().missing().contains(name) {
                    self.set_aside(name)?;
                }
                continue;
            };
            for stream in &self.streams {
                let mut tail = stream.tail.lock();
                if tail.segment.id == segment.id {
                    self.roll(stream, &mut tail)?;
                }
            }
            for (key, slot) in self.records_in(&segment)? {
                if !self.read_whole(&key, &slot).is_ok_and(|value| value.is_some()) {
                    self.index_mut().remove(&key);
                }
            }
            if !self.move_records(&segment)? {
                return Err(io::Error::other(format!(
                    "{name} cannot be opened any more; check the disk"
                )));
            }
            // Records that the index still places there are not readable.
            self.index_mut().forget_segment(segment.id);
            self.segments.write().remove(&segment.id);
            self.set_aside(name)?;
        }
        Ok(names.len())
    }
}

/// Runs `look` on a segment, and once more if compaction has cut the segment off in the meantime.
fn until_uncut<T>(segment: &Segment, look: impl Fn() -> io::Result<T>) -> io::Result<T> {
    loop {
        let len = segment.len()?;
        match look() {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && segment.len()? < len => {}
            done => return done,
        }
    }
}
