//! The body of a sealed object: segments, then a trailer, then a footer.
//!
//! A segment is one Cobblestone message under a salt of its own, so segments are sealed and read in any order
//! and in parallel. The trailer lists the segments that count, and has the path and the metadata: a body
//! alone is enough to recover a file. The footer is public; it says which keys open the trailer. Between the two is
//! the proof: hashes of the sealed content, signed by the device that sealed it.
//!
//! Sizes of segments follow from the size of the file ([`segment_bytes`]), and offsets from the list. So a
//! range of a file is one range of its object.

mod checking;
mod ending;
mod footer;
mod layout;
pub(crate) mod metadata;
mod proof;
mod reading;
mod sealing;

pub use self::{
    checking::SegmentCheck,
    ending::{Ending, EndingSigner, Trailer},
    footer::{FOOTER_BYTES, Footer},
    layout::{Layout, SEGMENT_RECORD_BYTES, Segment, segment_bytes},
    metadata::Metadata,
    proof::{ContentHasher, Proof},
    reading::{Opened, RangeReader, open_named, open_whole},
    sealing::{FileSealer, PlannedSegment, SegmentSealer},
};

#[cfg(test)]
mod tests;
