//! Dropping rows of deleted buckets, and the version floor that they leave (docs/adr/0035).

use super::RowSet;
use crate::root::DeletedRow;

impl RowSet {
    /// Returns whether a row is still as given, and of a deleted bucket.
    pub fn is_droppable(&self, row: &DeletedRow) -> bool {
        let found = self.get(&row.address);
        found.is_some_and(|found| found.deleted.is_some() && found.pointer == row.pointer)
    }

    /// Removes a row if it [may be dropped](Self::is_droppable); says whether it was.
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

    /// Returns the version above which names without a row begin.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Raises the version above which names without a row begin, unless it is higher.
    pub fn raise_floor(&mut self, version: u64) {
        self.floor = self.floor.max(version);
    }

    /// Returns how many rows are of buckets that live, and how many of deleted ones.
    pub fn counts(&self) -> (usize, usize) {
        (self.rows.len() - self.deleted, self.deleted)
    }
}
