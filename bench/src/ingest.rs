//! Measures storage nodes: a large file through a node, blocks one by one and as CAR files, mappings, and
//! receipts.

use std::{
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use fula_core::{
    Block, Cid, Codec, OwnerId, car,
    content::{DagBuilder, FileLink},
};
use fula_ingest::{DiskId, Receipt, SigningKey, receipt::Subject};
use fula_testkit::{
    cluster::fula_binary,
    postgres::free_port,
    process::Gateway,
    s3::{Call, Client, Credentials, Reply},
};
use futures::future::try_join_all;
use http::Method;

use crate::{peers::START, process::usage, report::median};

/// Length of a leaf in bytes.
const LEAF: usize = 1 << 20;

/// Length of a small block in bytes.
const SMALL: usize = 4096;

/// Number of connections of each work.
const CONNECTIONS: u64 = 16;

/// Longest time for one answer.
const PATIENCE: Duration = Duration::from_mins(2);

/// The sizes of the work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    /// Length of the large file in MiB.
    pub(crate) mib: u64,
    /// Number of small blocks of each work.
    pub(crate) small: u64,
}

/// A master and a storage node.
pub(crate) struct Site {
    pub(crate) master: Gateway,
    node: Child,
    node_address: SocketAddr,
    token: Credentials,
    /// Makes every block of the run different.
    next: AtomicU64,
    base: Vec<u8>,
    _dir: tempfile::TempDir,
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.node.kill());
        drop(self.node.wait());
    }
}

fn failed(text: impl Into<String>) -> io::Error {
    io::Error::other(text.into())
}

/// Starts a node, and returns it with the key that it prints.
fn start_node(
    binary: &Path,
    data_dir: &Path,
    listen: SocketAddr,
    master: &str,
) -> io::Result<(Child, String)> {
    let mut command = Command::new(binary);
    command.args(["storage-node", "--eip712-auth", "on", "--admin-listen", "127.0.0.1:0"]);
    command.arg("--listen").arg(listen.to_string()).arg("--masters").arg(master);
    command.arg("--data-dir").arg(data_dir).env("RUST_LOG", "warn").stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let out = child.stdout.take().ok_or_else(|| failed("no output of the node"))?;
    for line in BufReader::new(out).lines() {
        if let Some((_, key)) =
            line?.split_once("FULA_STORAGE_NODES=NAME=").and_then(|(_, rest)| rest.split_once('#'))
        {
            return Ok((child, key.to_owned()));
        }
    }
    Err(failed("the node did not start"))
}

impl Site {
    pub(crate) async fn start() -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("fula-bench-").tempdir()?;
        let (data, node_dir) = (dir.path().join("data"), dir.path().join("node"));
        let binary = fula_binary()?;
        let env = |nodes: Option<String>| {
            let mut env = vec![
                ("RUST_LOG".to_owned(), "warn".into()),
                ("FULA_EIP712_AUTH".to_owned(), "on".into()),
            ];
            if let Some(nodes) = nodes {
                env.push(("FULA_STORAGE_NODES".to_owned(), nodes.into()));
                env.push(("FULA_REMOTE_CID_PUT".to_owned(), "on".into()));
            }
            env
        };
        // Each names the key of the other, so both start twice.
        let mut first = Gateway::new(&binary, &data, env(None))?;
        first.launch()?;
        first.serving().await?;
        let mut asked = Client::new(first.address(), Credentials::Bearer(String::new()));
        let call = Call::new(Method::GET, "/fula/capabilities");
        let reply = asked.send(&call, START).await?;
        let told: serde_json::Value = serde_json::from_slice(&reply.body)?;
        let master_key = told["masterKey"].as_str().unwrap_or_default().to_owned();
        first.kill()?;
        let node_address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let nowhere = format!("m=http://127.0.0.1:1#{master_key}");
        let (mut node, node_key) = start_node(&binary, &node_dir, node_address, &nowhere)?;
        node.kill()?;
        node.wait()?;
        let nodes = format!("north=http://{node_address}#{node_key}");
        let mut master = Gateway::new(&binary, &data, env(Some(nodes)))?;
        master.launch()?;
        master.serving().await?;
        let known = format!("m=http://{}#{master_key}", master.address());
        let (node, _) = start_node(&binary, &node_dir, node_address, &known)?;
        let mut state = 7_u64;
        let base = (0..LEAF / 8).flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_le_bytes()
        });
        let (base, token) = (base.collect(), Credentials::of_new_wallet()?);
        let next = AtomicU64::new(0);
        let site = Self { master, node, node_address, token, next, base, _dir: dir };
        site.ready().await?;
        Ok(site)
    }

    /// Waits until the node has heard of the master, and makes the bucket.
    async fn ready(&self) -> io::Result<()> {
        let (mut node, deadline) = (self.node(), Instant::now() + START);
        while !node
            .send(&Call::new(Method::GET, "/health"), START)
            .await
            .is_ok_and(|reply| reply.status == 200)
        {
            if Instant::now() > deadline {
                return Err(failed("the node hears of no master"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ok(self.s3().send(&Call::new(Method::PUT, "/bucket"), START).await?).map(drop)
    }

    fn node(&self) -> Client {
        Client::new(self.node_address, self.token.clone())
    }

    pub(crate) fn s3(&self) -> Client {
        Client::new(self.master.address(), self.token.clone())
    }

    /// Returns the peak memory of node and master in MiB.
    pub(crate) fn peaks(&self) -> io::Result<(u64, u64)> {
        let peak = |pid: u32| usage(pid).map(|used| used.peak >> 20);
        Ok((peak(self.node.id())?, peak(self.master.pid().unwrap_or_default())?))
    }

    /// Returns bytes that differ from all others of the run.
    fn fresh(&self, len: usize) -> Bytes {
        let mut bytes = BytesMut::from(&self.base[..len]);
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        bytes.freeze()
    }

    fn blocks(&self, count: u64) -> Vec<Block> {
        (0..count).map(|_| Block::new(Codec::Raw, self.fresh(SMALL))).collect()
    }
}

/// Returns an answer that is a success.
fn ok(reply: Reply) -> io::Result<Reply> {
    if reply.status.is_success() {
        return Ok(reply);
    }
    Err(failed(format!("{}: {}", reply.status, String::from_utf8_lossy(&reply.body))))
}

fn put_block(block: &Block) -> Call {
    let call = Call::new(Method::PUT, "/v0/block").query(format!("cid={}", block.cid()));
    call.body(block.bytes().clone())
}

fn receipt_of(reply: &Reply) -> String {
    reply.header("x-fula-receipt").unwrap_or_default().to_owned()
}

/// Sends calls over several connections, each the next one that is left. Returns the answers in order.
async fn all(
    client: impl Fn() -> Client,
    count: u64,
    connections: u64,
    call: impl Fn(u64) -> Call,
) -> io::Result<Vec<Reply>> {
    let next = AtomicU64::new(0);
    let worker = || async {
        let (mut client, mut replies) = (client(), Vec::new());
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                return Ok::<_, io::Error>(replies);
            }
            replies.push((n, ok(client.send(&call(n), PATIENCE).await?)?));
        }
    };
    let mut replies: Vec<(u64, Reply)> =
        try_join_all((0..connections).map(|_| worker())).await?.concat();
    replies.sort_by_key(|(n, _)| *n);
    Ok(replies.into_iter().map(|(_, reply)| reply).collect())
}

fn link_of(cid: Cid) -> FileLink {
    FileLink { cid, size: LEAF as u64, dag_bytes: LEAF as u64 }
}

/// Sends a file of `mib` leaves to the node and maps it. Returns MiB a second, and the bytes of the commit.
async fn through_node(site: &Site, mib: u64, key: &str) -> io::Result<(f64, usize)> {
    let began = Instant::now();
    let cids = parking_lot::Mutex::new(vec![None; usize::try_from(mib).unwrap_or(0)]);
    let call = |n: u64| {
        let block = Block::new(Codec::Raw, site.fresh(LEAF));
        cids.lock()[usize::try_from(n).unwrap_or(0)] = Some(block.cid());
        put_block(&block)
    };
    let replies = all(|| site.node(), mib, CONNECTIONS, call).await?;
    let cids: Vec<Cid> = cids.into_inner().into_iter().flatten().collect();
    let (mut builder, mut nodes) = (DagBuilder::default(), Vec::new());
    for cid in &cids {
        nodes.extend(builder.push(link_of(*cid)));
    }
    let (root, rest) = builder.finish().ok_or_else(|| failed("an empty file"))?;
    nodes.extend(rest);
    let nodes: Vec<String> = nodes.iter().map(|node| base64_of(node.bytes())).collect();
    let receipts = cids.iter().zip(&replies).map(|(cid, reply)| {
        serde_json::json!({"receipt": receipt_of(reply), "blocks": [[cid.to_string(), LEAF]]})
    });
    let map = serde_json::json!({
        "cid": root.cid.to_string(),
        "size": root.size,
        "nodes": nodes,
        "receipts": receipts.collect::<Vec<_>>(),
    });
    let body = serde_json::json!({"changes": [{"put": {"key": key, "map": map}}]}).to_string();
    let bytes = body.len();
    let commit = Call::new(Method::POST, "/bucket").query("fula-commit").body(body);
    ok(site.s3().send(&commit, PATIENCE).await?)?;
    Ok((mib_a_second(mib, began), bytes))
}

/// Puts the same amount to the master, as objects of 64 MiB. Returns MiB a second.
async fn to_master(site: &Site, mib: u64, key: &str) -> io::Result<f64> {
    let began = Instant::now();
    let leaves = mib.min(64);
    let call = |n: u64| {
        let mut body = BytesMut::new();
        (0..leaves).for_each(|_| body.extend_from_slice(&site.fresh(LEAF)));
        Call::new(Method::PUT, format!("/bucket/{key}-{n}")).body(body.freeze())
    };
    all(|| site.s3(), mib / leaves, 2, call).await?;
    Ok(mib_a_second(mib / leaves * leaves, began))
}

#[expect(clippy::cast_precision_loss, reason = "a figure to print")]
fn mib_a_second(mib: u64, began: Instant) -> f64 {
    mib as f64 / began.elapsed().as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "a figure to print")]
fn a_second(count: u64, began: Instant) -> f64 {
    count as f64 / began.elapsed().as_secs_f64()
}

fn base64_of(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut bits = [0; 4];
        bits[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(bits);
        for n in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * n)) as usize & 63];
            text.push(if n > chunk.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

/// Sends small blocks one by one, and as CAR files. Returns blocks a second of both.
async fn small_blocks(site: &Site, count: u64, connections: u64) -> io::Result<(f64, f64)> {
    let blocks = site.blocks(count);
    let began = Instant::now();
    let at = |n: u64| put_block(&blocks[usize::try_from(n).unwrap_or(0)]);
    all(|| site.node(), count, connections, at).await?;
    let one_by_one = a_second(count, began);
    let files: Vec<Vec<Block>> = (0..count.div_ceil(1024)).map(|_| site.blocks(1024)).collect();
    let began = Instant::now();
    let call = |n: u64| {
        let blocks = &files[usize::try_from(n).unwrap_or(0)];
        let mut file = BytesMut::from(&*car::header(&[blocks[0].cid()]));
        for block in blocks {
            car::put_section(&mut file, &block.cid(), block.bytes());
        }
        let call = Call::new(Method::POST, "/v0/blocks").body(file.freeze());
        call.header("content-type", "application/vnd.ipld.car")
    };
    all(|| site.node(), files.len() as u64, connections, call).await?;
    Ok((one_by_one, a_second(files.len() as u64 * 1024, began)))
}

/// Maps keys to small blocks with their receipts, and puts objects of the same length. Returns both rates.
async fn mappings(site: &Site, count: u64, key: &str) -> io::Result<(f64, f64)> {
    let blocks = site.blocks(count);
    let at = |n: u64| &blocks[usize::try_from(n).unwrap_or(0)];
    let replies = all(|| site.node(), count, CONNECTIONS, |n| put_block(at(n))).await?;
    let began = Instant::now();
    let map = |n: u64| {
        let receipt = receipt_of(&replies[usize::try_from(n).unwrap_or(0)]);
        let call = Call::new(Method::PUT, format!("/bucket/{key}-mapped-{n}"));
        let call = call.header("x-amz-meta-fula-remote-cid", at(n).cid().to_string());
        let call = call.header("x-amz-meta-fula-remote-size", SMALL.to_string());
        call.header("x-fula-receipt", receipt)
    };
    all(|| site.s3(), count, CONNECTIONS, map).await?;
    let mapped = a_second(count, began);
    let bodies: Vec<Bytes> = (0..count).map(|_| site.fresh(SMALL)).collect();
    let began = Instant::now();
    let put = |n: u64| {
        let body = bodies[usize::try_from(n).unwrap_or(0)].clone();
        Call::new(Method::PUT, format!("/bucket/{key}-plain-{n}")).body(body)
    };
    all(|| site.s3(), count, CONNECTIONS, put).await?;
    Ok((mapped, a_second(count, began)))
}

/// Returns how many receipts are verified a second, on one thread.
fn receipts() -> f64 {
    let key = SigningKey::from_seed(&[7; 32].into());
    let cid = Cid::of(Codec::Raw, b"block");
    let receipt = Receipt {
        node: key.id(),
        disk: DiskId([1; 16]),
        owner: OwnerId([2; 16]),
        subject: Subject::Block(cid),
        bytes: 5,
        count: 1,
        issued: 1,
        until: 2,
    };
    let (text, count) = (receipt.sign(&key), 20_000);
    let began = Instant::now();
    let good =
        (0..count).filter(|_| Receipt::verify(&text, |_| Some(key.public())).is_ok()).count();
    a_second(good as u64, began)
}

/// Measures in turns, and prints medians.
pub(crate) async fn run(plan: &Plan) -> io::Result<()> {
    let site = Site::start().await?;
    let (mut files, mut smalls, mut maps) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let key = format!("r{round}");
        let (through, commit) = through_node(&site, plan.mib, &key).await?;
        if round == 0 {
            let (node, master) = site.peaks()?;
            println!("peak memory after the file: node {node} MiB, master {master} MiB");
            println!(
                "commit of the mapping: 1 request of {commit} bytes, no content bytes at the master"
            );
        }
        files.push((through, to_master(&site, plan.mib, &key).await?));
        smalls.push((
            small_blocks(&site, plan.small, 1).await?,
            small_blocks(&site, plan.small, CONNECTIONS).await?,
        ));
        maps.push(mappings(&site, plan.small, &key).await?);
    }
    let ratio = |pairs: &[(f64, f64)]| median(pairs.iter().map(|(a, b)| a / b).collect());
    let rates = |pairs: &[(f64, f64)]| {
        let column = |of: fn(&(f64, f64)) -> f64| median(pairs.iter().map(of).collect());
        (column(|pair| pair.0), column(|pair| pair.1))
    };
    let print = |what: &str, unit: &str, pairs: &[(f64, f64)]| {
        let (one, other) = rates(pairs);
        println!("| {what} | {one:.0} {unit} | {other:.0} {unit} | {:.2} |", ratio(pairs));
    };
    println!("| work | first | second | ratio, median of rounds |\n|---|---|---|---|");
    print(&format!("{} MiB through a node, to the master", plan.mib), "MiB/s", &files);
    let swapped = |pairs: Vec<(f64, f64)>| -> Vec<(f64, f64)> {
        pairs.into_iter().map(|(one, car)| (car, one)).collect()
    };
    let (single, many): (Vec<_>, Vec<_>) = smalls.into_iter().unzip();
    print("blocks of 4 KiB in CAR files, one by one, 1 connection", "/s", &swapped(single));
    print("blocks of 4 KiB in CAR files, one by one, 16 connections", "/s", &swapped(many));
    print("mapping PUT, plain PUT of 4 KiB, 16 connections", "/s", &maps);
    println!("receipts verified on one thread: {:.0} a second", receipts());
    let (node, master) = site.peaks()?;
    println!("peak memory at the end: node {node} MiB, master {master} MiB");
    Ok(())
}
