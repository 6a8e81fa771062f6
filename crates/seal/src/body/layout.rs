//! Which segments make up a file.

use fula_core::cbor::{Reader, Writer};

use crate::{
    SealError,
    cobblestone::{self, CHUNK_BYTES, Commitment, HEADER_BYTES, SEALED_CHUNK_BYTES, Salt},
};

const WHAT: &str = "the layout of the file";
/// Plaintext bytes of a segment of a file that is not huge: its sealed form fills 16 leaves of 1 MiB, with one
/// short chunk.
const SEGMENT_BYTES: u64 = 1022 * CHUNK_BYTES as u64;
/// Segments of a file, above which segments are larger. An upload has at most 10 000 parts.
const SEGMENTS_WANTED: u64 = 9000;
/// Bytes of a segment in a journal.
pub const SEGMENT_RECORD_BYTES: usize = 72;
/// Most segments that a reader takes.
const SEGMENTS_MAX: usize = 10_000;
/// Longest segment that a reader takes, and largest file, in bytes. No sum of lengths overflows.
const BYTES_MAX: u64 = 1 << 48;

/// Returns how many bytes of content a segment has, in a file of `size` bytes with its padding. The last
/// segment has what is left.
pub fn segment_bytes(size: u64) -> u64 {
    let mut bytes = SEGMENT_BYTES;
    while size.div_ceil(bytes) > SEGMENTS_WANTED {
        bytes *= 2;
    }
    bytes
}

/// One segment of a file: its place in the list, its length, and which of several attempts counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Number that its keys are bound to. Numbers ascend in a file, and may have gaps.
    pub(crate) ordinal: u64,
    /// Plaintext bytes, with padding.
    pub(crate) bytes: u64,
    pub(crate) salt: Salt,
    pub(crate) commitment: Commitment,
}

impl Segment {
    /// Returns the length of the sealed segment in bytes.
    pub fn sealed_bytes(&self) -> u64 {
        cobblestone::sealed_bytes(self.bytes)
    }

    /// Returns where a chunk ends in the sealed segment.
    pub(super) fn chunk_end(&self, chunk: u64) -> u64 {
        (HEADER_BYTES as u64 + (chunk + 1) * SEALED_CHUNK_BYTES as u64).min(self.sealed_bytes())
    }

    /// Returns the segment as 72 bytes, for the journal of an upload.
    pub fn to_bytes(&self) -> [u8; SEGMENT_RECORD_BYTES] {
        let mut out = [0; SEGMENT_RECORD_BYTES];
        out[..8].copy_from_slice(&self.ordinal.to_be_bytes());
        out[8..16].copy_from_slice(&self.bytes.to_be_bytes());
        out[16..40].copy_from_slice(&self.salt);
        out[40..].copy_from_slice(&self.commitment);
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) returned.
    pub fn from_bytes(bytes: &[u8; SEGMENT_RECORD_BYTES]) -> Self {
        let number =
            |at: usize| u64::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|n| bytes[at + n]));
        let (mut salt, mut commitment) = ([0; 24], [0; 32]);
        salt.copy_from_slice(&bytes[16..40]);
        commitment.copy_from_slice(&bytes[40..]);
        Self { ordinal: number(0), bytes: number(8), salt, commitment }
    }

    /// Returns the salt. Nothing else is ever sealed with it.
    pub fn salt(&self) -> &[u8; 24] {
        &self.salt
    }
}

/// The size of a file, and its segments in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    size: u64,
    segments: Vec<Segment>,
}

impl Layout {
    /// Lists the segments of a file of `size` bytes. What they hold beyond that is padding.
    ///
    /// # Errors
    /// [`SealError::Malformed`]: no segments, numbers that do not ascend, or too few bytes.
    /// [`SealError::TooLarge`]: more than 10 000 segments, or more than 2^48 bytes.
    pub fn new(size: u64, segments: Vec<Segment>) -> Result<Self, SealError> {
        SealError::limit("a file (segments)", segments.len(), SEGMENTS_MAX)?;
        let malformed = |why| Err(SealError::Malformed { what: WHAT, why });
        if segments.is_empty() {
            return malformed("there is no segment");
        }
        if !segments.is_sorted_by(|one, next| one.ordinal < next.ordinal) {
            return malformed("the numbers of its segments do not ascend");
        }
        let held = segments.iter().try_fold(0_u64, |sum, segment| {
            sum.checked_add(segment.bytes).filter(|sum| *sum <= BYTES_MAX)
        });
        match held {
            None => {
                Err(SealError::TooLarge { what: "a file (bytes)", found: u64::MAX, max: BYTES_MAX })
            }
            Some(held) if held < size => malformed("its segments hold less than its size"),
            Some(_) => Ok(Self { size, segments }),
        }
    }

    /// Returns the size of the content in bytes, without padding.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the segments in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Returns the length of all sealed segments in bytes: where the trailer begins.
    pub fn sealed_bytes(&self) -> u64 {
        self.segments.iter().map(Segment::sealed_bytes).sum()
    }

    /// Returns segment, its offset in the padded content, and its offset in the body, of a byte of the content.
    pub(super) fn place(&self, byte: u64) -> (usize, u64, u64) {
        let (mut plain, mut sealed) = (0, 0);
        for (index, segment) in self.segments.iter().enumerate() {
            if byte < plain + segment.bytes || index + 1 == self.segments.len() {
                return (index, plain, sealed);
            }
            plain += segment.bytes;
            sealed += segment.sealed_bytes();
        }
        (0, 0, 0)
    }

    /// Returns how many sealed bytes of each segment are hashed: all of it, and of the last one with content the
    /// chunks up to the end of the content. Chunks that hold padding alone are not read, so they are not hashed.
    pub(super) fn hashed(&self) -> Vec<u64> {
        let end = self.size.saturating_sub(1);
        let (last, start, _) = self.place(end);
        let whole = self.segments[..last].iter().map(Segment::sealed_bytes);
        let part = self.segments[last].chunk_end((end - start) / CHUNK_BYTES as u64);
        whole.chain([part]).collect()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(16 + 80 * self.segments.len());
        out.array(2).uint(self.size).array(self.segments.len());
        for segment in &self.segments {
            out.array(4).uint(segment.ordinal).uint(segment.bytes);
            out.bytes(&segment.salt).bytes(&segment.commitment);
        }
        out.written().to_vec()
    }

    pub(crate) fn decode(encoded: Vec<u8>) -> Result<Self, SealError> {
        let (encoded, malformed) = (encoded.into(), SealError::in_cbor(WHAT));
        let mut reader = Reader::new(&encoded);
        let (size, segments) = Self::read(&mut reader).map_err(malformed)?;
        Self::new(size, segments)
    }

    fn read(reader: &mut Reader<'_>) -> Result<(u64, Vec<Segment>), fula_core::cbor::Invalid> {
        reader.tuple(2)?;
        let size = reader.uint()?;
        let count = reader.array()?;
        let mut segments = Vec::with_capacity(count.min(SEGMENTS_MAX));
        for _ in 0..count {
            reader.tuple(4)?;
            segments.push(Segment {
                ordinal: reader.uint()?,
                bytes: reader.uint()?,
                salt: reader.array_of()?,
                commitment: reader.array_of()?,
            });
        }
        reader.end()?;
        Ok((size, segments))
    }
}

impl Layout {
    /// Returns how many bytes of the content each segment has. Segments that are padding alone have no entry.
    pub fn content_bytes(&self) -> Vec<u64> {
        let mut left = self.size;
        let lengths = self.segments.iter().map(|segment| {
            let bytes = segment.bytes.min(left);
            left -= bytes;
            bytes
        });
        lengths.take_while(|bytes| *bytes > 0).collect()
    }
}
