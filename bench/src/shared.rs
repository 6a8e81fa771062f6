//! Masters on a shared block store: rates, and what each PUT leaves in the store.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fula_testkit::{
    cluster::fula_binary,
    link::Link,
    postgres::Postgres,
    process::Gateway,
    s3::{Call, Client, Credentials, Payload},
};
use futures::future::try_join_all;
use http::Method;
use tempfile::TempDir;

use crate::{
    load::{self, Limit, Load, Operation},
    peers::{self, Peer, START},
    report::median,
    server::{Kind, files},
};

/// Which block store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Store {
    /// A directory
    File,
    /// SeaweedFS in one process, made to sync every write
    Seaweedfs,
}

/// What is measured.
pub(crate) struct Plan {
    pub(crate) kinds: Vec<Kind>,
    pub(crate) store: Store,
    /// One has the embedded arbiter, several share a Postgres.
    pub(crate) masters: usize,
    /// Added to each request to the block store, each way.
    pub(crate) delay: Duration,
    pub(crate) connections: Vec<usize>,
    pub(crate) rounds: usize,
    /// Of each kind of work in each round.
    pub(crate) length: Duration,
}

/// Bytes of an object.
pub(crate) const BYTES: usize = 4 << 10;

/// Masters of one build, with everything that they share.
pub(crate) struct Federation {
    name: &'static str,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) credentials: Credentials,
    /// Where the block store keeps its files.
    pub(crate) store_dir: PathBuf,
    binary: PathBuf,
    env: Vec<(String, OsString)>,
    dir: TempDir,
    /// What goes with it.
    _postgres: Option<Postgres>,
}

/// SeaweedFS, where it is the store: one for all builds, each of which has a prefix of its own. A second one
/// beside it does not always start.
pub(crate) struct Below {
    peer: Peer,
    /// What adds the delay.
    pub(crate) link: Link,
    dir: TempDir,
}

impl Below {
    pub(crate) async fn start(store: Store, delay: Duration) -> io::Result<Option<Self>> {
        if store == Store::File {
            return Ok(None);
        }
        let dir = tempfile::Builder::new().prefix("fula-bench-").tempdir()?;
        let peer = peers::seaweedfs(dir.path())?;
        make_bucket(&peer, "blocks").await?;
        let link = Link::open(peer.address).await?;
        link.set_latency(delay);
        Ok(Some(Self { peer, link, dir }))
    }
}

/// One measurement.
#[derive(Clone, Copy)]
struct Sample {
    rate: f64,
    p50_ms: f64,
    files: f64,
    disk_bytes: f64,
}

impl Federation {
    async fn start(plan: &Plan, kind: &Kind, below: Option<&Below>) -> io::Result<Self> {
        Self::start_with(plan.masters, kind, below, &[]).await
    }

    /// Starts masters with additional settings.
    pub(crate) async fn start_with(
        masters: usize,
        kind: &Kind,
        below: Option<&Below>,
        settings: &[(&str, &str)],
    ) -> io::Result<Self> {
        let binary = match kind {
            Kind::Baseline(binary) => binary.clone(),
            _ => fula_binary()?,
        };
        let dir = tempfile::Builder::new().prefix("fula-bench-").tempdir()?;
        let mut env: Vec<(String, OsString)> = vec![("RUST_LOG".into(), "warn".into())];
        env.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())));
        let store_dir = if let Some(below) = below {
            let url = format!("s3://blocks/{}", kind.name());
            env.extend(s3_settings(&below.peer.credentials, below.link.address(), url));
            below.dir.path().join("data")
        } else {
            let store_dir = dir.path().join("blocks");
            env.push(("FULA_BLOCKS".into(), format!("file://{}", store_dir.display()).into()));
            store_dir
        };
        let mut postgres = None;
        if masters > 1 {
            let started = Postgres::start(&["max_connections=200"])?;
            env.push(("FULA_DATABASE_URL".into(), started.url().into()));
            let key = dir.path().join("secrets.key");
            let made = std::process::Command::new(&binary)
                .args(["secrets", "keygen"])
                .arg(&key)
                .stderr(std::process::Stdio::null())
                .status()?;
            if !made.success() {
                return Err(io::Error::other("fula secrets keygen failed"));
            }
            env.push(("FULA_SECRETS_KEY_FILE".into(), key.into()));
            postgres = Some(started);
        }
        let mut federation = Self {
            name: kind.name(),
            gateways: Vec::new(),
            credentials: Credentials::of_new_wallet()?,
            store_dir,
            binary,
            env,
            dir,
            _postgres: postgres,
        };
        for _ in 0..masters {
            federation.join().await?;
        }
        federation.credentials = federation.gateways[0].credentials()?;
        federation.make_bucket("bucket").await?;
        Ok(federation)
    }

    /// Starts another master, whose data directory is new. Returns the time until it serves.
    pub(crate) async fn join(&mut self) -> io::Result<Duration> {
        let data_dir = self.dir.path().join(format!("master{}", self.gateways.len()));
        let mut gateway = Gateway::new(&self.binary, &data_dir, self.env.clone())?;
        let begun = Instant::now();
        gateway.launch()?;
        gateway.serving().await?;
        self.gateways.push(gateway);
        Ok(begun.elapsed())
    }

    /// Returns a client of a master.
    pub(crate) fn client(&self, master: usize) -> Client {
        Client::new(self.gateways[master].address(), self.credentials.clone())
    }

    async fn make_bucket(&self, name: &str) -> io::Result<()> {
        let reply = self.client(0).send(&Call::new(Method::PUT, format!("/{name}")), START).await?;
        if reply.status.is_success() {
            Ok(())
        } else {
            Err(io::Error::other(reply.status.as_str()))
        }
    }

    /// Puts objects through all masters at the same time.
    async fn put(&self, plan: &Plan, connections: usize, first: u64) -> io::Result<Sample> {
        let before = stored(&self.store_dir)?;
        let begun = Instant::now();
        let each = connections.div_ceil(self.gateways.len());
        let loads = self.gateways.iter().zip(0..).map(|(gateway, n)| {
            let load = Load {
                operation: Operation::Put,
                bucket: "bucket".to_owned(),
                bytes: BYTES,
                connections: each,
                limit: Limit::Time(plan.length),
                payload: Payload::Unsigned,
                first: first + n * 100_000_000,
            };
            async move { load::run(gateway.address(), &self.credentials, &load).await }
        });
        let tallies = try_join_all(loads).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let after = stored(&self.store_dir)?;
        let requests: u64 = tallies.iter().map(|tally| tally.requests).sum();
        let p50 = tallies.iter().map(|tally| tally.micros.value_at_quantile(0.5)).max();
        #[expect(clippy::cast_precision_loss, reason = "figures to look at")]
        Ok(Sample {
            rate: requests as f64 / seconds,
            p50_ms: p50.unwrap_or_default() as f64 / 1000.0,
            files: (after.0 - before.0) as f64 / requests as f64,
            disk_bytes: (after.1 - before.1) as f64 / requests as f64,
        })
    }
}

impl Below {
    /// Puts objects straight into the store, and returns how many a second.
    async fn put(&self, plan: &Plan, connections: usize, first: u64) -> io::Result<f64> {
        let load = Load {
            operation: Operation::Put,
            bucket: "blocks".to_owned(),
            bytes: BYTES,
            connections,
            limit: Limit::Time(plan.length),
            payload: Payload::Unsigned,
            first,
        };
        Ok(load::run(self.peer.address, &self.peer.credentials, &load).await?.rate())
    }
}

async fn make_bucket(peer: &Peer, name: &str) -> io::Result<()> {
    let deadline = Instant::now() + START;
    loop {
        // A new connection each time: it may have been refused.
        let mut client = Client::new(peer.address, peer.credentials.clone());
        let asked = client.send(&Call::new(Method::PUT, format!("/{name}")), START).await;
        match asked {
            Ok(reply) if reply.status.is_success() => return Ok(()),
            Ok(reply) if Instant::now() > deadline => {
                let text = format!("SeaweedFS does not serve: {}: {:?}", reply.status, reply.body);
                return Err(io::Error::other(text));
            }
            Err(error) if Instant::now() > deadline => return Err(error),
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

fn s3_settings(
    credentials: &Credentials,
    address: std::net::SocketAddr,
    url: String,
) -> Vec<(String, OsString)> {
    let Credentials::Key { id, secret } = credentials else { return Vec::new() };
    [
        ("FULA_BLOCKS", url),
        ("AWS_ENDPOINT", format!("http://{address}")),
        ("AWS_ACCESS_KEY_ID", id.clone()),
        ("AWS_SECRET_ACCESS_KEY", secret.clone()),
        ("AWS_REGION", "us-east-1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value.into()))
    .into()
}

/// Returns how many files are under a directory, and what they take up on disk, in bytes.
pub(crate) fn stored(dir: &Path) -> io::Result<(u64, u64)> {
    let (mut count, mut bytes) = (0, 0);
    for path in files(dir)? {
        if let Ok(metadata) = fs::metadata(path) {
            count += 1;
            bytes += metadata.blocks() * 512;
        }
    }
    Ok((count, bytes))
}

/// Measures, and prints a table.
pub(crate) async fn run(plan: &Plan) -> io::Result<()> {
    let store = Below::start(plan.store, plan.delay).await?;
    let mut federations = Vec::new();
    for kind in &plan.kinds {
        eprintln!("starting {}", kind.name());
        federations.push(Federation::start(plan, kind, store.as_ref()).await?);
    }
    let mut samples = vec![vec![Vec::new(); federations.len()]; plan.connections.len()];
    let mut below = vec![Vec::new(); plan.connections.len()];
    for round in 0..plan.rounds {
        for (cell, connections) in plan.connections.iter().enumerate() {
            eprintln!("round {} of {}: {connections} connections", round + 1, plan.rounds);
            let first = (round * plan.connections.len() + cell) as u64 * 1_000_000_000;
            for turn in 0..federations.len() {
                let n = (turn + round) % federations.len();
                samples[cell][n].push(federations[n].put(plan, *connections, first).await?);
            }
            if let Some(store) = &store {
                below[cell].push(store.put(plan, *connections, first).await?);
            }
        }
    }
    println!(
        "PUT of 4 KiB, {} master(s), blocks in {:?}, {} ms added each way; medians of {} rounds",
        plan.masters,
        plan.store,
        plan.delay.as_millis(),
        plan.rounds
    );
    println!("| connections | build | PUT a second | p50 | files a PUT | bytes on disk a PUT |");
    println!("|---|---|---|---|---|---|");
    for (cell, connections) in plan.connections.iter().enumerate() {
        for (federation, samples) in federations.iter().zip(&samples[cell]) {
            let of = |figure: fn(&Sample) -> f64| median(samples.iter().map(figure).collect());
            println!(
                "| {connections} | {} | {:.0} | {:.2} ms | {:.2} | {:.0} |",
                federation.name,
                of(|sample| sample.rate),
                of(|sample| sample.p50_ms),
                of(|sample| sample.files),
                of(|sample| sample.disk_bytes)
            );
        }
        for n in 1..federations.len() {
            let (ours, theirs) = (&samples[cell][0], &samples[cell][n]);
            let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours.rate / theirs.rate);
            let name = federations[n].name;
            println!("| {connections} | ratio to {name} | {:.2} | | | |", median(ratios.collect()));
        }
        if plan.store == Store::Seaweedfs {
            let rate = median(below[cell].clone());
            println!("| {connections} | SeaweedFS itself | {rate:.0} | | | |");
        }
    }
    Ok(())
}
