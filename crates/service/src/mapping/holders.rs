//! The small block that a mapped record links: the nodes that hold its leaves.
//!
//! ```text
//! holders = [1, [node 8, …], {}]
//! ```

use std::collections::BTreeSet;

use fula_core::{
    Block, Codec, StoreError,
    cbor::{Invalid, Reader, Writer},
};
use fula_ingest::SignerId;

/// Largest number of nodes of one object.
const HOLDERS_MAX: usize = 64;

/// Returns the block that names `nodes`.
pub(crate) fn holders_block(nodes: &BTreeSet<SignerId>) -> Block {
    let mut out = Writer::with_capacity(16 + nodes.len() * 9);
    out.array(3).uint(1).array(nodes.len());
    for node in nodes {
        out.bytes(&node.0);
    }
    out.map(0);
    Block::new(Codec::DagCbor, out.finish())
}

/// Reads what [`holders_block`] made.
pub(super) fn read_holders(block: &Block) -> Result<Vec<SignerId>, StoreError> {
    let read = || {
        let mut reader = Reader::new(block.bytes());
        reader.tuple(3)?;
        if reader.uint()? != 1 {
            return Err(Invalid("holders of a newer version"));
        }
        let count = reader.array()?;
        if count > HOLDERS_MAX {
            return Err(Invalid("too many holders"));
        }
        let nodes =
            (0..count).map(|_| reader.array_of().map(SignerId)).collect::<Result<_, _>>()?;
        reader.raw()?;
        reader.end()?;
        Ok(nodes)
    };
    read().map_err(|invalid: Invalid| invalid.of("holders of a mapped object"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_round_trip_and_match_the_vector() {
        let nodes = BTreeSet::from([SignerId([1; 8]), SignerId([2; 8])]);
        let block = holders_block(&nodes);
        let vector = "830182480101010101010101480202020202020202a0";
        assert_eq!(hex::encode(block.bytes()), vector);
        assert_eq!(read_holders(&block).unwrap(), nodes.into_iter().collect::<Vec<_>>());
        let other = Block::new(Codec::DagCbor, &b"\x80"[..]);
        assert!(read_holders(&other).is_err());
    }
}
