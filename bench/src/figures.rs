//! Figures of Fula alone: rates by size of the bucket, bytes written, and freeing of space.

use std::{io, time::Duration};

use fula_testkit::s3::Payload;

use crate::{
    compare::{fill, sample},
    load::{Limit, Load, Operation},
    report::{Measure, Row, median, median_of},
    server::{Kind, Server},
};

const SMALL: usize = 4 << 10;

/// Duration of a load that is not counted, before each turn of a bucket, because the cache still holds the
/// one before.
const WARM_UP: Duration = Duration::from_secs(1);

/// Number of objects of the space figure.
const SPACE_KEYS: u64 = 20_000;
/// Number of puts of these objects.
const SPACE_PUTS: u64 = 200_000;

fn put(bucket: &str, operation: Operation, connections: usize, limit: Limit, first: u64) -> Load {
    let (bucket, payload) = (bucket.to_owned(), Payload::Unsigned);
    Load { operation, bucket, bytes: SMALL, connections, limit, payload, first }
}

/// Measures overwrites in buckets of one size each, on each server, in turns. The rates should be equal.
pub(crate) async fn flat(
    kinds: &[Kind],
    rounds: usize,
    length: Duration,
    most: u64,
) -> io::Result<()> {
    let sizes: Vec<u64> =
        [1_000, 10_000, 100_000, 1_000_000].into_iter().filter(|keys| *keys <= most).collect();
    let mut servers = Vec::new();
    for kind in kinds {
        let server = Server::start(kind, &[]).await?;
        for keys in &sizes {
            eprintln!("filling a bucket of {keys} keys");
            let bucket = format!("keys-{keys}");
            server.make_bucket(&bucket).await?;
            fill(&server, &bucket, 16, 0..*keys).await?;
        }
        servers.push(server);
    }
    let mut rows: Vec<Vec<Vec<Row>>> = vec![vec![Vec::new(); sizes.len()]; servers.len()];
    let mut reads = vec![vec![Vec::new(); sizes.len()]; servers.len()];
    for round in 0..rounds {
        for turn in 0..sizes.len() {
            let n = (turn + round) % sizes.len();
            for turn in 0..servers.len() {
                let which = (turn + round + n) % servers.len();
                let first = 1_000_000_000 * (1 + round as u64 * 10 + n as u64);
                let operation = Operation::Overwrite(sizes[n]);
                let bucket = format!("keys-{}", sizes[n]);
                let warm_up =
                    put(&bucket, operation, 16, Limit::Time(WARM_UP), first + 500_000_000);
                let server = &servers[which];
                sample(server, &warm_up, Measure::Rate).await?;
                let load = put(&bucket, operation, 16, Limit::Time(length), first);
                let before = nodes_read(server).await;
                let row = sample(server, &load, Measure::Rate).await?;
                let read = nodes_read(server).await - before;
                #[expect(clippy::cast_precision_loss, reason = "figures to look at")]
                reads[which][n].push(read / row.tally.requests as f64);
                rows[which][n].push(row);
            }
        }
    }
    for ((server, rows), reads) in servers.iter().zip(&rows).zip(&reads) {
        print_flat(server, &sizes, rows, reads);
    }
    let (ours, others) = rows.split_first().expect("ours is among them");
    for (server, theirs) in servers.iter().skip(1).zip(others) {
        for ((keys, ours), theirs) in sizes.iter().zip(ours).zip(theirs) {
            let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours.value / theirs.value);
            let (ratio, name) = (median(ratios.collect()), server.kind.name());
            println!("{keys} keys: {ratio:.2} of the rate of {name}, median of rounds");
        }
    }
    Ok(())
}

/// Returns how many nodes a gateway read because they were not cached. The result is 0 for a build that
/// does not count them, and not a number for other servers.
async fn nodes_read(server: &Server) -> f64 {
    server.metric("fula_node_reads_total").await.unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "figures to look at")]
fn print_flat(server: &Server, sizes: &[u64], rows: &[Vec<Row>], reads: &[Vec<f64>]) {
    println!(
        "| keys in the bucket, {} | PUT 4 KiB, 16 connections, median (least - most) | ratio to {} keys, median of rounds \
         | CPU a request | written a request | nodes read a request |\n|---|---|---|---|---|---|",
        server.kind.name(),
        sizes[0]
    );
    for ((keys, rows_of), reads) in sizes.iter().zip(rows).zip(reads) {
        let values: Vec<f64> = rows_of.iter().map(|row| row.value).collect();
        let ratios = rows_of.iter().zip(&rows[0]).map(|(row, base)| row.value / base.value);
        let used = |figure: fn(&Row) -> f64| {
            median_of(rows_of, |row| figure(row) / row.tally.requests as f64)
        };
        println!(
            "| {keys} | {:.0}/s ({:.0} - {:.0}) | {:.2} | {:.0} us | {:.1} KiB | {:.2} |",
            median(values.clone()),
            values.iter().copied().fold(f64::INFINITY, f64::min),
            values.iter().copied().fold(0.0, f64::max),
            median(ratios.collect()),
            used(|row| row.usage.cpu * 1e6),
            used(|row| row.usage.written as f64 / 1024.0),
            median(reads.clone())
        );
    }
    println!();
}

/// Measures the peak memory of servers, each started anew, for an equal number of requests, because a
/// faster server would have more to keep after an equal time.
pub(crate) async fn memory(kinds: &[Kind], rounds: usize, requests: u64) -> io::Result<()> {
    let mut peaks = vec![Vec::new(); kinds.len()];
    for round in 0..rounds {
        for turn in 0..kinds.len() {
            let which = (turn + round) % kinds.len();
            let server = Server::start(&kinds[which], &[]).await?;
            server.make_bucket("memory").await?;
            for (operation, connections, requests) in [
                (Operation::Put, 64, requests),
                (Operation::Get(requests), 16, requests),
                (Operation::List(requests), 16, requests.div_ceil(1000)),
            ] {
                let load = put("memory", operation, connections, Limit::Requests(requests), 0);
                sample(&server, &load, Measure::Rate).await?;
            }
            let peak = server.usage()?.peak;
            eprintln!(
                "round {} of {rounds}: {}, {} MiB",
                round + 1,
                kinds[which].name(),
                peak >> 20
            );
            #[expect(clippy::cast_precision_loss, reason = "figures to look at")]
            peaks[which].push(peak as f64 / f64::from(1 << 20));
        }
    }
    println!(
        "| peak memory after {requests} PUTs and GETs of 4 KiB and a LIST of all | median | of it, median of rounds |\n|---|---|---|"
    );
    for (kind, theirs) in kinds.iter().zip(&peaks) {
        let ratios = peaks[0].iter().zip(theirs).map(|(ours, theirs)| ours / theirs);
        let ratio = median(ratios.collect());
        println!("| {} | {:.0} MiB | {ratio:.2} |", kind.name(), median(theirs.clone()));
    }
    Ok(())
}

/// Measures the bytes that the kernel wrote for the gateway for each byte that was put.
pub(crate) async fn written(rounds: usize) -> io::Result<()> {
    let server = Server::start(&Kind::Fula, &[]).await?;
    server.make_bucket("written").await?;
    eprintln!("filling a bucket of 100 000 keys");
    fill(&server, "written", 16, 0..100_000).await?;
    for connections in [1, 16] {
        let mut rows = Vec::new();
        for round in 0..rounds {
            let first = 1_000_000_000 * (1 + round as u64) + connections as u64 * 100_000_000;
            let limit = Limit::Requests(2_000 * connections as u64);
            let load = put("written", Operation::Put, connections, limit, first);
            rows.push(sample(&server, &load, Measure::Rate).await?);
        }
        #[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
        let figure = median_of(&rows, |row| row.usage.written as f64 / row.tally.bytes as f64);
        println!("written a byte put, 4 KiB, {connections} connections: {figure:.2}");
    }
    Ok(())
}

/// Measures the disk space of overwritten objects, and what freeing it costs writers.
pub(crate) async fn space(rounds: usize) -> io::Result<()> {
    let server = Server::start(&Kind::Fula, &[("FULA_RETENTION", "0s")]).await?;
    server.make_bucket("space").await?;
    fill(&server, "space", SMALL, 0..SPACE_KEYS).await?;
    let overwrite = |puts: u64, first: u64| {
        let operation = Operation::Overwrite(SPACE_KEYS);
        put("space", operation, 16, Limit::Requests(puts), first)
    };
    let load = overwrite(SPACE_PUTS, 1_000_000_000);
    sample(&server, &load, Measure::Rate).await?;
    let before = server.disk_bytes()?;
    let done = server.fula(&["gc", "--now", "--retention", "0s", "--json"])?;
    let (after, live) = (server.disk_bytes()?, done["live_bytes"].as_u64().unwrap_or(0));
    #[expect(clippy::cast_precision_loss, reason = "figures to look at")]
    {
        let content = SPACE_KEYS * SMALL as u64;
        println!(
            "{SPACE_PUTS} PUTs of 4 KiB over {SPACE_KEYS} keys: {before} bytes on disk; after `fula gc --now` {after}, \
             {:.2} x live content and index ({live}), {:.2} x content",
            after as f64 / live as f64,
            after as f64 / content as f64
        );
    }
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..rounds as u64 {
        let first = 2_000_000_000 + round * 1_000_000;
        let quiet = sample(&server, &overwrite(40_000, first), Measure::Rate).await?;
        let loud = beside_collections(&server, &overwrite(40_000, first + 500_000)).await?;
        without.push(quiet);
        with.push(loud);
    }
    let ratios = with.iter().zip(&without).map(|(with, without)| with.value / without.value);
    println!(
        "PUT 4 KiB, 16 connections: {:.0}/s, beside collections {:.0}/s; ratio, median of rounds: {:.2}",
        median_of(&without, |row| row.value),
        median_of(&with, |row| row.value),
        median(ratios.collect())
    );
    Ok(())
}

/// Runs a load during successive collections.
async fn beside_collections(server: &Server, load: &Load) -> io::Result<Row> {
    let command = server.command(&["gc", "--now", "--retention", "0s", "--json"])?;
    let collections = tokio::spawn(async move {
        loop {
            let done = tokio::process::Command::from(command()).output().await?;
            if !done.status.success() {
                let text = String::from_utf8_lossy(&done.stderr).into_owned();
                return io::Result::<()>::Err(io::Error::other(text));
            }
        }
    });
    let row = sample(server, load, Measure::Rate).await;
    if collections.is_finished() {
        collections.await.map_err(io::Error::other)??;
    } else {
        collections.abort();
    }
    row
}
