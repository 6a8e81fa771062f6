//! Reads and writes files that hold the private key of a wallet, encrypted with a password. The format is
//! Web3 Secret Storage version 3, which geth, Foundry and eth-account use as well.

use aes::Aes128;
use ctr::cipher::{KeyIvInit, StreamCipher};
use fula_identity::wallet::{WalletKey, keccak};
use fula_service::Random;
use serde::{Deserialize, Serialize};
use serde_json::json;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Cost of scrypt in the files that are written, as a power of two: 2^18 rounds take 256 MiB, as in geth.
const SCRYPT_LOG_N: u8 = 18;

/// Largest cost that is accepted from a file, so that a file cannot make the process take all memory.
const SCRYPT_LOG_N_MAX: u8 = 20;
const SCRYPT_RP_MAX: u32 = 64;
const PBKDF2_ROUNDS_MAX: u32 = 10_000_000;

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeystoreError {
    /// The file is no key file of version 3, or it uses an unsupported cipher or key derivation.
    #[error("not an encrypted key file (Web3 Secret Storage, version 3): {0} cannot be used")]
    Form(&'static str),
    /// The password does not open the file. Try another password.
    #[error("the password is wrong")]
    Password,
}

#[derive(Deserialize)]
struct Keystore {
    version: u32,
    #[serde(alias = "Crypto")]
    crypto: Crypto,
}

#[derive(Deserialize)]
struct Crypto {
    cipher: String,
    cipherparams: CipherParams,
    ciphertext: String,
    kdf: String,
    kdfparams: KdfParams,
    mac: String,
}

#[derive(Serialize, Deserialize)]
struct CipherParams {
    iv: String,
}

#[derive(Deserialize)]
struct KdfParams {
    dklen: usize,
    salt: String,
    n: Option<u64>,
    r: Option<u32>,
    p: Option<u32>,
    c: Option<u32>,
    prf: Option<String>,
}

fn bytes<const N: usize>(text: &str, what: &'static str) -> Result<[u8; N], KeystoreError> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| KeystoreError::Form(what))?;
    Ok(bytes)
}

impl KdfParams {
    fn derive(&self, kdf: &str, password: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
        const BAD: KeystoreError = KeystoreError::Form("its kdfparams");
        let salt = hex::decode(&self.salt).map_err(|_| BAD)?;
        if self.dklen != 32 {
            return Err(BAD);
        }
        let mut key = Zeroizing::new([0; 32]);
        match (kdf, self.n, self.r, self.p, self.c, self.prf.as_deref()) {
            ("scrypt", Some(n), Some(r), Some(p), _, _) => {
                let log_n = u8::try_from(n.trailing_zeros()).map_err(|_| BAD)?;
                if !n.is_power_of_two()
                    || log_n > SCRYPT_LOG_N_MAX
                    || r.saturating_mul(p) > SCRYPT_RP_MAX
                {
                    return Err(BAD);
                }
                let params = scrypt::Params::new(log_n, r, p).map_err(|_| BAD)?;
                scrypt::scrypt(password, &salt, &params, key.as_mut_slice()).map_err(|_| BAD)?;
            }
            ("pbkdf2", _, _, _, Some(rounds), Some("hmac-sha256")) => {
                if !(1..=PBKDF2_ROUNDS_MAX).contains(&rounds) {
                    return Err(BAD);
                }
                pbkdf2::pbkdf2_hmac::<sha2::Sha256>(password, &salt, rounds, key.as_mut_slice());
            }
            _ => return Err(BAD),
        }
        Ok(key)
    }
}

fn crypt(key: &[u8; 32], iv: &[u8; 16], data: &mut [u8]) {
    let [first @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = key;
    ctr::Ctr128BE::<Aes128>::new(&(*first).into(), &(*iv).into()).apply_keystream(data);
}

fn mac(key: &[u8; 32], ciphertext: &[u8]) -> [u8; 32] {
    keccak(&[&key[16..], ciphertext].concat())
}

/// Decrypts the key in the text of a key file.
///
/// # Errors
/// [`KeystoreError`].
pub(crate) fn decrypt(text: &str, password: &[u8]) -> Result<WalletKey, KeystoreError> {
    let file: Keystore = serde_json::from_str(text).map_err(|_| KeystoreError::Form("its JSON"))?;
    if file.version != 3 || file.crypto.cipher != "aes-128-ctr" {
        return Err(KeystoreError::Form("its version or cipher"));
    }
    let mut secret = Zeroizing::new(bytes::<32>(&file.crypto.ciphertext, "its ciphertext")?);
    let expected = bytes::<32>(&file.crypto.mac, "its mac")?;
    let iv = bytes::<16>(&file.crypto.cipherparams.iv, "its iv")?;
    let key = file.crypto.kdfparams.derive(&file.crypto.kdf, password)?;
    if !bool::from(mac(&key, secret.as_slice()).ct_eq(&expected)) {
        return Err(KeystoreError::Password);
    }
    crypt(&key, &iv, secret.as_mut_slice());
    WalletKey::new(&secret).ok_or(KeystoreError::Form("its key"))
}

/// Encrypts a key with a password, and returns the text of a key file.
///
/// # Errors
/// [`KeystoreError::Form`], which does not occur with the parameters used here.
pub(crate) fn encrypt(
    wallet: &WalletKey,
    password: &[u8],
    random: &Random,
) -> Result<String, KeystoreError> {
    let (mut salt, mut iv, mut id) = ([0; 32], [0; 16], [0; 16]);
    random(&mut salt);
    random(&mut iv);
    random(&mut id);
    let params = KdfParams {
        dklen: 32,
        salt: hex::encode(salt),
        n: Some(1 << SCRYPT_LOG_N),
        r: Some(8),
        p: Some(1),
        c: None,
        prf: None,
    };
    let key = params.derive("scrypt", password)?;
    let mut secret = wallet.to_bytes();
    crypt(&key, &iv, secret.as_mut_slice());
    let file = json!({
        "version": 3,
        "id": hex::encode(id),
        "address": wallet.address().to_string().trim_start_matches("0x"),
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": hex::encode(iv)},
            "ciphertext": hex::encode(secret.as_slice()),
            "kdf": "scrypt",
            "kdfparams": {
                "dklen": 32, "n": 1 << SCRYPT_LOG_N, "r": 8, "p": 1, "salt": params.salt,
            },
            "mac": hex::encode(mac(&key, secret.as_slice())),
        },
    });
    Ok(format!("{file:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of the Web3 Secret Storage definition; both hold the same key.
    const SECRET: &str = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";
    const PBKDF2: &str = r#"{"crypto": {"cipher": "aes-128-ctr",
        "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
        "kdf": "pbkdf2", "kdfparams": {"c": 262144, "dklen": 32, "prf": "hmac-sha256",
        "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"},
        "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"},
        "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6", "version": 3}"#;
    const SCRYPT: &str = r#"{"crypto": {"cipher": "aes-128-ctr",
        "cipherparams": {"iv": "83dbcc02d8ccb40e466191a123791e0e"},
        "ciphertext": "d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c",
        "kdf": "scrypt", "kdfparams": {"dklen": 32, "n": 262144, "p": 8, "r": 1,
        "salt": "ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"},
        "mac": "2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"},
        "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6", "version": 3}"#;

    #[test]
    fn the_files_of_the_definition_open() {
        for file in [PBKDF2, SCRYPT] {
            let key = decrypt(file, b"testpassword").unwrap();
            assert_eq!(hex::encode(*key.to_bytes()), SECRET);
        }
        assert!(matches!(decrypt(PBKDF2, b"other"), Err(KeystoreError::Password)));
    }

    #[test]
    fn what_is_written_opens_again() {
        let key = WalletKey::new(&[5; 32]).unwrap();
        let file = encrypt(&key, b"secret", &fula_service::system_random()).unwrap();
        assert!(!file.contains(&hex::encode([5; 32])));
        assert_eq!(decrypt(&file, b"secret").unwrap().address(), key.address());
        assert!(matches!(decrypt(&file, b"Secret"), Err(KeystoreError::Password)));
    }

    #[test]
    fn costs_from_a_file_are_bounded() {
        for (from, to) in [("262144", "4611686018427387904"), ("\"r\": 1", "\"r\": 4294967295")] {
            let file = SCRYPT.replace(from, to);
            assert!(matches!(decrypt(&file, b"testpassword"), Err(KeystoreError::Form(_))));
        }
        let file = PBKDF2.replace("262144", "4294967295");
        assert!(matches!(decrypt(&file, b"testpassword"), Err(KeystoreError::Form(_))));
        assert!(matches!(decrypt("{}", b""), Err(KeystoreError::Form(_))));
    }
}
