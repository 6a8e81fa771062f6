//! JSON Web Tokens (RFC 7519) signed with HS256, RS256, ES256 or `EdDSA` (RFC 7518,
//! RFC 8037).
//!
//! The key decides the algorithm, never the token: the shared secret verifies only HS256, and a key of
//! the set only the algorithm of its kind. So a public key cannot be used as a secret, and `none` is
//! not an algorithm. `ring` verifies the signatures; docs/adr/0010 says why no JWT library is used.

use std::{fmt, sync::Arc};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    hmac,
    signature::{
        ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
        UnparsedPublicKey,
    },
};
use serde::Deserialize;

use crate::{
    CLOCK_SKEW, Seconds,
    error::TokenError,
    identity::{Identity, TokenDigest, Verified},
    scope::{Grant, Scope, Verb},
};

/// Longest JWT in bytes.
pub const JWT_BYTES_MAX: usize = 8 << 10;

/// Longest `sub` and `iss` in bytes.
pub const SUBJECT_BYTES_MAX: usize = 256;

/// Shortest shared secret in bytes: the length of the hash (RFC 7518 §3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// Largest key set in bytes.
pub const KEY_SET_BYTES_MAX: usize = 256 << 10;
/// Largest number of keys in a key set.
const KEYS_MAX: usize = 64;

/// The public keys that verify JWTs.
#[derive(Debug, Default, PartialEq, Eq)]
enum Keys {
    /// No key set is configured.
    #[default]
    None,
    /// A key set is configured, but it could not be read for too long.
    Unavailable,
    /// The key set as it was last read.
    Set(KeySet),
}

/// The rules for which JWTs are accepted.
#[derive(Default)]
pub struct JwtPolicy {
    /// Shared secret, which verifies HS256.
    secret: Option<hmac::Key>,
    /// Key set, which verifies all other algorithms.
    keys: Arc<Keys>,
    /// Required `iss`, if set.
    issuer: Option<String>,
    /// Value that `aud` must contain, if set.
    audience: Option<String>,
}

impl fmt::Debug for JwtPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtPolicy")
            .field("secret", &self.secret.is_some())
            .field("keys", &self.keys)
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .finish()
    }
}

/// A shared secret shorter than [`SECRET_BYTES_MIN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a secret for HS256 is at least {SECRET_BYTES_MIN} bytes")]
pub struct ShortSecret;

impl JwtPolicy {
    /// Returns a policy without keys. Where `issuer` and `audience` are set, tokens must match them.
    pub fn new(issuer: Option<String>, audience: Option<String>) -> Self {
        Self { issuer, audience, ..Self::default() }
    }

    /// Returns the same policy, which also accepts HS256 with a shared secret.
    ///
    /// # Errors
    /// [`ShortSecret`] for a secret shorter than [`SECRET_BYTES_MIN`].
    pub fn with_secret(self, secret: &[u8]) -> Result<Self, ShortSecret> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(ShortSecret);
        }
        Ok(Self { secret: Some(hmac::Key::new(hmac::HMAC_SHA256, secret)), ..self })
    }

    /// Returns the same policy with another key set. `None` means that the set cannot be read: tokens that
    /// need it are refused with [`TokenError::KeysUnavailable`].
    #[must_use]
    pub fn with_keys(&self, keys: Option<KeySet>) -> Self {
        Self {
            secret: self.secret.clone(),
            keys: Arc::new(keys.map_or(Keys::Unavailable, Keys::Set)),
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
        }
    }

    /// Returns the same policy with the key set of `other`, for a policy that replaces it.
    #[must_use]
    pub fn with_keys_of(&self, other: &Self) -> Self {
        Self {
            secret: self.secret.clone(),
            keys: Arc::clone(&other.keys),
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
        }
    }

    /// Returns whether a token names a key that the set lacks. A newer set may contain it.
    pub fn lacks_key_of(&self, token: &str) -> bool {
        matches!(&*self.keys, Keys::Set(keys) if keys.lacks_key_of(token))
    }

    /// Returns whether JWTs are accepted: a secret or a key set is configured.
    pub fn accepts_any(&self) -> bool {
        self.secret.is_some() || *self.keys != Keys::None
    }

    /// Returns whether JWTs are accepted whatever their `aud` claim is.
    pub fn takes_any_audience(&self) -> bool {
        self.audience.is_none()
    }

    /// Returns whether `other` has the same public keys.
    pub fn has_same_keys(&self, other: &Self) -> bool {
        self.keys == other.keys
    }
}

/// A public key, and the one algorithm that it verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
enum PublicKey {
    Rs256 { n: Vec<u8>, e: Vec<u8> },
    Es256(Vec<u8>),
    EdDsa(Vec<u8>),
}

impl PublicKey {
    /// All values that [`Self::algorithm`] returns.
    const ALGORITHMS: [&str; 3] = ["RS256", "ES256", "EdDSA"];

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rs256 { .. } => "RS256",
            Self::Es256(_) => "ES256",
            Self::EdDsa(_) => "EdDSA",
        }
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rs256 { n, e } => RsaPublicKeyComponents { n, e }
                .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
            Self::Es256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                .verify(message, signature)
                .is_ok(),
            Self::EdDsa(key) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
            }
        }
    }
}

/// The public keys of an issuer (JWKS, RFC 7517).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet(Vec<(Option<String>, PublicKey)>);

/// A text that is not a key set, or one that is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a JSON Web Key Set: an object with a list of keys, at most {KEY_SET_BYTES_MAX} bytes and \
     {KEYS_MAX} keys"
)]
pub struct InvalidKeySet;

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    used_for: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwk {
    /// Returns the key, or `None` for a key that cannot verify tokens.
    fn read(&self) -> Option<PublicKey> {
        let bytes = |text: &Option<String>| BASE64_URL_SAFE_NO_PAD.decode(text.as_ref()?).ok();
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => PublicKey::Rs256 { n: bytes(&self.n)?, e: bytes(&self.e)? },
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes(&self.x)?, bytes(&self.y)?);
                if x.len() != 32 || y.len() != 32 {
                    return None;
                }
                PublicKey::Es256([[0x04].as_slice(), &x, &y].concat())
            }
            ("OKP", Some("Ed25519")) => PublicKey::EdDsa(bytes(&self.x)?),
            _ => return None,
        };
        let fits = self.alg.as_deref().is_none_or(|alg| alg == key.algorithm())
            && self.used_for.as_deref().is_none_or(|used_for| used_for == "sig")
            && self.key_ops.as_ref().is_none_or(|names| names.iter().any(|name| name == "verify"));
        fits.then_some(key)
    }
}

impl KeySet {
    /// Parses a key set. Keys of other kinds are left out, and so are malformed keys and keys that `use` or
    /// `key_ops` restrict to other uses than verifying signatures (RFC 7517 §4 and §5). The result may have
    /// no keys, and then verifies no token.
    ///
    /// # Errors
    /// [`InvalidKeySet`] for a text that is not a key set, is too large, or has too many keys.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidKeySet> {
        if text.len() > KEY_SET_BYTES_MAX {
            return Err(InvalidKeySet);
        }
        let jwks: Jwks = serde_json::from_slice(text).map_err(|_| InvalidKeySet)?;
        let read = |jwk| {
            let jwk: Jwk = serde_json::from_value(jwk).ok()?;
            Some((jwk.kid.clone(), jwk.read()?))
        };
        let keys: Vec<_> = jwks.keys.into_iter().filter_map(read).collect();
        if keys.len() > KEYS_MAX {
            return Err(InvalidKeySet);
        }
        Ok(Self(keys))
    }

    /// Returns the number of keys that can verify tokens.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether the set has no keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a token names a key that is not in the set. A newer set may contain it.
    pub fn lacks_key_of(&self, token: &str) -> bool {
        let Some(kid) = header_of(token).ok().and_then(|header| header.kid) else { return false };
        self.0.iter().all(|(known, _)| known.as_ref() != Some(&kid))
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that the verifier must support. A token with any is refused.
    crit: Option<serde_json::Value>,
    /// Unencoded payload (RFC 7797). A token with it is refused.
    b64: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: NumericDate,
    nbf: Option<NumericDate>,
    iat: Option<NumericDate>,
    iss: Option<String>,
    aud: Option<Audience>,
    scope: Option<String>,
}

/// A time in seconds since 1970, which may have a fraction (RFC 7519 §2).
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum NumericDate {
    Whole(u64),
    Fraction(f64),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

const FORM: TokenError = TokenError::Invalid("it is malformed");

impl NumericDate {
    /// Returns the time in whole seconds, rounded down.
    fn seconds(self) -> Result<Seconds, TokenError> {
        const LATEST: f64 = 253_402_300_800.0; // The year 10000.
        match self {
            Self::Whole(seconds) => Ok(seconds),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
            Self::Fraction(seconds) if (0.0..LATEST).contains(&seconds) => Ok(seconds as u64),
            Self::Fraction(_) => Err(TokenError::Invalid("a time in it is out of range")),
        }
    }
}

fn header_of(token: &str) -> Result<Header, TokenError> {
    if token.len() > JWT_BYTES_MAX {
        return Err(TokenError::Invalid("it is too long"));
    }
    let (header, _) = token.split_once('.').ok_or(FORM)?;
    let header = BASE64_URL_SAFE_NO_PAD.decode(header).map_err(|_| FORM)?;
    serde_json::from_slice(&header).map_err(|_| TokenError::Invalid("its header is malformed"))
}

/// Verifies a JWT.
pub(crate) fn verify(
    token: &str,
    now: Seconds,
    policy: &JwtPolicy,
) -> Result<Verified, TokenError> {
    if !policy.accepts_any() {
        return Err(TokenError::NotAccepted("JWTs"));
    }
    let header = header_of(token)?;
    if header.crit.is_some() || header.b64.is_some() {
        return Err(TokenError::Invalid("its header requires an extension"));
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(FORM)?;
    let (_, payload) = signed.split_once('.').ok_or(FORM)?;
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| FORM)?;
    let secret = policy.secret.as_ref().filter(|_| header.alg == "HS256");
    if let Some(secret) = secret {
        hmac::verify(secret, signed.as_bytes(), &signature)
            .map_err(|_| TokenError::Invalid("its signature is wrong"))?;
    } else {
        check_signature(&header, signed, &signature, &policy.keys)?;
    }
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).map_err(|_| FORM)?;
    let claims: Claims = serde_json::from_slice(&payload)
        .map_err(|_| TokenError::Invalid("its claims are malformed"))?;
    let verified = check_claims(claims, now, policy, secret.is_some())?;
    Ok(Verified { digest: digest_of_signed(signed), ..verified })
}

/// Returns the digest of a JWT, which is that of the characters that were signed.
fn digest_of_signed(signed: &str) -> TokenDigest {
    TokenDigest(blake3::derive_key("fula 2026 jwt meaning", signed.as_bytes()))
}

/// Returns the digest of a JWT, valid or not.
pub(crate) fn token_digest(token: &str) -> Result<TokenDigest, TokenError> {
    header_of(token)?;
    let (signed, _) =
        token.rsplit_once('.').filter(|(signed, _)| signed.contains('.')).ok_or(FORM)?;
    Ok(digest_of_signed(signed))
}

fn check_signature(
    header: &Header,
    signed: &str,
    signature: &[u8],
    keys: &Keys,
) -> Result<(), TokenError> {
    let keys = match keys {
        Keys::Set(keys) => keys.0.as_slice(),
        Keys::Unavailable if PublicKey::ALGORITHMS.contains(&header.alg.as_str()) => {
            return Err(TokenError::KeysUnavailable);
        }
        Keys::Unavailable | Keys::None => &[],
    };
    let fits = |(kid, key): &&(Option<String>, PublicKey)| {
        key.algorithm() == header.alg && (header.kid.is_none() || *kid == header.kid)
    };
    let mut candidates = keys.iter().filter(fits).peekable();
    if candidates.peek().is_none() {
        return Err(TokenError::Invalid("no key here verifies it"));
    }
    let verified = candidates.any(|(_, key)| key.verifies(signed.as_bytes(), signature));
    if verified { Ok(()) } else { Err(TokenError::Invalid("its signature is wrong")) }
}

/// Checks the claims of a token at `now`. The caller fills in the digest.
fn check_claims(
    claims: Claims,
    now: Seconds,
    policy: &JwtPolicy,
    is_shared: bool,
) -> Result<Verified, TokenError> {
    let expires = claims.exp.seconds()?;
    let issued = claims.iat.map_or(Ok(0), NumericDate::seconds)?;
    let not_before = claims.nbf.map_or(Ok(0), NumericDate::seconds)?;
    if expires <= now {
        return Err(TokenError::Expired);
    }
    if issued.max(not_before) > now.saturating_add(CLOCK_SKEW) {
        return Err(TokenError::Invalid("it is not valid yet"));
    }
    if policy.issuer.is_some() && policy.issuer != claims.iss {
        return Err(TokenError::NotForHere("it is from another issuer"));
    }
    let names = match &claims.aud {
        None => &[][..],
        Some(Audience::One(name)) => std::slice::from_ref(name),
        Some(Audience::Many(names)) => names,
    };
    if policy.audience.as_ref().is_some_and(|wanted| !names.contains(wanted)) {
        return Err(TokenError::NotForHere("it is for another audience"));
    }
    let user = user_of(&claims, is_shared)?;
    Ok(Verified {
        identity: Identity::restricted(&user, grant_of(claims.scope.as_deref())),
        digest: TokenDigest([0; 32]),
        issued,
        expires,
        audience: names.first().cloned(),
    })
}

/// Returns the user id: `sub`, or `iss`, 0x00, `sub` if a key set verified the token. It can never be
/// equal to the id of a wallet, of a key made by an operator, or of a user of another issuer.
fn user_of(claims: &Claims, is_shared: bool) -> Result<String, TokenError> {
    let is_name = |text: &str| {
        (1..=SUBJECT_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control)
    };
    let starts = |prefix: &str| {
        claims.sub.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    if !is_name(&claims.sub) || starts("0x") || starts("key:") {
        return Err(TokenError::Invalid("its subject is not allowed"));
    }
    if is_shared {
        return Ok(claims.sub.clone());
    }
    let issuer = claims.iss.as_deref().filter(|iss| is_name(iss));
    let issuer = issuer.ok_or(TokenError::Invalid("its issuer is missing or not allowed"))?;
    Ok(format!("{issuer}\0{}", claims.sub))
}

/// Returns the grant of the scopes `storage:read`, `storage:write` and `storage:*` in a list of scopes.
/// A token without any of them may do nothing.
fn grant_of(scope: Option<&str>) -> Grant {
    let mut scopes = Vec::new();
    for name in scope.unwrap_or_default().split(' ') {
        match name {
            "storage:*" => return Grant::All,
            "storage:read" => scopes.push(Scope::everywhere(Verb::Read)),
            "storage:write" => scopes.push(Scope::everywhere(Verb::Write)),
            _ => {}
        }
    }
    scopes.dedup();
    Grant::Scopes(scopes)
}
