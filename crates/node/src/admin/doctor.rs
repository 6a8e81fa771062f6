//! `fula doctor`: looks at everything that a gateway depends on, from inside of it where one runs, and measures how
//! fast it answers. It changes nothing but a file of its own in the data directory, which it removes.

use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};

use fula_core::error::io_text;
use fula_ingest::PublicKey;
use fula_service::{Master, error::chain};
use fula_stores::local::system_clock;
use reqwest::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::Refused;
use crate::{
    ingest::{Said, Unanswered},
    node::Node,
    status,
};

/// Longest wait for one answer of a store.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time of a durable write to the data directory from which on it is worth a warning.
const SLOW_DISK: Duration = Duration::from_millis(100);

/// The same of an answer of the arbiter or of the block store.
const SLOW_STORE: Duration = Duration::from_millis(250);

/// Difference between two clocks in milliseconds from which on credentials and signatures are at risk.
const SKEW_MAX_MS: i128 = 5000;

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    /// What was found, and what to do unless all is well.
    text: String,
}

/// The findings so far, and the causes that were named.
#[derive(Default)]
struct Findings(Vec<Check>, Vec<String>);

impl Findings {
    /// Notes that a store cannot be used, unless the cause was named before.
    fn note_failure(&mut self, name: &'static str, what: &str, cause: String) {
        if !self.is_named(&cause) {
            self.note(name, State::Problem, format!("{what}{cause}"));
            self.1.push(cause);
        }
    }

    /// Returns whether a text ends with a cause that was named.
    fn is_named(&self, text: &str) -> bool {
        text.ends_with(status::SAME_CAUSE) || self.1.iter().any(|cause| text.ends_with(cause))
    }

    fn note(&mut self, name: &'static str, state: State, text: String) {
        self.0.push(Check { name, state, text });
    }

    /// Notes how long something took that should take less than `slow`.
    fn note_time(&mut self, name: &'static str, what: &str, took: Duration, slow: Duration) {
        let millis = took.as_millis();
        if took < slow {
            self.note(name, State::Ok, format!("{what} in {millis} ms"));
        } else {
            let text = format!("{what} in {millis} ms, which makes every write slow");
            self.note(name, State::Warning, text);
        }
    }
}

/// Looks at everything. Returns a list of checks.
pub(super) async fn examine(node: &Node) -> Result<Value, Refused> {
    let mut found = Findings::default();
    let page = json!(status::page(node).await);
    if !node.backends.is_scratch {
        gateway(&mut found, &page);
        data_dir(&mut found, &node.backends.data_dir);
        disk(&mut found, &page);
    }
    arbiter(&mut found, node).await;
    blocks(&mut found, node).await;
    if let Some(recovery) = &node.recovery {
        match recovery.list_masters().await {
            Ok(masters) => check_masters(&mut found, &masters),
            Err(error) => found.note_failure("masters", "", chain(&error)),
        }
    }
    if let Some(masters) = node.masters.get() {
        check_answers(&mut found, &masters.ask_each().await, &node.node_key().public());
    }
    let problems = page["problems"].as_array().into_iter().flatten();
    for problem in problems.filter_map(Value::as_str) {
        if !found.is_named(problem) {
            found.note("status", State::Problem, problem.to_owned());
        }
    }
    Ok(json!({"version": page["version"], "checks": found.0}))
}

fn gateway(found: &mut Findings, page: &Value) {
    match page["gateway"]["listen"].as_str() {
        Some(listen) => found.note("gateway", State::Ok, format!("serves on {listen}")),
        // The problems of the status page say what to do.
        None => {
            found.note("gateway", State::Warning, "nothing runs on this data directory".to_owned());
        }
    }
}

/// Checks owner and mode of the data directory, and that a write to it is durable in good time.
fn data_dir(found: &mut Findings, dir: &Path) {
    let shown = dir.display();
    let metadata = match fs::metadata(dir) {
        Ok(metadata) => metadata,
        Err(error) => {
            let text = format!("{shown}: {}", io_text(&error));
            return found.note("data", State::Problem, text);
        }
    };
    if metadata.mode() & 0o077 != 0 {
        let text = format!(
            "{shown} can be entered by other users of this machine; run: chmod 700 {shown}"
        );
        found.note("data", State::Warning, text);
    } else {
        found.note("data", State::Ok, format!("{shown}, for its owner alone"));
    }
    let (file, began) = (dir.join("doctor.tmp"), Instant::now());
    let written = tokio::task::block_in_place(|| write_durably(&file));
    drop(fs::remove_file(&file));
    match written {
        Ok(()) => found.note_time("data", "a write is durable", began.elapsed(), SLOW_DISK),
        Err(error) => {
            let text = format!("{shown} cannot be written: {}", io_text(&error));
            found.note("data", State::Problem, text);
        }
    }
}

fn write_durably(file: &Path) -> std::io::Result<()> {
    let mut opened =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    opened.write_all(&[0; 4096])?;
    opened.sync_all()
}

fn disk(found: &mut Findings, page: &Value) {
    let number = |name: &str| page["disk"][name].as_u64();
    let (Some(free), Some(size)) = (number("free_bytes"), number("size_bytes")) else { return };
    let percent = u128::from(free) * 100 / u128::from(size.max(1));
    // What is too little is among the problems of the status page.
    found.note("disk", State::Ok, format!("{percent} % are free"));
}

async fn arbiter(found: &mut Findings, node: &Node) {
    let (name, began) = (node.backends.arbiter_name(), Instant::now());
    match timeout(PATIENCE, node.roots().get_roots(&[])).await {
        Ok(Ok(_)) => {
            let what = format!("{name}, answers");
            found.note_time("arbiter", &what, began.elapsed(), SLOW_STORE);
        }
        Ok(Err(error)) => {
            return found.note_failure("arbiter", &format!("{name}: "), chain(&error));
        }
        Err(_) => {
            let text = format!("{name} does not answer within {} s", PATIENCE.as_secs());
            return found.note("arbiter", State::Problem, text);
        }
    }
    if node.backends.shared.is_none() {
        return;
    }
    match timeout(PATIENCE, node.service.arbiter().now()).await {
        Ok(Ok(theirs)) => clock(found, i128::from(theirs) - i128::from(system_clock()())),
        Ok(Err(error)) => found.note_failure("clock", "", chain(&error)),
        Err(_) => {}
    }
}

/// Notes how far the clock of the arbiter is ahead of the one of this machine, in milliseconds.
fn clock(found: &mut Findings, ahead_ms: i128) {
    if ahead_ms.abs() <= SKEW_MAX_MS {
        let text = format!("{} ms from that of the arbiter", ahead_ms.abs());
        return found.note("clock", State::Ok, text);
    }
    let (seconds, way) = (ahead_ms.abs() / 1000, if ahead_ms > 0 { "behind" } else { "ahead of" });
    let text = format!(
        "this machine is {seconds} s {way} the arbiter: correct the clock that is wrong, or credentials expire too \
         early or too late"
    );
    found.note("clock", State::Problem, text);
}

async fn blocks(found: &mut Findings, node: &Node) {
    let (name, began) = (node.backends.blocks_name(), Instant::now());
    match timeout(PATIENCE, node.nodes.blocks().probe()).await {
        Ok(Ok(())) => {
            let what = format!("{name}, answers");
            found.note_time("blocks", &what, began.elapsed(), SLOW_STORE);
        }
        Ok(Err(error)) => {
            found.note_failure("blocks", &format!("{name}: "), chain(&error));
        }
        Err(_) => {
            let text = format!("{name} does not answer within {} s", PATIENCE.as_secs());
            found.note("blocks", State::Problem, text);
        }
    }
}

/// Notes what each master said to this storage node, whose key is `own`. A master that is away is a problem only if
/// no other master of its arbiter answers.
fn check_answers(found: &mut Findings, all: &[Said], own: &PublicKey) {
    for Said { name, arbiter, answer } in all {
        let others = all.iter().filter(|said| said.arbiter == *arbiter);
        let has_other = others.filter(|said| said.answer.is_ok()).count() > 0;
        let (state, text) = match answer {
            Ok(()) => (State::Ok, format!("{name} answers this storage node")),
            Err(error @ Unanswered::Silent(_)) => {
                let state = if has_other { State::Warning } else { State::Problem };
                let what = "check that it runs, and its URL in FULA_MASTERS";
                (state, format!("{name} does not answer: {error}; {what}"))
            }
            Err(error @ Unanswered::Refused(StatusCode::FORBIDDEN, _)) => {
                let text = format!(
                    "{name} refuses this storage node: {error}; set FULA_STORAGE_NODES=NAME=URL#{own} on it, with \
                     the URL of this node, and restart it; `fula secrets public` shows its own key for FULA_MASTERS"
                );
                (State::Problem, text)
            }
            Err(error @ Unanswered::Refused(..)) => {
                let what = "check that its URL in FULA_MASTERS is that of a master's S3 listener, and its log";
                (State::Problem, format!("{name} refuses this storage node: {error}; {what}"))
            }
            Err(error @ Unanswered::Untrusted(_)) => {
                let what = "set its key in FULA_MASTERS: `fula secrets public` shows it";
                (State::Problem, format!("{name} is another master: {error}; {what}"))
            }
        };
        found.note("masters", state, text);
    }
}

/// Checks that all masters have one version. Masters that are away are among the problems of the status page.
fn check_masters(found: &mut Findings, masters: &[Master]) {
    let alive: Vec<&Master> = masters.iter().filter(|master| master.is_alive).collect();
    let mut versions: Vec<&str> = alive.iter().map(|master| master.info.version.as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    let (count, all) = (alive.len(), masters.len());
    match versions.as_slice() {
        [] | [_] => found.note("masters", State::Ok, format!("{count} of {all} are there")),
        several => {
            let text = format!(
                "{count} of {all} are there, with the versions {}: finish the upgrade",
                several.join(", ")
            );
            found.note("masters", State::Warning, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use fula_ingest::SignerId;
    use fula_service::MasterInfo;

    use super::*;

    fn last(found: &Findings) -> (State, &str) {
        let check = found.0.last().unwrap();
        (check.state, check.text.as_str())
    }

    #[test]
    fn clocks_that_differ_are_named_with_the_side_that_is_behind() {
        let mut found = Findings::default();
        clock(&mut found, -40);
        assert_eq!(last(&found), (State::Ok, "40 ms from that of the arbiter"));
        clock(&mut found, 61_000);
        assert!(last(&found).1.contains("61 s behind the arbiter"), "{:?}", last(&found));
        clock(&mut found, -61_000);
        assert!(last(&found).1.contains("61 s ahead of the arbiter"), "{:?}", last(&found));
        assert_eq!(last(&found).0, State::Problem);
    }

    #[test]
    fn slow_stores_and_mixed_versions_are_warnings() {
        let mut found = Findings::default();
        found.note_time("data", "a write is durable", SLOW_DISK, SLOW_DISK);
        assert_eq!(last(&found).0, State::Warning);
        found.note_time("data", "a write is durable", Duration::from_millis(3), SLOW_DISK);
        assert_eq!(last(&found), (State::Ok, "a write is durable in 3 ms"));
        let master = |version: &str, is_alive| Master {
            name: version.to_owned(),
            info: MasterInfo { version: version.to_owned(), ..MasterInfo::default() },
            seen_ms: None,
            age_ms: None,
            is_alive,
            is_self: false,
        };
        check_masters(&mut found, &[master("0.1.0", true), master("0.2.0", false)]);
        assert_eq!(last(&found), (State::Ok, "1 of 2 are there"));
        check_masters(&mut found, &[master("0.1.0", true), master("0.2.0", true)]);
        assert_eq!(last(&found).0, State::Warning);
        assert!(last(&found).1.contains("0.1.0, 0.2.0"), "{:?}", last(&found));
    }

    #[test]
    fn a_master_that_refuses_the_node_is_a_problem_with_its_remedy() {
        let (one, two) = (SignerId([1; 8]), SignerId([2; 8]));
        let said = |name: &str, arbiter, answer| Said { name: name.to_owned(), arbiter, answer };
        let silent = || Err(Unanswered::Silent("no answer within 10s".to_owned()));
        let refused = |status| Err(Unanswered::Refused(status, "no node".to_owned()));
        let own = PublicKey([7; 32]);
        let mut found = Findings::default();
        let all = [
            said("north", one, Ok(())),
            said("south", one, silent()),
            said("east", two, silent()),
            said("west", two, refused(StatusCode::FORBIDDEN)),
            said("proxy", two, refused(StatusCode::BAD_GATEWAY)),
            said("other", two, Err(Unanswered::Untrusted("its signature is wrong".to_owned()))),
        ];
        check_answers(&mut found, &all, &own);
        let states: Vec<State> = found.0.iter().map(|check| check.state).collect();
        let problem = State::Problem;
        assert_eq!(states, [State::Ok, State::Warning, problem, problem, problem, problem]);
        let remedy = format!("set FULA_STORAGE_NODES=NAME=URL#{own} on it");
        for (n, text) in [
            (1, "check that it runs"),
            (3, remedy.as_str()),
            (4, "S3 listener"),
            (5, "FULA_MASTERS"),
        ] {
            assert!(found.0[n].text.contains(text), "{}", found.0[n].text);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_directory_that_others_can_enter_is_a_warning() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        for (mode, expected) in [(0o700, State::Ok), (0o755, State::Warning)] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            let mut found = Findings::default();
            data_dir(&mut found, dir.path());
            assert_eq!((found.0[0].state, found.0.len()), (expected, 2));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
        }
        let mut found = Findings::default();
        data_dir(&mut found, &dir.path().join("absent"));
        assert_eq!(last(&found).0, State::Problem);
    }
}
