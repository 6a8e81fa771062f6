//! Encryption of objects at rest (SSE-S3, docs/adr/0053).
//!
//! A master key encrypts the data key of an object, which stands in its record. From the data key follows the
//! key of each body: of the content as a whole, or of each part. Length and digests of a record are those of
//! the content, addresses those of what is stored.

mod chunks;
mod keys;
mod objects;

pub use self::keys::MasterKeys;
pub(crate) use self::{
    chunks::{BodyCipher, length_of},
    keys::{Encryption, ObjectCipher, salt_of},
};
