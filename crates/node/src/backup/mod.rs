//! Backups in a directory or in a bucket of an object store (docs/adr/0054).
//!
//! ```text
//! fula-backup              what the place is, and whether its files are encrypted
//! backups/ID.json          one backup: written last, so that without it nothing counts
//! data/ID/N.V              volumes: parts of CAR files, and the state of the arbiter
//! ```

mod chain;
mod manifest;
mod place;
mod retention;
mod seal;
mod source;
mod write;

pub(crate) use self::{
    chain::{read_volumes, stream_of},
    manifest::{Bucket, Car, Manifest, StateLine, Volume, fresh_id, time_in},
    place::Place,
    retention::keep_newest,
    source::Source,
    write::{Meter, store},
};
