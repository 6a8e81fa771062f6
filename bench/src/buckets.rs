//! Measures what is left of buckets that were created and deleted: memory and disk before, after a
//! collection, and after a restart.

use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use fula_testkit::{
    rng::Rng,
    s3::{Call, Client},
};
use futures::future::try_join_all;
use http::{Method, StatusCode};

use crate::server::{Kind, Server};

/// Number of buckets that stay.
const LIVE: u64 = 1000;
/// Number of objects in each of them.
const OBJECTS: u64 = 20;
/// Length of an object in bytes.
const OBJECT_BYTES: usize = 4096;

/// One of this many deleted buckets gets an object first.
const FILLED_OF: u64 = 4;

/// Longest time of one request.
const PATIENCE: Duration = Duration::from_mins(1);

/// Number of successive measurements, one a second, within which memory must change by less than a
/// hundredth to count as settled.
const SETTLED_LOOKS: u32 = 5;
/// Largest number of measurements until then.
const LOOKS_MAX: u32 = 60;

/// The memory and disk space of a gateway.
#[derive(Clone, Copy, Debug)]
struct Taken {
    resident: u64,
    disk: u64,
}

/// Creates and deletes buckets beside others that stay, in rounds. Prints what is left of them.
pub(crate) async fn run(count: u64, rounds: u64, connections: usize) -> io::Result<()> {
    let mut server = Server::start(&Kind::Fula, &[]).await?;
    each(&server, connections, 0..LIVE, |client, n| Box::pin(make_live(client, n))).await?;
    collect(&server)?;
    let before = settled(&server).await?;
    println!("{LIVE} buckets of {OBJECTS} objects of 4 KiB stay");
    println!("| | memory | to before | on disk | to before |\n|---|---|---|---|---|");
    print("before", before, before);
    for round in 0..rounds {
        let begun = Instant::now();
        let numbers = round * count..(round + 1) * count;
        each(&server, connections, numbers, |client, n| Box::pin(make_and_delete(client, n)))
            .await?;
        let took = begun.elapsed().as_secs_f64();
        let made = format!("{count} buckets were made and deleted in {took:.0} s");
        print(&made, taken(&server)?, before);
        let done = collect(&server)?;
        let dropped = done["dropped_buckets"].as_u64().unwrap_or(0);
        let seconds = done["millis"].as_f64().unwrap_or_default() / 1000.0;
        let collected =
            format!("`fula gc --now --retention 0s` dropped {dropped} in {seconds:.1} s");
        print(&collected, settled(&server).await?, before);
    }
    let restarted = server.restart(false).await?.as_secs_f64();
    print(&format!("restarted in {restarted:.2} s"), settled(&server).await?, before);
    Ok(())
}

fn collect(server: &Server) -> io::Result<serde_json::Value> {
    server.fula(&["gc", "--now", "--retention", "0s", "--json"])
}

fn taken(server: &Server) -> io::Result<Taken> {
    Ok(Taken { resident: server.usage()?.resident, disk: server.disk_bytes()? })
}

/// Returns memory and disk space once they have settled: an allocator gives memory back later.
async fn settled(server: &Server) -> io::Result<Taken> {
    let (mut last, mut same) = (taken(server)?, 0);
    for _ in 0..LOOKS_MAX {
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.metric("fula_buckets").await?;
        let now = taken(server)?;
        let has_settled = now.resident.abs_diff(last.resident) <= last.resident / 100;
        same = if has_settled { same + 1 } else { 0 };
        last = if has_settled { last } else { now };
        if same >= SETTLED_LOOKS {
            return Ok(now);
        }
    }
    Ok(last)
}

#[expect(clippy::cast_precision_loss, reason = "figures to look at")]
fn print(when: &str, taken: Taken, before: Taken) {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "| {when} | {:.1} MiB | {:.2} | {:.1} MiB | {:.2} |",
        mib(taken.resident),
        taken.resident as f64 / before.resident as f64,
        mib(taken.disk),
        taken.disk as f64 / before.disk as f64
    );
}

type Work<'a> = futures::future::BoxFuture<'a, io::Result<()>>;

/// Runs work for each number, on this many connections.
async fn each(
    server: &Server,
    connections: usize,
    numbers: Range<u64>,
    work: for<'a> fn(&'a mut Client, u64) -> Work<'a>,
) -> io::Result<()> {
    let next = Arc::new(AtomicU64::new(numbers.start));
    let workers = (0..connections).map(|_| {
        let (mut client, next) = (server.client(), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= numbers.end {
                    return io::Result::Ok(());
                }
                work(&mut client, number).await?;
            }
        })
    });
    let workers: Vec<_> = workers.collect();
    let ended = try_join_all(workers).await.map_err(io::Error::other)?;
    ended.into_iter().collect()
}

/// Sends a request until the answer is not `SlowDown`.
async fn send(client: &mut Client, call: &Call) -> io::Result<()> {
    loop {
        let reply = client.send(call, PATIENCE).await?;
        if reply.status.is_success() {
            return Ok(());
        }
        if reply.status != StatusCode::SERVICE_UNAVAILABLE {
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            return Err(io::Error::other(format!("{} {}: {text}", reply.status, call.path)));
        }
    }
}

fn body(number: u64) -> Bytes {
    let mut rng = Rng::new(number);
    let words = std::iter::repeat_with(|| rng.below(u64::MAX).to_le_bytes());
    words.take(OBJECT_BYTES / 8).flatten().collect()
}

async fn make_live(client: &mut Client, number: u64) -> io::Result<()> {
    let bucket = format!("/live-{number}");
    send(client, &Call::new(Method::PUT, bucket.clone())).await?;
    for n in 0..OBJECTS {
        let call = Call::new(Method::PUT, format!("{bucket}/{n}"));
        send(client, &call.body(body(number * OBJECTS + n))).await?;
    }
    Ok(())
}

async fn make_and_delete(client: &mut Client, number: u64) -> io::Result<()> {
    let bucket = format!("/gone-{number}");
    send(client, &Call::new(Method::PUT, bucket.clone())).await?;
    if number.is_multiple_of(FILLED_OF) {
        let object = format!("{bucket}/k");
        let put = Call::new(Method::PUT, object.clone());
        send(client, &put.body(body(1 << 40 | number))).await?;
        send(client, &Call::new(Method::DELETE, object)).await?;
    }
    send(client, &Call::new(Method::DELETE, bucket)).await
}
