//! Buckets as CAR files: the same root makes the same file, and nothing of a faulty file is visible.

use std::{collections::BTreeMap, time::Duration};

use fula_core::{
    Block, Cid, Codec, OwnerId, StoreError,
    block::{Placement, list_all},
    bucket::{BucketRoot, Settings},
    car::{self, CarReader},
    cbor::Writer,
};
use fula_service::{BucketCar, CarCheck, ImportError, ImportTarget, Imported, ListRequest};

use super::{slow::LARGE, *};

fn master() -> Master {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    Master::new(&blocks, &roots, 1)
}

/// Returns a master with a bucket of many objects, of which some are large and some have equal content.
async fn filled() -> Master {
    let master = master();
    master.create().await;
    for n in 0..300_u32 {
        master.put(&format!("dir/{n:04}"), format!("body {}", n % 250).as_bytes()).await.unwrap();
    }
    master.put("large", &vec![7; 3 * LARGE]).await.unwrap();
    master.put("same", &vec![7; 3 * LARGE]).await.unwrap();
    master.put("empty", b"").await.unwrap();
    master
}

async fn read(car: BucketCar) -> Result<Vec<u8>, StoreError> {
    let pieces: Vec<Bytes> = car.bytes.try_collect().await?;
    Ok(pieces.concat())
}

async fn export(master: &Master, version: Option<u64>, since: Option<u64>) -> Vec<u8> {
    let user = Caller { pins: fula_service::RequestPins::default(), ..master.user.clone() };
    let car = master.service.bucket_car(&user, &bucket(), version, since).await.unwrap();
    read(car).await.unwrap()
}

/// Returns the blocks of a file, and its roots.
fn blocks_of(file: &[u8]) -> (Vec<Cid>, BTreeMap<[u8; Cid::BYTES], Bytes>) {
    let (mut reader, mut found) = (CarReader::default(), BTreeMap::new());
    reader.push(file);
    while let Some((cid, bytes)) = reader.next_block().unwrap() {
        assert_eq!(Cid::of(cid.codec(), &bytes), cid);
        assert!(found.insert(cid.to_bytes(), bytes).is_none(), "{cid} is there twice");
    }
    reader.end().unwrap();
    (reader.roots().unwrap().to_vec(), found)
}

async fn import(
    master: &Master,
    file: &[u8],
    target: ImportTarget,
) -> Result<Imported, ImportError> {
    let mut import = master.service.begin_import().await?;
    for piece in file.chunks(100_000) {
        import.push(piece).await?;
    }
    import.finish(target).await
}

/// Returns the first lines of the listing of a bucket.
async fn listing(master: &Master, name: &str) -> Vec<fula_service::ListingLine> {
    let request = ListRequest { limit: 1000, ..ListRequest::default() };
    let page = master.service.list_objects(&master.user, &bucket_name(name), &request).await;
    page.unwrap().lines
}

#[tokio::test]
async fn a_file_brings_the_bucket_back_under_its_root() {
    let one = filled().await;
    let file = export(&one, None, None).await;
    assert_eq!(export(&one, None, None).await, file, "the same root makes the same file");
    let (roots, blocks) = blocks_of(&file);
    assert!(blocks.contains_key(&roots[0].to_bytes()));

    let other = master();
    let done = import(&other, &file, ImportTarget::default()).await.unwrap();
    assert_eq!((done.root, done.file_root, done.already), (roots[0], roots[0], false));
    assert_eq!((done.blocks, done.objects.0), (blocks.len() as u64, 303));
    assert_eq!(other.get("large").await.unwrap(), vec![7; 3 * LARGE]);
    assert_eq!(other.version().await, one.version().await);
    assert_eq!(listing(&other, BUCKET).await, listing(&one, BUCKET).await);
    assert_eq!(export(&other, None, None).await, file);
    // It goes on like any other bucket.
    other.put("later", b"1").await.unwrap();
    let again = import(&other, &file, ImportTarget::default()).await;
    assert!(matches!(again, Err(ImportError::Exists { .. })), "{again:?}");
    let again = import(&one, &file, ImportTarget::default()).await.unwrap();
    assert!(again.already);
}

#[tokio::test]
async fn a_file_becomes_another_bucket_where_it_is_told_to_or_the_name_was_used() {
    let one = filled().await;
    let file = export(&one, None, None).await;
    let target = ImportTarget { name: Some(bucket_name("copy")), ..ImportTarget::default() };
    let done = import(&one, &file, target).await.unwrap();
    assert_ne!(done.root, done.file_root);
    assert_eq!(listing(&one, "copy").await, listing(&one, BUCKET).await);

    let owner = OwnerId::of_user("key:other");
    let target = ImportTarget { owner: Some(owner), ..ImportTarget::default() };
    assert_eq!(import(&one, &file, target).await.unwrap().bucket.owner, owner);

    // A name with a tombstone begins a new life above it.
    let two = master();
    two.create().await;
    for n in 0..400_u32 {
        two.put("k", &n.to_le_bytes()).await.unwrap();
    }
    two.delete("k").await.unwrap();
    two.service.delete_bucket(&two.user, &bucket()).await.unwrap();
    let done = import(&two, &file, ImportTarget::default()).await.unwrap();
    assert!(done.version > 402, "{done:?}");
    assert_eq!(two.get("empty").await.unwrap(), b"");
    two.put("more", b"1").await.unwrap();
}

/// A policy lets others into the bucket that it was made for, and into no copy of it.
#[tokio::test]
async fn a_bucket_of_another_name_or_owner_comes_back_private() {
    let one = filled().await;
    let open = r#"{"Statement": {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
        "Resource": "arn:aws:s3:::bucket/*"}}"#;
    one.service.set_policy(&one.user, &bucket(), Some(open)).await.unwrap();
    one.service.set_cors(&one.user, &bucket(), Some("[]")).await.unwrap();
    let file = export(&one, None, None).await;
    let settings = async |master: &Master, done: &Imported| {
        let nodes = master.service.arbiter().nodes();
        let root = nodes.blocks().get(&done.root).await.unwrap().unwrap();
        let settings = BucketRoot::from_block(&root).unwrap().settings.unwrap();
        let block = nodes.blocks().get(&settings).await.unwrap().unwrap();
        let names = Settings::from_block(&block).unwrap().blocks;
        names.into_keys().collect::<Vec<_>>()
    };
    let copy = ImportTarget { name: Some(bucket_name("copy")), ..ImportTarget::default() };
    let owner = Some(OwnerId::of_user("key:other"));
    for target in [copy, ImportTarget { owner, ..ImportTarget::default() }] {
        let done = import(&one, &file, target).await.unwrap();
        assert!(done.without_policy);
        assert_eq!(settings(&one, &done).await, ["cors"]);
    }
    // The bucket itself comes back as it was, also in a new life of its name.
    let two = master();
    let done = import(&two, &file, ImportTarget::default()).await.unwrap();
    assert!(!done.without_policy && done.root == done.file_root);
    let three = master();
    three.create().await;
    three.service.delete_bucket(&three.user, &bucket()).await.unwrap();
    let done = import(&three, &file, ImportTarget::default()).await.unwrap();
    assert!(!done.without_policy && done.root != done.file_root);
    assert_eq!(settings(&three, &done).await, ["cors", "policy"]);
}

#[tokio::test]
async fn an_older_version_and_what_changed_since_can_be_exported() {
    let one = filled().await;
    let old = one.version().await;
    let before = export(&one, None, None).await;
    one.put("dir/0100", b"changed").await.unwrap();
    one.delete("dir/0200").await.unwrap();
    one.put("large", &vec![8; 2 * LARGE]).await.unwrap();
    one.put("zzz", b"new").await.unwrap();
    assert_eq!(export(&one, Some(old), None).await, before);

    let (_, all) = blocks_of(&export(&one, None, None).await);
    let (_, known) = blocks_of(&before);
    let (roots, since) = blocks_of(&export(&one, None, Some(old)).await);
    assert!(since.contains_key(&roots[0].to_bytes()));
    let wanted: Vec<_> = all.keys().filter(|cid| !known.contains_key(*cid)).collect();
    assert_eq!(since.keys().collect::<Vec<_>>(), wanted, "exactly what is new");
    // Nothing but the root has changed since the newest version.
    let newest = one.version().await;
    let nothing = export(&one, None, Some(newest)).await;
    assert_eq!(blocks_of(&nothing).1.len(), 0);

    let user = one.user.clone();
    for version in [newest + 1, 0] {
        let unknown = one.service.bucket_car(&user, &bucket(), Some(version), None).await;
        assert!(matches!(unknown, Err(ServiceError::InvalidArgument(_))), "{unknown:?}");
    }
    let stranger = Caller::of(Identity::of_user("key:stranger"));
    let refused = one.service.bucket_car(&stranger, &bucket(), None, None).await;
    assert!(matches!(refused, Err(ServiceError::NoSuchBucket)), "{refused:?}");
}

/// For any changes, the older file and what changed since make a whole bucket.
#[tokio::test]
async fn what_changed_since_is_enough_for_any_changes() {
    let one = filled().await;
    let mut rng = fula_testkit::rng::Rng::new(1);
    for _ in 0..20 {
        let old = one.version().await;
        let (_, mut known) = blocks_of(&export(&one, None, None).await);
        for _ in 0..=rng.below(60) {
            let key = format!("dir/{:04}", rng.below(900));
            if rng.below(3) == 0 {
                drop(one.delete(&key).await);
            } else {
                one.put(&key, format!("{}", rng.below(50)).as_bytes()).await.unwrap();
            }
        }
        let (_, since) = blocks_of(&export(&one, None, Some(old)).await);
        known.extend(since);
        for cid in blocks_of(&export(&one, None, None).await).1.keys() {
            assert!(known.contains_key(cid));
        }
    }
}

/// Returns a file of these blocks.
fn file_of(root: Cid, blocks: &[Block]) -> Vec<u8> {
    let mut out = bytes::BytesMut::from(car::header(&[root]));
    for block in blocks {
        car::put_section(&mut out, &block.cid(), block.bytes());
    }
    out.to_vec()
}

fn sections(file: &[u8]) -> (Cid, Vec<Block>) {
    let mut reader = CarReader::default();
    reader.push(file);
    let mut blocks = Vec::new();
    while let Some((cid, bytes)) = reader.next_block().unwrap() {
        blocks.push(Block::verify(cid, bytes).unwrap());
    }
    (reader.roots().unwrap()[0], blocks)
}

#[tokio::test]
async fn a_faulty_file_leaves_nothing_behind() {
    let one = filled().await;
    let file = export(&one, None, None).await;
    let (root, blocks) = sections(&file);
    let header = car::header(&[root]).len();

    let mut wrong_hash = file.clone();
    let at = wrong_hash.len() - 1;
    wrong_hash[at] ^= 1;
    let last = (file.len()
        - usize::try_from(car::section_bytes(blocks.last().unwrap().bytes().len() as u64)).unwrap())
        as u64;
    let mut zero = file.clone();
    zero.push(0);
    let mut large = file[..header].to_vec();
    large.extend([0xa5, 0x80, 0x40]);
    large.extend(vec![0; (1 << 20) + 37]);
    let no_root = file_of(root, &blocks[1..]);
    let foreign = Cid::of(Codec::Raw, b"no bucket");
    let no_bucket = file_of(foreign, &[Block::new(Codec::Raw, Bytes::from_static(b"no bucket"))]);
    let hole = blocks.iter().position(|block| block.cid().codec() == Codec::DagPb).unwrap();
    let hole = [&blocks[..hole], &blocks[hole + 1..]].concat();

    let cases: Vec<(&str, Vec<u8>, String)> = vec![
        (
            "cut off",
            file[..file.len() - 1].to_vec(),
            format!("at byte {last}: the file is cut off"),
        ),
        ("empty", Vec::new(), "at byte 0: the header".to_owned()),
        ("header alone", file[..header].to_vec(), format!("the root {root} is not in the file")),
        ("wrong hash", wrong_hash, format!("at byte {last}: the bytes of block")),
        ("a zero at the end", zero, format!("at byte {}: a section", file.len())),
        ("a large block", large, format!("at byte {header}: a block is longer than 1 MiB")),
        ("no root", no_root, format!("the root {root} is not in the file")),
        ("no bucket", no_bucket, format!("the block {foreign}, at byte {header}, is not part")),
        ("a hole", file_of(root, &hole), "the file is not whole: the block bafy".to_owned()),
        (
            "two roots",
            [&car::header(&[root, root])[..], &file[header..]].concat(),
            "at byte 0: the header names 2 roots".to_owned(),
        ),
    ];
    for (name, file, text) in cases {
        let other = master();
        let refused = import(&other, &file, ImportTarget::default()).await.unwrap_err();
        assert!(refused.to_string().starts_with(&text), "{name}: {refused}");
        assert!(
            other.service.arbiter().current(&other.address()).await.unwrap().is_none(),
            "{name}"
        );
        other.service.collect(Duration::ZERO, &|| 0).await.unwrap();
        let store = other.service.arbiter().nodes().blocks();
        assert_eq!(list_all(store.as_ref()).await.unwrap(), [], "{name}");
    }
    let other = master();
    let target = ImportTarget { root: Some(foreign), ..ImportTarget::default() };
    let refused = import(&other, &file, target).await.unwrap_err();
    assert!(matches!(refused, ImportError::OtherRoot { .. }), "{refused}");
}

/// Returns a block that links others.
fn linking(cids: &[Cid]) -> Block {
    let mut out = Writer::default();
    out.array(cids.len());
    for cid in cids {
        out.link(cid);
    }
    Block::new(Codec::DagCbor, out.finish())
}

#[tokio::test]
async fn links_that_never_seem_to_end_are_followed_once_each() {
    let one = filled().await;
    let (root, mut blocks) = sections(&export(&one, None, None).await);
    let mut bucket = BucketRoot::from_block(&blocks[0]).unwrap();
    assert_eq!(blocks[0].cid(), root);
    let mut links = vec![Cid::of(Codec::Raw, b"x")];
    blocks.push(Block::new(Codec::Raw, Bytes::from_static(b"x")));
    // Every block links the one below it a thousand times.
    for _ in 0..40 {
        let block = linking(&vec![links[0]; 1000]);
        links = vec![block.cid()];
        blocks.push(block);
    }
    let settings = |cid| Settings { blocks: [("odd".to_owned(), cid)].into() }.to_block();
    blocks.push(settings(links[0]));
    bucket.settings = blocks.last().map(Block::cid);
    blocks[0] = bucket.to_block();
    let file = file_of(blocks[0].cid(), &blocks);
    let refused = import(&master(), &file, ImportTarget::default()).await.unwrap_err();
    assert!(refused.to_string().ends_with("it is nested too deep"), "{refused}");
    // A shallow one is nothing but odd.
    let shallow = blocks[blocks.len() - 36].cid();
    blocks.push(settings(shallow));
    bucket.settings = blocks.last().map(Block::cid);
    blocks[0] = bucket.to_block();
    let file = file_of(blocks[0].cid(), &blocks);
    import(&master(), &file, ImportTarget::default()).await.unwrap();
}

#[tokio::test]
async fn a_tree_that_is_not_one_is_refused() {
    let one = filled().await;
    let (_, mut blocks) = sections(&export(&one, None, None).await);
    let mut bucket = BucketRoot::from_block(&blocks[0]).unwrap();
    bucket.objects.count += 1;
    blocks[0] = bucket.to_block();
    let file = file_of(blocks[0].cid(), &blocks);
    let refused = import(&master(), &file, ImportTarget::default()).await.unwrap_err();
    assert!(refused.to_string().contains("totals"), "{refused}");
    bucket.objects.count -= 1;
    bucket.versions = bucket.objects;
    blocks[0] = bucket.to_block();
    let file = file_of(blocks[0].cid(), &blocks);
    let refused = import(&master(), &file, ImportTarget::default()).await.unwrap_err();
    assert!(refused.to_string().ends_with("it is linked twice"), "{refused}");
}

#[tokio::test]
async fn a_collection_takes_nothing_from_an_export_or_an_import() {
    let one = filled().await;
    let user = Caller { pins: fula_service::RequestPins::default(), ..one.user.clone() };
    let expected = export(&one, None, None).await;
    let car = one.service.bucket_car(&user, &bucket(), None, None).await.unwrap();
    drop(user);
    one.put("large", b"replaced").await.unwrap();
    one.put("same", b"replaced").await.unwrap();
    one.service.collect(Duration::ZERO, &|| 0).await.unwrap();
    assert_eq!(read(car).await.unwrap(), expected);

    let other = master();
    let mut import = other.service.begin_import().await.unwrap();
    for piece in expected.chunks(100_000) {
        import.push(piece).await.unwrap();
    }
    let collector = other.service.clone();
    tokio::time::pause();
    let done = collector.collect(Duration::ZERO, &|| 0).await.unwrap();
    assert_eq!((done.deleted, done.held_back), (0, true));
    import.finish(ImportTarget::default()).await.unwrap();
    assert_eq!(export(&other, None, None).await, expected);
}

/// The root block of an old version is kept longer than what it links. A request for it must not make collections
/// fail meanwhile.
#[tokio::test]
async fn a_version_that_is_gone_in_part_holds_no_collection_back() {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let writer = Master::new(&blocks, &roots, 1);
    writer.create().await;
    writer.put("large", &vec![7; 3 * LARGE]).await.unwrap();
    let old = writer.version().await;
    for n in 0..3 {
        writer.put("large", format!("replaced {n}").as_bytes()).await.unwrap();
    }
    // Requests of the writer hold nothing of this one back.
    let one = Master::new(&blocks, &roots, 2);
    // An earlier collection has deleted a part of it.
    let all = list_all(blocks.as_ref()).await.unwrap();
    let (file, _) = all.into_iter().find(|(cid, _)| cid.codec() == Codec::DagPb).unwrap();
    assert!(blocks.lose(&file));
    let car = one.service.export(&one.address(), Some(old), None).await.unwrap();
    let since = one.service.export(&one.address(), None, Some(old)).await.unwrap();
    one.service.collect(Duration::ZERO, &|| 0).await.unwrap();
    let cut = read(car).await;
    assert!(matches!(cut, Err(StoreError::Missing { .. })), "{cut:?}");
    read(since).await.unwrap();
}

/// A read of a block that is not there ends the file with an error, and never looks whole.
#[tokio::test]
async fn a_bucket_with_a_hole_is_not_exported() {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let one = Master::new(&blocks, &roots, 1);
    one.create().await;
    one.put("k", &vec![1; 3 * LARGE]).await.unwrap();
    let leaf = Block::new(Codec::Raw, vec![1; 1 << 20]);
    assert!(blocks.lose(&leaf.cid()));
    let refused = one.service.bucket_car(&one.user, &bucket(), None, None).await;
    assert!(matches!(refused, Err(ServiceError::Damaged(_))), "{refused:?}");
    let car = one.service.export(&one.address(), None, None).await.unwrap();
    let cut = read(car).await;
    assert!(matches!(cut, Err(StoreError::Missing { .. })), "{cut:?}");
    blocks.put(&[leaf], Placement::Bulk).await.unwrap();
    let car = one.service.bucket_car(&one.user, &bucket(), None, None).await.unwrap();
    read(car).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn files_are_checked_without_a_store() {
    let one = filled().await;
    let before = one.service.arbiter().current(&one.address()).await.unwrap().unwrap();
    let whole = export(&one, None, None).await;
    one.put("dir/0100", b"changed").await.unwrap();
    let (car, (objects, _)) =
        one.service.backup_car(&one.address(), Some(before.row.pointer.root)).await.unwrap();
    assert_eq!((objects, car.left_out.load(std::sync::atomic::Ordering::Relaxed)), (303, 0));
    let (old, new) = (before.row.pointer.root, car.root);
    let changes = read(car).await.unwrap();
    assert!(changes.len() < whole.len() / 10);
    let check = |files: &[(&[u8], Cid)]| {
        let mut check = CarCheck::default();
        for (file, root) in files {
            for piece in file.chunks(1000) {
                check.push(piece)?;
            }
            check.end_file(*root)?;
        }
        check.finish(false)
    };
    let alone = check(&[(&whole, old)]).unwrap();
    assert!(check(&[(&whole, old), (&changes, new)]).unwrap() > alone);
    assert!(matches!(check(&[(&changes, new)]), Err(ImportError::Lacks { .. })));
    assert!(matches!(check(&[(&whole, new)]), Err(ImportError::OtherRoot { .. })));
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    assert!(matches!(check(&[(&flipped, old)]), Err(ImportError::WrongHash { .. })));
    let cut = &whole[..whole.len() - 1];
    assert!(matches!(check(&[(cut, old)]), Err(ImportError::File { .. })));
}
