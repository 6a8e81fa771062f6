//! Which segments make up a file.

use fula_core::cbor::{Reader, Writer};

use crate::{
    SealError,
    cobblestone::{self, CHUNK_BYTES, Commitment, Salt},
};

const WHAT: &str = "the layout of the file";
/// Plaintext bytes of a segment of a file that is not huge: its sealed form fills 16 leaves of 1 MiB, with one
/// short chunk.
const SEGMENT_BYTES: u64 = 1022 * CHUNK_BYTES as u64;
/// Segments of a file, above which segments are larger. An upload has at most 10 000 parts.
const SEGMENTS_WANTED: u64 = 9000;
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
