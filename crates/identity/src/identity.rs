//! Identities, and the content of verified tokens.

use std::fmt;

use fula_core::OwnerId;

use crate::{Seconds, scope::Grant};

/// The user that a credential proves, and what the credential may be used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id: `0x…` of a wallet, `key:NAME` of a key made by an operator, or the subject of a JWT
    /// (`sub`, or `iss`, 0x00, `sub` if a key set verified it).
    pub user: String,
    /// The owner id that is derived from the user id.
    pub owner: OwnerId,
    /// Permitted use of the credential.
    pub grant: Grant,
}

impl Identity {
    /// Returns the unrestricted identity of a user id.
    pub fn of_user(user: &str) -> Self {
        Self { user: user.to_owned(), owner: OwnerId::of_user(user), grant: Grant::All }
    }

    /// Returns the user id as printable text: the one of a key set's JWT contains a zero byte.
    pub fn display(&self) -> String {
        display(&self.user)
    }

    /// Returns the identity of a user id, restricted to a grant.
    pub fn restricted(user: &str, grant: Grant) -> Self {
        Self { grant, ..Self::of_user(user) }
    }
}

/// Returns a user id as printable text.
pub fn display(user: &str) -> String {
    user.escape_debug().to_string()
}

/// The digest of what was signed in a token. All spellings of one token have the same digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenDigest(pub [u8; 32]);

impl TokenDigest {
    /// Parses 64 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The content of a token that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The identity that the token proves.
    pub identity: Identity,
    /// Digest by which the token can be revoked.
    pub digest: TokenDigest,
    /// Time at which it was issued; 0 when the token does not say.
    pub issued: Seconds,
    /// Time at which it expires: it is valid before this second.
    pub expires: Seconds,
    /// The audience, if the token names one.
    pub audience: Option<String>,
}
