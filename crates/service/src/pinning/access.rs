//! Whose pins a request reaches, and what it may do to them: one function and one table.

use fula_core::OwnerId;

use crate::{
    auth::access::{Identity, Target, Verb},
    error::ServiceError,
};

/// What a request does to pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinAction {
    /// Lists and reads pins, and what they have.
    Read,
    /// Adds, replaces and removes pins.
    Change,
}

/// Returns the owner whose pins a request reaches: the caller, if the credential covers the whole account. Pins
/// belong to no bucket, so one that is restricted to buckets reaches none.
///
/// # Errors
/// [`ServiceError::AccessDenied`].
pub fn owner_of(identity: Option<&Identity>, action: PinAction) -> Result<OwnerId, ServiceError> {
    let identity = identity.ok_or(ServiceError::AccessDenied)?;
    let verb = match action {
        PinAction::Read => Verb::Read,
        PinAction::Change => Verb::Write,
    };
    if !identity.grant.allows(verb, Target::Account) {
        return Err(ServiceError::AccessDenied);
    }
    Ok(identity.owner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::access::Grant;

    #[test]
    fn the_table() {
        let scoped = |user: &str, scopes: &[&str]| {
            Identity::restricted(user, Grant::parse(Some(scopes)).unwrap())
        };
        let (one, two) = (Identity::of_user("key:one"), Identity::of_user("key:two"));
        let wallet = Identity::of_user("0x70997970c51812dc3a010c7d01b50e0d17dc79c8");
        // Who, and whose pins it may read and change.
        let table = [
            ("one", Some(one.clone()), Some(&one), Some(&one)),
            ("two", Some(two.clone()), Some(&two), Some(&two)),
            ("a wallet", Some(wallet.clone()), Some(&wallet), Some(&wallet)),
            ("anonymous", None, None, None),
            ("reader", Some(scoped("key:one", &["read:*"])), Some(&one), None),
            ("writer", Some(scoped("key:one", &["write:*"])), None, Some(&one)),
            ("both", Some(scoped("key:one", &["read:*", "write:*"])), Some(&one), Some(&one)),
            ("admin", Some(scoped("key:one", &["admin:*"])), Some(&one), Some(&one)),
            ("of a bucket", Some(scoped("key:one", &["admin:photos"])), None, None),
            ("of keys", Some(scoped("key:one", &["read:photos/a", "write:photos=b"])), None, None),
        ];
        for (name, who, reads, changes) in table {
            for (action, expected) in [(PinAction::Read, reads), (PinAction::Change, changes)] {
                let found = owner_of(who.as_ref(), action).ok();
                assert_eq!(found, expected.map(|who| who.owner), "{name}, {action:?}");
            }
        }
        assert_ne!(one.owner, two.owner);
    }
}
