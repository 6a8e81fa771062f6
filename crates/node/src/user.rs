//! Users as people name them.

use fula_core::OwnerId;
use fula_service::auth::user_of;

/// Returns the id of the user that a person means: a wallet's address, or the name of a user of access
/// keys, with or without `key:`.
pub(crate) fn user_id(text: &str) -> String {
    match fula_identity::Address::parse(text) {
        Some(wallet) => wallet.to_string(),
        None => user_of(text),
    }
}

/// Returns the owner id of the user that a person means. The text may also be the owner id, as `fula roots
/// show` prints it.
pub(crate) fn owner_id(text: &str) -> OwnerId {
    text.parse().unwrap_or_else(|_| OwnerId::of_user(&user_id(text)))
}
