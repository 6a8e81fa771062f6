//! Parses any bytes as the body of a multi-key commit. Everything that is accepted can be stored and
//! returned unchanged.
#![no_main]

use fula_gateway::fuzzing::{BatchAction, commit};
use http::{HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

const SAMPLES: [&str; 2] = [
    r#"{"changes":[{"put":{"key":"k","text":"t","contentType":"text/plain","metadata":{"a":"b"},
        "ifNoneMatch":"*"}},{"put":{"key":"l","base64":"AAAA","ifMatch":"\"x\""}}]}"#,
    r#"{"changes":[{"put":{"key":"m","upload":{"id":"u","parts":[{"number":1,"etag":"e"}]}}},
        {"delete":{"key":"n","ifMatch":"y"}}]}"#,
];

fuzz_target!(|data: &[u8]| {
    let data = &*fula_fuzz::input(data, &SAMPLES.map(Vec::from));
    let Some(changes) = commit(data) else { return };
    for change in changes {
        let BatchAction::Put { body, facts } = change.action else { continue };
        // Text in JSON and base64 is not shorter than what it stands for.
        assert!(body.len() <= data.len());
        for name in facts.metadata.keys() {
            let header = HeaderName::from_bytes(format!("x-amz-meta-{name}").as_bytes());
            assert_eq!(
                header.expect("a name that is answered").as_str(),
                format!("x-amz-meta-{name}")
            );
        }
        for value in facts.metadata.values().chain(facts.headers.values()) {
            assert!(HeaderValue::from_str(value).is_ok(), "{value:?}");
        }
    }
});
