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
    block::Block,
    cbor::{Invalid, Reader, Writer},
    error::StoreError,
    id::{Cid, Codec},
};

/// Highest level: fan-out is at least four, so 2^64 entries fit below it.
const LEVEL_MAX: u64 = 40;

/// Most bytes of a node before its items.
const HEAD_BYTES_MAX: usize = 16;

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

/// One item of a node of any level, encoded anew.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// The whole encoded item.
    encoded: Bytes,
    /// Where things lie in it; for a leaf entry the key, for an inner one the last key below.
    slot: Slot,
    /// Entries and bytes at or below it.
    totals: (u64, u64),
}

impl Item {
    /// Encodes a leaf item.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] over [`ITEM_BYTES_MAX`].
    pub(super) fn leaf(key: &[u8], weight: u64, value: &[u8]) -> Result<Self, StoreError> {
        let mut out = Writer::with_capacity(key.len() + value.len() + 16);
        let key_end = out.array(3).bytes(key).len();
        let value_at = out.uint(weight).len();
        out.raw(value);
        let encoded = out.finish();
        if encoded.len() > ITEM_BYTES_MAX {
            return Err(StoreError::TooLarge { len: encoded.len(), max: ITEM_BYTES_MAX });
        }
        let (start, key) = (0, at(key_end - key.len()));
        let (key_end, value, end) = (at(key_end), at(value_at), at(encoded.len()));
        let slot = Slot { start, key, key_end, value, end };
        Ok(Self { encoded, slot, totals: (1, weight) })
    }

    /// Encodes an inner item.
    pub(super) fn inner(last: &[u8], child: &Cid, count: u64, bytes: u64) -> Self {
        let mut out = Writer::with_capacity(last.len() + 64);
        let key_end = out.array(4).bytes(last).len();
        let value_at = out.link(child).len();
        out.uint(count).uint(bytes);
        let encoded = out.finish();
        let (start, key) = (0, at(key_end - last.len()));
        let (key_end, value, end) = (at(key_end), at(value_at), at(encoded.len()));
        let slot = Slot { start, key, key_end, value, end };
        Self { encoded, slot, totals: (count, bytes) }
    }

    /// Returns the key of a leaf entry, or the last key below an inner one.
    pub(super) fn key(&self) -> &[u8] {
        &self.encoded[self.slot.key as usize..self.slot.key_end as usize]
    }

    /// Returns the same, to keep.
    pub(super) fn owned_key(&self) -> Bytes {
        self.encoded.slice(self.slot.key as usize..self.slot.key_end as usize)
    }

    /// Returns the bytes that it lies in, and where.
    pub(super) fn into_parts(self) -> (Bytes, Slot) {
        (self.encoded, self.slot)
    }

    /// Returns the totals at or below it: entries and bytes.
    pub(super) fn totals(&self) -> (u64, u64) {
        self.totals
    }

    /// Returns the child an inner item names.
    pub(super) fn child(&self) -> Cid {
        child_at(&self.encoded, &self.slot)
    }
}

/// Returns a position in a node or an item, which are small.
fn at(position: usize) -> u16 {
    u16::try_from(position).expect("items are small")
}

fn child_at(bytes: &[u8], slot: &Slot) -> Cid {
    let at = slot.key_end as usize + LINK_HEAD;
    Cid::from_bytes(&bytes[at..at + Cid::BYTES]).expect("checked when decoded, or encoded by us")
}

/// Where one item lies in its bytes. There are as many as entries in memory, so they are small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    start: u16,
    key: u16,
    key_end: u16,
    /// Of a leaf's record, and of an inner item's totals.
    value: u16,
    end: u16,
}

const _: () = assert!(NODE_BYTES_MAX + HEAD_BYTES_MAX <= u16::MAX as usize);

impl Slot {
    /// Returns where the item begins in its bytes.
    pub(super) fn start(&self) -> usize {
        self.start as usize
    }

    /// Returns the length of the encoded item in bytes.
    pub(super) fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Returns the key of the item in the bytes that it lies in.
    pub(super) fn key<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.key as usize..self.key_end as usize]
    }

    /// Returns the totals of the item in the bytes that it lies in: entries and bytes.
    fn totals(&self, bytes: &Bytes, is_leaf: bool) -> (u64, u64) {
        let read = || {
            if is_leaf {
                return Ok((1, Reader::at(bytes, self.key_end as usize).uint()?));
            }
            let mut reader = Reader::at(bytes, self.value as usize);
            Ok((reader.uint()?, reader.uint()?))
        };
        let read: Result<_, Invalid> = read();
        read.expect("checked when decoded, or encoded by us")
    }

    /// Returns the slot of the same item somewhere else.
    fn moved(self, start: u16) -> Self {
        let moved = |position: u16| position - self.start + start;
        Self {
            start,
            key: moved(self.key),
            key_end: moved(self.key_end),
            value: moved(self.value),
            end: moved(self.end),
        }
    }
}

/// An item of a node that is being cut: which of its sources it lies in, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) source: u32,
    pub(super) slot: Slot,
}

/// A decoded node; holds its block's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    bytes: Bytes,
    level: u8,
    slots: Vec<Slot>,
    /// Bytes that all keys begin with.
    prefix: usize,
    /// Of each key, eight bytes after the prefix: a search reads these, not keys all over the node.
    heads: Vec<u64>,
}

impl Node {
    /// Makes a node of the items at `pieces`, which are not empty and in order.
    pub(super) fn build(level: u8, pieces: &[Piece], sources: &[Bytes]) -> Self {
        let body: usize = pieces.iter().map(|piece| piece.slot.len()).sum();
        let mut out = Writer::with_capacity(body + 8);
        out.array(2).uint(u64::from(level)).array(pieces.len());
        let mut slots = Vec::with_capacity(pieces.len());
        // What stood side by side is copied at once.
        for run in pieces.chunk_by(|a, b| a.source == b.source && a.slot.end == b.slot.start) {
            let (first, last) = (run[0], run[run.len() - 1].slot);
            let begin = at(out.len());
            slots.extend(run.iter().map(|p| p.slot.moved(p.slot.start - first.slot.start + begin)));
            let source = &sources[first.source as usize];
            out.raw(&source[first.slot.start as usize..last.end as usize]);
        }
        let node = Self::new(out.finish(), level, slots);
        debug_assert_eq!(Self::parse(node.bytes.clone()).as_ref(), Ok(&node));
        node
    }

    /// Returns the block that the node is.
    pub(super) fn to_block(&self) -> Block {
        Block::new(Codec::DagCbor, self.bytes.clone())
    }

    /// Decodes a node and checks its shape: sizes, order of keys, nothing left over.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] when a rule is broken.
    pub fn decode(bytes: Bytes) -> Result<Self, StoreError> {
        Self::parse(bytes).map_err(|invalid| invalid.of("tree node"))
    }

    fn parse(bytes: Bytes) -> Result<Self, Invalid> {
        if bytes.len() > NODE_BYTES_MAX + HEAD_BYTES_MAX {
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
                && last.key(&bytes) >= slot.key(&bytes)
            {
                return Err(Invalid("keys do not ascend"));
            }
            slots.push(slot);
        }
        reader.end()?;
        let level = u8::try_from(level).map_err(|_| Invalid("level too high"))?;
        Ok(Self::new(bytes, level, slots))
    }

    fn new(bytes: Bytes, level: u8, slots: Vec<Slot>) -> Self {
        let (first, last) = (slots[0].key(&bytes), slots[slots.len() - 1].key(&bytes));
        let prefix = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        let heads = slots.iter().map(|slot| head(&slot.key(&bytes)[prefix..])).collect();
        Self { bytes, level, slots, prefix, heads }
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
        self.bytes.len() + self.slots.len() * (size_of::<Slot>() + 8) + 128
    }

    /// Returns the key of a leaf entry, or the last key below an inner one.
    pub fn key(&self, index: usize) -> &[u8] {
        self.slots[index].key(&self.bytes)
    }

    /// Returns the last key at or below this node.
    pub fn last_key(&self) -> &[u8] {
        self.key(self.len() - 1)
    }

    /// Returns the same, to keep.
    pub(super) fn owned_last_key(&self) -> Bytes {
        let slot = &self.slots[self.len() - 1];
        self.bytes.slice(slot.key as usize..slot.key_end as usize)
    }

    /// Returns the index of `key`, or of the first item after it.
    ///
    /// # Errors
    /// The insertion index when no item has exactly this key.
    pub fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let prefix = &self.key(0)[..self.prefix];
        let Some(rest) = key.strip_prefix(prefix) else {
            return Err(if key < prefix { 0 } else { self.len() });
        };
        let wanted = head(rest);
        let begin = self.heads.partition_point(|head| *head < wanted);
        let same = self.heads[begin..].partition_point(|head| *head == wanted);
        let found =
            self.slots[begin..begin + same].binary_search_by(|slot| slot.key(&self.bytes).cmp(key));
        found.map(|index| begin + index).map_err(|index| begin + index)
    }

    /// Returns one entry of a leaf.
    pub fn entry(&self, index: usize) -> Entry {
        let slot = &self.slots[index];
        Entry {
            key: self.bytes.slice(slot.key as usize..slot.key_end as usize),
            weight: self.totals(index).1,
            value: self.bytes.slice(slot.value as usize..slot.end as usize),
        }
    }

    /// Returns the address of one child of an inner node.
    pub fn child(&self, index: usize) -> Cid {
        child_at(&self.bytes, &self.slots[index])
    }

    /// Returns the totals at or below one item: entries and bytes.
    pub fn totals(&self, index: usize) -> (u64, u64) {
        self.slots[index].totals(&self.bytes, self.level == 0)
    }

    /// Returns the totals of the whole node.
    pub fn sum(&self) -> (u64, u64) {
        (0..self.len()).map(|index| self.totals(index)).fold((0, 0), |(count, bytes), item| {
            (count.saturating_add(item.0), bytes.saturating_add(item.1))
        })
    }

    /// Returns the bytes that the items lie in, and where each does.
    pub(super) fn parts(&self) -> (&Bytes, &[Slot]) {
        (&self.bytes, &self.slots)
    }
}

/// Returns the first eight bytes, zeroes after a shorter end, so that they compare as the whole does or
/// are equal.
fn head(bytes: &[u8]) -> u64 {
    let mut head = [0; 8];
    let len = bytes.len().min(8);
    head[..len].copy_from_slice(&bytes[..len]);
    u64::from_be_bytes(head)
}

fn parse_item(reader: &mut Reader<'_>, leaf: bool) -> Result<Slot, Invalid> {
    let at = |reader: &Reader<'_>| u16::try_from(reader.position()).map_err(|_| Invalid("large"));
    let start = at(reader)?;
    reader.tuple(if leaf { 3 } else { 4 })?;
    let key_len = reader.byte_slice()?.len();
    let key_end = at(reader)?;
    let key = key_end - u16::try_from(key_len).map_err(|_| Invalid("large"))?;
    let value;
    if leaf {
        reader.uint()?;
        value = at(reader)?;
        reader.value()?;
    } else {
        reader.link()?;
        value = at(reader)?;
        reader.uint()?;
        reader.uint()?;
    }
    let end = at(reader)?;
    if (end - start) as usize > ITEM_BYTES_MAX {
        return Err(Invalid("item is too large"));
    }
    Ok(Slot { start, key, key_end, value, end })
}
