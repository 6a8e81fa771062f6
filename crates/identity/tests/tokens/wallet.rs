//! Wallet tokens of other implementations, and each rule of docs/format.md.

use std::collections::BTreeSet;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use fula_identity::{Grant, Target, Verb};

use super::*;

const WALLET: &str = "0x70997970c51812dc3a010c7d01b50e0d17dc79c8";

/// Returns a token as another implementation would write it.
fn spelled(json: &str, signature: &[u8]) -> String {
    let parts = [json.as_bytes(), signature].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    format!("fula-eip712.{}.{}", parts[0], parts[1])
}

#[test]
fn signatures_of_ethers_viem_and_eth_account_are_accepted() {
    let vectors = vectors();
    let cases = vectors["eip712"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    let mut digests = BTreeSet::new();
    for case in cases {
        let mut message = case["message"].clone();
        let is_v2 = case["v"] == 2;
        if is_v2 {
            message["v"] = 2.into();
        }
        let now = message["exp"].as_u64().unwrap() - 1;
        for library in ["ethers", "viem", "eth-account"] {
            let digits = case[library].as_str().unwrap().strip_prefix("0x").unwrap();
            let signature = hex::decode(digits).unwrap();
            let token = spelled(&message.to_string(), &signature);
            let verified = policy().verify(&token, now).unwrap();
            assert_eq!(verified.identity.user, WALLET, "{library}");
            assert_eq!(verified.identity.owner.to_string(), "f41f214011f79ff767b399d24e0e75af");
            assert_eq!(verified.identity.grant == Grant::All, !is_v2);
            digests.insert(verified.digest.0);
        }
    }
    // Each message has one digest, whichever library signed it.
    assert_eq!(digests.len(), cases.len());
}

#[test]
fn what_is_minted_here_is_what_others_sign() {
    let vectors = vectors();
    let signature = key().sign(&v1(1000, 2000).digest());
    assert_eq!(vectors["eip712"][0]["ethers"], format!("0x{}", hex::encode(signature)));
    let verified = minted(&v2("here", &["read:photos/2026/", "admin:own"])).unwrap();
    assert_eq!((verified.issued, verified.expires), (1000, 2000));
    assert_eq!(verified.audience.as_deref(), Some("here"));
    let grant = verified.identity.grant;
    assert!(grant.allows(Verb::Read, Target::Object("photos", "2026/a")));
    assert!(grant.allows(Verb::Admin, Target::Bucket("own")));
    assert!(!grant.allows(Verb::Write, Target::Object("photos", "2026/a")));
}

#[test]
fn every_spelling_of_one_signature_is_one_token() {
    let claims = v1(1000, 2000);
    let signature = key().sign(&claims.digest());
    let mut low_v = signature;
    low_v[64] -= 27;
    let upper = WALLET.to_uppercase().replace("0X", "0x");
    let spellings = [
        spelled(&format!(r#"{{"wallet":"{WALLET}","iat":1000,"exp":2000}}"#), &signature),
        spelled(&format!(r#"{{"exp":2000,  "iat":1000,"wallet":"{WALLET}"}}"#), &signature),
        spelled(&format!("\n{{\"wallet\":\"{upper}\",\"iat\":1000,\"exp\":2000}}\t"), &signature),
        spelled(&format!(r#"{{"wallet":"{WALLET}","iat":1000,"exp":2000}}"#), &low_v),
        spelled(&format!(r#"{{"w\u0061llet":"{WALLET}","iat":1000,"exp":2000}}"#), &signature),
    ];
    let first = policy().verify(&spellings[0], NOW).unwrap();
    for spelling in &spellings[1..] {
        assert_ne!(spelling, &spellings[0]);
        assert_eq!(policy().verify(spelling, NOW).unwrap(), first);
    }
}

#[test]
fn times_are_judged_to_the_second() {
    let at = |claims: &Claims, now| policy().verify(&wallet_token::mint(&key(), claims), now);
    let claims = v1(1000, 2000);
    assert!(at(&claims, 1999).is_ok());
    assert_eq!(at(&claims, 2000), Err(TokenError::Expired));
    assert!(at(&claims, 700).is_ok());
    assert!(is_invalid(&at(&claims, 699)), "it is from more than 300 seconds ahead");
    assert!(at(&v1(1000, 1000 + 86_400), NOW).is_ok());
    assert!(is_invalid(&at(&v1(1000, 1000 + 86_401), NOW)));
    for (iat, exp) in [(1000, 1000), (2000, 1000), (0, u64::MAX), (u64::MAX, 0), (1000, u64::MAX)] {
        assert!(is_invalid(&at(&v1(iat, exp), NOW)), "{iat} {exp}");
    }
    // The largest possible times do not overflow.
    let last = v1(u64::MAX - 86_400, u64::MAX);
    assert!(is_invalid(&at(&last, NOW)));
    assert!(at(&last, u64::MAX - 1).is_ok());
}

#[test]
fn a_token_is_refused_where_its_kind_is() {
    let v1_token = wallet_token::mint(&key(), &v1(1000, 2000));
    let v2_token = wallet_token::mint(&key(), &v2("*", &["admin:*"]));
    let off = Policy::default();
    assert!(matches!(off.verify(&v1_token, NOW), Err(TokenError::NotAccepted(_))));
    assert!(matches!(off.verify("e.e.e", NOW), Err(TokenError::NotAccepted(_))));
    assert!(!off.accepts_any() && policy().accepts_any());
    let no_v1 = Policy { v1: false, ..policy() };
    assert!(matches!(no_v1.verify(&v1_token, NOW), Err(TokenError::NotAccepted(_))));
    assert!(no_v1.verify(&v2_token, NOW).is_ok());
}

#[test]
fn a_token_is_good_only_where_it_is_meant_for() {
    let scope = &["admin:*"];
    for audience in ["here", "federation.example", "*"] {
        assert!(minted(&v2(audience, scope)).is_ok(), "{audience}");
    }
    for audience in ["elsewhere", "Here", "here ", "", "**"] {
        let refused = minted(&v2(audience, scope));
        assert!(matches!(refused, Err(TokenError::NotForHere(_))), "{audience}");
    }
    let nameless = Policy { audiences: Vec::new(), ..policy() };
    let token = |audience| wallet_token::mint(&key(), &v2(audience, scope));
    assert!(nameless.verify(&token("*"), NOW).is_ok());
    assert!(nameless.verify(&token("here"), NOW).is_err());
}

#[test]
fn only_admitted_wallets_are_let_in_where_there_is_a_list() {
    let with = |wallet: Address| {
        let wallets = Some(BTreeSet::from([wallet]));
        let policy = Policy { wallets, ..policy() };
        policy.verify(&wallet_token::mint(&key(), &v1(1000, 2000)), NOW)
    };
    assert!(with(key().address()).is_ok());
    assert!(matches!(with(Address::ZERO), Err(TokenError::NotForHere(_))));
}

#[test]
fn version_2_says_everything_and_nothing_else() {
    let good = v2("here", &["read:abc"]);
    assert!(is_invalid(&minted(&v2("here", &[]))), "no scope is no token");
    assert!(is_invalid(&minted(&v2("here", &["list:abc"]))));
    assert!(is_invalid(&minted(&v2("here", &["read:*"; 33]))));
    let session = V2 { session: key().address(), ..good.v2.clone().unwrap() };
    let refused = minted(&Claims { v2: Some(session), ..good.clone() });
    assert!(matches!(refused, Err(TokenError::NotAccepted(_))));
    // Members of one version are refused in the JSON of the other.
    let signature = key().sign(&good.digest());
    let mut payload = good.to_typed_data()["message"].take();
    assert!(is_invalid(&policy().verify(&spelled(&payload.to_string(), &signature), NOW)));
    for version in [0, 1, 3] {
        payload["v"] = version.into();
        assert!(is_invalid(&policy().verify(&spelled(&payload.to_string(), &signature), NOW)));
    }
    payload["v"] = 2.into();
    assert!(policy().verify(&spelled(&payload.to_string(), &signature), NOW).is_ok());
    for member in ["audience", "scope", "nonce", "session"] {
        let mut less = payload.clone();
        less.as_object_mut().unwrap().remove(member);
        assert!(is_invalid(&policy().verify(&spelled(&less.to_string(), &signature), NOW)));
    }
}
