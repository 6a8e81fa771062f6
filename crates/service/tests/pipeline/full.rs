//! A disk that is full.

use fula_core::block::Placement;
use fula_service::Invocation;

use super::{
    slow::{World, caller, whole},
    *,
};

/// Where nothing more fits, what takes away goes through, and in the company of what does not too.
#[tokio::test]
async fn deletions_go_through_on_a_full_disk() {
    let world = World::new(None, None).await;
    for key in ["a", "b"] {
        world.put(BUCKET, key, whole(vec![1; 100])).await.unwrap();
    }
    world.roots.swaps.close();
    let fill = async {
        world.roots.swaps.waited_at().await;
        *world.blocks.full.lock().unwrap() = Some(Vec::new());
        let open = async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            world.roots.swaps.open();
        };
        let put = world.put(BUCKET, "d", whole(vec![2; 100]));
        tokio::join!(world.delete(BUCKET, "a"), put, open)
    };
    let (first, (deleted, put, ())) =
        tokio::join!(world.put(BUCKET, "c", whole(vec![3; 100])), fill);
    assert!(first.is_ok() && deleted.is_ok(), "{first:?}, {deleted:?}");
    assert!(matches!(put, Err(ServiceError::Full)), "{put:?}");
    // The deletion came first: had it been alone, it would not have been refused first.
    let asked = world.blocks.full.lock().unwrap().take().unwrap();
    assert_eq!(asked, [Placement::Commit, Placement::Removal]);
    for (key, is_there) in [("a", false), ("b", true), ("c", true), ("d", false)] {
        assert_eq!(world.get(BUCKET, key).await.is_ok(), is_there, "{key}");
    }
}

/// What needs no space is answered as ever, whatever came with it: a write that was carried out before
/// and is tried again, and one whose condition fails.
#[tokio::test]
async fn answers_that_need_no_space_are_given_on_a_full_disk() {
    let world = World::new(None, None).await;
    let attempt = |n| Caller { invocation: Invocation::new("i", n), ..caller() };
    let put = async |caller: &Caller, key: &str, conditions: WriteConditions| {
        let request = PutRequest {
            key: key.to_owned(),
            facts: ObjectFacts::default(),
            conditions,
            body: whole(vec![1; 100]),
            body_facts: body_facts(),
        };
        world.service.put_object(caller, BUCKET, request).await
    };
    let first = put(&attempt(1), "a", if_absent()).await.unwrap();
    world.roots.swaps.close();
    let fill = async {
        world.roots.swaps.waited_at().await;
        *world.blocks.full.lock().unwrap() = Some(Vec::new());
        let open = async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            world.roots.swaps.open();
        };
        let (retry, user) = (attempt(2), caller());
        tokio::join!(
            put(&retry, "a", if_absent()),
            put(&user, "a", if_absent()),
            world.delete(BUCKET, "b"),
            put(&user, "d", WriteConditions::default()),
            open
        )
    };
    let before = world.put(BUCKET, "b", whole(vec![3; 100]));
    let (before, (again, refused, deleted, full, ())) = tokio::join!(before, fill);
    before.unwrap();
    deleted.unwrap();
    assert_eq!(again.unwrap(), first);
    assert!(matches!(refused, Err(ServiceError::PreconditionFailed(_))), "{refused:?}");
    assert!(matches!(full, Err(ServiceError::Full)), "{full:?}");
    // All were of one round: first with what does not fit, then without.
    let asked = world.blocks.full.lock().unwrap().take().unwrap();
    assert_eq!(asked, [Placement::Commit, Placement::Removal]);
}
