//! Opening the content of a file.

use std::ops::Range;

use crate::{
    BodyKey, FileId, SealError, VaultKeys,
    body::{
        ContentHasher, FOOTER_BYTES, Footer, Layout, Metadata, Proof, Segment, Trailer,
        proof::Comparison, sealing,
    },
    cobblestone::{CHUNK_BYTES, HEADER_BYTES, Message, SEALED_CHUNK_BYTES},
    key::Secret,
    name::Anchor,
    signature::{DeviceId, PublicKey},
};

const CHUNK: u64 = CHUNK_BYTES as u64;
const SEALED_CHUNK: u64 = SEALED_CHUNK_BYTES as u64;
const WHAT: &str = "the content";

/// Opens a range of a file while its bytes arrive, in order and in pieces of any size.
///
/// It holds one chunk of 16 KiB at most. Every chunk is verified before its plaintext is handed out.
pub struct RangeReader {
    key: Secret,
    file: FileId,
    layout: Layout,
    /// Bytes of the body that are needed.
    sealed: Range<u64>,
    /// Bytes of the content that are not handed out yet.
    left: Range<u64>,
    /// Where the next chunk lies, or `None` when everything was read.
    at: Option<Place>,
    /// The beginning of a header or a chunk that has not arrived in full.
    held: Vec<u8>,
    /// What was wrong with the bytes. Nothing is read after it.
    failed: Option<SealError>,
    /// What a writer signed, if everything is read.
    proof: Option<Comparison>,
}

/// Where a header or a chunk lies.
struct Place {
    segment: usize,
    /// Offset of the segment in the padded content.
    start: u64,
    /// Keys of the segment, after its header was verified.
    message: Option<Message>,
    chunk: u64,
}

impl RangeReader {
    /// Begins to read `range` of the content. The range is cut at the end of the content.
    ///
    /// # Errors
    /// [`SealError::UnknownEpoch`], and [`SealError::WrongKey`] if the keys do not open the first segment.
    pub fn new(
        keys: &VaultKeys,
        footer: &Footer,
        layout: &Layout,
        range: Range<u64>,
    ) -> Result<Self, SealError> {
        let key = keys.file(footer.epoch, footer.file)?.segment;
        Self::with(key, footer, layout, range)
    }

    /// Begins to read `range` of a body that a link leads to.
    ///
    /// # Errors
    /// [`SealError::Misplaced`]: the link leads to another body. [`SealError::WrongKey`].
    pub fn shared(
        key: &BodyKey,
        footer: &Footer,
        layout: &Layout,
        range: Range<u64>,
    ) -> Result<Self, SealError> {
        Self::with(key.of_body(footer.file)?.0, footer, layout, range)
    }

    fn with(
        key: Secret,
        footer: &Footer,
        layout: &Layout,
        range: Range<u64>,
    ) -> Result<Self, SealError> {
        let left = range.start.min(layout.size())..range.end.min(layout.size());
        let layout = layout.clone();
        let mut reader = Self {
            key,
            file: footer.file,
            layout,
            sealed: 0..0,
            left,
            at: None,
            held: Vec::new(),
            failed: None,
            proof: None,
        };
        if reader.left.is_empty() && reader.layout.size() > 0 {
            return Ok(reader);
        }
        let end = reader.left.end.saturating_sub(1);
        let (first, last) = (reader.layout.place(reader.left.start), reader.layout.place(end));
        let first_chunk = (reader.left.start - first.1) / CHUNK;
        let last_chunk = (end - last.1) / CHUNK;
        let from = if first_chunk == 0 { 0 } else { chunk_offset(first_chunk) };
        let end = reader.layout.segments()[last.0].chunk_end(last_chunk);
        reader.sealed = first.2 + from..last.2 + end;
        let mut at = Place { segment: first.0, start: first.1, message: None, chunk: first_chunk };
        if first_chunk > 0 {
            at.message = Some(reader.message(first.0)?);
        }
        reader.at = Some(at);
        Ok(reader)
    }

    /// Compares what is read with what a writer signed. The plaintext of the last chunk of a segment is handed out
    /// after its hash matched. A range is compared if it has all segments from one of them to the end: then the segments
    /// before it were read and compared earlier. The bytes of other ranges alone do not give a hash.
    #[must_use]
    pub fn proved_by(mut self, proof: Proof) -> Self {
        let hasher = ContentHasher::new(&self.layout);
        if self.sealed.end == hasher.bytes()
            && let Some(hasher) = hasher.after(self.sealed.start, &proof)
        {
            self.proof = Some(Comparison { hasher, proof });
        }
        self
    }

    /// Returns which bytes of the object are to be read, and passed to [`push`](Self::push).
    pub fn sealed_range(&self) -> Range<u64> {
        self.sealed.clone()
    }

    /// Returns which bytes of the content are not handed out yet.
    pub fn range(&self) -> Range<u64> {
        self.left.clone()
    }

    /// Derives the keys of a segment, and compares the commitment.
    fn message(&self, index: usize) -> Result<Message, SealError> {
        sealing::message(&self.key, &self.file, &self.layout.segments()[index])
    }

    /// Takes the next bytes of the object, and appends the plaintext of every chunk that is complete to `out`.
    ///
    /// # Errors
    /// [`SealError::Misplaced`]: a segment that the layout does not list. [`SealError::Damaged`]: a chunk was
    /// altered. [`SealError::WrongKey`]. [`SealError::Malformed`]: bytes after the range. [`SealError::Replaced`]: no
    /// writer sealed this content.
    /// After an error, `out` has only verified plaintext, and every further call gets the same error.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let before = out.len();
        let mut pushed = self.push_all(bytes, out);
        if let (Ok(()), Some(comparison)) = (&pushed, &mut self.proof) {
            pushed = comparison.update(bytes);
            if pushed.is_err() {
                out.truncate(before);
            }
        }
        self.failed = pushed.err();
        pushed
    }

    fn push_all(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        while let Some(place) = &self.at {
            let segment = &self.layout.segments()[place.segment];
            let wanted = match place.message {
                None => HEADER_BYTES,
                Some(_) => in_memory(chunk_bytes(segment, place.chunk)),
            };
            let (taken, rest) = bytes.split_at(bytes.len().min(wanted - self.held.len()));
            self.held.extend(taken);
            bytes = rest;
            if self.held.len() < wanted {
                return Ok(());
            }
            let mut piece = std::mem::take(&mut self.held);
            let opened = self.step(&mut piece, out);
            piece.clear();
            self.held = piece;
            opened?;
        }
        if bytes.is_empty() {
            return Ok(());
        }
        Err(SealError::Malformed { what: WHAT, why: "there are more bytes than the range has" })
    }

    /// Takes a whole header or a whole chunk.
    fn step(&mut self, piece: &mut [u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let Some(mut place) = self.at.take() else { return Ok(()) };
        let segment = self.layout.segments()[place.segment];
        let Some(message) = &place.message else {
            if piece[..24] != segment.salt || piece[24..] != segment.commitment {
                return Err(SealError::Misplaced { what: WHAT });
            }
            place.message = Some(self.message(place.segment)?);
            self.at = Some(place);
            return Ok(());
        };
        let before = out.len();
        message.open_chunk(place.chunk, piece, out)?;
        // Only what lies in the range stays.
        let offset = place.start + place.chunk * CHUNK;
        let held = (out.len() - before) as u64;
        let end = self.left.end.saturating_sub(offset).min(held);
        let start = self.left.start.saturating_sub(offset).min(end);
        out.truncate(before + in_memory(end));
        out.drain(before..before + in_memory(start));
        self.left.start = self.left.start.max(offset + end);
        place.chunk += 1;
        let is_last = place.chunk > segment.bytes / CHUNK;
        if self.left.is_empty() {
            return Ok(());
        }
        if is_last {
            place = Place {
                segment: place.segment + 1,
                start: place.start + segment.bytes,
                message: None,
                chunk: 0,
            };
        }
        self.at = Some(place);
        Ok(())
    }

    /// Checks that all bytes of the range arrived.
    ///
    /// # Errors
    /// [`SealError::Truncated`]: some did not. The error of [`push`](Self::push), if it returned one.
    pub fn finish(&self) -> Result<(), SealError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let is_complete = self.proof.as_ref().is_none_or(Comparison::is_complete);
        let is_read = self.at.is_none() && is_complete;
        if is_read { Ok(()) } else { Err(SealError::Truncated { what: WHAT }) }
    }
}

impl std::fmt::Debug for RangeReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RangeReader").field("sealed", &self.sealed).finish_non_exhaustive()
    }
}

/// Returns a length or an offset in memory.
fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Returns where a chunk lies in its sealed segment.
fn chunk_offset(chunk: u64) -> u64 {
    HEADER_BYTES as u64 + chunk * SEALED_CHUNK
}

/// Returns the length of a sealed chunk.
fn chunk_bytes(segment: &Segment, chunk: u64) -> u64 {
    segment.chunk_end(chunk) - chunk_offset(chunk)
}

/// A whole body, opened.
#[derive(Clone, PartialEq, Eq)]
pub struct Opened {
    /// The content.
    pub content: Vec<u8>,
    /// The path and the metadata at the time of the upload.
    pub metadata: Metadata,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({} bytes)", self.content.len())
    }
}

/// Opens a whole body without the name of its object, as recovery does. What a name proves is not proved: that
/// the body is the newest of its path, that a writer sealed it, and that it lies where it belongs.
///
/// # Errors
/// As [`Trailer::open`] and [`RangeReader::push`].
pub fn open_whole(keys: &VaultKeys, body: &[u8]) -> Result<Opened, SealError> {
    open(keys, body, None)
}

/// Opens a whole body that belongs to a name: the writer that its proof names sealed this content. `key_of` returns
/// the key of a device if it may write in an epoch.
///
/// # Errors
/// As [`open_whole`] and [`Proof::open`].
pub fn open_named(
    keys: &VaultKeys,
    body: &[u8],
    anchor: &Anchor,
    key_of: impl FnOnce(DeviceId, u32) -> Option<PublicKey>,
) -> Result<Opened, SealError> {
    open(keys, body, Some((anchor, Box::new(key_of))))
}

/// Says which key a device has, if it may write in an epoch.
type KeyOf<'a> = Box<dyn FnOnce(DeviceId, u32) -> Option<PublicKey> + 'a>;

fn open(
    keys: &VaultKeys,
    body: &[u8],
    name: Option<(&Anchor, KeyOf<'_>)>,
) -> Result<Opened, SealError> {
    let footer = body.last_chunk::<FOOTER_BYTES>();
    let footer = footer.ok_or(SealError::Truncated { what: "the footer of the file" })?;
    let footer = Footer::parse(footer)?;
    let range = footer.trailer_range(body.len() as u64)?;
    let sealed = &body[in_memory(range.start)..in_memory(range.end)];
    let anchor = name.as_ref().map(|(anchor, _)| *anchor);
    let Trailer { layout, metadata } =
        Trailer::open(keys, &footer, sealed, body.len() as u64, anchor)?;
    let mut reader = RangeReader::new(keys, &footer, &layout, 0..layout.size())?;
    if let Some((_, key_of)) = name {
        let proof = &body[in_memory(range.end)..body.len() - FOOTER_BYTES];
        if let Some(proof) = Proof::open(keys.vault(), &footer, sealed, proof, key_of)? {
            reader = reader.proved_by(proof);
        }
    }
    let (range, mut content) = (reader.sealed_range(), Vec::new());
    reader.push(&body[in_memory(range.start)..in_memory(range.end)], &mut content)?;
    reader.finish()?;
    Ok(Opened { content, metadata })
}
