//! Scopes, which restrict what a token may be used for.
//!
//! ```text
//! scope = verb ":" place        verb  = read | write | admin
//! place = *                     every bucket of the owner
//!       | bucket                one bucket
//!       | bucket "/" prefix     its keys that begin with prefix
//!       | bucket "=" key        the one object
//! ```
//!
//! `read` reads objects and listings. `write` puts and deletes objects. `admin` does both, and creates,
//! deletes and configures buckets. Neither `read` nor `write` includes the other. A scope covers only
//! buckets of the token's owner; it never gives access to those of others.

use std::{fmt, str::FromStr};

/// Largest number of scopes of one token.
pub const SCOPES_MAX: usize = 32;

/// Longest scope in bytes: a verb, a bucket and a key.
pub const SCOPE_BYTES_MAX: usize = 1100;

/// A kind of action that a scope allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Reads objects and listings.
    Read,
    /// Puts and deletes objects.
    Write,
    /// Does both, and creates, deletes and configures buckets.
    Admin,
}

/// The part of an owner's buckets that a scope covers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Everywhere,
    Bucket(String),
    Prefix(String, String),
    Object(String, String),
}

/// The target of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// The owner's buckets as a whole.
    Account,
    /// A bucket as a whole.
    Bucket(&'a str),
    /// The bucket as far as the scope reaches into it, for questions such as whether it exists.
    Anything(&'a str),
    /// The keys of a bucket that begin with a prefix.
    Prefix(&'a str, &'a str),
    /// One object.
    Object(&'a str, &'a str),
}

/// One scope. It is displayed as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    verb: Verb,
    place: Place,
}

/// A text that is not a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a scope is read, write or admin, a colon, and *, BUCKET, BUCKET/PREFIX or BUCKET=KEY, \
     e.g. read:photos/2026/"
)]
pub struct InvalidScope;

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        if text.len() > SCOPE_BYTES_MAX {
            return Err(InvalidScope);
        }
        let (verb, place) = text.split_once(':').ok_or(InvalidScope)?;
        let verb = match verb {
            "read" => Verb::Read,
            "write" => Verb::Write,
            "admin" => Verb::Admin,
            _ => return Err(InvalidScope),
        };
        let end = place.find(['/', '=']).unwrap_or(place.len());
        let (bucket, rest) = place.split_at(end);
        let place = match (bucket, rest.as_bytes().first()) {
            ("*", None) => Place::Everywhere,
            (bucket, None) => Place::Bucket(bucket.to_owned()),
            (bucket, Some(b'/')) => Place::Prefix(bucket.to_owned(), rest[1..].to_owned()),
            (bucket, Some(_)) if rest.len() > 1 => {
                Place::Object(bucket.to_owned(), rest[1..].to_owned())
            }
            (_, Some(_)) => return Err(InvalidScope),
        };
        let named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        let is_name = (3..=63).contains(&bucket.len()) && bucket.chars().all(named);
        if place == Place::Everywhere || is_name {
            Ok(Self { verb, place })
        } else {
            Err(InvalidScope)
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.verb {
            Verb::Read => "read",
            Verb::Write => "write",
            Verb::Admin => "admin",
        };
        match &self.place {
            Place::Everywhere => write!(f, "{verb}:*"),
            Place::Bucket(bucket) => write!(f, "{verb}:{bucket}"),
            Place::Prefix(bucket, prefix) => write!(f, "{verb}:{bucket}/{prefix}"),
            Place::Object(bucket, key) => write!(f, "{verb}:{bucket}={key}"),
        }
    }
}

impl Scope {
    /// Returns a scope that covers every bucket of the owner.
    pub fn everywhere(verb: Verb) -> Self {
        Self { verb, place: Place::Everywhere }
    }

    fn allows(&self, verb: Verb, target: Target<'_>) -> bool {
        let verb_fits = self.verb == verb || self.verb == Verb::Admin;
        let place_fits = match (&self.place, target) {
            (Place::Everywhere, _) => true,
            (
                Place::Bucket(own),
                Target::Bucket(b) | Target::Prefix(b, _) | Target::Object(b, _),
            ) => own == b,
            (Place::Prefix(own, p), Target::Prefix(b, within) | Target::Object(b, within)) => {
                own == b && within.starts_with(p.as_str())
            }
            (Place::Object(own, key), Target::Object(b, k)) => own == b && key == k,
            // Any verb will do for this question.
            (
                Place::Bucket(own) | Place::Prefix(own, _) | Place::Object(own, _),
                Target::Anything(b),
            ) => {
                return own == b;
            }
            (_, Target::Account)
            | (Place::Prefix(..), Target::Bucket(_))
            | (Place::Object(..), Target::Bucket(_) | Target::Prefix(..)) => false,
        };
        verb_fits && place_fits
    }
}

/// The permitted use of a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Everything that the owner may do.
    All,
    /// Everything that one of these scopes allows. An empty list allows nothing.
    Scopes(Vec<Scope>),
}

impl Grant {
    /// Returns whether the grant allows `verb` on `target`, a bucket or an object of the owner.
    pub fn allows(&self, verb: Verb, target: Target<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Scopes(scopes) => scopes.iter().any(|scope| scope.allows(verb, target)),
        }
    }

    /// Returns whether the grant allows to write anything. Blocks that are sent to a storage node belong to no
    /// bucket yet.
    pub fn can_write(&self) -> bool {
        match self {
            Self::All => true,
            Self::Scopes(scopes) => scopes.iter().any(|scope| scope.verb != Verb::Read),
        }
    }

    /// Returns whether the grant covers exactly one object.
    pub fn is_one_object(&self) -> bool {
        match self {
            Self::All => false,
            Self::Scopes(scopes) => {
                let mut places = scopes.iter().map(|scope| &scope.place);
                matches!(places.next(), Some(first @ Place::Object(..)) if places.all(|p| p == first))
            }
        }
    }

    /// Returns the scopes as texts; `None` for an unrestricted grant.
    pub fn to_texts(&self) -> Option<Vec<String>> {
        match self {
            Self::All => None,
            Self::Scopes(scopes) => Some(scopes.iter().map(ToString::to_string).collect()),
        }
    }

    /// Parses scopes. `None` stands for an unrestricted grant.
    ///
    /// # Errors
    /// [`InvalidScope`] for a malformed scope, and for more than [`SCOPES_MAX`] scopes.
    pub fn parse<T: AsRef<str>>(texts: Option<&[T]>) -> Result<Self, InvalidScope> {
        let Some(texts) = texts else { return Ok(Self::All) };
        if texts.len() > SCOPES_MAX {
            return Err(InvalidScope);
        }
        texts.iter().map(|text| text.as_ref().parse()).collect::<Result<_, _>>().map(Self::Scopes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(texts: &[&str]) -> Grant {
        Grant::parse(Some(texts)).unwrap()
    }

    #[test]
    fn scopes_have_one_spelling_each() {
        for good in ["read:*", "write:abc", "admin:a.b-c/", "read:abc/p/q=r", "read:abc=k/l=m"] {
            assert_eq!(good.parse::<Scope>().unwrap().to_string(), good);
        }
        let long = format!("read:abc/{}", "x".repeat(SCOPE_BYTES_MAX));
        for bad in [
            "",
            "read",
            "read:",
            ":abc",
            "READ:abc",
            "list:abc",
            "read:ab",
            "read:ABC",
            "read:*x",
            "read:*/p",
            "read:abc=",
            "read:a b c",
            " read:abc",
            "read:abc\u{e9}",
            "read:/p",
            &long,
        ] {
            assert_eq!(bad.parse::<Scope>(), Err(InvalidScope), "{bad}");
        }
        assert!(Grant::parse(Some(&vec!["read:*"; SCOPES_MAX + 1])).is_err());
    }

    #[test]
    fn the_table_of_places() {
        use Target::*;
        let targets = [
            Account,
            Bucket("abc"),
            Anything("abc"),
            Prefix("abc", ""),
            Prefix("abc", "p/q"),
            Object("abc", "p/q"),
            Object("abc", "z"),
            Bucket("abd"),
            Anything("abd"),
            Object("abd", "p/q"),
        ];
        let table = [
            ("read:*", "1111111111"),
            ("read:abc", "0111111000"),
            ("read:abc/", "0011111000"),
            ("read:abc/p/", "0010110000"),
            ("read:abc=p/q", "0010010000"),
            ("read:abd", "0000000111"),
        ];
        for (scope, expected) in table {
            let grant = grant(&[scope]);
            let found: String = targets
                .iter()
                .map(|target| if grant.allows(Verb::Read, *target) { '1' } else { '0' })
                .collect();
            assert_eq!(found, expected, "{scope}");
        }
    }

    #[test]
    fn verbs_do_not_include_one_another_but_admin_does() {
        let target = Target::Object("abc", "k");
        for (scope, read, write, admin) in [
            ("read:abc", true, false, false),
            ("write:abc", false, true, false),
            ("admin:abc", true, true, true),
        ] {
            let grant = grant(&[scope]);
            let found = [Verb::Read, Verb::Write, Verb::Admin].map(|v| grant.allows(v, target));
            assert_eq!(found, [read, write, admin], "{scope}");
        }
        assert!(!grant(&[]).allows(Verb::Read, target));
        assert!(grant(&["read:abd", "read:abc"]).allows(Verb::Read, target));
    }

    #[test]
    fn one_object_is_one_object() {
        assert!(grant(&["read:abc=k"]).is_one_object());
        assert!(grant(&["read:abc=k", "write:abc=k"]).is_one_object());
        assert!(!grant(&["read:abc=k", "read:abc=l"]).is_one_object());
        assert!(!grant(&["read:abc/k"]).is_one_object());
        assert!(!grant(&[]).is_one_object());
        assert!(!Grant::All.is_one_object());
    }
}
