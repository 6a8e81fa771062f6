//! Determines which files are segments, and which segments an earlier build has removed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
};

use super::{
    disk::Disk,
    manifest::Manifest,
    segment::{HEADER_BYTES, Opened, Segment, name_of, parse_name},
};

/// Name of a file that exists while a repair is under way.
pub(super) const REPAIRING: &str = "repairing";

/// The files that are named like segments.
pub(super) struct Listed {
    /// Stream and length in bytes of each file, by number.
    pub(super) files: BTreeMap<u32, (String, u64)>,
    /// Files that the manifest names and that have lost their content.
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

    /// Keeps only files that are segments: those with a record, and those that the manifest names and that
    /// need not have one yet. Empty files that it does not name are removed. Such a file may be left from a
    /// segment that could not be begun; then the segment before it was not sealed, and the number was given
    /// to another one.
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
                // The header was durable before the segment was named, and a record was written before the
                // next segment began.
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

/// Removes segments from the manifest that an earlier build has deleted, and returns their names. Such a
/// build keeps no manifest. It has used the log if a segment with records is not named and is newer than
/// all named ones: this build names a segment before its first record.
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
            "segments of the log are missing; the segment in `witness` shows that an earlier build of fula, which \
             keeps no manifest, has used the log, so it probably removed them; run `fula fsck` to be sure"
        );
        manifest.forget(&removed);
    }
    removed.into_iter().collect()
}
