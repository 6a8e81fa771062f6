//! Malformed and forged wallet tokens, all of which are refused.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;

/// Returns a token that contains `json` and the signature over version 1 claims from 1000 to 2000.
fn with_json(json: &str) -> String {
    let signature = key().sign(&v1(1000, 2000).digest());
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    format!("{}{}.{}", wallet_token::PREFIX, encode(json.as_bytes()), encode(&signature))
}

#[test]
fn json_that_is_not_exactly_of_the_form_is_refused() {
    let wallet = key().address();
    let good = format!(r#"{{"wallet":"{wallet}","iat":1000,"exp":2000}}"#);
    assert!(policy().verify(&with_json(&good), NOW).is_ok());
    for wrong in [
        format!(r#"{{"wallet":"{wallet}","iat":1000,"exp":2000,"exp":2000}}"#),
        format!(r#"{{"wallet":"{wallet}","wallet":"{wallet}","iat":1000,"exp":2000}}"#),
        format!(r#"{{"wallet":"{wallet}","iat":1000,"exp":2000,"admin":true}}"#),
        format!(r#"{{"wallet":"{wallet}","iat":1000,"exp":2000,"v":null}}"#),
        format!(r#"{{"wallet":"{wallet}","iat":1000,"exp":2000,"scope":null}}"#),
        format!(r#"{{"wallet":"{wallet}","iat":-1000,"exp":2000}}"#),
        format!(r#"{{"wallet":"{wallet}","iat":1000.0,"exp":2000}}"#),
        format!(r#"{{"wallet":"{wallet}","iat":1e3,"exp":2000}}"#),
        format!(r#"{{"wallet":"{wallet}","iat":"1000","exp":2000}}"#),
        format!(r#"{{"wallet":"{wallet}","iat":1000,"exp":18446744073709551616}}"#),
        format!(r#"{{"wallet":"{wallet}","iat":1000,"exp":2000}} {{}}"#),
        format!(r#"{{"wallet":"{wallet}","iat":1000}}"#),
        format!("[{good}]"),
        format!("\u{feff}{good}"),
        good.replace("0x7099", "0x7\u{ff10}99"),
        good.replace("0x7099", "0X7099"),
        String::new(),
        "null".to_owned(),
    ] {
        assert!(is_invalid(&policy().verify(&with_json(&wrong), NOW)), "{wrong}");
    }
}

#[test]
fn a_token_that_was_tampered_with_is_refused() {
    let token = wallet_token::mint(&key(), &v1(1000, 2000));
    let [prefix, payload, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
    let other = wallet_token::mint(&key(), &v1(1001, 2000));
    let other_payload = other.split('.').nth(1).unwrap();
    for wrong in [
        format!("{prefix}.{other_payload}.{signature}"),
        format!("{prefix}.{payload}"),
        format!("{prefix}.{payload}."),
        format!("{prefix}..{signature}"),
        format!("{prefix}.{payload}.{signature}."),
        format!("{prefix}.{payload}.{signature}.{signature}"),
        format!("{prefix}.{payload}=.{signature}"),
        format!("{prefix}.{payload}.{signature}="),
        format!("{prefix}.{payload}.{signature}AA"),
        format!("{prefix}.{payload}\r\n.{signature}"),
        format!("{prefix}. {payload}.{signature}"),
        format!("{prefix}.{payload}.{}", &signature[..signature.len() - 2]),
        format!("{prefix}.{}.{signature}", payload.replace('-', "+")) + "+",
        token.to_uppercase(),
        format!("{token}{}", "A".repeat(fula_identity::TOKEN_BYTES_MAX)),
    ] {
        assert!(policy().verify(&wrong, NOW).is_err(), "{wrong}");
    }
    // The base64 text of 65 bytes has unused bits in its last character, which must be zero.
    let last = signature.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.find(last).unwrap();
    let twin = alphabet.as_bytes()[at ^ 1] as char;
    let respelled = format!("{prefix}.{payload}.{}{twin}", &signature[..signature.len() - 1]);
    assert!(is_invalid(&policy().verify(&respelled, NOW)));
}

#[test]
fn a_wallet_cannot_speak_for_another() {
    let other = WalletKey::new(&[9; 32]).unwrap();
    let claims = v1(1000, 2000);
    assert!(is_invalid(&policy().verify(&wallet_token::mint(&other, &claims), NOW)));
    let theirs = Claims { wallet: other.address(), ..claims };
    assert!(is_invalid(&policy().verify(&wallet_token::mint(&key(), &theirs), NOW)));
    assert_eq!(
        policy().verify(&wallet_token::mint(&other, &theirs), NOW).unwrap().identity.user,
        other.address().to_string()
    );
}

#[test]
fn errors_say_nothing_of_the_token() {
    let token = with_json(r#"{"wallet":"hush","iat":1,"exp":2}"#);
    let said = policy().verify(&token, NOW).unwrap_err();
    assert!(!format!("{said} {said:?}").contains("hush"));
    assert_ne!(fula_identity::secret_of(&token), fula_identity::secret_of(&format!("{token}A")));
    assert_eq!(fula_identity::secret_of("token").len(), 64);
}

proptest! {
    /// Random text causes no panic and is refused.
    #[test]
    fn noise_is_refused(noise in "(fula-eip712\\.)?[A-Za-z0-9_.=-]{0,400}") {
        prop_assert!(policy().verify(&noise, NOW).is_err());
    }

    /// A token with one flipped bit in its signature is refused.
    #[test]
    fn a_flipped_bit_is_refused(at in 0_usize..65, bit in 0_u32..8) {
        let claims = v1(1000, 2000);
        let mut signature = key().sign(&claims.digest());
        signature[at] ^= 1_u8 << bit;
        // `v` may also be 0 or 1 instead of 27 or 28, but no flip of one bit leads there.
        let refused = policy().verify(&wallet_token::assemble(&claims, &signature), NOW);
        prop_assert!(refused.is_err());
    }

    #[test]
    fn claims_survive_the_wire(iat in 0_u64..1 << 40, life in 1_u64..86_400, scope in "[a-z]{3,20}") {
        let base = v2("*", &[&format!("read:{scope}/p")]);
        let claims = Claims { iat, exp: iat + life, ..base };
        let verified = policy().verify(&wallet_token::mint(&key(), &claims), iat + life - 1).unwrap();
        prop_assert_eq!((verified.issued, verified.expires), (iat, iat + life));
        prop_assert_eq!(verified.digest.0, claims.digest());
    }
}
