//! Buckets as CAR files: out as a stream in bounded memory, and in without anything half visible
//! (docs/adr/0047).

mod check;
mod export;
mod import;
mod walk;

pub use self::{
    export::BucketCar,
    import::{Import, ImportError, ImportTarget, Imported},
};
