//! A disk that is full.

use fula_core::block::Placement;

use super::{
    slow::{World, whole},
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
