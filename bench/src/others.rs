//! What a master reads of others: a key that another one has just written, and everything at its first start.

use std::{io, time::Duration};

use fula_testkit::s3::Call;
use http::Method;
use tokio::time::Instant;

use crate::{
    load::{Bodies, commit, key},
    peers::START,
    process::usage,
    report::median,
    server::Kind,
    shared::{Below, Federation, Store},
};

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// Block store that the masters share
    #[arg(long, value_enum, default_value = "seaweedfs")]
    store: Store,
    /// Milliseconds to add to each request to the block store, each way; not for a directory
    #[arg(long, default_value_t = 25)]
    delay: u64,
    /// Number of objects that are there before
    #[arg(long, default_value_t = 1_000_000)]
    objects: u64,
    /// Length of each of them in bytes
    #[arg(long, default_value_t = 1024)]
    bytes: usize,
    /// Number of keys that one master writes and another one reads
    #[arg(long, default_value_t = 100)]
    reads: u64,
}

const BUCKET: &str = "bucket";

/// Number of masters before another one joins.
const MASTERS: usize = 2;

/// Measures, and prints two tables.
pub(crate) async fn run(plan: &Plan) -> io::Result<()> {
    let below = Below::start(plan.store, Duration::ZERO).await?;
    let mut federation = Federation::start_with(MASTERS, &Kind::Fula, below.as_ref(), &[]).await?;
    commit(|| federation.client(0), BUCKET, plan.objects, plan.bytes).await?;
    println!(
        "{} objects of {} bytes, {MASTERS} masters on Postgres, blocks in {:?}",
        plan.objects, plan.bytes, plan.store
    );
    let delays: Vec<Duration> = match &below {
        Some(_) => vec![Duration::ZERO, Duration::from_millis(plan.delay)],
        None => vec![Duration::ZERO],
    };
    println!(
        "| round trip to the store, added | GET of what another master has just put, median | slowest |"
    );
    println!("|---|---|---|");
    let mut medians = Vec::new();
    for (delay, n) in delays.iter().zip(0..) {
        if let Some(below) = &below {
            below.link.set_latency(*delay);
        }
        let first = plan.objects + n * plan.reads;
        let times = read_new(&federation, first..first + plan.reads).await?;
        let slowest = times.iter().copied().fold(0.0, f64::max);
        let in_the_middle = median(times);
        println!("| {} ms | {in_the_middle:.1} ms | {slowest:.1} ms |", (2 * *delay).as_millis());
        medians.push(in_the_middle);
    }
    if let [at_once, delayed] = medians[..] {
        let trips = (delayed - at_once) / (2.0 * delays[1].as_secs_f64() * 1000.0);
        println!("{trips:.2} round trips to the store one after another, of the medians");
    }
    println!();
    println!(
        "| round trip, added | an empty master serves after | its peak memory then | first GET | peak after {} GETs |",
        plan.reads
    );
    println!("|---|---|---|---|---|");
    for delay in delays {
        if let Some(below) = &below {
            below.link.set_latency(delay);
        }
        let line = join(&mut federation, plan).await?;
        println!("| {} ms | {line} |", (2 * delay).as_millis());
    }
    Ok(())
}

/// Puts keys through one master, and gets each of them at once from another one. Returns the milliseconds of each
/// GET.
async fn read_new(federation: &Federation, numbers: std::ops::Range<u64>) -> io::Result<Vec<f64>> {
    let (mut writer, mut reader) = (federation.client(0), federation.client(1));
    let bodies = Bodies::new(4 << 10);
    let mut times = Vec::new();
    for number in numbers {
        let path = format!("/{BUCKET}/{}", key(number));
        let body = bodies.body(number);
        let put = Call::new(Method::PUT, path.clone()).body(body.clone());
        let reply = writer.send(&put, START).await?;
        if !reply.status.is_success() {
            return Err(io::Error::other(format!("PUT {path}: {}", reply.status)));
        }
        let begun = Instant::now();
        let reply = reader.send(&Call::new(Method::GET, path.clone()), START).await?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
        if reply.body != body {
            return Err(io::Error::other(format!("GET {path}: {}, and other bytes", reply.status)));
        }
    }
    Ok(times)
}

/// Starts a master with an empty data directory. Returns the cells of its line.
async fn join(federation: &mut Federation, plan: &Plan) -> io::Result<String> {
    let started = federation.join().await?;
    let master = federation.gateways.len() - 1;
    let pid = federation.gateways[master].pid().ok_or(io::ErrorKind::NotFound)?;
    let peak = usage(pid)?.peak;
    let mut client = federation.client(master);
    let mut first = None;
    let step = (plan.objects / plan.reads.max(1)).max(1);
    for number in (0..plan.objects).step_by(usize::try_from(step).map_err(io::Error::other)?) {
        let begun = Instant::now();
        let call = Call::new(Method::GET, format!("/{BUCKET}/{}", key(number)));
        let reply = client.send(&call, START).await?;
        if !reply.status.is_success() {
            return Err(io::Error::other(format!("GET {}: {}", call.path, reply.status)));
        }
        first.get_or_insert_with(|| begun.elapsed());
    }
    Ok(format!(
        "{:.2} s | {} MiB | {:.0} ms | {} MiB",
        started.as_secs_f64(),
        peak >> 20,
        first.unwrap_or_default().as_secs_f64() * 1000.0,
        usage(pid)?.peak >> 20
    ))
}
