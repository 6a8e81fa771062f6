//! Verifies any bytes as the credential and the query of a request. Nothing unsigned may be accepted, and
//! XML must read the same however often its references were expanded.
#![no_main]

use fula_gateway::fuzzing::{expanded, signed};
use http::Method;
use libfuzzer_sys::fuzz_target;

/// The time of the requests: 24 May 2013, midnight.
const NOW: u64 = 1_369_353_600;

const SAMPLES: [&str; 3] = [
    "AWS4-HMAC-SHA256 Credential=a/20130524/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=00",
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&\
     X-Amz-Date=20130524T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00",
    "AWSAccessKeyId=a&Expires=1369353700&Signature=AAAA&x-amz-meta-a=b",
];

fuzz_target!(|data: &[u8]| {
    let data = &*fula_fuzz::input(data, &SAMPLES.map(Vec::from));
    let host: (&str, &[u8]) = ("host", b"h");
    let date: (&str, &[u8]) = ("x-amz-date", b"20130524T000000Z");
    let hash: (&str, &[u8]) = ("x-amz-content-sha256", b"UNSIGNED-PAYLOAD");
    let header = [host, date, hash, ("authorization", data)];
    assert!(signed(&Method::GET, "/b/k", &header, "secret", NOW).is_err());
    if let Ok(query) = std::str::from_utf8(data) {
        assert!(signed(&Method::GET, &format!("/b/k?{query}"), &[host], "secret", NOW).is_err());
    }
    let once = expanded(data);
    assert!(once.len() <= data.len() && expanded(&once) == once);
});
