//! JWTs that jose made, which are accepted, and malformed or forged ones, which are refused.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use fula_identity::{
    Grant, Target, Verb,
    jwt::{JwtPolicy, KeySet},
};
use ring::hmac;
use serde_json::json;

use super::*;

const SECRET: &[u8] = b"a shared secret of enough bytes!!";

fn keys() -> KeySet {
    KeySet::parse(json!({"keys": vectors()["jwt"]["keys"]}).to_string().as_bytes()).unwrap()
}

fn with(jwt: JwtPolicy) -> Policy {
    Policy { jwt: Arc::new(jwt), ..Policy::default() }
}

fn shared() -> Policy {
    with(JwtPolicy::new(None, None).with_secret(SECRET).unwrap())
}

fn signed(header: &Value, claims: &Value) -> String {
    let text = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
    let text = text.join(".");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), text.as_bytes());
    format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
}

fn hs256(claims: &Value) -> String {
    signed(&json!({"alg": "HS256"}), claims)
}

fn claims() -> Value {
    json!({"sub": "alice", "exp": 2000, "scope": "openid storage:*"})
}

#[test]
fn tokens_of_jose_are_accepted() {
    let vectors = vectors();
    let policy = with(JwtPolicy::default().with_keys(Some(keys())));
    let mut users = Vec::new();
    for name in ["rs256", "es256", "eddsa"] {
        let token = vectors["jwt"][name].as_str().unwrap();
        let verified = policy.verify(token, NOW).unwrap();
        assert_eq!(verified.identity.grant, Grant::All);
        assert_eq!((verified.issued, verified.expires), (1000, 2000));
        assert_eq!(policy.verify(token, 2000), Err(TokenError::Expired));
        users.push(verified.identity.user);
    }
    assert!(users.iter().all(|user| user == "https://issuer.example\0alice"));
    let token = vectors["jwt"]["hs256"].as_str().unwrap();
    assert_eq!(shared().verify(token, NOW).unwrap().identity.user, "alice");
}

#[test]
fn the_algorithm_is_the_keys_and_never_the_tokens() {
    let vectors = vectors();
    let both = JwtPolicy::new(None, None).with_secret(SECRET).unwrap().with_keys(Some(keys()));
    let both = with(both);
    let [confused, rs256] = ["confused", "rs256"].map(|name| &vectors["jwt"][name]);
    assert!(is_invalid(&both.verify(confused.as_str().unwrap(), NOW)));
    let rs256 = rs256.as_str().unwrap();
    assert!(both.verify(rs256, NOW).is_ok());
    assert!(is_invalid(&shared().verify(rs256, NOW)));
    let hs256_only = with(JwtPolicy::default().with_keys(Some(keys())));
    assert!(is_invalid(&hs256_only.verify(&hs256(&claims()), NOW)));
    // The same payload with another header.
    let [_, payload, signature] = rs256.split('.').collect::<Vec<_>>().try_into().unwrap();
    for alg in ["none", "None", "NONE", "", "HS256", "HS512", "ES256", "RS512", "PS256", "EdDSA"] {
        let header = json!({"alg": alg, "kid": "rs256"}).to_string();
        let header = BASE64_URL_SAFE_NO_PAD.encode(header);
        for signature in [signature, ""] {
            let token = format!("{header}.{payload}.{signature}");
            assert!(is_invalid(&both.verify(&token, NOW)), "{alg}");
        }
    }
    assert!(is_invalid(&both.verify(&signed(&json!({"alg": "none"}), &claims()), NOW)));
}

#[test]
fn headers_that_ask_for_more_are_refused() {
    for header in [
        json!({"alg": "HS256", "crit": ["exp"]}),
        json!({"alg": "HS256", "b64": false}),
        json!({"typ": "JWT"}),
        json!(["HS256"]),
    ] {
        assert!(is_invalid(&shared().verify(&signed(&header, &claims()), NOW)), "{header}");
    }
    assert!(
        shared().verify(&signed(&json!({"alg": "HS256", "typ": "JWT"}), &claims()), NOW).is_ok()
    );
}

#[test]
fn claims_are_checked() {
    let changed = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        shared().verify(&hs256(&claims), NOW)
    };
    for (name, value) in [
        ("exp", json!("2000")),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("exp", Value::Null),
        ("nbf", json!(NOW + 301)),
        ("iat", json!(NOW + 301)),
        ("iat", json!(-5)),
        ("sub", json!("")),
        ("sub", json!(7)),
        ("sub", json!("0x70997970c51812dc3a010c7d01b50e0d17dc79c8")),
        ("sub", json!("0X70997970C51812DC3A010C7D01B50E0D17DC79C8")),
        ("sub", json!("key:admin")),
        ("sub", json!("KEY:admin")),
        ("sub", json!("https://issuer.example\0alice")),
        ("sub", json!("a\nb")),
        ("sub", json!("x".repeat(257))),
    ] {
        assert!(is_invalid(&changed(name, value.clone())), "{name} {value}");
    }
    assert_eq!(changed("exp", json!(NOW)), Err(TokenError::Expired));
    assert_eq!(changed("exp", json!(1999.5)).unwrap().expires, 1999);
    assert!(changed("nbf", json!(NOW)).is_ok());
    let twice = r#"{"sub":"a","exp":2000,"sub":"b"}"#;
    let header = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    let text = format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(twice));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), text.as_bytes());
    let token = format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag));
    assert!(is_invalid(&shared().verify(&token, NOW)));
}

#[test]
fn issuer_and_audience_are_enforced_where_set() {
    let jwt = || JwtPolicy::new(Some("https://i".into()), Some("fula".into()));
    let policy = with(jwt().with_secret(SECRET).unwrap());
    let verify = |iss: Value, aud: Value| {
        let mut claims = claims();
        (claims["iss"], claims["aud"]) = (iss, aud);
        policy.verify(&hs256(&claims), NOW)
    };
    assert!(verify(json!("https://i"), json!("fula")).is_ok());
    assert!(verify(json!("https://i"), json!(["other", "fula"])).is_ok());
    for (iss, aud) in [
        (Value::Null, json!("fula")),
        (json!("https://j"), json!("fula")),
        (json!("https://i"), Value::Null),
        (json!("https://i"), json!([])),
        (json!("https://i"), json!("fula ")),
    ] {
        assert!(matches!(verify(iss, aud), Err(TokenError::NotForHere(_))));
    }
}

#[test]
fn scopes_are_those_of_storage() {
    let grant = |scope: Value| {
        let mut claims = claims();
        claims["scope"] = scope;
        shared().verify(&hs256(&claims), NOW).unwrap().identity.grant
    };
    let target = Target::Object("abc", "k");
    let may = |scope| {
        let grant = grant(scope);
        [Verb::Read, Verb::Write, Verb::Admin].map(|verb| grant.allows(verb, target))
    };
    let table = [
        (json!("storage:read"), [true, false, false]),
        (json!("storage:write"), [false, true, false]),
        (json!("storage:read storage:write"), [true, true, false]),
        (json!("storage:*"), [true, true, true]),
        (json!("openid Storage:* storage:* x"), [true, true, true]),
        (json!("storage:readwrite"), [false, false, false]),
        (Value::Null, [false, false, false]),
    ];
    for (scope, expected) in table {
        assert_eq!(may(scope.clone()), expected, "{scope}");
    }
}

#[test]
fn key_sets_are_read_strictly() {
    let good = &vectors()["jwt"]["keys"];
    let parse = |text: String| KeySet::parse(text.as_bytes());
    assert!(parse(json!({"keys": good}).to_string()).is_ok());
    // Keys for other uses, and malformed keys, are left out.
    let count = |keys: Value| parse(json!({"keys": keys}).to_string()).unwrap().len();
    for change in [("use", "enc"), ("alg", "RS512"), ("kty", "oct"), ("n", "!"), ("kty", "EC")] {
        let mut key = good[0].clone();
        key[change.0] = change.1.into();
        assert_eq!(count(json!([key])), 0, "{change:?}");
    }
    assert_eq!(count(json!([])), 0);
    assert_eq!(count(json!([7, {"kid": "no kty"}, good[0]])), 1);
    for malformed in ["", "{}", "[]", r#"{"keys": {}}"#, "<html>"] {
        assert!(parse(malformed.into()).is_err(), "{malformed}");
    }
    assert!(parse(json!({"keys": vec![&good[0]; 65]}).to_string()).is_err());
    assert!(parse(format!("{}{}", json!({"keys": good}), " ".repeat(300_000))).is_err());
    let set = JwtPolicy::default().with_keys(Some(keys()));
    assert!(set.lacks_key_of(&signed(&json!({"alg": "RS256", "kid": "new"}), &claims())));
    assert!(!set.lacks_key_of(&signed(&json!({"alg": "RS256", "kid": "rs256"}), &claims())));
    assert!(!set.lacks_key_of("nonsense"));
    assert!(JwtPolicy::default().with_secret(b"short").is_err());
}

#[test]
fn a_set_that_cannot_be_read_is_told_from_an_empty_one() {
    let token = vectors()["jwt"]["rs256"].as_str().unwrap().to_owned();
    let policy = |keys| with(JwtPolicy::default().with_keys(keys));
    let empty = KeySet::parse(b"{\"keys\": []}").unwrap();
    let refused = policy(Some(empty)).verify(&token, NOW);
    assert_eq!(refused, Err(TokenError::Invalid("no key here verifies it")));
    assert_eq!(policy(None).verify(&token, NOW), Err(TokenError::KeysUnavailable));
    // A token that no key set could verify is refused for good.
    for wrong in [hs256(&claims()), signed(&json!({"alg": "none"}), &claims())] {
        assert!(matches!(policy(None).verify(&wrong, NOW), Err(TokenError::Invalid(_))));
    }
    // Tokens of the shared secret are still accepted.
    let both = JwtPolicy::default().with_secret(SECRET).unwrap().with_keys(None);
    with(both).verify(&hs256(&claims()), NOW).unwrap();
}

#[test]
fn a_meaning_is_what_was_signed() {
    let digest = |claims: &Value| shared().verify(&hs256(claims), NOW).unwrap().digest;
    let other = json!({"sub": "alice", "exp": 1999, "scope": "storage:*"});
    assert_eq!(digest(&claims()), digest(&claims()));
    assert_ne!(digest(&claims()), digest(&other));
}
