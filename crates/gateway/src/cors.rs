//! Cross-origin requests: preflights, which carry no credential, and the headers of all other answers.
//!
//! The rules are a setting of the bucket. Browsers compare them; the gateway refuses nothing but preflights.

use std::sync::{Arc, OnceLock};

use fula_core::BucketName;
use fula_service::{BucketOwner, Caller, Identity, Service, auth::Authenticator};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use s3s::{Body, S3Error, S3Result};
use serde::{Deserialize, Serialize};

use crate::{
    error::{custom, respond, s3_error as to_s3, with_detail},
    query::{Level, level_of},
    request::{HostBucket, query_value},
    s3::bucket_owner,
};

/// The values of request headers that an answer depends on.
const VARY: &str = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method";

/// Largest number of headers that a preflight may ask for.
const HEADERS_MAX: usize = 100;

/// A rule of a bucket, in the form in which it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    pub(crate) origins: Vec<String>,
    pub(crate) methods: Vec<String>,
    pub(crate) headers: Vec<String>,
    pub(crate) expose: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_age: Option<i32>,
}

/// Returns whether a text matches a pattern with at most one `*`.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => {
            text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end)
        }
    }
}

impl Rule {
    /// Returns the pattern of an origin that may send requests of this method with these headers.
    fn allows(&self, origin: &str, method: &str, headers: &[String]) -> Option<&str> {
        let pattern = self.origins.iter().find(|pattern| matches(pattern, origin))?;
        let has_header = |name: &String| {
            self.headers.iter().any(|pattern| matches(&pattern.to_ascii_lowercase(), name))
        };
        let is_allowed =
            self.methods.iter().any(|allowed| allowed == method) && headers.iter().all(has_header);
        is_allowed.then_some(pattern.as_str())
    }

    /// Sets the headers of an answer that this rule allows.
    fn write(&self, pattern: &str, origin: &str, headers: &[String], out: &mut HeaderMap) {
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                out.insert(name, value);
            }
        };
        let is_anyone = pattern == "*";
        set(header::ACCESS_CONTROL_ALLOW_ORIGIN, if is_anyone { "*" } else { origin });
        set(header::ACCESS_CONTROL_ALLOW_METHODS, &self.methods.join(", "));
        if !headers.is_empty() {
            set(header::ACCESS_CONTROL_ALLOW_HEADERS, &headers.join(", "));
        }
        if !self.expose.is_empty() {
            set(header::ACCESS_CONTROL_EXPOSE_HEADERS, &self.expose.join(", "));
        }
        if let Some(seconds) = self.max_age {
            set(header::ACCESS_CONTROL_MAX_AGE, &seconds.to_string());
        }
        if !is_anyone {
            set(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        }
    }
}

/// Sets the headers of the first rule that allows a request. Returns whether there is one.
fn apply(
    rules: &[Rule],
    origin: &str,
    method: &str,
    headers: &[String],
    out: &mut HeaderMap,
) -> bool {
    let found = rules.iter().find_map(|rule| Some((rule, rule.allows(origin, method, headers)?)));
    if let Some((rule, pattern)) = found {
        rule.write(pattern, origin, headers, out);
    }
    found.is_some()
}

/// Returns the bucket that a request names.
fn bucket_of<B>(request: &Request<B>, host_bucket: Option<&HostBucket>) -> Option<BucketName> {
    if let Some(bucket) = host_bucket {
        return BucketName::parse(&bucket.0).ok();
    }
    let path = request.uri().path().trim_start_matches('/');
    // No browser escapes a character that a bucket name may have.
    BucketName::parse(path.split('/').next()?).ok()
}

/// Returns the owner that a header or a parameter of a presigned URL names.
fn named_owner<B>(request: &Request<B>) -> BucketOwner {
    let name = "x-amz-expected-bucket-owner";
    match (bucket_owner(request.headers(), name), query_value(request.uri(), name)) {
        (BucketOwner::Unsaid, Some(owner)) => {
            owner.parse().map_or(BucketOwner::Nobody, BucketOwner::Named)
        }
        (owner, _) => owner,
    }
}

/// Returns the rules that a bucket stores.
///
/// # Errors
/// 500 `InternalError` for rules that cannot be read: a newer build may have stored them.
pub(crate) fn stored_rules(text: &str) -> S3Result<Vec<Rule>> {
    serde_json::from_str(text).map_err(|error| {
        tracing::error!(%error, "the rules of a bucket for other origins cannot be read");
        let text = "The CORS configuration of the bucket cannot be read by this version of Fula. Put it \
                    again, or let the operator upgrade the gateway.";
        custom("InternalError", StatusCode::INTERNAL_SERVER_ERROR, text.to_owned())
    })
}

async fn rules(service: &Service, caller: &Caller, bucket: &BucketName) -> S3Result<Vec<Rule>> {
    let text = service.cors_of_anyone(caller, bucket).await.map_err(to_s3)?;
    text.map_or(Ok(Vec::new()), |text| stored_rules(&text))
}

/// A request from another origin, which is not a preflight.
#[derive(Debug)]
pub(crate) struct CrossOrigin {
    origin: HeaderValue,
    method: Method,
    bucket: BucketName,
    named: BucketOwner,
    signer: OnceLock<Identity>,
}

impl CrossOrigin {
    /// Returns the facts about a request with an `Origin` that names a bucket.
    pub(crate) fn of<B>(
        request: &Request<B>,
        host_bucket: Option<&HostBucket>,
    ) -> Option<Arc<Self>> {
        let origin = request.headers().get(header::ORIGIN)?.clone();
        if request.method() == Method::OPTIONS {
            return None;
        }
        let bucket = bucket_of(request, host_bucket)?;
        let (method, named) = (request.method().clone(), named_owner(request));
        Some(Arc::new(Self { origin, method, bucket, named, signer: OnceLock::new() }))
    }

    /// Records who signed the request, which decides whose bucket its name means.
    pub(crate) fn signed_by(&self, identity: &Identity) {
        // A request is authenticated once.
        drop(self.signer.set(identity.clone()));
    }

    /// Adds the headers that let a page of the origin read the answer. If the rules cannot be read, it adds
    /// none.
    pub(crate) async fn complete(&self, service: &Service, response: &mut Response<Body>) {
        let identity = self.signer.get().cloned();
        let caller = Caller { identity, bucket_owner: self.named, ..Caller::default() };
        let found = rules(service, &caller, &self.bucket).await.unwrap_or_default();
        let origin = self.origin.to_str().unwrap_or_default();
        let headers = response.headers_mut();
        apply(&found, origin, self.method.as_str(), &[], headers);
        headers.insert(header::VARY, HeaderValue::from_static(VARY));
    }
}

/// Marks an answer that would be another one if the request had an `Origin`, so that a cache between does
/// not give it to another origin.
pub(crate) fn vary(response: &mut Response<Body>) {
    response.headers_mut().insert(header::VARY, HeaderValue::from_static(VARY));
}

fn bad_request(text: &str) -> S3Error {
    custom("BadRequest", StatusCode::BAD_REQUEST, text.to_owned())
}

fn forbidden(text: &str, method: &str, level: Level) -> S3Error {
    let kind = if level == Level::Object { "OBJECT" } else { "BUCKET" };
    let error = custom("AccessForbidden", StatusCode::FORBIDDEN, text.to_owned());
    with_detail(error, &format!("<Method>{method}</Method><ResourceType>{kind}</ResourceType>"))
}

/// Answers a preflight.
pub(crate) async fn preflight<B>(
    service: &Service,
    authenticator: &Authenticator,
    request: &Request<B>,
    host_bucket: Option<&HostBucket>,
) -> Response<Body> {
    let mut response = match allow(service, authenticator, request, host_bucket).await {
        Ok(headers) => {
            let mut response = Response::new(Body::empty());
            *response.headers_mut() = headers;
            response
        }
        Err(error) => respond(error),
    };
    vary(&mut response);
    response
}

async fn allow<B>(
    service: &Service,
    authenticator: &Authenticator,
    request: &Request<B>,
    host_bucket: Option<&HostBucket>,
) -> S3Result<HeaderMap> {
    let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let origin = text(header::ORIGIN)
        .ok_or_else(|| bad_request("Insufficient information. Origin request header needed."))?;
    let method = text(header::ACCESS_CONTROL_REQUEST_METHOD).unwrap_or("null");
    if !["GET", "PUT", "HEAD", "POST", "DELETE"].contains(&method) {
        let shown = crate::xml::escape(method);
        let text = format!("Invalid Access-Control-Request-Method: {shown}");
        return Err(bad_request(&text));
    }
    let headers: Vec<String> = text(header::ACCESS_CONTROL_REQUEST_HEADERS)
        .unwrap_or_default()
        .split(',')
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .collect();
    let level = level_of(request.uri().path(), host_bucket.is_some());
    let not_found = || forbidden("CORSResponse: Bucket not found", method, level);
    let bucket = bucket_of(request, host_bucket).ok_or_else(not_found)?;
    let caller = Caller {
        identity: claimed_identity(authenticator, request).await,
        bucket_owner: named_owner(request),
        ..Caller::default()
    };
    let rules = match service.cors_of_anyone(&caller, &bucket).await {
        Err(fula_service::ServiceError::NoSuchBucket) => return Err(not_found()),
        found => found.map_err(to_s3)?,
    };
    // A bucket that was found by its owner may be private: without rules, it looks as if it did not exist.
    let is_bare = caller.identity.is_none() && matches!(caller.bucket_owner, BucketOwner::Unsaid);
    let Some(rules) = rules else {
        let text = "CORSResponse: CORS is not enabled for this bucket.";
        return Err(if is_bare { forbidden(text, method, level) } else { not_found() });
    };
    let rules = stored_rules(&rules)?;
    let mut out = HeaderMap::new();
    if headers.len() <= HEADERS_MAX && apply(&rules, origin, method, &headers, &mut out) {
        return Ok(out);
    }
    if !is_bare {
        return Err(not_found());
    }
    let text = "CORSResponse: This CORS request is not allowed. This is usually because the evalution \
                of Origin, request method / Access-Control-Request-Method or \
                Access-Control-Request-Headers are not whitelisted by the resource's CORS spec.";
    Err(forbidden(text, method, level))
}

/// Returns the user of the key in a presigned URL. Nothing is verified: it only tells whose bucket the name
/// means, and a preflight reveals nothing but the rules for one origin.
async fn claimed_identity<B>(
    authenticator: &Authenticator,
    request: &Request<B>,
) -> Option<Identity> {
    let credential = query_value(request.uri(), "X-Amz-Credential");
    let key = credential.as_deref().and_then(|credential| credential.split('/').next());
    let key = key.map(ToOwned::to_owned).or_else(|| query_value(request.uri(), "AWSAccessKeyId"));
    authenticator.claimed_identity(&key?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(origins: &[&str], methods: &[&str], headers: &[&str]) -> Rule {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Rule {
            origins: owned(origins),
            methods: owned(methods),
            headers: owned(headers),
            ..Rule::default()
        }
    }

    #[test]
    fn rules_that_cannot_be_read_are_not_taken_for_none() {
        assert_eq!(stored_rules("[]").unwrap(), []);
        for broken in ["", "{}", r#"[{"origins": "*"}]"#] {
            assert_eq!(stored_rules(broken).unwrap_err().code().as_str(), "InternalError");
        }
    }

    #[test]
    fn a_pattern_has_one_wildcard() {
        for (pattern, text, expected) in [
            ("https://a.test", "https://a.test", true),
            ("https://a.test", "https://A.test", false),
            ("https://*.a.test", "https://b.a.test", true),
            ("https://*.a.test", "https://.a.test", true),
            ("https://*.a.test", "https://a.test", false),
            ("aba*aba", "ababa", false),
            ("*", "null", true),
            ("x-amz-*", "x-amz-date", true),
            ("x-amz-*", "content-type", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn the_first_rule_that_allows_a_request_counts() {
        let rules = [
            Rule { max_age: Some(1), ..rule(&["https://a.test"], &["PUT"], &["X-Amz-*"]) },
            Rule { max_age: Some(2), ..rule(&["https://*.test"], &["GET", "PUT"], &[]) },
            Rule { max_age: Some(3), ..rule(&["*"], &["GET"], &["*"]) },
        ];
        let found = |origin: &str, method: &str, headers: &[&str]| {
            let headers: Vec<_> = headers.iter().map(|name| (*name).to_owned()).collect();
            let mut out = HeaderMap::new();
            let allowed = apply(&rules, origin, method, &headers, &mut out);
            let text =
                |name| out.get(name).map(|value: &HeaderValue| value.to_str().unwrap().to_owned());
            assert_eq!(allowed, !out.is_empty());
            (
                text(header::ACCESS_CONTROL_MAX_AGE),
                text(header::ACCESS_CONTROL_ALLOW_ORIGIN),
                text(header::ACCESS_CONTROL_ALLOW_CREDENTIALS),
            )
        };
        let all = |a: &str, b: &str, c: Option<&str>| {
            (Some(a.to_owned()), Some(b.to_owned()), c.map(ToOwned::to_owned))
        };
        assert_eq!(
            found("https://a.test", "PUT", &["x-amz-date"]),
            all("1", "https://a.test", Some("true"))
        );
        assert_eq!(found("https://a.test", "GET", &[]), all("2", "https://a.test", Some("true")));
        assert_eq!(found("https://b.test", "GET", &["x-other"]), all("3", "*", None));
        assert_eq!(found("https://b.test", "PUT", &["x-other"]), (None, None, None));
        assert_eq!(found("http://b.test", "DELETE", &[]), (None, None, None));
    }
}
