//! The typed data (EIP-712) that a wallet signs, and its digest.
//!
//! Encoded here and not by a general encoder: two fixed types, four kinds of members, held to
//! vectors of ethers, viem and eth-account (`tests/vectors`, docs/adr/0010).

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

/// What a wallet signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Whose identity it is.
    pub wallet: Address,
    /// When it was issued.
    pub iat: Seconds,
    /// When it ends.
    pub exp: Seconds,
    /// What version 2 adds.
    pub v2: Option<V2>,
}

/// What version 2 adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V2 {
    /// Federation or gateway it is meant for, or `*`.
    pub audience: String,
    /// What it may be used for, as written.
    pub scope: Vec<String>,
    /// Tells tokens apart that are otherwise alike.
    pub nonce: [u8; 32],
    /// A key that requests would be signed with; zero, there are none yet.
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
    /// Returns what the wallet signs: `keccak256(0x1901 ‖ domain separator ‖ struct hash)`.
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

    /// Returns the typed data as `eth_signTypedData_v4` takes it.
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
