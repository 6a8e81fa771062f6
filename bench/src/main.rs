//! Measures S3 endpoints. `make bench` compares Fula with its peers; `fula-bench --help` lists the other
//! commands.

mod buckets;
mod cars;
mod clients;
mod collected;
mod compare;
mod encrypted;
mod figures;
mod ingest;
mod listings;
mod load;
mod memory;
mod others;
mod peers;
mod pinned;
mod process;
mod report;
mod restart;
mod restored;
mod server;
mod shared;
mod snapshots;
mod soak;
mod worn;

use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use fula_testkit::s3::{Credentials, Payload};

use crate::{
    load::{Limit, Load, Operation},
    server::Kind,
};

#[derive(Debug, Parser)]
#[command(about = "Measures S3 endpoints")]
struct Cli {
    /// Do not use the free memory once before measuring: in a virtual machine the first use of memory may
    /// cost more than what is measured
    #[arg(long, global = true)]
    unsettled: bool,
    #[command(subcommand)]
    command: Command,
}

/// The form in which signatures cover bodies.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Body {
    Unsigned,
    Signed,
}

impl From<Body> for Payload {
    fn from(body: Body) -> Self {
        match body {
            Body::Unsigned => Self::Unsigned,
            Body::Signed => Self::Signed,
        }
    }
}

/// The work of a load.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Work {
    /// Puts objects with new keys
    Put,
    /// Overwrites objects
    Overwrite,
    /// Gets objects that `put --first 0` made
    Get,
    /// Lists pages of 1 000 keys
    List,
}

/// The load of `fula-bench load`.
#[derive(Debug, Args)]
struct LoadArgs {
    /// Address of the endpoint
    #[arg(long)]
    endpoint: SocketAddr,
    /// Access key id
    #[arg(long)]
    key: String,
    /// Secret access key
    #[arg(long)]
    secret: String,
    /// Name of a bucket that exists
    #[arg(long)]
    bucket: String,
    #[arg(long, value_enum, default_value = "put")]
    work: Work,
    /// Length of each object in bytes
    #[arg(long, default_value_t = 4096)]
    bytes: usize,
    #[arg(long, default_value_t = 16)]
    connections: usize,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Number of keys that are overwritten, got or listed
    #[arg(long, default_value_t = 1000)]
    keys: u64,
    /// Number of the first new key
    #[arg(long, default_value_t = 0)]
    first: u64,
    #[arg(long, value_enum, default_value = "unsigned")]
    payload: Body,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put a load on any S3 endpoint, and print rate and latency
    Load(LoadArgs),
    /// Use the free memory, and keep a page of every MiB until standard input ends
    #[command(hide = true)]
    HoldMemory,
    /// Run the same work on each server, in turns
    Compare {
        /// Servers to compare with
        #[arg(long, value_enum, value_delimiter = ',')]
        peers: Vec<Kind>,
        /// Another build of `fula` to compare with the one beside this program
        #[arg(long)]
        baseline: Option<PathBuf>,
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Duration of each kind of work in each round, in seconds
        #[arg(long, default_value_t = 4)]
        seconds: u64,
        /// Run only work whose name contains this
        #[arg(long)]
        only: Option<String>,
        #[arg(long, value_enum, default_value = "unsigned")]
        payload: Body,
    },
    /// Measure PUT rates of buckets of 1 000 to 1 000 000 keys, in turns
    Flat {
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Duration of each bucket in each round, in seconds
        #[arg(long, default_value_t = 4)]
        seconds: u64,
        /// Number of keys of the largest bucket
        #[arg(long, default_value_t = 1_000_000)]
        keys: u64,
        /// Another build of `fula` to measure in turns
        #[arg(long)]
        baseline: Option<PathBuf>,
        /// Other servers to measure in turns
        #[arg(long, value_enum, value_delimiter = ',')]
        peers: Vec<Kind>,
    },
    /// Measure peak memory for an equal number of requests on each server, started anew in each round
    Memory {
        /// Servers to compare with
        #[arg(long, value_enum, value_delimiter = ',')]
        peers: Vec<Kind>,
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Number of PUTs, and of GETs
        #[arg(long, default_value_t = 50_000)]
        requests: u64,
    },
    /// Measure the time from the start of a killed gateway until it serves, by the number of stored objects
    Restart {
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Number of objects of 4 KiB
        #[arg(long, default_value_t = 500_000)]
        keys: u64,
        /// Another build of `fula` to measure in turns
        #[arg(long)]
        baseline: Option<PathBuf>,
    },
    /// Measure the bytes written to disk for each byte put, with random keys and 100 000 in the bucket
    Written {
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Measure the space after overwriting, and the PUT rate while it is freed
    Space {
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Overwrite small objects of one gateway that is killed again and again, with collection and without, and
    /// measure disk, memory and PUT rate
    Worn {
        /// Number of objects
        #[arg(long, default_value_t = 4_000_000)]
        objects: u64,
        /// Length of each object in bytes
        #[arg(long, default_value_t = 200)]
        bytes: usize,
        #[arg(long, default_value_t = 16)]
        connections: usize,
        /// Duration of the overwrites in seconds
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Seconds from one `kill -9` to the next
        #[arg(long, default_value_t = 120)]
        kill_every: u64,
        /// `FULA_RETENTION` of the gateway that collects
        #[arg(long, default_value = "0s")]
        retention: String,
        /// Bytes on disk beside twice the live bytes that count as met, in MiB
        #[arg(long, default_value_t = 1024)]
        slack: u64,
        /// Bytes on disk at which a run ends early, in MiB: without collection a disk fills up
        #[arg(long, default_value_t = 40_960)]
        disk_max: u64,
        #[arg(long, default_value_t = 1)]
        rounds: usize,
        /// Another build of `fula` to measure in turns
        #[arg(long)]
        baseline: Option<PathBuf>,
    },
    /// Measure memory and disk after creating and deleting buckets, and collecting
    Buckets {
        /// Number of buckets that are created and deleted
        #[arg(long, default_value_t = 200_000)]
        count: u64,
        /// Number of rounds, with a collection after each
        #[arg(long, default_value_t = 2)]
        rounds: u64,
        #[arg(long, default_value_t = 64)]
        connections: usize,
    },
    /// Measure PUT rates of masters on a shared block store, and the files and bytes that each PUT leaves there
    Shared {
        /// Block store that the masters share
        #[arg(long, value_enum, default_value = "file")]
        store: shared::Store,
        /// Number of masters; one has the embedded arbiter, several share a Postgres
        #[arg(long, default_value_t = 1)]
        masters: usize,
        /// Milliseconds to add to each request to the block store, each way; not for a directory
        #[arg(long, default_value_t = 0)]
        delay: u64,
        /// Connections of all masters together
        #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
        connections: Vec<usize>,
        /// Number of rounds
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Seconds of each kind of work in each round
        #[arg(long, default_value_t = 4)]
        seconds: u64,
        /// Another build of `fula`, for the same in turns
        #[arg(long)]
        baseline: Option<PathBuf>,
    },
    /// Overwrite keys in a shared block store, and print what is on disk while its masters collect garbage
    Collected {
        /// Number of masters; one has the embedded arbiter, several share a Postgres
        #[arg(long, default_value_t = 3)]
        masters: usize,
        /// Number of PUTs of all masters together
        #[arg(long, default_value_t = 20_000)]
        overwrites: u64,
        /// Number of keys that they overwrite
        #[arg(long, default_value_t = 100)]
        keys: u64,
        /// Number of lines of the table while the masters write
        #[arg(long, default_value_t = 10)]
        lines: u64,
    },
    /// Measure what masters read of others: a key that another one has just written, and the start of an empty one
    Others(others::Plan),
    /// Measure a storage node beside a master: a large file, small blocks, mappings and receipts, in turns
    Ingest {
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Length of the file in MiB
        #[arg(long, default_value_t = 1024)]
        mib: u64,
        /// Number of small blocks, and of mappings
        #[arg(long, default_value_t = 4096)]
        small: u64,
    },
    /// Measure export and import of a bucket as a CAR file, beside fsck
    Cars {
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Length of all objects in MiB
        #[arg(long, default_value_t = 1024)]
        mib: u64,
    },
    /// Measure clients that seal files: vaults beside `rclone crypt`, several devices, and storage nodes
    Clients(clients::Plan),
    /// Measure what encryption at rest costs
    Encrypted {
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Duration of each kind of work in each round, in seconds
        #[arg(long, default_value_t = 4)]
        seconds: u64,
    },
    /// Measure listings behind delete markers, and of all versions
    Listings {
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Number of delete markers
        #[arg(long, default_value_t = 1_000_000)]
        markers: u64,
    },
    /// Measure the names of a bucket: in pages, as one stream, and what changed
    Snapshots {
        #[arg(long, default_value_t = 7)]
        rounds: usize,
        /// Number of objects
        #[arg(long, default_value_t = 100_000)]
        objects: u64,
    },
    /// Measure PUTs without a pin target, with one that is away, and with a kubo
    Pinned {
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Number of PUTs
        #[arg(long, default_value_t = 10_000)]
        puts: u64,
        /// Program of kubo, as `make ipfs` builds it
        #[arg(long, default_value = "target/tools/ipfs")]
        ipfs: PathBuf,
    },
    /// Measure the restore of a bucket from a kubo by its root, and compare it with what it was
    Restored {
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Number of objects
        #[arg(long, default_value_t = 10_000)]
        objects: u64,
        /// Program of kubo, as `make ipfs` builds it
        #[arg(long, default_value = "target/tools/ipfs")]
        ipfs: PathBuf,
    },
    /// Run many connections, mixed sizes and stalled clients, and check memory, errors and latency
    Soak {
        #[arg(long, default_value_t = 1000)]
        connections: usize,
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(run(Cli::parse())).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fula-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the result of a load.
fn print_tally(tally: &load::Tally) {
    let at = |share| tally.micros.value_at_quantile(share);
    println!(
        "{:.0} requests a second, {} in all, {} SlowDown; microseconds: p50 {}, p90 {}, p99 {}, most {}",
        tally.rate(),
        tally.requests,
        tally.slow_downs,
        at(0.5),
        at(0.9),
        at(0.99),
        tally.micros.max()
    );
}

/// Puts a load on an endpoint, and prints its result.
async fn put_load(args: LoadArgs) -> io::Result<()> {
    let operation = match args.work {
        Work::Put => Operation::Put,
        Work::Overwrite => Operation::Overwrite(args.keys),
        Work::Get => Operation::Get(args.keys),
        Work::List => Operation::List(args.keys),
    };
    let load = Load {
        operation,
        bucket: args.bucket,
        bytes: args.bytes,
        connections: args.connections,
        limit: Limit::Time(Duration::from_secs(args.seconds)),
        payload: args.payload.into(),
        first: args.first,
    };
    let credentials = Credentials::Key { id: args.key, secret: args.secret };
    print_tally(&load::run(args.endpoint, &credentials, &load).await?);
    Ok(())
}

async fn run(cli: Cli) -> io::Result<()> {
    // A comparison does this itself, for each kind of work; a load is put on a server that runs already.
    let does_alone =
        matches!(cli.command, Command::Load(_) | Command::Compare { .. } | Command::HoldMemory);
    let settle = !cli.unsettled;
    let _settled = (settle && !does_alone).then(memory::settle).transpose()?;
    match cli.command {
        Command::HoldMemory => memory::hold(),
        Command::Load(args) => put_load(args).await,
        Command::Flat { rounds, seconds, keys, baseline, peers } => {
            let ours = [Kind::Fula].into_iter().chain(baseline.map(Kind::Baseline));
            let kinds: Vec<_> = ours.chain(peers).collect();
            figures::flat(&kinds, rounds, Duration::from_secs(seconds), keys).await
        }
        Command::Memory { peers, rounds, requests } => {
            let kinds: Vec<_> = [Kind::Fula].into_iter().chain(peers).collect();
            figures::memory(&kinds, rounds, requests).await
        }
        Command::Restart { rounds, keys, baseline } => {
            let ours = [Kind::Fula].into_iter().chain(baseline.map(Kind::Baseline));
            restart::run(&ours.collect::<Vec<_>>(), rounds, keys).await
        }
        Command::Written { rounds } => figures::written(rounds).await,
        Command::Buckets { count, rounds, connections } => {
            buckets::run(count, rounds, connections).await
        }
        Command::Space { rounds } => figures::space(rounds).await,
        Command::Worn {
            objects,
            bytes,
            connections,
            seconds,
            kill_every,
            retention,
            slack,
            disk_max,
            rounds,
            baseline,
        } => {
            let plan = worn::Plan {
                kinds: [Kind::Fula].into_iter().chain(baseline.map(Kind::Baseline)).collect(),
                objects,
                bytes,
                connections,
                length: Duration::from_secs(seconds),
                kill_every: Duration::from_secs(kill_every),
                retention,
                slack: slack << 20,
                disk_max: disk_max << 20,
                rounds,
            };
            worn::run(&plan).await
        }
        Command::Shared { store, masters, delay, connections, rounds, seconds, baseline } => {
            let ours = [Kind::Fula].into_iter().chain(baseline.map(Kind::Baseline));
            let (delay, length) = (Duration::from_millis(delay), Duration::from_secs(seconds));
            let kinds = ours.collect();
            shared::run(&shared::Plan { kinds, store, masters, delay, connections, rounds, length })
                .await
        }
        Command::Collected { masters, overwrites, keys, lines } => {
            collected::run(&collected::Plan { masters, overwrites, keys, lines }).await
        }
        Command::Others(plan) => others::run(&plan).await,
        Command::Ingest { rounds, mib, small } => {
            ingest::run(&ingest::Plan { rounds, mib, small }).await
        }
        Command::Cars { rounds, mib } => cars::run(rounds, mib).await,
        Command::Clients(plan) => Box::pin(clients::run(&plan)).await,
        Command::Encrypted { rounds, seconds } => {
            encrypted::run(rounds, Duration::from_secs(seconds)).await
        }
        Command::Listings { rounds, markers } => listings::run(rounds, markers).await,
        Command::Snapshots { rounds, objects } => snapshots::run(rounds, objects).await,
        Command::Pinned { rounds, puts, ipfs } => pinned::run(rounds, puts, ipfs).await,
        Command::Restored { rounds, objects, ipfs } => restored::run(rounds, objects, &ipfs).await,
        Command::Soak { connections, seconds } => {
            soak::run(connections, Duration::from_secs(seconds)).await
        }
        Command::Compare { peers, baseline, rounds, seconds, only, payload } => {
            let mut servers = vec![Kind::Fula];
            servers.extend(baseline.map(Kind::Baseline));
            servers.extend(peers);
            let length = Duration::from_secs(seconds);
            let payload = payload.into();
            let plan = compare::Plan { servers, rounds, length, payload, settle, only };
            compare::run(&plan).await
        }
    }
}
