//! Why a credential is refused.

use fula_identity::TokenError;

use crate::error::ServiceError;

/// The reason why a credential is refused. The texts contain no credential.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuthError {
    /// The token is not accepted.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The credential was valid once, but was revoked.
    #[error("the credential was revoked")]
    Revoked,
    /// There is no such access key.
    #[error("there is no such access key")]
    UnknownKey,
    /// The session has ended. Begin another one.
    #[error("the session has ended")]
    SessionExpired,
    /// The session token is missing or wrong, or there must not be one.
    #[error("the session token does not belong to the access key")]
    SessionToken,
    /// A token may only be sent over TLS, or from the same machine.
    #[error(
        "a token is accepted over TLS or from the same machine only; use https, or where a proxy in \
         front of the gateway terminates TLS, let the operator set FULA_TLS_TERMINATED=on"
    )]
    NotPrivate,
    /// The token may not presign. Presign with a session, or with a token whose scope is this object alone.
    #[error("a token as access key may presign only if its scope is one object")]
    Presigned,
    /// The user or the token has the largest allowed number of sessions. Wait until one ends, revoke some,
    /// or raise the limit.
    #[error(
        "{of} has {max} sessions, the most that may exist at a time; wait until one ends, revoke some \
         (fula revoke session ID), or let the operator raise FULA_SESSIONS_PER_OWNER"
    )]
    TooManySessions {
        /// Holder of the sessions: the owner, or one token.
        of: &'static str,
        /// The limit.
        max: usize,
    },
    /// The credential cannot be checked at present.
    #[error(transparent)]
    Service(#[from] ServiceError),
}
