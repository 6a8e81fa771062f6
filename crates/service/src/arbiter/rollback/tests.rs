//! Tests of which answers of the arbiter are believed, and what survives a crash.

use fula_core::{
    BucketName, Codec, OwnerId, in_memory::MemoryMetadata, root::DeletedRow, tree::Salt,
};

use super::*;

fn bucket() -> BucketAddress {
    BucketAddress::new(OwnerId([1; 16]), BucketName::parse("bucket").unwrap())
}

fn head(version: u64, authors: &[(u8, u64)]) -> Head {
    let BucketAddress { owner, name } = bucket();
    let mut root = BucketRoot::new(owner, name, BucketId([2; 16]), Salt([0; 32]), version, version);
    root.authors = authors
        .iter()
        .map(|(writer, version)| Author {
            writer: WriterId([*writer; 16]),
            version: *version,
            time: 1,
        })
        .collect();
    let block = root.to_block();
    assert_eq!(block.cid().codec(), Codec::DagCbor);
    let row = RootRow {
        address: bucket(),
        pointer: RootPointer { root: block.cid(), version, generation: 0 },
        bucket_id: root.id,
        created: 1,
        deleted: None,
        global_name: false,
        claim: None,
    };
    Head { row, root }
}

fn judge(guard: &RollbackGuard, known: Option<&KnownState>, head: &Head) -> bool {
    let bucket = bucket();
    let asked = known.map(|known| guard.asked_with(Arc::new(known.clone())));
    let asked = asked.unwrap_or_default();
    guard.check_row(&bucket, &asked, Some(&head.row)).is_ok()
        && guard.check_root(&bucket, &asked, &head.row.pointer, &head.root).is_ok()
}

#[test]
fn only_states_that_include_what_is_known_are_adopted() {
    let known = KnownState::of(&head(5, &[(1, 5), (2, 4)]));
    let adopted = |head: &Head| judge(&RollbackGuard::new(None, true), Some(&known), head);
    assert!(adopted(&head(5, &[(1, 5), (2, 4)])));
    assert!(adopted(&head(6, &[(1, 5), (2, 6)])));
    assert!(adopted(&head(7, &[(1, 5), (2, 4), (3, 7)])));
    // These are behind; as far but different; and further but without a commit that was there.
    assert!(!adopted(&head(4, &[(1, 3), (2, 4)])));
    assert!(!adopted(&head(5, &[(1, 4), (2, 5)])));
    assert!(!adopted(&head(9, &[(1, 3), (2, 4), (3, 9)])));
    assert!(!adopted(&head(9, &[(1, 5), (3, 9)])));
    let guard = RollbackGuard::new(None, true);
    let gone = guard.check_row(&bucket(), &guard.asked_with(Arc::new(known)), None);
    assert!(matches!(gone, Err(ServiceError::Regressed(_))));
}

#[test]
fn a_mark_that_goes_back_or_changes_stops_writing() {
    let mark = |arbiter: &str, position| Mark { arbiter: arbiter.into(), position };
    let heard = |floor: &Mark, heard: &Mark| {
        let guard = RollbackGuard::new(None, true);
        guard.observe_mark(&guard.floor(), floor);
        guard.observe_mark(&guard.floor(), heard);
        guard.permit_write(&bucket()).is_ok()
    };
    assert!(heard(&mark("a", 5), &mark("a", 5)));
    assert!(heard(&mark("a", 5), &mark("a", 6)));
    assert!(!heard(&mark("a", 5), &mark("a", 4)));
    assert!(!heard(&mark("a", 5), &mark("b", 9)));
    // An answer that was overtaken by another is no rollback.
    let guard = RollbackGuard::new(None, true);
    guard.observe_mark(&guard.floor(), &mark("a", 1));
    let floor = guard.floor();
    assert!(guard.observe_mark(&floor, &mark("a", 9)));
    assert!(guard.observe_mark(&floor, &mark("a", 3)));
    assert!(guard.permit_write(&bucket()).is_ok());
    assert_eq!(guard.floor().mark, Some(mark("a", 9)));
}

#[test]
fn what_was_asked_during_an_alarm_raises_no_other() {
    let mark = |arbiter: &str, position| Mark { arbiter: arbiter.into(), position };
    let guard = RollbackGuard::new(None, true);
    guard.observe_mark(&guard.floor(), &mark("a", 5));
    let asked = guard.floor();
    assert!(!guard.observe_mark(&asked, &mark("b", 2)));
    assert!(guard.check_answer(&guard.floor(), &mark("b", 2)).is_err());
    guard.calm(mark("b", 3), BTreeSet::new());
    // An answer to an earlier question is not believed, and raises no second alarm.
    assert!(guard.check_answer(&asked, &mark("b", 2)).is_err());
    assert_eq!(guard.alarm(), None);
    assert!(guard.check_answer(&guard.floor(), &mark("b", 4)).is_ok());
}

#[tokio::test]
async fn what_was_committed_is_known_after_a_crash() {
    let memory: Arc<dyn MetadataStore> = Arc::new(MemoryMetadata::default());
    let first = RollbackGuard::open(Some(Arc::clone(&memory))).await.unwrap();
    let (four, five) = (head(4, &[(1, 4)]), head(5, &[(1, 5)]));
    first.commit(&bucket(), &four).await.unwrap();
    first.learn(&bucket(), &five, &Asked::default());
    let reopened = RollbackGuard::open(Some(Arc::clone(&memory))).await.unwrap();
    assert_eq!(*reopened.known(&bucket()).unwrap(), KnownState::of(&four));
    first.observe_mark(&first.floor(), &Mark { arbiter: "a".into(), position: 7 });
    first.flush().await.unwrap();
    let reopened = RollbackGuard::open(Some(memory)).await.unwrap();
    assert_eq!(*reopened.known(&bucket()).unwrap(), KnownState::of(&five));
    assert_eq!(reopened.floor().mark.unwrap().position, 7);
    // Writing can continue.
    reopened.commit(&bucket(), &head(6, &[(1, 6)])).await.unwrap();
}

/// Returns a tombstone of the same life as [`head`].
fn tombstone(version: u64) -> Head {
    let mut head = head(version, &[(1, version)]);
    (head.root.deleted, head.row.deleted) = (Some(9), Some(9));
    head
}

/// Returns a state of a later life, which lacks the earlier authors.
fn later(version: u64) -> Head {
    let mut head = head(version, &[(3, version)]);
    (head.root.id, head.row.bucket_id) = (BucketId([7; 16]), BucketId([7; 16]));
    head
}

fn dropped(version: u64) -> Vec<DeletedRow> {
    vec![DeletedRow { address: bucket(), pointer: tombstone(version).row.pointer }]
}

fn other(version: u64) -> Vec<DeletedRow> {
    let name = BucketName::parse("another").unwrap();
    let address = BucketAddress { name, ..bucket() };
    dropped(version).into_iter().map(|row| DeletedRow { address: address.clone(), ..row }).collect()
}

#[test]
fn a_row_may_be_missing_only_because_it_was_dropped_since_it_was_asked_for() {
    let learnt = |states: &[Head]| {
        let guard = RollbackGuard::new(None, true);
        for state in states {
            guard.learn(&bucket(), state, &guard.ask(&bucket()));
        }
        guard
    };
    let is_missed =
        |guard: &RollbackGuard, asked: &Asked| guard.check_row(&bucket(), asked, None).is_err();
    // The question was asked when the bucket was live or deleted; the answer is checked during the drop and
    // after it.
    for states in [&[head(5, &[(1, 5)])][..], &[head(5, &[(1, 5)]), tombstone(6)]] {
        let guard = learnt(states);
        let asked = guard.ask(&bucket());
        guard.learn(&bucket(), &tombstone(6), &asked);
        let rows = dropped(6);
        let under_way = guard.begin_drop(&rows);
        assert!(!is_missed(&guard, &asked));
        drop(under_way);
        assert!(!is_missed(&guard, &asked));
        assert!(!is_missed(&guard, &guard.ask(&bucket())));
        // The bucket was created again. A question from before tells nothing about it; one that is asked
        // now does.
        guard.learn(&bucket(), &later(7), &guard.ask(&bucket()));
        assert!(!is_missed(&guard, &asked));
        assert!(is_missed(&guard, &guard.ask(&bucket())));
    }
    // This bucket is live, while others are dropped at higher versions.
    let guard = learnt(&[head(5, &[(1, 5)])]);
    let asked = guard.ask(&bucket());
    let rows = other(60);
    let under_way = guard.begin_drop(&rows);
    assert!(is_missed(&guard, &asked));
    drop(under_way);
    // This is a tombstone without a drop since the question.
    let guard = learnt(&[tombstone(6)]);
    drop(guard.begin_drop(&other(60)));
    assert!(is_missed(&guard, &guard.ask(&bucket())));
    // This tombstone is above everything that was dropped.
    let guard = learnt(&[tombstone(6)]);
    let asked = guard.ask(&bucket());
    drop(guard.begin_drop(&other(5)));
    assert!(is_missed(&guard, &asked));
}

#[test]
fn what_was_asked_before_a_drop_is_not_learnt_after_it() {
    for found in [head(5, &[(1, 5)]), tombstone(6)] {
        let guard = RollbackGuard::new(None, true);
        let before = guard.ask(&bucket());
        let rows = dropped(6);
        let under_way = guard.begin_drop(&rows);
        let during = guard.ask(&bucket());
        // A state that was learnt during the drop is removed at its end.
        guard.learn(&bucket(), &found, &during);
        drop(under_way);
        for asked in [before, during] {
            guard.learn(&bucket(), &found, &asked);
            assert_eq!(guard.known(&bucket()), None);
        }
        // A question that is asked now is remembered at any version.
        guard.learn(&bucket(), &found, &guard.ask(&bucket()));
        assert!(guard.known(&bucket()).is_some());
    }
}

#[test]
fn a_state_of_before_the_deletion_that_is_learnt_late_raises_no_alarm() {
    let guard = RollbackGuard::new(None, true);
    guard.learn(&bucket(), &head(5, &[(1, 5)]), &guard.ask(&bucket()));
    // The root is read so slowly that in the meantime the bucket is deleted and its row is being dropped.
    let early = guard.ask(&bucket());
    guard.learn(&bucket(), &tombstone(6), &guard.ask(&bucket()));
    let rows = dropped(6);
    let under_way = guard.begin_drop(&rows);
    guard.learn(&bucket(), &head(5, &[(1, 5)]), &early);
    // The arbiter has dropped the row, and the drop has not ended here.
    let during = guard.ask(&bucket());
    guard.check_row(&bucket(), &during, None).unwrap();
    drop(under_way);
    guard.check_row(&bucket(), &guard.ask(&bucket()), None).unwrap();
    assert_eq!(guard.alarm(), None);
}

#[test]
fn a_later_life_need_not_include_what_was_dropped() {
    let guard = RollbackGuard::new(None, true);
    guard.learn(&bucket(), &tombstone(6), &guard.ask(&bucket()));
    let asked = guard.ask(&bucket());
    let found = later(7);
    let judge =
        |asked: &Asked| guard.check_root(&bucket(), asked, &found.row.pointer, &found.root).is_ok();
    drop(guard.begin_drop(&dropped(6)));
    assert!(judge(&asked));
    // Without a drop since then, the row must be there.
    let again = RollbackGuard::new(None, true);
    again.learn(&bucket(), &tombstone(6), &again.ask(&bucket()));
    let asked = again.ask(&bucket());
    assert!(again.check_root(&bucket(), &asked, &found.row.pointer, &found.root).is_err());
}
