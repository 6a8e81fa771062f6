//! A model of the commit protocol, which is searched in full within small bounds: two masters, lost, late
//! and duplicated messages, a crash, and an arbiter that goes back in time.
//!
//! A root is the list of operations that it contains, its version, and the last commit of each writer. Sent
//! swaps stay in transit as long as the server runs. One that is never delivered was lost; one that is
//! delivered later was late; one that is delivered twice was duplicated. The invariants are listed by name
//! in docs/semantics.md.

use stateright::{Checker, Model, Property};

/// Number of masters. Each has a second writer id for the time after its crash.
const MASTERS: usize = 2;

/// Number of operations that each master is asked for.
const OPERATIONS: [u8; MASTERS] = [2, 1];

/// Highest version that is explored.
const VERSIONS: u8 = 4;

/// A state of the bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Root {
    version: u8,
    /// Operations in the order in which they were applied.
    holds: Vec<u8>,
    /// Version of the last commit of each writer id; 0 for none.
    authors: [u8; 2 * MASTERS],
}

impl Root {
    fn includes(&self, other: &Self) -> bool {
        self == other
            || (self.version > other.version
                && self.authors.iter().zip(&other.authors).all(|(a, b)| a >= b))
    }
}

/// A swap in transit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Swap {
    expected: Root,
    new: Root,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    /// The master waits for the answer to this swap.
    Waiting {
        op: u8,
        swap: Swap,
    },
    /// The answer did not come.
    InDoubt {
        op: u8,
        swap: Swap,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Master {
    writer: usize,
    phase: Phase,
    /// Cached root, which may be stale.
    head: Root,
    /// Newest known root, which survives a crash.
    known: Root,
    /// The life of the arbiter that it believes in.
    timeline: u8,
    alarmed: bool,
    /// A row in transit to it.
    reading: Option<Root>,
    /// Highest version for which it sent a swap in this life.
    sent: u8,
    asked: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    row: Root,
    timeline: u8,
    /// Content of the backup.
    backup: Option<Root>,
    sent: Vec<Swap>,
    masters: Vec<Master>,
    /// Operations that were answered with success, and those answered with "nothing was changed".
    done: Vec<u8>,
    refused: Vec<u8>,
    crashes: u8,
    forked: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    Begin(usize),
    Read(usize),
    HearRow(usize),
    Deliver(usize),
    TimeOut(usize),
    Resolve(usize),
    Crash(usize),
    BackUp,
    Restore,
    Heal,
}

/// A rule that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// An unanswered swap is resolved with `authors`.
    Resolves,
    /// Two roots of a writer never have the same version.
    UniqueVersions,
    /// A base includes everything that is known.
    KnownBase,
    /// A swap compares the pointer.
    Compares,
    /// A pointer that went back is not believed.
    Doubts,
}

/// The protocol, its bounds, and the rules that are left out.
#[derive(Clone, Debug, Default)]
struct Protocol {
    crashes: u8,
    regresses: bool,
    without: &'static [Rule],
}

impl Protocol {
    fn has(&self, rule: Rule) -> bool {
        !self.without.contains(&rule)
    }

    /// Reads the row as a master. Returns `None` when it is not believed.
    fn adopt(&self, master: &mut Master, row: &Root, timeline: u8) -> Option<Root> {
        if self.has(Rule::Doubts) {
            let believed = master.timeline == timeline && row.includes(&master.known);
            if master.alarmed || !believed {
                master.alarmed = true;
                return None;
            }
        }
        if row.version >= master.known.version || !self.has(Rule::Doubts) {
            master.known = row.clone();
            master.head = row.clone();
        }
        Some(row.clone())
    }

    /// Gives a master its next operation.
    fn begin(&self, state: &mut State, m: usize) -> Option<()> {
        let master = &mut state.masters[m];
        let op = u8::try_from(m).ok()? * OPERATIONS[0] + master.asked;
        master.asked += 1;
        let mut base = master.head.clone();
        if self.has(Rule::KnownBase) && !base.includes(&master.known) {
            let (row, timeline) = (state.row.clone(), state.timeline);
            let Some(read) = self.adopt(&mut state.masters[m], &row, timeline) else {
                return Some(());
            };
            base = read;
        }
        self.round(state, m, op, &base);
        Some(())
    }

    /// Delivers a row that a master has requested.
    fn hear_row(&self, state: &mut State, m: usize) -> Option<()> {
        let row = state.masters[m].reading.take()?;
        let timeline = state.timeline;
        if timeline == 1 {
            self.adopt(&mut state.masters[m], &row, timeline);
        } else {
            // A row that was overtaken by newer ones may still become the base of the next round.
            state.masters[m].head = row;
        }
        Some(())
    }

    /// Lets a master resolve a swap whose answer did not come.
    fn resolve(&self, state: &mut State, m: usize) -> Option<()> {
        let Phase::InDoubt { op, swap } = state.masters[m].phase.clone() else {
            return None;
        };
        let (row, timeline) = (state.row.clone(), state.timeline);
        if row != swap.expected || !self.has(Rule::Resolves) {
            self.lost(state, m, op, &swap, &row, true);
            return Some(());
        }
        if self.adopt(&mut state.masters[m], &row, timeline).is_none() {
            state.masters[m].phase = Phase::Idle;
            return Some(());
        }
        // The swap is sent again unchanged.
        if !state.sent.contains(&swap) {
            state.sent.push(swap.clone());
        }
        state.masters[m].phase = Phase::Waiting { op, swap };
        Some(())
    }

    /// Applies `op` to `base`: answers it, or sends a swap.
    fn round(&self, state: &mut State, m: usize, op: u8, base: &Root) {
        let master = &mut state.masters[m];
        if base.holds.contains(&op) {
            // The record shows that it was carried out before.
            master.phase = Phase::Idle;
            state.done.push(op);
            return;
        }
        let mut new = base.clone();
        let floor = if self.has(Rule::UniqueVersions) { master.sent } else { 0 };
        new.version = base.version.max(floor) + 1;
        new.holds.push(op);
        new.authors[master.writer] = new.version;
        master.sent = new.version;
        let swap = Swap { expected: base.clone(), new };
        if !state.sent.contains(&swap) {
            state.sent.push(swap.clone());
        }
        master.phase = Phase::Waiting { op, swap };
    }

    /// Delivers a swap, and its answer if the writer still waits.
    fn deliver(&self, state: &mut State, n: usize) -> Option<()> {
        let swap = state.sent[n].clone();
        let wins = state.row == swap.expected || !self.has(Rule::Compares);
        if wins {
            state.row = swap.new.clone();
        }
        let waits = |master: &Master| match &master.phase {
            Phase::Waiting { swap: waited, op } if *waited == swap => Some(*op),
            _ => None,
        };
        let Some(m) = state.masters.iter().position(|master| waits(master).is_some()) else {
            return Some(());
        };
        let op = waits(&state.masters[m])?;
        if !wins {
            let row = state.row.clone();
            self.lost(state, m, op, &swap, &row, false);
            return Some(());
        }
        let timeline = state.timeline;
        let master = &mut state.masters[m];
        master.phase = Phase::Idle;
        // The mark changed during the swap, so its outcome is unknown whatever the answer.
        if master.timeline == timeline || !self.has(Rule::Doubts) {
            (master.head, master.known) = (swap.new.clone(), swap.new);
            state.done.push(op);
        } else {
            master.alarmed = true;
        }
        Some(())
    }

    /// Determines the outcome of a swap from a row that differs from the expected one.
    fn lost(&self, state: &mut State, m: usize, op: u8, swap: &Swap, row: &Root, in_doubt: bool) {
        let timeline = state.timeline;
        let Some(row) = self.adopt(&mut state.masters[m], row, timeline) else {
            // The outcome is unknown: it may be there, or come back.
            state.masters[m].phase = Phase::Idle;
            return;
        };
        let writer = state.masters[m].writer;
        let ours = row.authors[writer] >= swap.new.version;
        if ours && (!in_doubt || self.has(Rule::Resolves)) {
            state.masters[m].phase = Phase::Idle;
            state.done.push(op);
        } else if !self.has(Rule::Resolves) && in_doubt {
            // A client without a record would be told that nothing was done.
            state.masters[m].phase = Phase::Idle;
            state.refused.push(op);
        } else {
            self.round(state, m, op, &row);
        }
    }
}

/// Puts the bucket on top of the state that includes all others, or finds a fork.
fn heal(state: &mut State) {
    let mut sides: Vec<Root> = state.masters.iter().map(|master| master.known.clone()).collect();
    sides.push(state.row.clone());
    let best = sides.iter().find(|a| sides.iter().all(|b| a.includes(b))).cloned();
    let Some(mut best) = best else {
        state.forked = true;
        return;
    };
    best.version += 1;
    state.row = best;
    for master in &mut state.masters {
        (master.timeline, master.alarmed) = (state.timeline, false);
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let master = |writer| Master {
            writer,
            phase: Phase::Idle,
            head: Root::default(),
            known: Root::default(),
            timeline: 0,
            alarmed: false,
            reading: None,
            sent: 0,
            asked: 0,
        };
        vec![State {
            row: Root::default(),
            timeline: 0,
            backup: None,
            sent: Vec::new(),
            masters: (0..MASTERS).map(master).collect(),
            done: Vec::new(),
            refused: Vec::new(),
            crashes: 0,
            forked: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.forked {
            return;
        }
        for (m, master) in state.masters.iter().enumerate() {
            match &master.phase {
                Phase::Idle if master.asked < OPERATIONS[m] && !master.alarmed => {
                    actions.push(Action::Begin(m));
                }
                Phase::Idle => {}
                Phase::Waiting { .. } => actions.push(Action::TimeOut(m)),
                Phase::InDoubt { .. } => actions.push(Action::Resolve(m)),
            }
            match &master.reading {
                Some(_) => actions.push(Action::HearRow(m)),
                // An alarmed master believes no row. One slow reader is enough to show the effect of slow
                // reads.
                None if master.alarmed => {}
                None if m == 0 || state.timeline == 1 => actions.push(Action::Read(m)),
                None => {}
            }
            if state.crashes < self.crashes {
                actions.push(Action::Crash(m));
            }
        }
        actions.extend((0..state.sent.len()).map(Action::Deliver));
        if self.regresses && state.timeline == 0 {
            actions.push(if state.backup.is_none() { Action::BackUp } else { Action::Restore });
        }
        if state.masters.iter().all(|master| master.alarmed) {
            actions.push(Action::Heal);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Begin(m) => self.begin(&mut state, m)?,
            Action::Read(m) => {
                if state.masters[m].head == state.row && state.timeline == 0 {
                    return None;
                }
                state.masters[m].reading = Some(state.row.clone());
            }
            Action::HearRow(m) => self.hear_row(&mut state, m)?,
            Action::Deliver(n) => self.deliver(&mut state, n)?,
            Action::TimeOut(m) => {
                let Phase::Waiting { op, swap } = state.masters[m].phase.clone() else {
                    return None;
                };
                state.masters[m].phase = Phase::InDoubt { op, swap };
            }
            Action::Resolve(m) => self.resolve(&mut state, m)?,
            Action::Crash(m) => {
                state.crashes += 1;
                let master = &mut state.masters[m];
                master.writer = m + MASTERS;
                master.phase = Phase::Idle;
                (master.head, master.sent) = (master.known.clone(), 0);
                master.reading = None;
            }
            Action::BackUp => state.backup = Some(state.row.clone()),
            Action::Restore => {
                state.row = state.backup.take()?;
                state.timeline = 1;
                // Connections end with the server, and messages in transit to it are lost.
                state.sent.clear();
            }
            Action::Heal => heal(&mut state),
        }
        (state != *last).then_some(state)
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.row.version <= VERSIONS && state.sent.iter().all(|swap| swap.new.version <= VERSIONS)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("acknowledged is kept", |_, state: &State| {
                // What the arbiter lost is remembered by the master that answered for it.
                let kept = |op: &u8| {
                    state.row.holds.contains(op)
                        || (state.timeline == 1
                            && state.masters.iter().any(|master| {
                                master.known.holds.contains(op)
                                    && (master.timeline == 0 || state.forked)
                            }))
                };
                state.done.iter().all(kept)
            }),
            Property::always("exactly once", |_, state: &State| {
                let holds = &state.row.holds;
                holds.iter().enumerate().all(|(n, op)| !holds[..n].contains(op))
            }),
            Property::always("refused is not done", |_, state: &State| {
                state.refused.iter().all(|op| !state.row.holds.contains(op))
            }),
            Property::always("nothing regressed is adopted", |_, state: &State| {
                state.masters.iter().all(|master| {
                    state.timeline == 0
                        || master.alarmed
                        || state.done.iter().all(|op| {
                            master.timeline == 0
                                || master.known.holds.contains(op)
                                || master.known.version < state.row.version
                        })
                })
            }),
            Property::sometimes("all is done", |_, state: &State| {
                state.done.len() == usize::from(OPERATIONS.iter().sum::<u8>())
            }),
        ]
    }
}

fn search(protocol: Protocol) -> impl Checker<Protocol> {
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker
}

#[test]
fn no_order_of_messages_breaks_an_invariant() {
    search(Protocol::default()).assert_properties();
}

#[test]
fn no_crash_breaks_an_invariant() {
    search(Protocol { crashes: 1, ..Protocol::default() }).assert_properties();
}

#[test]
fn no_restored_backup_breaks_an_invariant() {
    search(Protocol { regresses: true, ..Protocol::default() }).assert_properties();
}

fn without(rules: &'static [Rule]) -> Protocol {
    Protocol { without: rules, ..Protocol::default() }
}

/// Checks that a protocol without one of its rules breaks `invariant`.
fn breaks(protocol: Protocol, invariant: &'static str) {
    search(protocol).assert_any_discovery(invariant);
}

#[test]
fn an_unanswered_swap_taken_for_lost_breaks_one() {
    let protocol = without(&[Rule::Resolves]);
    breaks(protocol, "refused is not done");
}

#[test]
fn versions_that_repeat_break_one() {
    let protocol = without(&[Rule::UniqueVersions, Rule::KnownBase]);
    breaks(protocol, "acknowledged is kept");
}

#[test]
fn a_base_older_than_what_is_known_breaks_one() {
    let protocol = Protocol { regresses: true, ..without(&[Rule::KnownBase]) };
    breaks(protocol, "acknowledged is kept");
}

#[test]
fn a_swap_that_does_not_compare_breaks_one() {
    breaks(without(&[Rule::Compares]), "acknowledged is kept");
}

#[test]
fn a_regressed_arbiter_that_is_adopted_breaks_one() {
    let protocol = Protocol { regresses: true, ..without(&[Rule::Doubts]) };
    breaks(protocol, "acknowledged is kept");
}
