//! Identifiers. Each kind has a type of its own, which is of fixed size where possible.
//!
//! Formats: docs/format.md. Only names and keys allocate memory.
//!
//! # Example
//!
//! ```
//! use fula_core::{BucketAddress, BucketName, Cid, Codec, ObjectKey, OwnerId};
//!
//! let name = BucketName::parse("photos")?;
//! let address = BucketAddress::new(OwnerId::of_user("key:alice"), name);
//! assert_eq!(address.to_string().parse::<BucketAddress>()?, address);
//! assert!(BucketName::parse("Photos").is_err());
//! assert!(ObjectKey::parse(String::new()).is_err());
//!
//! let cid = Cid::of(Codec::Raw, b"hello");
//! assert_eq!(cid.to_string().parse::<Cid>()?, cid);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cid;

use std::{fmt, str::FromStr};

pub use self::cid::{AnyCid, Cid, Codec, InvalidCid};

/// Writes 16 bytes as 32 lowercase hex digits. It allocates nothing, because a listing needs it a
/// thousand times.
pub(crate) fn write_hex16(f: &mut fmt::Formatter<'_>, bytes: &[u8; 16]) -> fmt::Result {
    let mut digits = [0; 32];
    hex::encode_to_slice(bytes, &mut digits).map_err(|_| fmt::Error)?;
    f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
}

/// Declares an opaque 16-byte identifier, which is shown as 32 lowercase hex digits.
macro_rules! id16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex16(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let mut id = [0; 16];
                hex::decode_to_slice(text, &mut id).map_err(|_| InvalidId)?;
                Ok(Self(id))
            }
        }
    };
}

/// Text that is not an identifier of 32 hex digits.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 hex digits")]
pub struct InvalidId;

id16! {
    /// The owner of a bucket: the first half of a hash of the user id.
    OwnerId
}
id16! {
    /// One life of a bucket name, from creation to deletion. It is drawn at random on creation.
    BucketId
}
id16! {
    /// A process that commits. It is drawn at random at every start of a master.
    WriterId
}
id16! {
    /// A multipart upload: milliseconds since 1970 in the first 6 bytes, big-endian, then random bytes.
    /// The ids of one key therefore sort by the time at which the uploads began.
    UploadId
}

impl OwnerId {
    /// Derives the owner id of a user id: `BLAKE3("fula:user_id:" ‖ user)[..16]`.
    pub fn of_user(user: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"fula:user_id:").update(user.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(id)
    }
}

impl UploadId {
    /// Returns the id of an upload begun at `time_ms`.
    pub fn new(time_ms: u64, random: [u8; 10]) -> Self {
        let mut id = [0; 16];
        id[..6].copy_from_slice(&time_ms.to_be_bytes()[2..]);
        id[6..].copy_from_slice(&random);
        Self(id)
    }
}

/// A bucket name that follows the rules of S3 and is not reserved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketName(String);

/// A bucket name that breaks the rules of S3, or is reserved for routes of the gateway.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("bucket names {0}")]
pub struct InvalidBucketName(&'static str);

/// Reserved names: they are routes of the gateway and never buckets.
const RESERVED: [&str; 2] = ["fula", "ipfs"];

/// Name of the bucket of an owner that holds what the owner has pinned. No S3 name begins with a dot.
const PINS: &str = ".pins";

impl BucketName {
    /// Parses a name by the rules for general purpose buckets.
    ///
    /// # Errors
    /// [`InvalidBucketName`] when a rule is broken or the name is reserved.
    pub fn parse(name: &str) -> Result<Self, InvalidBucketName> {
        let alnum = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let bytes = name.as_bytes();
        let edges = |bytes: &[u8]| matches!((bytes.first(), bytes.last()), (Some(a), Some(b)) if alnum(*a) && alnum(*b));
        let rules = [
            ((3..=63).contains(&bytes.len()), "are 3 to 63 characters long"),
            (
                bytes.iter().all(|&c| alnum(c) || c == b'.' || c == b'-'),
                "consist of lowercase letters, digits, dots and hyphens",
            ),
            (edges(bytes), "begin and end with a letter or a digit"),
            (!name.contains(".."), "have no two dots in a row"),
            (name.parse::<std::net::Ipv4Addr>().is_err(), "are not IP addresses"),
            (!name.starts_with("xn--"), "do not begin with xn--"),
            (!name.ends_with("-s3alias"), "do not end with -s3alias"),
            (!RESERVED.contains(&name), "are not fula or ipfs, which are routes of the gateway"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(InvalidBucketName(rule)),
            None => Ok(Self(name.to_owned())),
        }
    }

    /// Returns the name of the hidden bucket with the pins of an owner (docs/adr/0056). Requests of S3 cannot name
    /// it, because [`Self::parse`] refuses it.
    pub fn pins() -> Self {
        Self(PINS.to_owned())
    }

    /// Parses the name of a bucket that is stored: that of [`Self::parse`], or a hidden one.
    ///
    /// # Errors
    /// [`InvalidBucketName`] as for [`Self::parse`].
    pub fn parse_stored(name: &str) -> Result<Self, InvalidBucketName> {
        if name == PINS { Ok(Self::pins()) } else { Self::parse(name) }
    }

    /// Returns whether the bucket is hidden from S3.
    pub fn is_hidden(&self) -> bool {
        self.0 == PINS
    }

    /// Returns a value that sorts before every bucket name.
    pub(crate) fn first() -> Self {
        Self(String::new())
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The address of a bucket, by owner and name; written `owner/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketAddress {
    /// Owner of the bucket.
    pub owner: OwnerId,
    /// Name of the bucket, unique per owner.
    pub name: BucketName,
}

impl BucketAddress {
    /// Returns the address of an owner's bucket.
    pub fn new(owner: OwnerId, name: BucketName) -> Self {
        Self { owner, name }
    }
}

impl fmt::Display for BucketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

/// Text that is not an owner, a slash and a bucket name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a bucket's address is OWNER/NAME")]
pub struct InvalidBucketAddress;

impl FromStr for BucketAddress {
    type Err = InvalidBucketAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (owner, name) = text.split_once('/').ok_or(InvalidBucketAddress)?;
        let owner = owner.parse().map_err(|_| InvalidBucketAddress)?;
        let name = BucketName::parse_stored(name).map_err(|_| InvalidBucketAddress)?;
        Ok(Self { owner, name })
    }
}

/// An object key: 1 to 1024 bytes of UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

/// An object key that is empty or longer than 1024 bytes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidObjectKey {
    /// The key has no bytes.
    #[error("the object key is empty")]
    Empty,
    /// The key has more than [`ObjectKey::BYTES_MAX`] bytes.
    #[error("the object key has {0} bytes, and the limit is 1024")]
    TooLong(usize),
}

impl ObjectKey {
    /// Longest key in bytes.
    pub const BYTES_MAX: usize = 1024;

    /// Checks the length of a key.
    ///
    /// # Errors
    /// [`InvalidObjectKey`] for an empty or an over-long key.
    pub fn parse(key: String) -> Result<Self, InvalidObjectKey> {
        match key.len() {
            0 => Err(InvalidObjectKey::Empty),
            1..=Self::BYTES_MAX => Ok(Self(key)),
            len => Err(InvalidObjectKey::TooLong(len)),
        }
    }

    /// Returns the key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the key's bytes, which are its key in the objects tree.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_id_matches_the_wire_vector() {
        let owner = OwnerId::of_user("0x70997970c51812dc3a010c7d01b50e0d17dc79c8");
        assert_eq!(owner.to_string(), "f41f214011f79ff767b399d24e0e75af");
    }

    #[test]
    fn bucket_names_follow_s3() {
        for good in ["abc", "a-b.c", "123", "x".repeat(63).as_str()] {
            assert!(BucketName::parse(good).is_ok(), "{good}");
        }
        for bad in
            ["ab", "Abc", "a_b", "-ab", "ab-", "a..b", "1.2.3.4", "fula", "ipfs", "xn--abc", "a/b"]
        {
            assert!(BucketName::parse(bad).is_err(), "{bad}");
        }
        assert!(BucketName::parse(&"x".repeat(64)).is_err());
    }

    #[test]
    fn only_what_is_stored_may_name_the_hidden_bucket() {
        let hidden = BucketName::pins();
        assert!(BucketName::parse(hidden.as_str()).is_err());
        assert_eq!(BucketName::parse_stored(hidden.as_str()), Ok(hidden.clone()));
        assert!(hidden.is_hidden() && !BucketName::parse_stored("pins").unwrap().is_hidden());
        assert!(BucketName::parse_stored(".other").is_err());
        let address = BucketAddress::new(OwnerId::of_user("key:a"), hidden);
        assert_eq!(address.to_string().parse(), Ok(address));
    }

    #[test]
    fn upload_ids_sort_by_time() {
        assert!(UploadId::new(1, [255; 10]) < UploadId::new(2, [0; 10]));
    }
}
