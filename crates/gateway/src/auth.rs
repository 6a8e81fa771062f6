//! Authentication and authorization: takes the credential out of headers and URL, and lets the service's
//! authenticator decide on it.
//!
//! Every decision is logged under the target `fula::audit`, without the credential.

use std::{fmt, sync::Arc};

use fula_identity::TokenError;
use fula_service::{
    Identity,
    auth::{AuthError, Authenticator, Proof, Signed, redacted, redacted_unknown},
};
use http::{Extensions, HeaderMap, HeaderValue, request::Parts};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

use crate::{
    credential::{Credential, bearer_of},
    error::{busy, s3_error as to_s3},
    limit::{RateLimits, Rates},
    request::{Operation, Peer, RequestId, is_chunked, query_value},
    signature::{ChunkKey, FORGED, FormSignature, Presented, Received, Rules},
};

/// Authenticates requests, and limits their rate.
#[derive(Clone, Debug)]
pub(crate) struct AuthLayer {
    authenticator: Authenticator,
    limits: Arc<RateLimits>,
    rules: Arc<Rules>,
    /// Whether a proxy in front of this gateway terminates TLS.
    tls_terminated: bool,
}

/// The signer of a request.
pub(crate) struct Signer {
    /// Key with which the chunks of the body are signed.
    pub(crate) chunk_key: Option<ChunkKey>,
    /// The access key, in the form for the log.
    access_key: String,
    origin: Origin,
}

impl Signer {
    /// Logs that a chunk of the body has a wrong signature.
    pub(crate) fn note_forged_chunk(&self) {
        self.origin.refused(&self.access_key, FORGED);
    }
}

/// The facts about a request that every line of the audit log contains.
pub(crate) struct Origin {
    request_id: String,
    address: String,
}

impl Origin {
    pub(crate) fn of(extensions: &Extensions) -> Self {
        Self {
            request_id: extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default(),
            address: extensions
                .get::<Peer>()
                .map(|peer| peer.address.to_canonical().to_string())
                .unwrap_or_default(),
        }
    }

    fn refused(&self, credential: &str, reason: impl fmt::Display) {
        let (Self { request_id, address }, reason) = (self, reason.to_string());
        tracing::warn!(
            target: "fula::audit",
            request_id, address, credential, reason, "refused"
        );
        metrics::counter!("fula_auth_total", "outcome" => "refused").increment(1);
    }

    /// Logs that a request was authenticated.
    fn let_in(&self, proof: &Proof) {
        let Self { request_id, address } = self;
        let (user, via, credential) = (proof.identity.display(), proof.method, &proof.credential);
        tracing::info!(
            target: "fula::audit",
            request_id, address, user, %via, credential, "let in"
        );
        metrics::counter!("fula_auth_total", "outcome" => "let in").increment(1);
    }

    /// Logs that a session was begun.
    pub(crate) fn begun(&self, user: &str, key: &str) {
        let Self { request_id, address } = self;
        tracing::info!(target: "fula::audit", request_id, address, user, key, "session begun");
    }
}

impl AuthLayer {
    pub(crate) fn new(
        authenticator: Authenticator,
        limits: Arc<RateLimits>,
        rules: Rules,
        tls_terminated: bool,
    ) -> Self {
        Self { authenticator, limits, rules: Arc::new(rules), tls_terminated }
    }

    /// Sets the rate limits of users and addresses.
    pub(crate) fn set_rates(&self, rates: Rates) {
        self.limits.set(rates);
    }

    pub(crate) fn authenticator(&self) -> &Authenticator {
        &self.authenticator
    }

    /// Returns whether nobody can have read the request on its way.
    fn is_private(&self, extensions: &Extensions) -> bool {
        self.tls_terminated || extensions.get::<Peer>().is_some_and(|peer| peer.is_private())
    }

    /// Refuses a token that others can have read on its way, because anyone who has it can use it. This is
    /// the one rule for bearers, for STS, and for tokens as access keys.
    ///
    /// # Errors
    /// [`AuthError::NotPrivate`] for such a token.
    pub(crate) fn check_private(&self, extensions: &Extensions) -> Result<(), AuthError> {
        if self.is_private(extensions) { Ok(()) } else { Err(AuthError::NotPrivate) }
    }

    /// Authenticates the bearer of a token.
    ///
    /// # Errors
    /// [`AuthError`] when the token is refused.
    pub(crate) fn bearer(&self, extensions: &Extensions, token: &str) -> Result<Proof, AuthError> {
        self.check_private(extensions)?;
        self.authenticator.bearer(token)
    }

    /// Refuses an address that sends too many requests, before anything is verified for it.
    pub(crate) fn check_address(&self, extensions: &Extensions) -> S3Result<()> {
        match extensions.get::<Peer>() {
            Some(peer) if self.limits.refuses_address(peer.address) => Err(slow_down()),
            _ => Ok(()),
        }
    }

    /// Applies the rate limit of a user whose credential was accepted without [`Self::decide`].
    pub(crate) fn refuses_user(&self, user: &str) -> bool {
        self.limits.refuses_user(user)
    }

    /// Authenticates the bearer token of a request, and puts its identity into the extensions. Returns
    /// whether there was one.
    pub(crate) fn authenticate_bearer(
        &self,
        headers: &HeaderMap,
        extensions: &mut Extensions,
    ) -> S3Result<bool> {
        let Some(token) = bearer_of(headers)? else { return Ok(false) };
        // Chunks are signed with the key of the request, and a bearer token has none.
        if is_chunked(headers) {
            let text = "A body framed in chunks needs a signature: send it as it is with a bearer \
                        token (no aws-chunked, no x-amz-content-sha256: STREAMING-…).";
            return Err(s3_error!(InvalidRequest, "{text}"));
        }
        let proof = self.bearer(extensions, &token);
        let proof = self.decide(extensions, "bearer", proof)?;
        extensions.insert(proof);
        Ok(true)
    }

    /// Authenticates a signed request, and puts its identity into the extensions. Verifies the signature
    /// over the request as it was received.
    ///
    /// # Errors
    /// The errors of AWS for a signature that is malformed, too old, or wrong, and for a credential that is
    /// not accepted.
    pub(crate) async fn authenticate_signature(
        &self,
        received: Received<'_>,
        credential: Credential,
        extensions: &mut Extensions,
    ) -> S3Result<Signer> {
        let origin = Origin::of(extensions);
        let presented = Presented::of(&received, credential, &self.rules, self.authenticator.now());
        let presented = presented.map_err(|refusal| {
            origin.refused(&redacted_unknown(&received.claimed_key()), refusal.reason);
            refusal.error
        })?;
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let in_header = received.headers.get("x-amz-security-token").map(text);
        let in_query = query_value(received.uri, "x-amz-security-token");
        let session_token = in_header.as_deref().or(in_query.as_deref());
        let access_key = presented.access_key();
        let secret = self.authenticator.secret_of(access_key, session_token).await;
        let secret = secret.map_err(|error| {
            origin.refused(&redacted_unknown(access_key), &error);
            auth_error(error)
        })?;
        let access_key = redacted(access_key);
        let Some(verified) = presented.verify(&received, secret.expose()) else {
            origin.refused(&access_key, FORGED);
            return Err(S3Error::new(S3ErrorCode::SignatureDoesNotMatch));
        };
        let signed = Signed {
            access_key: presented.access_key(),
            session_token,
            url_expires: presented.url_expires(),
            is_private: self.is_private(extensions),
        };
        let proof = self.authenticator.admit(signed).await;
        let proof = self.decide(extensions, &access_key, proof)?;
        extensions.insert(proof);
        Ok(Signer { chunk_key: verified.0, access_key, origin })
    }

    /// Authenticates a form that was signed with a policy which ends at `expires`, and puts its identity into
    /// the extensions.
    ///
    /// # Errors
    /// The errors of AWS for a signature that is malformed or wrong, and for a credential that is not
    /// accepted.
    pub(crate) async fn authenticate_form(
        &self,
        form: FormSignature<'_>,
        expires: fula_identity::Seconds,
        extensions: &mut Extensions,
    ) -> S3Result<()> {
        let origin = Origin::of(extensions);
        let presented = form.check(&self.rules, self.authenticator.now());
        let presented = presented.map_err(|refusal| {
            origin.refused(&redacted_unknown(form.claimed_key()), refusal.reason);
            refusal.error
        })?;
        let access_key = presented.access_key();
        let secret = self.authenticator.secret_of(access_key, form.session_token).await;
        let secret = secret.map_err(|error| {
            origin.refused(&redacted_unknown(access_key), &error);
            auth_error(error)
        })?;
        if !presented.verify(form.policy, secret.expose()) {
            origin.refused(&redacted(access_key), FORGED);
            return Err(S3Error::new(S3ErrorCode::SignatureDoesNotMatch));
        }
        let signed = Signed {
            access_key,
            session_token: form.session_token,
            url_expires: Some(expires),
            is_private: self.is_private(extensions),
        };
        let proof = self.authenticator.admit(signed).await;
        let proof = self.decide(extensions, &redacted(access_key), proof)?;
        extensions.insert(proof);
        Ok(())
    }

    /// Authenticates a request without a body that is no S3 request, by a bearer token or a signature in its
    /// header.
    ///
    /// # Errors
    /// The errors of [`Self::authenticate_bearer`] and [`Self::authenticate_signature`]; 403 `AccessDenied`
    /// for any other request.
    pub(crate) async fn authenticate(&self, parts: &mut Parts) -> S3Result<Proof> {
        let credential = Credential::of(parts)?;
        let has_token = self.authenticate_bearer(&parts.headers, &mut parts.extensions)?;
        if credential == Credential::Header && !has_token {
            let (method, uri, headers) = (&parts.method, &parts.uri, &parts.headers);
            let received = Received { method, uri, headers, host_bucket: None };
            self.authenticate_signature(received, credential, &mut parts.extensions).await?;
        }
        parts.extensions.remove::<Proof>().ok_or_else(|| s3_error!(AccessDenied))
    }

    /// Logs a decision, and applies the rate limit of an authenticated user.
    pub(crate) fn decide(
        &self,
        extensions: &Extensions,
        credential: &str,
        proof: Result<Proof, AuthError>,
    ) -> S3Result<Proof> {
        let origin = Origin::of(extensions);
        match proof {
            Ok(proof) => {
                origin.let_in(&proof);
                if let Some(operation) = extensions.get::<Arc<Operation>>() {
                    operation.asked_by(&proof.identity);
                }
                if self.limits.refuses_user(&proof.identity.user) {
                    return Err(slow_down());
                }
                Ok(proof)
            }
            Err(error) => {
                origin.refused(credential, &error);
                Err(auth_error(error))
            }
        }
    }
}

/// Returns the identity of a request; `None` is anonymous.
pub(crate) fn identity(extensions: &Extensions) -> Option<&Identity> {
    extensions.get::<Proof>().map(|proof| &proof.identity)
}

/// Returns the error that asks for a lower rate, as AWS does. The operator sets the limit.
fn slow_down() -> S3Error {
    let mut error = busy(fula_service::Applied::None);
    error.set_message("Please reduce your request rate.");
    error
}

/// Maps a refusal to the S3 error.
pub(crate) fn auth_error(error: AuthError) -> S3Error {
    let code = match &error {
        AuthError::Token(TokenError::Invalid(_) | TokenError::NotAccepted(_))
        | AuthError::SessionToken => S3ErrorCode::InvalidToken,
        AuthError::Token(TokenError::Expired) | AuthError::SessionExpired => {
            S3ErrorCode::ExpiredToken
        }
        AuthError::Token(TokenError::NotForHere(_))
        | AuthError::Revoked
        | AuthError::NotPrivate
        | AuthError::Presigned
        // Sessions are begun only with STS, which has an error code of its own for this.
        | AuthError::TooManySessions { .. } => S3ErrorCode::AccessDenied,
        AuthError::Token(TokenError::KeysUnavailable) => S3ErrorCode::ServiceUnavailable,
        AuthError::UnknownKey => S3ErrorCode::InvalidAccessKeyId,
        AuthError::Service(_) => {
            return match error {
                AuthError::Service(error) => to_s3(error),
                _ => S3Error::new(S3ErrorCode::InternalError),
            };
        }
    };
    S3Error::with_message(code, format!("{error}."))
}
