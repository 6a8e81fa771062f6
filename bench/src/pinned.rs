//! Measures what pins on a kubo cost: PUT rates without a target, with one that is away, and with a kubo.

use std::{
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fula_testkit::{link::Link, postgres::free_port, s3::Payload};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    load::{self, Limit, Load, Operation},
    report::median,
    server::{Kind, Server},
};

const CONNECTIONS: usize = 16;

/// Longest time until the last root is pinned.
const PATIENCE: Duration = Duration::from_mins(2);

/// Settings of a kubo that talks to this machine only.
const SETTINGS: [(&str, &str); 8] = [
    ("Addresses.Swarm", r#"["/ip4/127.0.0.1/tcp/0"]"#),
    ("Addresses.NoAnnounce", "[]"),
    ("Addresses.Gateway", r#""/ip4/127.0.0.1/tcp/0""#),
    ("Swarm.AddrFilters", "[]"),
    ("Discovery.MDNS.Enabled", "false"),
    ("AutoConf.Enabled", "false"),
    ("Bootstrap", "[]"),
    ("Routing.Type", r#""none""#),
];

/// A kubo with an empty repository.
pub(crate) struct Kubo {
    process: Child,
    pub(crate) api: SocketAddr,
    _repo: TempDir,
}

impl Drop for Kubo {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Kubo {
    pub(crate) fn start(ipfs: &Path) -> io::Result<Self> {
        let repo = tempfile::Builder::new().prefix("fula-bench-").tempdir()?;
        let command = |args: &[&str]| {
            let mut command = Command::new(ipfs);
            command.args(args).env("IPFS_PATH", repo.path()).env("IPFS_TELEMETRY", "off");
            command.stderr(Stdio::null());
            command
        };
        let api = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let address = format!("\"/ip4/127.0.0.1/tcp/{}\"", api.port());
        run_to_end(&mut command(&["init", "--profile=server,test"]))?;
        for (name, value) in SETTINGS.into_iter().chain([("Addresses.API", &address[..])]) {
            run_to_end(&mut command(&["config", "--json", name, value]))?;
        }
        let mut process = command(&["daemon"]).stdout(Stdio::piped()).spawn()?;
        let out = process.stdout.take().ok_or_else(|| io::Error::other("no output of kubo"))?;
        for line in BufReader::new(out).lines() {
            if line?.contains("Daemon is ready") {
                return Ok(Self { process, api, _repo: repo });
            }
        }
        Err(io::Error::other("kubo did not start"))
    }
}

fn run_to_end(command: &mut Command) -> io::Result<()> {
    let status = command.stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{command:?}: {status}"))) }
}

/// What one round of PUTs measured.
struct Round {
    rate: f64,
    /// Seconds from the last PUT until its root was pinned.
    pinned_after: f64,
    /// Bytes that went to the kubo, and bytes of all blocks of the bucket.
    bytes: (u64, u64),
}

/// Puts objects into an empty gateway.
async fn round(targets: Option<&str>, sent: Option<&Link>, puts: u64) -> io::Result<Round> {
    let settings = targets.map(|targets| [("FULA_PINS", targets), ("FULA_PIN_BUCKETS", "*")]);
    let server = Server::start(&Kind::Fula, settings.as_ref().map_or(&[], |all| &all[..])).await?;
    server.make_bucket("pinned").await?;
    let load = Load {
        operation: Operation::Put,
        bucket: "pinned".to_owned(),
        bytes: 4096,
        connections: CONNECTIONS,
        limit: Limit::Requests(puts),
        payload: Payload::Unsigned,
        first: 0,
    };
    let tally = load::run(server.address, &server.credentials, &load).await?;
    let (rate, mut pinned_after, mut bytes) = (tally.rate(), 0.0, (0, 0));
    if let Some(sent) = sent {
        pinned_after = last_root_pinned(&server, "pinned").await?.0.as_secs_f64();
        let done = server.command(&["export", "pinned"])?().output()?;
        bytes = (sent.sent(), done.stdout.len() as u64);
    }
    Ok(Round { rate, pinned_after, bytes })
}

/// Waits until the target has the newest root of a bucket. Returns how long that took, and the root.
pub(crate) async fn last_root_pinned(
    server: &Server,
    name: &str,
) -> io::Result<(Duration, String)> {
    let begun = Instant::now();
    let shown = server.fula(&["roots", "show", name, "--json"])?;
    let mut buckets = shown["buckets"].as_array().into_iter().flatten();
    let bucket = buckets.find(|bucket| bucket["bucket"] == name);
    let root = bucket.and_then(|bucket| bucket["root"].as_str()).unwrap_or_default().to_owned();
    while begun.elapsed() < PATIENCE {
        let listed = server.fula(&["pins", "list", "--json"])?.to_string();
        if listed.contains(&format!("\"pinned_root\":\"{root}\"")) {
            return Ok((begun.elapsed(), root));
        }
        sleep(Duration::from_millis(50)).await;
    }
    Err(io::Error::other(format!("the root {root} was not pinned within {PATIENCE:?}")))
}

/// Runs the three in turns, each on an empty gateway, and with an empty kubo.
#[expect(clippy::cast_precision_loss, reason = "figures to look at")]
pub(crate) async fn run(rounds: usize, puts: u64, ipfs: PathBuf) -> io::Result<()> {
    let (mut rates, mut waits, mut shares) = (vec![[0.0; 3]; rounds], Vec::new(), Vec::new());
    for rates in &mut rates {
        rates[0] = round(None, None, puts).await?.rate;
        rates[1] = round(Some("kubo:http://127.0.0.1:1"), None, puts).await?.rate;
        let kubo = Kubo::start(&ipfs)?;
        let link = Link::open(kubo.api).await?;
        let target = format!("kubo:http://{}", link.address());
        let pinned = round(Some(&target), Some(&link), puts).await?;
        rates[2] = pinned.rate;
        waits.push(pinned.pinned_after);
        shares.push(pinned.bytes.0 as f64 / pinned.bytes.1 as f64);
    }
    println!("{puts} PUTs of 4 KiB, {CONNECTIONS} connections, pins at most once a second");
    println!("| pin target | rate, median | to none, median of rounds |\n|---|---|---|");
    for (n, name) in
        ["none", "a kubo that is away", "a kubo on the same machine"].iter().enumerate()
    {
        let rate = median(rates.iter().map(|rates| rates[n]).collect());
        let ratio = median(rates.iter().map(|rates| rates[n] / rates[0]).collect());
        println!("| {name} | {rate:.0} /s | {ratio:.2} |");
    }
    println!("the last root was pinned {:.2} s after the last PUT", median(waits));
    println!("bytes sent to the kubo: {:.2} of the bytes of the bucket's blocks", median(shares));
    Ok(())
}
