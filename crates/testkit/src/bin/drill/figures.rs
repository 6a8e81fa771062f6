//! Figures of several masters. Each prints one line with its target.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fula_testkit::{
    cluster::Cluster,
    s3::{Call, Client, Credentials},
};
use futures::future::join_all;
use http::Method;

use crate::client::etag_of;

const BUCKET: &str = "figures";
const PATIENCE: Duration = Duration::from_secs(30);

/// Number of rounds of a comparison. They are run in turns, and the median counts.
const ROUNDS: usize = 3;

/// The result of a load.
#[derive(Debug, Default)]
struct Tally {
    done: AtomicU64,
    refused: AtomicU64,
    busy: AtomicU64,
    unanswered: AtomicU64,
}

impl Tally {
    fn count(&self, reply: &io::Result<fula_testkit::s3::Reply>) -> bool {
        let (slot, ok) = match reply {
            Ok(reply) if reply.status.is_success() => (&self.done, true),
            Ok(reply) if reply.status.as_u16() == 503 => (&self.busy, false),
            Ok(_) => (&self.refused, false),
            Err(_) => (&self.unanswered, false),
        };
        slot.fetch_add(1, Ordering::Relaxed);
        ok
    }
}

/// Runs every part whose name contains `only`.
pub(crate) async fn run(length: Duration, only: Option<&str>) -> io::Result<()> {
    let mut cluster = Cluster::start(3, &[("FULA_EIP712_AUTH", "on")]).await?;
    let made = Call::new(Method::PUT, format!("/{BUCKET}"));
    cluster.client(0).send(&made, PATIENCE).await?;
    let wants = |name: &str| only.is_none_or(|only| name.contains(only));
    if wants("unconditional") {
        unconditional(&cluster, length).await?;
    }
    if wants("create") {
        creations(&cluster).await?;
    }
    if wants("increments") {
        increments(&cluster).await?;
    }
    if wants("hot") {
        hot_bucket(&cluster, length, Duration::ZERO).await?;
        hot_bucket(&cluster, length, Duration::from_millis(5)).await?;
    }
    if wants("batch") {
        batches(&cluster, length).await?;
    }
    if wants("pointer") {
        pointer_reads(&cluster).await?;
    }
    if wants("revocation") {
        revocations(&cluster).await?;
    }
    if wants("recovery") {
        recovery(&mut cluster).await?;
    }
    Ok(())
}

fn put(key: &str, body: &str) -> Call {
    Call::new(Method::PUT, format!("/{BUCKET}/{key}")).body(body.to_owned())
}

/// Runs three masters with sixteen clients each. Half of the writes go to keys that all clients share.
async fn unconditional(cluster: &Cluster, length: Duration) -> io::Result<()> {
    let tally = Tally::default();
    let deadline = Instant::now() + length;
    let clients = (0..48).map(|n| {
        let mut client = cluster.client(n % 3);
        let tally = &tally;
        async move {
            let mut last = None;
            let mut round = 0;
            while Instant::now() < deadline {
                let body = format!("{n} {round}");
                let own = put(&format!("own-{n}"), &body);
                if tally.count(&client.send(&own, PATIENCE).await) {
                    last = Some(body);
                }
                tally.count(
                    &client.send(&put(&format!("shared-{}", round % 8), "x"), PATIENCE).await,
                );
                round += 1;
            }
            (n, last)
        }
    });
    let mut lost = 0;
    for (n, last) in join_all(clients).await {
        let Some(last) = last else { continue };
        let get = Call::new(Method::GET, format!("/{BUCKET}/own-{n}"));
        let found = cluster.client((n + 1) % 3).send(&get, PATIENCE).await?;
        lost += u64::from(found.etag() != Some(etag_of(last.as_bytes())));
    }
    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "unconditional  3 x 16 clients, {} s: {} writes, {lost} lost (0), {} answers 4xx (0), {} 503 \
         and {} unanswered (<= 0.1 %)",
        length.as_secs(),
        load(&tally.done),
        load(&tally.refused),
        load(&tally.busy),
        load(&tally.unanswered),
    );
    Ok(())
}

/// Lets sixteen clients on three masters create the same key, a thousand times.
async fn creations(cluster: &Cluster) -> io::Result<()> {
    let mut clients: Vec<Client> = (0..16).map(|n| cluster.client(n % 3)).collect();
    let mut winners: BTreeMap<usize, u64> = BTreeMap::new();
    for round in 0..1000 {
        let key = format!("create-{round}");
        let puts = clients.iter_mut().map(|client| {
            let call = put(&key, "x").header("if-none-match", "*");
            async move { client.send(&call, PATIENCE).await }
        });
        let replies = join_all(puts).await;
        let won = replies.iter().flatten().filter(|reply| reply.status.is_success()).count();
        let refused = replies.iter().flatten().filter(|r| r.status.as_u16() == 412).count();
        if won + refused != 16 {
            println!(
                "create         round {round}: {:?}",
                replies.iter().flatten().map(|r| r.status).collect::<Vec<_>>()
            );
        }
        *winners.entry(won).or_default() += 1;
    }
    println!(
        "create         16 clients, 3 masters, 1000 rounds, rounds by winners: {winners:?} (all 1)"
    );
    Ok(())
}

/// Lets four clients count to a thousand with entity tags, while a tenth of the answers is dropped.
async fn increments(cluster: &Cluster) -> io::Result<()> {
    const TOTAL: u64 = 1000;
    cluster.client(0).send(&put("counter", "0"), PATIENCE).await?;
    let dropped =
        || cluster.client_links.iter().map(fula_testkit::link::Link::dropped).sum::<u64>();
    let before = dropped();
    for link in &cluster.client_links {
        link.drop_answers(100);
    }
    let (counted, conflicts) = (Arc::new(AtomicU64::new(0)), AtomicU64::new(0));
    let clients = (0..4).map(|n| {
        let (counted, conflicts) = (Arc::clone(&counted), &conflicts);
        let mut masters: Vec<Client> = (0..3).map(|n| cluster.client(n)).collect();
        async move {
            let mut calls = 0;
            while counted.load(Ordering::SeqCst) < TOTAL {
                let get = Call::new(Method::GET, format!("/{BUCKET}/counter"));
                let Ok(seen) = masters[n % 3].send(&get, PATIENCE).await else { continue };
                let (Some(etag), Ok(value)) =
                    (seen.etag(), String::from_utf8_lossy(&seen.body).parse::<u64>())
                else {
                    continue;
                };
                if value >= TOTAL {
                    return;
                }
                calls += 1;
                let call = put("counter", &(value + 1).to_string())
                    .header("if-match", format!("\"{etag}\""))
                    .header("amz-sdk-invocation-id", format!("increment-{n}-{calls}"));
                // The same call is repeated until it is answered, as an SDK does.
                for attempt in 1.. {
                    let call =
                        call.clone().header("amz-sdk-request", format!("attempt={attempt}; max=9"));
                    match masters[(n + attempt) % 3].send(&call, PATIENCE).await {
                        Ok(reply) if reply.status.is_success() => {
                            counted.fetch_add(1, Ordering::SeqCst);
                            break;
                        }
                        Ok(reply) if reply.status.as_u16() == 412 => {
                            conflicts.fetch_add(1, Ordering::SeqCst);
                            break;
                        }
                        _ => {}
                    }
                }
            }
        }
    });
    join_all(clients).await;
    for link in &cluster.client_links {
        link.drop_answers(0);
    }
    let get = Call::new(Method::GET, format!("/{BUCKET}/counter"));
    let last = cluster.client(1).send(&get, PATIENCE).await?;
    // One number more than counted means a lost increment. One less means a doubled one, or a 412 for one
    // that was carried out.
    println!(
        "increments     counted {} times, the counter says {} (equal), {} answers swallowed, {} told \
         412 by a real race",
        counted.load(Ordering::SeqCst),
        String::from_utf8_lossy(&last.body),
        dropped() - before,
        conflicts.load(Ordering::SeqCst),
    );
    Ok(())
}

/// Returns the writes per second of `clients` that are spread over `masters`. Each client has its own keys.
async fn rate(cluster: &Cluster, masters: &[usize], clients: usize, length: Duration) -> f64 {
    let done = AtomicU64::new(0);
    let started = Instant::now();
    let deadline = started + length;
    let running = (0..clients).map(|n| {
        let mut client = cluster.client(masters[n % masters.len()]);
        let done = &done;
        async move {
            for round in 0_u64.. {
                if Instant::now() >= deadline {
                    break;
                }
                // All bodies are different, because equal ones would be one block.
                let body = format!("{n} {round} {deadline:?}");
                let reply = client.send(&put(&format!("rate-{n}"), &body), PATIENCE).await;
                let ok = reply.is_ok_and(|reply| reply.status.is_success());
                done.fetch_add(u64::from(ok), Ordering::Relaxed);
            }
        }
    });
    join_all(running).await;
    #[expect(clippy::cast_precision_loss, reason = "a rate is shown with three digits")]
    let done = done.load(Ordering::Relaxed) as f64;
    done / started.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the commits of a bucket, newest first, by their writers.
fn commits(cluster: &Cluster, limit: u64) -> io::Result<Vec<serde_json::Value>> {
    let limit = limit.max(1).to_string();
    let log = cluster.gateways[0].fula(&["roots", "log", BUCKET, "--limit", &limit, "--json"])?;
    Ok(serde_json::from_str(&log)?)
}

async fn version(cluster: &Cluster) -> io::Result<u64> {
    let head = Call::new(Method::HEAD, format!("/{BUCKET}"));
    let reply = cluster.client(0).send(&head, PATIENCE).await?;
    Ok(reply.header("x-fula-version").and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// Compares one bucket through two masters with the same through one, with `latency` added to each round
/// trip to the arbiter.
async fn hot_bucket(cluster: &Cluster, length: Duration, latency: Duration) -> io::Result<()> {
    for link in &cluster.arbiter_links {
        link.set_latency(latency / 2);
    }
    let (mut ratios, mut smallest) = (Vec::new(), Vec::new());
    let part = length / 4;
    for _ in 0..ROUNDS {
        let one = rate(cluster, &[0], 16, part).await;
        let before = version(cluster).await?;
        let two = rate(cluster, &[0, 1], 16, part).await;
        let mut writers: BTreeMap<String, u32> = BTreeMap::new();
        for commit in commits(cluster, version(cluster).await? - before)? {
            *writers.entry(commit["writer"].to_string()).or_default() += 1;
        }
        let total: u32 = writers.values().sum();
        let least =
            if writers.len() < 2 { 0 } else { writers.values().copied().min().unwrap_or(0) };
        smallest.push(f64::from(least) / f64::from(total.max(1)));
        println!("               one master {one:.0}/s, two {two:.0}/s, commits {writers:?}");
        ratios.push(two / one);
    }
    for link in &cluster.arbiter_links {
        link.set_latency(Duration::ZERO);
    }
    let wanted = if latency.is_zero() { 0.7 } else { 0.9 };
    println!(
        "hot bucket     arbiter latency {} ms: two masters / one {:.2} (>= {wanted}), smaller share of \
         commits {:.0} % (>= 30 %)",
        latency.as_millis(),
        median(ratios),
        median(smallest) * 100.0
    );
    Ok(())
}

/// Measures commits per second and changes per commit by the number of clients of one master.
async fn batches(cluster: &Cluster, length: Duration) -> io::Result<()> {
    for clients in [1, 4, 16, 64] {
        let before = version(cluster).await?;
        let started = Instant::now();
        let writes = rate(cluster, &[0], clients, length / 4).await;
        let elapsed = started.elapsed().as_secs_f64();
        let commits = u32::try_from(version(cluster).await? - before).unwrap_or(u32::MAX);
        let commits = f64::from(commits) / elapsed;
        println!(
            "batch          {clients:>2} clients: {commits:.0} commits/s, {writes:.0} writes/s, mean batch \
             {:.1}",
            writes / commits
        );
    }
    Ok(())
}

/// Checks that a token works on masters that share nothing but the arbiter, and that revoking it on one
/// works.
async fn revocations(cluster: &Cluster) -> io::Result<()> {
    let mut took = Vec::new();
    for _ in 0..5 {
        let credentials = Credentials::of_new_wallet()?;
        let Credentials::Bearer(token) = &credentials else { continue };
        let list = Call::new(Method::GET, "/");
        let mut masters: Vec<Client> = cluster
            .gateways
            .iter()
            .map(|gateway| Client::new(gateway.address(), credentials.clone()))
            .collect();
        for master in &mut masters {
            let reply = master.send(&list, PATIENCE).await?;
            if !reply.status.is_success() {
                return Err(io::Error::other(format!("the token is refused: {}", reply.status)));
            }
        }
        cluster.gateways[0].fula(&["revoke", "token", token])?;
        let revoked = Instant::now();
        for master in &mut masters {
            while master.send(&list, PATIENCE).await?.status.as_u16() != 403 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        took.push(revoked.elapsed().as_secs_f64());
    }
    println!("revocation     refused by all masters after {took:.2?} s (<= 5)");
    Ok(())
}

/// Counts the pointer reads of a thousand GETs on 64 connections, with a slow arbiter.
async fn pointer_reads(cluster: &Cluster) -> io::Result<()> {
    const GETS: u64 = 20_000;
    cluster.client(0).send(&put("read", "x"), PATIENCE).await?;
    cluster.arbiter_links[0].set_latency(Duration::from_micros(500));
    let before = cluster.gateways[0].metric("fula_pointer_reads_total").await?;
    let left = AtomicU64::new(GETS);
    let clients = (0..64).map(|_| {
        let mut client = cluster.client(0);
        let left = &left;
        async move {
            let get = Call::new(Method::GET, format!("/{BUCKET}/read"));
            let take =
                || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            while take().is_ok() {
                drop(client.send(&get, PATIENCE).await);
            }
        }
    });
    join_all(clients).await;
    cluster.arbiter_links[0].set_latency(Duration::ZERO);
    let reads = cluster.gateways[0].metric("fula_pointer_reads_total").await? - before;
    println!(
        "pointer reads  {:.1} per 1000 GETs at 64 connections, 1 ms to the arbiter (<= 100)",
        reads * 1000.0 / f64::from(u32::try_from(GETS).unwrap_or(1))
    );
    Ok(())
}

/// Measures the time from when a killed Postgres accepts connections again to the first write.
async fn recovery(cluster: &mut Cluster) -> io::Result<()> {
    let mut times = Vec::new();
    for round in 0..5 {
        cluster.postgres.crash(false)?;
        let mut client = cluster.client(round % 3);
        let first = client.send(&put("recovery", "x"), PATIENCE).await;
        if first.is_ok_and(|reply| reply.status.is_success()) {
            return Err(io::Error::other("a write succeeded without the arbiter"));
        }
        cluster.postgres.launch()?;
        let ready = Instant::now();
        loop {
            let reply = client.send(&put("recovery", "x"), PATIENCE).await;
            if reply.is_ok_and(|reply| reply.status.is_success()) {
                break;
            }
        }
        times.push(ready.elapsed().as_secs_f64());
    }
    println!("recovery       first write {times:.2?} s after Postgres takes connections (<= 3)");
    Ok(())
}
