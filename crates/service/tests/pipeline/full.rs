//! Tests of a full disk.

use fula_core::block::Placement;
use fula_service::Invocation;

use super::{
    slow::{World, caller, whole},
    *,
};

/// Does `work` while a swap waits, so that it is one round, on a disk that is full from then on. The round
/// is tried with all changes, and then with those that only delete.
async fn in_a_round_that_does_not_fit<T>(world: &World, work: impl Future<Output = T>) -> T {
    world.roots.swaps.close();
    let work = async {
        world.roots.swaps.waited_at().await;
        *world.blocks.full.lock().unwrap() = Some(Vec::new());
        let open = async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            world.roots.swaps.open();
        };
        tokio::join!(work, open).0
    };
    let (before, done) = tokio::join!(world.put(BUCKET, "before", whole(vec![3; 100])), work);
    before.unwrap();
    let asked = world.blocks.full.lock().unwrap().take().unwrap();
    assert_eq!(asked, [Placement::Commit, Placement::Removal]);
    done
}

/// On a full disk deletions are carried out, even in a round with changes that do not fit.
#[tokio::test]
async fn deletions_go_through_on_a_full_disk() {
    let world = World::new(None, None).await;
    for key in ["a", "b"] {
        world.put(BUCKET, key, whole(vec![1; 100])).await.unwrap();
    }
    // The deletion comes first. Alone, it would not be refused at first.
    let work = Box::pin(async {
        tokio::join!(world.delete(BUCKET, "a"), world.put(BUCKET, "d", whole(vec![2; 100])))
    });
    let (deleted, put) = in_a_round_that_does_not_fit(&world, work).await;
    deleted.unwrap();
    assert!(matches!(put, Err(ServiceError::Full)), "{put:?}");
    for (key, is_there) in [("a", false), ("b", true), ("before", true), ("d", false)] {
        assert_eq!(world.get(BUCKET, key).await.is_ok(), is_there, "{key}");
    }
}

/// A change that needs no space is answered as usual, whatever is in its round: the retry of a write that
/// was carried out, and a write whose condition fails.
#[tokio::test]
async fn answers_that_need_no_space_are_given_on_a_full_disk() {
    let world = World::new(None, None).await;
    let attempt = |n| Caller { invocation: Invocation::new("i", n), ..caller() };
    let put = async |caller: &Caller, key: &str, conditions: WriteConditions| {
        let request = PutRequest {
            key: object_key(key),
            facts: ObjectFacts::default(),
            conditions,
            body: whole(vec![1; 100]),
            body_facts: body_facts(),
        };
        world.service.put_object(caller, &bucket(), request).await
    };
    let first = put(&attempt(1), "a", if_absent()).await.unwrap();
    world.put(BUCKET, "b", whole(vec![1; 100])).await.unwrap();
    let (retry, user) = (attempt(2), caller());
    let work = Box::pin(async {
        tokio::join!(
            put(&retry, "a", if_absent()),
            put(&user, "a", if_absent()),
            world.delete(BUCKET, "b"),
            put(&user, "d", WriteConditions::default()),
        )
    });
    let (again, refused, deleted, full) = in_a_round_that_does_not_fit(&world, work).await;
    deleted.unwrap();
    assert_eq!(again.unwrap(), first);
    assert!(matches!(refused, Err(ServiceError::PreconditionFailed(_))), "{refused:?}");
    assert!(matches!(full, Err(ServiceError::Full)), "{full:?}");
}
