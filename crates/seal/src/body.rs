//! The body of a sealed object: segments, then a trailer, then a footer.
//!
//! A segment is one Cobblestone message under a salt of its own, so segments are sealed and read in any order
//! and in parallel. The trailer lists the segments that count, and has the path and the metadata: a body
//! alone is enough to recover a file. The footer is public; it says which keys open the trailer.
//!
//! Sizes of segments follow from the size of the file ([`segment_bytes`]), and offsets from the list. So a
//! range of a file is one range of its object.

mod ending;
mod footer;
mod layout;
pub(crate) mod metadata;
mod reading;
mod sealing;

pub use self::{
    ending::{Ending, Trailer},
    footer::{FOOTER_BYTES, Footer},
    layout::{Layout, Segment, segment_bytes},
    metadata::Metadata,
    reading::{Opened, RangeReader, open_whole},
    sealing::FileSealer,
};

#[cfg(test)]
mod tests;
