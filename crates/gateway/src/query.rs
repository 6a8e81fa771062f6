//! The query parameters that each operation may carry (docs/adr/0034).
//!
//! `s3s` routes a request with unknown parameters to the plain operation, so that `DELETE /b/k?policy`
//! would delete the object. In the table of this module every supported operation is one row. A request
//! that matches no row is refused before `s3s` sees it.

mod refused;
mod settings;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use http::{Method, request::Parts};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

use crate::error::not_implemented;

/// The resource that a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// The service: `/`.
    Service,
    /// A bucket.
    Bucket,
    /// An object.
    Object,
}

/// The way in which an operation reads the body of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// It reads no body.
    None,
    /// It reads the bytes as they arrive.
    Streamed,
    /// It reads the whole body, of this kind, before it begins.
    BufferedBodies(Kind),
}

/// The content of a buffered body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The XML or JSON of any operation that is not listed below.
    Document,
    /// The XML of `CompleteMultipartUpload`. Its checksum headers are about the object.
    Completion,
    /// The JSON or dag-cbor of a multi-key commit.
    Commit,
}

/// One operation: its method and kind of path, and its parameters.
#[derive(Debug)]
pub(crate) struct Route {
    method: Method,
    level: Level,
    /// Parameters that identify the operation. All of them must be there.
    required: &'static [&'static str],
    /// Parameters that may be there.
    optional: &'static [&'static str],
    /// Way in which the body is read.
    pub(crate) payload: Payload,
    /// Whether the answer is a page of names, which is buffered until it is sent.
    pub(crate) is_page: bool,
    /// Whether a request without credentials can ever be allowed.
    pub(crate) is_for_anyone: bool,
}

impl Route {
    const fn new(method: Method, level: Level, required: &'static [&'static str]) -> Self {
        Self {
            method,
            level,
            required,
            optional: &[],
            payload: Payload::None,
            is_page: false,
            is_for_anyone: false,
        }
    }

    const fn with(mut self, optional: &'static [&'static str]) -> Self {
        self.optional = optional;
        self
    }

    const fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }

    const fn page(mut self) -> Self {
        self.is_page = true;
        self
    }

    const fn for_anyone(mut self) -> Self {
        self.is_for_anyone = true;
        self
    }

    fn fits(&self, method: &Method, level: Level, names: &[Cow<'_, str>]) -> bool {
        let understands = |name: &Cow<'_, str>| {
            let name = name.as_ref();
            self.required.contains(&name) || self.optional.contains(&name) || is_common(name)
        };
        self.method == *method
            && self.level == level
            && self.required.iter().all(|required| names.iter().any(|name| name == required))
            && names.iter().all(understands)
    }
}

/// Parameters of a read of an object.
const READ: &[&str] = &[
    "partNumber",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "versionId",
];

/// Parameters of a listing, of either version.
const LIST: &[&str] = &[
    "continuation-token",
    "delimiter",
    "encoding-type",
    "fetch-owner",
    "list-type",
    "marker",
    "max-keys",
    "prefix",
    "start-after",
];

const LIST_UPLOADS: &[&str] =
    &["delimiter", "encoding-type", "key-marker", "max-uploads", "prefix", "upload-id-marker"];

const DOCUMENT: Payload = Payload::BufferedBodies(Kind::Document);

/// Every operation that is supported, but those on subresources ([`settings`]).
const ROUTES: &[Route] = &[
    Route::new(Method::GET, Level::Service, &[])
        .with(&["bucket-region", "continuation-token", "max-buckets", "prefix"])
        .page(),
    Route::new(Method::GET, Level::Bucket, &[]).with(LIST).page().for_anyone(),
    Route::new(Method::GET, Level::Bucket, &["fula-car"]).with(&["since", "version"]),
    Route::new(Method::GET, Level::Bucket, &["fula-proof"]).with(&[
        "key",
        "max-keys",
        "prefix",
        "root",
        "start-after",
    ]),
    Route::new(Method::GET, Level::Bucket, &["fula-changes"])
        .with(&["meta", "prefix", "root", "since", "wait"]),
    Route::new(Method::GET, Level::Bucket, &["fula-list"]).with(&["after", "meta", "prefix"]),
    Route::new(Method::GET, Level::Bucket, &["location"]).for_anyone(),
    Route::new(Method::GET, Level::Bucket, &["policy"]),
    Route::new(Method::GET, Level::Bucket, &["policyStatus"]).for_anyone(),
    Route::new(Method::GET, Level::Bucket, &["uploads"]).with(LIST_UPLOADS).page().for_anyone(),
    Route::new(Method::HEAD, Level::Bucket, &[]).for_anyone(),
    Route::new(Method::PUT, Level::Bucket, &[]).payload(DOCUMENT),
    Route::new(Method::PUT, Level::Bucket, &["policy"]).payload(DOCUMENT),
    Route::new(Method::DELETE, Level::Bucket, &[]),
    Route::new(Method::DELETE, Level::Bucket, &["policy"]),
    Route::new(Method::POST, Level::Bucket, &["delete"]).payload(DOCUMENT).page(),
    Route::new(Method::POST, Level::Bucket, &["fula-commit"])
        .payload(Payload::BufferedBodies(Kind::Commit)),
    Route::new(Method::GET, Level::Object, &[]).with(READ).for_anyone(),
    Route::new(Method::GET, Level::Object, &["uploadId"])
        .with(&["encoding-type", "max-parts", "part-number-marker"])
        .page()
        .for_anyone(),
    Route::new(Method::HEAD, Level::Object, &[]).with(READ).for_anyone(),
    Route::new(Method::PUT, Level::Object, &[]).payload(Payload::Streamed),
    Route::new(Method::PUT, Level::Object, &["partNumber", "uploadId"]).payload(Payload::Streamed),
    Route::new(Method::DELETE, Level::Object, &[]).with(&["versionId"]),
    Route::new(Method::DELETE, Level::Object, &["uploadId"]),
    Route::new(Method::POST, Level::Object, &["uploads"]).payload(DOCUMENT),
    Route::new(Method::POST, Level::Object, &["uploadId"])
        .payload(Payload::BufferedBodies(Kind::Completion)),
];

/// Returns every operation that is supported.
fn routes() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().chain(settings::ROUTES)
}

/// Largest number of characters of an unknown parameter that an error repeats.
const SHOWN_CHARS_MAX: usize = 64;

/// Returns whether any operation may carry a parameter. These are the parameters of presigned URLs, and
/// those that SDKs add without effect.
fn is_common(name: &str) -> bool {
    matches!(
        name,
        "X-Amz-Algorithm"
            | "X-Amz-Content-Sha256"
            | "X-Amz-Credential"
            | "X-Amz-Date"
            | "X-Amz-Expires"
            | "X-Amz-Security-Token"
            | "X-Amz-Signature"
            | "X-Amz-SignedHeaders"
            | "X-Amz-User-Agent"
            | "x-amz-checksum-crc32"
            | "x-amz-checksum-crc32c"
            | "x-amz-checksum-crc64nvme"
            | "x-amz-checksum-mode"
            | "x-amz-checksum-sha1"
            | "x-amz-checksum-sha256"
            | "x-amz-checksum-sha512"
            | "x-amz-checksum-xxhash128"
            | "x-amz-checksum-xxhash3"
            | "x-amz-checksum-xxhash64"
            | "x-amz-sdk-checksum-algorithm"
            | "x-amz-user-agent"
            | "x-id"
            // These belong to signature version 2, which is refused with a text of its own.
            | "AWSAccessKeyId"
            | "Expires"
            | "Signature"
    )
}

/// Returns whether S3 ignores a parameter of a read. Users add such parameters to URLs, for example to find
/// them in a log or to bypass a cache.
fn is_ignored_in_reads(method: &Method, name: &str) -> bool {
    let is_own = name.starts_with("x-") && !name.starts_with("x-amz-");
    [Method::GET, Method::HEAD].contains(method) && is_own
}

/// Returns the resource that a path names. With `host_is_bucket` the host names the bucket, and the path
/// the key.
pub(crate) fn level_of(path: &str, host_is_bucket: bool) -> Level {
    let rest = path.strip_prefix('/').unwrap_or(path);
    if host_is_bucket {
        return if rest.is_empty() { Level::Bucket } else { Level::Object };
    }
    if rest.is_empty() {
        return Level::Service;
    }
    // `s3s` decodes the path before it searches for the end of the bucket name.
    let ends = ["/", "%2F", "%2f"].map(|end| rest.find(end).map(|at| at + end.len()));
    let key = ends.into_iter().flatten().min();
    if key.is_some_and(|key| key < rest.len()) { Level::Object } else { Level::Bucket }
}

/// Returns the names in a query, decoded as `s3s` decodes them.
fn names_in(query: &str) -> impl Iterator<Item = Cow<'_, str>> {
    form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name)
}

/// Finds the operation that a request asks for.
///
/// # Errors
/// 405 `MethodNotAllowed` for parameters that are supported, but not with this method on this level. 501
/// `NotImplemented` for any other parameter. 400 `InvalidRequest` for one that is repeated, or that belongs
/// to another level. 404 for a torrent.
pub(crate) fn route(parts: &Parts, host_is_bucket: bool) -> S3Result<&'static Route> {
    let level = level_of(parts.uri.path(), host_is_bucket);
    find(&parts.method, level, parts.uri.query().unwrap_or_default())
}

fn find(method: &Method, level: Level, query: &str) -> S3Result<&'static Route> {
    let mut names: Vec<_> = names_in(query).collect();
    names.retain(|name| !is_ignored_in_reads(method, name));
    names.sort_unstable();
    if let Some((name, _)) = names.iter().zip(names.iter().skip(1)).find(|(a, b)| a == b) {
        let name = shown(name);
        return Err(s3_error!(InvalidRequest, "The query parameter {name} is there twice."));
    }
    let fitting = routes().filter(|route| route.fits(method, level, &names));
    // The plain operation matches every request with only common parameters, so a more specific one goes
    // first.
    fitting.max_by_key(|route| route.required.len()).ok_or_else(|| refusal(method, level, &names))
}

/// Returns the beginning of a name in a form for an error, because XML cannot carry every character.
fn shown(name: &str) -> String {
    name.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect()
}

/// Returns the error that explains why no operation matches.
fn refusal(method: &Method, level: Level, names: &[Cow<'_, str>]) -> S3Error {
    let is_offered = |name: &str| {
        let knows =
            |route: &Route| route.required.contains(&name) || route.optional.contains(&name);
        is_common(name) || routes().any(knows)
    };
    let has = |name: &str| names.iter().any(|found| found == name);
    match (method.as_str(), level) {
        ("GET", Level::Object) if has("torrent") => return S3Error::new(S3ErrorCode::NoSuchKey),
        ("GET", Level::Object) if has("uploads") => {
            let text = "Key is not expected for the GET method ?uploads subresource";
            return s3_error!(InvalidRequest, "{text}");
        }
        ("GET", Level::Bucket) if has("uploadId") => {
            return s3_error!(InvalidRequest, "A key must be specified");
        }
        _ => {}
    }
    if let Some(operation) = refused::name(method, level, names) {
        return not_implemented(operation);
    }
    if let Some(name) = names.iter().find(|name| !is_offered(name)) {
        return not_implemented(&format!("The query parameter {}", shown(name)));
    }
    let what = match level {
        Level::Service => "the service",
        Level::Bucket => "a bucket",
        Level::Object => "an object",
    };
    let named: Vec<_> = names.iter().map(AsRef::as_ref).filter(|name| !is_common(name)).collect();
    let query = if named.is_empty() {
        String::new()
    } else {
        format!(" with the query parameters {}", named.join(", "))
    };
    let text = format!("The method {method} is not allowed on {what}{query}.");
    S3Error::with_message(S3ErrorCode::MethodNotAllowed, text)
}
