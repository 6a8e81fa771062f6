//! The typed data (EIP-712) that a wallet signs, and its digest.
//!
//! There are two fixed types with four kinds of members, so no general encoder is used. Vectors of
//! ethers, viem and eth-account test this one (`tests/vectors`, docs/adr/0010).

use serde_json::{Value, json};

use crate::{
    Seconds,
    wallet::{Address, keccak},
};

/// Name of the signing domain.
const DOMAIN_NAME: &str = "Fula Gateway";

const DOMAIN_TYPE: &str = "EIP712Domain(string name,string version)";

const V1_TYPE: &str = "FulaAuth(address wallet,uint256 iat,uint256 exp)";

const V2_TYPE: &str = "FulaAuth(address wallet,uint256 iat,uint256 exp,string audience,\
                       string[] scope,bytes32 nonce,address session)";

/// The claims that a wallet signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The wallet whose identity the token proves.
    pub wallet: Address,
    /// Time at which the token was issued.
    pub iat: Seconds,
    /// Time at which the token expires.
    pub exp: Seconds,
    /// Members of version 2; `None` in a token of version 1.
    pub v2: Option<V2>,
}

/// The members that version 2 adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V2 {
    /// Federation or gateway that the token is meant for, or `*` for every one.
    pub audience: String,
    /// Scopes of the token as they were written.
    pub scope: Vec<String>,
    /// Random value that makes tokens with equal claims different.
    pub nonce: [u8; 32],
    /// Session key. It must be zero: session keys are not supported.
    pub session: Address,
}

fn padded(address: Address) -> [u8; 32] {
    let mut word = [0; 32];
    word[12..].copy_from_slice(&address.0);
    word
}

fn uint256(number: u64) -> [u8; 32] {
    let mut word = [0; 32];
    word[24..].copy_from_slice(&number.to_be_bytes());
    word
}

impl Claims {
    /// Returns the digest that the wallet signs: `keccak256(0x1901 ‖ domain separator ‖ struct hash)`.
    pub fn digest(&self) -> [u8; 32] {
        let version = if self.v2.is_some() { "2" } else { "1" };
        let words = [
            keccak(DOMAIN_TYPE.as_bytes()),
            keccak(DOMAIN_NAME.as_bytes()),
            keccak(version.as_bytes()),
        ];
        let domain = keccak(words.as_flattened());
        let type_hash = keccak(if self.v2.is_some() { V2_TYPE } else { V1_TYPE }.as_bytes());
        let mut words = vec![type_hash, padded(self.wallet), uint256(self.iat), uint256(self.exp)];
        if let Some(v2) = &self.v2 {
            let scopes: Vec<[u8; 32]> =
                v2.scope.iter().map(|text| keccak(text.as_bytes())).collect();
            words.push(keccak(v2.audience.as_bytes()));
            words.push(keccak(scopes.as_flattened()));
            words.push(v2.nonce);
            words.push(padded(v2.session));
        }
        let message = keccak(words.as_flattened());
        keccak(&[&[0x19, 0x01], domain.as_slice(), message.as_slice()].concat())
    }

    /// Returns the typed data in the form that `eth_signTypedData_v4` accepts.
    pub fn to_typed_data(&self) -> Value {
        let member = |name: &str, kind: &str| json!({"name": name, "type": kind});
        let mut members =
            vec![member("wallet", "address"), member("iat", "uint256"), member("exp", "uint256")];
        let mut message = json!({
            "wallet": self.wallet.to_string(), "iat": self.iat, "exp": self.exp,
        });
        if let Some(v2) = &self.v2 {
            members.extend([
                member("audience", "string"),
                member("scope", "string[]"),
                member("nonce", "bytes32"),
                member("session", "address"),
            ]);
            message["audience"] = json!(v2.audience);
            message["scope"] = json!(v2.scope);
            message["nonce"] = json!(format!("0x{}", hex::encode(v2.nonce)));
            message["session"] = json!(v2.session.to_string());
        }
        json!({
            "types": {
                "EIP712Domain": [member("name", "string"), member("version", "string")],
                "FulaAuth": members,
            },
            "primaryType": "FulaAuth",
            "domain": {"name": DOMAIN_NAME, "version": if self.v2.is_some() { "2" } else { "1" }},
            "message": message,
        })
    }
}
