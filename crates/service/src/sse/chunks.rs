//! Encrypts bodies in chunks, and decrypts ranges of them.
//!
//! The nonce of a chunk is its number and whether it is the last one of the body. So a chunk that was moved,
//! left out or cut off does not decrypt.

use std::{fmt, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use fula_core::{
    BlockStore, Cid, StoreError,
    bucket::Salt,
    content::{
        self, Leaves,
        encrypted::{CHUNK_BYTES, ChunkSpan, STORED_CHUNK_BYTES, TAG_BYTES, stored_len},
    },
};
use futures::{Stream, StreamExt, stream, stream::BoxStream};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::error::ServiceError;

/// The key of one body. Clones share it.
#[derive(Clone)]
pub(crate) struct BodyKey(Arc<LessSafeKey>);

impl fmt::Debug for BodyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyKey(…)")
    }
}

/// What a body that arrives is encrypted with.
#[derive(Clone, Debug)]
pub(crate) struct BodyCipher {
    pub(crate) key: BodyKey,
    pub(crate) salt: Salt,
}

/// A body in the block store.
#[derive(Clone, Debug)]
pub(crate) struct StoredBody {
    /// Address of the encrypted bytes.
    pub(crate) cid: Cid,
    /// Length of the content in bytes.
    pub(crate) size: u64,
    pub(crate) key: BodyKey,
}

/// Returns the cipher of a key that encrypts one thing, or counts its nonces.
pub(super) fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, ServiceError> {
    let key = UnboundKey::new(&AES_256_GCM, key);
    key.map(LessSafeKey::new).map_err(|_| ServiceError::bug("a key of AES-256 has 32 bytes"))
}

/// Returns the error for encrypted content that does not match its record.
pub(super) fn damaged(why: &'static str) -> ServiceError {
    StoreError::Malformed { what: "encrypted content", why }.into()
}

/// Returns the length in the block store of content of `size` bytes.
pub(crate) fn length_of(size: u64, is_encrypted: bool) -> u64 {
    if is_encrypted { stored_len(size) } else { size }
}

fn nonce(chunk: u64, is_last: bool) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[3..11].copy_from_slice(&chunk.to_be_bytes());
    nonce[11] = u8::from(is_last);
    Nonce::assume_unique_for_key(nonce)
}

impl BodyKey {
    pub(super) fn new(key: LessSafeKey) -> Self {
        Self(Arc::new(key))
    }

    /// Encrypts bytes that begin with chunk number `first` of a body, in their place if nobody else has them and
    /// there is room for the tags. All chunks but the last one of a body are full.
    pub(crate) fn encrypt(
        &self,
        first: u64,
        content: Bytes,
        is_end: bool,
    ) -> Result<Bytes, ServiceError> {
        let mut out = content.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&*shared));
        let size = out.len();
        let count = size.div_ceil(CHUNK_BYTES);
        out.resize(size + count * TAG_BYTES, 0);
        // From the end, so that no chunk is moved over one that was not moved yet.
        for (n, number) in (0..count).rev().map(|n| (n, first + n as u64)) {
            let (from, to) = (n * CHUNK_BYTES, n * STORED_CHUNK_BYTES);
            let length = CHUNK_BYTES.min(size - from);
            out.copy_within(from..from + length, to);
            let nonce = nonce(number, is_end && n + 1 == count);
            let chunk = &mut out[to..to + length + TAG_BYTES];
            let (content, tag) = chunk.split_at_mut(length);
            let sealed = self.0.seal_in_place_separate_tag(nonce, Aad::empty(), content);
            let sealed = sealed.map_err(|_| ServiceError::bug("cannot encrypt a chunk"))?;
            tag.copy_from_slice(sealed.as_ref());
        }
        Ok(out.freeze())
    }

    /// Decrypts a chunk in its place.
    fn decrypt(
        &self,
        number: u64,
        is_last: bool,
        mut chunk: BytesMut,
    ) -> Result<Bytes, StoreError> {
        let opened = self.0.open_in_place(nonce(number, is_last), Aad::empty(), &mut chunk);
        let length = opened.map_err(|_| MALFORMED)?.len();
        chunk.truncate(length);
        Ok(chunk.freeze())
    }
}

/// A piece of a body that was read. Nobody else has its bytes, unless a cache or a test does.
enum Piece {
    Own(BytesMut),
    Shared(Bytes),
}

impl Piece {
    fn new(bytes: Bytes) -> Self {
        bytes.try_into_mut().map_or_else(Self::Shared, Self::Own)
    }

    /// Takes the next chunk.
    fn next(&mut self) -> BytesMut {
        match self {
            Self::Own(rest) => rest.split_to(rest.len().min(STORED_CHUNK_BYTES)),
            Self::Shared(rest) => {
                BytesMut::from(&*rest.split_to(rest.len().min(STORED_CHUNK_BYTES)))
            }
        }
    }
}

const MALFORMED: StoreError =
    StoreError::Malformed { what: "encrypted content", why: "a chunk does not decrypt" };

impl StoredBody {
    /// Streams `range` of the content. It never yields bytes that do not decrypt.
    ///
    /// The tag of a chunk proves its bytes, so leaves are read without hashing them. Where a chunk does not
    /// decrypt, the rest is read once more with hashes: the store then finds out what is damaged, and a
    /// fault that has passed is not reported.
    pub(crate) fn read(
        self,
        blocks: Arc<dyn BlockStore>,
        range: &Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, StoreError>> + Send + use<> {
        let ChunkSpan { chunks, within, .. } = ChunkSpan::of(range, self.size);
        let begin = chunks.start;
        let end = range.end;
        let opened = self.open(Arc::clone(&blocks), range, Leaves::Unverified);
        let state = (opened, chunks.start, Leaves::Unverified);
        stream::unfold(state, move |(mut opened, next, mut leaves)| {
            let (body, blocks, within) = (self.clone(), Arc::clone(&blocks), within.clone());
            async move {
                let mut chunk = opened.next().await?;
                if let (Err(StoreError::Malformed { .. }), Leaves::Unverified) = (&chunk, leaves) {
                    leaves = Leaves::Verified;
                    let rest = next * CHUNK_BYTES as u64..end;
                    opened = body.open(blocks, &rest, leaves);
                    chunk = opened.next().await?;
                }
                if chunk.is_err() {
                    opened = stream::empty().boxed();
                }
                let part = chunk.map(|bytes| cut(&bytes, next - begin, &within));
                Some((part, (opened, next + 1, leaves)))
            }
        })
    }

    /// Streams the whole chunks that hold a range of the content.
    fn open(
        &self,
        blocks: Arc<dyn BlockStore>,
        range: &Range<u64>,
        leaves: Leaves,
    ) -> BoxStream<'static, Result<Bytes, StoreError>> {
        let Self { cid, size, key } = self.clone();
        let ChunkSpan { chunks, stored, .. } = ChunkSpan::of(range, size);
        let last = size.div_ceil(CHUNK_BYTES as u64).saturating_sub(1);
        // Blocks hold whole chunks, and the range is one of whole chunks. A piece of another length does not
        // decrypt.
        let mut next = chunks.start;
        let pieces = content::stream_leaves(blocks, cid, stored_len(size), stored, leaves);
        let opened = pieces.flat_map(move |piece| {
            let key = key.clone();
            let (piece, failed) = match piece {
                Ok(piece) => (piece, None),
                Err(error) => (Bytes::new(), Some(Err(error))),
            };
            let first = next;
            next = next.saturating_add(piece.len().div_ceil(STORED_CHUNK_BYTES) as u64);
            let opened = (first..next).scan(Piece::new(piece), move |rest, number| {
                Some(key.decrypt(number, number == last, rest.next()))
            });
            stream::iter(opened.chain(failed))
        });
        opened.boxed()
    }
}

/// Returns the bytes of a chunk that lie within a range. Both count from the first chunk of the range.
fn cut(bytes: &Bytes, index: u64, within: &Range<u64>) -> Bytes {
    let start = index.saturating_mul(CHUNK_BYTES as u64);
    let place = |at: u64| {
        let at = usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
        at.min(bytes.len())
    };
    let (from, to) = (place(within.start), place(within.end));
    bytes.slice(from.min(to)..to)
}

#[cfg(test)]
mod tests {
    use fula_core::{
        Block, Codec,
        block::Placement,
        content::{DagBuilder, FileLink, encrypted::ENCRYPTED_LEAF_BYTES},
        in_memory::MemoryBlocks,
    };
    use futures::{TryStreamExt, executor::block_on};
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> BodyKey {
        BodyKey::new(cipher(&[byte; 32]).unwrap())
    }

    fn content(size: usize) -> Vec<u8> {
        (0..size).map(|n| (n / 251 + n).to_le_bytes()[0]).collect()
    }

    /// Stores leaves, and returns the body that they make.
    fn store(
        blocks: &Arc<MemoryBlocks>,
        leaves: Vec<Bytes>,
        size: usize,
        key: &BodyKey,
    ) -> StoredBody {
        let mut dag = DagBuilder::default();
        for leaf in leaves {
            let size = leaf.len() as u64;
            let block = Block::new(Codec::Raw, leaf);
            let link = FileLink { cid: block.cid(), size, dag_bytes: size };
            let nodes = dag.push(link);
            block_on(blocks.put(&[block], Placement::Bulk)).unwrap();
            block_on(blocks.put(&nodes, Placement::Bulk)).unwrap();
        }
        let (root, nodes) = dag.finish().unwrap();
        block_on(blocks.put(&nodes, Placement::Bulk)).unwrap();
        StoredBody { cid: root.cid, size: size as u64, key: key.clone() }
    }

    fn encrypted(content: &[u8], key: &BodyKey) -> Vec<Bytes> {
        let leaves = content.chunks(ENCRYPTED_LEAF_BYTES);
        let count = leaves.len();
        let encrypt = |(n, leaf): (usize, &[u8])| {
            key.encrypt(n as u64 * 16, Bytes::copy_from_slice(leaf), n + 1 == count).unwrap()
        };
        leaves.enumerate().map(encrypt).collect()
    }

    fn read(
        blocks: &Arc<MemoryBlocks>,
        body: &StoredBody,
        range: Range<u64>,
    ) -> Result<Vec<u8>, StoreError> {
        let read = body.clone().read(blocks.clone(), &range);
        block_on(read.try_collect::<Vec<Bytes>>()).map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_range_is_that_of_the_content(
            size in 1_usize..2_400_000,
            ends in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 1..6),
        ) {
            let (blocks, key, bytes) = (Arc::<MemoryBlocks>::default(), key(1), content(size));
            let body = store(&blocks, encrypted(&bytes, &key), size, &key);
            for (a, b) in ends {
                let (a, b) = (a.index(size), b.index(size));
                let range = a.min(b)..a.max(b) + 1;
                let found = read(&blocks, &body, range.start as u64..range.end as u64).unwrap();
                prop_assert!(found == bytes[range.clone()], "{range:?} of {size}");
            }
        }
    }

    #[test]
    fn ranges_at_the_borders_of_chunks_and_leaves() {
        let (blocks, key) = (Arc::<MemoryBlocks>::default(), key(1));
        let borders = [0, CHUNK_BYTES, 2 * CHUNK_BYTES, ENCRYPTED_LEAF_BYTES];
        for size in
            [1, CHUNK_BYTES, CHUNK_BYTES + 1, ENCRYPTED_LEAF_BYTES, ENCRYPTED_LEAF_BYTES + 1]
        {
            let bytes = content(size);
            let body = store(&blocks, encrypted(&bytes, &key), size, &key);
            let near = borders.iter().flat_map(|at| [at.saturating_sub(1), *at, at + 1]);
            let near: Vec<usize> = near.chain([size]).filter(|at| *at <= size).collect();
            for from in &near {
                for to in near.iter().filter(|to| *to >= from) {
                    let found = read(&blocks, &body, *from as u64..*to as u64).unwrap();
                    assert!(found == bytes[*from..*to], "{from}..{to} of {size}");
                }
            }
        }
    }

    #[test]
    fn a_leaf_that_was_read_wrong_is_read_once_more_with_its_hash() {
        let (blocks, key) = (Arc::<MemoryBlocks>::default(), key(1));
        let size = 2 * ENCRYPTED_LEAF_BYTES + 7;
        let (bytes, leaves) = (content(size), encrypted(&content(size), &key));
        let body = store(&blocks, leaves.clone(), size, &key);
        let cid = Block::new(Codec::Raw, leaves[1].clone()).cid();
        // The second chunk of the second leaf is wrong, and a range begins before it.
        let mut wrong = leaves[1].to_vec();
        wrong[STORED_CHUNK_BYTES + 5] ^= 1;
        let range = ENCRYPTED_LEAF_BYTES - 3..size - 2;
        let attempt = || read(&blocks, &body, range.start as u64..range.end as u64);
        blocks.damage(&cid, wrong.clone().into(), false);
        assert!(attempt().unwrap() == bytes[range.clone()]);
        // One that is too short does not fit its link.
        blocks.damage(&cid, leaves[1].slice(1..), false);
        assert!(attempt().unwrap() == bytes[range.clone()]);
        // Damage that lasts is reported with the address, and no wrong byte is handed out before.
        blocks.damage(&cid, wrong.into(), true);
        let read = body.clone().read(blocks.clone(), &(0..size as u64));
        let parts: Vec<_> = block_on(read.collect());
        assert!(
            matches!(parts.last(), Some(Err(StoreError::Damaged { cid: found })) if *found == cid)
        );
        let before =
            parts.iter().flatten().fold(Vec::new(), |all, part| [&all, &part[..]].concat());
        assert!(bytes.starts_with(&before) && before.len() == ENCRYPTED_LEAF_BYTES + CHUNK_BYTES);
    }

    #[test]
    fn what_was_changed_moved_or_cut_does_not_decrypt() {
        let (blocks, key) = (Arc::<MemoryBlocks>::default(), key(1));
        let size = ENCRYPTED_LEAF_BYTES + 3 * CHUNK_BYTES;
        let (bytes, whole) = (content(size), 0..size as u64);
        let leaves = encrypted(&bytes, &key);
        assert!(!leaves.iter().any(|leaf| leaf.windows(16).any(|at| at == &bytes[..16])));
        let attempt = |leaves: Vec<Bytes>, size: usize| {
            let body = store(&blocks, leaves, size, &key);
            read(&blocks, &body, 0..size as u64)
        };
        assert!(attempt(leaves.clone(), size).is_ok());
        // A bit is flipped, in the content and in a tag.
        for place in [0, STORED_CHUNK_BYTES - 1] {
            let mut changed = leaves[0].to_vec();
            changed[place] ^= 1;
            assert!(attempt(vec![changed.into(), leaves[1].clone()], size).is_err());
        }
        // Two chunks changed places.
        let mut moved = leaves[0].to_vec();
        moved.rotate_left(STORED_CHUNK_BYTES);
        assert!(attempt(vec![moved.into(), leaves[1].clone()], size).is_err());
        // The end was cut off, and the record says so.
        assert!(attempt(leaves[..1].to_vec(), ENCRYPTED_LEAF_BYTES).is_err());
        // Another body of the same object.
        let other = encrypted(&bytes, &self::key(2));
        assert!(attempt(vec![leaves[0].clone(), other[1].clone()], size).is_err());
        // The bytes before the fault can be read.
        let body = store(&blocks, vec![leaves[0].clone(), other[1].clone()], size, &key);
        assert!(read(&blocks, &body, 0..ENCRYPTED_LEAF_BYTES as u64).is_ok());
        assert!(read(&blocks, &body, whole).is_err());
    }
}
