//! A strict reader and writer of dag-cbor that can copy encoded values.
//!
//! A tree node carries records without decoding them: an edit of one entry copies the bytes of its
//! neighbours, and a lookup decodes one record, not all. Both directions are tested against
//! `serde_ipld_dagcbor`. The rules are those of the IPLD dag-cbor specification: definite lengths,
//! shortest heads, one tag (42), no floats of other widths.
//!
//! Maps are written with keys in dag-cbor order (shorter first, then bytewise).
//!
//! # Example
//!
//! ```
//! use fula_core::cbor::{Invalid, Reader, Writer};
//!
//! let mut out = Writer::default();
//! out.array(2).text("photos").uint(7);
//! let bytes = out.finish();
//!
//! let mut reader = Reader::new(&bytes);
//! reader.tuple(2)?;
//! assert_eq!(reader.text()?, "photos");
//! assert_eq!(reader.uint()?, 7);
//! reader.end()?;
//! # Ok::<(), Invalid>(())
//! ```

mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use self::{
    reader::{Names, Reader},
    writer::Writer,
};
use crate::error::StoreError;

const UNSIGNED: u8 = 0;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const NULL: u8 = 0xf6;
const LINK_TAG: u64 = 42;

/// Bytes that are not the dag-cbor that was expected; the text says which rule they break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub &'static str);

impl Invalid {
    /// The bytes end before the value does.
    pub const CUT_OFF: Self = Self("value is cut off");

    /// Returns the error of the whole block, where `what` names the kind of thing that was read.
    pub fn of(self, what: &'static str) -> StoreError {
        StoreError::Malformed { what, why: self.0 }
    }
}
