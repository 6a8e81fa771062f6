//! CIDs and blocks of Fula against those of kubo, another implementation of IPFS.
//!
//! `vectors/kubo.json` was measured with kubo 0.43.0 by `vectors/kubo.py`. The CID of a file is the one that
//! `ipfs add --cid-version=1 --raw-leaves --hash=blake3 --chunker=size-1048576 --max-file-links=1024` gives.
//! The CID and the JSON of a block are those of `ipfs dag put --input-codec=dag-cbor --store-codec=dag-cbor
//! --hash=blake3` and `ipfs dag get`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use bytes::Bytes;
use fula_core::{
    block::{Block, Placement},
    bucket::{
        Attached, BucketRoot, Checksum, ChecksumAlgorithm, ETag, Fingerprint, ObjectKind,
        ObjectRecord, Seq,
    },
    content::{DagBuilder, FileLink, LEAF_BYTES, LINKS_MAX},
    id::{BucketId, BucketName, Cid, Codec, OwnerId, WriterId},
    in_memory::MemoryBlocks,
    tree::{Edits, Node, Nodes, Salt, Tree, edit},
};
use futures::executor::block_on;
use serde_json::{Value, json};

/// Number of different full leaves in the files of the vectors.
const LEAVES: u64 = 16;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/kubo.json")).unwrap()
}

/// Returns a leaf of `bytes` bytes, all of which are `byte`.
fn leaf(byte: u64, bytes: u64) -> FileLink {
    let content = vec![u8::try_from(byte).unwrap(); usize::try_from(bytes).unwrap()];
    FileLink { cid: Cid::of(Codec::Raw, &content), size: bytes, dag_bytes: bytes }
}

/// Returns the address of a file whose n-th MiB is filled with the byte n mod 16.
fn address_of(size: u64, full: &[FileLink]) -> Cid {
    let leaf_bytes = LEAF_BYTES as u64;
    let mut file = DagBuilder::default();
    for n in 0..size / leaf_bytes {
        file.push(full[usize::try_from(n % LEAVES).unwrap()]);
    }
    if !size.is_multiple_of(leaf_bytes) {
        file.push(leaf(size / leaf_bytes % LEAVES, size % leaf_bytes));
    }
    // Content without a byte is one empty block.
    file.finish().map_or(Cid::of(Codec::Raw, b""), |(root, _)| root.cid)
}

#[test]
fn files_have_the_addresses_that_ipfs_add_gives() {
    let full: Vec<_> = (0..LEAVES).map(|byte| leaf(byte, LEAF_BYTES as u64)).collect();
    let (mut single, mut deep) = (0, 0);
    for file in vectors()["files"].as_array().unwrap() {
        let size = file["bytes"].as_u64().unwrap();
        assert_eq!(address_of(size, &full).to_string(), file["cid"], "{size} bytes");
        single += u32::from(size <= LEAF_BYTES as u64);
        deep += u32::from(size > (LEAF_BYTES * LINKS_MAX) as u64);
    }
    assert!(
        single >= 4 && deep >= 3,
        "{single} files of one block, {deep} of several levels of nodes"
    );
}

fn record(n: u64) -> ObjectRecord {
    ObjectRecord {
        kind: ObjectKind::Object,
        size: n,
        etag: ETag::Md5([9; 16]),
        checksums: vec![Checksum {
            algorithm: ChecksumAlgorithm::Crc64Nvme,
            composite_parts: 0,
            value: Bytes::from_static(&[1; 8]),
        }],
        time: 1_700_000_000_000 + n,
        seq: Seq { version: 7, index: 1 },
        headers: Attached::Inline(
            [("content-type".into(), "text/plain; charset=\"ü\"".into())].into(),
        ),
        metadata: Attached::Linked(Cid::of(Codec::DagCbor, b"metadata")),
        tags: Attached::default(),
        acl: None,
        lock: None,
        sse: None,
        class: None,
        content: Some(Cid::of(Codec::Raw, b"hello")),
        parts: None,
        fingerprint: Some(Fingerprint([3; 16])),
        is_versioned: false,
        null_at: None,
    }
}

/// Returns a bucket root with all blocks of its tree of objects, by name: `root`, `inner` and `leaf`.
fn blocks() -> BTreeMap<&'static str, Block> {
    let nodes = Nodes::new(Arc::new(MemoryBlocks::default()), 1 << 20);
    let salt = Salt([7; 32]);
    let set = |n: u64| (Bytes::from(format!("photos/{n:03}.jpg")), Some((n, record(n).encode())));
    let edits: Edits = (0..60).map(set).collect();
    let edited = block_on(edit(&nodes, &salt, &Tree::default(), &edits)).unwrap();
    block_on(nodes.blocks().put(&edited.blocks, Placement::Commit)).unwrap();
    let inner = edited.blocks.iter().find(|block| Some(block.cid()) == edited.tree.root).unwrap();
    let node = Node::decode(inner.bytes()).unwrap();
    assert_eq!(node.level(), 1);
    let leaf = edited.blocks.iter().find(|block| block.cid() == node.child(0)).unwrap();

    let name = BucketName::parse("photos").unwrap();
    let mut root =
        BucketRoot::new(OwnerId([1; 16]), name, BucketId([2; 16]), salt, 8, 1_700_000_000_000);
    root.parent = Some(Cid::of(Codec::DagCbor, b"the root before"));
    root.settings = Some(Cid::of(Codec::DagCbor, b"settings"));
    root.objects = edited.tree;
    root.sign(WriterId([4; 16]), 0);
    BTreeMap::from([("root", root.to_block()), ("inner", inner.clone()), ("leaf", leaf.clone())])
}

/// Returns a byte string in dag-json.
fn bytes(bytes: &[u8]) -> Value {
    json!({"/": {"bytes": BASE64_STANDARD_NO_PAD.encode(bytes)}})
}

/// Returns a link, or null, in dag-json.
fn link(cid: Option<Cid>) -> Value {
    cid.map_or(Value::Null, |cid| json!({"/": cid.to_string()}))
}

fn map(map: &Attached) -> Value {
    match map {
        Attached::Inline(map) if map.is_empty() => Value::Null,
        Attached::Inline(map) => json!(map),
        Attached::Linked(cid) => link(Some(*cid)),
    }
}

fn json_of_record(value: &Bytes, size: u64) -> Value {
    let record = ObjectRecord::decode(value, size).unwrap();
    let ETag::Md5(md5) = record.etag else { panic!("an MD5") };
    let checksums: Vec<_> = (record.checksums.iter())
        .map(|sum| json!([sum.algorithm as u64, sum.composite_parts, bytes(&sum.value)]))
        .collect();
    json!([
        record.kind as u64,
        bytes(&md5),
        checksums,
        record.time,
        [record.seq.version, record.seq.index],
        map(&record.headers),
        map(&record.metadata),
        map(&record.tags),
        record.acl,
        null,
        null,
        record.class,
        link(record.content),
        link(record.parts),
        bytes(&record.fingerprint.unwrap().0),
        {},
    ])
}

fn json_of_node(block: &Block) -> Value {
    let node = Node::decode(block.bytes()).unwrap();
    let item = |index| {
        let (count, weights) = node.totals(index);
        if node.level() == 0 {
            let entry = node.entry(index);
            json!([bytes(&entry.key), weights, json_of_record(&entry.value, entry.weight)])
        } else {
            json!([bytes(node.key(index)), link(Some(node.child(index))), count, weights])
        }
    };
    json!([node.level(), (0..node.len()).map(item).collect::<Vec<_>>()])
}

fn json_of_root(block: &Block) -> Value {
    let root = BucketRoot::from_block(block).unwrap();
    let authors: Vec<_> = (root.authors.iter())
        .map(|author| json!([bytes(&author.writer.0), author.version, author.time]))
        .collect();
    let tree = |tree: &Tree| json!([link(tree.root), tree.count, tree.bytes]);
    json!([
        root.format,
        bytes(&root.owner.0),
        root.name.as_str(),
        bytes(&root.id.0),
        root.version,
        bytes(&root.parent.unwrap().to_bytes()),
        root.time,
        [root.created, root.deleted],
        bytes(&root.salt.0),
        authors,
        link(root.settings),
        tree(&root.objects),
        tree(&root.versions),
        tree(&root.uploads),
        tree(&root.recent),
        {},
    ])
}

#[test]
fn a_bucket_root_and_its_tree_read_as_ipfs_dag_get_shows_them() {
    let blocks = blocks();
    if std::env::var_os("FULA_PRINT_BLOCKS").is_some() {
        for (name, block) in &blocks {
            println!("{name} {}", hex::encode(block.bytes()));
        }
    }
    let vectors = vectors();
    let vectors = vectors["blocks"].as_array().unwrap();
    assert_eq!(vectors.len(), blocks.len());
    for vector in vectors {
        let name = vector["name"].as_str().unwrap();
        let block = &blocks[name];
        assert_eq!(hex::encode(block.bytes()), vector["block"], "{name}");
        assert_eq!(block.cid().to_string(), vector["cid"], "{name}");
        let json = if name == "root" { json_of_root(block) } else { json_of_node(block) };
        assert_eq!(json, vector["json"], "{name}");
    }
}
