//! What a gateway accepts, and the functions that tell the kinds of tokens apart.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    Seconds,
    error::TokenError,
    identity::{TokenDigest, Verified},
    jwt::{self, JwtPolicy},
    wallet::Address,
    wallet_token,
};

/// What is accepted; nothing unless it is said.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Whether wallet tokens are (`FULA_EIP712_AUTH`).
    pub eip712: bool,
    /// Whether wallet tokens of version 1 are, which name no audience (`FULA_EIP712_V1`).
    pub v1: bool,
    /// Names that wallet tokens may be meant for, besides `*` (`FULA_AUDIENCE`).
    pub audiences: Vec<String>,
    /// Wallets that are admitted; `None` admits every one (`FULA_WALLETS`).
    pub wallets: Option<BTreeSet<Address>>,
    /// JWTs; behind a pointer, so that a rotated key set does not copy the rest.
    pub jwt: Arc<JwtPolicy>,
}

impl Policy {
    /// Returns whether any bearer token is accepted at all.
    pub fn accepts_any(&self) -> bool {
        self.eip712 || self.jwt.accepts_any()
    }

    /// Says whether someone is admitted, whose token was meant for `audience` if it said: the part of
    /// verifying that a session goes through again on each master.
    ///
    /// # Errors
    /// [`TokenError::NotAccepted`], [`TokenError::NotForHere`].
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
            Some(_) => Err(TokenError::NotForHere("its audience is another")),
        }
    }

    /// Returns whose token this is and what it may be used for, at `now`.
    ///
    /// # Errors
    /// [`TokenError`], which holds no part of the token.
    pub fn verify(&self, token: &str, now: Seconds) -> Result<Verified, TokenError> {
        if !token.starts_with(wallet_token::PREFIX) {
            return jwt::verify(token, now, &self.jwt);
        }
        if !self.eip712 {
            return Err(TokenError::NotAccepted("wallet tokens"));
        }
        let signed = wallet_token::verify(token, now, self.v1)?;
        // Only what the wallet really signed is worth a more telling answer.
        self.admits(&signed.user, signed.audience())?;
        signed.into_verified()
    }
}

/// Returns what a token means, whether it is good or not.
///
/// # Errors
/// [`TokenError::Invalid`] for what is no token.
pub fn token_digest(token: &str) -> Result<TokenDigest, TokenError> {
    if token.starts_with(wallet_token::PREFIX) {
        wallet_token::token_digest(token)
    } else {
        jwt::token_digest(token)
    }
}
