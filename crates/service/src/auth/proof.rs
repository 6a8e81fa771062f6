//! How a request showed who it is from, and checking that again later.

use std::{fmt, time::Duration};

use fula_identity::{Seconds, TokenDigest};

use super::{AuthError, Authenticator, revocations::RevocationSubject};
use crate::{auth::access::Identity, error::ServiceError};

/// Longest time after the end of a credential in which a write may still be committed, in seconds. What
/// a client began in time may take that long to arrive.
pub const COMMIT_ALLOWANCE: Seconds = 15 * 60;

/// How someone showed who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// A signature with a key that the operator made.
    Key,
    /// A signature with the key of a session.
    Session,
    /// A token itself.
    Bearer,
    /// A signature with a key derived from a token.
    TokenKey,
}

impl fmt::Display for AuthMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Session => "session",
            Self::Bearer => "bearer",
            Self::TokenKey => "token-key",
        })
    }
}

/// Who a request is from, and how that is known.
#[derive(Clone, Debug)]
pub struct Proof {
    /// Who it is.
    pub identity: Identity,
    /// How that was shown.
    pub method: AuthMethod,
    /// Which credential it was, by a name that gives nothing away.
    pub credential: String,
    /// By which the credential is checked again.
    pub credential_check: CredentialCheck,
}

/// A credential that was let in: what it takes to find out whether it was revoked meanwhile.
#[derive(Clone, Debug)]
pub struct CredentialCheck {
    authenticator: Authenticator,
    user: String,
    issued: Seconds,
    /// When the credential ends, if it does.
    pub(super) ends: Option<Seconds>,
    digest: Option<TokenDigest>,
    key_id: Option<String>,
}

impl CredentialCheck {
    /// Judges the credential again before a write is queued that is committed within `deadline`: a
    /// body may have taken its time.
    ///
    /// # Errors
    /// [`ServiceError::AccessDenied`] once it was revoked; [`ServiceError::CredentialExpired`] when
    /// the write might be committed more than [`COMMIT_ALLOWANCE`] after its end;
    /// [`ServiceError::Unavailable`].
    pub(crate) fn check(&self, deadline: Duration) -> Result<(), ServiceError> {
        if let Some(ends) = self.ends {
            // A longer deadline must not refuse a credential that has not ended.
            let allowance = COMMIT_ALLOWANCE.saturating_sub(deadline.as_secs());
            if self.authenticator.now() > ends.saturating_add(allowance) {
                return Err(ServiceError::CredentialExpired);
            }
        }
        match self.judge() {
            Ok(()) => Ok(()),
            Err(AuthError::Service(error)) => Err(error),
            Err(_) => Err(ServiceError::AccessDenied),
        }
    }

    /// Refuses a credential that was revoked.
    pub(super) fn judge(&self) -> Result<(), AuthError> {
        let subject = RevocationSubject {
            user: &self.user,
            issued: self.issued,
            digest: self.digest,
            key_id: self.key_id.as_deref(),
        };
        let refuses = self.authenticator.0.revocations.refuses(subject)?;
        if refuses { Err(AuthError::Revoked) } else { Ok(()) }
    }
}

impl Authenticator {
    pub(super) fn credential_check(
        &self,
        user: &str,
        issued: Seconds,
        ends: Option<Seconds>,
        digest: Option<TokenDigest>,
        key_id: Option<&str>,
    ) -> CredentialCheck {
        let (user, key_id) = (user.to_owned(), key_id.map(ToOwned::to_owned));
        CredentialCheck { authenticator: self.clone(), user, issued, ends, digest, key_id }
    }
}
