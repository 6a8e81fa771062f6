//! Measures listings of buckets with versions: behind delete markers, and of all versions.

use std::{
    fmt::Write as _,
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fula_testkit::s3::{Call, Client};
use http::Method;

use crate::{
    compare::fill,
    report::median,
    server::{Kind, Server},
};

/// Number of keys that are listed, which is a page.
const PAGE: u64 = 1000;

/// Number of objects of the bucket whose versions are listed.
const OBJECTS: u64 = 10_000;

/// Number of requests in each round.
const REQUESTS: u32 = 200;

const PATIENCE: Duration = Duration::from_mins(2);

async fn send(client: &mut Client, call: Call) -> io::Result<Bytes> {
    let reply = client.send(&call, PATIENCE).await?;
    if reply.status.is_success() {
        return Ok(reply.body);
    }
    let text = String::from_utf8_lossy(&reply.body);
    Err(io::Error::other(format!("{} {}: {text}", reply.status, call.path)))
}

async fn make(server: &Server, name: &str) -> io::Result<()> {
    server.make_bucket(name).await?;
    let body = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    let call = Call::new(Method::PUT, format!("/{name}")).query("versioning").body(body);
    send(&mut server.client(), call).await.map(drop)
}

/// Makes delete markers, whose keys are before those of objects.
async fn make_markers(server: &Server, name: &str, count: u64) -> io::Result<()> {
    let mut client = server.client();
    for first in (0..count).step_by(1000) {
        let mut body = String::from("<Delete><Quiet>true</Quiet>");
        for number in first..count.min(first + 1000) {
            let _ = write!(body, "<Object><Key>!{number:016x}</Key></Object>");
        }
        body.push_str("</Delete>");
        let call = Call::new(Method::POST, format!("/{name}")).query("delete").body(body);
        send(&mut client, call).await?;
    }
    Ok(())
}

/// Returns the seconds of a listing, and the number of `element` in its last page.
async fn timed(server: &Server, name: &str, query: &str, element: &str) -> io::Result<f64> {
    let mut client = server.client();
    let begun = Instant::now();
    let mut last = Bytes::new();
    for _ in 0..REQUESTS {
        let call = Call::new(Method::GET, format!("/{name}")).query(query);
        last = send(&mut client, call).await?;
    }
    let length = begun.elapsed().as_secs_f64() / f64::from(REQUESTS);
    let found = String::from_utf8_lossy(&last).matches(element).count() as u64;
    if found == PAGE {
        return Ok(length);
    }
    Err(io::Error::other(format!("{found} keys in a page of {name} instead of {PAGE}")))
}

/// Lists in turns.
pub(crate) async fn run(rounds: usize, markers: u64) -> io::Result<()> {
    let server = Server::start(&Kind::Fula, &[]).await?;
    for name in ["plain", "marked", "versions"] {
        make(&server, name).await?;
    }
    fill(&server, "plain", 4096, 0..PAGE).await?;
    fill(&server, "marked", 4096, 0..PAGE).await?;
    fill(&server, "versions", 4096, 0..OBJECTS).await?;
    make_markers(&server, "marked", markers).await?;
    let works = [
        ("LIST of 1 000 keys", "plain", "list-type=2", "<Contents>"),
        ("LIST of 1 000 keys behind delete markers", "marked", "list-type=2", "<Contents>"),
        ("LIST, a page of 10 000 objects", "versions", "list-type=2", "<Contents>"),
        ("ListObjectVersions, a page of 10 000 objects", "versions", "versions", "<Version>"),
    ];
    let mut times = works.map(|_| Vec::new());
    for _ in 0..rounds {
        for ((_, bucket, query, element), times) in works.iter().zip(&mut times) {
            times.push(timed(&server, bucket, query, element).await?);
        }
    }
    println!("{markers} delete markers");
    println!(
        "| work | a request, median | time to the row before, median of rounds |\n|---|---|---|"
    );
    for (n, (work, ..)) in works.iter().enumerate() {
        let ms = median(times[n].clone()) * 1e3;
        let ratio = if n % 2 == 0 {
            "-".to_owned()
        } else {
            let ratios = times[n].iter().zip(&times[n - 1]).map(|(this, before)| this / before);
            format!("{:.2}", median(ratios.collect()))
        };
        println!("| {work} | {ms:.2} ms | {ratio} |");
    }
    Ok(())
}
