//! Sealed objects: content, names and keys of a *vault*, whose server learns nothing of them.
//!
//! - [`body`] seals a file as the body of an object: segments, a trailer and a footer.
//! - [`name`] seals what a listing shows of a file, and signs it.
//! - [`key`] derives every key, and the S3 keys that objects have.
//! - [`slot`] wraps the key of a vault for a device, a passphrase, 24 words, a wallet or another person.
//! - [`share`] is what a link to one file, or to a folder, carries.
//! - [`keyring`] holds the slots, the keys and the members, and says which change of it may be believed.
//!
//! Everything here is a pure function of its arguments. Randomness comes from an [`Entropy`] that the caller
//! passes; every salt and nonce is drawn from it inside this crate, so no caller can use one twice.
//! No plaintext is handed out before its tag was verified.
//!
//! Deliberately absent: HTTP, files, clocks, caches (the client), and ciphers of other kinds (one suite).
//!
//! Decisions: docs/adr/0051 and 0058. Format: docs/format.md.
//!
//! # Examples by task
//!
//! | task | example |
//! |---|---|
//! | seal a file, open it again | below |
//! | make a vault, invite a person, open what a server stored | [`keyring`] |
//! | make an identity from words or a passphrase | [`slot`] |
//! | keep a vault on a gateway | module `vault` of the crate `fula-client` |
//!
//! # Example
//!
//! ```
//! use fula_seal::{
//!     Entropy, SealError, VaultPath,
//!     body::{FileSealer, Layout, Metadata},
//!     key::{Secret, VaultId, VaultKeys},
//!     signature::SigningKey,
//! };
//!
//! # struct Counter(u64);
//! # impl Entropy for Counter {
//! #     fn fill(&mut self, out: &mut [u8]) -> Result<(), SealError> {
//! #         self.0 += 1;
//! #         blake3::Hasher::new().update(&self.0.to_be_bytes()).finalize_xof().fill(out);
//! #         Ok(())
//! #     }
//! # }
//! # let mut entropy = Counter(0);
//! let keys = VaultKeys::generate(VaultId([7; 16]), &mut entropy)?;
//! let sealer = FileSealer::new(&keys, &mut entropy)?;
//! let (segment, mut object) = sealer.seal_segment(0, b"attack at dawn", &mut entropy)?;
//! let layout = Layout::new(14, vec![segment])?;
//! let metadata = Metadata::of(VaultPath::new(b"plans/today.txt")?);
//! // The name of the object is sealed for `ending.anchor`, and can be sent before the content.
//! let mut ending = sealer.plan_end(&layout, &metadata, &mut entropy)?;
//! ending.update(&object);
//! let device = SigningKey::from_seed(&Secret::new([1; 32]));
//! object.extend(ending.sign(&device)?);
//!
//! let opened = fula_seal::body::open_whole(&keys, &object)?;
//! assert_eq!(opened.content, b"attack at dawn");
//! assert_eq!(opened.metadata.path.as_bytes(), b"plans/today.txt");
//! # Ok::<(), SealError>(())
//! ```

mod aead;
mod bech32;
pub mod body;
mod cobblestone;
mod error;
mod journal;
pub mod key;
pub mod keyring;
pub mod name;
mod padding;
pub mod share;
pub mod signature;
pub mod slot;
#[cfg(test)]
mod testing;
mod text;
#[cfg(test)]
mod vectors;

pub use self::{
    error::SealError,
    journal::{JournalHasher, JournalKey},
    key::{BodyKey, FileId, SealedKey, VaultId, VaultKeys, VaultPath},
    padding::Padding,
};

/// Suite of everything that this crate writes, and the only one that it reads: Cobblestone-256, AES-256-GCM,
/// BLAKE3, X-Wing HPKE, Ed25519.
pub const SUITE: u8 = 1;

/// A source of random bytes.
///
/// Implementors fill from the random number generator of the operating system. Tests pass one that repeats.
pub trait Entropy {
    /// Fills `out` with random bytes that nobody can predict.
    ///
    /// # Errors
    /// [`SealError::NoEntropy`]: the generator failed; nothing may be sealed.
    fn fill(&mut self, out: &mut [u8]) -> Result<(), SealError>;
}

/// Draws an array of random bytes.
fn draw<const N: usize>(entropy: &mut dyn Entropy) -> Result<[u8; N], SealError> {
    let mut out = [0; N];
    entropy.fill(&mut out)?;
    Ok(out)
}
