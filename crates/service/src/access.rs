//! Who may do what: one function, one table.
//!
//! A bucket that exists but is not the caller's looks exactly like one that does not exist.

use fula_core::OwnerId;

use crate::error::ServiceError;

/// Who is asking, as far as a signature proved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id, e.g. `key:alice`.
    pub user: String,
    /// The owner id derived from it.
    pub owner: OwnerId,
}

impl Identity {
    /// Returns the identity of a user id.
    pub fn of_user(user: &str) -> Self {
        Self { user: user.to_owned(), owner: OwnerId::of_user(user) }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read objects, listings or facts about the bucket.
    Read,
    /// Change objects.
    Write,
    /// Create, delete or configure the bucket.
    Admin,
}

/// Decides whether `identity` (`None` is anonymous) may do `action` to a bucket of `owner`.
///
/// # Errors
/// [`ServiceError::AccessDenied`] for the anonymous; [`ServiceError::NoSuchBucket`] for others
/// who are not the owner.
pub fn authorize(
    identity: Option<&Identity>,
    action: Action,
    owner: OwnerId,
) -> Result<(), ServiceError> {
    match (identity, action) {
        (None, _) => Err(ServiceError::AccessDenied),
        (Some(identity), Action::Read | Action::Write | Action::Admin) => {
            if identity.owner == owner { Ok(()) } else { Err(ServiceError::NoSuchBucket) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let owner = Identity::of_user("key:owner");
        let stranger = Identity::of_user("key:stranger");
        let hidden = "bucket does not exist";
        let table = [
            (Some(&owner), Action::Read, "allowed"),
            (Some(&owner), Action::Write, "allowed"),
            (Some(&owner), Action::Admin, "allowed"),
            (Some(&stranger), Action::Read, hidden),
            (Some(&stranger), Action::Write, hidden),
            (Some(&stranger), Action::Admin, hidden),
            (None, Action::Read, "access denied"),
            (None, Action::Write, "access denied"),
            (None, Action::Admin, "access denied"),
        ];
        for (who, action, expected) in table {
            let decision = authorize(who, action, owner.owner);
            let answer = decision.map_or_else(|error| error.to_string(), |()| "allowed".into());
            assert_eq!(answer, expected, "{who:?} {action:?}");
        }
    }
}
