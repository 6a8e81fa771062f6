//! The policy of which tokens a gateway accepts, and verification for all kinds of tokens.

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
