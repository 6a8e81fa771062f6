//! Master keys, and the data keys of objects, which are encrypted under them.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use fula_core::{
    Cid,
    bucket::{ObjectRecord, Salt, SealedKey, TextMap},
};
use quick_cache::sync::Cache;
use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use zeroize::Zeroizing;

use super::chunks::{BodyCipher, BodyKey, cipher, damaged};
use crate::error::ServiceError;

/// Number of buckets whose default encryption is kept in memory.
const DEFAULTS_MAX: usize = 256;

/// A key of the key file.
struct MasterKey {
    id: [u8; 8],
    key: Zeroizing<[u8; 32]>,
}

/// The keys that encrypt the data keys of objects. Clones share them. Debug output does not show them.
#[derive(Clone, Default)]
pub struct MasterKeys(Arc<Vec<MasterKey>>);

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.0.iter().map(|master| hex::encode(master.id));
        f.debug_tuple("MasterKeys").field(&ids.collect::<Vec<_>>()).finish()
    }
}

/// The key of one object.
#[derive(Clone)]
pub(crate) struct DataKey(Arc<Zeroizing<[u8; 32]>>);

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(…)")
    }
}

impl MasterKeys {
    /// Returns the keys that are derived from the secrets of a key file. The last one encrypts.
    pub(crate) fn derived<'a>(secrets: impl Iterator<Item = &'a [u8; 32]>) -> Self {
        let master = |secret: &[u8; 32]| {
            let id = blake3::derive_key("fula 2026 object encryption key id", secret);
            let mut short = [0; 8];
            short.copy_from_slice(&id[..8]);
            let key = blake3::derive_key("fula 2026 object encryption key", secret);
            MasterKey { id: short, key: Zeroizing::new(key) }
        };
        Self(Arc::new(secrets.map(master).collect()))
    }

    /// Returns the cipher for one data key. It encrypts nothing else, so its nonce is zero.
    fn sealing(master: &MasterKey, nonce: &[u8; 24]) -> Result<(LessSafeKey, Nonce), ServiceError> {
        let key = Zeroizing::new(*blake3::keyed_hash(&master.key, nonce).as_bytes());
        Ok((cipher(&key)?, Nonce::assume_unique_for_key([0; NONCE_LEN])))
    }

    /// Makes a data key.
    ///
    /// # Errors
    /// [`ServiceError::NoMasterKey`] if there is no master key.
    pub(crate) fn fresh(
        &self,
        random: &dyn Fn(&mut [u8]),
    ) -> Result<(DataKey, SealedKey), ServiceError> {
        let master = self.0.last().ok_or_else(|| ServiceError::NoMasterKey(String::new()))?;
        let (mut key, mut nonce) = (Zeroizing::new([0; 32]), [0; 24]);
        random(key.as_mut_slice());
        random(&mut nonce);
        let (cipher, zero) = Self::sealing(master, &nonce)?;
        let mut sealed = [0; 48];
        sealed[..32].copy_from_slice(key.as_slice());
        let tag = cipher.seal_in_place_separate_tag(zero, Aad::from(master.id), &mut sealed[..32]);
        let tag = tag.map_err(|_| ServiceError::bug("cannot encrypt a data key"))?;
        sealed[32..].copy_from_slice(tag.as_ref());
        let sealed = SealedKey { master: master.id, nonce, sealed, salt: None };
        Ok((DataKey(Arc::new(key)), sealed))
    }

    /// Decrypts the data key of a record.
    ///
    /// # Errors
    /// [`ServiceError::NoMasterKey`] if the master key is not there; [`ServiceError::Internal`] if the field
    /// was changed.
    pub(crate) fn open(&self, field: &Bytes) -> Result<(DataKey, SealedKey), ServiceError> {
        let sealed = SealedKey::decode(field)?;
        let master = self.0.iter().find(|master| master.id == sealed.master);
        let master = master.ok_or_else(|| ServiceError::NoMasterKey(hex::encode(sealed.master)))?;
        let (cipher, zero) = Self::sealing(master, &sealed.nonce)?;
        let mut bytes = Zeroizing::new(sealed.sealed);
        let opened = cipher.open_in_place(zero, Aad::from(master.id), bytes.as_mut_slice());
        let opened = opened.map_err(|_| damaged("the data key does not decrypt"))?;
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(opened);
        Ok((DataKey(Arc::new(key)), sealed))
    }
}

impl DataKey {
    /// Returns the key of the body with this salt.
    pub(crate) fn of_body(&self, salt: Salt) -> Result<BodyKey, ServiceError> {
        let key = Zeroizing::new(*blake3::keyed_hash(&self.0, &salt.0).as_bytes());
        Ok(BodyKey::new(cipher(&key)?))
    }
}

/// The master keys, and which buckets encrypt by default, by the address of their settings.
#[derive(Clone)]
pub(crate) struct Encryption {
    pub(super) keys: MasterKeys,
    pub(super) defaults: Arc<Cache<Cid, Option<TextMap>>>,
}

impl Default for Encryption {
    fn default() -> Self {
        Self { keys: MasterKeys::default(), defaults: Arc::new(Cache::new(DEFAULTS_MAX)) }
    }
}

/// The key of an object that is being written.
#[derive(Clone, Debug)]
pub(crate) struct ObjectCipher {
    pub(super) key: DataKey,
    pub(super) sealed: SealedKey,
}

impl ObjectCipher {
    /// Returns what encrypts one more body of the object, under a salt that is random.
    pub(crate) fn body(&self, salt: [u8; 16]) -> Result<BodyCipher, ServiceError> {
        let salt = Salt(salt);
        Ok(BodyCipher { key: self.key.of_body(salt)?, salt })
    }

    /// Returns the field of a record whose content is one body with this salt, or whose parts have salts of
    /// their own.
    pub(crate) fn field(&self, salt: Option<Salt>) -> Bytes {
        SealedKey { salt, ..self.sealed.clone() }.encode()
    }

    /// Returns whether a record is encrypted under the same data key.
    pub(crate) fn is_of(&self, record: &ObjectRecord) -> Result<bool, ServiceError> {
        let Some(field) = &record.sse else { return Ok(false) };
        Ok(SealedKey { salt: None, ..SealedKey::decode(field)? }
            == SealedKey { salt: None, ..self.sealed.clone() })
    }
}

/// Returns the salt of the content of a record as a whole.
pub(crate) fn salt_of(record: &ObjectRecord) -> Result<Option<Salt>, ServiceError> {
    let Some(field) = &record.sse else { return Ok(None) };
    Ok(SealedKey::decode(field)?.salt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::system_random;

    fn keys(secrets: &[u8]) -> MasterKeys {
        let secrets: Vec<[u8; 32]> = secrets.iter().map(|byte| [*byte; 32]).collect();
        MasterKeys::derived(secrets.iter())
    }

    #[test]
    fn the_last_key_encrypts_and_every_key_decrypts() {
        let random = system_random();
        let (old, sealed) = keys(&[1]).fresh(&*random).unwrap();
        let both = keys(&[1, 2]);
        assert_eq!(*both.open(&sealed.encode()).unwrap().0.0, *old.0);
        let (new, sealed) = both.fresh(&*random).unwrap();
        assert_eq!(*keys(&[2]).open(&sealed.encode()).unwrap().0.0, *new.0);
        let Err(ServiceError::NoMasterKey(id)) = keys(&[1]).open(&sealed.encode()) else {
            panic!("the key is not there");
        };
        assert_eq!(id, hex::encode(sealed.master));
        assert!(matches!(keys(&[]).fresh(&*random), Err(ServiceError::NoMasterKey(_))));
        assert_ne!(*old.0, *new.0);
        assert!(!format!("{both:?} {old:?}").contains(&hex::encode(old.0.as_slice())));
    }

    #[test]
    fn a_changed_data_key_does_not_decrypt() {
        let keys = keys(&[1]);
        let (_, sealed) = keys.fresh(&*system_random()).unwrap();
        for place in 0..48 {
            let mut changed = sealed.clone();
            changed.sealed[place] ^= 1;
            assert!(matches!(keys.open(&changed.encode()), Err(ServiceError::Internal(_))));
        }
        let mut changed = sealed;
        changed.nonce[0] ^= 1;
        assert!(keys.open(&changed.encode()).is_err());
    }

    /// Data keys that were stored must decrypt with every later version.
    #[test]
    fn a_data_key_of_the_first_version_decrypts() {
        let counting = |bytes: &mut [u8]| {
            for (byte, n) in bytes.iter_mut().zip(0..) {
                *byte = n;
            }
        };
        let (key, sealed) = keys(&[7]).fresh(&counting).unwrap();
        assert_eq!(hex::encode(sealed.encode()), VECTOR);
        let body = key.of_body(Salt([9; 16])).unwrap();
        assert_eq!(hex::encode(body.encrypt(0, Bytes::from_static(b"hello"), true).unwrap()), BODY);
        let opened = keys(&[7]).open(&sealed.encode()).unwrap().0;
        assert_eq!(*opened.0, *key.0);
    }

    const VECTOR: &str = "8501480e29f770eff7dbc95818000102030405060708090a0b0c0d0e0f101112131415161758301cf9f0\
                          bdbb433dad81e753a2ce502c268669e7ad87062daafa0bbca11b9342c28eb549218338ac5745323adfba\
                          f2720ff6";
    const BODY: &str = "2f51ff3ae6b75e3d5f69c6086800185a5c46d88971";
}
