//! Strict dag-cbor, written to be spliced.
//!
//! Tree nodes carry records they need not understand: editing one entry copies its neighbours'
//! bytes untouched, and a lookup decodes one record of a node, not all. General CBOR libraries
//! decode whole values, so the few forms we use are read and written here. Both directions are
//! tested against `serde_ipld_dagcbor`; the rules are those of the IPLD dag-cbor specification:
//! definite lengths, shortest heads, one tag (42), no floats of other widths.
//!
//! Maps are written with keys in dag-cbor order (shorter first, then bytewise).

use std::ops::Range;

use bytes::Bytes;

use crate::{error::StoreError, id::Cid};

/// Deepest nesting that [`Reader::raw`] follows.
const DEPTH_MAX: usize = 16;

/// Most levels of a block around a value that is read by itself: a node, its items, and an item.
const ENCLOSING_MAX: usize = 3;

const UNSIGNED: u8 = 0;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const NULL: u8 = 0xf6;
const LINK_TAG: u64 = 42;

/// Bytes that are not the dag-cbor they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub &'static str);

impl Invalid {
    /// Names what was being read, for the error of a whole block.
    pub fn of(self, what: &'static str) -> StoreError {
        StoreError::Malformed { what, why: self.0 }
    }
}

/// Appends dag-cbor values to a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// Returns an empty buffer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { out: Vec::with_capacity(capacity) }
    }

    /// Returns what was written.
    pub fn finish(self) -> Bytes {
        self.out.into()
    }

    /// Returns what was written so far.
    pub fn written(&self) -> &[u8] {
        &self.out
    }

    /// Returns the number of bytes written so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Returns whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    fn head(&mut self, major: u8, value: u64) {
        let major = major << 5;
        match value {
            0..=23 => self.out.push(major | u8::try_from(value).unwrap_or(0)),
            24..=0xff => self.out.extend([major | 24, u8::try_from(value).unwrap_or(0)]),
            0x100..=0xffff => {
                self.out.push(major | 25);
                self.out.extend(&value.to_be_bytes()[6..]);
            }
            0x1_0000..=0xffff_ffff => {
                self.out.push(major | 26);
                self.out.extend(&value.to_be_bytes()[4..]);
            }
            _ => {
                self.out.push(major | 27);
                self.out.extend(value.to_be_bytes());
            }
        }
    }

    /// Writes an unsigned integer.
    pub fn uint(&mut self, value: u64) -> &mut Self {
        self.head(UNSIGNED, value);
        self
    }

    /// Writes a byte string.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.head(BYTES, value.len() as u64);
        self.out.extend(value);
        self
    }

    /// Writes a text string.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.head(TEXT, value.len() as u64);
        self.out.extend(value.as_bytes());
        self
    }

    /// Starts an array of exactly `len` values.
    pub fn array(&mut self, len: usize) -> &mut Self {
        self.head(ARRAY, len as u64);
        self
    }

    /// Starts a map of exactly `len` pairs; the caller writes keys in dag-cbor order.
    pub fn map(&mut self, len: usize) -> &mut Self {
        self.head(MAP, len as u64);
        self
    }

    /// Writes null.
    pub fn null(&mut self) -> &mut Self {
        self.out.push(NULL);
        self
    }

    /// Writes a link: tag 42 over a byte string of 0x00 and the binary CID.
    pub fn link(&mut self, cid: &Cid) -> &mut Self {
        self.head(TAG, LINK_TAG);
        self.head(BYTES, Cid::BYTES as u64 + 1);
        self.out.push(0);
        self.out.extend(cid.to_bytes());
        self
    }

    /// Writes a link, or null for `None`.
    pub fn link_or_null(&mut self, cid: Option<&Cid>) -> &mut Self {
        match cid {
            Some(cid) => self.link(cid),
            None => self.null(),
        }
    }

    /// Appends bytes as they are: values that are encoded already.
    pub fn raw(&mut self, encoded: &[u8]) -> &mut Self {
        self.out.extend(encoded);
        self
    }
}

/// The names in a map, which dag-cbor has in one order: shorter ones first, and each once.
#[derive(Debug)]
pub struct Names<'a> {
    count: usize,
    last: Option<&'a str>,
}

impl<'a> Names<'a> {
    /// Returns how many there are in all.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Reads the next one.
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
    /// Starts at the first byte.
    pub fn new(all: &'a Bytes) -> Self {
        Self { all, at: 0 }
    }

    /// Starts at an offset.
    pub fn at(all: &'a Bytes, at: usize) -> Self {
        Self { all, at: at.min(all.len()) }
    }

    /// Accepts the end of the buffer, and nothing else.
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
            return Err(Invalid("value is cut off"));
        }
        let start = self.at;
        self.at += usize::try_from(len).map_err(|_| Invalid("value is cut off"))?;
        Ok(start..self.at)
    }

    fn head(&mut self) -> Result<(u8, u64), Invalid> {
        let first = *self.all.get(self.at).ok_or(Invalid("value is cut off"))?;
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
        let next = self.all[self.at..].first_chunk().ok_or(Invalid("value is cut off"))?;
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

    /// Reads a byte string where it lies.
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

    /// Reads a byte string if one is next.
    ///
    /// # Errors
    /// [`Invalid`] for one that is cut off.
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

    /// Reads the head of an array and returns its length, which the bytes left bound.
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

    /// Reads the head of a map whose names are read with the value returned.
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
            Some(bytes) if bytes <= left => {
                usize::try_from(len).map_err(|_| Invalid("value is cut off"))
            }
            _ => Err(Invalid("value is cut off")),
        }
    }

    /// Consumes a null if one is next, and says whether it did.
    pub fn null(&mut self) -> bool {
        let next = self.all.get(self.at) == Some(&NULL);
        self.at += usize::from(next);
        next
    }

    /// Reads a link.
    ///
    /// # Errors
    /// [`Invalid`] for anything else, foreign CIDs included.
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

    /// Steps over one value of any kind and returns its bytes.
    ///
    /// # Errors
    /// [`Invalid`] for bytes that are no value, and for one nested too deep.
    pub fn raw(&mut self) -> Result<Bytes, Invalid> {
        let start = self.at;
        self.value()?;
        Ok(self.all.slice(start..self.at))
    }

    /// Steps over one value of any kind.
    ///
    /// # Errors
    /// [`Invalid`] for bytes that are no value, and for one nested too deep.
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
            // Else a value could be read in which a collector cannot follow the links.
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

#[cfg(test)]
mod tests {
    use ipld_core::ipld::Ipld;
    use proptest::prelude::*;

    use super::*;
    use crate::id::Codec;

    fn write(value: &Ipld, out: &mut Writer) {
        match value {
            Ipld::Null => drop(out.null()),
            Ipld::Integer(n) => drop(out.uint(u64::try_from(*n).unwrap())),
            Ipld::Bytes(bytes) => drop(out.bytes(bytes)),
            Ipld::String(text) => drop(out.text(text)),
            Ipld::List(list) => {
                out.array(list.len());
                for item in list {
                    write(item, out);
                }
            }
            Ipld::Map(map) => {
                out.map(map.len());
                let mut pairs: Vec<_> = map.iter().collect();
                pairs.sort_by_key(|(key, _)| (key.len(), (*key).clone()));
                for (key, item) in pairs {
                    out.text(key);
                    write(item, out);
                }
            }
            Ipld::Link(cid) => drop(out.link(&Cid::from_bytes(&cid.to_bytes()).unwrap())),
            other => panic!("not used: {other:?}"),
        }
    }

    fn values() -> impl Strategy<Value = Ipld> {
        let leaf = prop_oneof![
            Just(Ipld::Null),
            any::<u64>().prop_map(|n| Ipld::Integer(i128::from(n))),
            (0_u64..300).prop_map(|n| Ipld::Integer(i128::from(n))),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(Ipld::Bytes),
            ".{0,30}".prop_map(Ipld::String),
            any::<u8>().prop_map(|seed| {
                let cid = Cid::of(Codec::DagCbor, &[seed]).to_bytes();
                Ipld::Link(cid::Cid::try_from(cid.as_slice()).unwrap())
            }),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Ipld::List),
                prop::collection::btree_map(".{0,6}", inner, 0..6).prop_map(Ipld::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn writes_what_the_reference_writes(value in values()) {
            let mut out = Writer::default();
            write(&value, &mut out);
            let ours = out.finish();
            let reference = serde_ipld_dagcbor::to_vec(&value).unwrap();
            prop_assert_eq!(&ours[..], &reference[..]);
            let mut reader = Reader::new(&ours);
            prop_assert_eq!(reader.raw().unwrap(), ours.clone());
            reader.end().unwrap();
            let mut links = Vec::new();
            Reader::links(&ours, &mut |cid| links.push(cid.to_string())).unwrap();
            let mut expected = Vec::new();
            value.references(&mut expected);
            let mut expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
            links.sort();
            expected.sort();
            prop_assert_eq!(links, expected);
        }

        #[test]
        fn accepts_nothing_the_reference_refuses(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let bytes = Bytes::from(bytes);
            let ours = Reader::links(&bytes, &mut |_| {});
            if ours.is_ok() {
                // Order and repetition of map keys are the reader's only leniency.
                let reference = serde_ipld_dagcbor::from_slice::<Ipld>(&bytes);
                let has_map = bytes.iter().any(|byte| byte >> 5 == MAP);
                prop_assert!(reference.is_ok() || has_map, "{:?}: {:?}", bytes, reference);
            }
        }
    }

    #[test]
    fn a_value_that_is_stepped_over_has_links_that_can_be_followed() {
        let mut out = Writer::default();
        out.array(1).link(&Cid::of(Codec::Raw, b"x"));
        let good = out.finish();
        for at in [4, 5, 6] {
            let mut bytes = good.to_vec();
            bytes[at] ^= 1;
            let bytes = Bytes::from(bytes);
            assert!(Reader::new(&good).value().is_ok() && Reader::new(&bytes).value().is_err());
            assert!(Reader::links(&bytes, &mut |_| {}).is_err());
        }
    }

    #[test]
    fn links_are_found_in_values_of_any_depth_that_is_read() {
        let mut out = Writer::default();
        for _ in 0..ENCLOSING_MAX + DEPTH_MAX - 1 {
            out.array(1);
        }
        out.link(&Cid::of(Codec::Raw, b"x"));
        let bytes = out.finish();
        assert!(Reader::at(&bytes, ENCLOSING_MAX).value().is_ok());
        assert!(Reader::at(&bytes, ENCLOSING_MAX - 1).value().is_err());
        let mut found = 0;
        Reader::links(&bytes, &mut |_| found += 1).unwrap();
        assert_eq!(found, 1);
    }

    #[test]
    fn lengths_are_believed_only_when_the_bytes_are_there() {
        let huge = Bytes::from_static(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert!(Reader::new(&huge).array().is_err());
        let deep = Bytes::from(vec![0x81; 10_000]);
        assert!(Reader::new(&deep).raw().is_err());
        let long_zero = Bytes::from_static(&[0x18, 0x00]);
        assert!(Reader::new(&long_zero).uint().is_err());
    }
}
