//! Tests of mapped objects: who may map what, reads from nodes, and blocks that stay when a lease ends.

mod seeded;
mod world;

use std::{collections::HashSet, sync::atomic::Ordering};

use fula_core::{
    Block,
    bucket::{ETag, ObjectKind},
};
use fula_ingest::mapping::Offered;
use fula_service::{
    CopyRequest, CopySourceRequest, Invocation, MapRequest, Mapping, StorageNodes,
    auth::access::Grant, fsck,
};

use self::world::*;
use super::*;
use crate::faults::Fault;

#[tokio::test(start_paused = true)]
async fn a_mapped_object_is_like_any_other() {
    let world = World::new(None, false).await;
    let leaves: Vec<Block> = (0..5).map(block).collect();
    let mut receipts = Vec::new();
    for (n, leaf) in leaves.iter().enumerate() {
        receipts.push(world.send(1 + u8::from(n > 2), world.user(), leaf).await);
    }
    let (request, content) = of_file(&leaves, receipts);
    let record = world.map("file", &request).await.unwrap();
    assert_eq!((record.kind, record.etag), (ObjectKind::Mapped, ETag::Cid(request.cid)));
    for master in &world.masters {
        assert_eq!(master.get("file").await.unwrap(), content);
    }
    // The holds are pins now, and a copy is the same content.
    assert_eq!(world.sites.node(1).charged(world.masters[0].owner()), 0);
    let source = CopySourceRequest {
        owner: fula_service::BucketOwner::Unsaid,
        bucket: bucket(),
        key: object_key("file"),
        version: None,
        conditions: ReadConditions::default(),
    };
    let copy = CopyRequest {
        source: source.clone(),
        key: object_key("copy"),
        replace: None,
        tags: None,
        acl: None,
        checksum: None,
        encrypt: false,
        conditions: WriteConditions::default(),
    };
    world.masters[1].service.copy_object(world.user(), &bucket(), copy).await.unwrap();
    world.masters[0].delete("file").await.unwrap();
    world.pass(30 * HOUR, Some(1)).await;
    assert_eq!(world.masters[1].get("copy").await.unwrap(), content);
    // Nothing is missing: the leaves are held elsewhere.
    let nodes = world.masters[0].service.arbiter().nodes();
    let row =
        world.masters[0].service.arbiter().current(&world.masters[0].address()).await.unwrap();
    let report = fsck::check_bucket(nodes, &row.unwrap().row, &mut fsck::Checked::default()).await;
    assert_eq!(report.unwrap().problems, []);
    // Without receipts, an object that the caller may read is proof of its leaves; for nobody else.
    let source = CopySourceRequest { key: object_key("copy"), ..source };
    let again = MapRequest { receipts: Vec::new(), source: Some(source), ..request };
    world.sites.away(1, true);
    assert_eq!(world.map("again", &again).await.unwrap().size, content.len() as u64);
    let refused = world.map_as(&other_user(), "x", &again, WriteConditions::default()).await;
    assert!(refused.is_err());
    // A node that is away is named.
    let error = world.masters[0].get("again").await.unwrap_err();
    assert!(matches!(&error, ServiceError::NodeAway(name) if name == "north"), "{error:?}");
    world.sites.away(1, false);
    world.sites.wipe(1).await;
    let error = world.masters[0].get("again").await.unwrap_err();
    assert!(matches!(error, ServiceError::Damaged(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn copies_need_no_node() {
    let world = World::new(None, true).await;
    let sent = block(1);
    let receipt = world.send(1, world.user(), &sent).await;
    world.map("copied", &of_block(&sent, vec![receipt])).await.unwrap();
    world.sites.wipe(1).await;
    world.sites.away(1, true);
    assert_eq!(world.masters[1].get("copied").await.unwrap(), *sent.bytes());
    // What cannot be fetched is not mapped.
    let lost = block(2);
    let receipt = world.send(2, world.user(), &lost).await;
    world.sites.away(2, true);
    let refused = world.map("lost", &of_block(&lost, vec![receipt])).await;
    assert!(matches!(refused, Err(ServiceError::NodeAway(name)) if name == "south"));
}

/// One row of the failure matrix: the fault, and the answer that the client gets.
struct Row {
    what: &'static str,
    expected: &'static str,
}

/// Carries out one row. Returns the answer that the client gets.
async fn told(row: &Row) -> String {
    let world = World::new(None, false).await;
    let sent = block(1);
    let receipt = world.send(1, world.user(), &sent).await;
    let mut request = of_block(&sent, vec![receipt.clone()]);
    let mut conditions = WriteConditions::default();
    let mut user = world.user().clone();
    match row.what {
        "nothing" => {}
        "the flag is off" => {
            let service = world.masters[0].service.clone();
            let nodes = Arc::clone(&world.sites) as Arc<dyn StorageNodes>;
            let off = service.with_mapping(Mapping { nodes, accepts: false, copies: false });
            let none = WriteConditions::default();
            let mapped = off.map_object(&user, &bucket(), object_key("k"), &request, none).await;
            return mapped.map_or_else(|error| name_of(&error), |_| "done".to_owned());
        }
        "the node is away, and the receipt is there" => world.sites.away(1, true),
        "the node is away, and no receipt" => {
            world.sites.away(1, true);
            request.receipts.clear();
        }
        "no receipt, and the node holds it" => request.receipts.clear(),
        "no receipt, and nobody holds it" => request = of_block(&block(2), Vec::new()),
        "the lease is short" => {
            world.tick(23 * HOUR + 1).await;
        }
        "the lease was prolonged" => {
            world.tick(23 * HOUR).await;
            let owner = world.masters[0].owner();
            let longer = world.sites.node(1).prolong(owner, &[sent.cid()]).await.unwrap().unwrap();
            request.receipts = vec![Offered { receipt: longer.receipt, blocks: longer.blocks }];
        }
        "the node was never heard of, and answers now" => unmet(&world, false),
        "the node was never heard of, and is away" => unmet(&world, true),
        "the node lost its disk" => world.sites.wipe(1).await,
        "the disk is lost, and the block was sent to another node" => {
            world.sites.wipe(1).await;
            request.receipts = vec![world.send(2, world.user(), &sent).await];
        }
        "the receipt is of another user" => {
            request.receipts = vec![world.send(1, &other_user(), &sent).await];
        }
        "the receipt is of another block" => {
            let other = world.send(1, world.user(), &block(2)).await;
            request.receipts = vec![Offered { blocks: receipt.blocks, ..other }];
        }
        "the receipt is forged" => request.receipts[0].receipt.insert(9, 'A'),
        "another user knows the CID" => {
            user = other_user();
            request.receipts.clear();
            world.masters[0].service.create_bucket(&user, &bucket(), None).await.unwrap();
        }
        "the size is wrong" => request.size += 1,
        "the condition fails" => {
            world.masters[0].put("k", b"there already").await.unwrap();
            conditions = if_absent();
        }
        "the answer of the commit was lost, and the node since" => {
            user.invocation = Invocation::new("call", 1);
            world.map_as(&user, "k", &request, conditions.clone()).await.unwrap();
            world.sites.wipe(1).await;
            user.invocation = Invocation::new("call", 2);
        }
        "the swap is not answered" => world.roots.plan([Fault::AnswerLost]),
        other => panic!("{other}"),
    }
    match world.map_as(&user, "k", &request, conditions).await {
        Ok(_) => "done".to_owned(),
        Err(error) => name_of(&error),
    }
}

/// Makes a node one that no master has heard of.
fn unmet(world: &World, is_away: bool) {
    world.sites.site(1).is_unmet.store(true, Ordering::Relaxed);
    world.sites.away(1, is_away);
}

fn name_of(error: &ServiceError) -> String {
    let text = format!("{error:?}");
    text.split(['(', ' ']).next().unwrap_or_default().to_owned()
}

#[tokio::test(start_paused = true)]
async fn the_failure_matrix_of_a_mapping() {
    for (what, expected) in [
        ("nothing", "done"),
        ("the flag is off", "InvalidRequest"),
        ("the node is away, and the receipt is there", "done"),
        ("the node is away, and no receipt", "NotHeld"),
        ("no receipt, and the node holds it", "done"),
        ("no receipt, and nobody holds it", "NotHeld"),
        ("the lease is short", "NotHeld"),
        ("the lease was prolonged", "done"),
        ("the node was never heard of, and answers now", "done"),
        ("the node was never heard of, and is away", "NotHeld"),
        ("the node lost its disk", "NotHeld"),
        ("the disk is lost, and the block was sent to another node", "done"),
        ("the receipt is of another user", "NotProved"),
        ("the receipt is of another block", "NotProved"),
        ("the receipt is forged", "NotProved"),
        ("another user knows the CID", "NotHeld"),
        ("the size is wrong", "InvalidRequest"),
        ("the condition fails", "PreconditionFailed"),
        ("the answer of the commit was lost, and the node since", "done"),
        ("the swap is not answered", "done"),
    ] {
        let row = Row { what, expected };
        assert_eq!(told(&row).await, row.expected, "{what}");
    }
}

/// A node that signs receipts for blocks which it never got opens neither what the masters have nor what another
/// node has for another owner.
#[tokio::test(start_paused = true)]
async fn a_node_that_lies_opens_nothing_to_its_accomplice() {
    for copies in [false, true] {
        let world = World::new(None, copies).await;
        let thief = other_user();
        world.masters[0].service.create_bucket(&thief, &bucket(), None).await.unwrap();
        // One secret is on the masters, one on the honest node.
        let (here, there, mine) = (block(1), block(2), block(3));
        world.masters[0].put("secret", here.bytes()).await.unwrap();
        let receipt = world.send(2, world.user(), &there).await;
        world.map("there", &of_block(&there, vec![receipt])).await.unwrap();
        let honest = world.send(2, &thief, &mine).await;
        let lies = [world.lie(1, &thief, &here), world.lie(1, &thief, &there)];
        for (n, secret) in [&here, &there].into_iter().enumerate() {
            let alone = of_block(secret, vec![lies[n].clone()]);
            // Among leaves that the honest node has for the thief.
            let receipts = vec![lies[n].clone(), honest.clone()];
            let (among, _) = of_file(&[mine.clone(), secret.clone()], receipts);
            for request in [alone, among] {
                let mapped =
                    world.map_as(&thief, "stolen", &request, WriteConditions::default()).await;
                assert_eq!(mapped.is_ok(), !copies, "{mapped:?}");
                let service = world.masters[1].service.clone();
                let read = Master { service, user: thief.clone() }.get("stolen").await;
                assert!(read.is_err(), "{secret:?} was read");
            }
        }
        // The owner reads both.
        assert_eq!(world.masters[1].get("secret").await.unwrap(), *here.bytes());
        assert_eq!(world.masters[1].get("there").await.unwrap(), *there.bytes());
    }
}

/// A node learns nothing about blocks that no record places there.
#[tokio::test(start_paused = true)]
async fn a_node_is_answered_about_its_own_blocks_alone() {
    let world = World::new(None, false).await;
    let (north, south) = (block(1), block(2));
    let receipts =
        [world.send(1, world.user(), &north).await, world.send(2, world.user(), &south).await];
    for (key, block, receipt) in [("n", &north, &receipts[0]), ("s", &south, &receipts[1])] {
        world.map(key, &of_block(block, vec![receipt.clone()])).await.unwrap();
    }
    let both = HashSet::from([north.cid(), south.cid()]);
    let service = &world.masters[0].service;
    for (n, own) in [(1, &north), (2, &south)] {
        let needed = service.needed(key(n).id(), both.clone()).await.unwrap();
        assert_eq!(needed, HashSet::from([own.cid()]));
    }
}

/// A credential for a part of the account maps what it has sent itself, and nothing else of the owner.
#[tokio::test(start_paused = true)]
async fn a_narrow_grant_does_not_open_the_blocks_of_its_owner() {
    let world = World::new(None, false).await;
    let user = world.user().identity.as_ref().unwrap().user.clone();
    let with = |scopes: &[&str]| {
        Caller::of(Identity::restricted(&user, Grant::parse(Some(scopes)).unwrap()))
    };
    let (sent, none) = (block(1), WriteConditions::default());
    let receipt = world.send(1, world.user(), &sent).await;
    for scopes in [&["admin:bucket"][..], &["write:bucket", "read:bucket"], &["write:*"]] {
        let narrow = with(scopes);
        let asked = of_block(&sent, Vec::new());
        let refused = world.map_as(&narrow, "k", &asked, none.clone()).await;
        assert!(matches!(refused, Err(ServiceError::NotProved(_))), "{scopes:?}: {refused:?}");
        let shown = of_block(&sent, vec![receipt.clone()]);
        world.map_as(&narrow, "k", &shown, none.clone()).await.unwrap();
    }
    let wide = with(&["read:*", "write:bucket"]);
    world.map_as(&wide, "k", &of_block(&sent, Vec::new()), none).await.unwrap();
}
