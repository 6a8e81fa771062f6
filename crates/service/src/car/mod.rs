//! Buckets as CAR files: out as a stream in bounded memory, and in without anything half visible; and proofs
//! for readers (docs/adr/0047).

mod blocks;
mod check;
mod complete;
mod export;
mod fault;
mod import;
mod proof;
mod walk;

pub(crate) use self::export::paced;
pub use self::{
    complete::CarCheck,
    export::BucketCar,
    fault::ImportError,
    import::{Import, ImportTarget, Imported},
    proof::ProofOf,
};
