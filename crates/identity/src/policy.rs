//! The policy of which tokens a gateway accepts, and verification for all kinds of tokens.
//!
//! # Example
//!
//! A policy that accepts JWTs with a shared secret, a token, and the same token after its end:
//!
//! ```
//! use std::sync::Arc;
//!
//! use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
//! use fula_identity::{Policy, TokenError, jwt::JwtPolicy};
//! use ring::hmac;
//!
//! let secret = b"a shared secret of enough bytes!!";
//! let jwt = JwtPolicy::new(None, None).with_secret(secret).expect("it is long enough");
//! let policy = Policy { jwt: Arc::new(jwt), ..Policy::default() };
//!
//! let head = BASE64.encode(r#"{"alg":"HS256"}"#);
//! let claims = BASE64.encode(r#"{"sub":"alice","exp":2000,"scope":"storage:read"}"#);
//! let signed = format!("{head}.{claims}");
//! let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
//! let token = format!("{signed}.{}", BASE64.encode(tag));
//!
//! assert_eq!(policy.verify(&token, 1500)?.identity.user, "alice");
//! assert_eq!(policy.verify(&token, 2000), Err(TokenError::Expired));
//! assert!(Policy::default().verify(&token, 1500).is_err());
//! # Ok::<(), TokenError>(())
//! ```

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    Seconds,
    error::TokenError,
    identity::{TokenDigest, Verified},
    jwt::{self, JwtPolicy},
    wallet::Address,
    wallet_token,
};

/// The rules for which tokens a gateway accepts. The default accepts none.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Whether wallet tokens are accepted (`FULA_EIP712_AUTH`).
    pub eip712: bool,
    /// Whether wallet tokens of version 1, which name no audience, are accepted (`FULA_EIP712_V1`).
    pub v1: bool,
    /// Accepted audiences of wallet tokens; `*` is always accepted (`FULA_AUDIENCE`).
    pub audiences: Vec<String>,
    /// Admitted wallets; `None` admits every wallet (`FULA_WALLETS`).
    pub wallets: Option<BTreeSet<Address>>,
    /// Rules for JWTs. They are shared, so that a new key set does not copy the other rules.
    pub jwt: Arc<JwtPolicy>,
}

impl Policy {
    /// Returns whether any bearer token is accepted at all.
    pub fn accepts_any(&self) -> bool {
        self.eip712 || self.jwt.accepts_any()
    }

    /// Checks that a user with a token for `audience`, if it named one, is admitted. Each master checks
    /// this again for a session.
    ///
    /// # Errors
    /// [`TokenError::NotAccepted`] when tokens of this kind are not accepted;
    /// [`TokenError::NotForHere`] for another audience, or a user that is not admitted.
    pub fn admits(&self, user: &str, audience: Option<&str>) -> Result<(), TokenError> {
        let Some(wallet) = Address::parse(user) else {
            let takes_jwts = self.jwt.accepts_any();
            return if takes_jwts { Ok(()) } else { Err(TokenError::NotAccepted("JWTs")) };
        };
        if !self.eip712 {
            return Err(TokenError::NotAccepted("wallet tokens"));
        }
        if self.wallets.as_ref().is_some_and(|admitted| !admitted.contains(&wallet)) {
            return Err(TokenError::NotForHere("its wallet is not admitted"));
        }
        match audience {
            None if self.v1 => Ok(()),
            None => Err(TokenError::NotAccepted("wallet tokens without an audience")),
            Some(wallet_token::ANYWHERE) => Ok(()),
            Some(name) if self.audiences.iter().any(|own| own == name) => Ok(()),
            Some(_) => Err(TokenError::NotForHere("it is for another audience")),
        }
    }

    /// Verifies a token at the time `now`, and returns its content.
    ///
    /// # Errors
    /// [`TokenError`], which contains no part of the token.
    pub fn verify(&self, token: &str, now: Seconds) -> Result<Verified, TokenError> {
        if !token.starts_with(wallet_token::PREFIX) {
            return jwt::verify(token, now, &self.jwt);
        }
        if !self.eip712 {
            return Err(TokenError::NotAccepted("wallet tokens"));
        }
        let signed = wallet_token::verify(token, now, self.v1)?;
        // These checks come after the signature: only a real token gets a precise error.
        self.admits(&signed.user, signed.audience())?;
        signed.into_verified()
    }
}

/// Returns the digest of a token, valid or not.
///
/// # Errors
/// [`TokenError::Invalid`] for a text that is not a token.
pub fn token_digest(token: &str) -> Result<TokenDigest, TokenError> {
    if token.starts_with(wallet_token::PREFIX) {
        wallet_token::token_digest(token)
    } else {
        jwt::token_digest(token)
    }
}
