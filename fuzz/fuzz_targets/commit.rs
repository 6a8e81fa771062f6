//! Parses any bytes as the body of a multi-key commit. Everything that is accepted can be stored and
//! returned unchanged.
#![no_main]

use fula_gateway::fuzzing::{BatchAction, commit};
use http::{HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

const SAMPLES: [&[u8]; 3] = [
    br#"{"changes":[{"put":{"key":"k","text":"t","contentType":"text/plain","metadata":{"a":"b"},
        "ifNoneMatch":"*"}},{"put":{"key":"l","base64":"AAAA","ifMatch":"\"x\""}}]}"#,
    br#"{"each":true,"changes":[{"put":{"key":"m","upload":{"id":"u","parts":[{"number":1,"etag":"e"}]}}},
        {"copy":{"key":"c","from":{"key":"m"},"metadata":{"a":"b"}}},
        {"check":{"key":"d","ifMatch":"z"}},{"delete":{"key":"n","ifMatch":"y"}}]}"#,
    b"\xa1\x67changes\x82\xa1\x63put\xa3\x63key\x61k\x65bytes\x41\x00\x68metadata\xa1\x61a\x61b\
      \xa1\x64copy\xa2\x63key\x61c\x64from\xa1\x63key\x61k",
];

fuzz_target!(|data: &[u8]| {
    let data = &*fula_fuzz::input(data, &SAMPLES.map(Vec::from));
    for is_cbor in [false, true] {
        for change in commit(data, is_cbor).into_iter().flatten() {
            check(data, change.action);
        }
    }
});

/// Checks that an action can be stored and returned unchanged.
fn check(data: &[u8], action: BatchAction) {
    let facts = match action {
        BatchAction::Put { body, facts } => {
            // Text in JSON and base64 is not shorter than what it stands for.
            assert!(body.len() <= data.len());
            facts
        }
        BatchAction::Copy { replace: Some(facts), .. } => facts,
        _ => return,
    };
    for name in facts.metadata.keys() {
        let header = HeaderName::from_bytes(format!("x-amz-meta-{name}").as_bytes());
        assert_eq!(header.expect("a name that is answered").as_str(), format!("x-amz-meta-{name}"));
    }
    for value in facts.metadata.values().chain(facts.headers.values()) {
        assert!(HeaderValue::from_str(value).is_ok(), "{value:?}");
    }
}
