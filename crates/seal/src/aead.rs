//! Short texts under AES-256-GCM: `nonce 12 ‖ ciphertext ‖ tag 16`, with a random nonce.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::{Entropy, SealError, draw, key::Secret};

const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// Bytes that a sealed text has more than the text.
pub(crate) const OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;

fn key_of(secret: &Secret) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, secret.expose()).expect("a key of 32 bytes"))
}

/// Seals a text under a fresh nonce. `authenticated` is joined; its parts have fixed lengths.
pub(crate) fn seal(
    key: &Secret,
    authenticated: &[&[u8]],
    text: &[u8],
    entropy: &mut dyn Entropy,
) -> Result<Vec<u8>, SealError> {
    let nonce: [u8; NONCE_BYTES] = draw(entropy)?;
    let mut out = Vec::with_capacity(text.len() + OVERHEAD_BYTES);
    out.extend(nonce);
    out.extend(text);
    let (nonce, aad) = (Nonce::assume_unique_for_key(nonce), Aad::from(authenticated.concat()));
    let tag = key_of(key).seal_in_place_separate_tag(nonce, aad, &mut out[NONCE_BYTES..]);
    out.extend(tag.expect("a text is short").as_ref());
    Ok(out)
}

/// Opens a text.
pub(crate) fn open(
    what: &'static str,
    key: &Secret,
    authenticated: &[&[u8]],
    sealed: &[u8],
) -> Result<Vec<u8>, SealError> {
    let (nonce, sealed) = sealed.split_first_chunk().ok_or(SealError::Truncated { what })?;
    let (nonce, aad) = (Nonce::assume_unique_for_key(*nonce), Aad::from(authenticated.concat()));
    let mut out = sealed.to_vec();
    let opened = key_of(key).open_in_place(nonce, aad, &mut out);
    let len = opened.map_err(|_| SealError::Damaged { what })?.len();
    out.truncate(len);
    Ok(out)
}
