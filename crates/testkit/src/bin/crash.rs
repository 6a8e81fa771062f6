//! Crash loops: one real gateway on its own disk, clients that write, and `kill -9` at any moment (`make
//! crash LOOPS=1000 SEED=7`).
//!
//! After each restart every acknowledged change must be there, and a change without an answer must be there
//! in full or not at all. Listings must agree with that, and `fula fsck` must find no missing block and no
//! wrong counter.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Parser;
use fula_testkit::{
    cluster::fula_binary,
    process::Gateway,
    rng::Rng,
    s3::{Call, Client, Reply, elements},
};
use futures::future::join_all;
use http::{Method, StatusCode};
use tokio::sync::Mutex;

const BUCKET: &str = "crash";
const PATIENCE: Duration = Duration::from_secs(30);

/// Number of clients. Each has its own keys, so that their content is known.
const CLIENTS: u64 = 6;
const KEYS: u64 = 12;

/// Command that frees all space.
const COLLECT: [&str; 5] = ["gc", "--now", "--retention", "0s", "--json"];

/// One of this many loops is not killed during a collection, because collections would seldom end
/// otherwise.
const COLLECT_EVERY: u64 = 8;

/// Smallest size of a part that is not the last, in bytes.
const PART_BYTES: usize = 5 << 20;

#[derive(Debug, Parser)]
#[command(about = "Kills a gateway repeatedly, and checks what it lost")]
struct Cli {
    /// Number of times that the gateway is killed
    #[arg(long, default_value_t = 20)]
    loops: u64,
    /// Seed of the requests and the moments of the kills
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Put,
    LargePut,
    Delete,
    Copy,
    Upload,
}

const KINDS: [Kind; 5] = [Kind::Put, Kind::LargePut, Kind::Delete, Kind::Copy, Kind::Upload];

/// The outcome of a request.
enum Ended {
    Done(Reply),
    /// The request was refused for now, and nothing was changed.
    SlowDown,
    /// The outcome is unknown, or the request was cut off by the kill.
    Unknown,
}

/// The content of a key: seed and length of a body, or nothing.
type Content = Option<(u64, usize)>;

/// The possible contents of each key. There are several only while a change has no answer.
type Keys = BTreeMap<String, Vec<Content>>;

#[derive(Debug, Default)]
struct Counts {
    /// Number of acknowledged changes by kind.
    acknowledged: BTreeMap<Kind, u64>,
    slow_downs: u64,
    unknown: u64,
    collections: u64,
    restarts_slowest: Duration,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    println!("{} loops, seed {}", cli.loops, cli.seed);
    match run(&cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crash: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: &Cli) -> io::Result<()> {
    let mut dir = tempfile::Builder::new().prefix("fula-crash-").tempdir()?;
    let done = loops(cli, dir.path()).await;
    if done.is_err() {
        dir.disable_cleanup(true);
        eprintln!("crash: the data directory is left in {}", dir.path().display());
    }
    done
}

async fn loops(cli: &Cli, dir: &Path) -> io::Result<()> {
    let mut rng = Rng::new(cli.seed);
    let env = vec![("RUST_LOG".to_owned(), "warn".into())];
    let mut gateway = Gateway::new(&fula_binary()?, &dir.join("data"), env)?;
    gateway.launch()?;
    gateway.serving().await?;
    let made =
        client(&gateway)?.send(&Call::new(Method::PUT, format!("/{BUCKET}")), PATIENCE).await?;
    expect(made.status == StatusCode::OK, || format!("no bucket: {}", made.status))?;
    let mut states: Vec<Keys> = vec![Keys::new(); usize::try_from(CLIENTS).unwrap_or(0)];
    let mut counts = Counts::default();
    for n in 0..cli.loops {
        if n % COLLECT_EVERY == 0 {
            gateway.fula(&COLLECT)?;
            counts.collections += 1;
        }
        let length = Duration::from_millis(20 + rng.below(400));
        work(&mut gateway, &mut states, &mut rng, length, &mut counts).await?;
        let begun = Instant::now();
        gateway.launch()?;
        gateway.serving().await?;
        counts.restarts_slowest = counts.restarts_slowest.max(begun.elapsed());
        verify(&gateway, &mut states).await.map_err(|error| {
            io::Error::other(format!("after kill {} of seed {}: {error}", n + 1, cli.seed))
        })?;
        if (n + 1) % 100 == 0 {
            println!("{} kills: {counts:?}", n + 1);
        }
    }
    println!(
        "{} kills survived: changes acknowledged {:?}, {} without an answer, {} SlowDown, {} collections; \
         slowest restart {:?}",
        cli.loops,
        counts.acknowledged,
        counts.unknown,
        counts.slow_downs,
        counts.collections,
        counts.restarts_slowest
    );
    // A run in which little happened proves little.
    let missing: Vec<_> =
        KINDS.iter().filter(|kind| !counts.acknowledged.contains_key(kind)).collect();
    expect(missing.is_empty() && counts.unknown > 0 && counts.collections > 0, || {
        format!("too few loops: never acknowledged {missing:?}; {counts:?}")
    })
}

fn expect(holds: bool, text: impl FnOnce() -> String) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(text())) }
}

fn client(gateway: &Gateway) -> io::Result<Client> {
    Ok(Client::new(gateway.address(), gateway.credentials()?))
}

fn body((seed, len): (u64, usize)) -> Bytes {
    let mut rng = Rng::new(seed);
    let words = std::iter::repeat_with(|| rng.below(u64::MAX).to_le_bytes());
    words.take(len.div_ceil(8)).flatten().take(len).collect::<Vec<u8>>().into()
}

/// Lets clients and a collector work for a while, then kills the gateway.
async fn work(
    gateway: &mut Gateway,
    states: &mut [Keys],
    rng: &mut Rng,
    length: Duration,
    counts: &mut Counts,
) -> io::Result<()> {
    let collector = rng.below(2) == 0;
    let fula = gateway.command(&COLLECT);
    let gateway = Arc::new(Mutex::new(gateway));
    let is_killed = AtomicBool::new(false);
    let mut workers = Vec::new();
    for (n, keys) in states.iter_mut().enumerate() {
        let client = client(*gateway.lock().await)?;
        let (rng, counts, is_killed) = (rng.fork(), Counts::default(), &is_killed);
        workers.push(Worker { n, client, rng, keys, counts, is_killed }.work());
    }
    let kill = async {
        tokio::time::sleep(length).await;
        let mut gateway = gateway.lock().await;
        expect(gateway.is_running()?, || "the gateway ended by itself".to_owned())?;
        is_killed.store(true, Ordering::SeqCst);
        gateway.kill()
    };
    let collect = async {
        let mut done = 0;
        // The loop ends when the gateway does. The last collection may continue in the data directory.
        while collector && gateway.lock().await.pid().is_some() {
            let output = tokio::process::Command::from(fula()).output().await?;
            if output.status.success() {
                done += 1;
            } else if gateway.lock().await.pid().is_some() {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(io::Error::other(format!("fula gc: {text}")));
            }
        }
        io::Result::Ok(done)
    };
    let (ended, killed, collections) = tokio::join!(join_all(workers), kill, collect);
    killed?;
    counts.collections += collections?;
    for worker in ended {
        let worker = worker?;
        counts.slow_downs += worker.slow_downs;
        for (kind, times) in worker.acknowledged {
            *counts.acknowledged.entry(kind).or_default() += times;
        }
    }
    let open = states.iter().flat_map(BTreeMap::values).filter(|may| may.len() > 1);
    counts.unknown += open.count() as u64;
    Ok(())
}

struct Worker<'a> {
    n: usize,
    client: Client,
    rng: Rng,
    keys: &'a mut Keys,
    counts: Counts,
    /// Whether the gateway was killed. Until then every request must be answered.
    is_killed: &'a AtomicBool,
}

impl Worker<'_> {
    /// Sends requests until one has no answer. Returns the number of acknowledged ones.
    async fn work(mut self) -> io::Result<Counts> {
        while self.step().await? {}
        Ok(self.counts)
    }

    /// Runs one operation. Returns false when the gateway is gone.
    async fn step(&mut self) -> io::Result<bool> {
        let key = format!("{}/{}", self.n, self.rng.below(KEYS));
        let path = format!("/{BUCKET}/{key}");
        let seed = self.rng.below(u64::MAX);
        match self.rng.below(20) {
            0..=9 => {
                let content = (seed, usize::try_from(self.rng.below(8192)).unwrap_or(0));
                let call = Call::new(Method::PUT, path).body(body(content));
                self.change(Kind::Put, &key, Some(content), call).await
            }
            10 | 11 => {
                let len = (1 << 20) + usize::try_from(self.rng.below(2 << 20)).unwrap_or(0);
                let call = Call::new(Method::PUT, path).body(body((seed, len)));
                self.change(Kind::LargePut, &key, Some((seed, len)), call).await
            }
            12..=14 => self.change(Kind::Delete, &key, None, Call::new(Method::DELETE, path)).await,
            15..=18 => {
                let from = format!("{}/{}", self.n, self.rng.below(KEYS));
                let source = self.keys.get(&from).and_then(|may| may[0]);
                let (Some(source), true) = (source, from != key) else { return Ok(true) };
                let call = Call::new(Method::PUT, path);
                let call = call.header("x-amz-copy-source", format!("/{BUCKET}/{from}"));
                self.change(Kind::Copy, &key, Some(source), call).await
            }
            _ => self.upload(&key, path, seed).await,
        }
    }

    /// Sends a request. Fails on an answer that a client must not get.
    async fn ask(&mut self, call: &Call) -> io::Result<Ended> {
        let reply = match self.client.send(call, PATIENCE).await {
            Ok(reply) => reply,
            Err(_) if self.is_killed.load(Ordering::SeqCst) => return Ok(Ended::Unknown),
            Err(error) => {
                return Err(io::Error::other(format!("no answer before the kill: {error}")));
            }
        };
        if reply.status.is_success() {
            return Ok(Ended::Done(reply));
        }
        let outcome = reply.header("x-fula-outcome");
        match (reply.status, outcome) {
            (StatusCode::SERVICE_UNAVAILABLE, Some("none")) => {
                self.counts.slow_downs += 1;
                Ok(Ended::SlowDown)
            }
            (StatusCode::SERVICE_UNAVAILABLE, Some("unknown")) => Ok(Ended::Unknown),
            (status, _) => {
                let text = String::from_utf8_lossy(&reply.body);
                Err(io::Error::other(format!("{status} {}: {text}", call.path)))
            }
        }
    }

    /// Sends a change. Without an answer the key has its old or its new content.
    async fn change(
        &mut self,
        kind: Kind,
        key: &str,
        content: Content,
        call: Call,
    ) -> io::Result<bool> {
        let ended = self.ask(&call).await?;
        let held = self.keys.entry(key.to_owned()).or_insert_with(|| vec![None]);
        match ended {
            Ended::Done(_) => {
                *held = vec![content];
                *self.counts.acknowledged.entry(kind).or_default() += 1;
            }
            Ended::SlowDown => {}
            Ended::Unknown => {
                held.push(content);
                // Its keys are not used again before they are checked.
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Uploads two parts, and completes the upload.
    async fn upload(&mut self, key: &str, path: String, seed: u64) -> io::Result<bool> {
        let content = (seed, PART_BYTES + 1000);
        let whole = body(content);
        let call = Call::new(Method::POST, path.clone()).query("uploads=");
        let begun = match self.ask(&call).await? {
            Ended::Done(reply) => reply,
            ended => return Ok(matches!(ended, Ended::SlowDown)),
        };
        let id = begun.element("UploadId").ok_or_else(|| io::Error::other("no upload"))?;
        let mut parts = String::new();
        for (n, part) in [whole.slice(..PART_BYTES), whole.slice(PART_BYTES..)].iter().enumerate() {
            let number = n + 1;
            let call = Call::new(Method::PUT, path.clone());
            let call = call.query(format!("partNumber={number}&uploadId={id}")).body(part.clone());
            let etag = match self.ask(&call).await? {
                Ended::Done(reply) => reply.etag().unwrap_or_default(),
                ended => return Ok(matches!(ended, Ended::SlowDown)),
            };
            parts.extend([
                format!("<Part><PartNumber>{number}</PartNumber>"),
                format!("<ETag>&quot;{etag}&quot;</ETag></Part>"),
            ]);
        }
        let xml = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        let call = Call::new(Method::POST, path).query(format!("uploadId={id}")).body(xml);
        self.change(Kind::Upload, key, Some(content), call).await
    }
}

/// Aborts the uploads that were cut off, which would otherwise accumulate.
async fn abort_uploads(client: &mut Client) -> io::Result<()> {
    let call = Call::new(Method::GET, format!("/{BUCKET}")).query("uploads=");
    let listed = client.send(&call, PATIENCE).await?;
    let text = String::from_utf8_lossy(&listed.body);
    for (key, id) in elements(&text, "Key").zip(elements(&text, "UploadId")) {
        let call = Call::new(Method::DELETE, format!("/{BUCKET}/{key}"));
        let aborted = client.send(&call.query(format!("uploadId={id}")), PATIENCE).await?;
        expect(aborted.status == StatusCode::NO_CONTENT, || {
            format!("{} for aborting an upload of {key}", aborted.status)
        })?;
    }
    Ok(())
}

/// Compares the contents with the possible ones, and resolves open changes.
async fn verify(gateway: &Gateway, states: &mut [Keys]) -> io::Result<()> {
    let mut client = client(gateway)?;
    let mut present = Vec::new();
    for (key, may) in states.iter_mut().flatten() {
        let call = Call::new(Method::GET, format!("/{BUCKET}/{key}"));
        let reply = client.send(&call, PATIENCE).await?;
        let found = match reply.status {
            StatusCode::OK => {
                let is = |content: &&Content| content.is_some_and(|c| body(c) == reply.body);
                may.iter().find(is).copied()
            }
            StatusCode::NOT_FOUND => may.iter().find(|content| content.is_none()).copied(),
            status => return Err(io::Error::other(format!("{status} for {key}"))),
        };
        let found = found.ok_or_else(|| {
            let (status, len) = (reply.status, reply.body.len());
            io::Error::other(format!("{key} is {status} of {len} bytes, and may be {may:?}"))
        })?;
        if found.is_some() {
            present.push(key.clone());
        }
        *may = vec![found];
    }
    present.sort();
    let call = Call::new(Method::GET, format!("/{BUCKET}")).query("list-type=2");
    let listed = client.send(&call, PATIENCE).await?;
    let listed: Vec<String> = elements(&String::from_utf8_lossy(&listed.body), "Key").collect();
    expect(listed == present, || format!("listed {listed:?}, found {present:?}"))?;
    abort_uploads(&mut client).await?;
    gateway.fula(&["fsck", "--json"]).map(drop)
}
