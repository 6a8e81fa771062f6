//! Tests of blocks that a check found damaged.

use super::*;

#[tokio::test]
async fn what_a_check_found_damaged_is_stored_anew_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let rotten = block(0, 4096);
    {
        let store = open(&dir);
        for n in 0..60 {
            put(&store, &block(n, 4096), Placement::Commit).await;
        }
    }
    // The block lies in a segment of which a start reads only the footer.
    let oldest = dir.path().join("log/commit-00000001.log");
    assert_ne!(segment(&dir, "commit"), oldest, "never rolled");
    let head = block_heads(&oldest)[0];
    let file = std::fs::OpenOptions::new().write(true).open(&oldest).unwrap();
    file.write_all_at(&[0xff], head + 32 + Cid::BYTES as u64 + 500).unwrap();
    let store = open(&dir);
    assert_eq!(store.recovery.damaged, []);
    let found: Vec<Cid> = store.verify().unwrap().iter().filter_map(|damage| damage.cid).collect();
    assert_eq!(found, [rotten.cid()]);
    store.note_suspects(&found).unwrap();
    drop(store);
    // Nothing has read it since the start, so the index takes it for intact.
    let store = open(&dir);
    put(&store, &rotten, Placement::Commit).await;
    assert_eq!(store.blocks.get(&rotten.cid()).await.unwrap(), Some(rotten));
    assert_eq!(store.verify().unwrap(), []);
    store.note_suspects(&[]).unwrap();
    assert!(!dir.path().join("log/suspects").exists());
}

#[tokio::test]
async fn damage_that_was_read_is_not_compacted_away_and_stays_known() {
    let dir = tempfile::tempdir().unwrap();
    let rotten = block(0, 4096);
    {
        let store = open(&dir);
        for n in 0..60 {
            put(&store, &block(n, 4096), Placement::Commit).await;
        }
    }
    let oldest = dir.path().join("log/commit-00000001.log");
    let head = block_heads(&oldest)[0];
    let file = std::fs::OpenOptions::new().write(true).open(&oldest).unwrap();
    file.write_all_at(&[0xff], head + 32 + Cid::BYTES as u64 + 500).unwrap();
    let store = open(&dir);
    assert!(!store.is_damage_known());
    // A read finds it, and the index forgets it: nothing of it seems to live in the segment any more.
    store.blocks.get(&rotten.cid()).await.unwrap_err();
    assert!(store.is_damage_known());
    while store.compact(5, &|| {}).unwrap() > 0 {}
    assert!(oldest.exists(), "the damage is gone without a trace");
    let found: Vec<Option<Cid>> =
        store.verify().unwrap().into_iter().map(|damage| damage.cid).collect();
    assert_eq!(found, [Some(rotten.cid())]);
    store.note_damage();
    drop(store);
    let store = open(&dir);
    assert!(store.is_damage_known(), "a restart forgets it");
    // Damage that was found during a check is not forgotten by it.
    let times = store.times_damaged();
    store.blocks.get(&rotten.cid()).await.unwrap_err();
    store.forget_damage(times).unwrap();
    assert!(store.is_damage_known());
    put(&store, &rotten, Placement::Commit).await;
    store.forget_damage(store.times_damaged()).unwrap();
    assert!(!store.is_damage_known());
    while store.compact(5, &|| {}).unwrap() > 0 {}
    assert!(!oldest.exists());
    assert_eq!(store.blocks.get(&rotten.cid()).await.unwrap(), Some(rotten));
    drop(store);
    assert!(!open(&dir).is_damage_known());
}
