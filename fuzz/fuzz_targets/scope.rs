//! Parses any text as a scope. An accepted scope is displayed in the same way, and covers only what it
//! states.
#![no_main]

use fula_identity::{Grant, Scope, Target, Verb};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(scope) = text.parse::<Scope>() else { return };
    assert_eq!(scope.to_string(), text);
    let grant = Grant::parse(Some(&[text])).expect("it parsed");
    if !text.ends_with(":*") {
        assert!(!grant.allows(Verb::Read, Target::Account));
        assert!(!grant.allows(Verb::Read, Target::Object("another-bucket-that-is-not-named", "k")));
    }
});
