//! The field of a record that says how its content is encrypted (docs/adr/0053).

use bytes::Bytes;

use crate::{
    cbor::{Invalid, Reader, Writer},
    error::StoreError,
};

/// Version of the format.
const VERSION: u64 = 1;

/// Number that a body is encrypted with, so that no two bodies share a key stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt(pub [u8; 16]);

/// The encrypted data key of an object, and what is needed to decrypt it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedKey {
    /// Id of the master key.
    pub master: [u8; 8],
    /// Number from which the key that encrypts the data key is derived.
    pub nonce: [u8; 24],
    /// The encrypted data key, with its tag.
    pub sealed: [u8; 48],
    /// Salt of the content as a whole; `None` if each of its parts has its own, in the table of parts.
    pub salt: Option<Salt>,
}

impl SealedKey {
    /// Encodes the field: `[1, master 8, nonce 24, sealed 48, salt 16|null]`.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(112);
        out.array(5).uint(VERSION).bytes(&self.master).bytes(&self.nonce).bytes(&self.sealed);
        match &self.salt {
            Some(salt) => out.bytes(&salt.0),
            None => out.null(),
        };
        out.finish()
    }

    /// Decodes the field.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] for anything else, also for a later version of the format.
    pub fn decode(bytes: &Bytes) -> Result<Self, StoreError> {
        let mut reader = Reader::new(bytes);
        let mut read = || {
            reader.tuple(5)?;
            if reader.uint()? != VERSION {
                return Err(Invalid("encrypted in a format that this version does not know"));
            }
            let (master, nonce, sealed) =
                (reader.array_of()?, reader.array_of()?, reader.array_of()?);
            let salt = if reader.null() { None } else { Some(Salt(reader.array_of()?)) };
            reader.end()?;
            Ok(Self { master, nonce, sealed, salt })
        };
        read().map_err(|invalid: Invalid| invalid.of("encryption of an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_round_trips_and_matches_the_vector() {
        for salt in [None, Some(Salt([4; 16]))] {
            let key = SealedKey { master: [1; 8], nonce: [2; 24], sealed: [3; 48], salt };
            let encoded = key.encode();
            assert_eq!(SealedKey::decode(&encoded).unwrap(), key);
            let end = salt.map_or("f6".to_owned(), |_| format!("50{}", "04".repeat(16)));
            let vector = format!(
                "850148{}5818{}5830{}{end}",
                "01".repeat(8),
                "02".repeat(24),
                "03".repeat(48)
            );
            assert_eq!(hex::encode(&encoded), vector);
            for length in 0..encoded.len() {
                assert!(SealedKey::decode(&encoded.slice(..length)).is_err());
            }
        }
        let mut later = SealedKey { master: [1; 8], nonce: [2; 24], sealed: [3; 48], salt: None }
            .encode()
            .to_vec();
        later[1] = 2;
        assert!(SealedKey::decode(&later.into()).is_err());
    }
}
