//! Tests of the service against a `BTreeMap`, with random operations and a power cut at every swap.

use std::collections::BTreeMap;

use fula_core::in_memory::MemoryBlocks;
use fula_service::{BucketOwner, CopyRequest, CopySourceRequest, ListRequest, ListingLine, fsck};
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Put(String, Vec<u8>),
    PutIfAbsent(String, Vec<u8>),
    Delete(String),
    DeleteMany(Vec<String>),
    Copy(String, String),
}

fn key() -> impl Strategy<Value = String> {
    "[ab]{1,2}(/[ab]{1,2})?"
}

fn op() -> impl Strategy<Value = Op> {
    let body = prop_oneof![
        9 => prop::collection::vec(any::<u8>(), 0..50),
        1 => any::<u8>().prop_map(|byte| vec![byte; (1 << 20) + 5]),
    ];
    prop_oneof![
        4 => (key(), body.clone()).prop_map(|(key, body)| Op::Put(key, body)),
        1 => (key(), body).prop_map(|(key, body)| Op::PutIfAbsent(key, body)),
        2 => key().prop_map(Op::Delete),
        1 => prop::collection::vec(key(), 1..5).prop_map(Op::DeleteMany),
        2 => (key(), key()).prop_map(|(from, to)| Op::Copy(from, to)),
    ]
}

type Model = BTreeMap<String, Vec<u8>>;

async fn apply(master: &Master, model: &mut Model, op: Op) {
    match op {
        Op::Put(key, body) => {
            master.put(&key, &body).await.unwrap();
            model.insert(key, body);
        }
        Op::PutIfAbsent(key, body) => {
            let put = master.put_if(&key, &body, if_absent()).await;
            assert_eq!(put.is_ok(), !model.contains_key(&key));
            model.entry(key).or_insert(body);
        }
        Op::Delete(key) => {
            master.delete(&key).await.unwrap();
            model.remove(&key);
        }
        Op::DeleteMany(keys) => {
            let conditions = WriteConditions::default;
            let requests =
                keys.iter().map(|key| DeleteKey { key: object_key(key), conditions: conditions() });
            let outcomes =
                master.service.delete_objects(&master.user, &bucket(), requests.collect()).await;
            assert!(outcomes.unwrap().iter().all(Result::is_ok));
            for key in keys {
                model.remove(&key);
            }
        }
        Op::Copy(from, to) => {
            let source = CopySourceRequest {
                owner: BucketOwner::default(),
                bucket: bucket(),
                key: object_key(&from),
                version: None,
                conditions: ReadConditions::default(),
            };
            let request = CopyRequest {
                source,
                key: object_key(&to),
                replace: Some(ObjectFacts::default()),
                tags: None,
                acl: None,
                checksum: None,
                encrypt: false,
                conditions: WriteConditions::default(),
            };
            let copied = master.service.copy_object(&master.user, &bucket(), request).await;
            match model.get(&from).cloned() {
                Some(body) => {
                    copied.unwrap();
                    model.insert(to, body);
                }
                None => assert!(matches!(copied, Err(ServiceError::NoSuchKey))),
            }
        }
    }
}

async fn compare(master: &Master, model: &Model) {
    let request = ListRequest { limit: 1000, ..ListRequest::default() };
    let listing = master.service.list_objects(&master.user, &bucket(), &request).await.unwrap();
    let names: Vec<_> = listing.lines.iter().map(ListingLine::name).collect();
    assert_eq!(names, model.keys().collect::<Vec<_>>());
    for (key, body) in model {
        assert_eq!(master.get(key).await.unwrap(), *body);
    }
    let info = master.service.bucket(&master.user, &bucket()).await.unwrap();
    let bytes: usize = model.values().map(Vec::len).sum();
    assert_eq!((info.objects, info.bytes), (model.len() as u64, bytes as u64));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn agrees_with_a_map(ops in prop::collection::vec(op(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let blocks = Arc::new(MemoryBlocks::default());
            let roots = FaultyRoots::new(&blocks);
            let masters = [Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2)];
            masters[0].create().await;
            let mut model = Model::new();
            for (n, op) in ops.into_iter().enumerate() {
                apply(&masters[n % 2], &mut model, op).await;
            }
            for master in &masters {
                compare(master, &model).await;
            }
            // A third master, which remembers nothing, reads after a power cut.
            blocks.crash();
            let fresh = Master::new(&blocks, &roots, 3);
            compare(&fresh, &model).await;
            let names = [fresh.address()];
            let row = roots.get_roots(&names).await.unwrap().value.remove(0).unwrap();
            let nodes = fresh.service.arbiter().nodes();
            let mut seen = fsck::Checked::default();
            let report = fsck::check_bucket(nodes, &row, &mut seen).await.unwrap();
            assert_eq!(report.problems, []);
        });
    }
}
