//! The manifest: a file that names the segments which must exist (docs/adr/0039).
//!
//! # Invariants
//! - A segment is named before anything in it counts, and its name is removed before the file is. So a
//!   named segment that is missing was lost, whenever the power was cut.
//! - On a full disk nothing is deleted to make room for the manifest, and the manifest does not prevent a
//!   file from being deleted. In that case the manifest itself is deleted, and written again when there is
//!   space.

use std::{collections::BTreeSet, io};

use super::disk::{Disk, is_lost};

/// Name of the file, and of its temporary replacement.
const NAME: &str = "manifest";
const NEW: &str = "manifest.new";

/// First line of the file.
const HEAD: &str = "fula log manifest 1";

/// Largest file in bytes that is read. A million segments of 128 MiB take 24 MB.
const BYTES_MAX: u64 = 64 << 20;

/// The segments that must exist.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    named: BTreeSet<String>,
    /// Named segments that are missing. They stay named until they are given up.
    missing: BTreeSet<String>,
    /// Whether the file may differ from this value.
    is_behind: bool,
}

impl Manifest {
    /// Reads the manifest. It names no segments in a log of an earlier build, or when it is damaged.
    pub(super) fn read(disk: &dyn Disk) -> io::Result<Self> {
        let file = match disk.open(NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            opened => opened?,
        };
        let len = usize::try_from(file.len()?.min(BYTES_MAX)).map_err(io::Error::other)?;
        let mut text = vec![0; len];
        let named = match file.read_at(&mut text, 0) {
            Err(error) if is_lost(&error) => None,
            read => read.map(|()| parse(&text))?,
        };
        if named.is_none() {
            tracing::error!("the log's manifest is damaged: missing segments are not detected");
        }
        let is_behind = named.is_none();
        Ok(Self { named: named.unwrap_or_default(), is_behind, ..Self::default() })
    }

    /// Compares the manifest with the existing segments. Returns the names of missing ones.
    pub(super) fn compare(&mut self, there: &BTreeSet<String>) -> Vec<String> {
        self.missing = self.named.difference(there).cloned().collect();
        self.missing.iter().cloned().collect()
    }

    pub(super) fn missing(&self) -> &BTreeSet<String> {
        &self.missing
    }

    /// Returns whether the file names a segment.
    pub(super) fn names(&self, segment: &str) -> bool {
        !self.is_behind && self.named.contains(segment)
    }

    /// Returns the names of all segments that must exist.
    pub(super) fn named(&self) -> &BTreeSet<String> {
        &self.named
    }

    /// Adds names of segments, durably.
    pub(super) fn add(&mut self, disk: &dyn Disk, segments: &BTreeSet<String>) -> io::Result<()> {
        self.change(disk, self.named.union(segments).cloned().collect())
    }

    /// Adds names of existing segments, if there is space for that; otherwise they are added with the next
    /// change.
    pub(super) fn add_or_wait(
        &mut self,
        disk: &dyn Disk,
        segments: &BTreeSet<String>,
    ) -> io::Result<()> {
        match self.add(disk, segments) {
            Err(error) if is_full(&error) => {
                self.named.extend(segments.iter().cloned());
                Ok(())
            }
            named => named,
        }
    }

    /// Removes names of segments, durably, so that the files may be deleted. On a full disk the manifest
    /// then names no segment until [`Self::catch_up`].
    pub(super) fn remove(
        &mut self,
        disk: &dyn Disk,
        segments: &BTreeSet<String>,
    ) -> io::Result<()> {
        let left: BTreeSet<String> = self.named.difference(segments).cloned().collect();
        match self.change(disk, left.clone()) {
            // Deleting a file takes no space. But missing segments would be forgotten.
            Err(error) if is_full(&error) && self.missing.is_subset(segments) => {
                remove_file(disk, NEW)?;
                remove_file(disk, NAME)?;
                disk.sync()?;
                self.named = left;
                Ok(())
            }
            changed => changed,
        }
    }

    /// Removes names of segments with the next change.
    pub(super) fn forget(&mut self, segments: &BTreeSet<String>) {
        self.named.retain(|name| !segments.contains(name));
        self.is_behind = true;
    }

    /// Writes changes that the file lacks, if there is space.
    pub(super) fn catch_up(&mut self, disk: &dyn Disk) {
        if let Err(error) = self.change(disk, self.named.clone()) {
            tracing::debug!(%error, "cannot write the log's manifest; the next change will try again");
        }
    }

    /// Gives up the missing segments.
    pub(super) fn give_up(&mut self, disk: &dyn Disk) -> io::Result<()> {
        self.remove(disk, &self.missing.clone())?;
        self.missing.clear();
        Ok(())
    }

    fn change(&mut self, disk: &dyn Disk, named: BTreeSet<String>) -> io::Result<()> {
        if named == self.named && !self.is_behind {
            return Ok(());
        }
        self.is_behind = true;
        remove_file(disk, NEW)?;
        let file = disk.create(NEW)?;
        file.write_at(render(&named).as_bytes(), 0)?;
        file.sync()?;
        disk.rename(NEW, NAME)?;
        disk.sync()?;
        (self.named, self.is_behind) = (named, false);
        Ok(())
    }
}

/// Returns whether an error means that the disk is full.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Deletes a file if it exists.
fn remove_file(disk: &dyn Disk, name: &str) -> io::Result<()> {
    match disk.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn check(lines: &str) -> String {
    hex::encode(&blake3::hash(lines.as_bytes()).as_bytes()[..16])
}

/// Returns the content of the file: a head, a name in each line, and a check over all of it.
fn render(named: &BTreeSet<String>) -> String {
    let mut lines = format!("{HEAD}\n");
    for name in named {
        lines.push_str(name);
        lines.push('\n');
    }
    let check = check(&lines);
    format!("{lines}check {check}\n")
}

/// Returns the names in a file, if it is intact.
fn parse(text: &[u8]) -> Option<BTreeSet<String>> {
    let text = std::str::from_utf8(text).ok()?;
    let (lines, found) = text.strip_suffix('\n')?.rsplit_once("check ")?;
    if found != check(lines) {
        return None;
    }
    let mut lines = lines.lines();
    (lines.next()? == HEAD).then(|| lines.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sim_disk::{Fault, SimDisk};

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else_is_believed() {
        let names = set(&["bulk-00000002.log", "commit-00000001.log"]);
        let text = render(&names);
        assert_eq!(parse(text.as_bytes()), Some(names));
        assert_eq!(parse(render(&set(&[])).as_bytes()), Some(set(&[])));
        for at in 0..text.len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] ^= 1;
            assert_eq!(parse(&damaged), None, "at {at}");
            assert_eq!(parse(&text.as_bytes()[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn a_change_that_fails_changes_nothing_and_can_be_made_again() {
        let disk = SimDisk::default();
        let mut manifest = Manifest::read(&disk).unwrap();
        manifest.add(&disk, &set(&["a"])).unwrap();
        for after in 0..6 {
            disk.fail(after, Fault::Io, false);
            let failed = manifest.add(&disk, &set(&["b"])).is_err();
            disk.mend();
            assert_eq!(manifest.names("b"), !failed, "after {after} calls");
            let read = Manifest::read(&disk).unwrap();
            assert!(read.names("a"));
            manifest.add(&disk, &set(&["b"])).unwrap();
            assert!(Manifest::read(&disk).unwrap().names("b"));
            manifest.remove(&disk, &set(&["b"])).unwrap();
            assert!(!Manifest::read(&disk).unwrap().names("b"));
        }
    }
}
