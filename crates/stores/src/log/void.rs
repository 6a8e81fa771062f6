//! Makes unneeded rows void: a record states the place before which rows are void, and the rows that stay
//! are appended again behind it (docs/adr/0035).

use std::{collections::BTreeSet, io};

use super::{Key, Kind, Log, LogPlace, Need, Record, Slot, StreamName};

/// Number of rows that are handled while the index is locked, because others wait for it.
const ROWS_AT_ONCE: usize = 1024;

impl Log {
    /// Makes the root pointers of `void` void that lie before a place of the commit stream. It appends the
    /// other root pointers before that place again, then a record with `floor`, and removes those of `void`
    /// from the index. All that is durable on return. Returns the keys that are void now. A row that
    /// compaction has moved behind the place, or that was replaced, is not among them. Blocks the thread.
    ///
    /// On an error no row is void, unless the log cannot be written any more.
    pub(crate) fn void_roots(
        &self,
        before: LogPlace,
        mut void: BTreeSet<Vec<u8>>,
        floor: &[u8],
    ) -> io::Result<BTreeSet<Vec<u8>>> {
        // Until they are removed from the index, compaction would move them behind the place.
        let _no_compaction = self.compacting.lock();
        void.retain(|key| {
            let slot = self.index().row(Kind::Root, key);
            slot.is_none_or(|slot| slot.place() < before)
        });
        self.append_roots_again(before, &void)?;
        let record = Record { kind: Kind::Floor, key: &[], value: floor };
        self.append(StreamName::Commit, &[record], Need::Removal)?;
        self.flush(StreamName::Commit)?;
        self.mark(StreamName::Commit);
        let keys: Vec<&Vec<u8>> = void.iter().collect();
        for some in keys.chunks(ROWS_AT_ONCE) {
            let mut index = self.index_mut();
            for key in some {
                // A row that is written in the meantime lies behind the place.
                if index.row(Kind::Root, key).is_some_and(|slot| slot.place() < before) {
                    index.remove(&Key::Row(Kind::Root, (*key).clone()));
                }
            }
        }
        Ok(void)
    }

    /// Appends the root pointers before a place again, except those of `void`. A row that is replaced in
    /// the meantime is not appended.
    fn append_roots_again(&self, before: LogPlace, void: &BTreeSet<Vec<u8>>) -> io::Result<()> {
        let rows: Vec<(Key, Slot)> = {
            let index = self.index();
            let roots = index.rows.range((Kind::Root, Vec::new())..(Kind::Metadata, Vec::new()));
            let old = roots.filter(|((_, key), slot)| slot.place() < before && !void.contains(key));
            old.map(|((kind, key), slot)| (Key::Row(*kind, key.clone()), *slot)).collect()
        };
        for some in rows.chunks(ROWS_AT_ONCE) {
            let bytes = some.iter().map(|(_, slot)| u64::from(slot.bytes())).sum();
            let _granted = self.grant(Need::Removal, bytes)?;
            if !self.copy_to(StreamName::Commit, some, &|| {})? {
                return Err(io::Error::other("a root pointer is damaged; run `fula fsck`"));
            }
        }
        Ok(())
    }

    /// Removes root pointers before a place from the index: they were void when the log was closed.
    pub(crate) fn forget_roots_before(&self, before: LogPlace) {
        let mut index = self.index_mut();
        let roots = index.rows.range((Kind::Root, Vec::new())..(Kind::Metadata, Vec::new()));
        let old = roots.filter(|(_, slot)| slot.place() < before);
        let old: Vec<Key> = old.map(|((kind, key), _)| Key::Row(*kind, key.clone())).collect();
        for key in old {
            index.remove(&key);
        }
    }
}
