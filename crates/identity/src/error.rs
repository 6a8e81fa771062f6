//! Why a token is refused, by what its bearer can do about it.

/// A token that is not accepted. The texts name no part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not of the form, or its signature is not that of its wallet or issuer.
    #[error("the token is not valid: {0}")]
    Invalid(&'static str),
    /// Get a new one.
    #[error("the token has expired")]
    Expired,
    /// This gateway takes no tokens of this kind.
    #[error("tokens of this kind are not accepted here: {0}")]
    NotAccepted(&'static str),
    /// It is good, but for another gateway, or of someone who is not admitted.
    #[error("the token is not meant for this gateway: {0}")]
    NotForHere(&'static str),
    /// Whether it is good cannot be told now; try again later.
    #[error(
        "the key set that verifies this token cannot be read at present; try again, and tell the \
         operator if it lasts"
    )]
    KeysUnavailable,
}
