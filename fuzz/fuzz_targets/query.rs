//! Routes any method, path and query. An accepted request must have one meaning, however it is written.
#![no_main]

use fula_gateway::fuzzing::{operation, parameters};
use http::Method;
use libfuzzer_sys::fuzz_target;

const METHODS: [Method; 6] =
    [Method::GET, Method::HEAD, Method::PUT, Method::POST, Method::DELETE, Method::OPTIONS];

const PATHS: [&str; 6] = ["/", "/b", "/b/", "/b/k", "/b%2Fk", "/b/k/"];

const SAMPLES: [&str; 4] = [
    "list-type=2&prefix=a%2Fb&delimiter=%2F&max-keys=10&start-after=c&x-id=ListObjectsV2",
    "X-Amz-Algorithm=a&X-Amz-Credential=b&X-Amz-Date=c&X-Amz-Expires=1&X-Amz-SignedHeaders=host&X-Amz-Signature=d",
    "partNumber=1&uploadId=u&x-other=1",
    "fula-commit&versionId=null&response-expires=e",
];

fuzz_target!(|data: &[u8]| {
    let Some((&choice, query)) = data.split_first() else { return };
    let query = fula_fuzz::input(query, &SAMPLES.map(Vec::from));
    let Ok(query) = std::str::from_utf8(&query) else { return };
    // The part after `#` is a fragment, which a query does not have.
    if query.contains('#') {
        return;
    }
    let method = &METHODS[usize::from(choice) % METHODS.len()];
    let path = PATHS[usize::from(choice) / METHODS.len() % PATHS.len()];
    let host_is_bucket = choice >= 128;
    let found = operation(method, &format!("{path}?{query}"), host_is_bucket);
    if let Err(code) = &found {
        assert!(["", "InvalidRequest", "MethodNotAllowed", "NotImplemented"].contains(&&**code));
        return;
    }
    let names = parameters(query);
    let mut sorted = names.clone();
    sorted.sort();
    sorted.dedup();
    let is_read = [Method::GET, Method::HEAD].contains(method);
    let is_ignored = |name: &str| is_read && name.starts_with("x-") && !name.starts_with("x-amz-");
    let twice = names.len() - sorted.len();
    assert!(twice == 0 || names.iter().any(|name| is_ignored(name)), "{names:?}");
    // The same parameters in another order, in another spelling, and with other values.
    let mut other = form_urlencoded::Serializer::new(String::new());
    for name in names.iter().rev() {
        other.append_pair(name, "other");
    }
    let other = other.finish();
    assert_eq!(operation(method, &format!("{path}?{other}"), host_is_bucket), found, "{other}");
    // An additional unknown parameter must be refused.
    let more = operation(method, &format!("{path}?{query}&unknown"), host_is_bucket);
    assert!(more.is_err(), "{query}");
});
