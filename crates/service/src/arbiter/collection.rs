//! The beginning of a collection of shared blocks (docs/adr/0042).

use fula_core::{block::Epoch, root::TimeMs};

use super::Arbiter;
use crate::error::ServiceError;

/// A collection that may begin to mark: every master has seen its generation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    /// Its generation.
    pub(crate) generation: u64,
    /// Blocks that were put under this generation or later ones stay.
    pub(crate) bound: Epoch,
    /// Readers need the roots that were current at this time or later.
    pub(crate) reads_since: TimeMs,
}

impl Begun {
    /// Begins a collection of a master that shares its arbiter with no other one.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Full`].
    pub(crate) async fn alone(arbiter: &Arbiter) -> Result<Self, ServiceError> {
        let generation = arbiter.raise_generation().await?;
        let mut begun =
            Self { generation, bound: epoch_of(generation), reads_since: arbiter.now().await? };
        begun.keep_own(arbiter);
        Ok(begun)
    }

    /// Keeps what this master needs itself.
    pub(super) fn keep_own(&mut self, arbiter: &Arbiter) {
        let pins = arbiter.pins();
        self.bound = self.bound.min(pins.floor());
        self.reads_since = pins.oldest_read().unwrap_or(TimeMs::MAX).min(self.reads_since);
    }

    /// Keeps what another master needs: what it has put under the generation `floor` and later ones, and the
    /// roots that were current at `reads_since` or later.
    pub(super) fn keep(&mut self, floor: u64, reads_since: TimeMs) {
        self.bound = self.bound.min(epoch_of(floor));
        self.reads_since = self.reads_since.min(reads_since);
    }
}

pub(super) fn epoch_of(generation: u64) -> Epoch {
    Epoch(u32::try_from(generation).unwrap_or(u32::MAX))
}
