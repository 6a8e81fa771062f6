//! Opening the content of a file.

use std::ops::Range;

use crate::{
    FileId, SealError, VaultKeys,
    body::{FOOTER_BYTES, Footer, Layout, Metadata, Segment, Trailer, sealing},
    cobblestone::{CHUNK_BYTES, HEADER_BYTES, Message, SEALED_CHUNK_BYTES},
    key::Secret,
};

const CHUNK: u64 = CHUNK_BYTES as u64;
const SEALED_CHUNK: u64 = SEALED_CHUNK_BYTES as u64;
const WHAT: &str = "the content";

/// Opens a range of a file while its bytes arrive, in order and in pieces of any size.
///
/// It holds one chunk of 16 KiB at most. Every chunk is verified before its plaintext is handed out.
pub struct RangeReader<'a> {
    key: Secret,
    file: FileId,
    layout: &'a Layout,
    /// Bytes of the body that are needed.
    sealed: Range<u64>,
    /// Bytes of the content that are not handed out yet.
    left: Range<u64>,
    /// Where the next chunk lies, or `None` when everything was read.
    at: Option<Place>,
    /// The beginning of a header or a chunk that has not arrived in full.
    held: Vec<u8>,
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

impl<'a> RangeReader<'a> {
    /// Begins to read `range` of the content. The range is cut at the end of the content.
    ///
    /// # Errors
    /// [`SealError::UnknownEpoch`], and [`SealError::WrongKey`] if the keys do not open the first segment.
    pub fn new(
        keys: &VaultKeys,
        footer: &Footer,
        layout: &'a Layout,
        range: Range<u64>,
    ) -> Result<Self, SealError> {
        let left = range.start.min(layout.size())..range.end.min(layout.size());
        let key = keys.file(footer.epoch, footer.file)?.segment;
        let mut reader =
            Self { key, file: footer.file, layout, sealed: 0..0, left, at: None, held: Vec::new() };
        if reader.left.is_empty() && layout.size() > 0 {
            return Ok(reader);
        }
        let (first, last) =
            (reader.place(reader.left.start), reader.place(reader.left.end.saturating_sub(1)));
        let first_chunk = (reader.left.start - first.1) / CHUNK;
        let last_chunk = (reader.left.end.saturating_sub(1) - last.1) / CHUNK;
        let from = if first_chunk == 0 { 0 } else { chunk_offset(first_chunk) };
        let end = chunk_offset(last_chunk) + chunk_bytes(&layout.segments()[last.0], last_chunk);
        reader.sealed = first.2 + from..last.2 + end;
        let mut at = Place { segment: first.0, start: first.1, message: None, chunk: first_chunk };
        if first_chunk > 0 {
            at.message = Some(reader.message(first.0)?);
        }
        reader.at = Some(at);
        Ok(reader)
    }

    /// Returns which bytes of the object are to be read, and passed to [`push`](Self::push).
    pub fn sealed_range(&self) -> Range<u64> {
        self.sealed.clone()
    }

    /// Returns segment, its offset in the padded content, and its offset in the body, of a byte of the content.
    fn place(&self, byte: u64) -> (usize, u64, u64) {
        let (mut plain, mut sealed) = (0, 0);
        for (index, segment) in self.layout.segments().iter().enumerate() {
            if byte < plain + segment.bytes || index + 1 == self.layout.segments().len() {
                return (index, plain, sealed);
            }
            plain += segment.bytes;
            sealed += segment.sealed_bytes();
        }
        (0, 0, 0)
    }

    /// Derives the keys of a segment, and compares the commitment.
    fn message(&self, index: usize) -> Result<Message, SealError> {
        let segment = &self.layout.segments()[index];
        let context = sealing::context(&self.file, segment.ordinal);
        let message = Message::derive(self.key.expose(), &segment.salt, &[&context]);
        let is_ours = message.commits_to(&segment.commitment);
        if is_ours { Ok(message) } else { Err(SealError::WrongKey { what: WHAT }) }
    }

    /// Takes the next bytes of the object, and appends the plaintext of every chunk that is complete to `out`.
    ///
    /// # Errors
    /// [`SealError::Misplaced`]: a segment that the layout does not list. [`SealError::Damaged`]: a chunk was
    /// altered. [`SealError::WrongKey`]. [`SealError::Malformed`]: bytes after the range.
    /// After an error, `out` has only verified plaintext, and the reader is of no further use.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
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
    /// [`SealError::Truncated`]: some did not.
    pub fn finish(self) -> Result<(), SealError> {
        if self.at.is_none() { Ok(()) } else { Err(SealError::Truncated { what: WHAT }) }
    }
}

impl std::fmt::Debug for RangeReader<'_> {
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
    (segment.sealed_bytes() - chunk_offset(chunk)).min(SEALED_CHUNK)
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
    let footer = body.last_chunk::<FOOTER_BYTES>();
    let footer = footer.ok_or(SealError::Truncated { what: "the footer of the file" })?;
    let footer = Footer::parse(footer)?;
    let range = footer.trailer_range(body.len() as u64)?;
    let sealed = &body[in_memory(range.start)..in_memory(range.end)];
    let Trailer { layout, metadata } =
        Trailer::open(keys, &footer, sealed, body.len() as u64, None)?;
    let mut reader = RangeReader::new(keys, &footer, &layout, 0..layout.size())?;
    let (range, mut content) = (reader.sealed_range(), Vec::new());
    reader.push(&body[in_memory(range.start)..in_memory(range.end)], &mut content)?;
    reader.finish()?;
    Ok(Opened { content, metadata })
}
