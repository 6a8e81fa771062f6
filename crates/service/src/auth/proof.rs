//! Proofs of identity, and checking the credential again later.

use std::{fmt, time::Duration};

use fula_identity::{Seconds, TokenDigest};
use fula_ingest::ticket::CredentialTag;

use super::{AuthError, Authenticator, revocations::RevocationSubject};
use crate::{auth::access::Identity, error::ServiceError};

/// Longest time after the end of a credential at which a write may still be committed, in seconds. A body
/// whose upload began in time may take this long.
pub const COMMIT_ALLOWANCE: Seconds = 15 * 60;

/// The method of authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// A signature with an operator-made key.
    Key,
    /// A signature with the key of a session.
    Session,
    /// A bearer token.
    Bearer,
    /// A signature with the key that is derived from a token.
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

/// An authenticated identity, and how it was proved.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The identity.
    pub identity: Identity,
    /// The method of authentication.
    pub method: AuthMethod,
    /// Name of the credential for the log, which does not reveal it.
    pub credential: String,
    /// Check by which the credential can be examined again.
    pub credential_check: CredentialCheck,
}

/// The facts that are needed to find out whether an accepted credential was revoked in the meantime.
#[derive(Clone, Debug)]
pub struct CredentialCheck {
    authenticator: Authenticator,
    user: String,
    issued: Seconds,
    /// Time at which the credential ends, if it does.
    pub(super) ends: Option<Seconds>,
    digest: Option<TokenDigest>,
    key_id: Option<String>,
}

impl CredentialCheck {
    /// Checks the credential again before a write is queued that will be committed within `deadline`,
    /// because reading the body may have taken long.
    ///
    /// # Errors
    /// [`ServiceError::AccessDenied`] once it was revoked; [`ServiceError::CredentialExpired`] when the
    /// write might be committed more than [`COMMIT_ALLOWANCE`] after its end;
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

    /// Returns the tag of the credential for a ticket, the time at which it was issued and the time at which it
    /// ends, both in seconds since 1970.
    pub fn for_ticket(&self) -> (CredentialTag, Seconds, Option<Seconds>) {
        let digest = self.digest.map(|digest| digest.to_string());
        let name = digest.as_deref().or(self.key_id.as_deref()).unwrap_or_default();
        (CredentialTag::of(name), self.issued, self.ends)
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
