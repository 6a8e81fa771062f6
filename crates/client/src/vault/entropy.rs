//! The random number generator of the operating system.

use fula_seal::{Entropy, SealError};

/// Randomness of the operating system.
pub(super) struct System;

impl Entropy for System {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), SealError> {
        getrandom::fill(out).map_err(|_| SealError::NoEntropy)
    }
}
