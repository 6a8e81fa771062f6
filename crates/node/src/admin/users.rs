//! Users of access keys: parses their names, makes and lists their keys, and checks revocations.

use std::{collections::HashMap, fmt::Write};

use fula_core::OwnerId;
use fula_service::auth::{KeyInfo, Revoked, user_of};
use serde_json::{Value, json};

use super::{ROWS_PAGE, Refused, Sureness};
use crate::{node::Node, user::user_id};

/// Returns the user or the owner id that a person means, as text for people.
pub(super) fn shown(text: &str) -> String {
    text.parse::<OwnerId>().map_or_else(|_| user_id(text), |owner| format!("owner {owner}"))
}

/// Returns the users that have or had access keys, by owner id.
pub(super) async fn by_owner(node: &Node) -> HashMap<OwnerId, String> {
    let keys = node.authenticator.keys().list(None).await.unwrap_or_default();
    keys.into_iter().map(|key| (OwnerId::of_user(&key.user), key.user)).collect()
}

/// Returns the user of access keys that a person means, if the text is given. In place of an owner id it
/// returns the user.
pub(super) async fn named(node: &Node, text: Option<String>) -> Result<Option<String>, Refused> {
    let Some(text) = text else { return Ok(None) };
    let Ok(owner) = text.parse::<OwnerId>() else { return Ok(Some(text)) };
    let user = by_owner(node).await.remove(&owner);
    user.map(Some).ok_or_else(|| {
        Refused(format!(
            "no user of access keys has the owner id {owner}, and a user cannot be found out from it: name the user"
        ))
    })
}

/// Returns a revocation with the user in place of an owner id.
pub(super) async fn with_user(node: &Node, revoked: Revoked) -> Result<Revoked, Refused> {
    let user_in = async |user: String| -> Result<String, Refused> {
        let text = user.strip_prefix("key:").unwrap_or(&user).to_owned();
        Ok(if text.parse::<OwnerId>().is_ok() {
            named(node, Some(text)).await?.unwrap_or(user)
        } else {
            user
        })
    };
    Ok(match revoked {
        Revoked::User(user) => Revoked::User(user_in(user).await?),
        Revoked::IssuedBefore(user, before) => Revoked::IssuedBefore(user_in(user).await?, before),
        other @ (Revoked::Token(_) | Revoked::Key(_)) => other,
    })
}

/// Returns a revocation as it is shown, with names for all its parts.
pub(super) fn revoked_json(revoked: &Revoked) -> Value {
    match revoked {
        Revoked::IssuedBefore(user, before) => {
            json!({"issued-before": {"user": user, "before_s": before}})
        }
        other => json!(other),
    }
}

/// Returns all revocations.
pub(super) fn list_revocations(node: &Node) -> Value {
    let all = node.authenticator.revocations().all();
    all.iter()
        .map(|found| json!({"revoked": revoked_json(&found.revoked), "at_ms": found.at}))
        .collect()
}

/// Makes an access key, unless it would be refused at once.
pub(super) async fn create_key(node: &Node, user: &str) -> Result<Value, Refused> {
    let now = node.service.arbiter().now().await?;
    let user = user_of(&named(node, Some(user.to_owned())).await?.unwrap_or_default());
    if node.authenticator.revocations().refuses_key(&user, now, None) {
        return Err(Refused(format!(
            "{user} is revoked, which cannot be undone: a new key would be refused. Choose another \
             user name"
        )));
    }
    let (info, secret) = node.authenticator.keys().create(&user, now).await?;
    Ok(json!({"id": info.id, "user": info.user, "secret": secret.expose()}))
}

/// Returns the access keys of one user or of all, and whether each is refused.
pub(super) async fn list_keys(node: &Node, user: Option<&str>) -> Result<Value, Refused> {
    let revocations = node.authenticator.revocations();
    let user = named(node, user.map(str::to_owned)).await?;
    let keys = node.authenticator.keys().list(user.as_deref()).await?;
    let with_state = keys.iter().map(|key| {
        let is_refused = revocations.refuses_key(&key.user, key.created, Some(&key.id));
        json!({
            "id": key.id,
            "user": key.user,
            "created_ms": key.created,
            "made_on": key.made_on,
            "revoked": key.is_revoked || is_refused,
        })
    });
    Ok(with_state.collect())
}

/// Most access keys that a refusal names.
const KEYS_NAMED: usize = 5;

/// Refuses a revocation that is probably a mistake: of a credential or user that is unknown here, and of a
/// user who would lose live keys or buckets for ever.
pub(super) async fn check_revocation(
    node: &Node,
    revoked: &Revoked,
    sureness: Sureness,
) -> Result<(), Refused> {
    let (user, is_for_ever) = match revoked {
        _ if sureness == Sureness::Certain => return Ok(()),
        Revoked::User(user) => (user, true),
        Revoked::IssuedBefore(user, _) => (user, false),
        Revoked::Key(id) => return check_key(node, id).await,
        Revoked::Token(_) => return Ok(()),
    };
    let shown = user.replace('\0', " ");
    let keys = node.authenticator.keys().list(Some(user)).await?;
    let buckets = count_buckets(node, user).await?;
    if sureness == Sureness::Unsure && keys.is_empty() && buckets == (0, 0) {
        return Err(Refused(format!(
            "nothing was revoked: {shown} has no access key and no bucket. If the name is right, add --yes; \
             the user of a JWT is named with --jwt or --issuer ISS"
        )));
    }
    let revocations = node.authenticator.revocations();
    let is_live = |key: &&KeyInfo| {
        !key.is_revoked && !revocations.refuses_key(&key.user, key.created, Some(&key.id))
    };
    let live: Vec<&str> = keys.iter().filter(is_live).map(|key| key.id.as_str()).collect();
    if !is_for_ever || (live.is_empty() && buckets.0 == 0) {
        return Ok(());
    }
    Err(Refused(would_lose(&shown, &live, buckets.0)))
}

/// Returns an error that says what the user would lose, and how to revoke less.
fn would_lose(user: &str, keys: &[&str], buckets: usize) -> String {
    let more = keys.len().saturating_sub(KEYS_NAMED);
    let mut named = keys[..keys.len() - more].join(", ");
    if more > 0 {
        let _infallible = write!(named, " and {more} more");
    }
    let keys = match keys.len() {
        0 => "no live access key".to_owned(),
        1 => format!("1 live access key ({named})"),
        count => format!("{count} live access keys ({named})"),
    };
    let buckets = if buckets == 1 { "1 bucket".to_owned() } else { format!("{buckets} buckets") };
    format!(
        "nothing was revoked: {user} has {keys} and owns {buckets}. Revoking the user refuses every \
         credential of theirs on every master for ever: it cannot be undone, no new key can be made for \
         them, and nobody can write to their buckets any more. If you mean that, add --yes. To replace a key, \
         make a new one and then run fula keys revoke ID; to refuse only what was issued until now, add \
         --issued-before now"
    )
}

/// Refuses an access key id that is neither a key's nor a session's.
async fn check_key(node: &Node, id: &str) -> Result<(), Refused> {
    let keys = node.authenticator.keys();
    if keys.exists(id, None).await? || keys.has_session(id).await? {
        return Ok(());
    }
    Err(Refused(format!(
        "nothing was revoked: no access key and no session has the id {id}. If it is right, add --yes"
    )))
}

/// Returns how many buckets a user has, and how many rows of deleted ones.
async fn count_buckets(node: &Node, user: &str) -> Result<(usize, usize), Refused> {
    let owner = OwnerId::of_user(user);
    let (mut live, mut deleted, mut after) = (0, 0, None);
    loop {
        let rows = node.roots().list_roots(owner, after.as_ref(), ROWS_PAGE).await?.value;
        let Some(last) = rows.last() else { return Ok((live, deleted)) };
        after = Some(last.address.name.clone());
        let gone = rows.iter().filter(|row| row.deleted.is_some()).count();
        (live, deleted) = (live + rows.len() - gone, deleted + gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_some_keys_and_counts_all() {
        let ids = ["A", "B", "C", "D", "E", "F", "G"];
        let text = would_lose("key:alice", &ids, 2);
        assert!(text.contains("7 live access keys (A, B, C, D, E and 2 more)"), "{text}");
        assert!(text.contains("owns 2 buckets"), "{text}");
        let text = would_lose("0xabc", &[], 1);
        assert!(text.contains("no live access key and owns 1 bucket."), "{text}");
        assert!(would_lose("key:alice", &ids[..1], 0).contains("1 live access key (A)"));
    }
}
