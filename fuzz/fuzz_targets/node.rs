//! Decodes any bytes as a tree node. An accepted node encodes to the same block, and its keys are found.
#![no_main]

use bytes::Bytes;
use fula_core::{
    Cid, Codec,
    cbor::{Reader, Writer},
    tree::node::Node,
};
use libfuzzer_sys::fuzz_target;

/// Returns a leaf, and an inner node above it.
fn samples() -> [Vec<u8>; 2] {
    let (mut leaf, mut inner) = (Writer::default(), Writer::default());
    leaf.array(2).uint(0).array(3);
    inner.array(2).uint(1).array(3);
    for key in [b"a".as_slice(), b"key/b", &[b'l'; 40]] {
        leaf.array(3)
            .bytes(key)
            .uint(key.len() as u64)
            .array(2)
            .text("value")
            .link(&Cid::of(Codec::Raw, key));
        inner.array(4).bytes(key).link(&Cid::of(Codec::DagCbor, key)).uint(3).uint(1 << 40);
    }
    [leaf.finish().to_vec(), inner.finish().to_vec()]
}

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(&fula_fuzz::input(data, &samples()));
    let Ok(node) = Node::decode(&bytes) else { return };
    assert!(node.len() > 0);
    for index in 0..node.len() {
        let key = node.key(index);
        assert_eq!(node.find(key), Ok(index));
        assert!(index == 0 || node.key(index - 1) < key, "keys ascend");
        let _ = node.totals(index);
        if node.level() == 0 {
            assert_eq!(node.entry(index).key, key);
        } else {
            let _ = node.child(index);
        }
    }
    assert_eq!(node.last_key(), node.key(node.len() - 1));
    let _ = (node.sum(), node.memory_bytes());
    // A collector must find every child that a reader would follow.
    let mut links = Vec::new();
    Reader::links(&bytes, &mut |cid| links.push(cid)).expect("a node is one value");
    if node.level() > 0 {
        let children: Vec<_> = (0..node.len()).map(|index| node.child(index)).collect();
        assert_eq!(links, children);
    }
});
