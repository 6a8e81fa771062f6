//! Who a request is from: its credential taken out of headers and URL, and decided on by the
//! service's authenticator.
//!
//! Every decision is written to the log under the target `fula::audit`, without the credential.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use fula_identity::{Seconds, TokenError};
use fula_service::{
    Identity,
    auth::{AuthError, Authenticator, Proof, Signed, redacted, redacted_unknown},
};
use http::{Extensions, HeaderMap, HeaderValue, Request, Uri, header};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use time::{Date, Month, PrimitiveDateTime, Time};

use crate::{
    credential::{bearer_of, covers_amz_headers},
    error::{busy, s3_error as to_s3},
    limit::RateLimits,
    request::{Peer, RequestId, is_chunked, query_value},
};

/// Decides who is let in, and how often.
#[derive(Clone, Debug)]
pub(crate) struct AuthLayer {
    authenticator: Authenticator,
    limits: Arc<RateLimits>,
    /// Whether a proxy in front of this gateway ends TLS.
    tls_terminated: bool,
}

/// Whom a request says it is from, for the audit log should that prove wrong.
pub(crate) struct Claim {
    authorization: Option<HeaderValue>,
    uri: Uri,
    origin: Origin,
    /// Whether the signature covers all headers that it must.
    is_complete: bool,
    /// Whether there is a secret for the key that it names, once that was looked for.
    is_known: OnceLock<bool>,
    /// Whether the signature was verified, or there is none.
    is_verified: AtomicBool,
}

tokio::task_local! {
    /// The claim of the request that is answered: `s3s` asks for a secret without saying for which.
    static CLAIM: Arc<Claim>;
}

impl Claim {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        Self {
            authorization: request.headers().get(header::AUTHORIZATION).cloned(),
            uri: request.uri().clone(),
            origin: Origin::of(request.extensions()),
            is_complete: covers_amz_headers(request.headers(), request.uri()),
            is_known: OnceLock::new(),
            is_verified: AtomicBool::new(false),
        }
    }

    /// Answers the request of this claim.
    pub(crate) async fn scope<T>(self: &Arc<Self>, answer: impl Future<Output = T>) -> T {
        CLAIM.scope(Arc::clone(self), answer).await
    }

    /// Notes what came of looking for the secret of the key that the request in hand is signed with.
    pub(crate) fn note_lookup(access_key: &str, found: Result<(), &AuthError>) {
        let noted = CLAIM.try_with(|claim| {
            claim.is_known.get_or_init(|| found.is_ok());
            if let Err(error) = found {
                claim.origin.refused(&redacted_unknown(access_key), error);
            }
        });
        if noted.is_err() {
            tracing::error!("a secret was looked for outside of a request");
        }
    }

    /// Notes that nothing is wrong with the signature of the request in hand.
    fn note_verified() {
        let noted = CLAIM.try_with(|claim| claim.is_verified.store(true, Ordering::Relaxed));
        if noted.is_err() {
            tracing::error!("a signature was verified outside of a request");
        }
    }

    /// Returns the access key id that the request says it is signed with.
    fn key(&self) -> String {
        let header = self.authorization.as_ref().and_then(|value| value.to_str().ok());
        let header = header.unwrap_or_default();
        let in_header = header.split_once("Credential=").map(|(_, rest)| rest.to_owned());
        let scope = in_header.or_else(|| query_value(&self.uri, "x-amz-credential"));
        let scope = scope.unwrap_or_default();
        let key = scope.split('/').next().unwrap_or_default();
        let is_known = self.is_known.get() == Some(&true);
        if is_known { redacted(key) } else { redacted_unknown(key) }
    }

    /// Writes to the log why the signature of a request was refused that was answered with 403, if that
    /// is why. `s3s` does not say, but it asks for the secret first, and then has [`AuthLayer::admit`] called
    /// when the signature is right. Those of chunks come after that.
    pub(crate) fn note_refused(&self, is_chunk_forged: bool) {
        const FORGED: &str = "the signature is not that of the key";
        let reason = match self.is_known.get() {
            _ if is_chunk_forged => FORGED,
            _ if self.is_verified.load(Ordering::Relaxed) => return,
            None => "the form or the time of the signature is not accepted",
            // Why is in the log already.
            Some(false) => return,
            Some(true) if !self.is_complete => "the signature leaves out a header",
            Some(true) => FORGED,
        };
        self.origin.refused(&self.key(), reason);
    }
}

/// What every line of the audit log names of a request.
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

    /// Writes to the log who was let in.
    fn let_in(&self, proof: &Proof) {
        let Self { request_id, address } = self;
        let (user, via, credential) = (proof.identity.display(), proof.method, &proof.credential);
        tracing::info!(
            target: "fula::audit",
            request_id, address, user, %via, credential, "let in"
        );
        metrics::counter!("fula_auth_total", "outcome" => "let in").increment(1);
    }

    /// Writes to the log that a session was begun.
    pub(crate) fn begun(&self, user: &str, key: &str) {
        let Self { request_id, address } = self;
        tracing::info!(target: "fula::audit", request_id, address, user, key, "session begun");
    }
}

/// Returns when a presigned URL expires; `None` for a URL without a signature.
///
/// # Errors
/// Times that are missing or malformed.
fn url_expires(uri: &Uri) -> S3Result<Option<Seconds>> {
    if query_value(uri, "x-amz-signature").is_none() {
        return Ok(None);
    }
    let signed = query_value(uri, "x-amz-date").and_then(|text| seconds_of(&text));
    let life = query_value(uri, "x-amz-expires").and_then(|text| text.parse::<Seconds>().ok());
    let expires = signed.zip(life).and_then(|(signed, life)| signed.checked_add(life));
    match expires {
        Some(expires) => Ok(Some(expires)),
        None => Err(s3_error!(
            AuthorizationQueryParametersError,
            "X-Amz-Date and X-Amz-Expires are not a time and a number of seconds."
        )),
    }
}

/// Parses a time such as `20260131T235959Z`.
fn seconds_of(text: &str) -> Option<Seconds> {
    let digits = |range: std::ops::Range<usize>| text.get(range)?.parse::<u8>().ok();
    let year = text.get(..4)?.parse().ok()?;
    let month = Month::try_from(digits(4..6)?).ok()?;
    let date = Date::from_calendar_date(year, month, digits(6..8)?).ok()?;
    let time = Time::from_hms(digits(9..11)?, digits(11..13)?, digits(13..15)?).ok()?;
    let is_form = text.len() == 16 && text.get(8..9) == Some("T") && text.ends_with('Z');
    let seconds = PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp();
    u64::try_from(seconds).ok().filter(|_| is_form)
}

impl AuthLayer {
    pub(crate) fn new(
        authenticator: Authenticator,
        limits: Arc<RateLimits>,
        tls_terminated: bool,
    ) -> Self {
        Self { authenticator, limits, tls_terminated }
    }

    pub(crate) fn authenticator(&self) -> &Authenticator {
        &self.authenticator
    }

    /// Returns whether nobody can have read the request along the way.
    fn is_private(&self, extensions: &Extensions) -> bool {
        self.tls_terminated || extensions.get::<Peer>().is_some_and(|peer| peer.is_private())
    }

    /// Refuses a token that others can have read along the way: whoever has it can use it. The one rule
    /// for bearers, for STS, and for tokens as access keys.
    ///
    /// # Errors
    /// [`AuthError::NotPrivate`].
    pub(crate) fn check_private(&self, extensions: &Extensions) -> Result<(), AuthError> {
        if self.is_private(extensions) { Ok(()) } else { Err(AuthError::NotPrivate) }
    }

    /// Says who shows a bearer token.
    ///
    /// # Errors
    /// [`AuthError`].
    pub(crate) fn bearer(&self, extensions: &Extensions, token: &str) -> Result<Proof, AuthError> {
        self.check_private(extensions)?;
        self.authenticator.bearer(token)
    }

    /// Refuses an address that asks too often, before anything is verified for it.
    pub(crate) fn check_address(&self, extensions: &Extensions) -> S3Result<()> {
        match extensions.get::<Peer>() {
            Some(peer) if self.limits.refuses_address(peer.address) => Err(slow_down()),
            _ => Ok(()),
        }
    }

    /// Takes a bearer token out of the headers, for s3s knows nothing of it, and notes in the
    /// extensions who it is from; says whether there was one.
    pub(crate) fn authenticate_bearer(
        &self,
        headers: &mut HeaderMap,
        extensions: &mut Extensions,
    ) -> S3Result<bool> {
        let Some(token) = bearer_of(headers)? else { return Ok(false) };
        // s3s takes frames apart only where it verifies their signatures.
        if is_chunked(headers) {
            let text = "A body framed in chunks needs a signature: send it as it is with a bearer \
                        token (no aws-chunked, no x-amz-content-sha256: STREAMING-…).";
            return Err(s3_error!(InvalidRequest, "{text}"));
        }
        let proof = self.bearer(extensions, &token);
        let proof = self.decide(extensions, "bearer", proof)?;
        headers.remove(header::AUTHORIZATION);
        extensions.insert(proof);
        Ok(true)
    }

    /// Says who a request is from whose signature was verified, or whose token was; `None` is
    /// anonymous.
    pub(crate) async fn admit(
        &self,
        access_key: Option<&str>,
        headers: &HeaderMap,
        uri: &Uri,
        extensions: &mut Extensions,
    ) -> S3Result<()> {
        Claim::note_verified();
        let Some(access_key) = access_key else { return Ok(()) };
        if extensions.get::<Proof>().is_some() {
            return Err(s3_error!(InvalidArgument, "Only one way to authenticate is allowed."));
        }
        let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
        let in_header = headers.get("x-amz-security-token").map(text);
        let in_query = query_value(uri, "x-amz-security-token");
        let signed = Signed {
            access_key,
            session_token: in_header.as_deref().or(in_query.as_deref()),
            url_expires: url_expires(uri)?,
            is_private: self.is_private(extensions),
        };
        let proof = self.authenticator.admit(signed).await;
        let proof = self.decide(extensions, &redacted(access_key), proof)?;
        extensions.insert(proof);
        Ok(())
    }

    /// Writes a decision to the log, and holds whoever is let in to their rate.
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

/// Returns who a request is from; `None` is anonymous.
pub(crate) fn identity(extensions: &Extensions) -> Option<&Identity> {
    extensions.get::<Proof>().map(|proof| &proof.identity)
}

fn slow_down() -> S3Error {
    busy(fula_service::Applied::None)
}

/// Maps a refusal to what S3 answers.
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
        // Sessions are begun with STS alone, which has a code of its own for it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_presigned_url_says_when_it_expires() {
        let expires = |query: &str| {
            let uri = format!("/b/k?{query}").parse::<Uri>().expect("a URL");
            url_expires(&uri).map_err(|error| error.code().as_str().to_owned())
        };
        assert_eq!(expires("X-Amz-Date=20260131T235959Z&X-Amz-Expires=1"), Ok(None));
        let signed = |rest: &str| expires(&format!("X-Amz-Signature=00&{rest}"));
        assert_eq!(signed("X-Amz-Date=20260131T235959Z&X-Amz-Expires=1"), Ok(Some(1_769_904_000)));
        for wrong in [
            "",
            "X-Amz-Date=20260131T235959Z",
            "X-Amz-Expires=1",
            "X-Amz-Date=20260231T000000Z&X-Amz-Expires=1",
            "X-Amz-Date=2026-01-31T23:59&X-Amz-Expires=1",
            "X-Amz-Date=20260131T235959Z&X-Amz-Expires=-1",
            "X-Amz-Date=20260131T235959Z&X-Amz-Expires=18446744073709551615",
            "X-Amz-Date=%C3%A9%C3%A9%C3%A9%C3%A9%C3%A9%C3%A9%C3%A9%C3%A9&X-Amz-Expires=1",
        ] {
            assert_eq!(signed(wrong), Err("AuthorizationQueryParametersError".into()), "{wrong}");
        }
    }
}
