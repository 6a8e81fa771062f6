//! Signatures of requests, of versions 4 and 2 of AWS. The gateway verifies them before `s3s` sees a
//! request (docs/adr/0036).
//!
//! `scope` parses credentials, `v4` and `v2` compute the required signature, `chunks` decodes bodies in
//! chunks, and `fault` has the errors of AWS.

pub(crate) mod chunks;
mod fault;
mod form;
mod scope;
mod v2;
mod v4;

use std::borrow::Cow;

use fula_identity::Seconds;
use http::{HeaderMap, Method, Uri};

pub(crate) use self::{
    fault::{FORGED, Refusal, shown, unsupported},
    form::FormSignature,
    v4::{CONTENT_HASH, ChunkKey, UNSIGNED, no_hash},
};
use crate::{credential::Credential, presigned::is_v4_url, request::query_value};

/// Name of the scheme of version 4.
const SCHEME: &str = "AWS4-HMAC-SHA256";

/// Largest difference between the time of a request and the gateway's, in seconds.
const SKEW_MAX: Seconds = 15 * 60;

/// Longest life of a presigned URL, in seconds.
const LIFE_MAX: Seconds = 7 * 24 * 3600;

/// The rules for which signatures are accepted.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// The only region that a credential may name; `None` for any.
    pub(crate) region: Option<String>,
    /// Whether presigned URLs of version 2 are accepted.
    pub(crate) presigned_v2: bool,
}

/// A request as it was received.
#[derive(Clone, Copy)]
pub(crate) struct Received<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    /// Bucket that the host names.
    pub(crate) host_bucket: Option<&'a str>,
}

impl Received<'_> {
    /// Returns the decoded parameters of the query, sorted by name.
    fn parameters(&self) -> Vec<(String, String)> {
        let query = self.uri.query().unwrap_or_default();
        let mut all: Vec<_> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Returns the access key id that a request names, even if the rest is malformed.
    pub(crate) fn claimed_key(&self) -> String {
        let header = self.headers.get(http::header::AUTHORIZATION);
        let header = header.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let in_header = header.split_once("Credential=").map(|(_, rest)| rest.to_owned());
        let scope = in_header
            .or_else(|| query_value(self.uri, "x-amz-credential"))
            .or_else(|| query_value(self.uri, "AWSAccessKeyId"));
        scope.unwrap_or_default().split('/').next().unwrap_or_default().to_owned()
    }
}

/// A signature that a request carries. Its form, scope and time were checked; whether it is the signature
/// of the key is not known yet.
pub(crate) enum Presented {
    /// Version 4, in the header or in the query.
    V4(v4::Presented),
    /// Version 2, in the query.
    V2(v2::Presented),
}

impl Presented {
    /// Parses the signature of a request that has a credential other than a bearer token.
    ///
    /// # Errors
    /// The errors of AWS for a wrong form, scope or time.
    pub(crate) fn of(
        received: &Received<'_>,
        credential: Credential,
        rules: &Rules,
        now: Seconds,
    ) -> Result<Self, Refusal> {
        if credential == Credential::Header || is_v4_url(received.uri) {
            return v4::Presented::of(received, credential, rules, now).map(Self::V4);
        }
        if !rules.presigned_v2 {
            return Err(fault::unsupported().into());
        }
        v2::Presented::of(received, now).map(Self::V2).map_err(Refusal::from)
    }

    pub(crate) fn access_key(&self) -> &str {
        match self {
            Self::V4(presented) => &presented.scope.access_key,
            Self::V2(presented) => &presented.access_key,
        }
    }

    /// Returns the time at which a presigned URL expires.
    pub(crate) fn url_expires(&self) -> Option<Seconds> {
        match self {
            Self::V4(presented) => presented.url_expires,
            Self::V2(presented) => Some(presented.expires),
        }
    }

    /// Compares the signature with the required one. Returns `None` when they differ; otherwise returns the
    /// key with which the chunks of the body are signed.
    pub(crate) fn verify(&self, received: &Received<'_>, secret: &str) -> Option<Verified> {
        match self {
            Self::V4(presented) => presented.verify(received, secret).map(Some).map(Verified),
            Self::V2(presented) => presented.verify(received, secret).then_some(Verified(None)),
        }
    }
}

/// A signature that was verified.
pub(crate) struct Verified(pub(crate) Option<ChunkKey>);

/// Names and values of headers, as text.
type Reading<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// Returns the values of headers as text, in both ways in which clients sign bytes beyond ASCII: as UTF-8,
/// and as Latin-1 that was signed as UTF-8 (as Python does). Returns `None` when a header is missing.
fn readings<'a>(headers: &'a HeaderMap, names: &'a [String]) -> Option<Vec<Reading<'a>>> {
    let mut values: Vec<(&str, &[u8])> = Vec::with_capacity(names.len());
    for name in names {
        let before = values.len();
        values.extend(headers.get_all(name).iter().map(|value| (name.as_str(), value.as_bytes())));
        if values.len() == before {
            return None;
        }
    }
    let utf8 = values
        .iter()
        .map(|(name, bytes)| Some((*name, Cow::Borrowed(std::str::from_utf8(bytes).ok()?))));
    let mut all: Vec<Vec<_>> = utf8.collect::<Option<_>>().into_iter().collect();
    if !values.iter().all(|(_, bytes)| bytes.is_ascii()) {
        let other = values.iter().map(|(name, bytes)| (*name, Cow::Owned(latin1(bytes))));
        all.push(other.collect());
    }
    Some(all)
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}
