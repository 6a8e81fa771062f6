//! Entity tags.

use std::fmt;

use crate::{
    cbor::{Invalid, Reader, Writer},
    id::{Cid, write_hex16},
};

/// The entity tag of an object, as S3 clients expect it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ETag {
    /// MD5 of the bytes.
    Md5([u8; 16]),
    /// MD5 of the parts' MD5s, and the number of parts.
    Multipart([u8; 16], u32),
    /// The CID of content whose bytes this system never received.
    Cid(Cid),
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Md5(md5) => write_hex16(f, md5),
            Self::Multipart(md5, parts) => {
                write_hex16(f, md5)?;
                write!(f, "-{parts}")
            }
            Self::Cid(cid) => cid.fmt(f),
        }
    }
}

impl ETag {
    /// Appends the encoded tag.
    pub fn write(&self, out: &mut Writer) {
        match self {
            Self::Md5(md5) => out.bytes(md5),
            Self::Multipart(md5, parts) => out.array(2).bytes(md5).uint(u64::from(*parts)),
            Self::Cid(cid) => out.array(1).bytes(&cid.to_bytes()),
        };
    }

    /// Reads what [`Self::write`] wrote.
    ///
    /// # Errors
    /// [`Invalid`] for anything else.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Invalid> {
        if let Some(md5) = reader.maybe_bytes()? {
            return Ok(Self::Md5(md5.as_ref().try_into().map_err(|_| Invalid("bad MD5"))?));
        }
        match reader.array()? {
            1 => {
                let cid = Cid::from_bytes(&reader.bytes()?);
                cid.map(Self::Cid).map_err(|_| Invalid("bad ETag CID"))
            }
            2 => {
                let md5 = reader.array_of()?;
                let parts = u32::try_from(reader.uint()?).map_err(|_| Invalid("bad part count"))?;
                Ok(Self::Multipart(md5, parts))
            }
            _ => Err(Invalid("bad ETag")),
        }
    }
}
