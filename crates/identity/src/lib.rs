//! Tokens in, identity out: who a request is from, as far as its token proves it.
//!
//! [`Policy::verify`] takes a token, the time and what this gateway accepts, and returns whose it
//! is and what it may be used for. Wallet tokens (EIP-712, [`eip712`]) are verified with no shared
//! secret; JWTs ([`jwt`]) with an HS256 secret or a key set.
//!
//! # Invariants
//! - Pure: no network, no clock, no randomness, no globals.
//! - What a token *means* ([`TokenDigest`]) depends on what was signed, never on how it was spelled.
//! - Everything that comes in is bounded before it is looked at, and refused unless it is exactly
//!   of the form: no unknown or repeated members, no signature that could be flipped.
//!
//! # Example
//!
//! ```
//! use fula_identity::{Grant, Target, Verb};
//!
//! let grant = Grant::parse(Some(&["read:photos/2026/"])).unwrap();
//! assert!(grant.allows(Verb::Read, Target::Object("photos", "2026/a.jpg")));
//! assert!(!grant.allows(Verb::Write, Target::Object("photos", "2026/a.jpg")));
//! assert!(!grant.allows(Verb::Read, Target::Object("photos", "2025/a.jpg")));
//! ```
//!
//! # Deliberately absent
//! Revocation lists, sessions and access keys (`fula-service`), deciding on buckets (there too).

pub mod eip712;
pub mod error;
pub mod identity;
pub mod jwt;
pub mod policy;
pub mod scope;
pub mod wallet;
pub mod wallet_token;

use sha2::{Digest, Sha256};

pub use self::{
    error::TokenError,
    identity::{Identity, TokenDigest, Verified},
    policy::{Policy, token_digest},
    scope::{Grant, Scope, Target, Verb},
    wallet::Address,
};

/// Seconds since 1970.
pub type Seconds = u64;

/// Longest token in bytes; longer ones are not looked at.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;

/// How far ahead of ours the clock of the issuer of a token may be, in seconds.
pub const CLOCK_SKEW: Seconds = 300;

/// Returns the secret access key that goes with a token used as access key id: whoever has the
/// token can compute it, so it proves no more than the token does.
pub fn secret_of(token: &str) -> String {
    hex::encode(Sha256::new().chain_update("fula token secret\n").chain_update(token).finalize())
}
