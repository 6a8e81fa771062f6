//! Drops rows of deleted buckets, and keeps the version floor that they leave (docs/adr/0035).

use super::RowSet;
use crate::root::DeletedRow;

impl RowSet {
    /// Returns whether a row is of a deleted bucket and still as given.
    pub fn is_droppable(&self, row: &DeletedRow) -> bool {
        let found = self.get(&row.address);
        found.is_some_and(|found| found.deleted.is_some() && found.pointer == row.pointer)
    }

    /// Removes a row if it [may be dropped](Self::is_droppable). Returns whether it was removed.
    pub fn drop_row(&mut self, row: &DeletedRow) -> bool {
        if !self.is_droppable(row) {
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

    /// Returns the number of rows of live buckets, and of deleted ones.
    pub fn counts(&self) -> (usize, usize) {
        (self.rows.len() - self.deleted, self.deleted)
    }
}
