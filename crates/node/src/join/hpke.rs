//! Hybrid public key encryption in base mode (RFC 9180), for one message: DHKEM(secp256k1, HKDF-SHA256) with the
//! KEM id 0x0016 of the registry, HKDF-SHA256 and AES-256-GCM.

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Nonce, Payload},
};
use fula_service::Random;
use hkdf::Hkdf;
use k256::{
    PublicKey, SecretKey,
    elliptic_curve::{point::AffineCoordinates, sec1::ToSec1Point},
};
use sha2::Sha256;
use zeroize::Zeroizing;

const KEM: u16 = 0x0016;
const KDF: u16 = 0x0001;
const AEAD: u16 = 0x0002;

/// Number of random draws for a key. A draw is no key with a probability of 2^-128.
const DRAWS: usize = 8;

/// A message that cannot be opened: it is damaged, or was sealed to another key.
#[derive(Debug, thiserror::Error)]
#[error("it is damaged, or was made for another key")]
pub(super) struct NotOpened;

/// Makes a key.
pub(super) fn generate(random: &Random) -> Option<SecretKey> {
    (0..DRAWS).find_map(|_| {
        let mut bytes = Zeroizing::new([0; 32]);
        random(bytes.as_mut_slice());
        SecretKey::from_slice(bytes.as_slice()).ok()
    })
}

fn kem_suite() -> Vec<u8> {
    [b"KEM".as_slice(), &KEM.to_be_bytes()].concat()
}

fn suite() -> Vec<u8> {
    [b"HPKE".as_slice(), &KEM.to_be_bytes(), &KDF.to_be_bytes(), &AEAD.to_be_bytes()].concat()
}

/// Returns a key of a longer one: `LabeledExtract` of section 4.
fn extract(suite: &[u8], salt: &[u8], label: &str, key: &[u8]) -> Zeroizing<Vec<u8>> {
    let input = Zeroizing::new([b"HPKE-v1", suite, label.as_bytes(), key].concat());
    let (extracted, _) = Hkdf::<Sha256>::extract(Some(salt), &input);
    Zeroizing::new(extracted.to_vec())
}

/// Returns `length` bytes of a key: `LabeledExpand` of section 4.
fn expand(suite: &[u8], key: &[u8], label: &str, info: &[u8], length: u8) -> Zeroizing<Vec<u8>> {
    let info = [&[0, length], b"HPKE-v1".as_slice(), suite, label.as_bytes(), info].concat();
    let mut out = Zeroizing::new(vec![0; usize::from(length)]);
    let expanded = Hkdf::<Sha256>::from_prk(key).map(|hkdf| hkdf.expand(&info, &mut out));
    debug_assert!(matches!(expanded, Ok(Ok(()))), "the lengths are right");
    out
}

/// Returns the shared secret of section 4.1.
fn shared(
    ours: &SecretKey,
    theirs: &PublicKey,
    encapsulated: &[u8],
    recipient: &[u8],
) -> Zeroizing<Vec<u8>> {
    let point = (theirs.to_projective() * *ours.to_nonzero_scalar()).to_affine();
    let dh = Zeroizing::new(point.x().to_vec());
    let suite = kem_suite();
    let secret = extract(&suite, b"", "eae_prk", &dh);
    expand(&suite, &secret, "shared_secret", &[encapsulated, recipient].concat(), 32)
}

/// Returns key and nonce of the first message of section 5.1, for a key of `key_length` bytes.
fn schedule(suite: &[u8], shared: &[u8], info: &[u8], key_length: u8) -> [Zeroizing<Vec<u8>>; 2] {
    let id = extract(suite, b"", "psk_id_hash", b"");
    let info = extract(suite, b"", "info_hash", info);
    let context = [&[0], id.as_slice(), &info].concat();
    let secret = extract(suite, shared, "secret", b"");
    [("key", key_length), ("base_nonce", 12)]
        .map(|(label, length)| expand(suite, &secret, label, &context, length))
}

fn cipher(shared: &[u8], info: &[u8]) -> Option<(Aes256Gcm, Nonce<Aes256Gcm>)> {
    let [key, nonce] = schedule(&suite(), shared, info, 32);
    let nonce: [u8; 12] = nonce.as_slice().try_into().ok()?;
    Some((Aes256Gcm::new_from_slice(&key).ok()?, nonce.into()))
}

fn encoded(key: &PublicKey) -> Vec<u8> {
    key.to_sec1_point(false).as_bytes().to_vec()
}

/// Seals a message to a key. Returns the encapsulated key and the sealed message; `None` if no key could be made.
pub(super) fn seal(
    to: &PublicKey,
    info: &[u8],
    associated: &[u8],
    message: &[u8],
    random: &Random,
) -> Option<(Vec<u8>, Vec<u8>)> {
    let ours = generate(random)?;
    let encapsulated = encoded(&ours.public_key());
    let shared = shared(&ours, to, &encapsulated, &encoded(to));
    let (cipher, nonce) = cipher(&shared, info)?;
    let sealed = cipher.encrypt(&nonce, Payload { msg: message, aad: associated }).ok()?;
    Some((encapsulated, sealed))
}

/// Opens a message that was sealed to the public key of `ours`.
///
/// # Errors
/// [`NotOpened`].
pub(super) fn open(
    ours: &SecretKey,
    info: &[u8],
    associated: &[u8],
    encapsulated: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
    let theirs = PublicKey::from_sec1_bytes(encapsulated).map_err(|_| NotOpened)?;
    let shared = shared(ours, &theirs, encapsulated, &encoded(&ours.public_key()));
    let (cipher, nonce) = cipher(&shared, info).ok_or(NotOpened)?;
    let opened = cipher.decrypt(&nonce, Payload { msg: sealed, aad: associated });
    opened.map(Zeroizing::new).map_err(|_| NotOpened)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Section A.1.1 of RFC 9180, which has the same key derivation and another KEM and cipher.
    #[test]
    fn the_key_schedule_is_that_of_the_rfc() {
        let suite = b"HPKE\x00\x20\x00\x01\x00\x01";
        let shared = "fe0e18c9f024ce43799ae393c7e8fe8fce9d218875e8227b0187c04e7d2ea1fc";
        let info = b"Ode on a Grecian Urn";
        let [key, nonce] = schedule(suite, &hex::decode(shared).unwrap(), info, 16);
        assert_eq!(hex::encode(&*key), "4531685d41d65f03dc48f6b8302c05b0");
        assert_eq!(hex::encode(&*nonce), "56d890e5accaaf011cff4b7d");
    }

    #[test]
    fn a_message_opens_with_its_key_its_purpose_and_unchanged() {
        let random = fula_service::system_random();
        let [key, other] = [(); 2].map(|()| generate(&random).unwrap());
        let (encapsulated, sealed) =
            seal(&key.public_key(), b"info", b"head", b"message", &random).unwrap();
        let opened = open(&key, b"info", b"head", &encapsulated, &sealed).unwrap();
        assert_eq!(&**opened, b"message");
        assert!(open(&other, b"info", b"head", &encapsulated, &sealed).is_err());
        assert!(open(&key, b"other", b"head", &encapsulated, &sealed).is_err());
        assert!(open(&key, b"info", b"other", &encapsulated, &sealed).is_err());
        assert!(open(&key, b"info", b"head", &sealed, &sealed).is_err());
        for at in [0, sealed.len() - 1] {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&key, b"info", b"head", &encapsulated, &changed).is_err());
        }
    }
}
