//! What overwrites leave on the disk of one gateway that collects garbage, and is killed again and again.
//!
//! This build runs twice in each round: with collection, and with a retention so long that nothing is collected.
//! The second run says what collection costs. Another build runs with collection only.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fula_testkit::{
    rng::Rng,
    s3::{Call, Client, Payload},
};
use http::{Method, StatusCode};
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    load::{Bodies, commit, key},
    process::usage,
    report::median,
    server::{Kind, Server, allocated},
};

/// What is measured.
pub(crate) struct Plan {
    /// The builds, of which the first is this one.
    pub(crate) kinds: Vec<Kind>,
    pub(crate) objects: u64,
    /// Length of each object in bytes.
    pub(crate) bytes: usize,
    pub(crate) connections: usize,
    /// Duration of the overwrites.
    pub(crate) length: Duration,
    /// Time from one kill to the next.
    pub(crate) kill_every: Duration,
    /// `FULA_RETENTION` of the runs that collect.
    pub(crate) retention: String,
    /// Bytes on disk beside twice the live bytes that count as met.
    pub(crate) slack: u64,
    /// Bytes on disk at which a run ends early.
    pub(crate) disk_max: u64,
    pub(crate) rounds: usize,
}

const BUCKET: &str = "worn";

/// Interval between two looks at disk and memory.
const LOOK: Duration = Duration::from_millis(500);

/// Number of looks between two lines of progress.
const TELL_EVERY: u32 = 20;

/// Settings of the runs without collection.
const NO_COLLECTION: [(&str, &str); 2] =
    [("FULA_RETENTION", "30d"), ("FULA_RETENTION_BYTES", "off")];

/// The result of one run.
#[derive(Clone, Debug, Default)]
struct Worn {
    /// PUTs a second while the gateway served.
    rate: f64,
    /// Most bytes on disk.
    disk_max: u64,
    /// Bytes in use at the end; 0 in runs that do not collect.
    live: u64,
    /// Most resident bytes.
    resident_max: u64,
    /// Longest time from a start to serving.
    start_max: Duration,
    kills: u32,
    /// Whether the run ended early, because the disk was too full.
    is_full: bool,
}

/// The numbers that a watcher and the connections keep.
#[derive(Debug, Default)]
struct Counts {
    puts: AtomicU64,
    disk: AtomicU64,
    disk_max: AtomicU64,
    resident_max: AtomicU64,
    /// Process id of the gateway; 0 while it is down.
    pid: AtomicU64,
}

/// Runs all builds in turns, and prints a line for each run and the verdicts.
pub(crate) async fn run(plan: &Plan) -> io::Result<()> {
    println!(
        "{} objects of {} bytes, overwritten for {} s over {} connections, kill -9 every {} s, retention {}",
        plan.objects,
        plan.bytes,
        plan.length.as_secs(),
        plan.connections,
        plan.kill_every.as_secs(),
        plan.retention
    );
    println!(
        "| build | collection | PUT/s | most MiB on disk | live MiB | most resident MiB | slowest start | kills |"
    );
    println!("|{}", "---|".repeat(8));
    let collected = [("FULA_RETENTION", plan.retention.as_str())];
    let mut runs = vec![[const { Vec::new() }; 2]; plan.kinds.len()];
    for round in 0..plan.rounds {
        for turn in 0..plan.kinds.len() {
            let which = (turn + round) % plan.kinds.len();
            let kind = &plan.kinds[which];
            let ways = [&collected[..], &NO_COLLECTION[..]];
            let count = if which == 0 { ways.len() } else { 1 };
            for (n, settings) in ways.into_iter().take(count).enumerate() {
                let with = if n == 0 { "with" } else { "without" };
                eprintln!(
                    "round {} of {}: {}, {with} collection",
                    round + 1,
                    plan.rounds,
                    kind.name()
                );
                let worn = wear(plan, kind, settings, n == 0).await?;
                print(kind, with, &worn);
                runs[which][n].push(worn);
            }
        }
    }
    println!();
    for (kind, [with, without]) in plan.kinds.iter().zip(&runs) {
        conclude(plan, kind, with, without);
    }
    if let [[ours, _], [theirs, _]] = &runs[..] {
        let ratio = ratio(ours, theirs);
        println!("PUT rate with collection: {ratio:.2} of the baseline, median of rounds");
        let memory = |runs: &[Worn]| runs.iter().map(|worn| worn.resident_max).max().unwrap_or(0);
        println!(
            "most resident memory with collection: {} MiB, the baseline {} MiB",
            memory(ours) >> 20,
            memory(theirs) >> 20
        );
    }
    Ok(())
}

fn print(kind: &Kind, with: &str, worn: &Worn) {
    let live = if worn.live == 0 { "-".to_owned() } else { (worn.live >> 20).to_string() };
    let (full, start) = (if worn.is_full { " (ended there)" } else { "" }, worn.start_max);
    println!(
        "| {} | {with} | {:.0} | {}{full} | {live} | {} | {:.1} s | {} |",
        kind.name(),
        worn.rate,
        worn.disk_max >> 20,
        worn.resident_max >> 20,
        start.as_secs_f64(),
        worn.kills
    );
}

/// Returns the median of the ratios of the rates of two runs in the same round.
fn ratio(ours: &[Worn], theirs: &[Worn]) -> f64 {
    median(ours.iter().zip(theirs).map(|(ours, theirs)| ours.rate / theirs.rate).collect())
}

#[expect(clippy::cast_precision_loss, reason = "figures to look at")]
fn conclude(plan: &Plan, kind: &Kind, with: &[Worn], without: &[Worn]) {
    let said = |is_met| if is_met { "met" } else { "missed" };
    for worn in with {
        let bound = 2 * worn.live + plan.slack;
        println!(
            "{}: at most {} MiB on disk, {:.2} x live; 2 x live + {} MiB is {} MiB: {}",
            kind.name(),
            worn.disk_max >> 20,
            worn.disk_max as f64 / worn.live as f64,
            plan.slack >> 20,
            bound >> 20,
            said(worn.disk_max <= bound && !worn.is_full)
        );
    }
    if without.is_empty() {
        return;
    }
    let ratio = ratio(with, without);
    println!(
        "{}: PUT rate {ratio:.2} of that without collection, median of rounds; 0.85: {}",
        kind.name(),
        said(ratio >= 0.85)
    );
}

/// Makes the objects on a new gateway and wears it.
async fn wear(
    plan: &Plan,
    kind: &Kind,
    settings: &[(&str, &str)],
    is_collected: bool,
) -> io::Result<Worn> {
    let mut server = Server::start(kind, settings).await?;
    server.make_bucket(BUCKET).await?;
    make(plan, &server).await?;
    // Every run begins with the same disk and a new process.
    let live = collect(&server)?;
    server.restart(false).await?;
    eprintln!(
        "collected: {} MiB in use, {} MiB on disk",
        live >> 20,
        allocated(server.dir())? >> 20
    );
    let counts = Arc::new(Counts::default());
    let watcher = watch(server.dir().to_owned(), Arc::clone(&counts));
    let worn = overwrite(plan, &mut server, &counts).await;
    watcher.abort();
    let mut worn = worn?;
    worn.disk_max = counts.disk_max.load(Ordering::Relaxed);
    worn.resident_max = counts.resident_max.load(Ordering::Relaxed);
    if is_collected {
        worn.live = collect(&server)?;
        // It ends with an error if anything is damaged or missing.
        eprintln!("checking every block");
        server.fula(&["fsck", "--json"])?;
    }
    Ok(worn)
}

/// Collects everything that is garbage. Returns the bytes in use.
fn collect(server: &Server) -> io::Result<u64> {
    let done = server.fula(&["gc", "--now", "--retention", "0s", "--json"])?;
    done["live_bytes"].as_u64().ok_or_else(|| io::Error::other("fula gc names no live bytes"))
}

/// Makes the objects.
async fn make(plan: &Plan, server: &Server) -> io::Result<()> {
    let begun = Instant::now();
    commit(|| server.client(), BUCKET, plan.objects, plan.bytes).await?;
    let bytes = allocated(server.dir())?;
    eprintln!(
        "made {} objects in {:.0} s, {} MiB on disk",
        plan.objects,
        begun.elapsed().as_secs_f64(),
        bytes >> 20
    );
    Ok(())
}

/// Looks at disk and memory until it is aborted.
fn watch(dir: PathBuf, counts: Arc<Counts>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let begun = Instant::now();
        for look in 1_u32.. {
            sleep(LOOK).await;
            // Files may vanish while they are counted.
            if let Ok(bytes) = allocated(&dir) {
                counts.disk.store(bytes, Ordering::Relaxed);
                counts.disk_max.fetch_max(bytes, Ordering::Relaxed);
            }
            let pid = u32::try_from(counts.pid.load(Ordering::Relaxed)).unwrap_or(0);
            let used = if pid == 0 { None } else { usage(pid).ok() };
            if let Some(used) = used {
                counts.resident_max.fetch_max(used.peak, Ordering::Relaxed);
            }
            if look % TELL_EVERY == 0 {
                eprintln!(
                    "{:4.0} s: {:8} PUTs, {:6} MiB on disk, {:5} MiB resident",
                    begun.elapsed().as_secs_f64(),
                    counts.puts.load(Ordering::Relaxed),
                    counts.disk.load(Ordering::Relaxed) >> 20,
                    used.map_or(0, |used| used.resident >> 20)
                );
            }
        }
    })
}

/// Overwrites objects and kills the gateway in between, until the time is over or the disk too full.
async fn overwrite(plan: &Plan, server: &mut Server, counts: &Arc<Counts>) -> io::Result<Worn> {
    let (mut worn, mut served, mut leg) = (Worn::default(), Duration::ZERO, 0_u64);
    while served < plan.length && !worn.is_full {
        counts.pid.store(server.pid()?.into(), Ordering::Relaxed);
        let length = plan.kill_every.min(plan.length.saturating_sub(served));
        let is_last = served + length >= plan.length;
        let is_over = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = (0..plan.connections)
            .map(|n| {
                let client = Client::new(server.address, server.credentials.clone());
                let worker = Worker {
                    client: client.payload(Payload::Unsigned),
                    rng: Rng::new(leg << 32 | n as u64),
                    bodies: Bodies::new(plan.bytes),
                    objects: plan.objects,
                    is_over: Arc::clone(&is_over),
                    counts: Arc::clone(counts),
                };
                tokio::spawn(worker.work())
            })
            .collect();
        let begun = Instant::now();
        while begun.elapsed() < length && !worn.is_full {
            sleep(LOOK.min(length.saturating_sub(begun.elapsed()))).await;
            worn.is_full = counts.disk.load(Ordering::Relaxed) > plan.disk_max;
        }
        is_over.store(true, Ordering::Relaxed);
        served += begun.elapsed();
        if !is_last && !worn.is_full {
            counts.pid.store(0, Ordering::Relaxed);
            server.kill()?;
            worn.kills += 1;
        }
        for worker in workers {
            worker.await.map_err(io::Error::other)??;
        }
        if !is_last && !worn.is_full {
            worn.start_max = worn.start_max.max(server.launch().await?);
        }
        leg += 1;
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    {
        worn.rate = counts.puts.load(Ordering::Relaxed) as f64 / served.as_secs_f64();
    }
    Ok(worn)
}

/// A connection that overwrites objects.
struct Worker {
    client: Client,
    rng: Rng,
    bodies: Bodies,
    objects: u64,
    /// Set before the gateway is killed.
    is_over: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

impl Worker {
    async fn work(mut self) -> io::Result<()> {
        while !self.is_over.load(Ordering::Relaxed) {
            let key = key(self.rng.below(self.objects));
            let body = self.bodies.body(self.rng.below(u64::MAX));
            let call = Call::new(Method::PUT, format!("/{BUCKET}/{key}")).body(body);
            match self.client.drain(&call).await {
                Ok((reply, _)) if reply.status.is_success() => {
                    self.counts.puts.fetch_add(1, Ordering::Relaxed);
                }
                Ok((reply, _)) if reply.status == StatusCode::SERVICE_UNAVAILABLE => {}
                Ok((reply, _)) => {
                    let text = String::from_utf8_lossy(&reply.body).into_owned();
                    return Err(io::Error::other(format!("{}: {text}", reply.status)));
                }
                // The gateway was killed.
                Err(_) if self.is_over.load(Ordering::Relaxed) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
