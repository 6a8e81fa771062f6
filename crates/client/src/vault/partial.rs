//! Downloads of large files that go on after an interruption.
//!
//! What arrived lies in a file `.fula-….part` beside the target, and a note in the state of the vault has a keyed hash of
//! each segment of it that was verified. A later download keeps the segments that still have their hash.

use std::{
    fs, io,
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use fula_seal::{FileId, JournalHasher, JournalKey, SealedKey, body::Layout};

use crate::{
    download::lock,
    error::{Error, Result},
};

/// Shortest file in bytes whose download is noted. Below it, reading it anew costs less.
pub(super) const NOTED_MIN: u64 = 64 << 20;
/// Bytes that are read at a time of a part that is there.
const READ: usize = 1 << 20;
/// Longest note in bytes: 10 000 hashes in hex.
const NOTE_MAX: u64 = 1 << 20;

/// A file that is being downloaded.
pub(super) struct Partial {
    pub(super) path: PathBuf,
    file: fs::File,
    pub(super) note: PathBuf,
    notes: fs::File,
    key: JournalKey,
    /// Bytes of the content that each segment has.
    lengths: Vec<u64>,
    /// The segment that is written, its hash so far, and the bytes that it lacks.
    at: usize,
    hasher: JournalHasher,
    left: u64,
    /// Bytes that were there.
    pub(super) kept: u64,
}

impl Partial {
    /// Opens the part of a file, and keeps of it what is as it was verified; `None` if another process has it. `note` is
    /// the note about downloads of the file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn open(
        (to, note): (&Path, PathBuf),
        (sealed, file): (SealedKey, FileId),
        key: JournalKey,
        layout: &Layout,
    ) -> Result<Option<Self>> {
        let path = to.with_file_name(format!(".fula-{}.part", sealed.as_str()));
        let opened = || -> io::Result<_> {
            // Others cannot read the note. The lock opens it as it is.
            drop(fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&note)?);
            match (lock(&path), lock(&note)) {
                (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    Ok(None)
                }
                (part, note) => Ok(Some((part?, note?))),
            }
        };
        let failed = |error| Error::io(to.display().to_string())(error);
        let Some((part, notes)) = opened().map_err(failed)? else { return Ok(None) };
        let (lengths, hasher) = (layout.content_bytes(), key.hasher(0));
        let left = lengths.first().copied().unwrap_or_default();
        let mut partial =
            Self { path, file: part, note, notes, key, lengths, at: 0, hasher, left, kept: 0 };
        partial.keep(&hex::encode(file.0)).map_err(failed)?;
        Ok(Some(partial))
    }

    /// Compares the part with the note, and cuts both off after the last segment that is as it was. The first line
    /// of a note is the id of the upload that it is about.
    fn keep(&mut self, file: &str) -> io::Result<()> {
        let mut text = String::new();
        if self.notes.metadata()?.len() <= NOTE_MAX {
            self.notes.read_to_string(&mut text)?;
        }
        let mut lines = text.lines();
        if lines.next() == Some(file) {
            for line in lines {
                let Some(length) = self.lengths.get(self.at).copied() else { break };
                if self.hash(length)?.as_deref() != Some(line) {
                    break;
                }
                self.kept += length;
                self.next();
            }
        }
        self.file.set_len(self.kept)?;
        self.file.seek(io::SeekFrom::Start(self.kept))?;
        let noted: Vec<_> = text.lines().take(self.at + 1).collect();
        let noted = if self.at == 0 { format!("{file}\n") } else { noted.join("\n") + "\n" };
        self.notes.set_len(0)?;
        self.notes.rewind()?;
        self.notes.write_all(noted.as_bytes())
    }

    /// Returns the hash of the next bytes of the part; `None` if there are fewer.
    fn hash(&mut self, length: u64) -> io::Result<Option<String>> {
        let (mut hasher, mut left) = (self.key.hasher(self.at as u64), length);
        let mut buffer = vec![0; READ];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(READ).min(READ);
            let read = self.file.read(&mut buffer[..wanted])?;
            if read == 0 {
                return Ok(None);
            }
            hasher.update(&buffer[..read]);
            left -= read as u64;
        }
        Ok(Some(hex::encode(hasher.finish())))
    }

    /// Goes on with the next segment.
    fn next(&mut self) {
        self.at += 1;
        self.left = self.lengths.get(self.at).copied().unwrap_or_default();
        self.hasher = self.key.hasher(self.at as u64);
    }

    /// Writes verified bytes, and notes each segment that is complete.
    pub(super) fn write(&mut self, mut plain: &[u8]) -> io::Result<()> {
        self.file.write_all(plain)?;
        while !plain.is_empty() {
            let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(plain.len());
            let (piece, rest) = plain.split_at(taken);
            self.hasher.update(piece);
            self.left -= taken as u64;
            plain = rest;
            if self.left > 0 {
                continue;
            }
            let hasher = std::mem::replace(&mut self.hasher, self.key.hasher(0));
            // Without the note, the segment is read again, and nothing else.
            drop(self.notes.write_all(format!("{}\n", hex::encode(hasher.finish())).as_bytes()));
            self.next();
            if self.at >= self.lengths.len() {
                break;
            }
        }
        Ok(())
    }

    /// Returns another handle of the file.
    pub(super) fn other(&self) -> io::Result<fs::File> {
        self.file.try_clone()
    }

    /// Returns the file, and where it lies.
    pub(super) fn into_parts(self) -> (fs::File, PathBuf) {
        (self.file, self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use fula_seal::{
        Entropy, SealError, VaultId, VaultKeys,
        body::{FileSealer, Layout},
    };

    use super::*;

    struct Counter(u8);

    impl Entropy for Counter {
        fn fill(&mut self, out: &mut [u8]) -> std::result::Result<(), SealError> {
            self.0 += 1;
            out.fill(self.0);
            Ok(())
        }
    }

    #[test]
    fn segments_that_are_as_they_were_verified_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let (to, note) = (directory.path().join("file"), directory.path().join("state"));
        let entropy = &mut Counter(0);
        let keys = VaultKeys::generate(VaultId([1; 16]), entropy).unwrap();
        let sealer = FileSealer::new(&keys, entropy).unwrap();
        let segments = (0..4).map(|at| sealer.plan_segment(at, 1000, entropy).unwrap().0);
        // The last segment is padding.
        let layout = Layout::new(2500, segments.collect()).unwrap();
        assert_eq!(layout.content_bytes(), [1000, 1000, 500]);
        let sealed = SealedKey::parse(&"a".repeat(32)).unwrap();
        let open = |file: u8| {
            let id = FileId([file; 32]);
            let key = keys.journal(0, id).unwrap();
            Partial::open((to.as_path(), note.clone()), (sealed, id), key, &layout).unwrap()
        };
        let content: Vec<u8> = (0..2500_u32).map(|at| at.to_be_bytes()[3]).collect();
        let mut partial = open(1).unwrap();
        assert!(open(1).is_none(), "another one has it");
        assert_eq!(partial.kept, 0);
        for piece in content[..2300].chunks(700) {
            partial.write(piece).unwrap();
        }
        let path = partial.path.clone();
        drop(partial);
        assert_eq!(fs::metadata(&note).unwrap().permissions().mode() & 0o777, 0o600);

        let mut partial = open(1).unwrap();
        assert_eq!(partial.kept, 2000, "the third segment was not complete");
        partial.write(&content[2000..]).unwrap();
        drop(partial);
        assert_eq!(open(1).unwrap().kept, 2500);
        assert_eq!(fs::read(&path).unwrap(), content);

        // A byte that is not as it was written, as after a crash of the machine.
        let mut torn = content.clone();
        torn[1500] ^= 1;
        fs::write(&path, &torn).unwrap();
        assert_eq!(open(1).unwrap().kept, 1000);
        assert_eq!(fs::read(&path).unwrap(), content[..1000]);
        // Another upload has this path now.
        assert_eq!(open(2).unwrap().kept, 0);
        assert!(fs::read(&path).unwrap().is_empty());
    }
}
