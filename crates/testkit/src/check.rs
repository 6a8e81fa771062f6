//! Checks whether a history has an order that explains all answers.
//!
//! There are two independent checks. For each key the history must be linearizable (Wing, Gong, Lowe),
//! whatever versions the answers name. Across keys the versions in answers must agree with real time, and
//! every read and listing must show the state of its version.

use std::collections::{BTreeMap, HashMap};

use todc_utils::{Action, History, Specification, WGLChecker};

use crate::history::{Condition, Ending, Event, Op};

/// One operation on one key. Values are numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyOp {
    act: Act,
    condition: Option<Wanted>,
    ending: Ending,
    /// Whether a refusal reported that there is no object.
    absent: bool,
}

/// The effect of an operation. No value stands for an absent key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Finds(Option<u32>),
    Sets(Option<u32>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Absent,
    Value(u32),
}

/// A register that is empty or holds a value, with conditional writes.
struct Register;

impl Specification for Register {
    type State = Option<u32>;
    type Operation = KeyOp;

    fn init() -> Option<u32> {
        None
    }

    fn apply(op: &KeyOp, state: &Option<u32>) -> (bool, Option<u32>) {
        let sets = match op.act {
            Act::Finds(found) => return (found == *state, *state),
            Act::Sets(value) => value,
        };
        let holds = match op.condition {
            None => true,
            Some(Wanted::Absent) => state.is_none(),
            Some(Wanted::Value(value)) => *state == Some(value),
        };
        match op.ending {
            Ending::Done => (holds, sets),
            Ending::Refused => (!holds && op.absent == state.is_none(), *state),
            // It has no end, so it may also come last, where no read sees it.
            Ending::Unknown => (true, if holds { sets } else { *state }),
            Ending::None => (true, *state),
        }
    }
}

/// The result of checking a history.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Number of events that were checked.
    pub events: usize,
    /// Number of keys whose histories were searched.
    pub keys: usize,
    /// Everything that no order explains.
    pub violations: Vec<String>,
}

/// Checks a history in both ways, first by versions, which takes no time. If that finds a violation, no
/// order is searched: proving that there is none takes exponential time.
pub fn check(events: &[Event]) -> Verdict {
    let mut verdict = Verdict { events: events.len(), ..Verdict::default() };
    check_real_time(events, &mut verdict);
    check_states(events, &mut verdict);
    if verdict.violations.is_empty() {
        check_keys(events, &mut verdict);
    }
    verdict
}

/// Searches an order for the operations of each key.
fn check_keys(events: &[Event], verdict: &mut Verdict) {
    let mut keys: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.op != Op::List) {
        keys.entry(&event.key).or_default().push(event);
    }
    for (key, events) in keys {
        verdict.keys += 1;
        if !is_linearizable(&events) {
            verdict.violations.push(format!("no order explains the history of key {key}"));
        }
    }
}

fn is_linearizable(events: &[&Event]) -> bool {
    let mut values: HashMap<&str, u32> = HashMap::new();
    let mut number = |etag| {
        let next = u32::try_from(values.len()).unwrap_or(u32::MAX);
        *values.entry(etag).or_insert(next)
    };
    let mut actions = Vec::new();
    let clients = events.iter().map(|event| event.client).max().unwrap_or(0);
    for (index, event) in events.iter().enumerate() {
        // Operations that were not carried out, and reads without an answer, prove nothing.
        let says_nothing = event.outcome == Ending::None
            || (event.op == Op::Get && event.outcome == Ending::Unknown);
        if says_nothing {
            continue;
        }
        let value = event.etag.as_deref().map(&mut number);
        let op = KeyOp {
            act: match event.op {
                Op::Put => Act::Sets(value),
                Op::Delete => Act::Sets(None),
                Op::Get | Op::List => Act::Finds(value),
            },
            condition: event.condition.as_ref().map(|condition| match condition {
                Condition::IfAbsent => Wanted::Absent,
                Condition::IfMatch(etag) => Wanted::Value(number(etag)),
            }),
            ending: event.outcome,
            absent: event.status == 404,
        };
        // An operation without an end gets its own process, so that its client can continue.
        let open = event.outcome == Ending::Unknown;
        let line = if open { clients + 1 + index } else { event.client };
        let end = if open { u64::MAX } else { event.end_ns };
        actions.push(((event.start_ns, 0, index), line, Action::Call(op.clone())));
        actions.push(((end, 1, index), line, Action::Response(op)));
    }
    if actions.is_empty() {
        return true;
    }
    // Events at the same instant count as concurrent.
    actions.sort_by_key(|(at, ..)| *at);
    let actions = actions.into_iter().map(|(_, line, action)| (line, action)).collect();
    WGLChecker::<Register>::is_linearizable(History::from_actions(actions))
}

/// Checks that no answer names an older version than one that was answered before its request began.
fn check_real_time(events: &[Event], verdict: &mut Verdict) {
    let mut ended: Vec<(u64, u64)> =
        events.iter().filter_map(|event| Some((event.end_ns, event.version?))).collect();
    ended.sort_unstable();
    let mut starts: Vec<(u64, u64, &Event)> =
        events.iter().filter_map(|event| Some((event.start_ns, event.version?, event))).collect();
    starts.sort_by_key(|(start, version, _)| (*start, *version));
    let (mut newest, mut next) = (0, 0);
    for (start, version, event) in starts {
        while let Some((_, version)) = ended.get(next).filter(|(end, _)| *end < start) {
            newest = newest.max(*version);
            next += 1;
        }
        if version < newest {
            verdict.violations.push(format!(
                "{:?} of {:?} by client {} answered at version {version}, after version {newest} \
                 had been answered",
                event.op, event.key, event.client
            ));
        }
    }
}

/// The known writes of one key.
#[derive(Debug, Default)]
struct Writes<'a> {
    /// Values by version. There are several when one commit held several writes.
    done: BTreeMap<u64, Vec<Option<&'a str>>>,
    /// Values that may have been written at any time.
    open: Vec<Option<&'a str>>,
}

impl Writes<'_> {
    /// Returns whether the key may have held `value` at `version`.
    fn may_hold(&self, version: u64, value: Option<&str>) -> bool {
        let last = self.done.range(..=version).next_back();
        let as_known = match last {
            Some((_, values)) => values.contains(&value),
            None => value.is_none(),
        };
        as_known || self.open.contains(&value)
    }
}

/// Checks that every read and listing shows the state of the version that it names.
fn check_states(events: &[Event], verdict: &mut Verdict) {
    let mut writes: BTreeMap<&str, Writes<'_>> = BTreeMap::new();
    for event in events {
        let value = match event.op {
            Op::Put => event.etag.as_deref(),
            Op::Delete => None,
            Op::Get | Op::List => continue,
        };
        let key = writes.entry(&event.key).or_default();
        match (event.outcome, event.version) {
            (Ending::Done, Some(version)) => key.done.entry(version).or_default().push(value),
            (Ending::Done, None) | (Ending::Unknown, _) => key.open.push(value),
            (Ending::Refused | Ending::None, _) => {}
        }
    }
    for event in events.iter().filter(|event| event.outcome == Ending::Done) {
        let Some(version) = event.version else { continue };
        match event.op {
            Op::Get => {
                let holds = writes
                    .get(event.key.as_str())
                    .map_or(event.etag.is_none(), |w| w.may_hold(version, event.etag.as_deref()));
                if !holds {
                    verdict.violations.push(format!(
                        "key {} read as {:?} at version {version}, which it was not",
                        event.key, event.etag
                    ));
                }
            }
            Op::List => check_listing(event, version, &writes, verdict),
            Op::Put | Op::Delete => {}
        }
    }
}

fn check_listing(
    event: &Event,
    version: u64,
    writes: &BTreeMap<&str, Writes<'_>>,
    verdict: &mut Verdict,
) {
    let listed: BTreeMap<&str, &str> =
        event.listing.iter().map(|(key, etag)| (key.as_str(), etag.as_str())).collect();
    for (key, writes) in writes.iter().filter(|(key, _)| key.starts_with(&event.key)) {
        let value = listed.get(key).copied();
        if !writes.may_hold(version, value) {
            verdict.violations.push(format!(
                "a listing at version {version} shows {key} as {value:?}, which it was not"
            ));
        }
    }
    for key in listed.keys().filter(|key| !writes.contains_key(**key)) {
        verdict.violations.push(format!("a listing shows {key}, which nobody wrote"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(op: Op, start: u64, end: u64, etag: Option<&str>, version: u64) -> Event {
        Event {
            client: usize::try_from(start).unwrap(),
            op,
            key: "k".into(),
            start_ns: start,
            end_ns: end,
            status: 200,
            etag: etag.map(Into::into),
            version: Some(version),
            outcome: Ending::Done,
            condition: None,
            listing: Vec::new(),
        }
    }

    fn verdict(events: &[Event]) -> Vec<String> {
        check(events).violations
    }

    #[test]
    fn histories_with_an_order_pass() {
        let mut lost = event(Op::Put, 5, 6, Some("c"), 0);
        (lost.outcome, lost.version) = (Ending::Unknown, None);
        let mut refused = event(Op::Put, 9, 10, Some("d"), 3);
        (refused.outcome, refused.status) = (Ending::Refused, 412);
        refused.condition = Some(Condition::IfAbsent);
        let mut list = event(Op::List, 7, 8, None, 3);
        list.listing = vec![("k".into(), "c".into())];
        let events = [
            event(Op::Put, 1, 3, Some("a"), 1),
            event(Op::Put, 2, 4, Some("b"), 2),
            event(Op::Get, 3, 4, Some("b"), 2),
            lost,
            list,
            event(Op::Get, 8, 9, Some("c"), 3),
            refused,
        ];
        assert_eq!(verdict(&events), Vec::<String>::new());
    }

    /// Each of these histories is wrong for one reason, which is found.
    #[test]
    fn histories_without_an_order_are_found() {
        let put =
            |start, etag: &str, version| event(Op::Put, start, start + 1, Some(etag), version);
        // Lost update: both clients read "a", and both were told that they replaced it.
        let on_a = |start, etag: &str, version| Event {
            condition: Some(Condition::IfMatch("a".into())),
            ..put(start, etag, version)
        };
        let lost = [put(1, "a", 1), on_a(3, "b", 2), on_a(4, "c", 3)];
        assert!(verdict(&lost)[0].contains("no order explains"));
        // A write that later reads do not see.
        let forgotten = [put(1, "a", 1), put(3, "b", 2), event(Op::Get, 5, 6, Some("a"), 3)];
        assert!(verdict(&forgotten)[0].contains("which it was not"));
        // Two creations of one key.
        let create = |start, etag: &str, version| Event {
            condition: Some(Condition::IfAbsent),
            ..put(start, etag, version)
        };
        assert!(!verdict(&[create(1, "a", 1), create(2, "b", 2)]).is_empty());
        // A refusal without a reason.
        let mut refused = create(1, "a", 1);
        (refused.outcome, refused.status) = (Ending::Refused, 412);
        assert!(!verdict(&[refused]).is_empty());
        // A read of a value that was certainly not written.
        let mut none = put(1, "a", 1);
        (none.outcome, none.version) = (Ending::None, None);
        assert!(!verdict(&[none, event(Op::Get, 3, 4, Some("a"), 1)]).is_empty());
        // An answer with an older version than an earlier answer. It is about another key, so the check of
        // registers does not find it.
        let mut early = event(Op::Get, 5, 6, None, 1);
        early.key = "other".into();
        assert!(verdict(&[put(1, "a", 2), early])[0].contains("after version 2"));
        // A listing that lacks a key of its version.
        let list = event(Op::List, 3, 4, None, 1);
        assert!(verdict(&[put(1, "a", 1), list])[0].contains("a listing at version 1"));
    }
}
