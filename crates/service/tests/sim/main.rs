//! Simulation of several masters on one arbiter and one block store, in one seeded process.
//!
//! Messages are lost, delayed and duplicated; masters crash at any step, or sleep and come back; the
//! arbiter goes away. Time is simulated, so a seed always gives the same run: `make sim SEED=7` replays
//! one, and `make sim SEEDS=100000` runs many.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clients;
mod world;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use fula_service::fault_injection::{Fault, FaultInjection};
use fula_testkit::{
    check::check,
    history::{Ending, Event, Op},
};
use parking_lot::Mutex;

use crate::world::{Compared, Drops, Faults, World};

/// Number of seeds of an ordinary run.
const SEEDS: u64 = 10_000;

/// Number of seeds within which every injected fault must be found.
const SEEDS_TO_FIND_A_FLAW: u64 = 300;

/// The result of one seed.
struct Outcome {
    events: usize,
    faults: usize,
    forked: bool,
    /// Number of blocks that were collected.
    deleted: u64,
    /// Number of rows of deleted buckets that were dropped.
    dropped: u64,
    trace: [u8; 32],
    violations: Vec<String>,
}

/// Runs one seed. With `tell` it prints a trace.
fn run(seed: u64, faults: &Faults, tell: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let (outcome, world) = runtime.block_on(async {
        let world = World::new(seed, faults.clone(), tell);
        let mut events = clients::drive(&world).await;
        if let Some((from, to)) = world.blind() {
            events.retain_mut(|event| could_be_known(event, from, to));
        }
        let verdict = check(&events);
        let mut violations = world.violations();
        violations.extend(verdict.violations);
        if world.forked() {
            // Both sides were kept and merged, so no single order explains them any more.
            violations = world.violations();
        }
        let outcome = Outcome {
            events: events.len(),
            faults: world.fault_count(),
            trace: world.trace(),
            forked: world.forked(),
            deleted: world.deleted(),
            dropped: world.dropped(),
            violations,
        };
        (outcome, world)
    });
    // Tasks of crashed masters wait for ever. They end with the runtime, before the world that they use.
    drop(runtime);
    drop(world);
    outcome
}

/// Removes from an event everything that depends on a state which its master could not know to be outdated.
/// Returns whether the rest of the event is checked. Acknowledged writes always are: they must be there in
/// the end, or in a fork.
fn could_be_known(event: &mut Event, from_ns: u64, to_ns: u64) -> bool {
    if event.start_ns > to_ns {
        return true;
    }
    // The version of an unanswered swap that was lost may be used again.
    event.version = None;
    if event.end_ns < from_ns {
        return true;
    }
    // Whether a deletion found an object is a part of the answer too.
    if event.op == Op::Delete && event.outcome == Ending::Done {
        event.outcome = Ending::Unknown;
    }
    matches!(event.op, Op::Put | Op::Delete) && event.outcome != Ending::Refused
}

#[expect(clippy::disallowed_methods, reason = "which seeds to run is no setting of the product")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().unwrap())
}

/// Runs seeds on every core until one fails. Returns that one.
fn first_failure(seeds: std::ops::Range<u64>, faults: &Faults) -> Option<(u64, Outcome)> {
    let (next, failed) = (AtomicU64::new(seeds.start), AtomicU64::new(u64::MAX));
    let [events, hit, forks] = [(); 3].map(|()| AtomicUsize::new(0));
    let [deleted, dropped] = [(); 2].map(|()| AtomicU64::new(0));
    let outcomes = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end.min(failed.load(Ordering::Relaxed)) {
                        return;
                    }
                    let outcome = run(seed, faults, false);
                    events.fetch_add(outcome.events, Ordering::Relaxed);
                    hit.fetch_add(outcome.faults, Ordering::Relaxed);
                    forks.fetch_add(usize::from(outcome.forked), Ordering::Relaxed);
                    deleted.fetch_add(outcome.deleted, Ordering::Relaxed);
                    dropped.fetch_add(outcome.dropped, Ordering::Relaxed);
                    if !outcome.violations.is_empty() {
                        failed.fetch_min(seed, Ordering::Relaxed);
                        outcomes.lock().push((seed, outcome));
                    }
                }
            });
        }
    });
    let [events, hit, forks] = [events, hit, forks].map(AtomicUsize::into_inner);
    let count = usize::try_from(seeds.end - seeds.start).unwrap();
    let [deleted, dropped] = [deleted, dropped].map(AtomicU64::into_inner);
    println!(
        "{count} seeds, {events} operations, {hit} faults, {forks} forks, {deleted} blocks collected, {dropped} \
         rows dropped"
    );
    assert!(faults.drops == Drops::Never || dropped > 0, "no row was dropped in any run");
    assert!(!faults.collects || deleted > 0, "nothing was collected in any run");
    assert!(forks * 4 < count, "{forks} forks in {count} runs: nothing was checked");
    assert!(hit > 0, "nothing went wrong in any run");
    outcomes.into_inner().into_iter().min_by_key(|(seed, _)| *seed)
}

/// Runs the requested seeds, or the ordinary number of them.
fn all_hold(faults: &Faults, ordinary: u64) {
    if let Some(seed) = number("FULA_SIM_SEED") {
        let outcome = run(seed, faults, true);
        assert_eq!(outcome.violations, Vec::<String>::new(), "seed {seed}");
        return;
    }
    let seeds = number("FULA_SIM_SEEDS").unwrap_or(ordinary);
    if let Some((seed, outcome)) = first_failure(0..seeds, faults) {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let replay = format!("replay with: make sim SEED={seed} TEST={test}");
        panic!("seed {seed}: {:#?}\n{replay}", outcome.violations);
    }
}

#[test]
fn no_seed_breaks_a_promise() {
    all_hold(&Faults::default(), SEEDS);
}

/// Returns the faults of runs in which the arbiter goes back and nothing acknowledged may be lost. Masters
/// do not crash here, because a crash may lose what a master learnt from others in the last second.
fn regressing() -> Faults {
    Faults { regresses: true, crash: 0, pause: 2, ..Faults::default() }
}

#[test]
fn no_seed_loses_what_the_arbiter_forgot() {
    all_hold(&regressing(), SEEDS / 5);
}

#[test]
fn a_regressed_arbiter_that_is_adopted_is_found() {
    let omitted = FaultInjection(Some(Fault::RegressedAdopted));
    is_found("regressed arbiter adopted", &Faults { omitted, ..regressing() });
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    for seed in [1, 2, 3] {
        let [first, second] = [(); 2].map(|()| run(seed, &Faults::default(), false));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert!(first.faults > 0 && first.events > 20);
    }
}

/// Returns the faults of runs in which all masters collect garbage.
fn collecting() -> Faults {
    Faults { collects: true, pause_ms: 150_000, ..Faults::default() }
}

#[test]
fn no_seed_collects_what_is_needed() {
    all_hold(&collecting(), SEEDS);
}

/// Returns the faults of runs in which all masters collect garbage, and the arbiter goes back once. Masters do not
/// crash, as in [`regressing`].
fn restored() -> Faults {
    Faults { collects: true, ..regressing() }
}

#[test]
fn no_seed_collects_what_the_arbiter_forgot() {
    all_hold(&restored(), SEEDS / 20);
}

/// A master may sleep until its lease is taken away. The mark of the arbiter shows each restore.
#[test]
fn no_seed_relies_on_a_lease_of_before_a_restore() {
    all_hold(&Faults { pause_ms: 150_000, ..restored() }, SEEDS / 20);
}

/// Returns the faults of runs in which months pass, and all masters drop rows of deleted buckets.
fn dropping() -> Faults {
    Faults { drops: Drops::AfterMonths, ..collecting() }
}

#[test]
fn no_seed_brings_a_dropped_bucket_back() {
    all_hold(&dropping(), SEEDS / 20);
}

#[test]
fn a_version_floor_that_is_not_raised_is_found() {
    is_found("version floor not raised", &Faults { drops: Drops::WithoutFloor, ..dropping() });
}

fn collecting_with(fault: Fault) -> Faults {
    let omitted = FaultInjection(Some(fault));
    Faults { omitted, puts_of_a_kind: 6, pause: 20, ..collecting() }
}

#[test]
fn a_swap_that_does_not_compare_the_generation_is_found() {
    let faults = Faults { compared: Compared::AllButGeneration, ..collecting() };
    is_found("generation not compared", &faults);
}

#[test]
fn a_first_row_of_any_generation_is_found() {
    let compared = Compared::AllButFirstGeneration;
    is_found("first generation not compared", &Faults { compared, pause: 20, ..collecting() });
}

#[test]
fn a_put_that_an_older_generation_satisfies_is_found() {
    let faults = Faults { puts_only_new: true, puts_of_a_kind: 6, pause: 20, ..collecting() };
    is_found("put satisfied by an older generation", &faults);
}

#[test]
fn blocks_that_are_not_put_again_are_found() {
    is_found("blocks not put again", &collecting_with(Fault::BlocksNotPutAgain));
}

#[test]
fn content_that_is_linked_after_a_collection_is_found() {
    is_found("content needs no origin", &collecting_with(Fault::ContentNeedsNoOrigin));
}

#[test]
fn a_lease_that_is_not_compared_is_found() {
    is_found("lease not compared", &collecting_with(Fault::LeaseNotCompared));
}

#[test]
fn leases_that_are_ignored_are_found() {
    is_found("leases ignored", &collecting_with(Fault::LeasesIgnored));
}

/// Checks that the simulation notices a rule that is left out.
fn is_found(name: &str, faults: &Faults) {
    let Some((seed, outcome)) = first_failure(0..SEEDS_TO_FIND_A_FLAW, faults) else {
        panic!("{name} was not found in {SEEDS_TO_FIND_A_FLAW} seeds");
    };
    println!("{name} found by seed {seed}: {}", outcome.violations[0]);
}

fn with(fault: Fault) -> Faults {
    Faults { omitted: FaultInjection(Some(fault)), ..Faults::default() }
}

#[test]
fn a_swap_that_does_not_compare_is_found() {
    is_found("version not compared", &Faults { compared: Compared::Nothing, ..Faults::default() });
}

#[test]
fn conditions_judged_only_early_are_found() {
    is_found("condition judged only before upload", &with(Fault::ConditionJudgedOnlyEarly));
}

#[test]
fn a_rebase_without_judging_is_found() {
    is_found("rebase without judging", &with(Fault::RebaseWithoutJudging));
}

#[test]
fn answers_from_a_stale_base_are_found() {
    is_found("no-op answers from a stale base", &with(Fault::AnswerFromStaleBase));
}

#[test]
fn reads_from_the_cached_root_are_found() {
    is_found("reads from the cached root", &with(Fault::ReadFromCachedRoot));
}

#[test]
fn an_unanswered_swap_taken_for_lost_is_found() {
    is_found("unanswered swap taken for lost", &with(Fault::UnansweredTakenForLost));
}

#[test]
fn retries_not_recognised_are_found() {
    is_found("record off", &with(Fault::RecordOff));
}

#[test]
fn a_root_published_before_its_blocks_is_found() {
    is_found("root published before its blocks", &with(Fault::PublishedBeforeDurable));
}
