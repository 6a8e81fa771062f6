//! The table of parts of an object that was made by a multipart upload.

use super::{checksum::Checksum, sse::Salt};
use crate::{
    block::Block,
    cbor::{Invalid, Reader, Writer},
    error::StoreError,
    id::Codec,
};

/// One part of a completed multipart object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartSpan {
    /// Part number, 1 to 10 000.
    pub number: u32,
    /// Length in bytes.
    pub size: u64,
    /// Checksum of the part, if there is one.
    pub checksum: Option<Checksum>,
    /// Salt of the part, if it is encrypted by itself.
    pub salt: Option<Salt>,
}

/// Encodes the table of parts as a block: `[[number, size, checksum or null], …]`. An
/// encrypted part ends with its salt.
pub fn write_parts(parts: &[PartSpan]) -> Block {
    let mut out = Writer::with_capacity(parts.len() * 24);
    out.array(parts.len());
    for part in parts {
        let fields = 3 + usize::from(part.salt.is_some());
        out.array(fields).uint(u64::from(part.number)).uint(part.size);
        match &part.checksum {
            Some(checksum) => checksum.write(&mut out),
            None => drop(out.null()),
        }
        if let Some(salt) = &part.salt {
            out.bytes(&salt.0);
        }
    }
    Block::new(Codec::DagCbor, out.finish())
}

/// Decodes a table of parts.
///
/// # Errors
/// [`StoreError::Malformed`] for a block that is not such a table.
pub fn read_parts(block: &Block) -> Result<Vec<PartSpan>, StoreError> {
    let mut reader = Reader::new(block.bytes());
    let mut read = || {
        let parts = (0..reader.array()?)
            .map(|_| {
                let fields = reader.array()?;
                if !(3..=4).contains(&fields) {
                    return Err(Invalid("bad part"));
                }
                let number = reader.uint()?.try_into().map_err(|_| Invalid("bad number"))?;
                let size = reader.uint()?;
                let checksum =
                    if reader.null() { None } else { Some(Checksum::read(&mut reader)?) };
                let salt = if fields == 4 { Some(Salt(reader.array_of()?)) } else { None };
                Ok(PartSpan { number, size, checksum, salt })
            })
            .collect::<Result<_, Invalid>>()?;
        reader.end()?;
        Ok(parts)
    };
    read().map_err(|invalid: Invalid| invalid.of("table of parts"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::bucket::ChecksumAlgorithm;

    #[test]
    fn part_tables_round_trip() {
        let checksum = Checksum {
            algorithm: ChecksumAlgorithm::Crc64Nvme,
            composite_parts: 0,
            value: Bytes::from_static(&[1; 8]),
        };
        let parts = vec![
            PartSpan { number: 1, size: 5 << 20, checksum: Some(checksum), salt: None },
            PartSpan { number: 9, size: 1, checksum: None, salt: Some(Salt([7; 16])) },
        ];
        assert_eq!(read_parts(&write_parts(&parts)).unwrap(), parts);
    }
}
