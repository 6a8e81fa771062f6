//! Pins on a kubo: a CAR of what is new through `dag/import`, then `pin/update`.
//!
//! kubo waits for blocks that it lacks, so every call has a `timeout`. It answers 200 before it knows the end
//! of a stream, so the body decides. `pin/verify` does not read leaves, so `dag/stat` does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fula_core::Cid;
use fula_service::BucketCar;
use futures::{Stream, StreamExt, stream};
use reqwest::{Body, Method};
use tokio::time::Instant;

use super::{
    Job,
    http::{Client, PATIENCE, Reply},
};

/// Longest time for a change of a pin in which no block is missing, without the time for the walk.
const PIN: Duration = Duration::from_secs(30);

/// Number of objects that kubo certainly walks in a second.
const WALKED_A_SECOND: u64 = 2000;

/// Longest time of an upload without a byte, and longest time of kubo for what was sent.
const STALLED: Duration = Duration::from_mins(2);

/// While requests write, sending rests for this many times as long as it works, so that kubo leaves them the
/// machine that it may share with the gateway.
const REST: u32 = 2;

/// Longest rest at a time.
const REST_MAX: Duration = Duration::from_millis(250);

/// A kubo.
#[derive(Clone, Debug)]
pub(super) struct Kubo(pub(super) Client);

impl Kubo {
    /// Sends a command. kubo gives up after `patience`, and this a little later.
    async fn command(
        &self,
        path: &str,
        query: &[(&str, &str)],
        patience: Duration,
    ) -> Result<Reply, String> {
        let timeout = format!("{}s", patience.as_secs());
        let query = [query, &[("timeout", timeout.as_str())]].concat();
        let request = self.0.request(Method::POST, &format!("api/v0/{path}"), &query);
        self.0.send(request, patience + PATIENCE).await?.success()
    }

    /// Makes kubo pin the current root of a bucket, instead of `known`, the root that it pins now. With
    /// `is_lost`, it lacks blocks of what it pins. Returns the root and its version.
    ///
    /// # Errors
    /// What kubo says, or why it says nothing.
    pub(super) async fn pin(
        &self,
        job: &Job<'_>,
        known: Option<Cid>,
        is_lost: bool,
    ) -> Result<(Cid, u64), String> {
        let name = job.name();
        if let Some(base) = known.filter(|_| !is_lost)
            && let Some(done) = self.replace(job, base).await?
        {
            // A kubo that was killed while it replaced a pin has both.
            if job.is_doubtful {
                self.remove_others(&name, done.0).await?;
            }
            return Ok(done);
        }
        // A process that was killed may have pinned another root under the name.
        let named = if is_lost { Vec::new() } else { self.named(&name).await? };
        if let Some(base) = named.into_iter().find(|base| Some(*base) != known)
            && let Some(done) = self.replace(job, base).await?
        {
            self.remove_others(&name, done.0).await?;
            return Ok(done);
        }
        let car = job.car(None).await?;
        let (root, version) = (car.root, car.version);
        let patience = patience_of(job.objects());
        self.import(job, car, true, patience).await?;
        self.add(root, &name, patience).await?;
        self.remove_others(&name, root).await?;
        Ok((root, version))
    }

    /// Sends what the current root has and `base` has not, and replaces the pin. Returns `None` if kubo refuses:
    /// it does not pin `base`, or lacks blocks of it.
    async fn replace(&self, job: &Job<'_>, base: Cid) -> Result<Option<(Cid, u64)>, String> {
        let car = job.car(Some(base)).await?;
        let (root, version) = (car.root, car.version);
        if root == base {
            return Ok(Some((root, version)));
        }
        let patience = patience_of(job.objects());
        self.import(job, car, false, patience).await?;
        let (old, new, timeout) =
            (base.to_string(), root.to_string(), format!("{}s", patience.as_secs()));
        let query = [("arg", old.as_str()), ("arg", new.as_str()), ("timeout", timeout.as_str())];
        let request = self.0.request(Method::POST, "api/v0/pin/update", &query);
        let reply = self.0.send(request, patience + PATIENCE).await?;
        if reply.status.is_success() {
            return Ok(Some((root, version)));
        }
        let why = reply.complaint();
        tracing::debug!(bucket = job.name(), why, "kubo does not replace the pin");
        Ok(None)
    }

    async fn add(&self, root: Cid, name: &str, patience: Duration) -> Result<(), String> {
        let root = root.to_string();
        self.command("pin/add", &[("arg", &root), ("name", name)], patience).await.map(drop)
    }

    /// Returns the roots that are pinned under exactly this name.
    async fn named(&self, name: &str) -> Result<Vec<Cid>, String> {
        let query = [("type", "recursive"), ("stream", "true"), ("names", "true"), ("name", name)];
        let listed = self.command("pin/ls", &query, PATIENCE).await?.lines();
        let named = listed.iter().filter(|line| line["Name"] == name);
        Ok(named.filter_map(|line| line["Cid"].as_str()?.parse().ok()).collect())
    }

    /// Removes the pins of this name other than that of a root.
    async fn remove_others(&self, name: &str, root: Cid) -> Result<(), String> {
        for other in self.named(name).await?.into_iter().filter(|other| *other != root) {
            self.command("pin/rm", &[("arg", &other.to_string())], PATIENCE).await?;
        }
        Ok(())
    }

    /// Removes all pins of a bucket.
    ///
    /// # Errors
    /// What kubo says, or why it says nothing.
    pub(super) async fn unpin(&self, name: &str) -> Result<(), String> {
        for root in self.named(name).await? {
            self.command("pin/rm", &[("arg", &root.to_string())], PATIENCE).await?;
        }
        Ok(())
    }

    /// Sends a file, and checks that kubo has taken in all of it.
    async fn import(
        &self,
        job: &Job<'_>,
        car: BucketCar,
        pins: bool,
        patience: Duration,
    ) -> Result<(), String> {
        let sent = Arc::clone(&car.blocks);
        let boundary = hex::encode(job.random());
        let begin = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"bucket.car\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        let end = format!("\r\n--{boundary}--\r\n");
        let (moved, began) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let (note, sent_bytes) = (Arc::clone(&moved), job.sent_bytes.clone());
        let service = job.node.service.clone();
        let bytes = paced(car.bytes, move || service.is_writing()).inspect(move |piece| {
            note.store(millis(began.elapsed()), Ordering::Relaxed);
            sent_bytes.increment(piece.as_ref().map_or(0, |piece| piece.len() as u64));
        });
        let body = stream::iter([Ok(Bytes::from(begin))])
            .chain(bytes)
            .chain(stream::iter([Ok(Bytes::from(end))]));
        let query: &[(&str, &str)] =
            &[("stats", "true"), ("pin-roots", if pins { "true" } else { "false" })];
        let request = self.0.request(Method::POST, "api/v0/dag/import", query);
        let request = request
            .header("content-type", format!("multipart/form-data; boundary={boundary}"))
            .body(Body::wrap_stream(body));
        let answer = self.0.send(request, Duration::MAX);
        let stalled = async {
            let most = millis(STALLED + patience);
            while millis(began.elapsed()).saturating_sub(moved.load(Ordering::Relaxed)) < most {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let reply = tokio::select! {
            answer = answer => answer?.success()?,
            () = stalled => return Err("it takes no blocks any more".to_owned()),
        };
        let (mut count, mut root_fault) = (None, None);
        for line in reply.lines() {
            count = line["Stats"]["BlockCount"].as_u64().or(count);
            let told = [&line["Root"]["PinErrorMsg"], &line["Message"]];
            let told =
                told.into_iter().filter_map(|text| text.as_str()).find(|text| !text.is_empty());
            root_fault = told.map(str::to_owned).or(root_fault);
        }
        let sent = sent.load(Ordering::Relaxed);
        job.sent_blocks.increment(sent);
        match (root_fault, count) {
            (Some(fault), _) => Err(format!("it cannot pin what it got: {fault}")),
            (None, Some(count)) if count == sent => Ok(()),
            (None, count) => {
                let count = count.unwrap_or(0);
                Err(format!("it has taken in {count} of {sent} blocks"))
            }
        }
    }

    /// Returns number and bytes of the blocks below a root, if all of them are here.
    ///
    /// # Errors
    /// [`Lost::Away`], or [`Lost::Block`] with what is missing.
    pub(super) async fn stat(&self, root: Cid, objects: u64) -> Result<(u64, u64), Lost> {
        let patience = patience_of(objects);
        let root = root.to_string();
        let timeout = format!("{}s", patience.as_secs());
        let query = [
            ("arg", root.as_str()),
            ("offline", "true"),
            ("progress", "false"),
            ("timeout", &timeout),
        ];
        let request = self.0.request(Method::POST, "api/v0/dag/stat", &query);
        let reply = self.0.send(request, patience + PATIENCE).await.map_err(Lost::Away)?;
        if !reply.status.is_success() {
            return Err(Lost::Block(reply.complaint()));
        }
        let found = reply.json();
        let number = |field: &str| found[field].as_u64();
        match (number("UniqueBlocks"), number("TotalSize")) {
            (Some(blocks), Some(bytes)) => Ok((blocks, bytes)),
            _ => Err(Lost::Away("its answer to dag/stat is not understood".to_owned())),
        }
    }

    /// Returns whether a root is pinned recursively.
    ///
    /// # Errors
    /// Why kubo does not answer.
    pub(super) async fn has_pin(&self, root: Cid) -> Result<bool, String> {
        let query = [("arg", root.to_string()), ("type", "recursive".to_owned())];
        let query = [(query[0].0, query[0].1.as_str()), (query[1].0, query[1].1.as_str())];
        let request = self.0.request(Method::POST, "api/v0/pin/ls", &query);
        let reply = self.0.send(request, PATIENCE).await?;
        if reply.text.contains("is not pinned") {
            return Ok(false);
        }
        reply.success().map(|_| true)
    }

    /// Returns the addresses at which other nodes reach this one.
    ///
    /// # Errors
    /// What kubo says, or why it says nothing.
    pub(super) async fn addresses(&self) -> Result<Vec<String>, String> {
        let found = self.command("id", &[], PATIENCE).await?.json();
        let addresses = found["Addresses"].as_array().into_iter().flatten();
        Ok(addresses.filter_map(|address| address.as_str().map(str::to_owned)).take(20).collect())
    }
}

/// Why a target does not have a whole bucket.
#[derive(Debug)]
pub(super) enum Lost {
    /// It does not answer, so nothing is known.
    Away(String),
    /// Something is missing.
    Block(String),
}

/// Hands a stream on. While `is_busy`, it rests before each piece for [`REST`] times as long as the one before took,
/// to be read and to be received.
fn paced<T: Send + 'static>(
    pieces: impl Stream<Item = T> + Send + Unpin + 'static,
    is_busy: impl Fn() -> bool + Send + 'static,
) -> impl Stream<Item = T> + Send {
    stream::unfold((pieces, is_busy, Instant::now()), |(mut pieces, is_busy, began)| async move {
        if is_busy() {
            tokio::time::sleep((began.elapsed() * REST).min(REST_MAX)).await;
        }
        let began = Instant::now();
        let piece = pieces.next().await?;
        Some((piece, (pieces, is_busy, began)))
    })
}

fn patience_of(objects: u64) -> Duration {
    PIN + Duration::from_secs(objects / WALKED_A_SECOND)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn sending_rests_while_requests_write() {
        for (is_busy, expected) in [(true, 3000), (false, 1000)] {
            let began = Instant::now();
            let pieces = stream::iter(0..10);
            let sent: Vec<_> = paced(pieces, move || is_busy)
                .then(async |piece| {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    piece
                })
                .collect()
                .await;
            assert_eq!(sent, (0..10).collect::<Vec<_>>());
            assert_eq!(began.elapsed(), Duration::from_millis(expected));
        }
    }
}
