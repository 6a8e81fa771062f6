//! Verifies tokens and returns the identity that they prove.
//!
//! [`Policy::verify`] takes a token and the time. It returns the user and what the token may be used
//! for, if the policy accepts it. Wallet tokens (EIP-712, [`eip712`]) need no shared secret; JWTs
//! ([`jwt`]) are verified with an HS256 secret or a key set.
//!
//! # Invariants
//! - The crate is pure: no network, no clock, no randomness, no globals.
//! - The digest of a token ([`TokenDigest`]) depends on what was signed, never on its spelling.
//! - The length of every input is checked before it is parsed. An input that is not exactly of the
//!   specified form is refused: no unknown or repeated members, no malleable signature.
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
//! Revocations, sessions, access keys, and decisions about buckets (`fula-service`).

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

/// Longest token in bytes. Longer ones are refused unread.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Number of seconds by which the clock of a token's issuer may be ahead of this gateway's.
pub const CLOCK_SKEW: Seconds = 300;

/// Returns the secret access key of a token that is used as an access key id. It can be computed from
/// the token, so it proves no more than the token does.
pub fn secret_of(token: &str) -> String {
    hex::encode(Sha256::new().chain_update("fula token secret\n").chain_update(token).finalize())
}
