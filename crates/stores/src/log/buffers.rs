//! Buffers for large values, used again and again.
//!
//! Fresh memory costs a page fault for every 4 KiB of it, and zeroes that are overwritten at once.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Shorter values are left to the allocator.
const LARGE_BYTES: usize = 256 << 10;

/// Most buffers kept while nobody uses them; each holds one block.
const FREE_MAX: usize = 16;

/// The buffers of one log.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    free: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// Returns bytes of `len` that `fill` has overwritten in full, unless it says that it did not.
    pub(super) fn filled<E>(
        self: &Arc<Self>,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<bool, E>,
    ) -> Result<Option<Bytes>, E> {
        if len < LARGE_BYTES {
            let mut bytes = vec![0; len];
            return Ok(fill(&mut bytes)?.then(|| bytes.into()));
        }
        let bytes = self.free().pop().unwrap_or_default();
        let mut lent = Lent { bytes, home: Arc::clone(self) };
        lent.bytes.resize(len, 0);
        Ok(fill(&mut lent.bytes)?.then(|| Bytes::from_owner(lent)))
    }

    fn free(&self) -> parking_lot::MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock()
    }
}

/// A buffer in use, which goes back when nobody refers to it any more.
struct Lent {
    bytes: Vec<u8>,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut free = self.home.free();
        if free.len() < FREE_MAX {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(buffers: &Arc<Buffers>, len: usize, byte: u8) -> Bytes {
        let filled = buffers.filled(len, |bytes| {
            bytes.fill(byte);
            Ok::<_, ()>(true)
        });
        filled.unwrap().unwrap()
    }

    #[test]
    fn a_buffer_is_used_again_only_once_nobody_refers_to_it() {
        let buffers = Arc::new(Buffers::default());
        let first = read(&buffers, LARGE_BYTES, 1);
        let part = first.slice(10..20);
        drop(first);
        let second = read(&buffers, LARGE_BYTES + 5, 2);
        assert!(part.iter().all(|byte| *byte == 1) && second.iter().all(|byte| *byte == 2));
        let address = part.as_ptr().addr() - 10;
        drop(part);
        assert_eq!(read(&buffers, LARGE_BYTES, 3).as_ptr().addr(), address);
        let longer = read(&buffers, LARGE_BYTES + 9, 4);
        assert!(longer.len() == LARGE_BYTES + 9 && longer.iter().all(|byte| *byte == 4));
    }

    #[test]
    fn what_was_not_filled_is_not_returned() {
        let buffers = Arc::new(Buffers::default());
        for len in [10, LARGE_BYTES] {
            assert_eq!(buffers.filled(len, |_| Ok::<_, ()>(false)), Ok(None));
            assert_eq!(buffers.filled(len, |_| Err(7)), Err(7));
        }
        let many: Vec<_> = (0..2 * FREE_MAX).map(|_| read(&buffers, LARGE_BYTES, 1)).collect();
        drop(many);
        assert_eq!(buffers.free().len(), FREE_MAX);
    }
}
