//! A soak test of many connections for a long time. There are small and large bodies, clients that stall
//! while they send, that send very slowly, or that do not read their answer, and unauthenticated ones that
//! do the same. It checks that memory is bounded, that bodies have the right length, and that every answer
//! is a success or `SlowDown`.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use fula_testkit::{
    rng::Rng,
    s3::{Call, Client, Payload},
};
use futures::future::join_all;
use hdrhistogram::Histogram;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    load::key,
    server::{Kind, Server},
};

/// Sizes of bodies, and the percentage of requests that have them.
const SIZES: [(usize, u64); 4] = [(4 << 10, 60), (64 << 10, 25), (1 << 20, 12), (8 << 20, 3)];

/// Number of keys of each size that are read and overwritten.
const KEYS: u64 = 200;
/// Number of these keys that exist from the start.
const FILLED: u64 = 20;

/// Largest memory that the server may ever use, in bytes: bodies, caches, and the buffers of a thousand
/// connections, all twice over.
const PEAK_MAX: u64 = 2 << 30;

/// Interval between the bytes of a slow client.
const TRICKLE: Duration = Duration::from_millis(500);
/// Number of bytes that a slow client sends at a time.
const TRICKLE_BYTES: usize = 1024;

/// Largest XML that a server reads, in bytes.
const XML_BYTES: usize = 4 << 20;

/// One of this many connections stalls.
const STALLED_OF: usize = 10;

/// Disk space of the server beyond which the soak ends, in bytes: ten times what can be read.
const DISK_BYTES_MAX: u64 = 20 << 30;

/// Interval between measurements of memory and disk.
const WATCH_EVERY: Duration = Duration::from_secs(5);

/// Time that a stalled client waits before it tries again.
const STALL: Duration = Duration::from_secs(20);

/// The results of requests of one kind.
#[derive(Debug)]
struct Kinds {
    micros: BTreeMap<String, Histogram<u64>>,
    slow_downs: u64,
    /// Other answers, and their numbers.
    errors: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Soak {
    server: Server,
    ends: Instant,
    stalls: AtomicU64,
    /// Largest disk space at any measurement, in bytes.
    disk_most: AtomicU64,
    kinds: Mutex<Kinds>,
}

/// Runs the soak, and prints the results. Any error other than `SlowDown` makes it fail.
pub(crate) async fn run(connections: usize, length: Duration) -> io::Result<()> {
    // Otherwise everything that is replaced in ten minutes would have to fit on the disk.
    let server = Server::start(&Kind::Fula, &[("FULA_RETENTION", "0s")]).await?;
    server.make_bucket("soak").await?;
    let kinds = Kinds { micros: BTreeMap::new(), slow_downs: 0, errors: BTreeMap::new() };
    let soak = Arc::new(Soak {
        server,
        ends: Instant::now() + length,
        stalls: AtomicU64::new(0),
        disk_most: AtomicU64::new(0),
        kinds: Mutex::new(kinds),
    });
    soak.fill().await?;
    let clients = (0..connections).map(|n| {
        let soak = Arc::clone(&soak);
        tokio::spawn(async move {
            if n % STALLED_OF == 0 { soak.stall(n as u64).await } else { soak.work(n as u64).await }
        })
    });
    let clients: Vec<_> = clients.collect();
    let ended = tokio::select! {
        ended = join_all(clients) => ended,
        Err(error) = soak.watch(length) => {
            // Clients end with the process, so answers after this do not count.
            if let Err(also) = soak.report(connections).await {
                eprintln!("{also}");
            }
            return Err(error);
        }
    };
    for client in ended {
        client.map_err(io::Error::other)??;
    }
    soak.report(connections).await
}

fn body(seed: u64, len: usize) -> Bytes {
    let mut rng = Rng::new(seed);
    let mut bytes = vec![0; len];
    // Blocks must differ. To fill them whole would cost more than the server uses.
    for chunk in bytes.chunks_mut(4096) {
        let len = chunk.len().min(8);
        chunk[..len].copy_from_slice(&rng.below(u64::MAX).to_le_bytes()[..len]);
    }
    bytes.into()
}

impl Soak {
    async fn fill(&self) -> io::Result<()> {
        let mut client = self.server.client();
        for (len, _) in SIZES {
            for n in 0..FILLED {
                let path = format!("/soak/{len}/{}", key(n));
                let call = Call::new(Method::PUT, path).body(body(n, len));
                client.send(&call, STALL).await?;
            }
        }
        Ok(())
    }

    /// Watches memory and disk as long as the soak lasts. Fails when the disk is too full.
    async fn watch(&self, length: Duration) -> io::Result<()> {
        for look in 1.. {
            if Instant::now() >= self.ends {
                break;
            }
            tokio::time::sleep(WATCH_EVERY.min(length)).await;
            let (peak, disk) = (self.server.usage()?.peak, self.server.disk_bytes()?);
            self.disk_most.fetch_max(disk, Ordering::Relaxed);
            if look % 6 == 0 {
                eprintln!("peak memory so far {} MiB, on disk {} MiB", peak >> 20, disk >> 20);
            }
            if disk > DISK_BYTES_MAX {
                return Err(io::Error::other("space does not come back as fast as it is taken"));
            }
        }
        Ok(())
    }

    fn note(&self, kind: &str, begun: Instant, may_lack: bool, reply: io::Result<StatusCode>) {
        let mut kinds = self.kinds.lock();
        match reply {
            Ok(StatusCode::SERVICE_UNAVAILABLE) => kinds.slow_downs += 1,
            Ok(status) if status.is_success() || (may_lack && status == StatusCode::NOT_FOUND) => {
                let new = || Histogram::new(3).expect("three digits are allowed");
                let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                let histogram = kinds.micros.entry(kind.to_owned()).or_insert_with(new);
                // The histogram grows as long as microseconds fit 64 bits.
                histogram.record(micros).expect("it grows");
            }
            Ok(status) => *kinds.errors.entry(format!("{kind}: {status}")).or_default() += 1,
            Err(error) => *kinds.errors.entry(format!("{kind}: {error}")).or_default() += 1,
        }
    }

    /// Puts and gets objects of all sizes.
    async fn work(&self, n: u64) -> io::Result<()> {
        let mut rng = Rng::new(n);
        let mut client = Client::new(self.server.address, self.server.credentials.clone());
        client = client.payload(Payload::Unsigned);
        while Instant::now() < self.ends {
            let mut draw = rng.below(100);
            let size = SIZES.iter().find(|(_, share)| {
                let is_it = draw < *share;
                draw = draw.saturating_sub(*share);
                is_it
            });
            let len = size.map_or(SIZES[0].0, |(len, _)| *len);
            let number = rng.below(KEYS);
            let path = format!("/soak/{len}/{}", key(number));
            let is_put = rng.below(2) == 0;
            let call = if is_put {
                Call::new(Method::PUT, path).body(body(rng.below(u64::MAX), len))
            } else {
                Call::new(Method::GET, path)
            };
            let kind = format!("{} {:>5} KiB", if is_put { "PUT" } else { "GET" }, len >> 10);
            let begun = Instant::now();
            let reply = client.drain(&call).await.and_then(|(reply, bytes)| {
                if !is_put && reply.status == StatusCode::OK && bytes != len as u64 {
                    return Err(io::Error::other("an answer of another length"));
                }
                Ok(reply.status)
            });
            if matches!(reply, Ok(StatusCode::SERVICE_UNAVAILABLE)) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            self.note(&kind, begun, !is_put && number >= FILLED, reply);
        }
        Ok(())
    }

    /// Stalls in one of several ways: sends half a body, sends byte by byte, does not read the answer, or
    /// sends half a body without credentials.
    async fn stall(&self, n: u64) -> io::Result<()> {
        let client = self.server.client();
        let mut rng = Rng::new(n);
        while Instant::now() < self.ends {
            self.stalls.fetch_add(1, Ordering::Relaxed);
            let mut stream = TcpStream::connect(self.server.address).await?;
            let len = SIZES[3].0;
            let path = format!("/soak/{len}/{}", key(rng.below(FILLED)));
            let put = || Call::new(Method::PUT, path.clone()).body(body(n, len));
            let get = |path: &str| client.head_of(&Call::new(Method::GET, path.to_owned()));
            let stranger = |path: &str, len: usize| {
                let host = self.server.address;
                format!("PUT {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len}\r\n\r\n")
            };
            let (head, sent, is_slow) = match (n / STALLED_OF as u64) % 6 {
                0 => (client.head_of(&put())?, put().body.slice(..len / 2), false),
                1 => (client.head_of(&put())?, put().body, true),
                2 => (get(&path)?, Bytes::new(), false),
                3 => (get("/soak?list-type=2")?, Bytes::new(), false),
                4 => (
                    stranger("/stranger", XML_BYTES),
                    Bytes::from(vec![b' '; XML_BYTES / 2]),
                    false,
                ),
                _ => (stranger(&path, len), put().body.slice(..len / 2), false),
            };
            // The server may close the connection, which is what this tests.
            drop(stream.write_all(head.as_bytes()).await);
            for bytes in sent.chunks(if is_slow { TRICKLE_BYTES } else { len }) {
                let is_over = Instant::now() >= self.ends;
                if is_over || stream.write_all(bytes).await.is_err() {
                    break;
                }
                if is_slow {
                    tokio::time::sleep(TRICKLE).await;
                }
            }
            if sent.is_empty() {
                drop(stream.read(&mut [0; 100]).await);
            }
            let left = self.ends.saturating_duration_since(Instant::now());
            tokio::time::sleep(if is_slow { Duration::ZERO } else { STALL.min(left) }).await;
        }
        Ok(())
    }

    async fn report(&self, connections: usize) -> io::Result<()> {
        let unavailable = self.server.metric("fula_unavailable_total").await?;
        let hangups = self.server.metric("fula_memory_hangups_total").await?;
        let peak = self.server.usage()?.peak;
        let kinds = self.kinds.lock();
        println!(
            "| {connections} connections, one in {STALLED_OF} stalls | requests | p50 | p99 | most |\n|---|---|---|---|---|"
        );
        for (kind, micros) in &kinds.micros {
            let at = |share| Duration::from_micros(micros.value_at_quantile(share));
            let most = Duration::from_micros(micros.max());
            let (half, most_of) = (at(0.5), at(0.99));
            println!("| {kind} | {} | {half:.1?} | {most_of:.1?} | {most:.1?} |", micros.len());
        }
        println!(
            "\n{} SlowDown, {} stalls, {hangups} connections ended for them, peak memory {} MiB, at most {} \
             MiB on disk, {unavailable} found a store failing, errors: {:?}",
            kinds.slow_downs,
            self.stalls.load(Ordering::Relaxed),
            peak >> 20,
            self.disk_most.load(Ordering::Relaxed) >> 20,
            kinds.errors
        );
        // The failure of a store is answered with `SlowDown` too.
        if !kinds.errors.is_empty() || unavailable > 0.0 {
            return Err(io::Error::other("there were errors"));
        }
        if kinds.micros.len() < 2 * SIZES.len() {
            return Err(io::Error::other("some kind of request never succeeded"));
        }
        if peak > PEAK_MAX {
            return Err(io::Error::other("memory is not bounded as it should be"));
        }
        Ok(())
    }
}
