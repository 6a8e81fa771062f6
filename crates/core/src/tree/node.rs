//! One node: the block, and where its items lie in it.
//!
//! ```text
//! leaf  = [0,     [[key bytes, weight, record], …]]
//! inner = [level, [[last key bytes, link, count, bytes], …]]
//! ```
//! Items stay encoded: an edit copies its neighbours' bytes, a lookup slices one record.

use bytes::Bytes;

use super::{ITEM_BYTES_MAX, NODE_BYTES_MAX};
use crate::{
    cbor::{Invalid, Reader, Writer},
    error::StoreError,
    id::Cid,
};

/// Highest level: fan-out is at least four, so 2^64 entries fit below it.
const LEVEL_MAX: u64 = 40;

/// Bytes of a link before the binary CID: tag 42, byte string of 37, 0x00.
const LINK_HEAD: usize = 5;

/// One record of a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Bytes,
    /// What it adds to the tree's byte sum.
    pub weight: u64,
    /// The encoded record.
    pub value: Bytes,
}

/// One item of a node of any level, as the chunker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Key of a leaf entry, or last key below an inner one.
    pub(super) key: Bytes,
    /// The whole encoded item.
    pub(super) encoded: Bytes,
    /// Entries at or below it.
    pub(super) count: u64,
    /// Sum of weights at or below it.
    pub(super) bytes: u64,
}

impl Item {
    /// Encodes a leaf item.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] over [`ITEM_BYTES_MAX`].
    pub(super) fn leaf(key: Bytes, weight: u64, value: &[u8]) -> Result<Self, StoreError> {
        let mut out = Writer::with_capacity(key.len() + value.len() + 16);
        out.array(3).bytes(&key).uint(weight).raw(value);
        let encoded = out.finish();
        if encoded.len() > ITEM_BYTES_MAX {
            return Err(StoreError::TooLarge { len: encoded.len(), max: ITEM_BYTES_MAX });
        }
        Ok(Self { key, encoded, count: 1, bytes: weight })
    }

    /// Encodes an inner item.
    pub(super) fn inner(last: Bytes, child: &Cid, count: u64, bytes: u64) -> Self {
        let mut out = Writer::with_capacity(last.len() + 64);
        out.array(4).bytes(&last).link(child).uint(count).uint(bytes);
        Self { key: last, encoded: out.finish(), count, bytes }
    }

    /// Returns the child an inner item names.
    pub(super) fn child(&self) -> Cid {
        let read = || {
            let mut reader = Reader::new(&self.encoded);
            reader.tuple(4)?;
            reader.bytes()?;
            reader.link()
        };
        read().expect("an inner item names a child")
    }
}

/// Where one item lies in the block, and its totals.
#[derive(Clone, Copy, Debug)]
struct Slot {
    start: u32,
    key: u32,
    key_end: u32,
    value: u32,
    end: u32,
    count: u64,
    bytes: u64,
}

/// A decoded node; holds its block's bytes.
#[derive(Clone, Debug)]
pub struct Node {
    bytes: Bytes,
    level: u8,
    slots: Vec<Slot>,
}

impl Node {
    /// Encodes a node of `items`, which are not empty and in order.
    pub(super) fn encode(level: u8, items: &[Item]) -> Bytes {
        let body: usize = items.iter().map(|item| item.encoded.len()).sum();
        let mut out = Writer::with_capacity(body + 8);
        out.array(2).uint(u64::from(level)).array(items.len());
        for item in items {
            out.raw(&item.encoded);
        }
        out.finish()
    }

    /// Decodes a node and checks its shape: sizes, order of keys, nothing left over.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] when a rule is broken.
    pub fn decode(bytes: Bytes) -> Result<Self, StoreError> {
        Self::parse(bytes).map_err(|invalid| invalid.of("tree node"))
    }

    fn parse(bytes: Bytes) -> Result<Self, Invalid> {
        if bytes.len() > NODE_BYTES_MAX + 16 {
            return Err(Invalid("node is too large"));
        }
        let mut reader = Reader::new(&bytes);
        reader.tuple(2)?;
        let level = reader.uint()?;
        let len = reader.array()?;
        if level > LEVEL_MAX || len == 0 {
            return Err(Invalid("level too high or no items"));
        }
        let mut slots: Vec<Slot> = Vec::with_capacity(len);
        for _ in 0..len {
            let slot = parse_item(&mut reader, level == 0)?;
            if let Some(last) = slots.last()
                && bytes[last.key as usize..last.key_end as usize]
                    >= bytes[slot.key as usize..slot.key_end as usize]
            {
                return Err(Invalid("keys do not ascend"));
            }
            slots.push(slot);
        }
        reader.end()?;
        let level = u8::try_from(level).map_err(|_| Invalid("level too high"))?;
        Ok(Self { bytes, level, slots })
    }

    /// Returns 0 for a leaf, and the height above the leaves otherwise.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Returns the number of items, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a node is never empty")]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns about how much memory the decoded node holds, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.len() + self.slots.len() * size_of::<Slot>() + 128
    }

    /// Returns the key of a leaf entry, or the last key below an inner one.
    pub fn key(&self, index: usize) -> &[u8] {
        let slot = &self.slots[index];
        &self.bytes[slot.key as usize..slot.key_end as usize]
    }

    /// Returns the last key at or below this node.
    pub fn last_key(&self) -> &[u8] {
        self.key(self.len() - 1)
    }

    /// Returns the index of `key`, or of the first item after it.
    ///
    /// # Errors
    /// The insertion index when no item has exactly this key.
    pub fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.slots
            .binary_search_by(|slot| self.bytes[slot.key as usize..slot.key_end as usize].cmp(key))
    }

    /// Returns one entry of a leaf.
    pub fn entry(&self, index: usize) -> Entry {
        let slot = &self.slots[index];
        Entry {
            key: self.bytes.slice(slot.key as usize..slot.key_end as usize),
            weight: slot.bytes,
            value: self.bytes.slice(slot.value as usize..slot.end as usize),
        }
    }

    /// Returns the address of one child of an inner node.
    pub fn child(&self, index: usize) -> Cid {
        let at = self.slots[index].key_end as usize + LINK_HEAD;
        Cid::from_bytes(&self.bytes[at..at + Cid::BYTES]).expect("checked when decoded")
    }

    /// Returns the totals at or below one item: entries and bytes.
    pub fn totals(&self, index: usize) -> (u64, u64) {
        (self.slots[index].count, self.slots[index].bytes)
    }

    /// Returns the totals of the whole node.
    pub fn sum(&self) -> (u64, u64) {
        self.slots.iter().fold((0, 0), |(count, bytes), slot| {
            (count.saturating_add(slot.count), bytes.saturating_add(slot.bytes))
        })
    }

    pub(super) fn item(&self, index: usize) -> Item {
        let slot = &self.slots[index];
        Item {
            key: self.bytes.slice(slot.key as usize..slot.key_end as usize),
            encoded: self.bytes.slice(slot.start as usize..slot.end as usize),
            count: slot.count,
            bytes: slot.bytes,
        }
    }
}

fn parse_item(reader: &mut Reader<'_>, leaf: bool) -> Result<Slot, Invalid> {
    let at = |reader: &Reader<'_>| u32::try_from(reader.position()).map_err(|_| Invalid("large"));
    let start = at(reader)?;
    reader.tuple(if leaf { 3 } else { 4 })?;
    let key_len = reader.bytes()?.len();
    let key_end = at(reader)?;
    let key = key_end - u32::try_from(key_len).map_err(|_| Invalid("large"))?;
    let (count, bytes, value);
    if leaf {
        count = 1;
        bytes = reader.uint()?;
        value = at(reader)?;
        reader.raw()?;
    } else {
        reader.link()?;
        value = at(reader)?;
        count = reader.uint()?;
        bytes = reader.uint()?;
    }
    let end = at(reader)?;
    if (end - start) as usize > ITEM_BYTES_MAX {
        return Err(Invalid("item is too large"));
    }
    Ok(Slot { start, key, key_end, value, end, count, bytes })
}
