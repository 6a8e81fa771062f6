//! The name of a sealed object: two metadata values, so that a listing shows a file without reading its body.
//!
//! - `fula-n` is for readers of the vault: path, size, times, `ETag`, and a clock. It is padded, so its length
//!   tells little of the length of the path.
//! - `fula-k` is for everyone: which body belongs to the name, and the signature of the device that wrote both.
//!
//! A name is bound to its S3 key, so a server cannot show one file under the name of another. The path decides
//! the S3 key, and both are compared when a name is opened.

mod anchor;
mod listed;

pub use self::{
    anchor::{Anchor, Kept},
    listed::{Name, Opened, Sealed},
};

/// Name of the metadata value for listings.
pub const LISTED: &str = "fula-n";
/// Name of the metadata value for reads.
pub const KEPT: &str = "fula-k";

/// Bytes of the digest by which a name chooses its body.
const DIGEST_BYTES: usize = 16;

#[cfg(test)]
mod tests;
