//! The user that a credential names, without any proof.

use super::{Authenticator, is_token, sessions};
use crate::auth::access::Identity;

impl Authenticator {
    /// Returns the user whose access key a request names. The request proves nothing, so nothing may be
    /// allowed because of it. It tells only whose bucket a name means.
    pub async fn claimed_identity(&self, access_key: &str) -> Option<Identity> {
        if is_token(access_key) {
            return self.inspect(access_key).ok().map(|verified| verified.identity.clone());
        }
        if access_key.starts_with(sessions::PREFIX) {
            let session = self.0.keys.session(access_key, None).await.ok()??;
            return Some(session.identity);
        }
        Some(self.0.keys.find(access_key).await.ok()??.identity)
    }
}
