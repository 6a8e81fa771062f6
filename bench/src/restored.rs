//! Measures how long a bucket takes to come back from a kubo by its root CID, and compares it with what it was.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use fula_testkit::s3::{Call, elements};
use http::Method;

use crate::{
    compare::fill,
    pinned::{Kubo, last_root_pinned},
    report::median,
    server::{Kind, Server},
};

const BUCKET: &str = "restored";

const OBJECT_BYTES: usize = 4096;

const PATIENCE: Duration = Duration::from_mins(2);

/// Returns key, entity tag and length of every object.
async fn listing(server: &Server) -> io::Result<Vec<[String; 3]>> {
    let (mut client, mut found, mut after) = (server.client(), Vec::new(), String::new());
    loop {
        let call = Call::new(Method::GET, format!("/{BUCKET}"));
        let reply =
            client.send(&call.query(format!("list-type=2&start-after={after}")), PATIENCE).await?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        if !reply.status.is_success() {
            return Err(io::Error::other(format!("{}: {text}", reply.status)));
        }
        let [keys, tags, sizes] =
            ["Key", "ETag", "Size"].map(|name| elements(&text, name).collect::<Vec<_>>());
        let Some(last) = keys.last() else { return Ok(found) };
        after.clone_from(last);
        let rows = keys.into_iter().zip(tags).zip(sizes);
        found.extend(rows.map(|((key, tag), size)| [key, tag, size]));
    }
}

/// Fills a bucket, has it pinned, and brings it back on empty gateways.
pub(crate) async fn run(rounds: usize, objects: u64, ipfs: &Path) -> io::Result<()> {
    let kubo = Kubo::start(ipfs)?;
    let url = format!("kubo:http://{}", kubo.api);
    let settings = [("FULA_PINS", url.as_str()), ("FULA_PIN_BUCKETS", "*")];
    let server = Server::start(&Kind::Fula, &settings).await?;
    server.make_bucket(BUCKET).await?;
    fill(&server, BUCKET, OBJECT_BYTES, 0..objects).await?;
    let (_, root) = last_root_pinned(&server, BUCKET).await?;
    let before = listing(&server).await?;
    if before.len() as u64 != objects {
        return Err(io::Error::other(format!(
            "{} objects are listed, not {objects}",
            before.len()
        )));
    }
    let mut lengths = Vec::new();
    for _ in 0..rounds {
        let target = Server::start(&Kind::Fula, &[]).await?;
        let command = ["restore", "--from", &url, &root, "--user", "admin", "--json"];
        let begun = Instant::now();
        let done = target.fula(&command)?;
        lengths.push(begun.elapsed().as_secs_f64());
        if done["root"] != root || listing(&target).await? != before {
            return Err(io::Error::other("what came back is not what it was"));
        }
    }
    println!(
        "{objects} objects of {} KiB came back from a kubo by their root in {:.2} s, median of {rounds}; \
         root, keys, sizes and ETags are equal",
        OBJECT_BYTES >> 10,
        median(lengths),
    );
    Ok(())
}
