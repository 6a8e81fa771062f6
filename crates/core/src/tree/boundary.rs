//! Where nodes end: a rule that depends on keys and a salt alone.
//!
//! An item may end its node when a keyed hash of (level, key) is small. The key of the hash is
//! the bucket's secret-by-obscurity salt: whoever chooses object keys cannot choose boundaries
//! without knowing it. A node accepts no boundary before some bytes and [`ITEMS_MIN`] items, which
//! keeps sizes even and the height bounded; how many is a matter of its level. A node that reaches
//! [`super::NODE_BYTES_MAX`] without a boundary ends after the item with the smallest hash in its
//! window: a local minimum, so that neighbouring edits find the same place again.

use std::ops::Range;

use bytes::Bytes;

use super::{
    NODE_BYTES_MAX,
    node::{Item, Node, Piece, at, key_range},
};

/// No boundary is accepted before this many items.
pub const ITEMS_MIN: usize = 4;

/// What ends a node of one level.
struct Rule {
    /// No boundary is accepted before this many bytes of items.
    bytes_min: usize,
    /// Items with a hash below this end their node.
    threshold: u64,
}

/// Records are about 250 bytes: leaves of about 16.
const LEAF: Rule = Rule { bytes_min: 2048, threshold: u64::MAX / 8 };

/// Entries are about 90 bytes: inner nodes of about 23. Every change writes one of each level, so
/// they are smaller than leaves, which are what a listing reads (docs/adr/0017).
const INNER: Rule = Rule { bytes_min: 1024, threshold: u64::MAX / 12 };

fn rule(level: u8) -> &'static Rule {
    if level == 0 { &LEAF } else { &INNER }
}

/// Random bytes that key the boundary hash of one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt(pub [u8; 32]);

impl Salt {
    /// Returns the boundary hash of `key` at `level`.
    // A hasher has 2 KB of state: it is not to be in the frame of all that ask for a few hashes.
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

/// Returns whether an item is late enough in its node to end it: its index there, and the bytes up
/// to its own end.
fn is_late(level: u8, bytes: usize, index: usize) -> bool {
    bytes >= rule(level).bytes_min && index + 1 >= ITEMS_MIN
}

/// Cuts one level's items, given in order, into nodes.
#[derive(Debug)]
pub(super) struct Chunker<'a> {
    salt: &'a Salt,
    level: u8,
    /// What the open items lie in: nodes, and items encoded anew.
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

    /// Adds the next items: those of an old node of this level at `range`.
    pub(super) fn push_run(&mut self, node: &Node, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let source = self.source(node.bytes().clone());
        let first = node.start(0);
        self.open.reserve(range.len());
        for (index, Range { start, end }) in range.clone().zip(node.places(range)) {
            // Late in its node and not at its end: the node was not cut here, nor will this one be.
            let stayed =
                is_late(self.level, usize::from(end) - first, index) && index + 1 < node.len();
            self.push_piece(Piece { source, start, end }, !stayed);
        }
    }

    /// Notes where the next items lie.
    fn source(&mut self, bytes: Bytes) -> u32 {
        // What no open item lies in is done with.
        let done = self.open.first().map_or(self.sources.len(), |piece| piece.source as usize);
        if done > 0 {
            self.sources.drain(..done);
            let done = u32::try_from(done).expect("a node has few items");
            self.open.iter_mut().for_each(|piece| piece.source -= done);
        }
        self.sources.push(bytes);
        u32::try_from(self.sources.len() - 1).expect("a node has few items")
    }

    /// Adds an item; without `may_end`, it is known not to end its node wherever it stands.
    fn push_piece(&mut self, piece: Piece, may_end: bool) {
        let bytes = piece.len();
        // What a split leaves over may still be too much together with a large item.
        while self.open_bytes + bytes > NODE_BYTES_MAX {
            self.split();
        }
        self.open_bytes += bytes;
        // The hash comes last: most items are too early in their node for it to matter.
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

    /// Returns whether the last item pushed ended a node, so that what follows does not depend
    /// on anything before it.
    pub(super) fn is_at_boundary(&self) -> bool {
        self.open.is_empty()
    }

    /// Ends the last node and returns all that were made; what comes next begins anew.
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

    /// Ends the open node after the smallest hash of its window. What is left over has no
    /// boundary in it, or the node would have ended there, and starts the next node; that one
    /// gets its own chance to end at each of the items, which all hash above the threshold.
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
