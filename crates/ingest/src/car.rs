//! CAR files of version 1 (<https://ipld.io/specs/transport/car/carv1>), read as they arrive and written block
//! by block. The reader holds one section at most.

use bytes::{Buf, Bytes, BytesMut};
use fula_core::{
    Cid,
    block::BLOCK_BYTES_MAX,
    cbor::{Invalid, Reader, Writer},
};

/// Largest header in bytes.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// Longest varint that is read: it holds any length up to the largest section.
const VARINT_BYTES_MAX: usize = 4;

/// A file that cannot be read further. What came before is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CarError {
    /// The header is not that of a CAR of version 1.
    #[error("the header is not that of a CAR of version 1")]
    Header,
    /// A length or an address is malformed, or the codec or the hash of the address is not supported.
    #[error(
        "a section is malformed, or its CID is not a CIDv1 with BLAKE3-256 and a supported codec"
    )]
    Section,
    /// A block is longer than the limit.
    #[error("a block is longer than 1 MiB")]
    TooLarge,
    /// The file ends within a section.
    #[error("the file is cut off")]
    CutOff,
}

/// Reads a file whose bytes are pushed as they arrive.
#[derive(Debug, Default)]
pub struct CarReader {
    buffer: BytesMut,
    has_header: bool,
}

impl CarReader {
    /// Adds bytes. Call [`Self::next_block`] until it returns `None` before adding more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next block, whose bytes are not verified; `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`CarError`]. No later call succeeds.
    pub fn next_block(&mut self) -> Result<Option<(Cid, Bytes)>, CarError> {
        if !self.has_header {
            let Some(header) = self.section(HEADER_BYTES_MAX, CarError::Header)? else {
                return Ok(None);
            };
            check_header(&header).map_err(|_| CarError::Header)?;
            self.has_header = true;
        }
        let section = self.section(Cid::BYTES + BLOCK_BYTES_MAX, CarError::TooLarge)?;
        let Some(mut section) = section else { return Ok(None) };
        if section.len() < Cid::BYTES {
            return Err(CarError::Section);
        }
        let cid = section.split_to(Cid::BYTES);
        let cid = Cid::from_bytes(&cid).map_err(|_| CarError::Section)?;
        Ok(Some((cid, section)))
    }

    /// Checks that the file ends here.
    ///
    /// # Errors
    /// [`CarError::CutOff`] within a section; [`CarError::Header`] for an empty file.
    pub fn end(&self) -> Result<(), CarError> {
        match (self.has_header, self.buffer.is_empty()) {
            (true, true) => Ok(()),
            (false, true) => Err(CarError::Header),
            _ => Err(CarError::CutOff),
        }
    }

    /// Returns the next part with a length in front, once all of it is there.
    fn section(&mut self, max: usize, too_long: CarError) -> Result<Option<Bytes>, CarError> {
        let Some((len, head)) = self.varint()? else { return Ok(None) };
        if len > max {
            return Err(too_long);
        }
        if self.buffer.len() < head + len {
            self.buffer.reserve(head + len - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(head);
        Ok(Some(self.buffer.split_to(len).freeze()))
    }

    /// Returns the number at the beginning of the buffer and how many bytes it takes.
    fn varint(&self) -> Result<Option<(usize, usize)>, CarError> {
        let mut value = 0_usize;
        for (at, byte) in self.buffer.iter().take(VARINT_BYTES_MAX).enumerate() {
            value |= usize::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return Ok(Some((value, at + 1)));
            }
        }
        if self.buffer.len() < VARINT_BYTES_MAX { Ok(None) } else { Err(CarError::Section) }
    }
}

fn check_header(header: &Bytes) -> Result<(), Invalid> {
    let mut reader = Reader::new(header);
    if reader.map()? != 2 || reader.text()? != "roots" {
        return Err(Invalid("no roots"));
    }
    reader.value()?;
    if reader.text()? != "version" || reader.uint()? != 1 {
        return Err(Invalid("not version 1"));
    }
    reader.end()
}

/// Returns the header of a file with these roots.
pub fn header(roots: &[Cid]) -> Bytes {
    let mut out = Writer::with_capacity(64);
    out.map(2).text("roots").array(roots.len());
    for root in roots {
        out.link(root);
    }
    out.text("version").uint(1);
    framed(&[&out.finish()])
}

/// Returns the section of a block.
pub fn section(cid: &Cid, bytes: &[u8]) -> Bytes {
    framed(&[&cid.to_bytes(), bytes])
}

fn framed(parts: &[&[u8]]) -> Bytes {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(len + VARINT_BYTES_MAX);
    let mut left = len;
    loop {
        let low = u8::try_from(left & 0x7f).unwrap_or_default();
        left >>= 7;
        if left == 0 {
            out.push(low);
            break;
        }
        out.push(low | 0x80);
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use fula_core::Codec;
    use proptest::prelude::*;

    use super::*;

    fn read(file: &[u8], step: usize) -> (Vec<(Cid, Bytes)>, Result<(), CarError>) {
        let (mut reader, mut found) = (CarReader::default(), Vec::new());
        for chunk in file.chunks(step) {
            reader.push(chunk);
            loop {
                match reader.next_block() {
                    Ok(Some(block)) => found.push(block),
                    Ok(None) => break,
                    Err(error) => return (found, Err(error)),
                }
            }
        }
        let end = reader.end();
        (found, end)
    }

    fn file(sizes: &[usize]) -> (Vec<(Cid, Bytes)>, Vec<u8>) {
        let blocks: Vec<_> = sizes
            .iter()
            .map(|size| Bytes::from(vec![u8::try_from(size % 251).unwrap(); *size]))
            .map(|bytes| (Cid::of(Codec::Raw, &bytes), bytes))
            .collect();
        let mut file = header(&[blocks[0].0]).to_vec();
        for (cid, bytes) in &blocks {
            file.extend(section(cid, bytes));
        }
        (blocks, file)
    }

    #[test]
    fn blocks_come_out_as_soon_as_they_are_there() {
        let (blocks, bytes) = file(&[5, 0, 300, 1 << 20, 70_000]);
        for step in [1 << 16, 4096, 1 << 21] {
            assert_eq!(read(&bytes, step), (blocks.clone(), Ok(())), "{step}");
        }
        let (found, end) = read(&bytes[..bytes.len() - 1], 4096);
        assert_eq!((found.as_slice(), end), (&blocks[..4], Err(CarError::CutOff)));
    }

    #[test]
    fn what_is_no_car_is_refused() {
        assert_eq!(read(b"", 1).1, Err(CarError::Header));
        assert_eq!(read(&[b'h'; 200], 7).1, Err(CarError::Header));
        let (_, mut bytes) = file(&[5]);
        bytes.extend([0]);
        assert_eq!(read(&bytes, 64).1, Err(CarError::Section), "zeros at the end");
        let (_, mut bytes) = file(&[5]);
        bytes.extend(framed(&[&[1; 37]]));
        assert_eq!(read(&bytes, 64).1, Err(CarError::Section), "a foreign CID");
        let (_, mut bytes) = file(&[5]);
        bytes.extend(framed(&[&vec![0; (1 << 20) + 37]]));
        assert_eq!(read(&bytes, 1 << 16).1, Err(CarError::TooLarge));
        let (_, mut bytes) = file(&[5]);
        bytes.extend([0xff; 9]);
        assert_eq!(read(&bytes, 64).1, Err(CarError::Section), "an endless length");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (_, mut good) = file(&[5]);
            good.extend(&bytes);
            let _ = read(&good, 3);
            let _ = read(&bytes, 3);
        }
    }
}
