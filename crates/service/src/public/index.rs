//! Which objects have a block, in memory and within a bound. It only says where to look: whether an object is
//! public is decided when it is read.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use fula_core::{BucketAddress, Cid};

/// Length of the tag of a block in bytes.
const TAG: usize = 16;

/// Approximate memory of a block of an object in bytes.
const BLOCK_COST: usize = 40;

/// Approximate memory of an object in bytes, without its key and its blocks.
const OBJECT_COST: usize = 200;

/// Largest number of objects that are looked at for one block.
const CANDIDATES_MAX: usize = 8;

/// An object that has a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The bucket.
    pub(super) bucket: Arc<BucketAddress>,
    /// The key.
    pub(super) key: Arc<str>,
    /// Address of the content that has the block.
    pub(super) content: Cid,
}

#[derive(Debug)]
struct Entry {
    candidate: Candidate,
    blocks: usize,
}

impl Entry {
    fn cost(&self) -> usize {
        cost(&self.candidate.key, self.blocks)
    }
}

fn cost(key: &str, blocks: usize) -> usize {
    OBJECT_COST + key.len() + blocks * BLOCK_COST
}

fn tag_of(cid: &Cid) -> [u8; TAG] {
    let mut tag = [0; TAG];
    tag.copy_from_slice(&cid.digest()[..TAG]);
    tag
}

/// Blocks of objects, and objects by bucket and key.
#[derive(Debug)]
pub(super) struct Index {
    bytes_max: usize,
    bytes: usize,
    /// Tag of a block, and the number of an object that has it. Numbers of removed objects stay for a while.
    blocks: BTreeSet<([u8; TAG], u32)>,
    objects: HashMap<u32, Entry>,
    by_key: HashMap<Arc<BucketAddress>, HashMap<Arc<str>, u32>>,
    next: u32,
    /// Number of entries of `blocks` whose object was removed.
    dead: usize,
    /// Number of objects that did not fit.
    left_out: u64,
}

impl Index {
    /// Returns an empty index of at most `bytes_max` bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            blocks: BTreeSet::new(),
            objects: HashMap::new(),
            by_key: HashMap::new(),
            next: 0,
            dead: 0,
            left_out: 0,
        }
    }

    /// Adds the blocks of an object, in place of those that its key had. Returns whether they fit.
    pub(super) fn put(&mut self, candidate: Candidate, blocks: &[Cid]) -> bool {
        self.remove(&candidate.bucket, &candidate.key);
        let cost = cost(&candidate.key, blocks.len());
        if self.bytes + cost > self.bytes_max {
            self.left_out += 1;
            return false;
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let mut count = 0;
        for cid in blocks {
            count += usize::from(self.blocks.insert((tag_of(cid), number)));
        }
        let keys = self.by_key.entry(Arc::clone(&candidate.bucket)).or_default();
        keys.insert(Arc::clone(&candidate.key), number);
        let entry = Entry { candidate, blocks: count };
        self.bytes += entry.cost();
        self.objects.insert(number, entry);
        true
    }

    /// Removes an object.
    pub(super) fn remove(&mut self, bucket: &BucketAddress, key: &str) {
        let Some(keys) = self.by_key.get_mut(bucket) else { return };
        let Some(number) = keys.remove(key) else { return };
        if keys.is_empty() {
            self.by_key.remove(bucket);
        }
        self.forget(number);
        self.tidy();
    }

    /// Removes all objects of a bucket.
    pub(super) fn remove_bucket(&mut self, bucket: &BucketAddress) {
        for number in self.by_key.remove(bucket).into_iter().flat_map(HashMap::into_values) {
            self.forget(number);
        }
        self.tidy();
    }

    fn forget(&mut self, number: u32) {
        if let Some(entry) = self.objects.remove(&number) {
            self.bytes -= entry.cost();
            self.dead += entry.blocks;
        }
    }

    /// Removes dead entries, once they are as many as the others.
    fn tidy(&mut self) {
        if self.dead > 1024 && self.dead * 2 > self.blocks.len() {
            self.blocks.retain(|(_, number)| self.objects.contains_key(number));
            self.dead = 0;
        }
    }

    /// Returns objects that have a block.
    pub(super) fn find(&self, cid: &Cid) -> Vec<Candidate> {
        let tag = tag_of(cid);
        let numbers = self.blocks.range((tag, 0)..=(tag, u32::MAX));
        let found = numbers.filter_map(|(_, number)| self.objects.get(number));
        found.take(CANDIDATES_MAX).map(|entry| entry.candidate.clone()).collect()
    }

    /// Returns the number of objects, and the number of those that did not fit.
    pub(super) fn count(&self) -> (usize, u64) {
        (self.objects.len(), self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use fula_core::{BucketName, Codec, OwnerId};

    use super::*;

    fn cid(n: u32) -> Cid {
        Cid::of(Codec::Raw, &n.to_be_bytes())
    }

    fn bucket(name: &str) -> Arc<BucketAddress> {
        Arc::new(BucketAddress::new(OwnerId([1; 16]), BucketName::parse(name).unwrap()))
    }

    fn object(name: &str, key: &str, content: u32) -> Candidate {
        Candidate { bucket: bucket(name), key: key.into(), content: cid(content) }
    }

    #[test]
    fn a_block_of_two_objects_is_found_while_one_of_them_is_there() {
        let mut index = Index::new(1 << 20);
        assert!(index.put(object("one", "a", 1), &[cid(1), cid(9)]));
        assert!(index.put(object("two", "b", 2), &[cid(2), cid(9)]));
        assert_eq!(index.find(&cid(9)), [object("one", "a", 1), object("two", "b", 2)]);
        index.remove(&bucket("one"), "a");
        assert_eq!(index.find(&cid(9)), [object("two", "b", 2)]);
        assert!(index.find(&cid(1)).is_empty() && index.find(&cid(3)).is_empty());
        // New content of the same key.
        assert!(index.put(object("two", "b", 3), &[cid(3)]));
        assert!(index.find(&cid(9)).is_empty() && index.find(&cid(2)).is_empty());
        assert_eq!(index.find(&cid(3)), [object("two", "b", 3)]);
        index.remove_bucket(&bucket("two"));
        assert_eq!((index.find(&cid(3)).len(), index.count(), index.bytes), (0, (0, 0), 0));
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let mut index = Index::new(100 * cost("key-000", 30));
        let blocks: Vec<Cid> = (0..30).map(cid).collect();
        for round in 0..20 {
            let mut fit = 0;
            for n in 0..200 {
                fit += u32::from(index.put(object("one", &format!("key-{n:03}"), n), &blocks));
            }
            assert_eq!(fit, 100, "round {round}");
            assert!(index.blocks.len() <= 3 * 3000 + 1024, "{}", index.blocks.len());
            index.remove_bucket(&bucket("one"));
        }
        assert_eq!((index.bytes, index.count()), (0, (0, 2000)));
    }
}
