//! Load generation: connections that each send one request after another.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use fula_core::cbor::Writer;
use fula_testkit::{
    rng::Rng,
    s3::{Call, Client, Credentials, Payload},
};
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use http::{Method, StatusCode};

/// Number of keys of a LIST page.
const PAGE: u64 = 1000;

/// Number of bytes between two stamps, which make every block different, so that no block is stored only
/// once.
const STAMP_EVERY: usize = 1 << 20;

/// Number of objects that one commit makes.
const IN_A_COMMIT: u64 = 1000;

/// Number of connections that commit.
const MAKERS: u64 = 4;

/// Longest time that a commit may take, and that it is repeated while the server answers `SlowDown`.
const PATIENCE: Duration = Duration::from_mins(5);

/// Time before a commit is repeated.
const PAUSE: Duration = Duration::from_secs(1);

/// The operation that each connection repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Puts objects with new keys, in an order that looks random to the server.
    Put,
    /// Puts objects with keys drawn from this many.
    Overwrite(u64),
    /// Gets objects drawn from this many.
    Get(u64),
    /// Lists a page of 1 000 keys that begins anywhere in this many.
    List(u64),
}

/// The end of a load.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// The load ends after this time.
    Time(Duration),
    /// The load ends after this many requests.
    Requests(u64),
}

/// The settings of a load.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) operation: Operation,
    pub(crate) bucket: String,
    /// Length of each object in bytes.
    pub(crate) bytes: usize,
    pub(crate) connections: usize,
    pub(crate) limit: Limit,
    pub(crate) payload: Payload,
    /// Number of the first new key.
    pub(crate) first: u64,
}

/// The result of a load.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    /// Number of answers 503 `SlowDown`, after which the request is repeated.
    pub(crate) slow_downs: u64,
    /// Bytes of bodies, sent or received.
    pub(crate) bytes: u64,
    pub(crate) elapsed: Duration,
    /// Duration of each request in microseconds.
    pub(crate) micros: Histogram<u64>,
}

impl Tally {
    fn new() -> Self {
        let micros = Histogram::new(3).expect("three digits are allowed");
        Self { requests: 0, slow_downs: 0, bytes: 0, elapsed: Duration::ZERO, micros }
    }

    /// Returns the number of requests per second.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.slow_downs += other.slow_downs;
        self.bytes += other.bytes;
        self.micros.add(&other.micros).expect("histograms of one kind");
    }
}

/// Returns the key of a number. Successive numbers give keys in no particular order.
pub(crate) fn key(number: u64) -> String {
    format!("{:016x}", Rng::new(number).below(u64::MAX))
}

/// Bodies of one length that differ in every block.
#[derive(Clone, Debug)]
pub(crate) struct Bodies {
    pattern: Bytes,
    salt: u64,
}

impl Bodies {
    pub(crate) fn new(bytes: usize) -> Self {
        let mut rng = Rng::new(0x5eed);
        let words = std::iter::repeat_with(|| rng.below(u64::MAX).to_le_bytes());
        let pattern: Vec<u8> = words.take(bytes.div_ceil(8)).flatten().take(bytes).collect();
        // Runs on one server must not put blocks of an earlier run.
        let salt = u64::from(std::process::id()) << 40;
        Self { pattern: pattern.into(), salt }
    }

    pub(crate) fn body(&self, number: u64) -> Bytes {
        let mut body = BytesMut::from(&self.pattern[..]);
        let stamp = (self.salt ^ number).to_le_bytes();
        for block in body.chunks_mut(STAMP_EVERY) {
            let len = block.len().min(8);
            block[..len].copy_from_slice(&stamp[..len]);
        }
        body.freeze()
    }
}

/// Makes objects with the first keys of [`key`], many in each commit.
///
/// # Errors
/// The first answer other than success, a server that answers `SlowDown` for five minutes, or a broken
/// connection.
pub(crate) async fn commit(
    client: impl Fn() -> Client,
    bucket: &str,
    objects: u64,
    bytes: usize,
) -> io::Result<()> {
    let bodies = Bodies::new(bytes);
    let step = usize::try_from(MAKERS * IN_A_COMMIT).map_err(io::Error::other)?;
    let makers = (0..MAKERS).map(|maker| {
        let (mut client, bodies) = (client(), bodies.clone());
        async move {
            for first in (maker * IN_A_COMMIT..objects).step_by(step) {
                let numbers = first..objects.min(first + IN_A_COMMIT);
                let mut out = Writer::with_capacity(1 << 19);
                let count =
                    usize::try_from(numbers.end - numbers.start).map_err(io::Error::other)?;
                out.map(1).text("changes").array(count);
                for number in numbers {
                    out.map(1).text("put").map(2).text("key").text(&key(number));
                    out.text("bytes").bytes(&bodies.body(number));
                }
                let call = Call::new(Method::POST, format!("/{bucket}")).query("fula-commit");
                let call = call.header("content-type", "application/vnd.ipld.dag-cbor");
                let call = call.body(out.finish());
                let mut reply = client.send(&call, PATIENCE).await?;
                let begun = Instant::now();
                // A store of blocks that others serve may fall behind for a while.
                while reply.status == StatusCode::SERVICE_UNAVAILABLE && begun.elapsed() < PATIENCE
                {
                    tokio::time::sleep(PAUSE).await;
                    reply = client.send(&call, PATIENCE).await?;
                }
                if !reply.status.is_success() {
                    let text = String::from_utf8_lossy(&reply.body);
                    return Err(io::Error::other(format!("{}: {text}", reply.status)));
                }
            }
            Ok(())
        }
    });
    try_join_all(makers).await.map(drop)
}

/// Runs a load until its limit.
///
/// # Errors
/// The first answer other than success or `SlowDown`, or a broken connection.
pub(crate) async fn run(
    address: SocketAddr,
    credentials: &Credentials,
    load: &Load,
) -> io::Result<Tally> {
    let next = Arc::new(AtomicU64::new(0));
    let bodies = Bodies::new(load.bytes);
    let started = Instant::now();
    let workers = (0..load.connections).map(|n| {
        let client = Client::new(address, credentials.clone()).payload(load.payload);
        let worker = Worker {
            client,
            load: load.clone(),
            bodies: bodies.clone(),
            next: Arc::clone(&next),
            rng: Rng::new(load.first ^ (n as u64) << 32 | 1),
        };
        tokio::spawn(worker.work(started))
    });
    let tallies = try_join_all(workers).await.map_err(io::Error::other)?;
    let mut total = Tally::new();
    for tally in tallies {
        total.add(&tally?);
    }
    total.elapsed = started.elapsed();
    Ok(total)
}

struct Worker {
    client: Client,
    load: Load,
    bodies: Bodies,
    next: Arc<AtomicU64>,
    rng: Rng,
}

impl Worker {
    async fn work(mut self, started: Instant) -> io::Result<Tally> {
        let mut tally = Tally::new();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let is_over = match self.load.limit {
                Limit::Time(length) => started.elapsed() >= length,
                Limit::Requests(requests) => number >= requests,
            };
            if is_over {
                return Ok(tally);
            }
            let call = self.call(number);
            let begun = Instant::now();
            let (mut reply, mut received) = self.client.drain(&call).await?;
            while reply.status == StatusCode::SERVICE_UNAVAILABLE {
                tally.slow_downs += 1;
                (reply, received) = self.client.drain(&call).await?;
            }
            if !reply.status.is_success() {
                let text = String::from_utf8_lossy(&reply.body).into_owned();
                return Err(io::Error::other(format!("{} {}: {text}", reply.status, call.path)));
            }
            let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            tally.micros.record(micros).map_err(io::Error::other)?;
            tally.requests += 1;
            tally.bytes += call.body.len() as u64 + received;
        }
    }

    fn call(&mut self, number: u64) -> Call {
        let bucket = &self.load.bucket;
        match self.load.operation {
            Operation::Put => {
                let number = self.load.first + number;
                let call = Call::new(Method::PUT, format!("/{bucket}/{}", key(number)));
                call.body(self.bodies.body(number))
            }
            Operation::Overwrite(keys) => {
                let key = key(self.rng.below(keys));
                let call = Call::new(Method::PUT, format!("/{bucket}/{key}"));
                call.body(self.bodies.body(self.load.first + number))
            }
            Operation::Get(keys) => {
                Call::new(Method::GET, format!("/{bucket}/{}", key(self.rng.below(keys))))
            }
            Operation::List(keys) => {
                // Keys are spread evenly, so a part of the key space holds an equal part of the keys.
                let begins = self.rng.below(keys.saturating_sub(PAGE).max(1));
                let after = u64::MAX / keys * begins;
                let query = format!("list-type=2&max-keys={PAGE}&start-after={after:016x}");
                Call::new(Method::GET, format!("/{bucket}")).query(query)
            }
        }
    }
}
