//! The rule by which a mapping is admitted: every leaf has a receipt for the caller, or is part of an object
//! that the caller may read. To know a CID is no proof.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
};

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

/// Largest number of nodes that hold the leaves of one object for one owner.
pub const HOLDERS_MAX: usize = 64;

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
    /// The leaves are on too many nodes: answer 400.
    #[error("the leaves are on more than {HOLDERS_MAX} nodes; send them to fewer")]
    TooManyNodes,
    /// The node of a receipt was never heard of, so its disk may be gone: answer 409.
    #[error("node {0} has not answered this master yet; try again, or send the blocks elsewhere")]
    UnknownDisk(SignerId),
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

/// Where leaves of an object are. Nothing else may answer for them: what some node or master has for another
/// owner proves nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whether the block store of the masters has them, because an object of theirs had them before, or because
    /// they were copied from the nodes.
    pub is_own: bool,
    /// The owner whose holds on the nodes keep them.
    pub owner: OwnerId,
    /// The nodes.
    pub nodes: BTreeSet<SignerId>,
}

/// Leaves, and where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Where they are.
    pub place: Place,
    /// The leaves.
    pub leaves: Leaves,
}

/// The blocks that a caller has proved a right to, and where each of them is.
#[derive(Clone, Debug)]
pub struct Proved {
    /// The caller.
    owner: OwnerId,
    /// Blocks that nodes hold for the caller.
    held: HashMap<Cid, (u32, BTreeSet<SignerId>)>,
    /// Leaves of objects that the caller may read: their lengths, and the numbers of their places.
    readable: HashMap<Cid, (u32, usize)>,
    places: Vec<Place>,
}

impl Proved {
    /// Returns the state before `owner` has proved anything.
    pub fn by(owner: OwnerId) -> Self {
        Self { owner, held: HashMap::new(), readable: HashMap::new(), places: Vec::new() }
    }

    /// Adds the blocks of a receipt.
    ///
    /// # Errors
    /// [`Refusal`] with the reason why the receipt proves nothing.
    pub fn receipt(
        &mut self,
        offered: &Offered,
        now: TimeMs,
        known: impl Fn(SignerId) -> Option<KnownNode>,
    ) -> Result<(), Refusal> {
        let key_of = |id| known(id).map(|node| node.key);
        let receipt = Receipt::verify(&offered.receipt, key_of).map_err(Refusal::Receipt)?;
        if receipt.owner != self.owner {
            return Err(Refusal::OtherOwner);
        }
        if !receipt.is_about(&offered.blocks) {
            return Err(Refusal::OtherBlocks);
        }
        match known(receipt.node).and_then(|node| node.disk) {
            None => return Err(Refusal::UnknownDisk(receipt.node)),
            Some(disk) if disk != receipt.disk => return Err(Refusal::OtherDisk(receipt.node)),
            Some(_) => {}
        }
        if receipt.until <= now.saturating_add(LEFT_MIN_MS) {
            return Err(Refusal::EndsSoon(receipt.node));
        }
        for (cid, size) in &offered.blocks {
            self.held
                .entry(*cid)
                .or_insert_with(|| (*size, BTreeSet::new()))
                .1
                .insert(receipt.node);
        }
        Ok(())
    }

    /// Adds leaves of an object that the caller may read. They stay where that object has them.
    pub fn readable(&mut self, place: Place, leaves: &[SizedCid]) {
        let number = self.places.len();
        self.places.push(place);
        self.readable.extend(leaves.iter().map(|(cid, size)| (*cid, (*size, number))));
    }

    /// Returns the leaves for which there is no proof yet.
    pub fn missing<'a>(&self, leaves: &'a [SizedCid]) -> Vec<&'a SizedCid> {
        let is_missing =
            |(cid, _): &&SizedCid| !self.held.contains_key(cid) && !self.readable.contains_key(cid);
        leaves.iter().filter(is_missing).collect()
    }

    /// Returns the number of the place of a readable leaf, if that is better than what nodes hold for the caller.
    fn better(&self, cid: &Cid) -> Option<(u32, usize)> {
        let (size, number) = self.readable.get(cid).copied()?;
        let is_better = self.places[number].is_own || !self.held.contains_key(cid);
        is_better.then_some((size, number))
    }

    /// Admits a mapping to `leaves`, and returns where they are. The place with the most leaves comes first.
    ///
    /// # Errors
    /// [`Refusal::Absent`], [`Refusal::Size`], [`Refusal::TooManyNodes`].
    pub fn admit(&self, leaves: &[SizedCid]) -> Result<Vec<Placed>, Refusal> {
        let mut placed: HashMap<(bool, OwnerId), Placed> = HashMap::new();
        for (cid, declared) in leaves {
            let (size, is_own, owner, nodes) = match (self.better(cid), self.held.get(cid)) {
                (Some((size, number)), _) => {
                    let Place { is_own, owner, nodes } = &self.places[number];
                    (size, *is_own, *owner, nodes)
                }
                (None, Some((size, nodes))) => (*size, false, self.owner, nodes),
                (None, None) => return Err(Refusal::Absent(*cid)),
            };
            if size != *declared {
                let (declared, found) = (u64::from(*declared), u64::from(size));
                return Err(Refusal::Size { declared, found });
            }
            let place = Place { is_own, owner, nodes: BTreeSet::new() };
            let new = || Placed { place, leaves: Leaves::new() };
            let found = placed.entry((is_own, owner)).or_insert_with(new);
            found.leaves.push((*cid, size));
            found.place.nodes.extend(nodes);
            if found.place.nodes.len() > HOLDERS_MAX {
                return Err(Refusal::TooManyNodes);
            }
        }
        let mut placed: Vec<Placed> = placed.into_values().collect();
        let rank = |placed: &Placed| {
            (Reverse(placed.leaves.len()), placed.place.owner.0, placed.place.is_own)
        };
        placed.sort_by_key(rank);
        Ok(placed)
    }

    /// Returns the blocks among `leaves` that a node holds for the caller.
    pub fn held_by(&self, node: SignerId, leaves: &[SizedCid]) -> Vec<Cid> {
        let is_here = |(cid, _): &&SizedCid| {
            self.held.get(cid).is_some_and(|(_, nodes)| nodes.contains(&node))
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
            let mut proved = Proved::by(OWNER);
            proved.receipt(offered, NOW, known).and_then(|()| proved.admit(&leaves))
        };
        let place = Place { is_own: false, owner: OWNER, nodes: [key.id()].into() };
        let placed = Placed { place, leaves: leaves.to_vec() };
        assert_eq!(judge(&offered(&key, |_| {})), Ok(vec![placed]));
        let other = offered(&key, |receipt| receipt.owner = OwnerId([2; 16]));
        assert_eq!(judge(&other), Err(Refusal::OtherOwner));
        let soon = offered(&key, |receipt| receipt.until = NOW + LEFT_MIN_MS);
        assert_eq!(judge(&soon), Err(Refusal::EndsSoon(key.id())));
        let wiped = offered(&key, |receipt| receipt.disk = DiskId([8; 16]));
        assert_eq!(judge(&wiped), Err(Refusal::OtherDisk(key.id())));
        let mut longer = offered(&key, |_| {});
        longer.blocks.push((leaf(3).cid, 1));
        assert_eq!(judge(&longer), Err(Refusal::OtherBlocks));
        let unheard = |_| Some(KnownNode { key: key.public(), disk: None });
        let refused = Proved::by(OWNER).receipt(&offered(&key, |_| {}), NOW, unheard);
        assert_eq!(refused, Err(Refusal::UnknownDisk(key.id())));
        let unknown = SigningKey::from_seed(&Zeroizing::new([8; 32]));
        let forged = offered(&unknown, |_| {});
        assert_eq!(judge(&forged), Err(Refusal::Receipt(InvalidDocument::NotForHere)));
        let forged = offered(&unknown, |receipt| receipt.node = key.id());
        assert_eq!(judge(&forged), Err(Refusal::Receipt(InvalidDocument::Signature)));
    }

    fn proved(held: &[(SignerId, u8, u32)]) -> Proved {
        let mut proved = Proved::by(OWNER);
        for (node, n, size) in held {
            let new = || (*size, BTreeSet::new());
            proved.held.entry(leaf(*n).cid).or_insert_with(new).1.insert(*node);
        }
        proved
    }

    #[test]
    fn every_leaf_needs_a_proof_of_its_length() {
        let (a, b, c) = (SignerId([1; 8]), SignerId([2; 8]), SignerId([3; 8]));
        let leaves = [(leaf(1).cid, 1), (leaf(2).cid, 1), (leaf(3).cid, 1)];
        let mut found = proved(&[(a, 1, 1), (b, 2, 1)]);
        assert_eq!(found.admit(&leaves), Err(Refusal::Absent(leaf(3).cid)));
        assert_eq!(found.missing(&leaves), [&leaves[2]]);
        assert_eq!(found.held_by(b, &leaves), [leaf(2).cid]);
        let theirs = Place { is_own: false, owner: OwnerId([9; 16]), nodes: [c].into() };
        found.readable(theirs.clone(), &leaves[2..]);
        let mine = Place { is_own: false, owner: OWNER, nodes: [a, b].into() };
        let mine = Placed { place: mine, leaves: leaves[..2].to_vec() };
        let theirs = Placed { place: theirs, leaves: leaves[2..].to_vec() };
        assert_eq!(found.admit(&leaves), Ok(vec![mine, theirs]));
        // The length of a readable leaf is checked like that of any other.
        let longer = [leaves[0], leaves[1], (leaf(3).cid, 2)];
        assert_eq!(found.admit(&longer), Err(Refusal::Size { declared: 2, found: 1 }));
        let longer = [(leaf(1).cid, 3)];
        assert_eq!(found.admit(&longer), Err(Refusal::Size { declared: 3, found: 1 }));
    }

    #[test]
    fn what_the_masters_have_comes_before_what_nodes_hold() {
        let (a, leaves) = (SignerId([1; 8]), [(leaf(1).cid, 1), (leaf(2).cid, 1)]);
        let mut found = proved(&[(a, 1, 1), (a, 2, 1)]);
        let own = Place { is_own: true, owner: OWNER, nodes: BTreeSet::new() };
        found.readable(own.clone(), &leaves[..1]);
        let placed = found.admit(&leaves).unwrap();
        let places: Vec<_> = placed.iter().map(|placed| (&placed.place, &placed.leaves)).collect();
        let held = Place { is_own: false, owner: OWNER, nodes: [a].into() };
        assert!(places.contains(&(&own, &leaves[..1].to_vec())), "{places:?}");
        assert!(places.contains(&(&held, &leaves[1..].to_vec())), "{places:?}");
    }

    #[test]
    fn leaves_are_on_a_bounded_number_of_nodes() {
        let held: Vec<_> = (0..65).map(|n| (SignerId([n; 8]), 1, 1)).collect();
        let leaves = [(leaf(1).cid, 1)];
        assert!(proved(&held[..HOLDERS_MAX]).admit(&leaves).is_ok());
        assert_eq!(proved(&held).admit(&leaves), Err(Refusal::TooManyNodes));
    }
}
