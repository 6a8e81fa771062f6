//! Identities: the seed behind a slot.

use bip39::{Language, Mnemonic};
use zeroize::Zeroizing;

use crate::{
    Entropy, SealError, VaultId, bech32,
    key::Secret,
    signature::SigningKey,
    slot::{
        PassphraseCost, Recipient, WalletSalt,
        recipient::{self, ENCAPSULATED_BYTES, WRAPPED_BYTES},
        wallet,
    },
};

const AGE_PREFIX: &str = "age-secret-key-pq-";

/// A seed of 32 bytes, and the two key pairs that follow from it: X-Wing opens slots, Ed25519 signs.
#[derive(Debug)]
pub struct Identity {
    seed: Secret,
    signing_key: SigningKey,
}

impl Identity {
    /// Returns the identity of a seed.
    pub fn from_seed(seed: Secret) -> Self {
        let signing_key = SigningKey::from_seed(&seed.derive("fula 2026 slot signature", &[]));
        Self { seed, signing_key }
    }

    /// Draws an identity, for a device or to be written down as words.
    ///
    /// # Errors
    /// [`SealError::NoEntropy`].
    pub fn generate(entropy: &mut dyn Entropy) -> Result<Self, SealError> {
        Secret::generate(entropy).map(Self::from_seed)
    }

    /// Derives an identity from a passphrase. It takes as much memory and time as the cost says. The caller
    /// normalises the passphrase, so that it is the same bytes on every keyboard.
    ///
    /// # Errors
    /// [`SealError::Malformed`]: the passphrase is too long.
    pub fn from_passphrase(passphrase: &str, cost: &PassphraseCost) -> Result<Self, SealError> {
        cost.seed(passphrase).map(Self::from_seed)
    }

    /// Reads 24 English words of BIP 39, in any case and with any spaces between.
    ///
    /// # Errors
    /// [`SealError::Malformed`]: another number of words, an unknown word, or a wrong checksum.
    pub fn from_words(words: &str) -> Result<Self, SealError> {
        let malformed = |why| SealError::Malformed { what: "the mnemonic", why };
        let lower = Zeroizing::new(words.to_ascii_lowercase());
        let words = Zeroizing::new(lower.split_whitespace().collect::<Vec<_>>().join(" "));
        let mnemonic = Mnemonic::parse_in_normalized(Language::English, &words);
        let mnemonic = mnemonic.map_err(|error| {
            malformed(match error {
                bip39::Error::UnknownWord(_) => "a word is not in the list: it was mistyped",
                bip39::Error::InvalidChecksum => "its checksum is wrong: a word was mistaken",
                _ => "it has 24 words",
            })
        })?;
        let (entropy, len) = mnemonic.to_entropy_array();
        let entropy = Zeroizing::new(entropy);
        let seed = entropy[..len].try_into().map_err(|_| malformed("it has 24 words"))?;
        Ok(Self::from_seed(Secret::new(seed)))
    }

    /// Returns the seed as 24 English words of BIP 39.
    ///
    /// # Panics
    /// Never: 32 bytes are 24 words.
    pub fn to_words(&self) -> Zeroizing<String> {
        let mnemonic = Mnemonic::from_entropy(self.seed.expose()).expect("32 bytes are 24 words");
        Zeroizing::new(mnemonic.words().collect::<Vec<_>>().join(" "))
    }

    /// Derives an identity from the signature of [`wallet_message`](super::wallet_message), to open a vault.
    ///
    /// # Errors
    /// [`SealError::Malformed`]: no wallet makes such a signature.
    pub fn from_wallet(
        vault: VaultId,
        salt: &WalletSalt,
        signature: &[u8; 65],
    ) -> Result<Self, SealError> {
        wallet::seed(vault, salt, signature).map(Self::from_seed)
    }

    /// Derives an identity from two signatures of the same message, to make a slot.
    ///
    /// # Errors
    /// [`SealError::UnstableWallet`]: they differ, so the slot would never open again.
    pub fn enrol_wallet(
        vault: VaultId,
        salt: &WalletSalt,
        signatures: [&[u8; 65]; 2],
    ) -> Result<Self, SealError> {
        if signatures[0][..64] != signatures[1][..64] {
            return Err(SealError::UnstableWallet);
        }
        Self::from_wallet(vault, salt, signatures[0])
    }

    /// Reads an identity of age: `AGE-SECRET-KEY-PQ-1…`, as `age-keygen -pq` writes it.
    ///
    /// # Errors
    /// [`SealError::Malformed`].
    pub fn from_age(text: &str) -> Result<Self, SealError> {
        let what = "the age identity";
        let bytes = bech32::read_bech32(what, AGE_PREFIX, text.trim())?;
        let seed = bytes.as_slice().try_into();
        let malformed = SealError::Malformed { what, why: "it has another length" };
        Ok(Self::from_seed(Secret::new(seed.map_err(|_| malformed)?)))
    }

    /// Returns the seed, to be stored where nobody else reads it.
    pub fn seed(&self) -> &Secret {
        &self.seed
    }

    /// Returns the key that signs what this identity writes.
    pub fn signing_key(&self) -> &SigningKey {
        &self.signing_key
    }

    /// Returns the public key that the key of a vault is wrapped for.
    pub fn recipient(&self) -> Recipient {
        Recipient::of_seed(&self.seed)
    }

    pub(super) fn unwrap(
        &self,
        vault: VaultId,
        encapsulated: &[u8; ENCAPSULATED_BYTES],
        sealed: &[u8; WRAPPED_BYTES],
    ) -> Result<Secret, SealError> {
        recipient::unwrap(&self.seed, vault, encapsulated, sealed)
    }
}
