//! Who someone is, and what a verified token says.

use std::fmt;

use fula_core::OwnerId;

use crate::{Seconds, scope::Grant};

/// Who is asking, and what they may be asking for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id: `0x…` of a wallet, `key:NAME` of an operator-made key, or what a JWT says
    /// (`iss`, 0x00, `sub` with a key set).
    pub user: String,
    /// The owner id derived from it.
    pub owner: OwnerId,
    /// What this credential may do in the owner's name.
    pub grant: Grant,
}

impl Identity {
    /// Returns the identity of a user id, with everything its owner may do.
    pub fn of_user(user: &str) -> Self {
        Self { user: user.to_owned(), owner: OwnerId::of_user(user), grant: Grant::All }
    }

    /// Returns the user id as text that can be shown: a key set's has a zero byte in it.
    pub fn display(&self) -> String {
        display(&self.user)
    }

    /// Returns the identity of a user id, restricted.
    pub fn restricted(user: &str, grant: Grant) -> Self {
        Self { grant, ..Self::of_user(user) }
    }
}

/// Returns a user id as text that can be shown.
pub fn display(user: &str) -> String {
    user.escape_debug().to_string()
}

/// What a token means: the same for every spelling of it, another for anything else signed.
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

/// A token that was found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Whose it is.
    pub identity: Identity,
    /// What it means, by which it can be revoked.
    pub digest: TokenDigest,
    /// When it was issued; 0 when it does not say.
    pub issued: Seconds,
    /// When it ends: it is good before this second.
    pub expires: Seconds,
    /// Whom it is meant for, if it says.
    pub audience: Option<String>,
}
