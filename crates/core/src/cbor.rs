//! Strict dag-cbor, written to be spliced.
//!
//! Tree nodes carry records they need not understand: editing one entry copies its neighbours'
//! bytes untouched, and a lookup decodes one record of a node, not all. General CBOR libraries
//! decode whole values, so the few forms we use are read and written here. Both directions are
//! tested against `serde_ipld_dagcbor`; the rules are those of the IPLD dag-cbor specification:
//! definite lengths, shortest heads, one tag (42), no floats of other widths.
//!
//! Maps are written with keys in dag-cbor order (shorter first, then bytewise).

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
