//! Parses any bytes as a key set. There must be no panic.
#![no_main]

use fula_identity::jwt::KeySet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(keys) = KeySet::parse(data) {
        let _ = keys.lacks_key_of("eyJhbGciOiJIUzI1NiIsImtpZCI6ImEifQ.e30.");
    }
});
