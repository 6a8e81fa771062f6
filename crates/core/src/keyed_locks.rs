//! Locks by key: a fixed number of locks that all keys share.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    ops::Index,
};

/// A fixed number of locks for any number of keys. A key always has the same lock; two keys may
/// share one.
///
/// `L` is the lock together with what it guards for all keys that share it. A task that holds the
/// lock of one key must not wait for the lock of another key: it may be the same lock. Which keys
/// share a lock differs from process to process, so that an attacker cannot choose such keys.
#[derive(Debug)]
pub struct KeyedLocks<L> {
    hasher: RandomState,
    locks: Box<[L]>,
}

impl<L> KeyedLocks<L> {
    /// Makes `count` locks, but at least 1. Locks beyond 65 536 would never be used.
    pub fn new(count: usize) -> Self
    where
        L: Default,
    {
        let locks = (0..count.max(1)).map(|_| L::default()).collect();
        Self { hasher: RandomState::new(), locks }
    }

    /// Returns the lock of a key.
    pub fn of<K: Hash + ?Sized>(&self, key: &K) -> &L {
        &self.locks[self.index_of(key)]
    }

    /// Returns the index of a key's lock. Keys of one index share a lock.
    pub fn index_of<K: Hash + ?Sized>(&self, key: &K) -> usize {
        let [low, high, ..] = self.hasher.hash_one(key).to_le_bytes();
        usize::from(u16::from_le_bytes([low, high])) % self.locks.len()
    }

    /// Returns every lock.
    pub fn all(&self) -> &[L] {
        &self.locks
    }
}

/// Indexes the locks by the result of [`KeyedLocks::index_of`].
impl<L> Index<usize> for KeyedLocks<L> {
    type Output = L;

    fn index(&self, index: usize) -> &L {
        &self.locks[index]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn a_key_has_one_lock_however_it_is_given() {
        let locks: KeyedLocks<Mutex<u32>> = KeyedLocks::new(16);
        *locks.of("a").lock() += 1;
        *locks.of(&"a".to_owned()).lock() += 1;
        assert_eq!(*locks[locks.index_of("a")].lock(), 2);
    }

    #[test]
    fn keys_are_spread_over_all_locks() {
        let locks: KeyedLocks<Mutex<()>> = KeyedLocks::new(4);
        let used: BTreeSet<usize> = (0..1000_u32).map(|key| locks.index_of(&key)).collect();
        assert_eq!(used.len(), locks.all().len());
        assert_eq!(KeyedLocks::<Mutex<()>>::new(0).index_of("a"), 0);
    }
}
