//! Measures the parts of a write separately: tree edit, node codec, commit round, block log.
//!
//! `cargo bench -p fula-bench` runs all of them, and `-- NAME` some. The log is in the system's directory
//! for temporary files, and its figures are those of that disk.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::{hint::black_box, path::Path, sync::Arc};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fula_core::{
    Block, BlockStore, BucketName, Codec, ObjectKey, RootPointerStore, WriterId,
    block::Placement,
    bucket::ChecksumAlgorithm,
    cbor::Writer,
    in_memory::{MemoryBlocks, MemoryRoots},
    tree::{Edits, Node, Nodes, Salt, Tree, edit},
};
use fula_service::{
    Arbiter, Caller, Identity, Limits, NamePolicy, ObjectFacts, PutRequest, RollbackGuard, Service,
    body::BodyFacts, condition::WriteConditions, system_random,
};
use fula_stores::local::{LocalStore, system_clock};
use futures::future::join_all;
use tokio::runtime::{Builder, Runtime};

/// Number of entries of the tree that is edited.
const ENTRIES: u64 = 100_000;

/// Approximate length of a record of one object, in bytes.
const RECORD_BYTES: usize = 120;

const BODY_BYTES: usize = 4096;

const SALT: Salt = Salt([5; 32]);

fn runtime() -> Runtime {
    Builder::new_multi_thread().enable_all().build().unwrap()
}

fn key(n: u64) -> String {
    // Keys with successive numbers are far apart, as most names that clients choose.
    format!("{:016x}/object", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn edits(keys: impl Iterator<Item = u64>, version: u8) -> Edits {
    let mut record = Writer::with_capacity(RECORD_BYTES + 8);
    record.bytes(&[version; RECORD_BYTES]);
    let record = record.finish();
    keys.map(|n| (key(n).into(), Some((BODY_BYTES as u64, record.clone())))).collect()
}

/// Returns a tree of [`ENTRIES`] entries, and a store with its nodes.
async fn large_tree() -> (Nodes, Tree) {
    let blocks: Arc<dyn BlockStore> = Arc::new(MemoryBlocks::default());
    let nodes = Nodes::new(Arc::clone(&blocks), 256 << 20);
    let made = edit(&nodes, &SALT, &Tree::default(), &edits(0..ENTRIES, 0)).await.unwrap();
    blocks.put(&made.blocks, Placement::Commit).await.unwrap();
    (nodes, made.tree)
}

fn tree_edit(criterion: &mut Criterion) {
    let runtime = runtime();
    let (nodes, mut tree) = runtime.block_on(large_tree());
    let mut group = criterion.benchmark_group("tree edit, 100 000 entries");
    for changes in [1_u64, 16, 256] {
        group.throughput(Throughput::Elements(changes));
        let mut next = 0;
        group.bench_function(format!("{changes} changed"), |bencher| {
            bencher.iter_batched(
                || {
                    next += changes;
                    let version = next.to_le_bytes()[0];
                    edits((next..next + changes).map(|n| n * 7919 % ENTRIES), version)
                },
                |edits| {
                    let made = runtime.block_on(edit(&nodes, &SALT, &tree, &edits)).unwrap();
                    nodes.forget(&made.replaced);
                    tree = made.tree;
                    made
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn node_codec(criterion: &mut Criterion) {
    let runtime = runtime();
    let blocks: Arc<dyn BlockStore> = Arc::new(MemoryBlocks::default());
    let nodes = Nodes::new(blocks, 1 << 20);
    let build = |edits: &Edits| {
        runtime.block_on(edit(&nodes, &SALT, &Tree::default(), edits)).unwrap().blocks
    };
    let some = edits(0..1000, 0);
    let all = build(&some);
    let bytes: usize = all.iter().map(|block| block.bytes().len()).sum();
    let mut group = criterion.benchmark_group("nodes of 1 000 entries");
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function("cut, encode and hash", |bencher| {
        bencher.iter(|| black_box(build(&some)));
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            for block in &all {
                black_box(Node::decode(block.bytes()).unwrap());
            }
        });
    });
    group.finish();
}

/// Returns a service on any stores, with a bucket.
async fn service(blocks: Arc<dyn BlockStore>, roots: Arc<dyn RootPointerStore>) -> Service {
    let limits = Limits::default();
    let nodes = Arc::new(Nodes::new(blocks, limits.cache_bytes));
    let guard = RollbackGuard::new(None, true);
    let arbiter = Arbiter::new(nodes, roots, WriterId([1; 16]), &limits, guard);
    let service = Service::new(arbiter, limits, system_random(), NamePolicy::PerOwner);
    service.create_bucket(&user(), &bucket(), None).await.unwrap();
    service
}

fn bucket() -> BucketName {
    BucketName::parse("bucket").unwrap()
}

fn user() -> Caller {
    Caller::of(Identity::of_user("key:bench"))
}

async fn put(service: &Service, n: u64) {
    let body = bytes::Bytes::from([n.to_le_bytes().to_vec(), vec![0; BODY_BYTES - 8]].concat());
    let request = PutRequest {
        key: ObjectKey::parse(key(n % 1000)).unwrap(),
        facts: ObjectFacts::default(),
        conditions: WriteConditions::default(),
        body: Box::pin(futures::stream::iter([Ok(body)])),
        body_facts: BodyFacts {
            length: Some(BODY_BYTES as u64),
            length_max: BODY_BYTES as u64,
            md5: None,
            keep: ChecksumAlgorithm::Crc64Nvme,
            sent: ChecksumAlgorithm::Crc64Nvme,
            checksum: None,
            trailer: None,
        },
    };
    service.put_object(&user(), &bucket(), request).await.unwrap();
}

fn commit_round(criterion: &mut Criterion) {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path());
    let in_memory = (Arc::new(MemoryBlocks::default()) as _, Arc::new(MemoryRoots::default()) as _);
    let on_disk = (Arc::clone(&disk.blocks) as _, Arc::clone(&disk.roots) as _);
    let mut group = criterion.benchmark_group("commit round, 1 000 keys, 4 KiB");
    for (name, (blocks, roots)) in [("in memory", in_memory), ("on disk, synced", on_disk)] {
        let service = runtime.block_on(service(blocks, roots));
        let mut next = 0;
        for puts in [1_u64, 16] {
            group.throughput(Throughput::Elements(puts));
            group.bench_function(format!("{puts} at once, {name}"), |bencher| {
                bencher.iter(|| {
                    let first = next;
                    next += puts;
                    runtime.block_on(join_all((first..next).map(|n| put(&service, n))))
                });
            });
        }
    }
    group.finish();
}

fn open(dir: &Path) -> LocalStore {
    LocalStore::open(dir, system_clock(), false).unwrap()
}

fn block_of(n: &mut u64, len: usize) -> Block {
    *n += 1;
    let mut bytes = vec![0; len];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    Block::new(Codec::Raw, bytes)
}

fn block_log(criterion: &mut Criterion) {
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let blocks = &store.blocks;
    let mut n = 0;
    let mut group = criterion.benchmark_group("block log");
    for (len, placement) in [(4 << 10, Placement::Commit), (1 << 20, Placement::Bulk)] {
        let size = format!("{} KiB", len >> 10);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("put {size}"), |bencher| {
            bencher.iter_batched(
                || block_of(&mut n, len),
                |block| runtime.block_on(blocks.put(&[block], placement)).unwrap(),
                BatchSize::SmallInput,
            );
        });
        group.bench_function(format!("put {size} and sync"), |bencher| {
            bencher.iter_batched(
                || block_of(&mut n, len),
                |block| {
                    runtime.block_on(async {
                        let mark = blocks.put(&[block], placement).await.unwrap();
                        blocks.sync(mark).await.unwrap();
                    });
                },
                BatchSize::SmallInput,
            );
        });
        let block = block_of(&mut n, len);
        let cid = block.cid();
        runtime.block_on(blocks.put(&[block], placement)).unwrap();
        group.bench_function(format!("get {size}, verified"), |bencher| {
            bencher.iter(|| runtime.block_on(blocks.get(black_box(&cid))).unwrap());
        });
    }
    group.finish();
}

criterion_group!(parts, tree_edit, node_codec, commit_round, block_log);
criterion_main!(parts);
