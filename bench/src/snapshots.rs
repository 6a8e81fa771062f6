//! Measures how a client gets the names of a bucket: in pages, as one stream, and only what changed.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fula_core::{
    Cid, Codec,
    cbor::{Reader, Writer},
};
use fula_testkit::s3::{Call, Client, Reply};
use http::Method;

use crate::{
    report::median,
    server::{Kind, Server},
};

/// Number of objects that one commit makes.
const IN_A_COMMIT: u16 = 1000;

/// Length of the metadata value of each object, about that of a sealed name.
const META_BYTES: usize = 256;

/// Number of changes between two answers of `?fula-changes`.
const CHANGED: u64 = 100;

const PATIENCE: Duration = Duration::from_mins(5);

async fn send(client: &mut Client, call: Call) -> io::Result<Reply> {
    let reply = client.send(&call, PATIENCE).await?;
    if reply.status.is_success() {
        return Ok(reply);
    }
    let text = String::from_utf8_lossy(&reply.body);
    Err(io::Error::other(format!("{} {}: {text}", reply.status, call.path)))
}

/// Puts empty objects of these numbers, in commits in dag-cbor.
async fn put(client: &mut Client, numbers: std::ops::Range<u64>) -> io::Result<()> {
    for first in numbers.clone().step_by(usize::from(IN_A_COMMIT)) {
        let count = (numbers.end - first).min(u64::from(IN_A_COMMIT));
        let mut out = Writer::with_capacity(1 << 20);
        out.map(1).text("changes").array(usize::try_from(count).map_err(io::Error::other)?);
        for number in first..first + count {
            // Names that are hashed, as those of vaults.
            let key = Cid::of(Codec::Raw, &number.to_be_bytes()).to_string();
            let key = &key[key.len() - 32..];
            out.map(1).text("put").map(3).text("key").text(key).text("bytes").bytes(b"");
            out.text("metadata").map(1).text("m").text(&"x".repeat(META_BYTES));
        }
        let call = Call::new(Method::POST, "/bucket").query("fula-commit");
        let call = call.header("content-type", "application/vnd.ipld.dag-cbor");
        send(client, call.body(out.finish())).await?;
    }
    Ok(())
}

/// Lists all names in pages. Returns how many there are.
async fn in_pages(client: &mut Client) -> io::Result<u64> {
    let (mut count, mut query) = (0, "list-type=2".to_owned());
    loop {
        let call = Call::new(Method::GET, "/bucket").query(&*query);
        let body = send(client, call).await?.body;
        let text = String::from_utf8_lossy(&body);
        count += text.matches("<Contents>").count() as u64;
        let Some((_, rest)) = text.split_once("<NextContinuationToken>") else { return Ok(count) };
        let token = rest.split('<').next().unwrap_or_default().replace('+', "%2B");
        query = format!("continuation-token={}&list-type=2", token.replace('=', "%3D"));
    }
}

/// Reads a stream. Returns its length in bytes.
async fn stream(client: &mut Client, query: &str) -> io::Result<Bytes> {
    let call = Call::new(Method::GET, "/bucket").query(query);
    Ok(send(client, call).await?.body)
}

/// Returns the version that the first item of a stream names.
fn version_of(items: &Bytes) -> io::Result<u64> {
    let mut reader = Reader::new(items);
    let version = reader.tuple(5).and_then(|()| reader.uint()).and_then(|_| reader.uint());
    version.map_err(io::Error::other)
}

/// Gets the names in turns.
pub(crate) async fn run(rounds: usize, objects: u64) -> io::Result<()> {
    let server = Server::start(&Kind::Fula, &[]).await?;
    server.make_bucket("bucket").await?;
    let mut client = server.client();
    put(&mut client, 0..objects).await?;
    let works = [
        "LIST in pages",
        "?fula-list",
        "?fula-list&meta",
        "?fula-changes, 100",
        "?fula-changes, none",
    ];
    let mut times = works.map(|_| Vec::new());
    let mut bytes = works.map(|_| 0);
    for round in 0..rounds {
        let began = Instant::now();
        let count = in_pages(&mut client).await?;
        if count < objects {
            return Err(io::Error::other(format!("{count} of {objects} names were listed")));
        }
        times[0].push(began.elapsed().as_secs_f64());
        let mut version = 0;
        for (n, query) in [(1, "fula-list"), (2, "fula-list&meta=m")] {
            let began = Instant::now();
            let items = stream(&mut client, query).await?;
            times[n].push(began.elapsed().as_secs_f64());
            (bytes[n], version) = (items.len(), version_of(&items)?);
        }
        let first = objects + round as u64 * CHANGED;
        put(&mut client, first..first + CHANGED).await?;
        for n in [3, 4] {
            let began = Instant::now();
            let items = stream(&mut client, &format!("fula-changes&since={version}")).await?;
            times[n].push(began.elapsed().as_secs_f64());
            (bytes[n], version) = (items.len(), version_of(&items)?);
        }
    }
    println!("{objects} objects");
    println!("| work | median | bytes |\n|---|---|---|");
    for (n, work) in works.iter().enumerate() {
        let bytes = if bytes[n] == 0 { "-".to_owned() } else { bytes[n].to_string() };
        println!("| {work} | {:.2} ms | {bytes} |", median(times[n].clone()) * 1e3);
    }
    Ok(())
}
