//! Block tags: 96 bits that the index knows a block by, computed from its address with a secret key
//! (docs/adr/0029).
//!
//! Each word of a tag is a strongly universal hash of the address: vector multiply-shift (M. Thorup, "High
//! Speed Hashing for Integers and Strings", arXiv:1504.06804) with a key of its own. So any two addresses
//! that were chosen without knowing the keys share a tag with probability 2^-96. Among a billion blocks,
//! two share one with a probability of 1 in 2^37. The keys are drawn when a log is opened. The hash takes a
//! few nanoseconds, so the processor can wait for the memory of several lookups at once. `SipHash` takes
//! longer than that wait.

use fula_core::Cid;

/// Number of 32-bit words of an address: the digest, and the codec.
const WORDS: usize = 9;

/// The tag of a block in the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BlockTag(pub(super) [u32; 3]);

/// Computes block tags with secret keys.
pub(super) struct TagHasher([WordKey; 3]);

/// The key of one word of a tag.
struct WordKey {
    /// One factor for each word of the address.
    factors: [u64; WORDS],
    added: u64,
}

impl std::fmt::Debug for TagHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TagHasher")
    }
}

impl Default for TagHasher {
    fn default() -> Self {
        let mut random = [[0; 8]; 3 * (WORDS + 1)];
        getrandom::fill(random.as_flattened_mut()).expect("the system has random numbers");
        let mut drawn = random.map(u64::from_le_bytes).into_iter();
        let mut draw = || drawn.next().expect("as many are drawn as are used");
        Self(std::array::from_fn(|_| WordKey {
            factors: std::array::from_fn(|_| draw()),
            added: draw(),
        }))
    }
}

impl TagHasher {
    pub(super) fn tag(&self, cid: &Cid) -> BlockTag {
        let (digest, _) = cid.digest().as_chunks::<4>();
        let words = digest.iter().map(|word| u32::from_le_bytes(*word));
        BlockTag(self.0.each_ref().map(|key| {
            let mut sum = key.added;
            for (factor, word) in key.factors.iter().zip(words.clone().chain([cid.codec() as u32]))
            {
                sum = sum.wrapping_add(factor.wrapping_mul(word.into()));
            }
            (sum >> 32) as u32
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use fula_core::Codec;

    use super::*;

    #[test]
    fn every_part_of_an_address_counts_in_every_word() {
        let mut digest = [0; 32];
        let mut cids = vec![];
        for codec in [Codec::Raw, Codec::DagPb, Codec::DagCbor] {
            cids.push(Cid::from_digest(codec, digest));
        }
        for at in 0..32 {
            for byte in [1, 0x80] {
                digest[at] = byte;
                cids.push(Cid::from_digest(Codec::Raw, digest));
                digest[at] = 0;
            }
        }
        for _ in 0..100 {
            let hasher = TagHasher::default();
            let tags: Vec<_> = cids.iter().map(|cid| hasher.tag(cid)).collect();
            for word in 0..3 {
                let words: HashSet<u32> = tags.iter().map(|tag| tag.0[word]).collect();
                // Two of them are equal by chance once in two million runs.
                assert!(words.len() + 1 >= cids.len());
            }
        }
    }

    #[test]
    fn bits_are_even_over_keys() {
        let (one, other) =
            (Cid::from_digest(Codec::Raw, [0; 32]), Cid::from_digest(Codec::Raw, [1; 32]));
        let mut counts = [0_u32; 96];
        for _ in 0..2000 {
            let hasher = TagHasher::default();
            let (one, other) = (hasher.tag(&one), hasher.tag(&other));
            for (at, count) in counts.iter_mut().enumerate() {
                *count += (one.0[at / 32] ^ other.0[at / 32]) >> (at % 32) & 1;
            }
        }
        // The bounds are seven standard deviations around a half.
        assert!(counts.iter().all(|count| (845..1155).contains(count)), "{counts:?}");
    }
}
