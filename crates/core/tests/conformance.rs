//! Runs the suites on the reference stores, and checks that they refuse broken ones.

use std::{panic::AssertUnwindSafe, sync::Arc};

use fula_core::{
    conformance::{
        block_store,
        broken::{BlockFault, BrokenBlocks, BrokenMetadata, BrokenRoots, MetadataFault, RootFault},
        broken_packs::{BrokenPacks, PacksFault},
        metadata, pack_directory, root_store,
    },
    conformance_suite,
    in_memory::{MemoryBlocks, MemoryMetadata, MemoryPacks, MemoryRoots},
};
use futures::FutureExt;

mod memory_blocks {
    use super::*;
    conformance_suite!(block_store, async { Arc::new(MemoryBlocks::default()) });
}

mod memory_roots {
    use super::*;
    conformance_suite!(root_store, async { Arc::new(MemoryRoots::default()) });
}

mod memory_directory {
    use super::*;
    conformance_suite!(metadata, async { Arc::new(MemoryMetadata::default()) });
}

mod memory_packs {
    use super::*;
    conformance_suite!(pack_directory, async { Arc::new(MemoryPacks::default()) });
}

/// Asserts that a clause panics.
macro_rules! refuses {
    ($clause:path, $store:expr) => {{
        let store = $store;
        let outcome = AssertUnwindSafe($clause(&store)).catch_unwind().await;
        assert!(outcome.is_err(), "{} accepts {store:?}", stringify!($clause));
    }};
}

#[tokio::test]
async fn the_block_suite_refuses_broken_stores() {
    refuses!(block_store::a_new_put_saves_from_deletion, BrokenBlocks::new(BlockFault::NoRenewal));
    refuses!(
        block_store::sync_covers_what_was_already_there,
        BrokenBlocks::new(BlockFault::MarkForgetsPresent)
    );
    refuses!(block_store::refuses_oversized_blocks, BrokenBlocks::new(BlockFault::NoLimit));
    refuses!(block_store::marked_blocks_stay, BrokenBlocks::new(BlockFault::MarksForget));
    refuses!(
        block_store::blocks_of_writes_in_flight_stay,
        BrokenBlocks::new(BlockFault::DeletesUpToTheCut)
    );
}

#[tokio::test]
async fn the_root_suite_refuses_broken_stores() {
    let ignores = || BrokenRoots::new(RootFault::IgnoresExpected);
    refuses!(root_store::stale_swap_changes_nothing, ignores());
    refuses!(root_store::racing_writers_lose_nothing, ignores());
    refuses!(root_store::racing_creators_make_one, ignores());
    refuses!(
        root_store::every_field_of_the_pointer_is_compared,
        BrokenRoots::new(RootFault::IgnoresVersion)
    );
    refuses!(
        root_store::current_is_never_what_was_expected,
        BrokenRoots::new(RootFault::ReportsExpected)
    );
    refuses!(root_store::global_names_have_one_holder, BrokenRoots::new(RootFault::SharesNames));
    for fault in [RootFault::CountsDeleted, RootFault::CountsClaims] {
        refuses!(root_store::counts_what_an_owner_has, BrokenRoots::new(fault));
    }
    refuses!(root_store::versions_go_on_after_a_drop, BrokenRoots::new(RootFault::ForgetsFloor));
    refuses!(root_store::young_rows_are_not_dropped, BrokenRoots::new(RootFault::DropsTheYoung));
    for fault in [RootFault::DropsWhatWasSwapped, RootFault::DropsTheLiving] {
        refuses!(root_store::drops_only_what_it_is_told, BrokenRoots::new(fault));
    }
    for fault in [RootFault::RaisesNothing, RootFault::CreatesBelow] {
        refuses!(
            root_store::a_raised_generation_refuses_what_began_before,
            BrokenRoots::new(fault)
        );
    }
    refuses!(
        root_store::racing_swaps_are_seen_or_refused,
        BrokenRoots::new(RootFault::RaisesNothing)
    );
    refuses!(root_store::an_unknown_lease_is_refused, BrokenRoots::new(RootFault::IgnoresLease));
}

#[tokio::test]
async fn the_directory_suite_refuses_broken_stores() {
    let ignores = || BrokenMetadata::new(MetadataFault::IgnoresExpected);
    refuses!(metadata::stale_write_changes_nothing, ignores());
    refuses!(
        metadata::deleted_keeps_its_version,
        BrokenMetadata::new(MetadataFault::ForgetsDeleted)
    );
}

#[tokio::test]
async fn the_pack_suite_refuses_broken_directories() {
    let ignores = || BrokenPacks::new(PacksFault::IgnoresExpected);
    refuses!(pack_directory::a_stale_manifest_changes_nothing, ignores());
    refuses!(pack_directory::racing_manifests_have_one_winner, ignores());
    refuses!(pack_directory::a_manifest_replaces_entries, BrokenPacks::new(PacksFault::RemovesAll));
    refuses!(
        pack_directory::a_reader_that_follows_misses_nothing,
        BrokenPacks::new(PacksFault::ShowsLate)
    );
    refuses!(
        pack_directory::refuses_packs_of_a_past_generation,
        BrokenPacks::new(PacksFault::AddsBelow)
    );
}
