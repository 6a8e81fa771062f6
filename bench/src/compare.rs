//! Runs the same work on each server in turns, and prints a table of the results.

use std::{io, time::Duration};

use fula_testkit::s3::Payload;

use crate::{
    load::{self, Limit, Load, Operation},
    memory,
    report::{Measure, Row, print_rates, print_usage},
    server::{Kind, Server},
};

/// Length of a small object in bytes.
const SMALL: usize = 4 << 10;

/// Length of a big object in bytes.
const BIG: usize = 64 << 20;

/// Number of small objects that are read.
const READ_KEYS: u64 = 4096;

/// One kind of work.
struct Cell {
    name: &'static str,
    operation: Operation,
    bucket: &'static str,
    bytes: usize,
    connections: usize,
    measure: Measure,
    /// Target for the ratio of Fula's figure to the peer's.
    aim: &'static str,
}

impl Cell {
    fn small(name: &'static str, connections: usize, aim: &'static str) -> Self {
        let (operation, bucket, measure) = (Operation::Put, "small", Measure::Rate);
        Self { name, operation, bucket, bytes: SMALL, connections, measure, aim }
    }

    fn list(name: &'static str, bucket: &'static str, keys: u64) -> Self {
        let (operation, measure) = (Operation::List(keys), Measure::Time);
        Self { name, operation, bucket, bytes: 0, connections: 1, measure, aim: "<= 0.25" }
    }
}

/// The listings, with the number of keys in their buckets.
const LISTED: [(&str, u64); 3] =
    [("listed-1k", 1_000), ("listed-10k", 10_000), ("listed-100k", 100_000)];

fn small_cells() -> Vec<Cell> {
    vec![
        Cell::small("PUT 4 KiB, 1 connection", 1, ">= 3"),
        Cell::small("PUT 4 KiB, 16 connections", 16, ">= 4"),
        Cell::small("PUT 4 KiB, 64 connections", 64, ">= 6"),
        Cell {
            operation: Operation::Get(READ_KEYS),
            bucket: "read",
            ..Cell::small("GET 4 KiB, 16 connections", 16, ">= 4")
        },
        Cell::list("LIST 1 000 of 1k", LISTED[0].0, LISTED[0].1),
        Cell::list("LIST 1 000 of 10k", LISTED[1].0, LISTED[1].1),
        Cell::list("LIST 1 000 of 100k", LISTED[2].0, LISTED[2].1),
    ]
}

fn big_cells() -> Vec<Cell> {
    let put = Cell {
        bytes: BIG,
        bucket: "big",
        measure: Measure::Throughput,
        ..Cell::small("PUT 64 MiB, 2 connections", 2, ">= 2")
    };
    let get = Cell {
        operation: Operation::Get(4),
        bucket: "read",
        bytes: BIG,
        measure: Measure::Throughput,
        ..Cell::small("GET 64 MiB, 2 connections", 2, ">= 1.3")
    };
    vec![put, get]
}

/// The settings of a comparison.
pub(crate) struct Plan {
    pub(crate) servers: Vec<Kind>,
    pub(crate) rounds: usize,
    /// Duration of each cell in each round.
    pub(crate) length: Duration,
    pub(crate) payload: Payload,
    /// Whether free memory is used once before each kind of work.
    pub(crate) settle: bool,
    /// Runs only cells whose name contains this.
    pub(crate) only: Option<String>,
}

/// Runs the work with small objects, then that with big ones on fresh servers.
pub(crate) async fn run(plan: &Plan) -> io::Result<()> {
    let wanted = |cells: Vec<Cell>| {
        let is_wanted =
            |cell: &Cell| plan.only.as_ref().is_none_or(|only| cell.name.contains(only.as_str()));
        cells.into_iter().filter(is_wanted).collect::<Vec<_>>()
    };
    for (work, cells, bytes, keys) in
        [("small", wanted(small_cells()), SMALL, READ_KEYS), ("big", wanted(big_cells()), BIG, 4)]
    {
        if !cells.is_empty() {
            phase(plan, work, &cells, bytes, keys).await?;
        }
    }
    Ok(())
}

async fn phase(plan: &Plan, work: &str, cells: &[Cell], bytes: usize, keys: u64) -> io::Result<()> {
    let _settled = plan.settle.then(memory::settle).transpose()?;
    let mut servers = Vec::new();
    for kind in &plan.servers {
        eprintln!("starting {}", kind.name());
        let server = Server::start(kind, &[]).await?;
        prepare(&server, cells, bytes, keys).await?;
        servers.push(server);
    }
    let mut rows: Vec<Vec<Row>> = vec![Vec::new(); cells.len()];
    for round in 0..plan.rounds {
        for (cell, rows) in cells.iter().zip(&mut rows) {
            eprintln!("round {} of {}: {}", round + 1, plan.rounds, cell.name);
            // Each server is the first equally often.
            let mut measured = vec![None; servers.len()];
            for turn in 0..servers.len() {
                let n = (turn + round) % servers.len();
                let first = 1_000_000_000 * (round as u64 + 1);
                measured[n] = Some(measure(plan, &servers[n], cell, first).await?);
            }
            rows.extend(measured.into_iter().flatten());
        }
    }
    let names: Vec<_> = servers.iter().map(|server| server.kind.name()).collect();
    let aims: Vec<_> = cells.iter().map(|cell| (cell.name, cell.measure, cell.aim)).collect();
    print_rates(work, &names, &aims, &rows);
    print_usage(&names, &aims, &rows);
    for server in &servers {
        #[expect(clippy::cast_precision_loss, reason = "a figure to look at")]
        let mib = server.usage()?.peak as f64 / f64::from(1 << 20);
        println!("peak memory of {} on the {work} work: {mib:.0} MiB", server.kind.name());
    }
    println!();
    Ok(())
}

/// Creates the buckets, and fills those that are read.
async fn prepare(server: &Server, cells: &[Cell], bytes: usize, keys: u64) -> io::Result<()> {
    let mut made: Vec<&str> = Vec::new();
    for cell in cells {
        if made.contains(&cell.bucket) {
            continue;
        }
        made.push(cell.bucket);
        server.make_bucket(cell.bucket).await?;
        let listed = LISTED.iter().find(|(bucket, _)| *bucket == cell.bucket);
        let (keys, bytes) = match (listed, cell.operation) {
            (Some((_, keys)), _) => (*keys, 16),
            (None, Operation::Get(_)) => (keys, bytes),
            (None, _) => continue,
        };
        fill(server, cell.bucket, bytes, 0..keys).await?;
    }
    Ok(())
}

/// Puts objects with a range of numbers.
pub(crate) async fn fill(
    server: &Server,
    bucket: &str,
    bytes: usize,
    numbers: std::ops::Range<u64>,
) -> io::Result<()> {
    let load = Load {
        operation: Operation::Put,
        bucket: bucket.to_owned(),
        bytes,
        connections: if bytes > 1 << 20 { 2 } else { 64 },
        limit: Limit::Requests(numbers.end - numbers.start),
        payload: Payload::Unsigned,
        first: numbers.start,
    };
    load::run(server.address, &server.credentials, &load).await.map(drop)
}

async fn measure(plan: &Plan, server: &Server, cell: &Cell, first: u64) -> io::Result<Row> {
    let load = Load {
        operation: cell.operation,
        bucket: cell.bucket.to_owned(),
        bytes: cell.bytes,
        connections: cell.connections,
        limit: Limit::Time(plan.length),
        payload: plan.payload,
        // Each cell has its own keys.
        first: first + cell.connections as u64 * 10_000_000,
    };
    sample(server, &load, cell.measure).await
}

/// Runs one load on one server.
pub(crate) async fn sample(server: &Server, load: &Load, measure: Measure) -> io::Result<Row> {
    let before = server.usage()?;
    let tally = load::run(server.address, &server.credentials, load).await?;
    let usage = server.usage()?.since(before);
    #[expect(clippy::cast_precision_loss, reason = "figures to look at")]
    let value = match measure {
        Measure::Rate => tally.rate(),
        Measure::Throughput => {
            tally.bytes as f64 / f64::from(1 << 20) / tally.elapsed.as_secs_f64()
        }
        Measure::Time => tally.micros.value_at_quantile(0.5) as f64 / 1000.0,
    };
    Ok(Row { value, tally, usage })
}
