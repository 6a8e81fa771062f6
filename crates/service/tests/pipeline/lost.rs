//! Tests of lost blocks: what they affect, and how a bucket continues whose root is lost.

use fula_core::{Cid, bucket::BucketRoot, root::RootRow, tree::Node};
use fula_service::{
    fsck::{self, Checked, Fault, Place, Problem, TreeName},
    restore,
};

use super::{
    regression::{Federation, Member, memory},
    *,
};

async fn row(roots: &FaultyRoots, address: BucketAddress) -> RootRow {
    roots.get_roots(&[address]).await.unwrap().value.remove(0).unwrap()
}

async fn root(blocks: &MemoryBlocks, row: &RootRow) -> BucketRoot {
    BucketRoot::from_block(&blocks.get(&row.pointer.root).await.unwrap().unwrap()).unwrap()
}

async fn node(blocks: &MemoryBlocks, cid: Cid) -> Node {
    Node::decode(blocks.get(&cid).await.unwrap().unwrap().bytes()).unwrap()
}

#[tokio::test]
async fn what_is_missing_is_named_by_key_or_by_range_of_keys() {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let master = Master::new(&blocks, &roots, 1);
    master.create().await;
    for n in 0..300 {
        master.put(&format!("key-{n:04}"), format!("body {n}").as_bytes()).await.unwrap();
    }
    let twice = master.put("key-0000-again", b"body 3").await.unwrap();
    let row = row(&roots, master.address()).await;
    let inner = node(&blocks, root(&blocks, &row).await.objects.root.unwrap()).await;
    assert!(inner.level() == 1 && inner.len() >= 3);
    // A leaf in the middle, whose keys are far from those that are named below.
    let middle = inner.len() / 2;
    let lost = inner.child(middle);
    assert!(blocks.lose(&lost) && blocks.lose(&twice.content.unwrap()));
    let nodes = master.service.arbiter().nodes();
    let mut checked = Checked::default();
    let key = |index: usize| String::from_utf8(inner.key(index).to_vec()).unwrap();
    let problem = |place, cid| Problem { place, fault: Fault::Missing(cid) };
    let named = |name: &str| {
        problem(Place::Key(TreeName::Objects, name.to_owned()), twice.content.unwrap())
    };
    let expected = [
        named("key-0000-again"),
        named("key-0003"),
        problem(Place::Keys(TreeName::Objects, Some(key(middle - 1)), Some(key(middle))), lost),
    ];
    for _ in 0..2 {
        // A problem that was found before is reported again, because another bucket may have it too.
        let report = fsck::check_bucket(nodes, &row, &mut checked).await.unwrap();
        assert_eq!((report.problems.as_slice(), report.count), (expected.as_slice(), 3));
    }
    assert!(restore::is_unreadable(&expected) && !restore::is_unreadable(&expected[..2]));
}

/// A bucket whose newest root is lost, and the masters that know it.
struct Lost {
    federation: Federation,
    members: Vec<Member>,
    row: RootRow,
}

/// Lets two masters write to a bucket in turns, and loses its newest root.
async fn lost_root() -> Lost {
    let federation = Federation::new();
    let one = federation.join(1, &memory()).await;
    let two = federation.join(2, &memory()).await;
    one.master.create().await;
    one.master.put("first", b"1").await.unwrap();
    two.master.put("second", b"2").await.unwrap();
    one.master.put("lost", b"3").await.unwrap();
    assert_eq!(two.master.get("lost").await.unwrap(), b"3");
    let row = row(&federation.roots, one.master.address()).await;
    assert!(federation.blocks.lose(&row.pointer.root));
    Lost { federation, members: vec![one, two], row }
}

async fn offer(member: &Member, row: &RootRow) -> restore::Offer {
    let arbiter = member.master.service.arbiter();
    let authors = arbiter.authors_of(row).await.unwrap();
    let bucket = restore::Unreadable { row: row.clone(), authors };
    restore::offers(arbiter.nodes(), &[bucket], &mut Checked::default()).await.unwrap().remove(0)
}

async fn restore(member: &Member, row: &RootRow, root: Cid) -> Result<u64, ServiceError> {
    let arbiter = member.master.service.arbiter();
    arbiter.restore_root(row, root, NamePolicy::PerOwner, &system_random(), true).await
}

#[tokio::test]
async fn a_bucket_goes_back_to_its_newest_readable_root_and_no_master_takes_alarm() {
    let Lost { federation, members, row } = lost_root().await;
    let offer = offer(&members[0], &row).await;
    assert_eq!((offer.version, row.pointer.version), (3, 4));
    // The other master had tried another root of that version, without the second object.
    assert_eq!((offer.objects.0, offer.lost_objects), (2, None));
    assert_eq!(restore(&members[0], &row, offer.root).await.unwrap(), 5);
    for member in &members {
        member.recovery.tick().await.unwrap();
        assert_eq!(member.master.service.arbiter().guard().alarm(), None);
        assert_eq!(member.master.get("second").await.unwrap(), b"2");
        assert!(matches!(member.master.get("lost").await, Err(ServiceError::NoSuchKey)));
    }
    for member in &members {
        member.master.put("lost", b"again").await.unwrap();
    }
    // Running the command twice does not undo what was written after the first time.
    let twice = restore(&members[0], &row, offer.root).await;
    assert!(matches!(twice, Err(ServiceError::Busy(_))), "{twice:?}");
    let third = federation.join(3, &memory()).await;
    assert_eq!(third.master.get("lost").await.unwrap(), b"again");
}

#[tokio::test]
async fn a_master_that_does_not_know_the_lost_root_does_not_restore() {
    let Lost { federation, members, row } = lost_root().await;
    let stranger = federation.join(9, &memory()).await;
    let offer = offer(&stranger, &row).await;
    let refused = restore(&stranger, &row, offer.root).await;
    assert!(matches!(refused, Err(ServiceError::InvalidRequest(_))), "{refused:?}");
    let unchanged = self::row(&federation.roots, members[0].master.address()).await;
    assert_eq!(unchanged, row);
}

#[tokio::test]
async fn a_root_in_memory_is_stored_again_and_nothing_is_lost() {
    let Lost { federation, members, row } = lost_root().await;
    let arbiter = members[0].master.service.arbiter();
    assert!(arbiter.put_root_back(&row).await.unwrap());
    let third = federation.join(3, &memory()).await;
    assert_eq!(third.master.get("lost").await.unwrap(), b"3");
}
