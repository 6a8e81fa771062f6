//! The rule by which a mapping is admitted: every leaf has a receipt for the caller, or is part of an object
//! that the caller may read. To know a CID is no proof.

use std::collections::{BTreeSet, HashMap, HashSet};

use fula_core::{
    Block, Cid, Codec, OwnerId, block::BLOCK_BYTES_MAX, content::FileNode, root::TimeMs,
};

use crate::{
    document::InvalidDocument,
    key::{PublicKey, SignerId},
    receipt::{DiskId, Receipt, SizedCid},
};

/// Least time that a receipt must have left, in milliseconds.
pub const LEFT_MIN_MS: u64 = 3600 * 1000;

/// Largest number of levels of a file.
const DEPTH_MAX: usize = 8;

/// What a master knows of a node.
#[derive(Clone, Copy, Debug)]
pub struct KnownNode {
    /// Its key.
    pub key: PublicKey,
    /// The disk that it had when it was last heard of; `None` if it was never heard of.
    pub disk: Option<DiskId>,
}

/// A receipt, and the blocks that it is about.
#[derive(Clone, Debug)]
pub struct Offered {
    /// Text of the receipt.
    pub receipt: String,
    /// Its blocks, in its order.
    pub blocks: Vec<SizedCid>,
}

/// The reason why a mapping is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The file is malformed: answer 400.
    #[error("{0}")]
    Malformed(&'static str),
    /// The declared size is not the length of the content: answer 400.
    #[error("the size is {found} bytes, and {declared} were declared")]
    Size {
        /// Declared size in bytes.
        declared: u64,
        /// Length of the content in bytes.
        found: u64,
    },
    /// A receipt proves nothing here: answer 403.
    #[error("a receipt is not accepted: {0}")]
    Receipt(InvalidDocument),
    /// A receipt is for another owner: answer 403.
    #[error("a receipt is for another owner")]
    OtherOwner,
    /// A receipt is not about the blocks that came with it: answer 403.
    #[error("a receipt is not about the blocks that are listed with it")]
    OtherBlocks,
    /// The disk of a receipt is gone: answer 409.
    #[error("node {0} has another disk now; send the blocks again")]
    OtherDisk(SignerId),
    /// A lease ends too soon: answer 409.
    #[error("the lease of node {0} ends within the hour; prolong it")]
    EndsSoon(SignerId),
    /// Nobody has proved a right to a leaf: answer 409.
    #[error("block {0} is not held for you by any node")]
    Absent(Cid),
}

/// The leaves of a file, each once, with lengths in bytes.
pub type Leaves = Vec<SizedCid>;

/// Returns the leaves of the content at `root`. `nodes` are its inner nodes.
///
/// # Errors
/// [`Refusal::Malformed`]: a node is missing, not needed, or not what its parent says. [`Refusal::Size`].
pub fn leaves(root: Cid, declared: u64, nodes: &[Block]) -> Result<Leaves, Refusal> {
    if root.codec() == Codec::DagCbor {
        return Err(Refusal::Malformed("a mapping is of a raw block or a UnixFS file"));
    }
    let by_cid: HashMap<Cid, &Block> = nodes.iter().map(|node| (node.cid(), node)).collect();
    let mut found = Found { nodes: by_cid, sizes: HashMap::new(), leaves: Vec::new() };
    let size = match root.codec() {
        Codec::Raw => {
            found.leaf(root, declared)?;
            declared
        }
        _ => found.node(root, None, 0)?,
    };
    if size != declared {
        return Err(Refusal::Size { declared, found: size });
    }
    if nodes.iter().any(|node| !found.sizes.contains_key(&node.cid())) {
        return Err(Refusal::Malformed("a node is not part of the file"));
    }
    Ok(found.leaves)
}

struct Found<'a> {
    nodes: HashMap<Cid, &'a Block>,
    /// Length of the content of every block that was visited.
    sizes: HashMap<Cid, u64>,
    leaves: Leaves,
}

impl Found<'_> {
    fn leaf(&mut self, cid: Cid, size: u64) -> Result<(), Refusal> {
        let is_new = match self.sizes.insert(cid, size) {
            None => true,
            Some(known) if known == size => false,
            Some(_) => return Err(Refusal::Malformed("one block has two lengths")),
        };
        let short = u32::try_from(size).ok().filter(|size| *size as usize <= BLOCK_BYTES_MAX);
        let short = short.ok_or(Refusal::Malformed("a block is longer than 1 MiB"))?;
        if is_new {
            self.leaves.push((cid, short));
        }
        Ok(())
    }

    /// Visits an inner node once, however often it is linked. Returns the length of its content.
    fn node(&mut self, cid: Cid, said: Option<u64>, depth: usize) -> Result<u64, Refusal> {
        if let Some(size) = self.sizes.get(&cid) {
            return Ok(*size);
        }
        if depth >= DEPTH_MAX {
            return Err(Refusal::Malformed("the file has too many levels"));
        }
        let block = self.nodes.get(&cid).ok_or(Refusal::Malformed("an inner node is missing"))?;
        let node = FileNode::from_block(block)
            .map_err(|_| Refusal::Malformed("an inner node is no UnixFS file"))?;
        let size = node.size();
        if said.is_some_and(|said| said != size) {
            return Err(Refusal::Malformed("an inner node is not as long as its parent says"));
        }
        for link in &node.links {
            match link.cid.codec() {
                Codec::Raw => self.leaf(link.cid, link.size)?,
                Codec::DagPb => {
                    let found = self.node(link.cid, Some(link.size), depth + 1)?;
                    if found != link.size {
                        return Err(Refusal::Malformed("one block has two lengths"));
                    }
                }
                Codec::DagCbor => return Err(Refusal::Malformed("a file links to dag-cbor")),
            }
        }
        self.sizes.insert(cid, size);
        Ok(size)
    }
}

/// The blocks that a caller has proved a right to, and the nodes that hold each of them.
#[derive(Clone, Debug, Default)]
pub struct Proved {
    by_cid: HashMap<Cid, (u32, BTreeSet<SignerId>)>,
    /// Leaves of objects that the caller may read.
    readable: HashSet<Cid>,
    /// Nodes of those objects.
    also: BTreeSet<SignerId>,
}

impl Proved {
    /// Adds the blocks of a receipt for `owner`.
    ///
    /// # Errors
    /// [`Refusal`] with the reason why the receipt proves nothing.
    pub fn receipt(
        &mut self,
        offered: &Offered,
        owner: OwnerId,
        now: TimeMs,
        known: impl Fn(SignerId) -> Option<KnownNode>,
    ) -> Result<(), Refusal> {
        let key_of = |id| known(id).map(|node| node.key);
        let receipt = Receipt::verify(&offered.receipt, key_of).map_err(Refusal::Receipt)?;
        if receipt.owner != owner {
            return Err(Refusal::OtherOwner);
        }
        if !receipt.is_about(&offered.blocks) {
            return Err(Refusal::OtherBlocks);
        }
        let disk = known(receipt.node).and_then(|node| node.disk);
        if disk.is_some_and(|disk| disk != receipt.disk) {
            return Err(Refusal::OtherDisk(receipt.node));
        }
        if receipt.until <= now.saturating_add(LEFT_MIN_MS) {
            return Err(Refusal::EndsSoon(receipt.node));
        }
        offered.blocks.iter().for_each(|(cid, size)| self.held(receipt.node, *cid, *size));
        Ok(())
    }

    /// Adds a block that a node said it holds for the caller, when it was asked just now.
    pub fn held(&mut self, node: SignerId, cid: Cid, size: u32) {
        self.by_cid.entry(cid).or_insert_with(|| (size, BTreeSet::new())).1.insert(node);
    }

    /// Adds the leaves of an object that the caller may read, and the nodes that hold them.
    pub fn readable(&mut self, leaves: &[SizedCid], nodes: impl IntoIterator<Item = SignerId>) {
        self.readable.extend(leaves.iter().map(|(cid, _)| *cid));
        self.also.extend(nodes);
    }

    /// Returns those of `leaves` that nothing was proved of.
    pub fn missing<'a>(&self, leaves: &'a [SizedCid]) -> Vec<&'a SizedCid> {
        let is_missing =
            |(cid, _): &&SizedCid| !self.by_cid.contains_key(cid) && !self.readable.contains(cid);
        leaves.iter().filter(is_missing).collect()
    }

    /// Admits a mapping to `leaves`, and returns the nodes that hold them.
    ///
    /// # Errors
    /// [`Refusal::Absent`], [`Refusal::Size`].
    pub fn admit(&self, leaves: &[SizedCid]) -> Result<BTreeSet<SignerId>, Refusal> {
        let mut nodes = self.also.clone();
        for (cid, declared) in leaves {
            match self.by_cid.get(cid) {
                Some((size, _)) if size != declared => {
                    let (declared, found) = (u64::from(*declared), u64::from(*size));
                    return Err(Refusal::Size { declared, found });
                }
                Some((_, holders)) => nodes.extend(holders),
                None if self.readable.contains(cid) => {}
                None => return Err(Refusal::Absent(*cid)),
            }
        }
        Ok(nodes)
    }

    /// Returns the blocks among `leaves` that a node holds for the caller.
    pub fn held_by(&self, node: SignerId, leaves: &[SizedCid]) -> Vec<Cid> {
        let is_here = |(cid, _): &&SizedCid| {
            self.by_cid.get(cid).is_some_and(|(_, nodes)| nodes.contains(&node))
        };
        leaves.iter().filter(is_here).map(|(cid, _)| *cid).collect()
    }
}

#[cfg(test)]
mod tests {
    use fula_core::content::FileLink;
    use zeroize::Zeroizing;

    use super::*;
    use crate::{key::SigningKey, receipt::Subject};

    const OWNER: OwnerId = OwnerId([1; 16]);
    const NOW: TimeMs = 1_700_000_000_000;
    const DISK: DiskId = DiskId([9; 16]);

    fn leaf(n: u8) -> FileLink {
        FileLink { cid: Cid::of(Codec::Raw, &[n]), size: 1, dag_bytes: 1 }
    }

    fn node(links: Vec<FileLink>) -> (Block, FileLink) {
        FileNode { links }.to_block()
    }

    #[test]
    fn the_leaves_of_a_file_are_found_and_its_sizes_checked() {
        let (first, one) = node(vec![leaf(1), leaf(2)]);
        let (second, two) = node(vec![leaf(2), leaf(3)]);
        let (top, root) = node(vec![one, two, one]);
        let nodes = [top, first, second];
        let found = leaves(root.cid, 6, &nodes).unwrap();
        assert_eq!(found, [1, 2, 3].map(|n| (leaf(n).cid, 1)));
        assert_eq!(leaves(root.cid, 7, &nodes), Err(Refusal::Size { declared: 7, found: 6 }));
        assert!(matches!(leaves(root.cid, 6, &nodes[..2]), Err(Refusal::Malformed(_))));
        let (stray, _) = node(vec![leaf(9), leaf(8)]);
        let more: Vec<_> = nodes.iter().cloned().chain([stray]).collect();
        assert!(matches!(leaves(root.cid, 6, &more), Err(Refusal::Malformed(_))));
        // A single raw block has no nodes.
        assert_eq!(leaves(leaf(1).cid, 1, &[]), Ok(vec![(leaf(1).cid, 1)]));
        assert!(leaves(leaf(1).cid, (1 << 20) + 1, &[]).is_err());
        // A child that is shorter than its parent says.
        let (top, root) = node(vec![FileLink { size: 3, ..one }]);
        let nodes = [top, nodes[1].clone()];
        assert!(matches!(leaves(root.cid, 3, &nodes), Err(Refusal::Malformed(_))));
    }

    #[test]
    fn a_file_of_many_equal_parts_is_walked_once() {
        let mut link = leaf(1);
        let mut nodes = Vec::new();
        for _ in 0..5 {
            let (block, parent) = node(vec![link; 200]);
            nodes.push(block);
            link = parent;
        }
        assert_eq!(leaves(link.cid, 200_u64.pow(5), &nodes).unwrap().len(), 1);
        for _ in 0..4 {
            let (block, parent) = node(vec![link]);
            nodes.push(block);
            link = parent;
        }
        assert!(leaves(link.cid, 200_u64.pow(5), &nodes).is_err(), "too many levels");
    }

    fn offered(key: &SigningKey, change: impl FnOnce(&mut Receipt)) -> Offered {
        let blocks = vec![(leaf(1).cid, 1), (leaf(2).cid, 1)];
        let mut receipt = Receipt {
            node: key.id(),
            disk: DISK,
            owner: OWNER,
            subject: Subject::of(&blocks),
            bytes: 2,
            count: 2,
            issued: NOW,
            until: NOW + LEFT_MIN_MS + 1,
        };
        change(&mut receipt);
        Offered { receipt: receipt.sign(key), blocks }
    }

    #[test]
    fn only_receipts_for_the_owner_with_an_hour_left_count() {
        let key = SigningKey::from_seed(&Zeroizing::new([7; 32]));
        let known =
            |id| (id == key.id()).then(|| KnownNode { key: key.public(), disk: Some(DISK) });
        let leaves = [(leaf(1).cid, 1), (leaf(2).cid, 1)];
        let judge = |offered: &Offered| {
            let mut proved = Proved::default();
            proved.receipt(offered, OWNER, NOW, known).and_then(|()| proved.admit(&leaves))
        };
        assert_eq!(judge(&offered(&key, |_| {})), Ok([key.id()].into()));
        let other = offered(&key, |receipt| receipt.owner = OwnerId([2; 16]));
        assert_eq!(judge(&other), Err(Refusal::OtherOwner));
        let soon = offered(&key, |receipt| receipt.until = NOW + LEFT_MIN_MS);
        assert_eq!(judge(&soon), Err(Refusal::EndsSoon(key.id())));
        let wiped = offered(&key, |receipt| receipt.disk = DiskId([8; 16]));
        assert_eq!(judge(&wiped), Err(Refusal::OtherDisk(key.id())));
        let mut longer = offered(&key, |_| {});
        longer.blocks.push((leaf(3).cid, 1));
        assert_eq!(judge(&longer), Err(Refusal::OtherBlocks));
        let unknown = SigningKey::from_seed(&Zeroizing::new([8; 32]));
        let forged = offered(&unknown, |_| {});
        assert_eq!(judge(&forged), Err(Refusal::Receipt(InvalidDocument::NotForHere)));
        let forged = offered(&unknown, |receipt| receipt.node = key.id());
        assert_eq!(judge(&forged), Err(Refusal::Receipt(InvalidDocument::Signature)));
    }

    #[test]
    fn every_leaf_needs_a_proof_of_its_length() {
        let (a, b) = (SignerId([1; 8]), SignerId([2; 8]));
        let leaves = [(leaf(1).cid, 1), (leaf(2).cid, 1), (leaf(3).cid, 1)];
        let mut proved = Proved::default();
        proved.held(a, leaf(1).cid, 1);
        proved.held(b, leaf(2).cid, 1);
        assert_eq!(proved.admit(&leaves), Err(Refusal::Absent(leaf(3).cid)));
        assert_eq!(proved.missing(&leaves), [&leaves[2]]);
        proved.readable(&leaves[2..], [SignerId([3; 8])]);
        assert_eq!(proved.admit(&leaves), Ok([a, b, SignerId([3; 8])].into()));
        assert_eq!(proved.held_by(b, &leaves), [leaf(2).cid]);
        proved.held(a, leaf(3).cid, 2);
        assert_eq!(proved.admit(&leaves), Err(Refusal::Size { declared: 1, found: 2 }));
    }
}
