//! What the tests of this crate share.

use std::collections::HashSet;

use crate::{Entropy, SealError, VaultId, VaultKeys};

/// Entropy from a seed, which records everything that was drawn.
pub(crate) struct Recorded {
    seed: u64,
    pub(crate) drawn: Vec<Vec<u8>>,
}

impl Recorded {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, drawn: Vec::new() }
    }

    /// Checks that nothing was drawn twice.
    pub(crate) fn assert_all_different(&self) {
        assert_eq!(self.drawn.iter().collect::<HashSet<_>>().len(), self.drawn.len());
    }
}

impl Entropy for Recorded {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), SealError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_be_bytes()).update(&(self.drawn.len() as u64).to_be_bytes());
        hasher.finalize_xof().fill(out);
        self.drawn.push(out.to_vec());
        Ok(())
    }
}

/// Returns the keys of a vault.
pub(crate) fn vault(seed: u64) -> VaultKeys {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&seed.to_be_bytes());
    VaultKeys::generate(VaultId(id), &mut Recorded::new(seed)).unwrap()
}
