//! CAR files of version 1 (<https://ipld.io/specs/transport/car/carv1>), read as they arrive and written block
//! by block. The reader holds one section at most.
//!
//! # Example
//!
//! ```
//! use bytes::BytesMut;
//! use fula_core::{
//!     Block, Codec,
//!     car::{CarError, CarReader, header, put_section},
//! };
//!
//! let block = Block::new(Codec::Raw, "hello");
//! let mut file = BytesMut::from(&header(&[block.cid()])[..]);
//! put_section(&mut file, &block.cid(), block.bytes());
//!
//! let mut reader = CarReader::default();
//! reader.push(&file);
//! let (cid, bytes) = reader.next_block()?.expect("the whole file was pushed");
//! assert_eq!(Block::verify(cid, bytes).expect("it is intact"), block);
//! assert_eq!(reader.roots(), Some(&[cid][..]));
//! assert_eq!(reader.next_block()?, None);
//! reader.end()?;
//! # Ok::<(), CarError>(())
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{
    block::BLOCK_BYTES_MAX,
    cbor::{Invalid, Reader, Writer},
    id::Cid,
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
    /// What follows the sections that were read, unless one of them is open.
    buffer: BytesMut,
    /// The section whose end has not arrived yet, with its length. It has a buffer of its own, so that a block takes
    /// no more memory than its bytes.
    open: Option<(usize, BytesMut)>,
    /// Roots that the header names, once it was read.
    roots: Option<Vec<Cid>>,
    /// Offset of the section that was read last, or is being read.
    section_at: u64,
    /// Number of bytes that were read.
    read: u64,
}

impl CarReader {
    /// Adds bytes. Call [`Self::next_block`] until it returns `None` before adding more.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if let Some((len, section)) = &mut self.open {
            let missing = (*len - section.len()).min(bytes.len());
            section.extend_from_slice(&bytes[..missing]);
            rest = &bytes[missing..];
        }
        self.buffer.extend_from_slice(rest);
    }

    /// Returns the next block, whose bytes are not verified; `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`CarError`]. No later call succeeds.
    pub fn next_block(&mut self) -> Result<Option<(Cid, Bytes)>, CarError> {
        if self.roots.is_none() {
            let Some(header) = self.section(HEADER_BYTES_MAX, CarError::Header)? else {
                return Ok(None);
            };
            self.roots = Some(roots_of(&header).map_err(|_| CarError::Header)?);
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

    /// Returns the roots that the header names; `None` before the header was read.
    pub fn roots(&self) -> Option<&[Cid]> {
        self.roots.as_deref()
    }

    /// Returns the offset in bytes of the section that was returned last, or in which a fault was found.
    pub fn offset(&self) -> u64 {
        self.section_at
    }

    /// Checks that the file ends here.
    ///
    /// # Errors
    /// [`CarError::CutOff`] within a section; [`CarError::Header`] for an empty file.
    pub fn end(&self) -> Result<(), CarError> {
        match (self.roots.is_some(), self.open.is_none() && self.buffer.is_empty()) {
            (true, true) => Ok(()),
            (false, true) => Err(CarError::Header),
            _ => Err(CarError::CutOff),
        }
    }

    /// Returns the next part with a length in front, once all of it is there.
    fn section(&mut self, max: usize, too_long: CarError) -> Result<Option<Bytes>, CarError> {
        if let Some((len, section)) = self.open.take_if(|(len, section)| section.len() == *len) {
            self.read += len as u64;
            return Ok(Some(section.freeze()));
        }
        if self.open.is_some() {
            return Ok(None);
        }
        self.section_at = self.read;
        let Some((len, head)) = self.varint()? else { return Ok(None) };
        if len > max {
            return Err(too_long);
        }
        self.buffer.advance(head);
        self.read += head as u64;
        if self.buffer.len() < len {
            let mut section = BytesMut::with_capacity(len);
            section.extend_from_slice(&self.buffer);
            self.buffer.clear();
            self.open = Some((len, section));
            return Ok(None);
        }
        self.read += len as u64;
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

fn roots_of(header: &Bytes) -> Result<Vec<Cid>, Invalid> {
    let mut reader = Reader::new(header);
    if reader.map()? != 2 || reader.text()? != "roots" {
        return Err(Invalid("no roots"));
    }
    let roots = (0..reader.array()?).map(|_| reader.link()).collect::<Result<_, _>>()?;
    if reader.text()? != "version" || reader.uint()? != 1 {
        return Err(Invalid("not version 1"));
    }
    reader.end()?;
    Ok(roots)
}

/// Returns the header of a file with these roots.
pub fn header(roots: &[Cid]) -> Bytes {
    let mut out = Writer::with_capacity(64);
    out.map(2).text("roots").array(roots.len());
    for root in roots {
        out.link(root);
    }
    out.text("version").uint(1);
    let header = out.finish();
    let mut framed = BytesMut::with_capacity(header.len() + VARINT_BYTES_MAX);
    put_varint(&mut framed, header.len());
    framed.put(header);
    framed.freeze()
}

/// Returns the length in bytes of the header at the beginning of a file; `None` if the bytes end within its length.
///
/// # Errors
/// [`CarError::Header`] for a length that no header has.
pub fn header_bytes(begin: &[u8]) -> Result<Option<u64>, CarError> {
    let mut reader = CarReader::default();
    reader.push(&begin[..begin.len().min(VARINT_BYTES_MAX)]);
    match reader.varint().map_err(|_| CarError::Header)? {
        Some((len, _)) if len > HEADER_BYTES_MAX => Err(CarError::Header),
        Some((len, head)) => Ok(Some((head + len) as u64)),
        None => Ok(None),
    }
}

/// Appends the section of a block.
pub fn put_section(out: &mut BytesMut, cid: &Cid, bytes: &[u8]) {
    out.reserve(VARINT_BYTES_MAX + Cid::BYTES + bytes.len());
    begin_section(out, cid, bytes.len());
    out.put_slice(bytes);
}

/// Appends the beginning of the section of a block of `len` bytes: everything before its bytes.
pub fn begin_section(out: &mut BytesMut, cid: &Cid, len: usize) {
    let cid = cid.to_bytes();
    put_varint(out, cid.len() + len);
    out.put_slice(&cid);
}

/// Returns the length in bytes of the section of a block of `len` bytes.
pub fn section_bytes(len: u64) -> u64 {
    let inner = len + Cid::BYTES as u64;
    let bits = u64::BITS - inner.leading_zeros();
    inner + u64::from(bits.div_ceil(7))
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::Codec;

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
        let mut file = BytesMut::from(header(&[blocks[0].0]));
        for (cid, bytes) in &blocks {
            let before = file.len();
            put_section(&mut file, cid, bytes);
            assert_eq!((file.len() - before) as u64, section_bytes(bytes.len() as u64));
        }
        (blocks, file.to_vec())
    }

    /// Returns a section of bytes that are no block.
    fn framed(len: usize) -> Vec<u8> {
        let mut out = BytesMut::new();
        put_varint(&mut out, len);
        out.put_bytes(1, len);
        out.to_vec()
    }

    #[test]
    fn faults_are_located() {
        let (blocks, mut bytes) = file(&[5, 300]);
        let (mut reader, end) = (CarReader::default(), bytes.len() as u64);
        reader.push(&bytes);
        assert_eq!(reader.roots(), None);
        assert!(reader.next_block().unwrap().is_some());
        assert_eq!(reader.roots(), Some(&[blocks[0].0][..]));
        let header_bytes = header(&[blocks[0].0]).len() as u64;
        assert_eq!(super::header_bytes(&bytes), Ok(Some(header_bytes)));
        assert_eq!(super::header_bytes(&[]), Ok(None));
        assert_eq!(super::header_bytes(&[0xff; 4]), Err(CarError::Header));
        assert_eq!(reader.offset(), header_bytes);
        assert!(reader.next_block().unwrap().is_some());
        assert_eq!(reader.offset(), header_bytes + section_bytes(5));
        bytes.extend([0]);
        reader.push(&[0]);
        assert_eq!(reader.next_block(), Err(CarError::Section));
        assert_eq!(reader.offset(), end);
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
    fn a_block_that_comes_in_pieces_keeps_no_other_bytes_in_memory() {
        let (_, bytes) = file(&[300_000, 300_000, 5]);
        let (found, end) = read(&bytes, 200_000);
        assert_eq!(end, Ok(()));
        let capacities: Vec<_> = found
            .into_iter()
            .map(|(_, block)| block.try_into_mut().expect("the only user").capacity())
            .collect();
        assert_eq!(capacities[..2], [300_000, 300_000]);
    }

    #[test]
    fn what_is_no_car_is_refused() {
        assert_eq!(read(b"", 1).1, Err(CarError::Header));
        assert_eq!(read(&[b'h'; 200], 7).1, Err(CarError::Header));
        let (_, mut bytes) = file(&[5]);
        bytes.extend([0]);
        assert_eq!(read(&bytes, 64).1, Err(CarError::Section), "zeros at the end");
        let (_, mut bytes) = file(&[5]);
        bytes.extend(framed(37));
        assert_eq!(read(&bytes, 64).1, Err(CarError::Section), "a foreign CID");
        let (_, mut bytes) = file(&[5]);
        bytes.extend(framed((1 << 20) + 37));
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
