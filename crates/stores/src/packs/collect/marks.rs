//! The marks of a collection: tags of the blocks that are in use, each with the reason.
//!
//! Blocks with links are kept in memory, because a walk must know which of them it has seen. Leaves, of which
//! there are many more, are written to sorted files in a scratch directory, [`SPILL`] at a time.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    path::PathBuf,
};

use fula_core::block::{AGES, Kept};

use super::super::place::Tag;

/// Number of leaves that are kept in memory before they are written to a file.
const SPILL: usize = 1 << 20;

/// Bytes of a file that are read at a time.
const READ_BYTES: usize = 64 << 10;

/// The tag of a block in use, and why the block is kept. For one tag, the least reason comes first.
type Mark = (Tag, Kept);

/// Marks that are still being made.
#[derive(Debug)]
pub(super) struct Marks {
    nodes: HashMap<Tag, Kept>,
    leaves: Vec<Mark>,
    files: Vec<File>,
    /// Directory of the files; `None` keeps everything in memory.
    scratch: Option<PathBuf>,
    failure: Option<io::Error>,
}

impl Marks {
    pub(super) fn new(scratch: Option<PathBuf>) -> Self {
        let (nodes, leaves, files) = Default::default();
        Self { nodes, leaves, files, scratch, failure: None }
    }

    /// Marks a block with links. Returns whether it was not marked before.
    pub(super) fn add_node(&mut self, tag: Tag, kept: Kept) -> bool {
        match self.nodes.entry(tag) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(kept);
                true
            }
        }
    }

    /// Marks a block without links.
    pub(super) fn add_leaf(&mut self, tag: Tag, kept: Kept) {
        self.leaves.push((tag, kept));
        if self.leaves.len() >= SPILL && self.scratch.is_some() && self.failure.is_none() {
            self.failure = self.spill().err();
        }
    }

    fn spill(&mut self) -> io::Result<()> {
        let Some(scratch) = &self.scratch else { return Ok(()) };
        sort(&mut self.leaves);
        let path = scratch.join(format!("marks-{}", self.files.len()));
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        // The file goes away with its last handle, also if the process is killed.
        std::fs::remove_file(&path)?;
        let mut out = BufWriter::new(file);
        for (tag, kept) in self.leaves.drain(..) {
            out.write_all(&tag.0)?;
            out.write_all(&[byte_of(kept)])?;
        }
        self.files.push(out.into_inner().map_err(io::IntoInnerError::into_error)?);
        Ok(())
    }

    /// Sorts the marks.
    ///
    /// # Errors
    /// The error of the scratch directory; then some marks are lost, and nothing may be deleted.
    pub(super) fn finish(mut self) -> io::Result<Live> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let mut in_memory: Vec<Mark> = self.nodes.into_iter().chain(self.leaves).collect();
        sort(&mut in_memory);
        Ok(Live { in_memory, files: self.files })
    }
}

/// Sorts marks, and keeps the one with the least reason for each tag.
fn sort(marks: &mut Vec<Mark>) {
    marks.sort_unstable();
    marks.dedup_by_key(|(tag, _)| *tag);
}

fn byte_of(kept: Kept) -> u8 {
    match kept {
        Kept::Now => 0,
        Kept::Retained(age) => 1 + age.min(AGES - 1),
        Kept::History => u8::MAX,
    }
}

fn kept_of(byte: u8) -> Kept {
    match byte {
        0 => Kept::Now,
        u8::MAX => Kept::History,
        age => Kept::Retained(age - 1),
    }
}

/// The marks of all blocks in use, sorted.
#[derive(Debug)]
pub(super) struct Live {
    in_memory: Vec<Mark>,
    files: Vec<File>,
}

impl Live {
    /// Returns the marks in ascending order, one for each tag.
    ///
    /// # Errors
    /// The error of the scratch directory.
    pub(super) fn marks(&mut self) -> io::Result<LiveMarks<'_>> {
        let mut files = Vec::with_capacity(self.files.len());
        for file in &mut self.files {
            file.rewind()?;
            files.push(BufReader::with_capacity(READ_BYTES, &*file));
        }
        let in_memory = self.in_memory.iter();
        let mut marks = LiveMarks { in_memory, files, heads: Vec::new() };
        marks.heads.push(marks.in_memory.next().copied());
        for file in &mut marks.files {
            marks.heads.push(read_mark(file)?);
        }
        Ok(marks)
    }
}

/// A walk over the marks of [`Live`].
#[derive(Debug)]
pub(super) struct LiveMarks<'a> {
    in_memory: std::slice::Iter<'a, Mark>,
    files: Vec<BufReader<&'a File>>,
    heads: Vec<Option<Mark>>,
}

impl LiveMarks<'_> {
    /// Returns the next mark.
    ///
    /// # Errors
    /// The error of the scratch directory.
    pub(super) fn next(&mut self) -> io::Result<Option<Mark>> {
        let Some(least) = self.heads.iter().flatten().min().copied() else { return Ok(None) };
        for (n, head) in self.heads.iter_mut().enumerate() {
            while head.is_some_and(|(tag, _)| tag == least.0) {
                *head = match n.checked_sub(1) {
                    None => self.in_memory.next().copied(),
                    Some(n) => read_mark(&mut self.files[n])?,
                };
            }
        }
        Ok(Some(least))
    }
}

fn read_mark(file: &mut BufReader<&File>) -> io::Result<Option<Mark>> {
    let mut mark = [0; 17];
    match file.read_exact(&mut mark) {
        Ok(()) => {
            let [tag @ .., kept] = mark;
            Ok(Some((Tag(tag), kept_of(kept))))
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(n: u32) -> Tag {
        let mut tag = [0; 16];
        tag[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
        Tag(tag)
    }

    #[test]
    fn marks_in_memory_and_in_files_come_once_in_order_and_with_the_least_reason() {
        let scratch = tempfile::tempdir().unwrap();
        let mut marks = Marks::new(Some(scratch.path().to_owned()));
        let leaves = u32::try_from(SPILL).unwrap() * 5 / 2;
        let reasons = [Kept::Now, Kept::Retained(0), Kept::Retained(AGES - 1), Kept::History];
        let reason = |n: u32| reasons[n as usize % 4];
        let mut expected: std::collections::BTreeMap<_, _> = std::collections::BTreeMap::new();
        for n in 0..leaves {
            marks.add_leaf(tag(n), reason(n));
            expected.insert(tag(n), reason(n));
            // Some are named twice, in the same file or in another one.
            if n % 7 == 0 {
                marks.add_leaf(tag(n / 2), Kept::Retained(3));
                let least = expected[&tag(n / 2)].min(Kept::Retained(3));
                expected.insert(tag(n / 2), least);
            }
        }
        for n in (0..1000).chain(leaves..leaves + 1000) {
            assert!(marks.add_node(tag(n), Kept::Now) && !marks.add_node(tag(n), Kept::History));
            expected.insert(tag(n), Kept::Now);
        }
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "files have no names");
        let mut live = marks.finish().unwrap();
        assert!(live.files.len() >= 2);
        for _ in 0..2 {
            let mut marks = live.marks().unwrap();
            for (tag, kept) in &expected {
                assert_eq!(marks.next().unwrap(), Some((*tag, *kept)));
            }
            assert_eq!(marks.next().unwrap(), None);
        }
    }

    #[test]
    fn marks_that_cannot_be_written_are_no_marks() {
        let mut marks = Marks::new(Some(PathBuf::from("/nonexistent")));
        for n in 0..=u32::try_from(SPILL).unwrap() {
            marks.add_leaf(tag(n), Kept::Now);
        }
        assert!(marks.finish().is_err());
    }
}
