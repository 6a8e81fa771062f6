//! Users of access keys: how a person names them, and what is known of them.

use fula_core::OwnerId;
use fula_service::auth::{Revoked, user_of};
use serde_json::{Value, json};

use super::Refused;
use crate::node::Node;

/// Returns the id of the user that a person means: a wallet's address, or the name of a user of access
/// keys, with or without `key:`.
pub(crate) fn user_id(text: &str) -> String {
    match fula_identity::Address::parse(text) {
        Some(wallet) => wallet.to_string(),
        None => user_of(text),
    }
}

/// Makes an access key, unless it would be refused at once.
pub(super) async fn create_key(node: &Node, user: &str) -> Result<Value, Refused> {
    let now = node.service.arbiter().now().await?;
    let user = user_of(user);
    if node.authenticator.revocations().refuses_key(&user, now, None) {
        return Err(Refused(format!(
            "{user} is revoked, which cannot be taken back: a new key would be refused. Choose another \
             user name"
        )));
    }
    let (info, secret) = node.authenticator.keys().create(&user, now).await?;
    Ok(json!({"id": info.id, "user": info.user, "secret": secret.expose()}))
}

/// Returns the access keys of one user or of all, and whether each is refused.
pub(super) async fn list_keys(node: &Node, user: Option<&str>) -> Result<Value, Refused> {
    let revocations = node.authenticator.revocations();
    let keys = node.authenticator.keys().list(user).await?;
    let with_state = keys.iter().map(|key| {
        let is_revoked = revocations.refuses_key(&key.user, key.created, Some(&key.id));
        json!({"id": key.id, "user": key.user, "created": key.created, "revoked": is_revoked})
    });
    Ok(with_state.collect())
}

/// Refuses to revoke a user of whom nothing was ever seen here, who is mistyped more often than not.
pub(super) async fn check_seen(node: &Node, revoked: &Revoked) -> Result<(), Refused> {
    let (Revoked::User(user) | Revoked::IssuedBefore(user, _)) = revoked else { return Ok(()) };
    let has_keys = !node.authenticator.keys().list(Some(user)).await?.is_empty();
    let rows = node.roots().list_roots(OwnerId::of_user(user), None, 1).await?;
    if has_keys || !rows.value.is_empty() {
        return Ok(());
    }
    let shown = user.replace('\0', " ");
    Err(Refused(format!(
        "nothing was revoked: {shown} has no access key and no bucket. If the name is right, add --yes; \
         the user of a JWT is named with --jwt or --issuer ISS"
    )))
}
