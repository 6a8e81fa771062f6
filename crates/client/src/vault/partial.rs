//! Downloads of large files that go on after an interruption.
//!
//! What arrived lies in a file `.fula-….part` beside the target. A later download compares it with the hashes that a
//! writer signed, and keeps the segments that have them.

use std::{
    fs, io,
    io::{Read, Seek},
    path::{Path, PathBuf},
};

use fula_seal::{
    SealedKey, VaultKeys,
    body::{Footer, Layout, Proof, SegmentCheck},
};

use crate::{
    download::lock,
    error::{Error, Result},
};

/// Shortest file in bytes whose download is resumed. Below it, reading it anew costs less.
pub(super) const RESUMED_MIN: u64 = 64 << 20;
/// Bytes that are read at a time of a part that is there.
const READ: usize = 1 << 20;

/// What tells whether a part has the content of a file.
pub(super) struct Expected {
    pub(super) keys: VaultKeys,
    pub(super) footer: Footer,
    pub(super) layout: Layout,
    pub(super) proof: Proof,
}

/// A file that is being downloaded.
pub(super) struct Partial {
    pub(super) path: PathBuf,
    /// It is written to at its end.
    pub(super) file: fs::File,
    /// Bytes that were there.
    pub(super) kept: u64,
}

impl Partial {
    /// Opens the part of the file with this key, and cuts it off after the last segment that is as a writer sealed it.
    /// Returns `None` if another process has the part.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Sealed`].
    pub(super) fn open(to: &Path, key: SealedKey, expected: &Expected) -> Result<Option<Self>> {
        let path = to.with_file_name(format!(".fula-{}.part", key.as_str()));
        let failed = |error| Error::io(to.display().to_string())(error);
        let mut file = match lock(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut kept = 0;
        for (index, length) in expected.layout.content_bytes().into_iter().enumerate() {
            let of = (&expected.footer, &expected.layout);
            let check = SegmentCheck::new(&expected.keys, of, &expected.proof, index)?;
            let Some(check) = check else { break };
            if !is_same(&mut file, length, check).map_err(failed)? {
                break;
            }
            kept += length;
        }
        file.set_len(kept).map_err(failed)?;
        file.seek(io::SeekFrom::Start(kept)).map_err(failed)?;
        Ok(Some(Self { path, file, kept }))
    }
}

/// Reads the next bytes of a part, and returns whether they are the content of a segment.
fn is_same(file: &mut fs::File, length: u64, mut check: SegmentCheck) -> io::Result<bool> {
    let (mut left, mut buffer) = (length, vec![0; READ]);
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(READ).min(READ);
        let read = file.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Ok(false);
        }
        check.push(&buffer[..read]);
        left -= read as u64;
    }
    Ok(check.finish())
}

#[cfg(test)]
mod tests {
    use fula_seal::{
        Entropy, SealError, VaultId, VaultPath,
        body::{FileSealer, Metadata, Trailer},
        key::Secret,
        signature::SigningKey,
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

    /// Seals a file, and returns what its part is compared with.
    fn sealed(keys: &VaultKeys, content: &[u8], entropy: &mut Counter) -> Expected {
        let sealer = FileSealer::new(keys, entropy).unwrap();
        let mut padded = content.to_vec();
        padded.resize(4000, 0);
        let (mut segments, mut bytes) = (Vec::new(), Vec::new());
        for (ordinal, plain) in (0..).zip(padded.chunks(1000)) {
            let (segment, piece) = sealer.seal_segment(ordinal, plain, entropy).unwrap();
            segments.push(segment);
            bytes.extend(piece);
        }
        let layout = Layout::new(content.len() as u64, segments).unwrap();
        let metadata = Metadata::of(VaultPath::new(b"file").unwrap());
        let mut ending = sealer.plan_end(&layout, &metadata, entropy).unwrap();
        let footer = ending.anchor.footer();
        ending.update(&bytes);
        let device = SigningKey::from_seed(&Secret::new([7; 32]));
        bytes.extend(ending.sign(&device).unwrap());
        let range = footer.trailer_range(bytes.len() as u64).unwrap();
        let at = |at: u64| usize::try_from(at).unwrap();
        let (trailer, rest) = bytes[at(range.start)..].split_at(at(range.end - range.start));
        let proof = &rest[..rest.len() - fula_seal::body::FOOTER_BYTES];
        let writer = |_, _| Some(device.public());
        let proof = Proof::open(keys.vault(), &footer, trailer, proof, writer).unwrap().unwrap();
        let trailer = Trailer::open(keys, &footer, trailer, bytes.len() as u64, None).unwrap();
        Expected { keys: keys.clone(), footer, layout: trailer.layout, proof }
    }

    #[test]
    fn segments_that_are_as_a_writer_sealed_them_are_kept() {
        use std::io::Write;

        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().join("file");
        let entropy = &mut Counter(0);
        let keys = VaultKeys::generate(VaultId([1; 16]), entropy).unwrap();
        let content: Vec<u8> = (0..2500_u32).map(|at| at.to_be_bytes()[3]).collect();
        // The last segment is padding.
        let expected = sealed(&keys, &content, entropy);
        assert_eq!(expected.layout.content_bytes(), [1000, 1000, 500]);
        let key = SealedKey::parse(&"a".repeat(32)).unwrap();
        let open = |expected: &Expected| Partial::open(&to, key, expected).unwrap();
        let mut partial = open(&expected).unwrap();
        assert!(open(&expected).is_none(), "another one has it");
        assert_eq!(partial.kept, 0);
        partial.file.write_all(&content[..2300]).unwrap();
        let path = partial.path.clone();
        drop(partial);

        let mut partial = open(&expected).unwrap();
        assert_eq!(partial.kept, 2000, "the third segment was not complete");
        partial.file.write_all(&content[2000..]).unwrap();
        drop(partial);
        assert_eq!(open(&expected).unwrap().kept, 2500);
        assert_eq!(fs::read(&path).unwrap(), content);

        // A byte that is not as it was written, as after a crash of the machine.
        let mut torn = content.clone();
        torn[1500] ^= 1;
        fs::write(&path, &torn).unwrap();
        assert_eq!(open(&expected).unwrap().kept, 1000);
        assert_eq!(fs::read(&path).unwrap(), content[..1000]);
        // Another upload of the same content has this path now.
        let other = sealed(&keys, &content, entropy);
        fs::write(&path, &content).unwrap();
        assert_eq!(open(&other).unwrap().kept, 2500, "it is what a writer sealed");
        let other = sealed(&keys, &[1; 2500], entropy);
        assert_eq!(open(&other).unwrap().kept, 0);
        assert!(fs::read(&path).unwrap().is_empty());
    }
}
