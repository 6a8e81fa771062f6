//! Drops rows of deleted buckets, and keeps the version floor that they leave (docs/adr/0035).

use super::RowSet;
use crate::root::{DeletedRow, DropTerms, TimeMs};

impl RowSet {
    /// Returns whether a row is of a deleted bucket, still as given, and old enough at the time `now`.
    pub fn is_droppable(&self, row: &DeletedRow, terms: &DropTerms, now: TimeMs) -> bool {
        let found = self.get(&row.address).filter(|found| found.pointer == row.pointer);
        let deleted = found.and_then(|found| found.deleted);
        deleted.is_some_and(|deleted| terms.allow(deleted, now))
    }

    /// Removes a row if it [may be dropped](Self::is_droppable). Returns whether it was removed.
    pub fn drop_row(&mut self, row: &DeletedRow, terms: &DropTerms, now: TimeMs) -> bool {
        if !self.is_droppable(row, terms, now) {
            return false;
        }
        self.raise_floor(row.pointer.version);
        self.rows.remove(&row.address);
        self.deleted -= 1;
        if self.global.get(&row.address.name) == Some(&row.address.owner) {
            self.global.remove(&row.address.name);
        }
        true
    }

    /// Returns the version floor: the version of a name without a row begins above it.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Raises the version floor to `version`, unless it is higher already.
    pub fn raise_floor(&mut self, version: u64) {
        self.floor = self.floor.max(version);
    }

    /// Forgets the version floor.
    pub(super) fn forget_floor(&mut self) {
        self.floor = 0;
    }

    /// Returns the number of rows of live buckets, and of deleted ones.
    pub fn counts(&self) -> (usize, usize) {
        (self.rows.len() - self.deleted, self.deleted)
    }
}
