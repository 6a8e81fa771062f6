//! Clients of a drill. They retry on another master as SDKs do, and record a history.

use std::{
    collections::BTreeSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use fula_testkit::{
    cluster::Cluster,
    history::{Condition, Ending, Event, Op},
    rng::Rng,
    s3::{Call, Client, Reply, elements},
};
use http::Method;
use md5::{Digest, Md5};
use parking_lot::Mutex;

pub(crate) const BUCKET: &str = "drill";

/// Number of keys that all clients write at a time.
const HOT_KEYS: u64 = 4;

/// Number of operations after which the hot keys are replaced by new ones, so that each history stays short
/// enough to be searched.
const OPERATIONS_PER_GENERATION: u64 = 400;

/// Number of attempts of one call.
const ATTEMPTS: u32 = 6;

/// Longest wait of a client for an answer.
const PATIENCE: Duration = Duration::from_secs(8);

/// The state that all clients share.
#[derive(Debug)]
pub(crate) struct Board {
    start: Instant,
    operations: AtomicU64,
    /// Keys with a write whose value is unknown.
    poisoned: Mutex<BTreeSet<String>>,
    /// Answers that no fault explains.
    violations: Mutex<Vec<String>>,
}

impl Board {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            operations: AtomicU64::new(0),
            poisoned: Mutex::default(),
            violations: Mutex::default(),
        }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn key(&self, rng: &mut Rng) -> String {
        let operation = self.operations.fetch_add(1, Ordering::Relaxed);
        format!("k{}-{}", operation / OPERATIONS_PER_GENERATION, rng.below(HOT_KEYS))
    }

    /// Returns the current hot keys.
    pub(crate) fn hot_keys(&self) -> Vec<String> {
        let generation = self.operations.load(Ordering::Relaxed) / OPERATIONS_PER_GENERATION;
        (0..HOT_KEYS).map(|n| format!("k{generation}-{n}")).collect()
    }

    fn poison(&self, key: &str) {
        self.poisoned.lock().insert(key.to_owned());
    }

    fn violate(&self, what: String) {
        self.violations.lock().push(what);
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    pub(crate) fn poisoned(&self) -> BTreeSet<String> {
        self.poisoned.lock().clone()
    }
}

/// Returns the entity tag of an object that was put in one piece.
pub(crate) fn etag_of(body: &[u8]) -> String {
    hex::encode(Md5::digest(body))
}

/// The outcome of a call after all its attempts.
struct Ended {
    ending: Ending,
    reply: Option<Reply>,
}

/// One client.
pub(crate) struct Worker {
    id: usize,
    board: Arc<Board>,
    rng: Rng,
    masters: Vec<Client>,
    events: Vec<Event>,
    calls: u64,
}

impl Worker {
    pub(crate) fn new(cluster: &Cluster, board: &Arc<Board>, id: usize, rng: Rng) -> Self {
        let masters = (0..cluster.gateways.len()).map(|n| cluster.client(n)).collect();
        Self { id, board: Arc::clone(board), rng, masters, events: Vec::new(), calls: 0 }
    }

    pub(crate) fn finish(self) -> Vec<Event> {
        self.events
    }

    pub(crate) async fn create_bucket(&mut self) -> io::Result<()> {
        let ended = self.call(Call::new(Method::PUT, format!("/{BUCKET}")), None).await;
        match ended.ending {
            Ending::Done => Ok(()),
            other => Err(io::Error::other(format!("cannot create the bucket: {other:?}"))),
        }
    }

    /// Sends a call until it is answered, to any master, or only to `only`.
    async fn call(&mut self, call: Call, only: Option<usize>) -> Ended {
        self.calls += 1;
        let id = format!("{}-{}", self.id, self.calls);
        let mut in_doubt = false;
        for attempt in 1..=ATTEMPTS {
            let any = self.rng.below(self.masters.len() as u64);
            let n = only.unwrap_or(usize::try_from(any).unwrap_or(0));
            let numbered = call
                .clone()
                .header("amz-sdk-invocation-id", &id)
                .header("amz-sdk-request", format!("attempt={attempt}; max={ATTEMPTS}"));
            match self.masters[n].send(&numbered, PATIENCE).await {
                Ok(reply) if reply.status.is_success() => {
                    return Ended { ending: Ending::Done, reply: Some(reply) };
                }
                Ok(reply) if [404, 412].contains(&reply.status.as_u16()) => {
                    return Ended { ending: Ending::Refused, reply: Some(reply) };
                }
                Ok(reply) if reply.status.as_u16() == 503 => {
                    in_doubt |= reply.header("x-fula-outcome") != Some("none");
                }
                Ok(reply) => {
                    let text = String::from_utf8_lossy(&reply.body).into_owned();
                    self.board.violate(format!(
                        "unexpected {} to {} {}: {text}",
                        reply.status, call.method, call.path
                    ));
                    in_doubt = true;
                }
                Err(_) => in_doubt = true,
            }
            let wait = 50 * u64::from(attempt) + self.rng.below(100);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        let ending = if in_doubt { Ending::Unknown } else { Ending::None };
        Ended { ending, reply: None }
    }

    /// Records the outcome of a call. `etag` is the tag that a write would have made.
    fn note(&mut self, op: Op, key: &str, start_ns: u64, ended: &Ended, etag: Option<String>) {
        let reply = ended.reply.as_ref();
        let status = reply.map_or(0, |reply| reply.status.as_u16());
        let version = reply.and_then(|reply| reply.header("x-fula-version")?.parse().ok());
        // A read that finds nothing is an answer.
        let outcome = match (op, ended.ending) {
            (Op::Get, Ending::Refused) => Ending::Done,
            (_, ending) => ending,
        };
        self.events.push(Event {
            client: self.id,
            op,
            key: key.to_owned(),
            start_ns,
            end_ns: self.board.now_ns(),
            status,
            etag,
            version,
            outcome,
            condition: None,
            listing: Vec::new(),
        });
    }

    /// Runs one operation on a hot key.
    pub(crate) async fn work(&mut self) {
        let key = self.board.key(&mut self.rng);
        match self.rng.below(100) {
            0..30 => self.read(&key, Method::GET, None).await,
            30..35 => self.read(&key, Method::HEAD, None).await,
            35..55 => self.put(&key, None).await,
            55..65 => self.put(&key, Some(Condition::IfAbsent)).await,
            65..80 => {
                let seen = self.events.iter().rev().find(|event| event.key == key);
                let seen = seen.and_then(|event| event.etag.clone());
                let condition = seen.map_or(Condition::IfAbsent, Condition::IfMatch);
                self.put(&key, Some(condition)).await;
            }
            80..88 => self.delete(&key).await,
            88..91 => self.delete_many().await,
            91..95 => self.copy(&key).await,
            _ => self.upload(&key).await,
        }
        tokio::time::sleep(Duration::from_millis(self.rng.below(20))).await;
    }

    async fn read(&mut self, key: &str, method: Method, only: Option<usize>) {
        let start = self.board.now_ns();
        let ended = self.call(Call::new(method, format!("/{BUCKET}/{key}")), only).await;
        let found = ended.reply.as_ref().filter(|reply| reply.status.is_success());
        let etag = found.and_then(Reply::etag);
        self.note(Op::Get, key, start, &ended, etag);
    }

    /// Reads a key from one master.
    pub(crate) async fn read_at(&mut self, master: usize, key: &str) {
        self.read(key, Method::GET, Some(master)).await;
    }

    async fn put(&mut self, key: &str, condition: Option<Condition>) {
        let body = Bytes::from(format!("{}-{} of {key}", self.id, self.calls));
        let etag = etag_of(&body);
        let mut call = Call::new(Method::PUT, format!("/{BUCKET}/{key}")).body(body);
        match &condition {
            None => {}
            Some(Condition::IfAbsent) => call = call.header("if-none-match", "*"),
            Some(Condition::IfMatch(tag)) => {
                call = call.header("if-match", format!("\"{tag}\""));
            }
        }
        let start = self.board.now_ns();
        let ended = self.call(call, None).await;
        self.note(Op::Put, key, start, &ended, Some(etag));
        if let Some(event) = self.events.last_mut() {
            event.condition = condition;
        }
    }

    async fn delete(&mut self, key: &str) {
        let start = self.board.now_ns();
        let ended = self.call(Call::new(Method::DELETE, format!("/{BUCKET}/{key}")), None).await;
        self.note(Op::Delete, key, start, &ended, None);
    }

    /// Deletes two keys in one request.
    async fn delete_many(&mut self) {
        let keys: BTreeSet<String> = [(); 2].map(|()| self.board.key(&mut self.rng)).into();
        let mut body = "<Delete><Quiet>true</Quiet>".to_owned();
        for key in &keys {
            body.extend(["<Object><Key>", key, "</Key></Object>"]);
        }
        body.push_str("</Delete>");
        let start = self.board.now_ns();
        let call = Call::new(Method::POST, format!("/{BUCKET}")).query("delete").body(body);
        let ended = self.call(call, None).await;
        for key in keys {
            self.note(Op::Delete, &key, start, &ended, None);
        }
    }

    /// Copies a hot key to a key that no other client uses.
    async fn copy(&mut self, key: &str) {
        let target = format!("c{}-{}", self.id, self.calls);
        let start = self.board.now_ns();
        let call = Call::new(Method::PUT, format!("/{BUCKET}/{target}"))
            .header("x-amz-copy-source", format!("/{BUCKET}/{key}"));
        let ended = self.call(call, None).await;
        let etag = ended.reply.as_ref().and_then(|reply| reply.element("ETag"));
        let etag = etag.map(|etag| etag.trim_matches('"').to_owned());
        match ended.ending {
            Ending::Done => self.note(Op::Put, &target, start, &ended, etag),
            // It is unknown which state of the source was copied.
            Ending::Unknown => self.board.poison(&target),
            Ending::Refused | Ending::None => {}
        }
    }

    /// Uploads in two steps, which may go to different masters.
    async fn upload(&mut self, key: &str) {
        let path = format!("/{BUCKET}/{key}");
        let begun = self.call(Call::new(Method::POST, &path).query("uploads="), None).await;
        let Some(id) = begun.reply.and_then(|reply| reply.element("UploadId")) else { return };
        let body = Bytes::from(format!("part of {}-{} of {key}", self.id, self.calls));
        let md5 = Md5::digest(&body);
        let part = Call::new(Method::PUT, &path)
            .query(format!("partNumber=1&uploadId={id}"))
            .body(body.clone());
        let put = self.call(part, None).await;
        if put.ending == Ending::Refused {
            self.board.violate(format!("a part of the upload {id} of {key} was refused"));
        }
        if put.ending != Ending::Done {
            return;
        }
        let xml = format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part>\
             </CompleteMultipartUpload>",
            hex::encode(md5)
        );
        let etag = format!("{}-1", etag_of(&md5));
        let start = self.board.now_ns();
        let call = Call::new(Method::POST, &path).query(format!("uploadId={id}")).body(xml);
        let ended = self.call(call, None).await;
        if ended.ending == Ending::Refused {
            // Only its own completion can have ended the upload.
            self.board.violate(format!("the upload {id} of {key} was refused: {:?}", ended.reply));
        }
        self.note(Op::Put, key, start, &ended, Some(etag));
    }

    /// Lists the first page of the bucket.
    pub(crate) async fn list(&mut self) {
        let start = self.board.now_ns();
        let call = Call::new(Method::GET, format!("/{BUCKET}")).query("list-type=2&prefix=k");
        let ended = self.call(call, None).await;
        let text =
            ended.reply.as_ref().map(|reply| String::from_utf8_lossy(&reply.body).into_owned());
        self.note(Op::List, "k", start, &ended, None);
        let text = text.unwrap_or_default();
        if text.contains("<IsTruncated>true</IsTruncated>") {
            self.events.pop();
        } else if let Some(event) = self.events.last_mut() {
            event.listing = listed(&text).map(|(key, etag, _)| (key, etag)).collect();
        }
        tokio::time::sleep(Duration::from_millis(20 + self.rng.below(100))).await;
    }

    /// Lists everything on one master: the version, keys with entity tags, and sizes.
    pub(crate) async fn list_all_at(
        &mut self,
        master: usize,
    ) -> io::Result<(u64, Vec<((String, String), u64)>)> {
        let (mut all, mut token) = (Vec::new(), None::<String>);
        loop {
            let query = match &token {
                Some(token) => format!("continuation-token={token}&list-type=2"),
                None => "list-type=2".to_owned(),
            };
            let call = Call::new(Method::GET, format!("/{BUCKET}")).query(query);
            let reply = self.call(call, Some(master)).await.reply;
            let reply = reply.ok_or_else(|| io::Error::other("a calm master does not list"))?;
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            all.extend(listed(&text).map(|(key, etag, size)| ((key, etag), size)));
            token = reply.element("NextContinuationToken");
            if token.is_none() {
                let version = reply.header("x-fula-version").and_then(|text| text.parse().ok());
                return Ok((version.unwrap_or(0), all));
            }
        }
    }
}

/// Returns keys, entity tags and sizes of a listing.
fn listed(text: &str) -> impl Iterator<Item = (String, String, u64)> {
    let of = |name| elements(text, name).collect::<Vec<_>>();
    let (keys, etags, sizes) = (of("Key"), of("ETag"), of("Size"));
    keys.into_iter().zip(etags).zip(sizes).map(|((key, etag), size)| {
        (key, etag.trim_matches('"').to_owned(), size.parse().unwrap_or(0))
    })
}
