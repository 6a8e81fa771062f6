//! A node of a tree: its block, and the positions of its items.
//!
//! ```text
//! leaf  = [0,     [[key bytes, weight, record], …]]
//! inner = [level, [[last key bytes, link, count, bytes], …]]
//! ```
//! Items stay encoded: an edit copies the bytes of the neighbours, and a lookup slices one record.

use std::{cmp::Ordering, iter, ops::Range};

use bytes::Bytes;

use super::{ITEM_BYTES_MAX, NODE_BYTES_MAX};
use crate::{
    block::Block,
    cbor::{Invalid, Reader, Writer},
    error::StoreError,
    id::{Cid, Codec},
};

/// Highest level. The fan-out is at least four, so 2^64 entries fit below it.
const LEVEL_MAX: u64 = 40;

/// Largest length of the part of a node before its items, in bytes.
const HEAD_BYTES_MAX: usize = 16;

/// Length of the part of a link before the binary CID, in bytes: tag 42, byte string of 37, 0x00.
const LINK_HEAD: usize = 5;

/// The reason why reading a value of an item cannot fail.
const CHECKED: &str = "checked when decoded, or encoded by us";

/// One record of a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Key of the entry.
    pub key: Bytes,
    /// Number of bytes that it adds to the byte sum of the tree.
    pub weight: u64,
    /// The encoded record.
    pub value: Bytes,
}

/// A newly encoded item of a node of any level.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// The whole encoded item.
    encoded: Bytes,
    /// Number of entries at or below it, and sum of their weights.
    totals: (u64, u64),
}

impl Item {
    /// Encodes a leaf item.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] over [`ITEM_BYTES_MAX`].
    pub(super) fn leaf(key: &[u8], weight: u64, value: &[u8]) -> Result<Self, StoreError> {
        let mut out = Writer::with_capacity(key.len() + value.len() + 16);
        out.array(3).bytes(key).uint(weight).raw(value);
        let encoded = out.finish();
        if encoded.len() > ITEM_BYTES_MAX {
            return Err(StoreError::TooLarge { len: encoded.len(), max: ITEM_BYTES_MAX });
        }
        Ok(Self { encoded, totals: (1, weight) })
    }

    /// Encodes an inner item.
    pub(super) fn inner(last: &[u8], child: &Cid, count: u64, bytes: u64) -> Self {
        let mut out = Writer::with_capacity(last.len() + 64);
        out.array(4).bytes(last).link(child).uint(count).uint(bytes);
        Self { encoded: out.finish(), totals: (count, bytes) }
    }

    /// Returns the key of a leaf entry, or the last key below an inner one.
    pub(super) fn key(&self) -> &[u8] {
        &self.encoded[key_range(&self.encoded, 0)]
    }

    /// Returns the same key as an owned value.
    pub(super) fn owned_key(&self) -> Bytes {
        self.encoded.slice(key_range(&self.encoded, 0))
    }

    /// Returns the whole encoded item.
    pub(super) fn into_encoded(self) -> Bytes {
        self.encoded
    }

    /// Returns the totals at or below it: number of entries, and sum of weights.
    pub(super) fn totals(&self) -> (u64, u64) {
        self.totals
    }

    /// Returns the address of the child that an inner item names.
    pub(super) fn child(&self) -> Cid {
        child_after(&self.encoded, key_range(&self.encoded, 0).end)
    }
}

/// Converts a position in a node or an item, which are at most 64 KiB long.
pub(super) fn at(position: usize) -> u16 {
    u16::try_from(position).expect("items are small")
}

/// Returns the position of the key of the item that begins at `start`. The bytes must have been
/// checked by decoding, or encoded by this module.
pub(super) fn key_range(bytes: &[u8], start: usize) -> Range<usize> {
    // One byte of array head precedes the key, which is a head with the length, and the bytes.
    let (begin, len) = match bytes[start + 1] & 31 {
        24 => (start + 3, usize::from(bytes[start + 2])),
        25 => (start + 4, usize::from(u16::from_be_bytes([bytes[start + 2], bytes[start + 3]]))),
        len => (start + 2, usize::from(len)),
    };
    begin..begin + len
}

fn child_after(bytes: &[u8], key_end: usize) -> Cid {
    let at = key_end + LINK_HEAD;
    Cid::from_bytes(&bytes[at..at + Cid::BYTES]).expect(CHECKED)
}

const _: () = assert!(NODE_BYTES_MAX + HEAD_BYTES_MAX <= u16::MAX as usize);

/// An item of a node that is being cut: the index of its source buffer, and the position in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) source: u32,
    pub(super) start: u16,
    pub(super) end: u16,
}

impl Piece {
    /// Returns the length of the encoded item in bytes.
    pub(super) fn len(self) -> usize {
        usize::from(self.end - self.start)
    }
}

/// A decoded node: its block, followed by a table of positions in the same buffer.
///
/// ```text
/// block | start of each item, u16, and where the last one ends | head of each key, u64
/// ```
/// The table is in the byte order of the machine. A *head* is the eight bytes of a key that follow the
/// common prefix of all keys of the node. A search reads the heads, which lie together, instead of
/// the keys. The table is small because there is one for every cached node; all else about an item
/// is read from its encoded form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    bytes: Bytes,
    /// Position in bytes at which the block ends and the table begins.
    end: u16,
    /// Number of items.
    len: u16,
    level: u8,
    /// Length of the common prefix of all keys in bytes.
    prefix: u16,
    /// The first eight bytes of the first key. A copy, because the key itself is seldom in the
    /// processor's caches.
    opening: u64,
}

/// Returns the length in bytes of the table of a node of `len` items.
fn table_len(len: usize) -> usize {
    (len + 1) * size_of::<u16>() + len * size_of::<u64>()
}

impl Node {
    /// Makes a node of the items at `pieces`, of which there is at least one, in order of key.
    pub(super) fn build(level: u8, pieces: &[Piece], sources: &[Bytes]) -> Self {
        let body: usize = pieces.iter().map(|piece| piece.len()).sum();
        let mut out = Writer::with_capacity(HEAD_BYTES_MAX + body + table_len(pieces.len()));
        out.array(2).uint(u64::from(level)).array(pieces.len());
        let begin = at(out.len());
        // Items that are adjacent in a source are copied at once.
        for run in pieces.chunk_by(|a, b| a.source == b.source && a.end == b.start) {
            let (first, end) = (run[0].start, run[run.len() - 1].end);
            let source = &sources[run[0].source as usize];
            out.raw(&source[usize::from(first)..usize::from(end)]);
        }
        let ends = pieces.iter().scan(begin, |end, piece| {
            *end += piece.end - piece.start;
            Some(*end)
        });
        let node = Self::new(out, level, pieces.len(), iter::once(begin).chain(ends));
        debug_assert_eq!(Self::parse(node.to_block().bytes()).as_ref(), Ok(&node));
        node
    }

    /// Returns the block of the node.
    pub(super) fn to_block(&self) -> Block {
        Block::new(Codec::DagCbor, self.bytes.slice(..usize::from(self.end)))
    }

    /// Decodes a node, and checks sizes, order of keys, and that no bytes are left over.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] when a rule is broken.
    pub fn decode(bytes: &Bytes) -> Result<Self, StoreError> {
        Self::parse(bytes).map_err(|invalid| invalid.of("tree node"))
    }

    fn parse(bytes: &Bytes) -> Result<Self, Invalid> {
        if bytes.len() > NODE_BYTES_MAX + HEAD_BYTES_MAX {
            return Err(Invalid("node is too large"));
        }
        let mut reader = Reader::new(bytes);
        reader.tuple(2)?;
        let level = reader.uint()?;
        let len = reader.array()?;
        if level > LEVEL_MAX || len == 0 {
            return Err(Invalid("level too high or no items"));
        }
        let mut starts = Vec::with_capacity(len + 1);
        let mut last: Option<Range<usize>> = None;
        for _ in 0..len {
            let start = reader.position();
            let key = parse_item(&mut reader, level == 0)?;
            if last.is_some_and(|last| bytes[last] >= bytes[key.clone()]) {
                return Err(Invalid("keys do not ascend"));
            }
            last = Some(key);
            starts.push(at(start));
        }
        starts.push(at(reader.position()));
        reader.end()?;
        let level = u8::try_from(level).map_err(|_| Invalid("level too high"))?;
        let mut out = Writer::with_capacity(bytes.len() + table_len(len));
        out.raw(bytes);
        Ok(Self::new(out, level, len, starts.into_iter()))
    }

    /// Appends the table to the block of a node of `len` items.
    fn new(mut out: Writer, level: u8, len: usize, starts: impl Iterator<Item = u16>) -> Self {
        let end = out.len();
        for start in starts {
            out.raw(&start.to_ne_bytes());
        }
        let key = |bytes: &[u8], index| {
            let start = [bytes[end + 2 * index], bytes[end + 2 * index + 1]];
            key_range(bytes, usize::from(u16::from_ne_bytes(start)))
        };
        let written = out.written();
        let (first, last) = (&written[key(written, 0)], &written[key(written, len - 1)]);
        let prefix = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        let opening = head(first);
        for index in 0..len {
            let written = out.written();
            // After an edit of a forged tree whose neighbours overlap, keys may be out of order.
            let head = head(written[key(written, index)].get(prefix..).unwrap_or_default());
            out.raw(&head.to_ne_bytes());
        }
        let (end, len, prefix) = (at(end), at(len), at(prefix));
        Self { bytes: out.finish(), end, len, level, prefix, opening }
    }

    /// Returns the height above the leaves; 0 for a leaf.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Returns the number of items, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a node is never empty")]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Returns the position in the block at which the item at `index` begins. One past the last item it
    /// returns the position at which that ends.
    pub(super) fn start(&self, index: usize) -> usize {
        usize::from(u16::from_ne_bytes(self.starts()[index]))
    }

    fn starts(&self) -> &[[u8; 2]] {
        let begin = usize::from(self.end);
        self.bytes[begin..begin + 2 * (self.len() + 1)].as_chunks().0
    }

    fn heads(&self) -> &[[u8; 8]] {
        let begin = usize::from(self.end) + 2 * (self.len() + 1);
        self.bytes[begin..].as_chunks().0
    }

    /// Returns the approximate size of the decoded node in memory, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.len() + 128
    }

    /// Returns the position of the key of one item.
    fn key_range(&self, index: usize) -> Range<usize> {
        key_range(&self.bytes, self.start(index))
    }

    /// Returns the key of a leaf entry, or the last key below an inner one.
    pub fn key(&self, index: usize) -> &[u8] {
        &self.bytes[self.key_range(index)]
    }

    /// Returns the last key at or below this node.
    pub fn last_key(&self) -> &[u8] {
        self.key(self.len() - 1)
    }

    /// Returns the same key as an owned value.
    pub(super) fn owned_last_key(&self) -> Bytes {
        self.bytes.slice(self.key_range(self.len() - 1))
    }

    /// Returns the index of `key`, or of the first item after it.
    ///
    /// # Errors
    /// The insertion index when no item has exactly this key.
    pub fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let wanted = match self.compare_prefix(key) {
            Ordering::Less => return Err(0),
            Ordering::Equal => head(&key[usize::from(self.prefix)..]),
            Ordering::Greater => return Err(self.len()),
        };
        let heads = self.heads();
        let begin = heads.partition_point(|head| u64::from_ne_bytes(*head) < wanted);
        let same = heads[begin..].partition_point(|head| u64::from_ne_bytes(*head) == wanted);
        let same = &self.starts()[begin..begin + same];
        let found = same.binary_search_by(|start| {
            let start = usize::from(u16::from_ne_bytes(*start));
            self.bytes[key_range(&self.bytes, start)].cmp(key)
        });
        found.map(|index| begin + index).map_err(|index| begin + index)
    }

    /// Compares a key with the common prefix of all keys. They are equal if the key starts with it.
    fn compare_prefix(&self, key: &[u8]) -> Ordering {
        let prefix = usize::from(self.prefix);
        let opens = prefix.min(size_of::<u64>());
        let unlike = u64::BITS as usize - 8 * opens;
        let opening = |head: u64| u32::try_from(unlike).ok().and_then(|n| head.checked_shr(n));
        match opening(head(key)).cmp(&opening(self.opening)) {
            // A shorter key was compared as if zero bytes followed it.
            Ordering::Equal if prefix > opens || key.len() < opens => {
                let prefix = &self.key(0)[..prefix];
                if key.starts_with(prefix) { Ordering::Equal } else { key.cmp(prefix) }
            }
            order => order,
        }
    }

    /// Returns one entry of a leaf.
    pub fn entry(&self, index: usize) -> Entry {
        let key = self.key_range(index);
        let mut reader = Reader::at(&self.bytes, key.end);
        let weight = reader.uint().expect(CHECKED);
        let value = self.bytes.slice(reader.position()..self.start(index + 1));
        Entry { key: self.bytes.slice(key), weight, value }
    }

    /// Returns the address of one child of an inner node.
    pub fn child(&self, index: usize) -> Cid {
        child_after(&self.bytes, self.key_range(index).end)
    }

    /// Returns the totals at or below one item: number of entries, and sum of weights.
    pub fn totals(&self, index: usize) -> (u64, u64) {
        let key_end = self.key_range(index).end;
        if self.level == 0 {
            return (1, Reader::at(&self.bytes, key_end).uint().expect(CHECKED));
        }
        let mut reader = Reader::at(&self.bytes, key_end + LINK_HEAD + Cid::BYTES);
        (reader.uint().expect(CHECKED), reader.uint().expect(CHECKED))
    }

    /// Returns the totals of the whole node: number of entries, and sum of weights.
    pub fn sum(&self) -> (u64, u64) {
        (0..self.len()).map(|index| self.totals(index)).fold((0, 0), |(count, bytes), item| {
            (count.saturating_add(item.0), bytes.saturating_add(item.1))
        })
    }

    /// Returns the buffer that the items lie in.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns the positions of the items of `range`, in order.
    pub(super) fn places(&self, range: Range<usize>) -> impl Iterator<Item = Range<u16>> {
        let starts = &self.starts()[range.start..=range.end];
        let place = |pair: &[[u8; 2]; 2]| u16::from_ne_bytes(pair[0])..u16::from_ne_bytes(pair[1]);
        starts.array_windows().map(place)
    }
}

/// Returns the first eight bytes as a number, with zeroes after the end of a shorter slice. The numbers
/// of two slices compare as the slices do, or are equal.
fn head(bytes: &[u8]) -> u64 {
    if let Some(first) = bytes.first_chunk() {
        return u64::from_be_bytes(*first);
    }
    let mut head = [0; 8];
    head[..bytes.len()].copy_from_slice(bytes);
    u64::from_be_bytes(head)
}

/// Checks one item, and returns the position of its key.
fn parse_item(reader: &mut Reader<'_>, leaf: bool) -> Result<Range<usize>, Invalid> {
    let start = reader.position();
    reader.tuple(if leaf { 3 } else { 4 })?;
    let len = reader.byte_slice()?.len();
    let key = reader.position() - len..reader.position();
    if leaf {
        reader.uint()?;
        reader.value()?;
    } else {
        reader.link()?;
        reader.uint()?;
        reader.uint()?;
    }
    if reader.position() - start > ITEM_BYTES_MAX {
        return Err(Invalid("item is too large"));
    }
    Ok(key)
}
