//! What a gateway accepts, and the one function that says whose a token is.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    Seconds,
    error::TokenError,
    identity::Verified,
    jwt::{self, JwtPolicy},
    token,
    wallet::Address,
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

    /// Returns whose token this is and what it may be used for, at `now`.
    ///
    /// # Errors
    /// [`TokenError`], which holds no part of the token.
    pub fn verify(&self, token: &str, now: Seconds) -> Result<Verified, TokenError> {
        if token.starts_with(token::PREFIX) {
            token::verify(token, now, self)
        } else {
            jwt::verify(token, now, &self.jwt)
        }
    }
}
