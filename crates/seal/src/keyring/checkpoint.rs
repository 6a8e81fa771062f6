//! Checkpoints: what two clients compare by another way than the server.

use std::{fmt, str::FromStr};

use fula_core::Cid;

use crate::{
    SealError, VaultId, bech32,
    keyring::{document::Fingerprint, opening::Keyring},
};

const PREFIX: &str = "fulacheckpoint";
const WHAT: &str = "the checkpoint";
const WHAT_BUCKET: &str = "the bucket";
const VERSION: u8 = 1;
/// Bytes of the version, the vault, the fingerprint, the generation, the hash, and the version of the bucket.
const FIXED_BYTES: usize = 1 + 16 + 20 + 8 + 32 + 8;

/// A state of a vault that a client saw. As text it is one word with a checksum: `fulacheckpoint1…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The vault.
    pub vault: VaultId,
    /// Who made it.
    pub fingerprint: Fingerprint,
    /// Generation of the keyring.
    pub generation: u64,
    /// Hash of the keyring.
    pub keyring: [u8; 32],
    /// Version of the bucket.
    pub version: u64,
    /// Root of the bucket at this version.
    pub root: Cid,
}

impl Checkpoint {
    /// Returns the state that a client sees now.
    pub fn of(keyring: &Keyring, version: u64, root: Cid) -> Self {
        Self {
            vault: keyring.vault(),
            fingerprint: keyring.fingerprint(),
            generation: keyring.generation(),
            keyring: keyring.sealed().hash(),
            version,
            root,
        }
    }

    /// Compares with a state that was seen by another client, or earlier.
    ///
    /// # Errors
    /// - [`SealError::ForeignVault`]: the states are of two vaults.
    /// - [`SealError::RolledBack`]: `other` saw a newer keyring or bucket.
    /// - [`SealError::Forked`]: both saw the same generation or version, with different content.
    pub fn check_follows(&self, other: &Self) -> Result<(), SealError> {
        if (self.vault, self.fingerprint) != (other.vault, other.fingerprint) {
            return Err(SealError::ForeignVault);
        }
        let of_keyring = (self.generation, other.generation, self.keyring == other.keyring);
        let of_bucket = (self.version, other.version, self.root == other.root);
        for (what, (found, seen, is_same)) in
            [("the keyring", of_keyring), (WHAT_BUCKET, of_bucket)]
        {
            if found < seen {
                return Err(SealError::RolledBack { what, seen, found });
            }
            if found == seen && !is_same {
                return Err(SealError::Forked { what });
            }
        }
        Ok(())
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        bytes.extend(self.vault.0);
        bytes.extend(self.fingerprint.0);
        bytes.extend(self.generation.to_be_bytes());
        bytes.extend(self.keyring);
        bytes.extend(self.version.to_be_bytes());
        bytes.extend(self.root.to_bytes());
        f.write_str(&bech32::bech32(PREFIX, &bytes))
    }
}

impl FromStr for Checkpoint {
    type Err = SealError;

    fn from_str(text: &str) -> Result<Self, SealError> {
        let malformed = |why| SealError::Malformed { what: WHAT, why };
        SealError::limit("a checkpoint (characters)", text.len(), 512)?;
        let bytes = bech32::read_bech32(WHAT, PREFIX, text.trim())?;
        let (fixed, root) =
            bytes.split_at_checked(FIXED_BYTES).ok_or(SealError::Truncated { what: WHAT })?;
        if fixed[0] != VERSION {
            return Err(SealError::Unsupported { what: WHAT, found: fixed[0].into() });
        }
        let number = |at: usize| u64::from_be_bytes(array(&fixed[at..at + 8]));
        Ok(Self {
            vault: VaultId(array(&fixed[1..17])),
            fingerprint: Fingerprint(array(&fixed[17..37])),
            generation: number(37),
            keyring: array(&fixed[45..77]),
            version: number(77),
            root: Cid::from_bytes(root).map_err(|_| malformed("its root is no CID"))?,
        })
    }
}

/// Returns bytes whose number is known.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("as many bytes as were taken")
}
