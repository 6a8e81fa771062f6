//! The footer of a body: where its trailer is, and which keys open it.

use std::ops::Range;

use crate::{FileId, SUITE, SealError, signature::SIGNATURE_BYTES};

/// Length of the footer in bytes.
pub const FOOTER_BYTES: usize = 52;
/// Longest trailer in bytes: 10 000 segments, and the metadata of a file.
pub(super) const TRAILER_BYTES_MAX: usize = 1 << 20;
/// Length of a hash, and of the name of a device, in a proof.
pub(super) const HASH_BYTES: usize = 32;
pub(super) const DEVICE_BYTES: usize = 8;
const MAGIC: &[u8; 8] = b"FULASEAL";
const WHAT: &str = "the trailer of the file";

/// The footer of a body: `trailer length u32 ‖ epoch u32 ‖ suite ‖ flags ‖ hashes u16 ‖ file id 32 ‖ "FULASEAL"`.
/// It is public. The trailer authenticates it, and the name of the object has the same fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Length of the trailer in bytes.
    pub trailer_bytes: u32,
    /// Epoch of the keys.
    pub epoch: u32,
    /// Number of hashes in the signed proof of the content, one for each segment that has content. Bodies without a
    /// proof have 0.
    pub hashes: u16,
    /// The upload that sealed the body.
    pub file: FileId,
}

impl Footer {
    /// Returns whether bytes end as a sealed body does.
    pub fn is_at_end_of(body: &[u8]) -> bool {
        body.ends_with(MAGIC)
    }

    /// Reads the last [`FOOTER_BYTES`] bytes of a body.
    ///
    /// # Errors
    /// [`SealError::Malformed`] if it is no footer, [`SealError::Unsupported`] for another suite.
    pub fn parse(bytes: &[u8; FOOTER_BYTES]) -> Result<Self, SealError> {
        let malformed = |why| Err(SealError::Malformed { what: "the footer of the file", why });
        if !bytes.ends_with(MAGIC) {
            return malformed("it does not end in FULASEAL: the object is not sealed, or cut off");
        }
        let (fields, file) = bytes[..44].split_at(12);
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|n| fields[at + n]));
        let (trailer_bytes, epoch, suite) = (word(0), word(4), fields[8]);
        if suite != SUITE {
            return Err(SealError::Unsupported { what: "the file", found: suite.into() });
        }
        if fields[9] != 0 {
            return malformed("unknown flags");
        }
        let hashes = u16::from_be_bytes([fields[10], fields[11]]);
        let file = FileId(file.try_into().expect("32 bytes"));
        Ok(Self { trailer_bytes, epoch, hashes, file })
    }

    /// Returns the bytes of the footer.
    pub fn to_bytes(self) -> [u8; FOOTER_BYTES] {
        let mut out = [0; FOOTER_BYTES];
        out[..4].copy_from_slice(&self.trailer_bytes.to_be_bytes());
        out[4..8].copy_from_slice(&self.epoch.to_be_bytes());
        out[8] = SUITE;
        out[10..12].copy_from_slice(&self.hashes.to_be_bytes());
        out[12..44].copy_from_slice(&self.file.0);
        out[44..].copy_from_slice(MAGIC);
        out
    }

    /// Returns where the trailer lies in a body of `body_bytes` bytes.
    ///
    /// # Errors
    /// [`SealError::Truncated`]: the body is shorter than its trailer.
    /// [`SealError::TooLarge`]: no trailer is so long.
    pub fn trailer_range(&self, body_bytes: u64) -> Result<Range<u64>, SealError> {
        let len = usize::try_from(self.trailer_bytes).unwrap_or(usize::MAX);
        SealError::limit("a trailer (bytes)", len, TRAILER_BYTES_MAX)?;
        let end = body_bytes.checked_sub((FOOTER_BYTES + self.proof_bytes()) as u64);
        let start = end.and_then(|end| end.checked_sub(self.trailer_bytes.into()));
        start.zip(end).map(|(start, end)| start..end).ok_or(SealError::Truncated { what: WHAT })
    }

    /// Returns the length of the proof in bytes, which lies between the trailer and the footer; 0 if there is none.
    pub fn proof_bytes(&self) -> usize {
        match usize::from(self.hashes) {
            0 => 0,
            hashes => hashes * HASH_BYTES + DEVICE_BYTES + SIGNATURE_BYTES,
        }
    }
}
