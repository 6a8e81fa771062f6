//! Checksums of objects and parts.

use bytes::Bytes;

use crate::cbor::{Invalid, Reader, Writer};

/// Checksum algorithms of S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChecksumAlgorithm {
    /// CRC-32 (ISO-HDLC).
    Crc32,
    /// CRC-32C (Castagnoli).
    Crc32c,
    /// CRC-64/NVME.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
    /// XXH64 with the seed 0.
    Xxhash64,
    /// XXH3 of 64 bits with the seed 0.
    Xxhash3,
    /// XXH3 of 128 bits with the seed 0.
    Xxhash128,
}

impl ChecksumAlgorithm {
    /// Every algorithm, in the order of the stored codes.
    pub const ALL: [Self; 9] = [
        Self::Crc32,
        Self::Crc32c,
        Self::Crc64Nvme,
        Self::Sha1,
        Self::Sha256,
        Self::Sha512,
        Self::Xxhash64,
        Self::Xxhash3,
        Self::Xxhash128,
    ];

    /// Returns the length of a value in bytes.
    pub fn value_len(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme | Self::Xxhash64 | Self::Xxhash3 => 8,
            Self::Xxhash128 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// A checksum as S3 stores and returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// Algorithm that computed the value.
    pub algorithm: ChecksumAlgorithm,
    /// 0 for a checksum of the full object, else the number of parts whose checksums it is made of.
    pub composite_parts: u32,
    /// The value in bytes, as long as [`ChecksumAlgorithm::value_len`] says.
    pub value: Bytes,
}

impl Checksum {
    /// Appends the encoded checksum.
    pub fn write(&self, out: &mut Writer) {
        out.array(3).uint(self.algorithm as u64).uint(u64::from(self.composite_parts));
        out.bytes(&self.value);
    }

    /// Reads what [`Self::write`] wrote.
    ///
    /// # Errors
    /// [`Invalid`] for anything else.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Invalid> {
        reader.tuple(3)?;
        let code = usize::try_from(reader.uint()?).map_err(|_| Invalid("bad algorithm"))?;
        let algorithm = *ChecksumAlgorithm::ALL.get(code).ok_or(Invalid("bad algorithm"))?;
        let parts = reader.uint()?.try_into().map_err(|_| Invalid("bad part count"))?;
        let value = reader.bytes()?;
        if value.len() != algorithm.value_len() {
            return Err(Invalid("checksum has another length"));
        }
        Ok(Self { algorithm, composite_parts: parts, value })
    }
}
