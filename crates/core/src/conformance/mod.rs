//! The contract of each storage trait as named clauses, which every implementation is tested with.
//!
//! A clause starts from an empty store and panics when the store breaks it. [`broken`] holds stores
//! that break one clause each; they show that the suites notice.
#![expect(clippy::unwrap_used, reason = "a clause fails by panicking")]

pub mod block_store;
pub mod broken;
pub mod broken_packs;
pub mod hooks;
pub mod metadata;
pub mod pack_directory;
pub mod root_store;

/// Writes one named test per clause of a suite.
///
/// `conformance_suite!(block_store, async { Arc::new(MemoryBlocks::default()) });`
#[macro_export]
macro_rules! conformance_suite {
    (block_store, $new:expr) => {
        $crate::conformance_suite!(@each block_store, $new,
            returns_what_was_put, absent_is_none, putting_twice_is_once, refuses_oversized_blocks,
            sync_covers_what_was_already_there, old_blocks_are_deleted,
            a_new_put_saves_from_deletion, marked_blocks_stay, blocks_of_writes_in_flight_stay,
            lists_what_is_held, concurrent_puts_all_hold);
    };
    // Of stores that are not collected by marks.
    (shared_block_store, $new:expr) => {
        $crate::conformance_suite!(@each block_store, $new,
            returns_what_was_put, absent_is_none, putting_twice_is_once, refuses_oversized_blocks,
            sync_covers_what_was_already_there, lists_what_is_held, concurrent_puts_all_hold);
    };
    (root_store, $new:expr) => {
        $crate::conformance_suite!(@each root_store, $new,
            absent_is_none, first_swap_creates, stale_swap_changes_nothing,
            current_is_never_what_was_expected, every_field_of_the_pointer_is_compared,
            racing_writers_lose_nothing, racing_creators_make_one, rows_are_kept_apart,
            lists_one_owner_in_order, scans_all_owners_in_order, global_names_have_one_holder,
            racing_claims_have_one_holder, counts_what_an_owner_has, marks_and_time_do_not_fall,
            waits_end, drops_only_what_it_is_told, young_rows_are_not_dropped,
            versions_go_on_after_a_drop, a_raised_generation_refuses_what_began_before,
            racing_swaps_are_seen_or_refused, an_unknown_lease_is_refused);
    };
    (metadata, $new:expr) => {
        $crate::conformance_suite!(@each metadata, $new,
            absent_is_none, versions_rise_by_one, stale_write_changes_nothing,
            deleted_keeps_its_version, lists_live_records_in_order, refuses_oversized_records,
            tables_are_kept_apart, racing_writers_lose_nothing);
    };
    (pack_directory, $new:expr) => {
        $crate::conformance_suite!(@each pack_directory, $new,
            absent_is_none, lists_in_order, a_manifest_replaces_entries,
            a_stale_manifest_changes_nothing, racing_manifests_have_one_winner,
            refuses_packs_of_a_past_generation,
            refuses_oversized_records, a_reader_that_follows_misses_nothing);
    };
    (@each $suite:ident, $new:expr, $($clause:ident),+ $(,)?) => {$(
        #[tokio::test]
        async fn $clause() {
            let store = $new.await;
            $crate::conformance::$suite::$clause(&*store).await;
        }
    )+};
}
