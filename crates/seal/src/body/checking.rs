//! Comparing plaintext that was opened before with the body that it came from.

use crate::{
    SealError, VaultKeys,
    body::{Footer, Layout, Proof, footer::HASH_BYTES, sealing},
    cobblestone::{CHUNK_BYTES, HEADER_BYTES, Message, SEALED_CHUNK_BYTES, TAG_BYTES},
};

/// Compares plaintext with a segment, as a download does with what it has from an interrupted one. The plaintext is
/// sealed again under the salt of the segment, and nothing of that is handed out but whether it has the hash that a
/// writer signed.
pub struct SegmentCheck {
    message: Message,
    hasher: blake3::Hasher,
    expected: [u8; HASH_BYTES],
    /// Sealed bytes that are missing of those that the hash covers.
    left: usize,
    chunk: u64,
    /// Plaintext of a chunk that is not complete.
    held: Vec<u8>,
}

impl SegmentCheck {
    /// Begins to compare the content of the segment with this index. Returns `None` for one without content.
    ///
    /// # Errors
    /// [`SealError::UnknownEpoch`], and [`SealError::WrongKey`] if the keys do not open the segment.
    pub fn new(
        keys: &VaultKeys,
        (footer, layout): (&Footer, &Layout),
        proof: &Proof,
        index: usize,
    ) -> Result<Option<Self>, SealError> {
        let hashed = layout.hashed().get(index).copied();
        let Some((hashed, expected)) = hashed.zip(proof.hash(index)) else { return Ok(None) };
        let segment = &layout.segments()[index];
        let key = keys.file(footer.epoch, footer.file)?.segment;
        let message = sealing::message(&key, &footer.file, segment)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(segment.salt()).update(&segment.commitment);
        let left = usize::try_from(hashed).unwrap_or(usize::MAX) - HEADER_BYTES;
        let held = Vec::with_capacity(SEALED_CHUNK_BYTES);
        Ok(Some(Self { message, hasher, expected, left, chunk: 0, held }))
    }

    /// Takes the next bytes of the content.
    pub fn push(&mut self, mut plaintext: &[u8]) {
        while !plaintext.is_empty() {
            let room = CHUNK_BYTES - self.held.len();
            let (piece, rest) = plaintext.split_at(plaintext.len().min(room));
            self.held.extend(piece);
            plaintext = rest;
            if self.held.len() == CHUNK_BYTES {
                self.seal_chunk();
            }
        }
    }

    /// Returns whether this was the content of the segment. Zeros after the end of the file are no difference: they are
    /// its padding.
    pub fn finish(mut self) -> bool {
        // The last chunk that is hashed may be shorter, or end with padding.
        if self.left > 0 {
            let plain = self.left.min(SEALED_CHUNK_BYTES).saturating_sub(TAG_BYTES);
            if self.held.len() > plain {
                return false;
            }
            self.held.resize(plain, 0);
            self.seal_chunk();
        }
        self.left == 0
            && self.held.is_empty()
            && *self.hasher.finalize().as_bytes() == self.expected
    }

    fn seal_chunk(&mut self) {
        self.message.seal_chunk(self.chunk, 0, &mut self.held);
        self.hasher.update(&self.held);
        // Of more than the segment has, the hash is another one.
        self.left = self.left.saturating_sub(self.held.len());
        self.chunk += 1;
        self.held.clear();
    }
}

impl std::fmt::Debug for SegmentCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SegmentCheck({} sealed bytes left)", self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        VaultPath,
        body::{
            FileSealer, Metadata,
            tests::{Body, content, device, proof_of},
        },
        testing::{Recorded, vault},
    };

    /// Seals a file of `size` bytes in segments of these lengths, of which the last may have padding.
    fn sealed(keys: &VaultKeys, size: usize, lengths: &[usize]) -> Body {
        let entropy = &mut Recorded::new(1);
        let sealer = FileSealer::new(keys, entropy).unwrap();
        let mut padded = content(size);
        padded.resize(lengths.iter().sum(), 0);
        let (mut segments, mut bytes, mut start) = (Vec::new(), Vec::new(), 0);
        for (ordinal, length) in (0..).zip(lengths) {
            let plain = &padded[start..start + length];
            let (segment, piece) = sealer.seal_segment(ordinal, plain, entropy).unwrap();
            segments.push(segment);
            bytes.extend(piece);
            start += length;
        }
        let layout = Layout::new(size as u64, segments).unwrap();
        let metadata = Metadata::of(VaultPath::new(b"file").unwrap());
        let mut ending = sealer.plan_end(&layout, &metadata, entropy).unwrap();
        let anchor = ending.anchor;
        ending.update(&bytes);
        bytes.extend(ending.sign(&device(1)).unwrap());
        Body { bytes, layout, anchor }
    }

    #[test]
    fn a_segment_has_its_own_content_and_no_other() {
        let keys = vault(1);
        let chunk = CHUNK_BYTES;
        // Ends within a chunk, at its end, with padding in the last chunk, and with chunks of padding alone.
        for (size, lengths) in [
            (50_000, [20_000, 30_000]),
            (5 * chunk, [2 * chunk, 3 * chunk]),
            (49_000, [20_000, 30_000]),
            (2 * chunk + 1, [chunk, 4 * chunk]),
            (3 * chunk, [chunk, 4 * chunk]),
        ] {
            let body = sealed(&keys, size, &lengths);
            let (footer, proof) = (body.anchor.footer(), proof_of(&keys, &body).unwrap().unwrap());
            let is_same = |index, plain: &[u8], piece| {
                let of = (&footer, &body.layout);
                let mut check = SegmentCheck::new(&keys, of, &proof, index).unwrap().unwrap();
                plain.chunks(piece).for_each(|piece| check.push(piece));
                check.finish()
            };
            let whole = content(size);
            let (first, second) = whole.split_at(lengths[0]);
            for (index, plain) in [(0, first), (1, second)] {
                assert!(is_same(index, plain, 700) && is_same(index, plain, 1 << 20), "{size}");
                assert!(!is_same(1 - index, plain, 4096), "of another segment");
                assert!(!is_same(index, &plain[..plain.len() - 1], 4096), "{size}: too short");
                assert!(!is_same(index, &[plain, &[1]].concat(), 4096), "{size}: too long");
                for at in [0, plain.len() / 2, plain.len() - 1] {
                    let mut other = plain.to_vec();
                    other[at] ^= 1;
                    assert!(!is_same(index, &other, 4096), "{size}: altered at {at}");
                }
            }
            let none = SegmentCheck::new(&keys, (&footer, &body.layout), &proof, 2);
            assert!(none.unwrap().is_none());
            let wrong = SegmentCheck::new(&vault(2), (&footer, &body.layout), &proof, 0);
            assert_eq!(wrong.unwrap_err(), SealError::WrongKey { what: "the content" });
        }
    }
}
