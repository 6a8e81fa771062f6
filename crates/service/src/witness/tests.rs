//! What is believed of an arbiter, and what outlives a crash.

use fula_core::{Codec, memory::MemoryDirectory, tree::Salt};

use super::*;

fn bucket() -> BucketAddress {
    (OwnerId([1; 16]), BucketName::parse("bucket").unwrap())
}

fn head(version: u64, authors: &[(u8, u64)]) -> Head {
    let (owner, name) = bucket();
    let mut root =
        BucketRoot::new(owner, name.clone(), BucketId([2; 16]), Salt([0; 32]), version, version);
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
        owner,
        bucket: name,
        pointer: RootPointer { root: block.cid(), version, generation: 0 },
        bucket_id: root.id,
        created: 1,
        deleted: None,
        global_name: false,
        claim: None,
    };
    Head { row, root }
}

fn judge(witness: &Witness, known: Option<&Known>, head: &Head) -> bool {
    let bucket = bucket();
    witness.judge_row(&bucket, known, Some(&head.row)).is_ok()
        && witness.judge_root(&bucket, known, &head.row.pointer, &head.root).is_ok()
}

#[test]
fn only_states_that_include_what_is_known_are_adopted() {
    let known = Known::of(&head(5, &[(1, 5), (2, 4)]));
    let adopted = |head: &Head| judge(&Witness::new(None, true), Some(&known), head);
    assert!(adopted(&head(5, &[(1, 5), (2, 4)])));
    assert!(adopted(&head(6, &[(1, 5), (2, 6)])));
    assert!(adopted(&head(7, &[(1, 5), (2, 4), (3, 7)])));
    // Behind; as far but another; further but without a commit that was there.
    assert!(!adopted(&head(4, &[(1, 3), (2, 4)])));
    assert!(!adopted(&head(5, &[(1, 4), (2, 5)])));
    assert!(!adopted(&head(9, &[(1, 3), (2, 4), (3, 9)])));
    assert!(!adopted(&head(9, &[(1, 5), (3, 9)])));
    let gone = Witness::new(None, true).judge_row(&bucket(), Some(&known), None);
    assert!(matches!(gone, Err(ServiceError::Regressed(_))));
}

#[test]
fn a_mark_that_goes_back_or_changes_stops_writing() {
    let mark = |arbiter: &str, position| Mark { arbiter: arbiter.into(), position };
    let heard = |floor: &Mark, heard: &Mark| {
        let witness = Witness::new(None, true);
        witness.hear_mark(&witness.floor(), floor);
        witness.hear_mark(&witness.floor(), heard);
        witness.permit_write(&bucket()).is_ok()
    };
    assert!(heard(&mark("a", 5), &mark("a", 5)));
    assert!(heard(&mark("a", 5), &mark("a", 6)));
    assert!(!heard(&mark("a", 5), &mark("a", 4)));
    assert!(!heard(&mark("a", 5), &mark("b", 9)));
    // An answer that was overtaken is no regression.
    let witness = Witness::new(None, true);
    witness.hear_mark(&witness.floor(), &mark("a", 1));
    let floor = witness.floor();
    assert!(witness.hear_mark(&floor, &mark("a", 9)));
    assert!(witness.hear_mark(&floor, &mark("a", 3)));
    assert!(witness.permit_write(&bucket()).is_ok());
    assert_eq!(witness.floor().mark, Some(mark("a", 9)));
}

#[test]
fn what_was_asked_during_an_alarm_raises_no_other() {
    let mark = |arbiter: &str, position| Mark { arbiter: arbiter.into(), position };
    let witness = Witness::new(None, true);
    witness.hear_mark(&witness.floor(), &mark("a", 5));
    let asked = witness.floor();
    assert!(!witness.hear_mark(&asked, &mark("b", 2)));
    assert!(witness.judge_answer(&witness.floor(), &mark("b", 2)).is_err());
    witness.calm(mark("b", 3), BTreeSet::new());
    // On its way since before: not believed, and no reason for another alarm.
    assert!(witness.judge_answer(&asked, &mark("b", 2)).is_err());
    assert_eq!(witness.alarm(), None);
    assert!(witness.judge_answer(&witness.floor(), &mark("b", 4)).is_ok());
}

#[tokio::test]
async fn what_was_committed_is_known_after_a_crash() {
    let memory: Arc<dyn Directory> = Arc::new(MemoryDirectory::default());
    let first = Witness::open(Some(Arc::clone(&memory))).await.unwrap();
    let (four, five) = (head(4, &[(1, 4)]), head(5, &[(1, 5)]));
    first.commit(&bucket(), &four).await.unwrap();
    first.learn(&bucket(), &five);
    let reopened = Witness::open(Some(Arc::clone(&memory))).await.unwrap();
    assert_eq!(*reopened.known(&bucket()).unwrap(), Known::of(&four));
    first.hear_mark(&first.floor(), &Mark { arbiter: "a".into(), position: 7 });
    first.flush().await.unwrap();
    let reopened = Witness::open(Some(memory)).await.unwrap();
    assert_eq!(*reopened.known(&bucket()).unwrap(), Known::of(&five));
    assert_eq!(reopened.floor().mark.unwrap().position, 7);
    // And it can be written on.
    reopened.commit(&bucket(), &head(6, &[(1, 6)])).await.unwrap();
}
