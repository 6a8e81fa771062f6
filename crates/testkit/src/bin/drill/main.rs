//! Drills: real gateways on a real Postgres with kills, pauses, restarts and lost answers, and figures of
//! several masters (`make drill SECONDS=600 SEED=7`). `drill --help` lists the commands.

mod client;
mod collections;
mod faults;
mod figures;
mod parts;

use std::{
    io,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::{Parser, Subcommand};
use fula_testkit::{
    check::{self, Verdict},
    cluster::Cluster,
    history,
    rng::Rng,
    s3::Credentials,
};
use http::Method;
use tokio::task::JoinHandle;

use crate::client::{Board, Worker};

/// Number of clients of a drill, without the one that lists.
const CLIENTS: usize = 8;

#[derive(Debug, Parser)]
#[command(about = "Drills and figures of several masters on one Postgres")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Let clients work while faults are injected, and check their answers
    Run {
        /// Duration in seconds
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        /// Seed of faults and operations
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Turn the comparison of swaps off: the drill must find what that loses
        #[arg(long)]
        cas_off: bool,
        /// Authenticate the clients as a wallet instead of with a key
        #[arg(long)]
        wallets: bool,
        /// Program of another version, which the second master runs, and the third one until its first restart
        #[arg(long, value_name = "BINARY")]
        baseline: Option<PathBuf>,
        /// File for the history, one event a line
        #[arg(long, default_value = "history.jsonl")]
        history: PathBuf,
    },
    /// Run a Postgres for tests in other languages, until standard input ends
    Postgres,
    /// Run a link that drops answers, until standard input ends
    Link {
        /// Address that the link leads to
        target: std::net::SocketAddr,
        /// Number of answers in 1000 that are dropped
        #[arg(long, default_value_t = 0)]
        drop: u64,
        /// Latency that is added each way, in milliseconds
        #[arg(long, default_value_t = 0)]
        latency: u64,
    },
    /// Check a history that was written earlier
    Check {
        /// File with the history
        history: PathBuf,
    },
    /// Measure what several masters cost and guarantee; prints a table
    Figures {
        /// Duration of each part in seconds
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        /// Run only parts whose name contains this
        #[arg(long)]
        only: Option<String>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Run { seconds, seed, cas_off, wallets, baseline, history } => {
            let masters = Masters { cas_off, wallets, baseline };
            run(Duration::from_secs(seconds), seed, &masters, &history).await
        }
        Command::Postgres => tokio::task::block_in_place(parts::postgres).map(|()| true),
        Command::Link { target, drop, latency } => {
            parts::link(target, drop, Duration::from_millis(latency)).await.map(|()| true)
        }
        Command::Check { history } => history::load(&history).map(|events| {
            let verdict = check::check(&events);
            tell(&verdict);
            verdict.violations.is_empty()
        }),
        Command::Figures { seconds, only } => {
            figures::run(Duration::from_secs(seconds), only.as_deref()).await.map(|()| true)
        }
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("drill: {error}");
            ExitCode::from(2)
        }
    }
}

fn tell(verdict: &Verdict) {
    for violation in verdict.violations.iter().take(20) {
        println!("  {violation}");
    }
    let (events, keys) = (verdict.events, verdict.keys);
    let word = if verdict.violations.is_empty() { "linearizable" } else { "NOT linearizable" };
    println!("verdict: {word}; {events} operations on {keys} keys");
}

/// How masters are started.
struct Masters {
    cas_off: bool,
    wallets: bool,
    baseline: Option<PathBuf>,
}

/// Runs a drill. Returns whether the result is as expected.
async fn run(
    length: Duration,
    seed: u64,
    masters: &Masters,
    history: &std::path::Path,
) -> io::Result<bool> {
    let (cas_off, wallets) = (masters.cas_off, masters.wallets);
    println!(
        "seed {seed}, {} s, comparing swaps: {}, clients are a wallet: {wallets}",
        length.as_secs(),
        !cas_off
    );
    if let Some(baseline) = &masters.baseline {
        println!("the second master, and the third one at first, run {}", version_of(baseline)?);
    }
    let mut cluster = start_cluster(masters).await?;
    let mut rng = Rng::new(seed);
    let board = Arc::new(Board::new());
    let mut setup = Worker::new(&cluster, &board, 1000, rng.fork());
    setup.create_bucket().await?;

    let stop = Arc::new(AtomicBool::new(false));
    let running = start_clients(&cluster, &board, &mut rng, &stop);
    let collecting = collections::run(&cluster, &stop);
    let faults = faults::inflict(&mut cluster, &mut rng, length, !cas_off).await?;
    stop.store(true, Ordering::Relaxed);
    let mut events = Vec::new();
    for worker in running {
        events.extend(worker.await.map_err(io::Error::other)?);
    }
    let collected = collecting.await.map_err(io::Error::other)?;
    // After the faults every master must give the same answers.
    let mut violations = agree(&cluster, &board, &mut rng, &mut events).await?;
    if !cas_off {
        // Everything is calm: a collection must succeed, and leave everything that is needed.
        violations.extend(collections::last(&cluster).await);
        violations.extend(agree(&cluster, &board, &mut rng, &mut events).await?);
    }
    let poisoned = board.poisoned();
    events.retain(|event| !poisoned.contains(&event.key));
    for event in &mut events {
        event.listing.retain(|(key, _)| !poisoned.contains(key));
    }
    history::save(&events, history)?;
    let mut verdict = check::check(&events);
    verdict.violations.append(&mut violations);
    verdict.violations.extend(board.violations());
    tell_operations(&events);
    println!("faults: {faults}");
    println!("collections: {collected}");
    println!("history: {}", history.display());
    tell(&verdict);
    if cas_off {
        let found = !verdict.violations.is_empty();
        println!(
            "control: {}",
            if found { "lost updates were found" } else { "NOTHING WAS FOUND" }
        );
        return Ok(found);
    }
    if !verdict.violations.is_empty() {
        println!("kept: {}", cluster.keep().display());
    }
    Ok(verdict.violations.is_empty())
}

/// Returns what a program says of its version.
fn version_of(binary: &std::path::Path) -> io::Result<String> {
    let told = std::process::Command::new(binary).arg("--version").output()?;
    Ok(String::from_utf8_lossy(&told.stdout).trim().to_owned())
}

/// Starts the masters and what they share.
async fn start_cluster(masters: &Masters) -> io::Result<Cluster> {
    let Masters { cas_off, wallets, baseline } = masters;
    // Nothing that was replaced is retained, so that collections delete as much as they can.
    let mut env = vec![("FULA_COMMIT_DEADLINE", "4s"), ("FULA_RETENTION", "0s")];
    if *cas_off {
        env.push(("FULA_BUCKET_ROOT_CAS", "off"));
    }
    if *wallets {
        env.push(("FULA_EIP712_AUTH", "on"));
    }
    let mut cluster = Cluster::start_beside(3, &env, baseline.as_deref()).await?;
    if *wallets {
        cluster.credentials = Credentials::of_new_wallet()?;
    }
    Ok(cluster)
}

/// Starts the clients. They work until `stop` is set, and then return their events.
fn start_clients(
    cluster: &Cluster,
    board: &Arc<Board>,
    rng: &mut Rng,
    stop: &Arc<AtomicBool>,
) -> Vec<JoinHandle<Vec<history::Event>>> {
    let mut running = Vec::new();
    for n in 0..=CLIENTS {
        let mut worker = Worker::new(cluster, board, n, rng.fork());
        let stop = Arc::clone(stop);
        running.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                if n == CLIENTS {
                    worker.list().await;
                } else {
                    worker.work().await;
                }
            }
            worker.finish()
        }));
    }
    running
}

fn tell_operations(events: &[history::Event]) {
    let count = |op| events.iter().filter(|event| event.op == op).count();
    println!(
        "operations: {} writes, {} deletes, {} reads, {} listings; {} of unknown outcome",
        count(history::Op::Put),
        count(history::Op::Delete),
        count(history::Op::Get),
        count(history::Op::List),
        events.iter().filter(|event| event.outcome == history::Ending::Unknown).count(),
    );
}

/// Reads everything from every master, and compares counters with listings.
async fn agree(
    cluster: &Cluster,
    board: &Arc<Board>,
    rng: &mut Rng,
    events: &mut Vec<history::Event>,
) -> io::Result<Vec<String>> {
    let mut violations = Vec::new();
    let mut told = Vec::new();
    for n in 0..cluster.gateways.len() {
        let mut worker = Worker::new(cluster, board, 2000 + n, rng.fork());
        let (version, listing) = worker.list_all_at(n).await?;
        for key in board.hot_keys() {
            worker.read_at(n, &key).await;
        }
        events.extend(worker.finish());
        told.push((version, listing));
    }
    if told.windows(2).any(|pair| pair[0] != pair[1]) {
        violations.push("masters list different states after all is calm".to_owned());
    }
    let log =
        cluster.gateways[0].fula(&["roots", "log", client::BUCKET, "--limit", "1", "--json"])?;
    let log: serde_json::Value = serde_json::from_str(&log)?;
    let (_, listing) = &told[0];
    let counted = (log[0]["objects"].as_u64(), log[0]["bytes"].as_u64());
    let bytes: u64 = listing.iter().map(|(_, size)| size).sum();
    if counted != (Some(listing.len() as u64), Some(bytes)) {
        violations.push(format!("counters say {counted:?}, listings {} {bytes}", listing.len()));
    }
    let check = cluster.gateways[0].fula(&["fsck", "--json"]);
    if let Err(error) = check {
        violations.push(format!("fsck: {error}"));
    }
    let head = fula_testkit::s3::Call::new(Method::HEAD, format!("/{}", client::BUCKET));
    let reply = cluster.client(0).send(&head, Duration::from_secs(10)).await?;
    println!("final version {}", reply.header("x-fula-version").unwrap_or("?"));
    Ok(violations)
}
