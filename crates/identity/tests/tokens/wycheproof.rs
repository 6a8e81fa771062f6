//! The JSON Web Signature vectors of Project Wycheproof (`vectors/wycheproof`).
//!
//! Their payloads are not the claims of a JWT. A token whose signature is accepted is therefore refused with
//! [`CLAIMS`], and a token whose signature is refused with anything else.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use fula_identity::jwt::{JwtPolicy, KeySet};
use serde_json::json;

use super::*;

/// The refusal of a token whose signature is right and whose payload is not an object of claims.
const CLAIMS: TokenError = TokenError::Invalid("its claims are malformed");

/// Algorithms that this crate supports.
const SUPPORTED: [&str; 4] = ["HS256", "RS256", "ES256", "EdDSA"];

/// Cases that the set calls valid and this crate refuses: their base64 contains a character outside its
/// alphabet, which RFC 7515 §2 does not allow.
const STRICTER: [u64; 2] = [372, 373];

/// Cases that the set calls invalid for their padding, but that have none: their text is that of the valid case
/// [`UNPADDED`].
const MISLABELLED: [u64; 2] = [367, 370];

/// A valid case of which the set has a copy for each padding that it forgot to add.
const UNPADDED: u64 = 357;

/// Groups whose algorithms are not supported: their first case, and the algorithm. Every case in them must be
/// refused.
const UNSUPPORTED: [(u64, &str); 9] = [
    (264, "RS384"),
    (268, "RS512"),
    (272, "PS256"),
    (320, "PS384"),
    (325, "PS512"),
    (346, "PS256"),
    (347, "ES521"),
    (350, "PS256"),
    (351, "ES521"),
];

/// Returns a policy whose only key is that of a group.
fn policy_of(group: &Value) -> Policy {
    let key = group.get("public").unwrap_or(&group["private"]);
    let jwt = if key["kty"] == "oct" {
        let secret = BASE64_URL_SAFE_NO_PAD.decode(key["k"].as_str().unwrap()).unwrap();
        JwtPolicy::default().with_secret(&secret).unwrap()
    } else {
        let keys = KeySet::parse(json!({"keys": [key]}).to_string().as_bytes()).unwrap();
        JwtPolicy::default().with_keys(Some(keys))
    };
    Policy { jwt: jwt.into(), ..Policy::default() }
}

/// Returns the text of a case. A case of the JSON serialization may be an object.
fn text_of(jws: &Value) -> String {
    jws.as_str().map_or_else(|| jws.to_string(), ToOwned::to_owned)
}

#[test]
fn signatures_are_accepted_and_refused_as_wycheproof_says() {
    let set = include_str!("../vectors/wycheproof/json_web_signature_test.json");
    let set: Value = serde_json::from_str(set).unwrap();
    let (mut cases, mut accepted, mut unsupported) = (0, BTreeMap::new(), Vec::new());
    let mut unpadded = String::new();
    for group in set["testGroups"].as_array().unwrap() {
        let policy = policy_of(group);
        let key = group.get("public").unwrap_or(&group["private"]);
        let algorithm = key["alg"].as_str().unwrap_or("none");
        let tests = group["tests"].as_array().unwrap();
        let is_supported = SUPPORTED.contains(&algorithm);
        // A key without an algorithm is one for encryption.
        if !is_supported && key["alg"].is_string() {
            unsupported.push((tests[0]["tcId"].as_u64().unwrap(), algorithm));
        }
        for test in tests {
            let (id, text) = (test["tcId"].as_u64().unwrap(), text_of(&test["jws"]));
            let error = policy.verify(&text, NOW).unwrap_err();
            let is_valid = match id {
                _ if MISLABELLED.contains(&id) => {
                    assert_eq!(text, unpadded);
                    true
                }
                _ => test["result"] == "valid" && is_supported && !STRICTER.contains(&id),
            };
            assert_eq!(error == CLAIMS, is_valid, "case {id}, {}: {error}", test["comment"]);
            cases += 1;
            *accepted.entry(algorithm).or_insert(0) += u32::from(is_valid);
            if id == UNPADDED {
                unpadded = text;
            }
        }
    }
    assert_eq!(cases, set["numberOfTests"]);
    assert_eq!(unsupported, UNSUPPORTED);
    accepted.retain(|_, count| *count > 0);
    assert_eq!(accepted, [("ES256", 2), ("HS256", 10), ("RS256", 8)].into());
    // The padding that the mislabelled cases are about.
    let [header, payload, mac] = unpadded.split('.').collect::<Vec<_>>().try_into().unwrap();
    let secret = JwtPolicy::default().with_secret(&[0; 32]).unwrap();
    let policy = Policy { jwt: secret.into(), ..Policy::default() };
    assert_eq!(policy.verify(&unpadded, NOW), Err(CLAIMS));
    for padded in [format!("{header}.{payload}.{mac}="), format!("{header}.{payload}==.{mac}")] {
        assert_ne!(policy.verify(&padded, NOW).unwrap_err(), CLAIMS);
    }
}
