//! Verifies any text as a JWT. There must be no panic, and nothing unsigned may be accepted.
#![no_main]

use std::sync::Arc;

use fula_identity::{
    Policy,
    jwt::{JwtPolicy, KeySet},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let vectors = include_str!("../../crates/identity/tests/vectors/vectors.json");
    let vectors: serde_json::Value = serde_json::from_str(vectors).expect("JSON");
    let keys = serde_json::json!({"keys": vectors["jwt"]["keys"]}).to_string();
    let jwt = JwtPolicy::new(None, None)
        .with_secret(b"a secret that nobody will guess in time")
        .expect("long enough")
        .with_keys(Some(KeySet::parse(keys.as_bytes()).expect("keys")));
    let policy = Policy { jwt: Arc::new(jwt), ..Policy::default() };
    if policy.verify(text, 1500).is_ok() {
        // The input may be one of the vectors.
        let known = ["rs256", "es256", "eddsa"].iter().any(|name| {
            let token = vectors["jwt"][name].as_str().unwrap_or_default();
            token.rsplit_once('.').map(|(signed, _)| signed)
                == text.rsplit_once('.').map(|(signed, _)| signed)
        });
        assert!(known, "a forged token was let in");
    }
});
