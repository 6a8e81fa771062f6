//! Notes about uploads that are under way, in the state of a vault.
//!
//! A note has the id of the upload, and of each part that the server has: its salt, a keyed hash of its content, and its
//! entity tag. The server knows all of this but the hashes, and nobody can compare those without the keys of the vault.
//! Lines are only appended, so a process that is killed loses at most the last one.

use std::{
    collections::BTreeMap,
    fs, io,
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use fula_seal::{
    FileId, JournalHasher, JournalKey,
    body::{SEGMENT_RECORD_BYTES, Segment},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    source::Stamp,
    upload::Watch,
};

/// Longest note in bytes: 10 000 parts, some of them several times.
const NOTE_MAX: u64 = 32 << 20;

/// What an upload is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) upload: String,
    pub(super) epoch: u32,
    #[serde(with = "text")]
    pub(super) file: [u8; 32],
    /// Keyed hash of the size and the time of the source.
    #[serde(with = "text")]
    pub(super) source: [u8; 32],
}

/// A part that the server has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) ordinal: u64,
    /// The record of its segment: length, salt and commitment.
    #[serde(with = "text")]
    segment: [u8; SEGMENT_RECORD_BYTES],
    /// Keyed hash of its content.
    #[serde(with = "text")]
    pub(super) content: [u8; 32],
    /// BLAKE3 of its sealed bytes.
    #[serde(with = "text")]
    pub(super) sealed: [u8; 32],
    pub(super) etag: String,
}

impl Part {
    pub(super) fn segment(&self) -> Segment {
        Segment::from_bytes(&self.segment)
    }
}

/// Bytes in hex.
mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>, const N: usize>(
        from: D,
    ) -> Result<[u8; N], D::Error> {
        let bytes = hex::decode(String::deserialize(from)?).map_err(D::Error::custom)?;
        bytes.try_into().map_err(|_| D::Error::custom("it has another length"))
    }
}

/// A line of a note. A begin makes all lines before it void.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Begin(Head),
    Part(Part),
}

/// An upload that was interrupted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) head: Head,
    pub(super) parts: BTreeMap<u64, Part>,
}

/// What is sealed, and which parts are on their way.
struct Running {
    head: Head,
    key: JournalKey,
    segments: Vec<Segment>,
    /// Hashes of the content and of the sealed bytes of parts that are not noted yet.
    hashes: BTreeMap<u64, ([u8; 32], [u8; 32])>,
}

/// The note about the upload of one file. No other process uploads it from here as long as this exists.
pub(super) struct Note {
    path: PathBuf,
    file: fs::File,
    /// Whether parts are kept after a conflict, since the same write is tried again.
    keeps_on_conflict: bool,
    running: Mutex<Option<Running>>,
}

impl Note {
    /// Opens a note, and returns what it says; `None` if another process has it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn open(
        path: &Path,
        keeps_on_conflict: bool,
    ) -> Result<Option<(Self, Option<Noted>)>> {
        let open = || -> io::Result<_> {
            let mut how = fs::OpenOptions::new();
            let mut file = how.read(true).append(true).create(true).mode(0o600).open(path)?;
            match file.try_lock() {
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                Err(fs::TryLockError::Error(error)) => return Err(error),
                Ok(()) => {}
            }
            if file.metadata()?.len() > NOTE_MAX {
                file.set_len(0)?;
            }
            let mut text = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut text)?;
            if text.last().is_some_and(|last| *last != b'\n') {
                // A line that was cut off must not take the next one with it.
                file.write_all(b"\n")?;
            }
            Ok(Some((file, parse(&text))))
        };
        let opened = open().map_err(Error::io(path.display().to_string()))?;
        Ok(opened.map(|(file, noted)| {
            let (path, running) = (path.to_owned(), Mutex::default());
            (Self { path, file, keeps_on_conflict, running }, noted)
        }))
    }

    /// Begins to note an upload. The upload itself follows ([`Watch::begun`]).
    pub(super) fn begin(
        &self,
        epoch: u32,
        file: FileId,
        key: JournalKey,
        segments: Vec<Segment>,
        stamp: Stamp,
    ) {
        let (upload, source) = (String::new(), source(&key, stamp));
        let head = Head { upload, epoch, file: file.0, source };
        *self.running.lock() = Some(Running { head, key, segments, hashes: BTreeMap::new() });
    }

    /// Returns what hashes the content of a segment.
    pub(super) fn hasher(&self, ordinal: u64) -> Option<JournalHasher> {
        self.running.lock().as_ref().map(|running| running.key.hasher(ordinal))
    }

    /// Takes the hashes of the content and of the sealed bytes of a segment that is about to be sent.
    pub(super) fn sealed(&self, ordinal: u64, content: [u8; 32], sealed: [u8; 32]) {
        if let Some(running) = &mut *self.running.lock() {
            running.hashes.insert(ordinal, (content, sealed));
        }
    }

    /// Removes the note.
    pub(super) fn remove(&self) {
        drop(fs::remove_file(&self.path));
    }

    /// Appends a line. One that cannot be written lets a part be sent twice, and nothing else.
    fn append(&self, line: &Line) {
        if let Ok(mut text) = serde_json::to_vec(line) {
            text.push(b'\n');
            drop((&self.file).write_all(&text));
        }
    }
}

impl Watch for Note {
    fn begun(&self, upload: &str) {
        let head = self.running.lock().as_mut().map(|running| {
            upload.clone_into(&mut running.head.upload);
            running.head.clone()
        });
        if let Some(head) = head {
            self.append(&Line::Begin(head));
        }
    }

    fn sent(&self, number: u32, etag: &str) {
        let ordinal = u64::from(number) - 1;
        let part = self.running.lock().as_mut().and_then(|running| {
            let (content, sealed) = running.hashes.remove(&ordinal)?;
            let segment = running.segments.get(usize::try_from(ordinal).ok()?)?;
            // The last part has the end of the body, which names all salts. It is always sent anew.
            let is_last = ordinal + 1 == running.segments.len() as u64;
            let (segment, etag) = (segment.to_bytes(), etag.to_owned());
            (!is_last).then_some(Part { ordinal, segment, content, sealed, etag })
        });
        if let Some(part) = part {
            self.append(&Line::Part(part));
        }
    }

    fn keeps(&self, error: &Error) -> bool {
        match error {
            Error::Unavailable { .. } | Error::Canceled => true,
            Error::Changed { .. } | Error::Exists { .. } => self.keeps_on_conflict,
            _ => false,
        }
    }
}

/// Returns the keyed hash of the size and the time of a source.
pub(super) fn source(key: &JournalKey, stamp: Stamp) -> [u8; 32] {
    key.facts(&[&stamp.size.to_be_bytes(), &stamp.modified_ns.to_be_bytes()])
}

/// Reads a note. Lines that cannot be read are left out.
fn parse(text: &[u8]) -> Option<Noted> {
    let mut noted = None;
    for line in text.split(|byte| *byte == b'\n') {
        match (serde_json::from_slice(line), &mut noted) {
            (Ok(Line::Begin(head)), _) => noted = Some(Noted { head, parts: BTreeMap::new() }),
            (Ok(Line::Part(part)), Some(noted)) => {
                noted.parts.insert(part.ordinal, part);
            }
            (Ok(Line::Part(_)), None) | (Err(_), _) => {}
        }
    }
    noted
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use fula_seal::{Entropy, VaultId, VaultKeys, body::FileSealer};

    use super::*;

    struct Counter(u8);

    impl Entropy for Counter {
        fn fill(&mut self, out: &mut [u8]) -> std::result::Result<(), fula_seal::SealError> {
            self.0 += 1;
            out.fill(self.0);
            Ok(())
        }
    }

    #[test]
    fn a_note_survives_a_process_that_is_killed_in_the_middle_of_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("upload-x");
        let entropy = &mut Counter(0);
        let keys = VaultKeys::generate(VaultId([1; 16]), entropy).unwrap();
        let sealer = FileSealer::new(&keys, entropy).unwrap();
        let segments: Vec<_> =
            (0..4).map(|at| sealer.plan_segment(at, 10, entropy).unwrap().0).collect();
        let stamp = Stamp { size: 40, modified_ns: 7 };
        let journal = || keys.journal(0, sealer.file()).unwrap();
        let begin = |note: &Note| note.begin(0, sealer.file(), journal(), segments.clone(), stamp);

        let (note, noted) = Note::open(&path, true).unwrap().unwrap();
        assert_eq!(noted, None);
        begin(&note);
        note.begun("first");
        note.begun("second");
        for ordinal in [1, 0, 3] {
            note.sealed(ordinal, [8; 32], [9; 32]);
            note.sent(u32::try_from(ordinal).unwrap() + 1, "etag");
        }
        note.sent(3, "its hashes are not known");
        assert!(Note::open(&path, true).unwrap().is_none(), "another one has it");
        drop(note);
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"part\":{").unwrap();

        let (note, noted) = Note::open(&path, false).unwrap().unwrap();
        let noted = noted.unwrap();
        assert_eq!(
            (noted.head.upload.as_str(), noted.head.source),
            ("second", source(&journal(), stamp))
        );
        let ordinals: Vec<_> = noted.parts.keys().copied().collect();
        assert_eq!(ordinals, [0, 1], "the last part is sent anew");
        assert_eq!(noted.parts[&1].segment(), segments[1]);
        begin(&note);
        note.sealed(2, [8; 32], [9; 32]);
        note.sent(3, "etag");
        drop(note);
        let (note, noted) = Note::open(&path, false).unwrap().unwrap();
        assert_eq!(noted.unwrap().parts.len(), 3, "the line after the one that was cut off");
        let conflict = Error::Exists { what: String::new() };
        assert!(note.keeps(&Error::Canceled) && !note.keeps(&conflict));
        note.remove();
        assert!(!path.exists());
    }
}
