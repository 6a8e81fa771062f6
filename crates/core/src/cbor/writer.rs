//! A writer of dag-cbor.

use bytes::Bytes;

use super::{ARRAY, BYTES, LINK_TAG, MAP, NULL, TAG, TEXT, UNSIGNED};
use crate::id::Cid;

/// Appends dag-cbor values to a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// Returns a writer with an empty buffer that has room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { out: Vec::with_capacity(capacity) }
    }

    /// Returns the bytes written.
    pub fn finish(self) -> Bytes {
        self.out.into()
    }

    /// Returns the bytes written so far.
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

    /// Starts a map of exactly `len` pairs. The caller writes the keys in dag-cbor order.
    pub fn map(&mut self, len: usize) -> &mut Self {
        self.head(MAP, len as u64);
        self
    }

    /// Writes a boolean.
    pub fn boolean(&mut self, value: bool) -> &mut Self {
        self.out.push(if value { 0xf5 } else { 0xf4 });
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

    /// Appends values that are encoded already.
    pub fn raw(&mut self, encoded: &[u8]) -> &mut Self {
        self.out.extend(encoded);
        self
    }
}
