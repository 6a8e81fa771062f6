//! The proof of the content: hashes of the sealed segments, signed by the device that sealed them.
//!
//! The signature of a name is made before the first byte of the content is sent, so it covers no byte of it. A member
//! who may only read has the keys of every file, and could seal other content under the salts that a name covers. The
//! proof is written last, and only a writer can sign it.

use std::mem;

use crate::{
    SealError, VaultId,
    body::{
        Footer, Layout,
        footer::{DEVICE_BYTES, HASH_BYTES},
    },
    signature::{DeviceId, PublicKey, SigningKey},
};

const PURPOSE: &str = "fula 2026 body";
const WHAT: &str = "the proof of the content";
const CONTENT: &str = "the content";

/// Hashes sealed content with BLAKE3, segment by segment, in pieces of any size. Bytes after the content are ignored.
#[derive(Clone)]
pub struct ContentHasher {
    /// Number of bytes of each segment that are hashed.
    lengths: Vec<u64>,
    /// Bytes of the segment at hand that are missing.
    left: u64,
    hasher: blake3::Hasher,
    hashes: Vec<[u8; HASH_BYTES]>,
}

impl ContentHasher {
    /// Begins to hash the content of a body.
    pub fn new(layout: &Layout) -> Self {
        let lengths = layout.hashed();
        let (left, hashes) = (lengths[0], Vec::with_capacity(lengths.len()));
        Self { lengths, left, hasher: blake3::Hasher::new(), hashes }
    }

    /// Returns the number of sealed bytes that are hashed: from the start of the body to the end of the content.
    pub(super) fn bytes(&self) -> u64 {
        self.lengths.iter().sum()
    }

    /// Takes the next sealed bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_complete() {
            let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            let (piece, rest) = bytes.split_at(taken);
            self.hasher.update(piece);
            self.left -= taken as u64;
            bytes = rest;
            if self.left == 0 {
                let hasher = mem::take(&mut self.hasher);
                self.hashes.push(*hasher.finalize().as_bytes());
                self.left = self.lengths.get(self.hashes.len()).copied().unwrap_or_default();
            }
        }
    }

    /// Takes the hash of a whole segment in place of its bytes.
    pub(super) fn known(&mut self, hash: [u8; HASH_BYTES]) {
        if !self.is_complete() {
            self.hashes.push(hash);
            self.left = self.lengths.get(self.hashes.len()).copied().unwrap_or_default();
        }
    }

    /// Returns the hash of a segment; `None` if not all of it was taken, or if it has no content.
    pub(super) fn hash(&self, segment: usize) -> Option<[u8; HASH_BYTES]> {
        self.hashes.get(segment).copied()
    }

    /// Goes on at the segment that begins with the sealed byte `start`, after segments whose hashes were compared
    /// before. Returns `None` if no segment begins there.
    pub(super) fn after(mut self, start: u64, proof: &Proof) -> Option<Self> {
        let mut at = 0;
        for hash in &proof.0 {
            if at >= start {
                break;
            }
            at += self.lengths.get(self.hashes.len())?;
            self.known(*hash);
        }
        (at == start).then_some(self)
    }

    fn is_complete(&self) -> bool {
        self.hashes.len() == self.lengths.len()
    }
}

impl std::fmt::Debug for ContentHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ContentHasher({} of {} segments)", self.hashes.len(), self.lengths.len())
    }
}

/// Returns what is signed: `vault id ‖ footer ‖ BLAKE3 of the trailer ‖ hashes`.
fn signed(vault: VaultId, footer: &Footer, trailer: &[u8], hashes: &[u8]) -> [Vec<u8>; 4] {
    let trailer = blake3::hash(trailer).as_bytes().to_vec();
    [vault.0.to_vec(), footer.to_bytes().to_vec(), trailer, hashes.to_vec()]
}

/// Signs the content of a body: `hash 32 … ‖ device id 8 ‖ signature 64`.
///
/// # Errors
/// [`SealError::Truncated`]: not all of the content was hashed.
pub(super) fn sign(
    vault: VaultId,
    (footer, trailer): (&Footer, &[u8]),
    content: &ContentHasher,
    device: &SigningKey,
) -> Result<Vec<u8>, SealError> {
    if !content.is_complete() {
        return Err(SealError::Truncated { what: CONTENT });
    }
    let mut out = content.hashes.concat();
    let parts = signed(vault, footer, trailer, &out);
    let signature = device.sign(PURPOSE, &parts.each_ref().map(Vec::as_slice));
    out.extend(device.id().0);
    out.extend(signature);
    Ok(out)
}

/// A proof whose signature was verified: the hashes of the sealed segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof(Vec<[u8; HASH_BYTES]>);

impl Proof {
    /// Verifies the proof of a body. `footer` is that of the name, so that nobody can take the proof away. `key_of`
    /// returns the key of a device if it may write in the epoch of the body. Returns `None` for bodies without a
    /// proof.
    ///
    /// # Errors
    /// [`SealError::Truncated`]: it has another length. [`SealError::NotSigned`]: no writer signed it.
    pub fn open(
        vault: VaultId,
        footer: &Footer,
        trailer: &[u8],
        proof: &[u8],
        key_of: impl FnOnce(DeviceId, u32) -> Option<PublicKey>,
    ) -> Result<Option<Self>, SealError> {
        if proof.len() != footer.proof_bytes() {
            return Err(SealError::Truncated { what: WHAT });
        }
        if footer.hashes == 0 {
            return Ok(None);
        }
        let (hashes, rest) = proof.split_at(usize::from(footer.hashes) * HASH_BYTES);
        let (device, signature) = rest.split_at(DEVICE_BYTES);
        let device = DeviceId(device.try_into().expect("8 bytes"));
        let parts = signed(vault, footer, trailer, hashes);
        let parts = parts.each_ref().map(Vec::as_slice);
        let is_signed = key_of(device, footer.epoch)
            .is_some_and(|public| public.verifies(PURPOSE, &parts, signature));
        if !is_signed {
            return Err(SealError::NotSigned { what: WHAT });
        }
        Ok(Some(Self(hashes.as_chunks().0.to_vec())))
    }

    /// Returns the hash of a segment; `None` for one without content.
    pub(super) fn hash(&self, segment: usize) -> Option<[u8; HASH_BYTES]> {
        self.0.get(segment).copied()
    }
}

/// Content that is compared with its proof while it arrives.
#[derive(Debug)]
pub(super) struct Comparison {
    pub(super) hasher: ContentHasher,
    pub(super) proof: Proof,
}

impl Comparison {
    /// Takes the next sealed bytes, whose tags were verified.
    ///
    /// # Errors
    /// [`SealError::Replaced`]: a segment is complete, and has another hash.
    pub(super) fn update(&mut self, bytes: &[u8]) -> Result<(), SealError> {
        let before = self.hasher.hashes.len();
        self.hasher.update(bytes);
        let found = &self.hasher.hashes[before..];
        let expected = self.proof.0.get(before..before + found.len());
        let is_last = self.hasher.is_complete();
        let is_same = expected == Some(found) && (!is_last || self.is_complete());
        if is_same { Ok(()) } else { Err(SealError::Replaced { what: CONTENT }) }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.hasher.is_complete() && self.hasher.hashes.len() == self.proof.0.len()
    }
}
