//! Writes whose bytes go to storage nodes, and of which the gateway gets a mapping alone (ADR 0043).
//!
//! The gateway is asked once whether it takes mappings; one that does not never sees anything of this. Whatever
//! fails on the way, the object is written to the gateway as usual, unless the failure is an answer: a condition
//! that failed, a quota that is used up, bytes that are damaged.

mod nodes;
mod receipts;
mod window;

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fula_core::{
    Block, Cid, Codec,
    content::{DagBuilder, FileLink, LEAF_BYTES},
};
use futures::stream::{FuturesUnordered, StreamExt};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

pub use self::nodes::StorageNodes;
use self::{
    nodes::{Node, Nodes},
    receipts::{Kept, receipts},
    window::Window,
};
use crate::{
    batch::{BatchPut, Mapped},
    client::Bucket,
    error::{Error, Result},
    journal,
    meta::Version,
    put::{Put, PutOptions},
    request::Request,
    retry,
    source::{Reader, Source, Stamp},
};

/// Longest object that is sent to nodes, in bytes. The commit of a mapping names every leaf.
const OBJECT_MAX: u64 = 4 << 30;

/// Largest number of blocks of a question.
const HAVE_MAX: usize = 1024;

/// Number of attempts for a block at a node that is busy.
const BUSY_MAX: u32 = 6;

/// Why an object cannot be written through nodes.
enum Stop {
    /// It is to be written to the gateway.
    Direct,
    /// The caller gets this error.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What a node answered about one block.
#[derive(Deserialize)]
struct Stored {
    receipt: String,
}

/// What a node answered about many blocks.
#[derive(Deserialize)]
struct Had {
    blocks: Vec<(String, u32)>,
    receipt: Option<String>,
}

/// What a journal says about a write through nodes.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    endpoint: String,
    bucket: String,
    key: String,
    leaves_of: u64,
    modified_ns: u128,
}

/// A leaf in flight.
struct Leaf {
    number: usize,
    cid: Cid,
    bytes: Bytes,
    attempts: u32,
    /// Time to wait before the next attempt.
    pause: Duration,
    /// How often new tickets were asked for before it was sent.
    tickets: u32,
    _memory: OwnedSemaphorePermit,
}

/// How sending a leaf ended.
enum Sent {
    Kept(Kept),
    /// The node wants less at a time.
    Busy(Duration),
    /// The bytes that arrived were other ones.
    Damaged,
    /// The ticket is not good any more.
    Ticket,
    /// The quota is used up.
    Quota(Error),
    /// The node does not answer as it should.
    Lost,
}

impl Bucket {
    /// Writes an object through storage nodes. Returns `None` if it is to be written to the gateway.
    pub(crate) async fn put_via_nodes(
        &self,
        key: &str,
        again: Option<Again>,
        options: &PutOptions,
    ) -> Result<Option<Put>> {
        let Some((again, storage)) = again.zip(options.storage_nodes.as_ref()) else {
            return Ok(None);
        };
        let reader = Reader::open(again()).await?;
        // A mapping has no further headers.
        let fits = reader.len.is_some_and(|len| len > LEAF_BYTES as u64 && len <= OBJECT_MAX)
            && options.headers.is_empty();
        if !fits || !storage.are_offered().await {
            return Ok(None);
        }
        let work = Work { bucket: self, key, options, storage, again, stamp: reader.stamp() };
        match work.run(reader).await {
            Ok(put) => Ok(Some(put)),
            Err(Stop::Direct) => {
                if let Some(path) = &options.journal {
                    journal::remove(path);
                }
                Ok(None)
            }
            Err(Stop::Failed(error)) => Err(error),
        }
    }
}

/// Gives a source again.
type Again = Box<dyn Fn() -> Source + Send + Sync>;

/// Returns a function that gives the source again; `None` for a stream, which can be read once.
pub(crate) fn again(source: &Source) -> Option<Again> {
    match source {
        Source::Bytes(bytes) => {
            let bytes = bytes.clone();
            Some(Box::new(move || Source::Bytes(bytes.clone())))
        }
        Source::File(path) => {
            let path: PathBuf = path.clone();
            Some(Box::new(move || Source::File(path.clone())))
        }
        Source::Stream { .. } => None,
    }
}

struct Work<'a> {
    bucket: &'a Bucket,
    key: &'a str,
    options: &'a PutOptions,
    storage: &'a StorageNodes,
    again: Again,
    stamp: Option<Stamp>,
}

impl Work<'_> {
    async fn run(&self, reader: Reader) -> std::result::Result<Put, Stop> {
        let mut kept = self.resumed().await?;
        self.note()?;
        let mut leaves = self.send(reader, &mut kept).await?;
        let put = match self.map(&leaves, &kept).await {
            Err(Stop::Direct) => {
                // A lease that is over, or a node that lost its disk: what is missing is sent once more.
                kept = self.had(&leaves).await?;
                leaves = self.send(Reader::open((self.again)()).await?, &mut kept).await?;
                self.map(&leaves, &kept).await
            }
            mapped => mapped,
        };
        if let (Ok(_), Some(path)) = (&put, &self.options.journal) {
            journal::remove(path);
        }
        put
    }

    fn note_of(&self) -> Option<Note> {
        let stamp = self.stamp?;
        Some(Note {
            endpoint: self.bucket.client().endpoint().to_string(),
            bucket: self.bucket.name().to_owned(),
            key: self.key.to_owned(),
            leaves_of: stamp.size,
            modified_ns: stamp.modified_ns,
        })
    }

    fn note(&self) -> Result<()> {
        match (&self.options.journal, self.note_of()) {
            (Some(path), Some(note)) => journal::write(path, &note),
            _ => Ok(()),
        }
    }

    /// Returns what nodes have of a write that was interrupted.
    async fn resumed(&self) -> std::result::Result<BTreeMap<Cid, Kept>, Stop> {
        let note = self.options.journal.as_deref().and_then(journal::read::<Note>);
        if note.is_none() || note != self.note_of() {
            return Ok(BTreeMap::new());
        }
        let mut reader = Reader::open((self.again)()).await?;
        let mut leaves = Vec::new();
        loop {
            let bytes = reader.read(LEAF_BYTES).await?;
            if bytes.is_empty() {
                return self.had(&leaves).await;
            }
            leaves.push((Cid::of(Codec::Raw, &bytes), size_of(&bytes)));
        }
    }

    /// Asks the nodes which leaves they have for the caller. A node that does not say has none.
    async fn had(&self, leaves: &[(Cid, u32)]) -> std::result::Result<BTreeMap<Cid, Kept>, Stop> {
        let mut kept = BTreeMap::new();
        for node in self.nodes(false).await?.order(self.key) {
            for some in leaves.chunks(HAVE_MAX) {
                let missing = some.iter().filter(|(cid, _)| !kept.contains_key(cid));
                let cids: Vec<String> = missing.map(|(cid, _)| cid.to_string()).collect();
                if cids.is_empty() {
                    continue;
                }
                let request = Request::of_path(Method::POST, "/v0/have")
                    .header("content-type", "application/json")
                    .body(json!({ "cids": cids }).to_string());
                let Ok(answer) = node.client.send(&request).await else { break };
                let Ok(Had { blocks, receipt: Some(receipt) }) =
                    serde_json::from_slice(&answer.body)
                else {
                    continue;
                };
                let list: Option<Vec<(Cid, u32)>> =
                    blocks.iter().map(|(cid, size)| Some((cid.parse().ok()?, *size))).collect();
                let Some(list) = list else { continue };
                let (receipt, list): (Arc<str>, Arc<[_]>) = (receipt.into(), list.into());
                for (cid, _) in list.iter() {
                    let (receipt, list) = (Arc::clone(&receipt), Arc::clone(&list));
                    kept.insert(*cid, Kept { receipt, list });
                }
            }
        }
        Ok(kept)
    }

    async fn nodes(&self, fresh: bool) -> std::result::Result<Arc<Nodes>, Stop> {
        self.storage.get(fresh).await.map_err(|_| Stop::Direct)
    }

    /// Sends all leaves that are not in `kept`, and adds them. Returns the leaves of the object.
    async fn send(
        &self,
        mut reader: Reader,
        kept: &mut BTreeMap<Cid, Kept>,
    ) -> std::result::Result<Vec<(Cid, u32)>, Stop> {
        let mut order = self.nodes(false).await?.order(self.key);
        let (mut leaves, mut flying) = (Vec::new(), FuturesUnordered::new());
        let (mut window, mut waiting) = (Window::default(), VecDeque::<Leaf>::new());
        let (mut is_end, mut tickets, mut damaged) = (false, 0, 0);
        while !(is_end && waiting.is_empty() && flying.is_empty()) {
            let has_room = flying.len() < window.size();
            if has_room && let Some(mut leaf) = waiting.pop_front() {
                leaf.tickets = tickets;
                let node = order.iter().find(|node| node.is_up()).cloned().ok_or(Stop::Direct)?;
                flying.push(self.send_leaf(node, leaf));
                continue;
            }
            let (mut leaf, node, sent) = tokio::select! {
                biased;
                Some(sent) = flying.next(), if !flying.is_empty() => sent,
                memory = self.bucket.client().memory(LEAF_BYTES), if has_room && !is_end => {
                    match self.next_leaf(memory, &mut reader, &mut leaves, kept).await? {
                        Next::Leaf(leaf) => waiting.push_back(leaf),
                        Next::Known => {}
                        Next::End => is_end = true,
                    }
                    continue;
                }
            };
            match sent {
                Sent::Kept(receipt) => {
                    window.good();
                    kept.insert(leaf.cid, receipt);
                    continue;
                }
                Sent::Busy(pause) if leaf.attempts < BUSY_MAX => {
                    window.busy();
                    (leaf.attempts, leaf.pause) = (leaf.attempts + 1, pause);
                }
                Sent::Damaged if damaged == 0 => damaged += 1,
                Sent::Damaged => return Err(Stop::Failed(self.damaged(leaf.number))),
                Sent::Ticket if leaf.tickets < tickets => {}
                Sent::Ticket if tickets == 0 => {
                    tickets += 1;
                    order = self.nodes(true).await?.order(self.key);
                }
                Sent::Quota(error) => return Err(Stop::Failed(error)),
                Sent::Busy(_) | Sent::Lost | Sent::Ticket => {
                    node.failed();
                    (leaf.attempts, leaf.pause) = (0, Duration::ZERO);
                }
            }
            waiting.push_back(leaf);
        }
        reader.check_unchanged().await?;
        Ok(leaves)
    }

    fn damaged(&self, leaf: usize) -> Error {
        let what = format!("{}/{}, leaf {leaf}", self.bucket.name(), self.key);
        let why = "its bytes change on their way to the storage node, or in memory".to_owned();
        Error::Damaged { what, why }
    }

    /// Reads the next leaf.
    async fn next_leaf(
        &self,
        memory: OwnedSemaphorePermit,
        reader: &mut Reader,
        leaves: &mut Vec<(Cid, u32)>,
        kept: &BTreeMap<Cid, Kept>,
    ) -> std::result::Result<Next, Stop> {
        let bytes = reader.read(LEAF_BYTES).await?;
        if bytes.is_empty() {
            return Ok(Next::End);
        }
        let (number, cid) = (leaves.len(), Cid::of(Codec::Raw, &bytes));
        leaves.push((cid, size_of(&bytes)));
        if kept.contains_key(&cid) {
            if let Some(meter) = &self.options.meter {
                meter.add(bytes.len() as u64);
            }
            return Ok(Next::Known);
        }
        Ok(Next::Leaf(Leaf {
            number,
            cid,
            bytes,
            attempts: 0,
            pause: Duration::ZERO,
            tickets: 0,
            _memory: memory,
        }))
    }

    async fn send_leaf(&self, node: Arc<Node>, leaf: Leaf) -> (Leaf, Arc<Node>, Sent) {
        let request = Request::of_path(Method::PUT, "/v0/block")
            .query("cid", leaf.cid.to_string())
            .header("content-type", "application/octet-stream")
            .body(leaf.bytes.clone())
            .metered(self.options.meter.clone());
        tokio::time::sleep(leaf.pause).await;
        let sent = match node.client.once(&request).await {
            Ok(answer) => match serde_json::from_slice::<Stored>(&answer.body) {
                Ok(stored) => {
                    Sent::Kept(Kept { receipt: stored.receipt.into(), list: Arc::from([]) })
                }
                Err(_) => Sent::Lost,
            },
            Err(refusal) => match refusal.status {
                Some(401 | 403) => Sent::Ticket,
                Some(402) => Sent::Quota(Error::Quota {
                    what: format!("{}/{}", self.bucket.name(), self.key),
                    why: "that of the storage node for bytes that are not mapped yet".to_owned(),
                }),
                Some(422) => Sent::Damaged,
                Some(429 | 503) => {
                    let policy = self.bucket.client().retry_policy();
                    Sent::Busy(policy.pause(leaf.attempts + 1, refusal.asked, retry::random()))
                }
                _ => Sent::Lost,
            },
        };
        (leaf, node, sent)
    }

    /// Maps the object to its leaves.
    async fn map(
        &self,
        leaves: &[(Cid, u32)],
        kept: &BTreeMap<Cid, Kept>,
    ) -> std::result::Result<Put, Stop> {
        let (mut builder, mut nodes, mut size) = (DagBuilder::default(), Vec::<Block>::new(), 0);
        for (cid, len) in leaves {
            let len = u64::from(*len);
            nodes.extend(builder.push(FileLink { cid: *cid, size: len, dag_bytes: len }));
            size += len;
        }
        let (root, rest) = builder.finish().ok_or(Stop::Direct)?;
        nodes.extend(rest);
        let cid = root.cid;
        let mapped = Mapped { cid, size, nodes, receipts: receipts(leaves, kept) };
        let batch = self.bucket.batch().map(self.key, mapped, self.described());
        let done = match batch.commit().await {
            Ok(done) => done,
            Err(
                error @ (Error::Changed { .. }
                | Error::Exists { .. }
                | Error::NotFound { .. }
                | Error::Unavailable { .. }
                | Error::Quota { .. }
                // What the answer says of the commit is not known.
                | Error::Http { status: 200, .. }),
            ) => return Err(Stop::Failed(error)),
            Err(_) => return Err(Stop::Direct),
        };
        let etag = cid.to_string();
        if done.etags.first().and_then(Option::as_ref) != Some(&etag) {
            let what = format!("{}/{}", self.bucket.name(), self.key);
            let why = "the gateway names another content than the one that was sent".to_owned();
            return Err(Stop::Failed(Error::Damaged { what, why }));
        }
        Ok(Put { version: Version { etag, bucket: Some(done.version) }, size })
    }

    fn described(&self) -> BatchPut {
        let names = self.options.metadata.iter();
        BatchPut {
            body: Bytes::new(),
            content_type: self.options.content_type.clone(),
            metadata: names
                .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
                .collect(),
            if_match: self.options.if_match.clone(),
            if_absent: self.options.if_absent,
        }
    }
}

/// What comes next of a source.
enum Next {
    Leaf(Leaf),
    /// A leaf that some node has.
    Known,
    End,
}

fn size_of(bytes: &Bytes) -> u32 {
    // A leaf has at most 1 MiB.
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}
