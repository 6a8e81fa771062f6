//! The rule for where nodes end. It depends only on keys and a salt.
//!
//! An item may end its node when a keyed hash of (level, key) is small. The hash is keyed with the
//! salt of the bucket, so a client that does not know the salt cannot choose object keys that force
//! boundaries. A node accepts no boundary before it has [`ITEMS_MIN`] items and a number of bytes
//! that depends on its level; this keeps sizes even and bounds the height. A node that reaches
//! [`super::NODE_BYTES_MAX`] without a boundary ends after the item with the smallest hash in its
//! window. That is a local minimum, so neighbouring edits find the same place again.

use std::ops::Range;

use bytes::Bytes;

use super::{
    NODE_BYTES_MAX,
    node::{Item, Node, Piece, at, key_range},
};

/// Fewest items of a node that ends at a boundary.
pub const ITEMS_MIN: usize = 4;

/// The boundary rule of one level.
struct Rule {
    /// Fewest bytes of items in a node that ends at a boundary.
    bytes_min: usize,
    /// An item whose hash is below this may end its node.
    threshold: u64,
}

/// Rule of leaves. A record has about 250 bytes, so a leaf has about 16 of them.
const LEAF: Rule = Rule { bytes_min: 2048, threshold: u64::MAX / 8 };

/// Rule of inner nodes. An entry has about 90 bytes, so a node has about 23 of them. Inner nodes are
/// smaller than leaves because every change writes one on each level, while listings read mostly
/// leaves (docs/adr/0017).
const INNER: Rule = Rule { bytes_min: 1024, threshold: u64::MAX / 12 };

fn rule(level: u8) -> &'static Rule {
    if level == 0 { &LEAF } else { &INNER }
}

/// The random key of the boundary hash of one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt(pub [u8; 32]);

impl Salt {
    /// Returns the boundary hash of `key` at `level`.
    // A hasher has 2 KB of state, which inlining would put into the stack frame of every caller.
    #[inline(never)]
    pub fn hash(&self, level: u8, key: &[u8]) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&[level]).update(key);
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        u64::from_be_bytes(first)
    }

    /// Returns whether a node may end after `key`.
    pub(super) fn ends(&self, level: u8, key: &[u8]) -> bool {
        self.hash(level, key) < rule(level).threshold
    }
}

/// Returns whether an item is late enough in its node to end it. `index` is its place in the node,
/// `bytes` the length of the node up to the end of the item.
fn is_late(level: u8, bytes: usize, index: usize) -> bool {
    bytes >= rule(level).bytes_min && index + 1 >= ITEMS_MIN
}

/// Cuts the items of one level, given in order, into nodes.
#[derive(Debug)]
pub(super) struct Chunker<'a> {
    salt: &'a Salt,
    level: u8,
    /// Buffers that the open items lie in: old nodes, and newly encoded items.
    sources: Vec<Bytes>,
    open: Vec<Piece>,
    open_bytes: usize,
    done: Vec<Node>,
}

impl<'a> Chunker<'a> {
    pub(super) fn new(salt: &'a Salt, level: u8) -> Self {
        let (sources, open, done) = (Vec::new(), Vec::new(), Vec::new());
        Self { salt, level, sources, open, open_bytes: 0, done }
    }

    /// Adds the next item.
    pub(super) fn push(&mut self, item: Item) {
        let encoded = item.into_encoded();
        let end = at(encoded.len());
        let source = self.source(encoded);
        self.push_piece(Piece { source, start: 0, end }, true);
    }

    /// Adds the items at `range` of an old node of this level.
    pub(super) fn push_run(&mut self, node: &Node, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let source = self.source(node.bytes().clone());
        let first = node.start(0);
        self.open.reserve(range.len());
        for (index, Range { start, end }) in range.clone().zip(node.places(range)) {
            // The old node did not end after this item although it is late in it, so neither
            // will the new node.
            let stayed =
                is_late(self.level, usize::from(end) - first, index) && index + 1 < node.len();
            self.push_piece(Piece { source, start, end }, !stayed);
        }
    }

    /// Adds a buffer that the next items lie in, and returns its index.
    fn source(&mut self, bytes: Bytes) -> u32 {
        // Buffers that no open item lies in are dropped.
        let done = self.open.first().map_or(self.sources.len(), |piece| piece.source as usize);
        if done > 0 {
            self.sources.drain(..done);
            let done = u32::try_from(done).expect("a node has few items");
            self.open.iter_mut().for_each(|piece| piece.source -= done);
        }
        self.sources.push(bytes);
        u32::try_from(self.sources.len() - 1).expect("a node has few items")
    }

    /// Adds an item. Without `may_end` it is known that the item does not end its node.
    fn push_piece(&mut self, piece: Piece, may_end: bool) {
        let bytes = piece.len();
        // The rest after a split may still be too long together with a large item.
        while self.open_bytes + bytes > NODE_BYTES_MAX {
            self.split();
        }
        self.open_bytes += bytes;
        // The hash is computed last: most items are too early in their node for it to matter.
        let ends = may_end
            && is_late(self.level, self.open_bytes, self.open.len())
            && self.salt.ends(self.level, self.key(piece));
        self.open.push(piece);
        if ends {
            self.close(self.open.len());
        }
    }

    fn key(&self, piece: Piece) -> &[u8] {
        let source = &self.sources[piece.source as usize];
        &source[key_range(source, usize::from(piece.start))]
    }

    /// Returns whether the last item pushed ended a node. If so, the next nodes do not depend on anything
    /// before them.
    pub(super) fn is_at_boundary(&self) -> bool {
        self.open.is_empty()
    }

    /// Ends the last node, and returns all nodes made so far. The next item starts a new sequence.
    pub(super) fn finish(&mut self) -> Vec<Node> {
        if !self.open.is_empty() {
            self.close(self.open.len());
        }
        std::mem::take(&mut self.done)
    }

    fn close(&mut self, len: usize) {
        self.done.push(Node::build(self.level, &self.open[..len], &self.sources));
        self.open.drain(..len);
        self.open_bytes = self.open.iter().map(|piece| piece.len()).sum();
    }

    /// Ends the open node after the item with the smallest hash of its window. The items after it start
    /// the next node. None of them has a hash below the threshold, or the node would have ended there.
    fn split(&mut self) {
        let mut bytes = 0;
        let mut best = (u64::MAX, self.open.len());
        for (index, piece) in self.open.iter().enumerate() {
            bytes += piece.len();
            if is_late(self.level, bytes, index) {
                best = best.min((self.salt.hash(self.level, self.key(*piece)), index + 1));
            }
        }
        self.close(best.1);
    }
}
