//! Wallet tokens: `fula-eip712.<base64url(json)>.<base64url(r ‖ s ‖ v)>`.
//!
//! Version 1 carries `wallet`, `iat` and `exp`; version 2 has `"v":2` and all members of its typed
//! data. The JSON itself is not signed. It is parsed strictly, and the digest is computed from the
//! values, so all spellings with one signature are one token.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer};

use crate::{
    CLOCK_SKEW, Seconds, TOKEN_BYTES_MAX,
    eip712::{Claims, V2},
    error::TokenError,
    identity::{Identity, TokenDigest, Verified},
    scope::Grant,
    wallet::{Address, SIGNATURE_BYTES, WalletKey, recover},
};

/// The beginning of every wallet token.
pub const PREFIX: &str = "fula-eip712.";

/// Longest life of a wallet token in seconds.
pub const LIFE_MAX: Seconds = 86_400;

/// The audience that means every gateway.
pub const ANYWHERE: &str = "*";

/// The JSON of a token of any version.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    #[serde(default, deserialize_with = "there")]
    v: Option<u64>,
    wallet: String,
    iat: u64,
    exp: u64,
    #[serde(default, deserialize_with = "there")]
    audience: Option<String>,
    #[serde(default, deserialize_with = "there")]
    scope: Option<Vec<String>>,
    #[serde(default, deserialize_with = "there")]
    nonce: Option<String>,
    #[serde(default, deserialize_with = "there")]
    session: Option<String>,
}

/// Reads a member that may be left out but must not be `null`.
fn there<'a, T: Deserialize<'a>, D: Deserializer<'a>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl Payload {
    fn read(self) -> Result<Claims, TokenError> {
        let wallet = Address::parse(&self.wallet)
            .ok_or(TokenError::Invalid("its wallet is not an address"))?;
        let v2 = match (self.v, self.audience, self.scope, self.nonce, self.session) {
            (None, None, None, None, None) => None,
            (Some(2), Some(audience), Some(scope), Some(nonce), Some(session)) => {
                let mut bytes = [0; 32];
                let digits = nonce.strip_prefix("0x").unwrap_or_default();
                hex::decode_to_slice(digits, &mut bytes)
                    .map_err(|_| TokenError::Invalid("its nonce is not 32 bytes in hex"))?;
                let session = Address::parse(&session)
                    .ok_or(TokenError::Invalid("its session is not an address"))?;
                Some(V2 { audience, scope, nonce: bytes, session })
            }
            _ => return Err(TokenError::Invalid("its version is unknown, or members are missing")),
        };
        Ok(Claims { wallet, iat: self.iat, exp: self.exp, v2 })
    }
}

/// Parses a token without verifying it.
fn parse(token: &str) -> Result<(Claims, [u8; SIGNATURE_BYTES]), TokenError> {
    const FORM: TokenError = TokenError::Invalid("it is malformed");
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::Invalid("it is too long"));
    }
    let (payload, signature) =
        token.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')).ok_or(FORM)?;
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).map_err(|_| FORM)?;
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| FORM)?;
    let signature =
        signature.try_into().map_err(|_| TokenError::Invalid("its signature is not 65 bytes"))?;
    let payload: Payload = serde_json::from_slice(&payload)
        .map_err(|_| TokenError::Invalid("its JSON is malformed"))?;
    Ok((payload.read()?, signature))
}

/// A token whose signature was verified.
pub(crate) struct Signed {
    /// User id of the wallet that signed it.
    pub(crate) user: String,
    digest: [u8; 32],
    claims: Claims,
}

/// Verifies the signature and the times of a wallet token (docs/format.md). Tokens of version 1 are
/// refused unless `takes_v1`.
pub(crate) fn verify(token: &str, now: Seconds, takes_v1: bool) -> Result<Signed, TokenError> {
    let (claims, signature) = parse(token)?;
    if claims.v2.is_none() && !takes_v1 {
        return Err(TokenError::NotAccepted("wallet tokens without an audience"));
    }
    check_times(&claims, now)?;
    let digest = claims.digest();
    if recover(&digest, &signature) != Some(claims.wallet) {
        return Err(TokenError::Invalid("its signature is wrong"));
    }
    Ok(Signed { user: claims.wallet.to_string(), digest, claims })
}

impl Signed {
    /// Returns the audience of the token; `None` for version 1, which has none.
    pub(crate) fn audience(&self) -> Option<&str> {
        self.claims.v2.as_ref().map(|v2| v2.audience.as_str())
    }

    /// Returns the content of the token.
    pub(crate) fn into_verified(self) -> Result<Verified, TokenError> {
        let audience = self.audience().map(ToOwned::to_owned);
        let grant = self.claims.v2.map_or(Ok(Grant::All), |v2| check_v2(&v2))?;
        Ok(Verified {
            identity: Identity::restricted(&self.user, grant),
            digest: TokenDigest(self.digest),
            issued: self.claims.iat,
            expires: self.claims.exp,
            audience,
        })
    }
}

fn check_times(claims: &Claims, now: Seconds) -> Result<(), TokenError> {
    let life = claims.exp.checked_sub(claims.iat).filter(|life| *life > 0);
    let life = life.ok_or(TokenError::Invalid("it expires before it is issued"))?;
    if life > LIFE_MAX {
        return Err(TokenError::Invalid("its life is longer than a day"));
    }
    if claims.exp <= now {
        return Err(TokenError::Expired);
    }
    if claims.iat > now.saturating_add(CLOCK_SKEW) {
        return Err(TokenError::Invalid("it is issued in the future"));
    }
    Ok(())
}

fn check_v2(v2: &V2) -> Result<Grant, TokenError> {
    if v2.session != Address::ZERO {
        return Err(TokenError::NotAccepted("wallet tokens for a session key"));
    }
    if v2.scope.is_empty() {
        return Err(TokenError::Invalid("it has no scope"));
    }
    Grant::parse(Some(&v2.scope)).map_err(|_| TokenError::Invalid("its scope is malformed"))
}

/// Returns the digest of a wallet token, valid or not.
pub(crate) fn token_digest(token: &str) -> Result<TokenDigest, TokenError> {
    Ok(TokenDigest(parse(token)?.0.digest()))
}

/// Returns the token of signed claims and their signature.
pub fn assemble(claims: &Claims, signature: &[u8; SIGNATURE_BYTES]) -> String {
    let mut payload = claims.to_typed_data()["message"].take();
    if claims.v2.is_some() {
        payload["v"] = 2.into();
    }
    let payload = BASE64_URL_SAFE_NO_PAD.encode(payload.to_string());
    format!("{PREFIX}{payload}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// Signs claims with the key of a wallet, and returns the token.
pub fn mint(key: &WalletKey, claims: &Claims) -> String {
    assemble(claims, &key.sign(&claims.digest()))
}
