//! Unit tests of the module.

use fula_core::in_memory::{MemoryMetadata, MemoryRoots};

use super::*;

#[tokio::test]
async fn commands_take_what_masters_agreed_on_and_decide_nothing() {
    let metadata = MemoryMetadata::default();
    let serve = Purpose::Serve(NamePolicy::PerOwner);
    for mode in [SEALING_KEY, BLOCKS] {
        for command in [Purpose::Administer, Purpose::Read] {
            assert_eq!(agreed(&metadata, mode, command, "theirs").await.unwrap(), None);
            // Even a deletion would be a row that a restore conflicts with.
            assert_eq!(metadata.read(Table::Modes, mode).await.unwrap(), None);
        }
        for purpose in [serve, Purpose::Administer, Purpose::Read, Purpose::MoveIn] {
            let found = agreed(&metadata, mode, purpose, "ours").await.unwrap();
            assert_eq!(found.as_deref(), Some("ours"));
        }
        let found = agreed(&metadata, mode, Purpose::Administer, "others").await.unwrap();
        assert_eq!(found.as_deref(), Some("ours"));
    }
}

#[tokio::test]
async fn nothing_moves_into_an_arbiter_that_is_being_restored() {
    let (roots, metadata) = (MemoryRoots::default(), MemoryMetadata::default());
    check_whole(&roots, &metadata).await.unwrap();
    metadata.write(Table::Masters, "one", 0, Some("{}".into())).await.unwrap();
    let refused = check_whole(&roots, &metadata).await.unwrap_err();
    assert!(matches!(refused, NodeError::NobodyDecided), "{refused}");
    metadata.write(Table::Modes, SEALING_KEY, 0, Some("00".into())).await.unwrap();
    check_whole(&roots, &metadata).await.unwrap();
}
