//! Sealing the content of a file.

use crate::{
    BodyKey, Entropy, FileId, SealError, VaultId, VaultKeys,
    body::{Ending, EndingSigner, Layout, Metadata, Segment},
    cobblestone::{self, CHUNK_BYTES, Message, Salt},
    draw,
    key::{FileKeys, Secret},
};

/// The content of a segment has another length than its salt was chosen for.
const LENGTH: SealError =
    SealError::Malformed { what: "the content", why: "it has another length than was planned" };

/// Returns the context that the keys of a segment are bound to.
pub(crate) fn context(file: &FileId, ordinal: u64) -> [u8; 51] {
    let mut out = [0; 51];
    out[..11].copy_from_slice(b"fula seal 1");
    out[11..43].copy_from_slice(&file.0);
    out[43..].copy_from_slice(&ordinal.to_be_bytes());
    out
}

/// Derives the keys of a segment that a layout lists.
///
/// # Errors
/// [`SealError::WrongKey`]: the segment commits to other keys.
pub(super) fn message(
    key: &Secret,
    file: &FileId,
    segment: &Segment,
) -> Result<Message, SealError> {
    let context = context(file, segment.ordinal);
    let message = Message::derive(key.expose(), segment.salt(), &[&context]);
    let is_ours = message.commits_to(&segment.commitment);
    if is_ours { Ok(message) } else { Err(SealError::WrongKey { what: "the content" }) }
}

/// Seals one upload of a file, under a file id of its own.
///
/// Segments may be sealed in any order and on several threads. A segment that is sealed again gets another
/// salt; the layout says which attempt counts, and readers refuse every other one.
#[derive(Debug)]
pub struct FileSealer {
    vault: VaultId,
    epoch: u32,
    file: FileId,
    keys: FileKeys,
}

impl FileSealer {
    /// Begins a file in the newest epoch.
    ///
    /// # Errors
    /// [`SealError::NoEntropy`].
    pub fn new(keys: &VaultKeys, entropy: &mut dyn Entropy) -> Result<Self, SealError> {
        let (epoch, file) = (keys.epoch(), FileId(draw(entropy)?));
        Ok(Self { vault: keys.vault(), epoch, file, keys: keys.file(epoch, file)? })
    }

    /// Goes on with an upload that was interrupted, from its epoch and file id. Segments that were sent already
    /// count as they are ([`Segment::from_bytes`]); all others are sealed with new salts. Returns `None` if a newer
    /// epoch began: then the file is sealed anew.
    ///
    /// # Errors
    /// [`SealError::UnknownEpoch`].
    pub fn resume(keys: &VaultKeys, epoch: u32, file: FileId) -> Result<Option<Self>, SealError> {
        if epoch < keys.epoch() {
            return Ok(None);
        }
        Ok(Some(Self { vault: keys.vault(), epoch, file, keys: keys.file(epoch, file)? }))
    }

    /// Returns the epoch that the file is sealed in.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Returns the random name of the upload.
    pub fn file(&self) -> FileId {
        self.file
    }

    /// Returns the key of the body, for a link to it.
    pub fn key(&self) -> BodyKey {
        self.keys.body.clone()
    }

    /// Seals a segment: all of a part of the content, and the padding after it if it is the last. Returns what
    /// the layout lists, and the bytes to send.
    ///
    /// # Errors
    /// [`SealError::NoEntropy`].
    pub fn seal_segment(
        &self,
        ordinal: u64,
        plaintext: &[u8],
        entropy: &mut dyn Entropy,
    ) -> Result<(Segment, Vec<u8>), SealError> {
        let (segment, planned) = self.plan_segment(ordinal, plaintext.len() as u64, entropy)?;
        Ok((segment, planned.seal(plaintext)?))
    }

    /// Chooses the salt of a segment of `bytes` bytes before its content is there. So the layout, the end of the
    /// body and the name are known before the first byte is sent.
    ///
    /// # Errors
    /// [`SealError::NoEntropy`].
    pub fn plan_segment(
        &self,
        ordinal: u64,
        bytes: u64,
        entropy: &mut dyn Entropy,
    ) -> Result<(Segment, PlannedSegment), SealError> {
        let salt = draw(entropy)?;
        let context = context(&self.file, ordinal);
        let message = Message::derive(self.keys.segment.expose(), &salt, &[&context]);
        let segment = Segment { ordinal, bytes, salt, commitment: message.commitment() };
        Ok((segment, PlannedSegment { message, salt, bytes }))
    }

    /// Seals the end of a body with a proof, before its content is sent.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] for much metadata, and [`SealError::NoEntropy`].
    pub fn plan_end(
        &self,
        layout: &Layout,
        metadata: &Metadata,
        entropy: &mut dyn Entropy,
    ) -> Result<EndingSigner, SealError> {
        let of = (self.epoch, self.file);
        EndingSigner::seal(self.vault, &self.keys, of, layout, metadata, entropy)
    }

    /// Seals the end of a body without a proof, as early builds did. It shows readers of the format that they still read
    /// one: use [`Self::plan_end`].
    ///
    /// # Errors
    /// [`SealError::TooLarge`] for much metadata, and [`SealError::NoEntropy`].
    pub fn finish(
        &self,
        layout: &Layout,
        metadata: &Metadata,
        entropy: &mut dyn Entropy,
    ) -> Result<Ending, SealError> {
        Ending::seal(&self.keys, (self.epoch, self.file), layout, metadata, entropy)
    }
}

/// A segment whose salt was chosen. It is sealed once: sealing takes it.
pub struct PlannedSegment {
    message: Message,
    salt: Salt,
    bytes: u64,
}

impl PlannedSegment {
    /// Seals the content of the segment, with its padding.
    ///
    /// # Errors
    /// [`SealError::Malformed`]: it has another length than was planned. The file is sealed anew.
    pub fn seal(self, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut sealer = self.begin(0);
        sealer.push(plaintext)?;
        sealer.finish()
    }

    /// Begins to seal the content of the segment in pieces. What is returned at the end has capacity for `room` bytes
    /// more.
    pub fn begin(self, room: usize) -> SegmentSealer {
        let sealed = usize::try_from(cobblestone::sealed_bytes(self.bytes)).unwrap_or(usize::MAX);
        let mut out = Vec::with_capacity(sealed.saturating_add(room));
        out.extend(self.salt);
        out.extend(self.message.commitment());
        SegmentSealer { message: self.message, left: self.bytes, chunk: 0, start: out.len(), out }
    }
}

/// A segment that is sealed in pieces of any size. What was pushed lies in the place of its ciphertext, so the
/// content is in memory once.
pub struct SegmentSealer {
    message: Message,
    /// Bytes of the content that are missing.
    left: u64,
    chunk: u64,
    /// Where the chunk begins that is not sealed yet.
    start: usize,
    out: Vec<u8>,
}

impl SegmentSealer {
    /// Takes the next piece of the content, or of its padding.
    ///
    /// # Errors
    /// [`SealError::Malformed`]: there is more than was planned.
    pub fn push(&mut self, mut plaintext: &[u8]) -> Result<(), SealError> {
        self.left = self.left.checked_sub(plaintext.len() as u64).ok_or(LENGTH)?;
        while !plaintext.is_empty() {
            let room = CHUNK_BYTES - (self.out.len() - self.start);
            let (piece, rest) = plaintext.split_at(plaintext.len().min(room));
            self.out.extend(piece);
            plaintext = rest;
            if self.out.len() - self.start == CHUNK_BYTES {
                self.seal_chunk();
            }
        }
        Ok(())
    }

    fn seal_chunk(&mut self) {
        self.message.seal_chunk(self.chunk, self.start, &mut self.out);
        (self.chunk, self.start) = (self.chunk + 1, self.out.len());
    }

    /// Returns the sealed segment.
    ///
    /// # Errors
    /// [`SealError::Malformed`]: it has less than was planned. The file is sealed anew.
    pub fn finish(mut self) -> Result<Vec<u8>, SealError> {
        if self.left > 0 {
            return Err(LENGTH);
        }
        self.seal_chunk();
        Ok(self.out)
    }
}

impl std::fmt::Debug for SegmentSealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SegmentSealer({} bytes left)", self.left)
    }
}

impl std::fmt::Debug for PlannedSegment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PlannedSegment({} bytes)", self.bytes)
    }
}
