//! The marks of a collection: tags of the blocks that are in use.
//!
//! Blocks with links are kept in memory, because a walk must know which of them it has seen. Leaves, of which
//! there are many more, are written to sorted files in a scratch directory, [`SPILL`] at a time.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    path::PathBuf,
};

use super::super::place::Tag;

/// Number of leaves that are kept in memory before they are written to a file.
const SPILL: usize = 1 << 20;

/// Bytes of a file that are read at a time.
const READ_BYTES: usize = 64 << 10;

/// Marks that are still being made.
#[derive(Debug)]
pub(super) struct Marks {
    nodes: HashSet<Tag>,
    leaves: Vec<Tag>,
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
    pub(super) fn add_node(&mut self, tag: Tag) -> bool {
        self.nodes.insert(tag)
    }

    /// Marks a block without links.
    pub(super) fn add_leaf(&mut self, tag: Tag) {
        self.leaves.push(tag);
        if self.leaves.len() >= SPILL && self.scratch.is_some() && self.failure.is_none() {
            self.failure = self.spill().err();
        }
    }

    fn spill(&mut self) -> io::Result<()> {
        let Some(scratch) = &self.scratch else { return Ok(()) };
        self.leaves.sort_unstable();
        self.leaves.dedup();
        let path = scratch.join(format!("marks-{}", self.files.len()));
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        // The file goes away with its last handle, also if the process is killed.
        std::fs::remove_file(&path)?;
        let mut out = BufWriter::new(file);
        for tag in self.leaves.drain(..) {
            out.write_all(&tag.0)?;
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
        let mut kept: Vec<Tag> = self.nodes.into_iter().chain(self.leaves).collect();
        kept.sort_unstable();
        kept.dedup();
        Ok(Live { kept, files: self.files })
    }
}

/// The tags of all blocks in use, sorted.
#[derive(Debug)]
pub(super) struct Live {
    kept: Vec<Tag>,
    files: Vec<File>,
}

impl Live {
    /// Returns the tags in ascending order, each once.
    ///
    /// # Errors
    /// The error of the scratch directory.
    pub(super) fn tags(&mut self) -> io::Result<LiveTags<'_>> {
        let mut files = Vec::with_capacity(self.files.len());
        for file in &mut self.files {
            file.rewind()?;
            files.push(BufReader::with_capacity(READ_BYTES, &*file));
        }
        let mut tags = LiveTags { kept: self.kept.iter(), files, heads: Vec::new() };
        tags.heads.push(tags.kept.next().copied());
        for file in &mut tags.files {
            tags.heads.push(read_tag(file)?);
        }
        Ok(tags)
    }
}

/// A walk over the tags of [`Live`].
#[derive(Debug)]
pub(super) struct LiveTags<'a> {
    kept: std::slice::Iter<'a, Tag>,
    files: Vec<BufReader<&'a File>>,
    heads: Vec<Option<Tag>>,
}

impl LiveTags<'_> {
    /// Returns the next tag.
    ///
    /// # Errors
    /// The error of the scratch directory.
    pub(super) fn next(&mut self) -> io::Result<Option<Tag>> {
        let Some(tag) = self.heads.iter().flatten().min().copied() else { return Ok(None) };
        for (n, head) in self.heads.iter_mut().enumerate() {
            while *head == Some(tag) {
                *head = match n.checked_sub(1) {
                    None => self.kept.next().copied(),
                    Some(n) => read_tag(&mut self.files[n])?,
                };
            }
        }
        Ok(Some(tag))
    }
}

fn read_tag(file: &mut BufReader<&File>) -> io::Result<Option<Tag>> {
    let mut tag = [0; 16];
    match file.read_exact(&mut tag) {
        Ok(()) => Ok(Some(Tag(tag))),
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
    fn tags_in_memory_and_in_files_come_once_and_in_order() {
        let scratch = tempfile::tempdir().unwrap();
        let mut marks = Marks::new(Some(scratch.path().to_owned()));
        let leaves = u32::try_from(SPILL).unwrap() * 5 / 2;
        let mut expected: Vec<_> = (0..leaves).map(tag).collect();
        for n in 0..leaves {
            marks.add_leaf(tag(n));
            // Some are named twice, in the same file or in another one.
            if n % 7 == 0 {
                marks.add_leaf(tag(n / 2));
            }
        }
        for n in (0..1000).chain(leaves..leaves + 1000) {
            assert!(marks.add_node(tag(n)) && !marks.add_node(tag(n)));
        }
        expected.extend((leaves..leaves + 1000).map(tag));
        expected.sort_unstable();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "files have no names");
        let mut live = marks.finish().unwrap();
        assert!(live.files.len() >= 2);
        for _ in 0..2 {
            let mut tags = live.tags().unwrap();
            for tag in &expected {
                assert_eq!(tags.next().unwrap(), Some(*tag));
            }
            assert_eq!(tags.next().unwrap(), None);
        }
    }

    #[test]
    fn marks_that_cannot_be_written_are_no_marks() {
        let mut marks = Marks::new(Some(PathBuf::from("/nonexistent")));
        for n in 0..=u32::try_from(SPILL).unwrap() {
            marks.add_leaf(tag(n));
        }
        assert!(marks.finish().is_err());
    }
}
