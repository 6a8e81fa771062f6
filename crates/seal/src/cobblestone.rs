//! Cobblestone-256: c2sp.org/chunked-encryption with SHA-512 and AES-256-GCM.
//!
//! A message is a header of a salt and a commitment, then chunks of 16 KiB, of which the last is shorter.
//! The commitment makes sure that only one key opens a message. Each chunk has a tag of its own, so a range is
//! read without the rest, and nothing is handed out before its tag was verified.

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA512, KeyType, Prk},
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::SealError;

/// Plaintext bytes of every chunk but the last.
pub(crate) const CHUNK_BYTES: usize = 16 * 1024;
/// Bytes of an authentication tag.
pub(crate) const TAG_BYTES: usize = 16;
/// Bytes of a sealed chunk, except the last.
pub(crate) const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;
/// Bytes before the first chunk: the salt and the commitment.
pub(crate) const HEADER_BYTES: usize = SALT_BYTES + COMMITMENT_BYTES;

const SALT_BYTES: usize = 24;
const COMMITMENT_BYTES: usize = 32;
const INFO: &[u8] = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0";

/// The salt of a message. It never repeats under one key.
pub(crate) type Salt = [u8; SALT_BYTES];
/// What a message commits to: which key, salt and context opened it.
pub(crate) type Commitment = [u8; COMMITMENT_BYTES];

/// Returns the length of the message of `plain` bytes.
pub(crate) fn sealed_bytes(plain: u64) -> u64 {
    let chunks = plain / CHUNK_BYTES as u64 + 1;
    HEADER_BYTES as u64 + plain + chunks * TAG_BYTES as u64
}

/// Returns the length of what a message of `sealed` bytes holds, or `None` if no message has this length.
pub(crate) fn plain_bytes(sealed: u64) -> Option<u64> {
    let chunks = sealed.checked_sub(HEADER_BYTES as u64)?;
    let last = (chunks % SEALED_CHUNK_BYTES as u64).checked_sub(TAG_BYTES as u64)?;
    Some(chunks / SEALED_CHUNK_BYTES as u64 * CHUNK_BYTES as u64 + last)
}

struct Derived;

impl KeyType for Derived {
    fn len(&self) -> usize {
        32 + 12 + COMMITMENT_BYTES
    }
}

/// The keys of one message.
pub(crate) struct Message {
    key: LessSafeKey,
    base_nonce: [u8; 12],
    commitment: Commitment,
}

impl Message {
    /// Derives the keys of a message.
    pub(crate) fn derive(input_key: &[u8; 32], salt: &Salt, context: &[&[u8]]) -> Self {
        let mut out = Zeroizing::new([0; 32 + 12 + COMMITMENT_BYTES]);
        let info = [&[INFO, salt.as_slice()], context].concat();
        Prk::new_less_safe(HKDF_SHA512, input_key)
            .expand(&info, Derived)
            .and_then(|okm| okm.fill(out.as_mut_slice()))
            .expect("76 bytes are less than HKDF gives");
        let key = UnboundKey::new(&AES_256_GCM, &out[..32]).expect("a key of 32 bytes");
        let (mut base_nonce, mut commitment) = ([0; 12], [0; COMMITMENT_BYTES]);
        base_nonce.copy_from_slice(&out[32..44]);
        commitment.copy_from_slice(&out[44..]);
        Self { key: LessSafeKey::new(key), base_nonce, commitment }
    }

    /// Returns the commitment.
    pub(crate) fn commitment(&self) -> Commitment {
        self.commitment
    }

    /// Returns whether the message commits to this key, salt and context.
    pub(crate) fn commits_to(&self, commitment: &Commitment) -> bool {
        self.commitment.ct_eq(commitment).into()
    }

    fn nonce(&self, chunk: u64) -> Nonce {
        let mut nonce = self.base_nonce;
        for (byte, counter) in nonce[4..].iter_mut().zip(chunk.to_be_bytes()) {
            *byte ^= counter;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals the chunk that begins at `start` of `out` in its place, and appends its tag.
    pub(crate) fn seal_chunk(&self, chunk: u64, start: usize, out: &mut Vec<u8>) {
        let nonce = self.nonce(chunk);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), &mut out[start..])
            .expect("a chunk is short");
        out.extend(tag.as_ref());
    }

    /// Seals a whole message.
    #[cfg(test)]
    pub(crate) fn seal(&self, salt: &Salt, plaintext: &[u8]) -> Vec<u8> {
        let mut out = [&salt[..], &self.commitment].concat();
        for at in 0..=plaintext.len() / CHUNK_BYTES {
            let (start, end) = (out.len(), plaintext.len().min((at + 1) * CHUNK_BYTES));
            out.extend(&plaintext[at * CHUNK_BYTES..end]);
            self.seal_chunk(at as u64, start, &mut out);
        }
        out
    }

    /// Opens a chunk, and appends its plaintext to `out`.
    ///
    /// # Errors
    /// [`SealError::Damaged`]: nothing was appended.
    pub(crate) fn open_chunk(
        &self,
        chunk: u64,
        sealed: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let opened = self.key.open_in_place(self.nonce(chunk), Aad::empty(), sealed);
        out.extend(&*opened.map_err(|_| SealError::Damaged { what: "the content" })?);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
