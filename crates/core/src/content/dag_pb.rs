//! dag-pb blocks of `UnixFS` files in canonical form: links first, then data.
//!
//! It covers only what a file needs: links without names, and data of type File with the sizes of
//! the children.

use bytes::Bytes;

use crate::{
    block::Block,
    error::StoreError,
    id::{Cid, Codec},
};

const PB_LINKS: u8 = 0x12;
const PB_DATA: u8 = 0x0a;
const LINK_HASH: u8 = 0x0a;
const LINK_NAME: u8 = 0x12;
const LINK_TSIZE: u8 = 0x18;
const UNIXFS_TYPE: u8 = 0x08;
const UNIXFS_FILE: u64 = 2;
const UNIXFS_FILE_SIZE: u8 = 0x18;
const UNIXFS_BLOCK_SIZE: u8 = 0x20;

/// A child of a file node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLink {
    /// Address of the child.
    pub cid: Cid,
    /// Length of the content below it in bytes.
    pub size: u64,
    /// Length of the child's block and all blocks below it in bytes (`Tsize`).
    pub dag_bytes: u64,
}

/// An inner node of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileNode {
    /// Children in order of content.
    pub links: Vec<FileLink>,
}

impl FileNode {
    /// Returns the length of the content below this node in bytes. It saturates, and a node that is so long cannot
    /// be decoded: [`FileNode::from_block`] refuses sizes that do not add up.
    pub fn size(&self) -> u64 {
        self.links.iter().map(|link| link.size).fold(0, u64::saturating_add)
    }

    /// Encodes the node. Returns its block, and the link that a parent holds to it.
    pub fn to_block(&self) -> (Block, FileLink) {
        let out = self.encode();
        let below = self.links.iter().map(|link| link.dag_bytes).fold(0, u64::saturating_add);
        let dag_bytes = below.saturating_add(out.len() as u64);
        let block = Block::new(Codec::DagPb, out);
        let link = FileLink { cid: block.cid(), size: self.size(), dag_bytes };
        (block, link)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.links.len() * 56 + 16);
        for link in &self.links {
            let mut body = Vec::with_capacity(52);
            body.push(LINK_HASH);
            varint(Cid::BYTES as u64, &mut body);
            body.extend(link.cid.to_bytes());
            body.extend([LINK_NAME, 0, LINK_TSIZE]);
            varint(link.dag_bytes, &mut body);
            out.push(PB_LINKS);
            varint(body.len() as u64, &mut out);
            out.extend(body);
        }
        let mut data = vec![UNIXFS_TYPE, 2, UNIXFS_FILE_SIZE];
        varint(self.size(), &mut data);
        for link in &self.links {
            data.push(UNIXFS_BLOCK_SIZE);
            varint(link.size, &mut data);
        }
        out.push(PB_DATA);
        varint(data.len() as u64, &mut out);
        out.extend(data);
        out
    }

    /// Decodes a node.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] for anything but a file node in canonical form.
    pub fn from_block(block: &Block) -> Result<Self, StoreError> {
        let parsed = parse(block.bytes()).and_then(|node| {
            let is_canonical = node.encode() == *block.bytes();
            if is_canonical { Ok(node) } else { Err("not in canonical form") }
        });
        parsed.map_err(|why| StoreError::Malformed { what: "file node", why })
    }
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

/// Reads protobuf fields from a slice.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn byte(&mut self) -> Result<u8, &'static str> {
        let (first, rest) = self.0.split_first().ok_or("cut off")?;
        self.0 = rest;
        Ok(*first)
    }

    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).ok_or("number too large")?;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("number too large")
    }

    fn bytes(&mut self) -> Result<&'a [u8], &'static str> {
        let len = usize::try_from(self.varint()?).map_err(|_| "cut off")?;
        let (taken, rest) = self.0.split_at_checked(len).ok_or("cut off")?;
        self.0 = rest;
        Ok(taken)
    }
}

fn parse(block: &Bytes) -> Result<FileNode, &'static str> {
    let mut fields = Fields(block);
    let mut links = Vec::new();
    let mut data = None;
    while !fields.0.is_empty() {
        match (fields.byte()?, data) {
            (PB_LINKS, None) => links.push(parse_link(fields.bytes()?)?),
            (PB_DATA, None) => data = Some(fields.bytes()?),
            _ => return Err("unexpected field"),
        }
    }
    let mut fields = Fields(data.ok_or("no data")?);
    let mut sizes = links.iter_mut();
    let mut file_size = None;
    let mut is_file = false;
    while !fields.0.is_empty() {
        match fields.byte()? {
            UNIXFS_TYPE => is_file = fields.varint()? == UNIXFS_FILE,
            UNIXFS_FILE_SIZE => file_size = Some(fields.varint()?),
            UNIXFS_BLOCK_SIZE => {
                sizes.next().ok_or("more sizes than links")?.size = fields.varint()?;
            }
            _ => return Err("unexpected field"),
        }
    }
    if sizes.next().is_some() {
        return Err("fewer sizes than links");
    }
    let total = links.iter().try_fold(0_u64, |sum, link| sum.checked_add(link.size));
    let below =
        links.iter().try_fold(block.len() as u64, |sum, link| sum.checked_add(link.dag_bytes));
    if !is_file || total.is_none() || total != file_size || below.is_none() {
        return Err("not a file, or sizes do not add up");
    }
    Ok(FileNode { links })
}

fn parse_link(bytes: &[u8]) -> Result<FileLink, &'static str> {
    let mut fields = Fields(bytes);
    let mut cid = None;
    let mut dag_bytes = 0;
    while !fields.0.is_empty() {
        match fields.byte()? {
            LINK_HASH => {
                cid = Some(Cid::from_bytes(fields.bytes()?).map_err(|_| "foreign CID")?);
            }
            LINK_NAME => drop(fields.bytes()?),
            LINK_TSIZE => dag_bytes = fields.varint()?,
            _ => return Err("unexpected field"),
        }
    }
    Ok(FileLink { cid: cid.ok_or("no CID")?, size: 0, dag_bytes })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_node_matches_the_vector() {
        let leaf =
            |byte: u8, size| FileLink { cid: Cid::of(Codec::Raw, &[byte]), size, dag_bytes: size };
        let node = FileNode { links: vec![leaf(1, 1 << 20), leaf(2, 5)] };
        let (block, link) = node.to_block();
        assert_eq!(FileNode::from_block(&block).unwrap(), node);
        assert_eq!(link.size, (1 << 20) + 5);
        assert_eq!(link.dag_bytes, (1 << 20) + 5 + block.bytes().len() as u64);
        assert_eq!(
            block.cid().to_string(),
            "bafyb4iflejqfsdg3auhh3ktvlz2vvwpt3agmblog7uyxyqqw4o4sxrslgu"
        );
    }

    #[test]
    fn only_the_canonical_form_is_a_node() {
        let link = FileLink { cid: Cid::of(Codec::Raw, &[1]), size: 5, dag_bytes: 5 };
        let bytes = FileNode { links: vec![link] }.to_block().0.bytes().to_vec();
        let read = |bytes: &[u8]| FileNode::from_block(&Block::new(Codec::DagPb, bytes.to_vec()));
        assert!(read(&bytes).is_ok());
        // The size of the file is written in two bytes instead of one.
        let at = bytes.len() - 4;
        assert_eq!(bytes[at..], [UNIXFS_FILE_SIZE, 5, UNIXFS_BLOCK_SIZE, 5]);
        let mut longer = bytes.clone();
        longer.splice(at + 1..=at + 1, [0x85, 0]);
        longer[at - 3] += 1;
        assert!(read(&longer).is_err());
        // A link with a name is refused, and one whose Tsize would overflow in its parent.
        let name = bytes.iter().position(|byte| *byte == LINK_NAME).unwrap();
        let mut named = bytes.clone();
        named.splice(name + 1..=name + 1, [1, b'n']);
        named[1] += 1;
        assert!(read(&named).is_err());
        let node = FileNode { links: vec![FileLink { dag_bytes: u64::MAX, ..link }] };
        assert!(read(&node.encode()).is_err());
    }

    #[test]
    fn sizes_that_are_too_large_to_add_do_not_wrap() {
        let link = |byte, size| FileLink {
            cid: Cid::of(Codec::Raw, &[byte]),
            size,
            dag_bytes: u64::MAX - 1,
        };
        let node = FileNode { links: vec![link(1, u64::MAX - 1), link(2, 5)] };
        assert_eq!(node.size(), u64::MAX);
        let (block, link) = node.to_block();
        assert_eq!((link.size, link.dag_bytes), (u64::MAX, u64::MAX));
        assert!(FileNode::from_block(&block).is_err());
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            drop(FileNode::from_block(&Block::new(Codec::DagPb, bytes)));
        }
    }
}
