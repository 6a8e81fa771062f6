//! Verifies any text as a wallet token. There must be no panic, and nothing unsigned may be accepted.
#![no_main]

use fula_identity::{Policy, wallet_token};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let policy = Policy { eip712: true, v1: true, ..Policy::default() };
    for token in [text.to_owned(), format!("{}{text}", wallet_token::PREFIX)] {
        // An input that is accepted would break secp256k1.
        assert!(policy.verify(&token, 1_800_000_000).is_err());
        let _ = fula_identity::token_digest(&token);
    }
});
