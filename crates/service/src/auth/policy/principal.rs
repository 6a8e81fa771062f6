//! Whom a statement is about.
//!
//! An owner here is one user, so the account and its user are the same. An owner is named by its canonical id,
//! also as `{"CanonicalUser": "ID"}` and as `arn:aws:iam::ID:root`, or by its user id, as
//! `arn:aws:iam:::user/0x…` for a wallet.

use fula_core::OwnerId;
use serde_json::Value;

/// The users that a statement names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Principals {
    /// Everyone, also without a credential.
    Anyone,
    /// These users, in order.
    Only(Vec<OwnerId>),
    /// Everyone but these users.
    Except(Vec<OwnerId>),
    /// Nobody: everyone but everyone.
    Nobody,
}

/// Returns the owner that an entry of `AWS` names.
fn owner_of(text: &str) -> Option<OwnerId> {
    let Some(rest) = text.strip_prefix("arn:aws:iam::") else { return text.parse().ok() };
    let (account, user) = rest.split_once(':')?;
    let of_user = user.strip_prefix("user/").filter(|user| !user.is_empty());
    let of_user = of_user.map(|user| OwnerId::of_user(&canonical_user(user)));
    match (account, of_user) {
        ("", Some(owner)) => Some(owner),
        (account, Some(owner)) => account.parse().ok().filter(|named| *named == owner),
        (account, None) if user == "root" => account.parse().ok(),
        _ => None,
    }
}

/// Returns a user id in the spelling that owners are derived from: addresses of wallets are in lower case.
fn canonical_user(user: &str) -> String {
    let is_wallet =
        user.len() == 42 && user.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
    if is_wallet { user.to_ascii_lowercase() } else { user.to_owned() }
}

impl Principals {
    /// Reads `Principal`. Returns `None` for what names nobody that there could be.
    pub(super) fn parse(value: &Value) -> Option<Self> {
        if value == "*" {
            return Some(Self::Anyone);
        }
        let mut owners = Vec::new();
        let kinds = value.as_object().filter(|kinds| !kinds.is_empty())?;
        for (kind, named) in kinds {
            let texts: Vec<&str> = match named {
                Value::String(text) => vec![text],
                Value::Array(texts) => texts.iter().map(Value::as_str).collect::<Option<_>>()?,
                _ => return None,
            };
            if texts.is_empty() {
                return None;
            }
            for text in texts {
                match kind.as_str() {
                    "AWS" if text == "*" => return Some(Self::Anyone),
                    "AWS" => owners.push(owner_of(text)?),
                    "CanonicalUser" => owners.push(text.parse().ok()?),
                    // There are no services and providers here that could send requests as such.
                    "Service" | "Federated" => {}
                    _ => return None,
                }
            }
        }
        owners.sort_unstable();
        owners.dedup();
        Some(Self::Only(owners))
    }

    /// Returns everyone but these.
    pub(super) fn except(self) -> Self {
        match self {
            Self::Anyone => Self::Nobody,
            Self::Only(owners) => Self::Except(owners),
            other => other,
        }
    }

    /// Returns whether a caller is among them; `None` is anonymous.
    pub(super) fn include(&self, who: Option<OwnerId>) -> bool {
        let is_in = |owners: &[OwnerId]| who.is_some_and(|who| owners.binary_search(&who).is_ok());
        match self {
            Self::Anyone => true,
            Self::Only(owners) => is_in(owners),
            Self::Except(owners) => !is_in(owners),
            Self::Nobody => false,
        }
    }

    /// Returns whether they include callers who are not named.
    pub(super) fn are_unnamed(&self) -> bool {
        matches!(self, Self::Anyone | Self::Except(_))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn owners_have_several_names() {
        let alice = OwnerId::of_user("key:alice");
        let wallet = OwnerId::of_user("0x00112233445566778899aabbccddeeff00112233");
        let id = alice.to_string();
        let only = |owner| Some(Principals::Only(vec![owner]));
        for (value, expected) in [
            (json!("*"), Some(Principals::Anyone)),
            (json!({"AWS": "*"}), Some(Principals::Anyone)),
            (json!({"AWS": [id, "*"]}), Some(Principals::Anyone)),
            (json!({"AWS": id}), only(alice)),
            (json!({"CanonicalUser": id}), only(alice)),
            (json!({"AWS": format!("arn:aws:iam::{id}:root")}), only(alice)),
            (json!({"AWS": format!("arn:aws:iam::{id}:user/key:alice")}), only(alice)),
            (json!({"AWS": ["arn:aws:iam:::user/key:alice", id]}), only(alice)),
            (
                json!({"AWS": "arn:aws:iam:::user/0x00112233445566778899AABBCCDDEEFF00112233"}),
                only(wallet),
            ),
            (json!({"Service": "logging.s3.amazonaws.com"}), Some(Principals::Only(Vec::new()))),
            (json!({"AWS": format!("arn:aws:iam::{id}:user/key:bob")}), None),
            (json!({"AWS": "arn:aws:iam::123456789012:root"}), None),
            (json!({"AWS": "key:alice"}), None),
            (
                json!({"AWS": "arn:aws:iam:::user/*"})
                    .as_object()
                    .map(|_| json!({"AWS": "a*"}))
                    .unwrap(),
                None,
            ),
            (json!({"AWS": []}), None),
            (json!({"AWS": 5}), None),
            (json!({"Alien": "*"}), None),
            (json!({"CanonicalUser": "*"}), None),
            (json!({}), None),
            (json!("key:alice"), None),
        ] {
            assert_eq!(Principals::parse(&value), expected, "{value}");
        }
    }
}
