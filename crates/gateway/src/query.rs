//! Which query parameters each kind of request may carry (docs/adr/0034).
//!
//! `s3s` routes a request whose parameters it does not know to the plain operation, so that
//! `DELETE /b/k?policy` would delete the object. Here every operation that is offered is one row of a
//! table. A request that fits no row is refused before `s3s` sees it.

use std::borrow::Cow;

use http::{Method, request::Parts};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

use crate::error::not_implemented;

/// What the path of a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// The service: `/`.
    Service,
    /// A bucket.
    Bucket,
    /// An object.
    Object,
}

/// What an operation does with the body of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Nothing.
    None,
    /// It reads the bytes as they come.
    Streamed,
    /// It reads the whole body, which is of this kind, before it begins.
    BufferedBodies(Kind),
}

/// What a body that is read whole contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The XML or JSON of any operation that is not named below.
    Document,
    /// The XML of `CompleteMultipartUpload`. Its checksum headers are those of the object.
    Completion,
    /// The JSON of a multi-key commit.
    Commit,
}

/// One operation: the method and the path it takes, and the parameters it needs and understands.
#[derive(Debug)]
pub(crate) struct Route {
    method: Method,
    level: Level,
    /// Parameters that name the operation. All of them must be there.
    required: &'static [&'static str],
    /// Parameters that may be there.
    optional: &'static [&'static str],
    /// What becomes of the body.
    pub(crate) payload: Payload,
    /// Whether the answer is a page of names, which is held in memory until it is sent.
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

/// Every operation that is offered.
const ROUTES: &[Route] = &[
    Route::new(Method::GET, Level::Service, &[])
        .with(&["bucket-region", "continuation-token", "max-buckets", "prefix"])
        .page(),
    Route::new(Method::GET, Level::Bucket, &[]).with(LIST).page().for_anyone(),
    Route::new(Method::GET, Level::Bucket, &["location"]).for_anyone(),
    Route::new(Method::GET, Level::Bucket, &["policy"]),
    Route::new(Method::GET, Level::Bucket, &["policyStatus"]),
    Route::new(Method::GET, Level::Bucket, &["uploads"]).with(LIST_UPLOADS).page(),
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
        .page(),
    Route::new(Method::HEAD, Level::Object, &[]).with(READ).for_anyone(),
    Route::new(Method::PUT, Level::Object, &[]).payload(Payload::Streamed),
    Route::new(Method::PUT, Level::Object, &["partNumber", "uploadId"]).payload(Payload::Streamed),
    Route::new(Method::DELETE, Level::Object, &[]).with(&["versionId"]),
    Route::new(Method::DELETE, Level::Object, &["uploadId"]),
    Route::new(Method::POST, Level::Object, &["uploads"]).payload(DOCUMENT),
    Route::new(Method::POST, Level::Object, &["uploadId"])
        .payload(Payload::BufferedBodies(Kind::Completion)),
];

/// Most characters of an unknown parameter that an error repeats.
const SHOWN_CHARS_MAX: usize = 64;

/// Returns whether any operation may carry a parameter: those of a presigned URL, and what SDKs add
/// to one that changes nothing.
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
            | "x-amz-sdk-checksum-algorithm"
            | "x-amz-user-agent"
            | "x-id"
            // Signature version 2, which is refused with a text of its own.
            | "AWSAccessKeyId"
            | "Expires"
            | "Signature"
    )
}

/// Returns whether S3 ignores a parameter of a read: whoever hands out a URL may add such ones, for
/// example to find them in a log or to pass a cache.
fn is_ignored_in_reads(method: &Method, name: &str) -> bool {
    let is_own = name.starts_with("x-") && !name.starts_with("x-amz-");
    [Method::GET, Method::HEAD].contains(method) && is_own
}

/// Returns what a path names. With `host_is_bucket` the host names the bucket, and the path the key.
pub(crate) fn level_of(path: &str, host_is_bucket: bool) -> Level {
    let rest = path.strip_prefix('/').unwrap_or(path);
    if host_is_bucket {
        return if rest.is_empty() { Level::Bucket } else { Level::Object };
    }
    if rest.is_empty() {
        return Level::Service;
    }
    // s3s decodes the path before it looks for the end of the bucket's name.
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
/// 405 `MethodNotAllowed` for parameters that are offered, but not with this method on this level;
/// 501 `NotImplemented` for any other; 400 `InvalidRequest` for one that is there twice, or that names
/// another level; 404 for a torrent.
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
    let fitting = ROUTES.iter().filter(|route| route.fits(method, level, &names));
    // The plain operation fits whatever has only common parameters; one that is named goes first.
    fitting.max_by_key(|route| route.required.len()).ok_or_else(|| refusal(method, level, &names))
}

/// Returns the beginning of a name as an error can say it: XML cannot carry every character.
fn shown(name: &str) -> String {
    name.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect()
}

/// Says why no operation fits.
fn refusal(method: &Method, level: Level, names: &[Cow<'_, str>]) -> S3Error {
    let is_offered = |name: &str| {
        let knows =
            |route: &Route| route.required.contains(&name) || route.optional.contains(&name);
        is_common(name) || ROUTES.iter().any(knows)
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

#[cfg(test)]
mod tests {
    use super::*;

    const LEVELS: [Level; 3] = [Level::Service, Level::Bucket, Level::Object];

    const METHODS: [Method; 7] = [
        Method::GET,
        Method::HEAD,
        Method::PUT,
        Method::POST,
        Method::DELETE,
        Method::OPTIONS,
        Method::PATCH,
    ];

    /// Every subresource of S3, and names that only look like one.
    const SUBRESOURCES: [&str; 70] = [
        "abac",
        "accelerate",
        "acl",
        "analytics",
        "annotation",
        "attributes",
        "cors",
        "delete",
        "encryption",
        "fula-commit",
        "intelligent-tiering",
        "inventory",
        "legal-hold",
        "lifecycle",
        "list-type",
        "location",
        "logging",
        "metadataAnnotationTable",
        "metadataConfiguration",
        "metadataInventoryTable",
        "metadataJournalTable",
        "metadataTable",
        "metrics",
        "notification",
        "object-lock",
        "ownershipControls",
        "partNumber",
        "policy",
        "policyStatus",
        "publicAccessBlock",
        "renameObject",
        "replication",
        "requestPayment",
        "restore",
        "retention",
        "select",
        "select-type",
        "session",
        "tagging",
        "torrent",
        "update-object-encryption",
        "uploadId",
        "uploads",
        "versionId",
        "versioning",
        "versions",
        "website",
        "x-amz-acl",
        "x-amz-meta-a",
        "x-amz-object-lock-mode",
        "x-amz-server-side-encryption",
        "x-amz-storage-class",
        "x-amz-tagging",
        "x-amz-website-redirect-location",
        "Policy",
        "Delete",
        "ACL",
        "policystatus",
        "%61cl",
        "polic%79",
        "delet%65",
        "unknown",
        "%00",
        "+",
        "prefix",
        "marker",
        "max-keys",
        "response-expires",
        "max-parts",
        "max-buckets",
    ];

    fn code(method: &Method, level: Level, query: &str) -> String {
        match find(method, level, query) {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.code().as_str().to_owned(),
        }
    }

    /// What each method, level and single parameter leads to, where it leads anywhere.
    fn is_offered(method: &Method, level: Level, name: &str) -> bool {
        let is = |names: &[&str]| names.contains(&name);
        match (method.as_str(), level) {
            ("GET", Level::Service) => is(&["max-buckets", "prefix"]),
            ("GET", Level::Bucket) => is(&[
                "list-type",
                "location",
                "marker",
                "max-keys",
                "policy",
                "polic%79",
                "policyStatus",
                "prefix",
                "uploads",
            ]),
            ("GET", Level::Object) => {
                is(&["partNumber", "response-expires", "uploadId", "versionId"])
            }
            ("HEAD", Level::Object) => is(&["partNumber", "response-expires", "versionId"]),
            ("PUT" | "DELETE", Level::Bucket) => is(&["policy", "polic%79"]),
            ("POST", Level::Bucket) => is(&["delete", "delet%65", "fula-commit"]),
            ("POST", Level::Object) => is(&["uploads", "uploadId"]),
            ("DELETE", Level::Object) => is(&["uploadId", "versionId"]),
            _ => false,
        }
    }

    #[test]
    fn no_subresource_falls_through_to_another_operation() {
        for method in &METHODS {
            for level in LEVELS {
                for name in SUBRESOURCES {
                    let found = code(method, level, name);
                    let at = format!("{method} {level:?} ?{name}: {found}");
                    if is_offered(method, level, name) {
                        assert_eq!(found, "ok", "{at}");
                    } else {
                        let refusals =
                            ["InvalidRequest", "MethodNotAllowed", "NoSuchKey", "NotImplemented"];
                        assert!(refusals.contains(&&*found), "{at}");
                    }
                    // A value changes nothing.
                    assert_eq!(code(method, level, &format!("{name}=1")), found, "{at}");
                }
            }
        }
    }

    #[test]
    fn what_is_refused_says_whether_another_method_would_do() {
        for (method, level, query, expected) in [
            (Method::DELETE, Level::Object, "policy", "MethodNotAllowed"),
            (Method::DELETE, Level::Bucket, "policyStatus", "MethodNotAllowed"),
            (Method::DELETE, Level::Object, "fula-commit", "MethodNotAllowed"),
            (Method::DELETE, Level::Object, "list-type=2", "MethodNotAllowed"),
            (Method::PUT, Level::Object, "policy", "MethodNotAllowed"),
            (Method::PUT, Level::Object, "partNumber=1", "MethodNotAllowed"),
            (Method::PUT, Level::Object, "uploadId=x", "MethodNotAllowed"),
            (Method::PUT, Level::Object, "versionId=abc", "MethodNotAllowed"),
            (Method::POST, Level::Bucket, "", "MethodNotAllowed"),
            (Method::POST, Level::Bucket, "delete&policy", "MethodNotAllowed"),
            (Method::PUT, Level::Service, "", "MethodNotAllowed"),
            (Method::PATCH, Level::Object, "", "MethodNotAllowed"),
            (Method::GET, Level::Object, "torrent", "NoSuchKey"),
            (Method::GET, Level::Object, "uploads", "InvalidRequest"),
            (Method::GET, Level::Bucket, "uploadId=x", "InvalidRequest"),
            (Method::POST, Level::Object, "", "MethodNotAllowed"),
            (Method::DELETE, Level::Object, "acl", "NotImplemented"),
            (Method::DELETE, Level::Object, "uploadId=x&tagging", "NotImplemented"),
            (Method::GET, Level::Object, "v=3", "NotImplemented"),
            (Method::DELETE, Level::Object, "x-note=3", "NotImplemented"),
            (Method::DELETE, Level::Object, "uploadId=a&uploadId=b", "InvalidRequest"),
            (Method::DELETE, Level::Object, "uploadId=a&upload%49d=b", "InvalidRequest"),
        ] {
            assert_eq!(code(&method, level, query), expected, "{method} {level:?} ?{query}");
        }
    }

    #[test]
    fn an_error_names_a_parameter_in_characters_that_xml_carries() {
        let error = find(&Method::PUT, Level::Object, "%00%1F%EF%BF%BEa").unwrap_err();
        let text = error.message().unwrap();
        assert!(text.contains(r"\0\u{1f}\u{fffe}a"), "{text}");
        let long = find(&Method::PUT, Level::Object, &"x".repeat(5000)).unwrap_err();
        assert!(long.message().unwrap().len() < 200);
    }

    #[test]
    fn what_sdks_send_is_understood() {
        let presigned = "X-Amz-Algorithm=a&X-Amz-Credential=c&X-Amz-Date=d&X-Amz-Expires=5&\
                         X-Amz-SignedHeaders=host&X-Amz-Security-Token=t&X-Amz-Signature=s&x-id=I";
        for (method, level, query) in [
            (Method::GET, Level::Bucket, "list-type=2&prefix=acl&fetch-owner=true&max-keys=5"),
            (Method::GET, Level::Bucket, "uploads&prefix=a&encoding-type=url"),
            (Method::GET, Level::Object, "versionId=null&partNumber=2&response-content-type=a"),
            (Method::GET, Level::Object, "x-id=GetObject&x-amz-checksum-mode=ENABLED&x-log=me"),
            (Method::PUT, Level::Object, "partNumber=1&uploadId=x&x-id=UploadPart"),
            (Method::PUT, Level::Object, "x-amz-checksum-crc32=AAAAAA%3D%3D"),
            (Method::PUT, Level::Object, "x-amz-sdk-checksum-algorithm=CRC32"),
            (Method::POST, Level::Bucket, "delete"),
            (Method::POST, Level::Object, "uploads"),
            (Method::POST, Level::Object, "uploadId=x"),
            (Method::DELETE, Level::Object, "uploadId=x"),
            (Method::DELETE, Level::Object, "versionId=null"),
        ] {
            assert_eq!(code(&method, level, query), "ok", "{method} {level:?} ?{query}");
            let query = format!("{query}&{presigned}").replace("x-id=UploadPart&", "");
            let query = query.replace("x-id=GetObject&", "");
            assert_eq!(code(&method, level, &query), "ok", "{method} {level:?} ?{query}");
        }
    }

    #[test]
    fn a_route_says_what_becomes_of_the_body_and_the_answer() {
        let route = |method: Method, level, query| find(&method, level, query).unwrap();
        let put = route(Method::PUT, Level::Object, "partNumber=1&uploadId=x");
        assert_eq!((put.payload, put.is_page), (Payload::Streamed, false));
        let delete = route(Method::POST, Level::Bucket, "d%65lete");
        assert_eq!((delete.payload, delete.is_page), (DOCUMENT, true));
        let complete = route(Method::POST, Level::Object, "u%70loadId=x");
        assert_eq!(complete.payload, Payload::BufferedBodies(Kind::Completion));
        let parts = route(Method::GET, Level::Object, "uploadId=x");
        assert_eq!((parts.payload, parts.is_page), (Payload::None, true));
        // Only reads can be allowed to anyone.
        for route in ROUTES.iter().filter(|route| route.is_for_anyone) {
            assert!([Method::GET, Method::HEAD].contains(&route.method), "{route:?}");
        }
    }

    #[test]
    fn a_path_names_the_service_a_bucket_or_an_object() {
        for (path, expected) in [
            ("/", Level::Service),
            // A bucket without a name, which s3s refuses.
            ("//", Level::Bucket),
            ("//k", Level::Object),
            ("/b", Level::Bucket),
            ("/b/", Level::Bucket),
            ("/b%2F", Level::Bucket),
            ("/b/k", Level::Object),
            ("/b%2Fk", Level::Object),
            ("/b%2fk", Level::Object),
        ] {
            assert_eq!(level_of(path, false), expected, "{path}");
        }
        assert_eq!(level_of("/", true), Level::Bucket);
        assert_eq!(level_of("/k", true), Level::Object);
        assert_eq!(level_of("//", true), Level::Object);
    }
}
