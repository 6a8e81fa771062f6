//! Which files are segments, and which segments an earlier build has removed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
};

use super::{
    disk::Disk,
    manifest::Manifest,
    segment::{HEADER_BYTES, Opened, Segment, name_of, parse_name},
};

/// A file that is there while a repair is under way.
pub(super) const REPAIRING: &str = "repairing";

/// Files that are named like segments.
pub(super) struct Listed {
    /// Stream and length in bytes, by number.
    pub(super) files: BTreeMap<u32, (String, u64)>,
    /// Of these, those that are named and have lost what was in them.
    pub(super) emptied: BTreeSet<String>,
    pub(super) is_unrepaired: bool,
}

impl Listed {
    pub(super) fn read(disk: &dyn Disk) -> io::Result<Self> {
        let mut listed =
            Self { files: BTreeMap::new(), emptied: BTreeSet::new(), is_unrepaired: false };
        for (name, len) in disk.list()? {
            listed.is_unrepaired |= name == REPAIRING;
            if let Some((prefix, id)) = parse_name(&name) {
                listed.files.insert(id, (prefix.to_owned(), len));
            }
        }
        Ok(listed)
    }

    /// Leaves those that are segments: that hold a record, or are named and may hold none yet. Others that
    /// are empty and not named are removed: such a one may be left from a beginning that failed, and then
    /// the one before it was not sealed, and its number given to another.
    pub(super) fn leave_segments(
        &mut self,
        disk: &dyn Disk,
        manifest: &Manifest,
    ) -> io::Result<()> {
        let all = self.files.iter().map(|(id, (prefix, _))| (prefix.clone(), *id));
        let named = manifest.named().iter().filter_map(|name| parse_name(name));
        let mut newest: HashMap<String, u32> = HashMap::new();
        for (prefix, id) in all.chain(named.map(|(prefix, id)| (prefix.to_owned(), id))) {
            let newest = newest.entry(prefix).or_default();
            *newest = id.max(*newest);
        }
        let mut left = BTreeMap::new();
        for (id, (prefix, len)) in std::mem::take(&mut self.files) {
            let name = name_of(&prefix, id);
            let is_segment = if len > HEADER_BYTES {
                true
            } else if manifest.names(&name) {
                // Its header was durable before it was named, and a record before the next was begun.
                let is_begun = newest[&prefix] == id
                    && matches!(Segment::open(disk, &prefix, id)?, Opened::Segment(_));
                if !is_begun {
                    self.emptied.insert(name);
                }
                is_begun
            } else {
                disk.remove(&name)?;
                false
            };
            if is_segment {
                left.insert(id, (prefix, len));
            }
        }
        self.files = left;
        Ok(())
    }

    pub(super) fn names(&self) -> BTreeSet<String> {
        self.files.iter().map(|(id, (prefix, _))| name_of(prefix, *id)).collect()
    }
}

/// Names those segments no more that an earlier build has removed, and returns them. It keeps no manifest,
/// and has run on the log if a segment that holds records and is not named is newer than all that are: this
/// build names one before its first record.
pub(super) fn forget_removed(manifest: &mut Manifest, there: &BTreeSet<String>) -> Vec<String> {
    let number = |name: &String| parse_name(name).map(|(_, id)| id);
    let newest = manifest.named().iter().filter_map(number).max();
    let by_earlier = |name: &&String| !manifest.named().contains(*name) && number(name) >= newest;
    let Some(witness) = there.iter().find(by_earlier).filter(|_| newest.is_some()) else {
        return Vec::new();
    };
    let removed: BTreeSet<String> = manifest.named().difference(there).cloned().collect();
    if !removed.is_empty() {
        let segments = removed.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        tracing::warn!(
            segments,
            witness,
            "segments of the log are not there; an earlier build of fula, which wrote the witness and keeps no \
             manifest, is taken to have removed them; fula fsck says whether anything is missing"
        );
        manifest.forget(&removed);
    }
    removed.into_iter().collect()
}
