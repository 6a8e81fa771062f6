//! A reader of dag-cbor that refuses everything else that CBOR allows.

use std::ops::Range;

use bytes::Bytes;

use super::{ARRAY, BYTES, Invalid, LINK_TAG, MAP, NULL, TAG, TEXT, UNSIGNED};
use crate::id::Cid;

/// Deepest nesting that [`Reader::raw`] accepts.
pub(super) const DEPTH_MAX: usize = 16;

/// Most levels of a block around a value that is read separately: a node, its items, and an item.
pub(super) const ENCLOSING_MAX: usize = 3;

/// Reads the names of a map. dag-cbor has them in one order: shorter ones first, and each only once.
#[derive(Debug)]
pub struct Names<'a> {
    count: usize,
    last: Option<&'a str>,
}

impl<'a> Names<'a> {
    /// Returns the number of names in the map.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Reads the next name.
    ///
    /// # Errors
    /// [`Invalid`] for anything but text, and for names that are not in order.
    pub fn next(&mut self, reader: &mut Reader<'a>) -> Result<&'a str, Invalid> {
        let name = reader.text()?;
        if self.last.is_some_and(|last| (last.len(), last) >= (name.len(), name)) {
            return Err(Invalid("names in a map do not ascend"));
        }
        self.last = Some(name);
        Ok(name)
    }
}

/// Reads dag-cbor values from a buffer without copying it.
#[derive(Debug)]
pub struct Reader<'a> {
    all: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Returns a reader that starts at the first byte of `all`.
    pub fn new(all: &'a Bytes) -> Self {
        Self { all, at: 0 }
    }

    /// Returns a reader that starts at the offset `at`.
    pub fn at(all: &'a Bytes, at: usize) -> Self {
        Self { all, at: at.min(all.len()) }
    }

    /// Checks that the end of the buffer is reached.
    ///
    /// # Errors
    /// [`Invalid`] when bytes are left over.
    pub fn end(&self) -> Result<(), Invalid> {
        if self.at == self.all.len() { Ok(()) } else { Err(Invalid("trailing bytes")) }
    }

    /// Returns the offset of the next byte.
    pub fn position(&self) -> usize {
        self.at
    }

    fn take(&mut self, len: u64) -> Result<Range<usize>, Invalid> {
        let left = (self.all.len() - self.at) as u64;
        if len > left {
            return Err(Invalid::CUT_OFF);
        }
        let start = self.at;
        self.at += usize::try_from(len).map_err(|_| Invalid::CUT_OFF)?;
        Ok(start..self.at)
    }

    fn head(&mut self) -> Result<(u8, u64), Invalid> {
        let first = *self.all.get(self.at).ok_or(Invalid::CUT_OFF)?;
        self.at += 1;
        let (major, info) = (first >> 5, first & 31);
        let (value, least) = match info {
            0..=23 => return Ok((major, u64::from(info))),
            24 => (u64::from(u8::from_be_bytes(self.next()?)), 24),
            25 => (u64::from(u16::from_be_bytes(self.next()?)), 1 << 8),
            26 => (u64::from(u32::from_be_bytes(self.next()?)), 1 << 16),
            27 => (u64::from_be_bytes(self.next()?), 1 << 32),
            _ => return Err(Invalid("indefinite or reserved length")),
        };
        if value < least {
            return Err(Invalid("number is not in shortest form"));
        }
        Ok((major, value))
    }

    fn next<const N: usize>(&mut self) -> Result<[u8; N], Invalid> {
        let next = self.all[self.at..].first_chunk().ok_or(Invalid::CUT_OFF)?;
        self.at += N;
        Ok(*next)
    }

    fn expect(&mut self, major: u8, what: &'static str) -> Result<u64, Invalid> {
        match self.head()? {
            (found, value) if found == major => Ok(value),
            _ => Err(Invalid(what)),
        }
    }

    /// Reads an unsigned integer.
    ///
    /// # Errors
    /// [`Invalid`] for anything else, as all readers below.
    pub fn uint(&mut self) -> Result<u64, Invalid> {
        self.expect(UNSIGNED, "expected an unsigned integer")
    }

    /// Reads a byte string.
    ///
    /// # Errors
    /// [`Invalid`] for anything else.
    pub fn bytes(&mut self) -> Result<Bytes, Invalid> {
        let range = self.byte_range()?;
        Ok(self.all.slice(range))
    }

    /// Reads a byte string as a slice of the buffer.
    ///
    /// # Errors
    /// [`Invalid`] for anything else.
    pub fn byte_slice(&mut self) -> Result<&'a [u8], Invalid> {
        let range = self.byte_range()?;
        Ok(&self.all[range])
    }

    fn byte_range(&mut self) -> Result<Range<usize>, Invalid> {
        let len = self.expect(BYTES, "expected bytes")?;
        self.take(len)
    }

    /// Reads a byte string if one is next, and returns `None` otherwise.
    ///
    /// # Errors
    /// [`Invalid`] for a byte string that is cut off.
    pub fn maybe_bytes(&mut self) -> Result<Option<Bytes>, Invalid> {
        match self.all.get(self.at) {
            Some(first) if first >> 5 == BYTES => self.bytes().map(Some),
            _ => Ok(None),
        }
    }

    /// Returns whether a link is next.
    pub fn is_link(&self) -> bool {
        self.all.get(self.at).is_some_and(|first| first >> 5 == TAG)
    }

    /// Reads a byte string of exactly `N` bytes.
    ///
    /// # Errors
    /// [`Invalid`] for anything else.
    pub fn array_of<const N: usize>(&mut self) -> Result<[u8; N], Invalid> {
        self.byte_slice()?.try_into().map_err(|_| Invalid("byte string has another length"))
    }

    /// Reads a text string.
    ///
    /// # Errors
    /// [`Invalid`] for anything else.
    pub fn text(&mut self) -> Result<&'a str, Invalid> {
        let len = self.expect(TEXT, "expected text")?;
        let range = self.take(len)?;
        std::str::from_utf8(&self.all[range]).map_err(|_| Invalid("text is not UTF-8"))
    }

    /// Reads the head of an array and returns its length, which is never more than the bytes left.
    ///
    /// # Errors
    /// [`Invalid`] for anything else.
    pub fn array(&mut self) -> Result<usize, Invalid> {
        self.collection(ARRAY, 1, "expected an array")
    }

    /// Reads the head of an array of exactly `len` values.
    ///
    /// # Errors
    /// [`Invalid`] for anything else.
    pub fn tuple(&mut self, len: usize) -> Result<(), Invalid> {
        if self.array()? == len { Ok(()) } else { Err(Invalid("tuple has another length")) }
    }

    /// Reads the head of a map and returns its number of pairs.
    ///
    /// # Errors
    /// [`Invalid`] for anything else.
    pub fn map(&mut self) -> Result<usize, Invalid> {
        self.collection(MAP, 2, "expected a map")
    }

    /// Reads the head of a map, and returns a reader of its names.
    ///
    /// # Errors
    /// [`Invalid`] for anything else.
    pub fn names(&mut self) -> Result<Names<'a>, Invalid> {
        Ok(Names { count: self.map()?, last: None })
    }

    fn collection(&mut self, major: u8, least: u64, what: &'static str) -> Result<usize, Invalid> {
        let len = self.expect(major, what)?;
        let left = (self.all.len() - self.at) as u64;
        match len.checked_mul(least) {
            Some(bytes) if bytes <= left => usize::try_from(len).map_err(|_| Invalid::CUT_OFF),
            _ => Err(Invalid::CUT_OFF),
        }
    }

    /// Consumes a null if one is next, and returns whether it did.
    pub fn null(&mut self) -> bool {
        let next = self.all.get(self.at) == Some(&NULL);
        self.at += usize::from(next);
        next
    }

    /// Reads a boolean.
    ///
    /// # Errors
    /// [`Invalid`] for anything else.
    pub fn boolean(&mut self) -> Result<bool, Invalid> {
        let value = match self.all.get(self.at) {
            Some(0xf4) => false,
            Some(0xf5) => true,
            _ => return Err(Invalid("expected true or false")),
        };
        self.at += 1;
        Ok(value)
    }

    /// Reads a link.
    ///
    /// # Errors
    /// [`Invalid`] for anything else, including CIDs of other kinds.
    pub fn link(&mut self) -> Result<Cid, Invalid> {
        if self.expect(TAG, "expected a link")? != LINK_TAG {
            return Err(Invalid("tag is not 42"));
        }
        self.tagged_cid()
    }

    /// Reads a link after its tag.
    fn tagged_cid(&mut self) -> Result<Cid, Invalid> {
        match self.byte_slice()?.split_first() {
            Some((0, cid)) => Cid::from_bytes(cid).map_err(|_| Invalid("link is a foreign CID")),
            _ => Err(Invalid("link lacks its 0x00 prefix")),
        }
    }

    /// Reads a link or null.
    ///
    /// # Errors
    /// [`Invalid`] for anything else.
    pub fn link_or_null(&mut self) -> Result<Option<Cid>, Invalid> {
        if self.null() { Ok(None) } else { self.link().map(Some) }
    }

    /// Skips one value of any kind and returns its bytes.
    ///
    /// # Errors
    /// [`Invalid`] for bytes that are not a value, and for a value that is nested too deep.
    pub fn raw(&mut self) -> Result<Bytes, Invalid> {
        let start = self.at;
        self.value()?;
        Ok(self.all.slice(start..self.at))
    }

    /// Skips one value of any kind.
    ///
    /// # Errors
    /// [`Invalid`] for bytes that are not a value, and for a value that is nested too deep.
    pub fn value(&mut self) -> Result<(), Invalid> {
        self.skip(DEPTH_MAX)
    }

    fn skip(&mut self, depth: usize) -> Result<(), Invalid> {
        let depth = depth.checked_sub(1).ok_or(Invalid("nested too deep"))?;
        if matches!(self.all.get(self.at), Some(0xf4..=NULL)) {
            self.at += 1;
            return Ok(());
        }
        match self.head()? {
            (UNSIGNED | 1, _) => Ok(()),
            (BYTES, len) => self.take(len).map(drop),
            (TEXT, len) => {
                let range = self.take(len)?;
                std::str::from_utf8(&self.all[range]).map_err(|_| Invalid("text is not UTF-8"))?;
                Ok(())
            }
            (ARRAY, len) => (0..len).try_for_each(|_| self.skip(depth)),
            (MAP, len) => (0..len).try_for_each(|_| {
                self.text()?;
                self.skip(depth)
            }),
            // A value with a malformed link is refused: a collector could not follow it.
            (TAG, LINK_TAG) => self.tagged_cid().map(drop),
            _ => Err(Invalid("not a dag-cbor value we use")),
        }
    }

    /// Calls `visit` for every link in the whole buffer, in order.
    ///
    /// # Errors
    /// [`Invalid`] for bytes that are not one value.
    pub fn links(all: &'a Bytes, visit: &mut dyn FnMut(Cid)) -> Result<(), Invalid> {
        let mut reader = Self::new(all);
        reader.visit_links(ENCLOSING_MAX + DEPTH_MAX, visit)?;
        reader.end()
    }

    fn visit_links(&mut self, depth: usize, visit: &mut dyn FnMut(Cid)) -> Result<(), Invalid> {
        let inner = depth.checked_sub(1).ok_or(Invalid("nested too deep"))?;
        match self.all.get(self.at).map(|first| first >> 5) {
            Some(TAG) => self.link().map(visit),
            Some(ARRAY) => (0..self.array()?).try_for_each(|_| self.visit_links(inner, visit)),
            Some(MAP) => (0..self.map()?).try_for_each(|_| {
                self.text()?;
                self.visit_links(inner, visit)
            }),
            _ => self.skip(depth),
        }
    }
}
