//! Tokens in, identity out: who a request is from, as far as its token proves it.
//!
//! [`Policy::verify`] takes a token, the time and what this gateway accepts, and returns whose it
//! is and what it may be used for. Wallet tokens (EIP-712, [`eip712`]) are verified with no shared
//! secret; JWTs ([`jwt`]) with an HS256 secret or a key set.
//!
//! # Invariants
//! - Pure: no network, no clock, no randomness, no globals.
//! - What a token *means* ([`Meaning`]) depends on what was signed, never on how it was spelled.
//! - Everything that comes in is bounded before it is looked at, and refused unless it is exactly
//!   of the form: no unknown or repeated members, no signature that could be flipped.
//!
//! # Deliberately absent
//! Revocation lists, sessions and access keys (`fula-service`), deciding on buckets (there too).

pub mod eip712;
pub mod error;
pub mod identity;
pub mod jwt;
pub mod policy;
pub mod scope;
pub mod token;
pub mod wallet;

pub use self::{
    error::TokenError,
    identity::{Identity, Meaning, Verified},
    policy::Policy,
    scope::{Grant, Scope, Target, Verb},
    wallet::Address,
};

/// Seconds since 1970.
pub type Seconds = u64;
