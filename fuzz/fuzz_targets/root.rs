//! Decodes any bytes as a bucket root. An accepted root of the current format encodes to the same bytes.
#![no_main]

use bytes::Bytes;
use fula_core::{
    Block, BucketId, BucketName, Cid, Codec, OwnerId, WriterId,
    bucket::{BucketRoot, Settings},
    cbor::Reader,
};
use libfuzzer_sys::fuzz_target;

fn samples() -> [Vec<u8>; 2] {
    let name = BucketName::parse("bucket").expect("a name");
    let salt = fula_core::tree::boundary::Salt([5; 32]);
    let mut root = BucketRoot::new(OwnerId([1; 16]), name, BucketId([2; 16]), salt, 3, 1000);
    root.sign(WriterId([4; 16]), 0);
    root.parent = Some(Cid::of(Codec::DagCbor, b"parent"));
    root.objects.root = Some(Cid::of(Codec::DagCbor, b"objects"));
    (root.objects.count, root.objects.bytes) = (1, 1 << 40);
    let settings = ["policy", "cors"].map(|name| (name.to_owned(), Cid::of(Codec::Raw, b"s")));
    let settings = Settings { blocks: settings.into() };
    [root.to_block(), settings.to_block()].map(|block| block.bytes().to_vec())
}

fuzz_target!(|data: &[u8]| {
    let data = fula_fuzz::input(data, &samples());
    let block = Block::new(Codec::DagCbor, Bytes::copy_from_slice(&data));
    if let Ok(root) = BucketRoot::from_block(&block) {
        let again = root.to_block();
        if root.format == fula_core::bucket::FORMAT {
            // The last field is for later formats, and is not kept.
            let (_, kept) = again.bytes().split_last().expect("not empty");
            assert!(block.bytes().starts_with(kept), "another root");
        }
        // A collector must find every tree that a reader would follow.
        let mut links = Vec::new();
        Reader::links(block.bytes(), &mut |cid| links.push(cid)).expect("a root is one value");
        for tree in [&root.objects, &root.versions, &root.uploads, &root.recent] {
            assert!(tree.root.is_none_or(|root| links.contains(&root)));
        }
    }
    if let Ok(settings) = Settings::from_block(&block) {
        assert_eq!(settings.to_block(), block);
    }
});
