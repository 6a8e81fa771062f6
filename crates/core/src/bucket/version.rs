//! Versions of objects: their ids, and whether a bucket keeps them (docs/adr/0045).

use std::{fmt, str::FromStr};

use crate::cbor::Invalid;

/// Position of an object version in the history of its bucket: the commit, and the index in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seq {
    /// Version of the root that the commit published.
    pub version: u64,
    /// Index of the change within that commit.
    pub index: u32,
}

/// Whether a bucket keeps versions. A bucket without this setting never kept any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versioning {
    /// Every write makes a version of its own.
    Enabled,
    /// Every write replaces the null version. Other versions stay.
    Suspended,
}

impl Versioning {
    /// Returns the code in a root.
    pub(super) fn code(self) -> u64 {
        match self {
            Self::Enabled => 1,
            Self::Suspended => 2,
        }
    }

    /// Reads what [`Self::code`] returned.
    pub(super) fn of_code(code: u64) -> Result<Self, Invalid> {
        match code {
            1 => Ok(Self::Enabled),
            2 => Ok(Self::Suspended),
            _ => Err(Invalid("unknown state of versioning")),
        }
    }
}

/// The id of a version of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionId {
    /// The version that was written while the bucket did not keep versions.
    Null,
    /// The version that was written at this position in the history of the bucket.
    At(Seq),
}

/// The reason why a text is no version id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a version id")]
pub struct InvalidVersionId;

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::At(Seq { version, index }) => write!(f, "{version:016x}{index:08x}"),
        }
    }
}

impl FromStr for VersionId {
    type Err = InvalidVersionId;

    fn from_str(text: &str) -> Result<Self, InvalidVersionId> {
        if text == "null" {
            return Ok(Self::Null);
        }
        let is_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        let digits = text.split_at_checked(16).filter(|_| text.len() == 24);
        let (version, index) =
            digits.filter(|_| text.bytes().all(is_hex)).ok_or(InvalidVersionId)?;
        let version = u64::from_str_radix(version, 16).map_err(|_| InvalidVersionId)?;
        let index = u32::from_str_radix(index, 16).map_err(|_| InvalidVersionId)?;
        Ok(Self::At(Seq { version, index }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = VersionId::At(Seq { version: 0x1f, index: 2 });
        assert_eq!(id.to_string(), "000000000000001f00000002");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("null".parse(), Ok(VersionId::Null));
        for wrong in ["", "Null", "1f", "000000000000001F00000002", "+00000000000001f00000002", "é"]
        {
            assert_eq!(wrong.parse::<VersionId>(), Err(InvalidVersionId), "{wrong}");
        }
    }
}
