//! The reasons why a token is refused, told apart by what its bearer can do.

/// The reason why a token is refused. The texts contain no part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token is malformed, or its signature is not that of its wallet or issuer.
    #[error("the token is not valid: {0}")]
    Invalid(&'static str),
    /// The token has expired. Get a new one.
    #[error("the token has expired")]
    Expired,
    /// This gateway accepts no tokens of this kind.
    #[error("tokens of this kind are not accepted here: {0}")]
    NotAccepted(&'static str),
    /// The token is valid, but for another gateway, or its user is not admitted.
    #[error("the token is not meant for this gateway: {0}")]
    NotForHere(&'static str),
    /// The key set that would verify the token cannot be read now. Try again later.
    #[error(
        "the key set that verifies this token cannot be read at present; try again, and tell the \
         operator if it lasts"
    )]
    KeysUnavailable,
}
