//! The small block that a mapped record links: where its leaves are, and for whom nodes hold them.
//!
//! ```text
//! holders = [1, [place, …], {}]
//! place   = [own 0|1, owner 16, [node 8, …], tags]
//! tags    = the first 16 bytes of the digest of each leaf, sorted
//! ```
//!
//! The first place has all leaves that no other one names, so its tags are empty. A leaf is read only from its
//! own place: a master asks nodes on behalf of that owner, and its own block store only if `own` is 1. So a node
//! that signs receipts for blocks it never got opens nothing that others have.

use fula_core::{
    Block, Cid, Codec, OwnerId, StoreError,
    block::BLOCK_BYTES_MAX,
    cbor::{Invalid, Reader, Writer},
};
use fula_ingest::{
    SignerId,
    mapping::{HOLDERS_MAX, Place, Placed, Refusal},
};

/// Largest number of places of one object.
const PLACES_MAX: usize = 64;

/// Length of the tag of a leaf in bytes.
const TAG: usize = 16;

fn tag_of(cid: &Cid) -> [u8; TAG] {
    let mut tag = [0; TAG];
    tag.copy_from_slice(&cid.digest()[..TAG]);
    tag
}

/// Where the leaves of a mapped object are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holders(Vec<(Place, Vec<[u8; TAG]>)>);

impl Holders {
    /// Returns the holders of leaves at these places, of which the first has the most.
    ///
    /// # Errors
    /// [`Refusal::Malformed`]: there are too many places, or too many leaves outside of the first.
    pub(super) fn of(placed: Vec<Placed>) -> Result<Self, Refusal> {
        let refused = |text| Err(Refusal::Malformed(text));
        if placed.len() > PLACES_MAX {
            return refused("the leaves are in too many places; send them to fewer nodes");
        }
        let others: usize = placed.iter().skip(1).map(|placed| placed.leaves.len()).sum();
        if others * TAG > BLOCK_BYTES_MAX / 2 {
            return refused(
                "the leaves are in several places; map to those of one place at a time",
            );
        }
        let place = |(n, Placed { place, leaves }): (usize, Placed)| {
            let named = if n == 0 { &[][..] } else { &leaves };
            let mut tags: Vec<_> = named.iter().map(|(cid, _)| tag_of(cid)).collect();
            tags.sort_unstable();
            (place, tags)
        };
        Ok(Self(placed.into_iter().enumerate().map(place).collect()))
    }

    /// Returns where a leaf is.
    pub(super) fn place_of(&self, leaf: &Cid) -> Option<&Place> {
        let tag = tag_of(leaf);
        let named = self.0.iter().skip(1).find(|(_, tags)| tags.binary_search(&tag).is_ok());
        named.or(self.0.first()).map(|(place, _)| place)
    }

    /// Returns the places.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.0.iter().map(|(place, _)| place)
    }

    /// Returns the block.
    pub(super) fn to_block(&self) -> Block {
        let mut out = Writer::with_capacity(64);
        out.array(3).uint(1).array(self.0.len());
        for (place, tags) in &self.0 {
            out.array(4).uint(u64::from(place.is_own)).bytes(&place.owner.0);
            out.array(place.nodes.len());
            for node in &place.nodes {
                out.bytes(&node.0);
            }
            out.bytes(&tags.concat());
        }
        out.map(0);
        Block::new(Codec::DagCbor, out.finish())
    }

    /// Reads what [`Self::to_block`] made.
    pub(super) fn from_block(block: &Block) -> Result<Self, StoreError> {
        Self::parse(block).map_err(|invalid| invalid.of("holders of a mapped object"))
    }

    fn parse(block: &Block) -> Result<Self, Invalid> {
        let mut reader = Reader::new(block.bytes());
        reader.tuple(3)?;
        if reader.uint()? != 1 {
            return Err(Invalid("holders of a newer version"));
        }
        let count = reader.array()?;
        if !(1..=PLACES_MAX).contains(&count) {
            return Err(Invalid("too many places, or none"));
        }
        let places = (0..count).map(|_| place(&mut reader)).collect::<Result<Vec<_>, _>>()?;
        reader.raw()?;
        reader.end()?;
        Ok(Self(places))
    }
}

fn place(reader: &mut Reader<'_>) -> Result<(Place, Vec<[u8; TAG]>), Invalid> {
    reader.tuple(4)?;
    let is_own = match reader.uint()? {
        flag @ 0..=1 => flag == 1,
        _ => return Err(Invalid("an unknown kind of place")),
    };
    let owner = OwnerId(reader.array_of()?);
    let count = reader.array()?;
    if count > HOLDERS_MAX {
        return Err(Invalid("too many holders"));
    }
    let nodes = (0..count).map(|_| reader.array_of().map(SignerId)).collect::<Result<_, _>>()?;
    let tags = reader.byte_slice()?;
    let (tags, rest) = tags.as_chunks::<TAG>();
    if !rest.is_empty() || !tags.is_sorted() {
        return Err(Invalid("malformed tags"));
    }
    Ok((Place { is_own, owner, nodes }, tags.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(n: u8) -> (Cid, u32) {
        (Cid::of(Codec::Raw, &[n]), 1)
    }

    fn placed(is_own: bool, owner: u8, nodes: &[u8], leaves: &[u8]) -> Placed {
        let nodes = nodes.iter().map(|n| SignerId([*n; 8])).collect();
        let place = Place { is_own, owner: OwnerId([owner; 16]), nodes };
        Placed { place, leaves: leaves.iter().map(|n| leaf(*n)).collect() }
    }

    #[test]
    fn holders_round_trip_and_match_the_vector() {
        let all = vec![placed(false, 3, &[1, 2], &[1, 2, 3]), placed(true, 4, &[], &[4])];
        let holders = Holders::of(all).unwrap();
        let block = holders.to_block();
        let owner = |n: &str| format!("50{}", n.repeat(16));
        let tag = hex::encode(&leaf(4).0.digest()[..16]);
        let vector = format!(
            "8301828400{}82480101010101010101480202020202020202408401{}8050{tag}a0",
            owner("03"),
            owner("04")
        );
        assert_eq!(hex::encode(block.bytes()), vector);
        assert_eq!(Holders::from_block(&block).unwrap(), holders);
        for malformed in ["80", "830280a0", "830180a0", "83028080a0"] {
            let other = Block::new(Codec::DagCbor, hex::decode(malformed).unwrap());
            assert!(Holders::from_block(&other).is_err(), "{malformed}");
        }
    }

    #[test]
    fn every_leaf_has_one_place() {
        let (most, few) = (placed(false, 1, &[1], &[1, 2, 3]), placed(true, 1, &[], &[4, 5]));
        let holders = Holders::of(vec![most.clone(), few.clone()]).unwrap();
        for (n, place) in [(1, &most), (3, &most), (4, &few), (5, &few), (9, &most)] {
            assert_eq!(holders.place_of(&leaf(n).0), Some(&place.place), "{n}");
        }
        assert_eq!(Holders::default().place_of(&leaf(1).0), None);
    }

    #[test]
    fn the_block_has_a_bounded_length() {
        let others: Vec<_> = (0..65).map(|n| placed(false, n, &[1], &[n])).collect();
        assert!(Holders::of(others[..64].to_vec()).is_ok() && Holders::of(others).is_err());
        let many = |count: u32| {
            let mut other = placed(true, 1, &[], &[]);
            let all = (0..count).map(|n| (Cid::of(Codec::Raw, &n.to_be_bytes()), 1));
            other.leaves = all.collect();
            Holders::of(vec![placed(false, 1, &[1], &[1]), other])
        };
        let largest = many(32_768).unwrap().to_block();
        assert!(largest.bytes().len() <= BLOCK_BYTES_MAX);
        assert!(many(32_769).is_err());
    }
}
