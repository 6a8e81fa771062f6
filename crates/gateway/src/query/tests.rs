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
const SUBRESOURCES: [&str; 74] = [
    "abac",
    "accelerate",
    "acl",
    "analytics",
    "annotation",
    "attributes",
    "cors",
    "delete",
    "encryption",
    "fula-car",
    "fula-changes",
    "fula-commit",
    "fula-list",
    "fula-proof",
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

/// Returns whether a method, a level and a single parameter match an operation.
fn is_offered(method: &Method, level: Level, name: &str) -> bool {
    let is = |names: &[&str]| names.contains(&name);
    match (method.as_str(), level) {
        ("GET", Level::Service) => is(&["max-buckets", "prefix"]),
        ("GET", Level::Bucket) => is(&[
            "fula-car",
            "fula-changes",
            "fula-list",
            "fula-proof",
            "list-type",
            "location",
            "marker",
            "max-keys",
            "policy",
            "polic%79",
            "policyStatus",
            "prefix",
            "uploads",
            "abac",
            "accelerate",
            "acl",
            "%61cl",
            "analytics",
            "cors",
            "encryption",
            "intelligent-tiering",
            "inventory",
            "lifecycle",
            "logging",
            "metadataConfiguration",
            "metrics",
            "notification",
            "object-lock",
            "ownershipControls",
            "publicAccessBlock",
            "replication",
            "requestPayment",
            "tagging",
            "versioning",
            "versions",
            "website",
        ]),
        ("GET", Level::Object) => is(&[
            "acl",
            "%61cl",
            "attributes",
            "legal-hold",
            "partNumber",
            "response-expires",
            "retention",
            "tagging",
            "uploadId",
            "versionId",
        ]),
        ("HEAD", Level::Object) => is(&["partNumber", "response-expires", "versionId"]),
        ("PUT", Level::Bucket) => is(&[
            "policy",
            "polic%79",
            "acl",
            "%61cl",
            "cors",
            "encryption",
            "lifecycle",
            "ownershipControls",
            "publicAccessBlock",
            "tagging",
            "versioning",
        ]),
        ("PUT", Level::Object) => is(&["acl", "%61cl", "renameObject", "tagging"]),
        ("DELETE", Level::Bucket) => is(&[
            "policy",
            "polic%79",
            "cors",
            "encryption",
            "lifecycle",
            "ownershipControls",
            "publicAccessBlock",
            "replication",
            "tagging",
            "website",
        ]),
        ("POST", Level::Bucket) => is(&["delete", "delet%65", "fula-commit"]),
        ("POST", Level::Object) => is(&["uploads", "uploadId"]),
        ("DELETE", Level::Object) => is(&["tagging", "uploadId", "versionId"]),
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
        (Method::DELETE, Level::Object, "acl", "MethodNotAllowed"),
        (Method::DELETE, Level::Object, "uploadId=x&tagging", "MethodNotAllowed"),
        (Method::PUT, Level::Bucket, "replication", "NotImplemented"),
        (Method::DELETE, Level::Bucket, "versioning", "MethodNotAllowed"),
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
    // Only reads may be allowed without credentials.
    for route in routes().filter(|route| route.is_for_anyone) {
        assert!([Method::GET, Method::HEAD].contains(&route.method), "{route:?}");
    }
}

#[test]
fn a_path_names_the_service_a_bucket_or_an_object() {
    for (path, expected) in [
        ("/", Level::Service),
        // This is a bucket without a name, which `s3s` refuses.
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
