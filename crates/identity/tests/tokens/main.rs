//! Tokens that other implementations made are accepted, and malformed or forged ones are refused.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod abuse;
mod jwt;
mod wallet;
mod wycheproof;

use fula_identity::{
    Policy, TokenError, Verified,
    eip712::{Claims, V2},
    wallet::{Address, WalletKey},
    wallet_token,
};
use serde_json::Value;

/// A time at which the tokens of the vectors are valid.
const NOW: u64 = 1500;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../vectors/vectors.json")).unwrap()
}

fn key() -> WalletKey {
    let mut bytes = [0; 32];
    let digits = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
    hex::decode_to_slice(digits, &mut bytes).unwrap();
    WalletKey::new(&bytes).unwrap()
}

fn v1(iat: u64, exp: u64) -> Claims {
    Claims { wallet: key().address(), iat, exp, v2: None }
}

fn v2(audience: &str, scope: &[&str]) -> Claims {
    let v2 = V2 {
        audience: audience.to_owned(),
        scope: scope.iter().map(ToString::to_string).collect(),
        nonce: [7; 32],
        session: Address::ZERO,
    };
    Claims { v2: Some(v2), ..v1(1000, 2000) }
}

fn policy() -> Policy {
    Policy {
        eip712: true,
        v1: true,
        audiences: vec!["here".into(), "federation.example".into()],
        ..Policy::default()
    }
}

fn minted(claims: &Claims) -> Result<Verified, TokenError> {
    policy().verify(&wallet_token::mint(&key(), claims), NOW)
}

fn is_invalid<T: std::fmt::Debug>(result: &Result<T, TokenError>) -> bool {
    matches!(result, Err(TokenError::Invalid(_)))
}
