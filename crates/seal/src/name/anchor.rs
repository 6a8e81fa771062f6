//! What a name says about the body, in public.

use crate::{
    FileId, SUITE, SealError,
    body::{Footer, Segment},
    name::DIGEST_BYTES,
    signature::{DeviceId, SIGNATURE_BYTES},
    text,
};

const WHAT: &str = "the record of the body";
const ANCHOR_BYTES: usize = 132;
/// Bytes that are signed: the anchor and the device.
const SIGNED_BYTES: usize = ANCHOR_BYTES + 8;
const KEPT_BYTES: usize = SIGNED_BYTES + SIGNATURE_BYTES;

/// Which body belongs to a name: the footer, the hash of the trailer, and the first segment.
///
/// `epoch u32 ‖ suite ‖ flags ‖ hashes u16 ‖ file id 32 ‖ trailer length u32 ‖ BLAKE3 of the trailer 32 ‖
/// salt 24 ‖ commitment 32`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Anchor([u8; ANCHOR_BYTES]);

impl Anchor {
    pub(crate) fn new(footer: &Footer, trailer: &[u8], first: &Segment) -> Self {
        let mut out = [0; ANCHOR_BYTES];
        out[..4].copy_from_slice(&footer.epoch.to_be_bytes());
        out[4] = SUITE;
        out[6..8].copy_from_slice(&footer.hashes.to_be_bytes());
        out[8..40].copy_from_slice(&footer.file.0);
        out[40..44].copy_from_slice(&footer.trailer_bytes.to_be_bytes());
        out[44..76].copy_from_slice(blake3::hash(trailer).as_bytes());
        out[76..100].copy_from_slice(&first.salt);
        out[100..].copy_from_slice(&first.commitment);
        Self(out)
    }

    fn parse(bytes: [u8; ANCHOR_BYTES]) -> Result<Self, SealError> {
        if bytes[4] != SUITE {
            return Err(SealError::Unsupported { what: WHAT, found: bytes[4].into() });
        }
        if bytes[5] != 0 {
            return Err(SealError::Malformed { what: WHAT, why: "unknown flags" });
        }
        Ok(Self(bytes))
    }

    /// Returns the footer of the body.
    pub fn footer(&self) -> Footer {
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|n| self.0[at + n]));
        let hashes = u16::from_be_bytes([self.0[6], self.0[7]]);
        let mut file = [0; 32];
        file.copy_from_slice(&self.0[8..40]);
        Footer { trailer_bytes: word(40), epoch: word(0), hashes, file: FileId(file) }
    }

    /// Returns whether a footer and a trailer are those of the body.
    pub(crate) fn is_of(&self, footer: &Footer, trailer: &[u8]) -> bool {
        *footer == self.footer() && self.0[44..76] == *blake3::hash(trailer).as_bytes()
    }

    /// Returns whether a segment is the first of the body.
    pub(crate) fn is_first(&self, segment: &Segment) -> bool {
        self.0[76..100] == segment.salt && self.0[100..] == segment.commitment
    }

    /// Returns the layout of a body that has one segment only, so that it is read in one request. `body_bytes`
    /// is the length of the object. The end of the segment proves the length.
    ///
    /// # Errors
    /// [`SealError::Truncated`]: no body of one segment has this length.
    pub fn single_segment(
        &self,
        size: u64,
        body_bytes: u64,
    ) -> Result<crate::body::Layout, SealError> {
        let sealed = self.footer().trailer_range(body_bytes)?.start;
        let truncated = SealError::Truncated { what: "the content" };
        let bytes = crate::cobblestone::plain_bytes(sealed).ok_or(truncated)?;
        let (mut salt, mut commitment) = ([0; 24], [0; 32]);
        salt.copy_from_slice(&self.0[76..100]);
        commitment.copy_from_slice(&self.0[100..]);
        crate::body::Layout::new(size, vec![Segment { ordinal: 0, bytes, salt, commitment }])
    }
}

impl std::fmt::Debug for Anchor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Anchor").field(&self.footer()).finish()
    }
}

/// The value of `fula-k`: an anchor, the device that wrote the name, and its signature. Not verified yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The body.
    pub anchor: Anchor,
    /// The device that claims to have written the name.
    pub device: DeviceId,
    pub(crate) signature: [u8; SIGNATURE_BYTES],
}

impl Kept {
    /// Reads a value of `fula-k`. Verifies nothing.
    ///
    /// # Errors
    /// [`SealError::Malformed`], [`SealError::Unsupported`].
    pub fn parse(value: &str) -> Result<Self, SealError> {
        let bytes = text::read_base64url(WHAT, value, KEPT_BYTES)?;
        let Ok(bytes) = <[u8; KEPT_BYTES]>::try_from(bytes) else {
            return Err(SealError::Malformed { what: WHAT, why: "it has another length" });
        };
        let (mut anchor, mut device, mut signature) =
            ([0; ANCHOR_BYTES], [0; 8], [0; SIGNATURE_BYTES]);
        anchor.copy_from_slice(&bytes[..ANCHOR_BYTES]);
        device.copy_from_slice(&bytes[ANCHOR_BYTES..SIGNED_BYTES]);
        signature.copy_from_slice(&bytes[SIGNED_BYTES..]);
        Ok(Self { anchor: Anchor::parse(anchor)?, device: DeviceId(device), signature })
    }

    /// Returns the value of `fula-k`.
    pub(crate) fn to_text(&self) -> String {
        text::base64url(&[&self.signed()[..], &self.signature].concat())
    }

    /// Returns the bytes that are signed.
    pub(crate) fn signed(&self) -> [u8; SIGNED_BYTES] {
        signed(&self.anchor, self.device)
    }
}

/// Returns the bytes that a device signs for an anchor.
pub(crate) fn signed(anchor: &Anchor, device: DeviceId) -> [u8; SIGNED_BYTES] {
    let mut out = [0; SIGNED_BYTES];
    out[..ANCHOR_BYTES].copy_from_slice(&anchor.0);
    out[ANCHOR_BYTES..].copy_from_slice(&device.0);
    out
}

/// Returns the digest by which a name chooses an anchor and a device.
pub(crate) fn digest(signed: &[u8; SIGNED_BYTES]) -> [u8; DIGEST_BYTES] {
    let mut out = [0; DIGEST_BYTES];
    out.copy_from_slice(&blake3::hash(signed).as_bytes()[..DIGEST_BYTES]);
    out
}
