//! Writes through storage nodes: every row of the table of failures.
//!
//! The master is a real gateway for everything but mappings, tickets and capabilities; the nodes are scripts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use fula_client::{Bucket, Error, GetOptions, PutOptions, Source};
use fula_core::{
    Cid, Codec,
    cbor::{Reader, Writer},
};
use http::{Method, Response, request::Parts};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::site::*;

const MIB: usize = 1 << 20;

/// How a node fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    /// Status of the next answers, and how many of them.
    Status(u16, u32),
    /// It does not answer.
    Silent,
}

/// A node that keeps blocks in memory.
#[derive(Default)]
struct FakeNode {
    blocks: BTreeMap<String, Bytes>,
    puts: Vec<String>,
    trouble: Option<Trouble>,
}

/// What the master and the nodes have seen.
#[derive(Default)]
struct Fakes {
    nodes: Vec<FakeNode>,
    urls: Vec<String>,
    is_capable: bool,
    /// Whether the master takes blocks itself, as the third node.
    is_node: bool,
    tickets: u32,
    /// Mappings, by invocation id.
    maps: Vec<(String, Value)>,
    /// Statuses that the next mappings are answered with; 0 loses the answer.
    map_answers: Vec<u16>,
    probes: u32,
}

/// A master with two nodes.
struct Scripted {
    site: Site,
    fakes: Arc<Mutex<Fakes>>,
}

fn reply(status: u16, body: impl Into<Bytes>) -> Reply {
    Reply::Answer(Response::builder().status(status).body(body.into()).unwrap())
}

fn s3_error(status: u16, code: &str) -> Reply {
    reply(status, format!("<Error><Code>{code}</Code><Message>scripted</Message></Error>"))
}

fn master(fakes: &mut Fakes, parts: &Parts, body: &Bytes) -> Reply {
    match (parts.method.clone(), parts.uri.path()) {
        (Method::GET, "/fula/capabilities") => {
            fakes.probes += 1;
            reply(
                200,
                json!({"remoteCidPut": fakes.is_capable, "ingest": fakes.is_capable}).to_string(),
            )
        }
        (Method::POST, "/fula/ingest-ticket") => {
            fakes.tickets += 1;
            let ticket = format!("fula-ticket.{}", fakes.tickets);
            let nodes = fakes.urls.iter().enumerate().map(
                |(n, url)| json!({"name": n, "url": url, "node": format!("n{n}"), "ticket": ticket}),
            );
            let own = fakes.is_node.then(|| json!({"node": "own", "ticket": ticket}));
            reply(200, json!({"nodes": nodes.collect::<Vec<_>>(), "own": own}).to_string())
        }
        (_, path) if path.starts_with("/v0/") => node(&mut fakes.nodes[2], parts, body),
        _ if parts.uri.query() == Some("fula-commit=") => map(fakes, parts, body),
        _ => Reply::Pass,
    }
}

/// Returns a value of dag-cbor as JSON: bytes as base64, and links as text.
fn value(body: &Bytes, reader: &mut Reader<'_>) -> Value {
    match body[reader.position()] >> 5 {
        0 => json!(reader.uint().unwrap()),
        2 => json!(BASE64_STANDARD.encode(reader.bytes().unwrap())),
        3 => json!(reader.text().unwrap()),
        4 => (0..reader.array().unwrap()).map(|_| value(body, reader)).collect(),
        5 => {
            let mut names = reader.names().unwrap();
            let fields = (0..names.count()).map(|_| {
                let name = names.next(reader).unwrap().to_owned();
                (name, value(body, reader))
            });
            Value::Object(fields.collect())
        }
        6 => json!(reader.link().unwrap().to_string()),
        _ => json!((!reader.null()).then(|| reader.boolean().unwrap())),
    }
}

fn map(fakes: &mut Fakes, parts: &Parts, body: &Bytes) -> Reply {
    let invocation = parts.headers["amz-sdk-invocation-id"].to_str().unwrap().to_owned();
    assert_eq!(parts.headers["content-type"], "application/vnd.ipld.dag-cbor");
    let commit = value(body, &mut Reader::new(body));
    let map = &commit["changes"][0]["put"]["map"];
    // Every leaf has a receipt, and some node has its bytes.
    let mut size = 0;
    for receipt in map["receipts"].as_array().unwrap() {
        for block in receipt["blocks"].as_array().unwrap() {
            let cid = block[0].as_str().unwrap();
            assert!(fakes.nodes.iter().any(|node| node.blocks.contains_key(cid)), "{cid}");
            size += block[1].as_u64().unwrap();
        }
    }
    assert_eq!(size, map["size"].as_u64().unwrap());
    fakes.maps.push((invocation, commit.clone()));
    match fakes.map_answers.pop() {
        Some(0) => Reply::Lost,
        Some(409) => s3_error(409, "OperationAborted"),
        Some(412) => s3_error(412, "PreconditionFailed"),
        Some(status) => s3_error(status, "Scripted"),
        None => {
            let etag = format!("\"{}\"", map["cid"].as_str().unwrap());
            let mut out = Writer::default();
            out.map(2).text("results").array(1);
            out.map(2).text("key").text("k").text("etag").text(&etag).text("version").uint(7);
            reply(200, out.finish())
        }
    }
}

fn node(node: &mut FakeNode, parts: &Parts, body: &Bytes) -> Reply {
    assert!(parts.headers["authorization"].to_str().unwrap().starts_with("Bearer fula-ticket."));
    match &mut node.trouble {
        Some(Trouble::Silent) => return Reply::Silent,
        Some(Trouble::Status(status, times)) if *times > 0 => {
            *times -= 1;
            return reply(*status, "{}");
        }
        _ => {}
    }
    if parts.uri.path() == "/v0/have" {
        let asked: Value = serde_json::from_slice(body).unwrap();
        let cids = asked["cids"].as_array().unwrap().iter().map(|cid| cid.as_str().unwrap());
        let blocks: Vec<_> =
            cids.filter_map(|cid| Some(json!([cid, node.blocks.get(cid)?.len()]))).collect();
        let receipt = (!blocks.is_empty()).then_some("list");
        return reply(200, json!({"blocks": blocks, "receipt": receipt}).to_string());
    }
    let cid = parts.uri.query().unwrap().strip_prefix("cid=").unwrap().to_owned();
    assert_eq!(Cid::of(Codec::Raw, body).to_string(), cid);
    node.puts.push(cid.clone());
    node.blocks.insert(cid.clone(), body.clone());
    reply(200, json!({"cid": cid, "receipt": format!("r-{cid}")}).to_string())
}

impl Scripted {
    async fn start() -> Self {
        let fakes = Arc::new(Mutex::new(Fakes { is_capable: true, ..Fakes::default() }));
        for n in 0..2 {
            let shared = Arc::clone(&fakes);
            let url =
                serve(move |parts, body| node(&mut shared.lock().nodes[n], parts, body)).await;
            let mut fakes = fakes.lock();
            fakes.nodes.push(FakeNode::default());
            fakes.urls.push(url);
        }
        let shared = Arc::clone(&fakes);
        let site =
            Site::start_with(move |parts, body| master(&mut shared.lock(), parts, body)).await;
        Self { site, fakes }
    }

    /// Writes an object through the nodes, with a client that has learnt nothing yet.
    async fn put(
        &self,
        bucket: &Bucket,
        body: impl Into<Source>,
        options: PutOptions,
    ) -> fula_client::Result<fula_client::Put> {
        let storage_nodes = Some(bucket.client().storage_nodes());
        bucket.put("k", body, PutOptions { storage_nodes, ..options }).await
    }

    async fn put_plain(&self, body: &Bytes) -> fula_client::Result<fula_client::Put> {
        // A node that is silent is given up soon, and one that answers slowly on a busy machine is not.
        let is_silent = |node: &FakeNode| node.trouble == Some(Trouble::Silent);
        let is_soon = self.fakes.lock().nodes.iter().any(is_silent);
        let patience = if is_soon { Duration::from_secs(1) } else { Duration::from_mins(1) };
        self.put(&self.site.impatient(patience), body.clone(), PutOptions::default()).await
    }

    fn leaves(&self) -> usize {
        self.fakes.lock().nodes.iter().map(|node| node.puts.len()).sum()
    }

    fn maps(&self) -> usize {
        self.fakes.lock().maps.len()
    }

    fn tickets(&self) -> u32 {
        self.fakes.lock().tickets
    }

    /// Returns whether the gateway got the bytes themselves.
    async fn is_direct(&self, body: &Bytes) -> bool {
        match self.site.bucket().get("k", GetOptions::default()).await {
            Ok(get) => get.bytes(body.len()).await.unwrap() == body,
            Err(_) => false,
        }
    }

    /// Returns the number of the node that is asked first.
    fn first(&self) -> usize {
        let fakes = self.fakes.lock();
        fakes.nodes.iter().position(|node| !node.puts.is_empty()).unwrap()
    }
}

#[tokio::test]
async fn bytes_go_to_one_node_and_the_mapping_to_the_gateway() {
    let site = Scripted::start().await;
    let body = pattern(20 * MIB + 7);
    let put = site.put_plain(&body).await.unwrap();
    {
        let fakes = site.fakes.lock();
        assert_eq!((put.size, fakes.maps.len(), fakes.tickets), (20 * MIB as u64 + 7, 1, 1));
        let map = &fakes.maps[0].1["changes"][0]["put"]["map"];
        assert_eq!(put.version.etag, map["cid"].as_str().unwrap());
        let used: Vec<_> = fakes.nodes.iter().filter(|node| !node.puts.is_empty()).collect();
        assert_eq!((used.len(), used[0].puts.len()), (1, 21));
    }
    assert!(!site.is_direct(&body).await);
    // Small objects and streams go to the gateway.
    site.put_plain(&pattern(MIB)).await.unwrap();
    let stream = Source::reader(std::io::Cursor::new(body.clone()), None);
    site.put(&site.site.bucket(), stream, PutOptions::default()).await.unwrap();
    assert_eq!((site.leaves(), site.is_direct(&body).await), (21, true));
}

/// An old master, and one without nodes, see nothing but the probe.
#[tokio::test]
async fn an_old_master_never_sees_a_new_form() {
    let site = Scripted::start().await;
    site.fakes.lock().is_capable = false;
    let (body, bucket) = (pattern(3 * MIB), site.site.bucket());
    let storage_nodes = Some(bucket.client().storage_nodes());
    for _ in 0..3 {
        let options = PutOptions { storage_nodes: storage_nodes.clone(), ..PutOptions::default() };
        bucket.put("k", body.clone(), options).await.unwrap();
    }
    {
        let fakes = site.fakes.lock();
        assert_eq!((fakes.probes, fakes.tickets, fakes.maps.len()), (1, 0, 0));
    }
    assert_eq!((site.leaves(), site.is_direct(&body).await), (0, true));
}

#[tokio::test]
async fn a_node_that_fails_costs_a_leaf_and_no_object() {
    let body = pattern(5 * MIB);
    let site = Scripted::start().await;
    site.put_plain(&body).await.unwrap();
    let first = site.first();
    for trouble in [Trouble::Status(500, 99), Trouble::Status(507, 99), Trouble::Silent] {
        let site = Scripted::start().await;
        site.fakes.lock().nodes[first].trouble = Some(trouble);
        site.put_plain(&body).await.unwrap();
        let fakes = site.fakes.lock();
        assert_eq!((fakes.maps.len(), fakes.nodes[1 - first].puts.len()), (1, 5), "{trouble:?}");
    }
    // Nobody listens there.
    let site = Scripted::start().await;
    site.fakes.lock().urls[first] = "http://127.0.0.1:1".to_owned();
    site.put_plain(&body).await.unwrap();
    assert_eq!(site.fakes.lock().nodes[1 - first].puts.len(), 5);
    // Without any node, the bytes go to the gateway.
    let site = Scripted::start().await;
    site.fakes
        .lock()
        .nodes
        .iter_mut()
        .for_each(|node| node.trouble = Some(Trouble::Status(502, 99)));
    site.put_plain(&body).await.unwrap();
    assert!(site.is_direct(&body).await && site.fakes.lock().maps.is_empty());
    // A ticket is never sent in the clear to another machine.
    let site = Scripted::start().await;
    site.fakes.lock().urls = vec!["http://192.0.2.1:3601".to_owned(); 2];
    site.put_plain(&body).await.unwrap();
    assert!(site.is_direct(&body).await);
}

/// Where no node answers, the gateway itself takes the leaves, if it does that at all. So a dead node costs a leaf,
/// and what others have is not sent again.
#[tokio::test]
async fn the_gateway_is_the_last_node() {
    let body = pattern(5 * MIB);
    let site = Scripted::start().await;
    let start = |site: &Scripted| {
        let mut fakes = site.fakes.lock();
        fakes.is_node = true;
        fakes.nodes.push(FakeNode::default());
    };
    start(&site);
    // While a node answers, the gateway gets nothing but the mapping.
    site.put_plain(&body).await.unwrap();
    assert!(site.fakes.lock().nodes[2].puts.is_empty());
    let site = Scripted::start().await;
    start(&site);
    for node in &mut site.fakes.lock().nodes[..2] {
        node.trouble = Some(Trouble::Status(500, 99));
    }
    site.put_plain(&body).await.unwrap();
    let taken = site.fakes.lock().nodes[2].puts.len();
    assert_eq!((taken, site.maps()), (5, 1));
    // If it fails, too, the object is written to it as usual.
    site.fakes.lock().nodes[2].trouble = Some(Trouble::Status(507, 99));
    site.put_plain(&body).await.unwrap();
    assert!(site.is_direct(&body).await && site.maps() == 1);
}

#[tokio::test]
async fn a_busy_node_is_asked_again_with_less_in_flight() {
    let site = Scripted::start().await;
    site.fakes
        .lock()
        .nodes
        .iter_mut()
        .for_each(|node| node.trouble = Some(Trouble::Status(503, 4)));
    let body = pattern(18 * MIB);
    site.put_plain(&body).await.unwrap();
    let fakes = site.fakes.lock();
    let used: Vec<_> =
        fakes.nodes.iter().map(|node| node.puts.len()).filter(|puts| *puts > 0).collect();
    assert_eq!((used, fakes.maps.len()), (vec![18], 1));
}

#[tokio::test]
async fn quotas_end_the_write_and_tickets_are_renewed_once() {
    let body = pattern(3 * MIB);
    let site = Scripted::start().await;
    site.fakes
        .lock()
        .nodes
        .iter_mut()
        .for_each(|node| node.trouble = Some(Trouble::Status(402, 99)));
    let error = site.put_plain(&body).await.unwrap_err();
    assert!(matches!(error, Error::Quota { .. }), "{error}");
    assert!(!site.is_direct(&body).await);
    for status in [401, 403] {
        let site = Scripted::start().await;
        site.fakes
            .lock()
            .nodes
            .iter_mut()
            .for_each(|node| node.trouble = Some(Trouble::Status(status, 2)));
        site.put_plain(&body).await.unwrap();
        assert_eq!((site.tickets(), site.maps()), (2, 1), "{status}");
        let site = Scripted::start().await;
        site.fakes
            .lock()
            .nodes
            .iter_mut()
            .for_each(|node| node.trouble = Some(Trouble::Status(status, 99)));
        site.put_plain(&body).await.unwrap();
        assert_eq!((site.tickets(), site.is_direct(&body).await), (2, true), "{status}");
    }
}

#[tokio::test]
async fn a_leaf_that_arrives_damaged_is_sent_once_more() {
    let body = pattern(3 * MIB);
    for (times, is_fine) in [(1, true), (99, false)] {
        let site = Scripted::start().await;
        let trouble = Some(Trouble::Status(422, times));
        site.fakes.lock().nodes.iter_mut().for_each(|node| node.trouble = trouble);
        match site.put_plain(&body).await {
            Ok(_) => assert!(is_fine),
            Err(error) => assert!(!is_fine && matches!(error, Error::Damaged { .. }), "{error}"),
        }
    }
}

#[tokio::test]
async fn a_mapping_that_is_refused_is_tried_with_what_is_missing_and_then_directly() {
    let body = pattern(4 * MIB);
    let site = Scripted::start().await;
    site.fakes.lock().map_answers = vec![409];
    site.put_plain(&body).await.unwrap();
    // The nodes had everything, so nothing was sent again.
    assert_eq!((site.maps(), site.leaves()), (2, 4));
    let receipts = site.fakes.lock().maps[1].1["changes"][0]["put"]["map"]["receipts"].clone();
    assert_eq!(receipts.as_array().unwrap().len(), 1);
    for status in [409, 403, 400] {
        let site = Scripted::start().await;
        site.fakes.lock().map_answers = vec![status, status];
        site.put_plain(&body).await.unwrap();
        assert_eq!((site.maps(), site.is_direct(&body).await), (2, true), "{status}");
    }
}

#[tokio::test]
async fn a_lost_mapping_is_asked_for_again_and_a_condition_is_an_answer() {
    let body = pattern(2 * MIB);
    let site = Scripted::start().await;
    site.fakes.lock().map_answers = vec![0, 0];
    site.put_plain(&body).await.unwrap();
    let ids: BTreeSet<_> = site.fakes.lock().maps.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!((site.maps(), ids.len()), (3, 1));
    for (options, is_creation) in [
        (PutOptions { if_absent: true, ..PutOptions::default() }, true),
        (PutOptions { if_match: Some("x".to_owned()), ..PutOptions::default() }, false),
    ] {
        let site = Scripted::start().await;
        site.fakes.lock().map_answers = vec![412];
        let error = site.put(&site.site.bucket(), body.clone(), options).await.unwrap_err();
        let is_expected = match error {
            Error::Exists { .. } => is_creation,
            Error::Changed { .. } => !is_creation,
            _ => false,
        };
        assert!(is_expected && !site.is_direct(&body).await);
    }
}

#[tokio::test]
async fn an_interrupted_write_sends_only_what_no_node_has() {
    let site = Scripted::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (path, journal) = (dir.path().join("file"), dir.path().join("journal"));
    let mut content = pattern(6 * MIB).to_vec();
    std::fs::write(&path, &content).unwrap();
    let options = || PutOptions { journal: Some(journal.clone()), ..PutOptions::default() };
    let bucket = site.site.bucket();
    // The mapping is never answered, as if the process had died before it.
    site.fakes.lock().map_answers = vec![0; 7];
    let error = site.put(&bucket, Source::File(path.clone()), options()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(journal.exists() && site.leaves() == 6);
    for node in &mut site.fakes.lock().nodes {
        node.blocks.pop_first();
    }
    site.put(&bucket, Source::File(path.clone()), options()).await.unwrap();
    assert!(!journal.exists());
    assert_eq!(site.leaves(), 7);
    // A file that changed is another one.
    site.fakes.lock().map_answers = vec![0; 7];
    site.put(&bucket, Source::File(path.clone()), options()).await.unwrap_err();
    content[0] ^= 1;
    content.truncate(5 * MIB);
    std::fs::write(&path, &content).unwrap();
    let before = site.leaves();
    site.put(&bucket, Source::File(path), options()).await.unwrap();
    assert_eq!(site.leaves() - before, 5);
}
