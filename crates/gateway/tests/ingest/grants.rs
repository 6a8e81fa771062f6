//! What tickets and tokens for a part of an account may do on a node.

use std::num::NonZeroU32;

use fula_core::{Cid, Codec};
use fula_gateway::Rates;
use serde_json::{Value, json};

use super::site::*;

/// The requests of [`statuses`].
const REQUESTS: [&str; 7] =
    ["PUT", "GET", "HEAD", "have cids", "have receipts", "lease cids", "lease receipts"];

/// Returns the statuses of the requests of [`REQUESTS`] with this credential.
async fn statuses(node: &Site, credential: &str, receipt: &str) -> [u16; 7] {
    let mine = target(b"mine");
    let cids = json!({"cids": [Cid::of(Codec::Raw, b"mine").to_string()]}).to_string();
    let receipts = json!({"receipts": [receipt]}).to_string();
    let mut found = [0; 7];
    for (n, (method, target, body)) in [
        ("PUT", mine.as_str(), "mine"),
        ("GET", &mine, ""),
        ("HEAD", &mine, ""),
        ("POST", "/v0/have", &cids),
        ("POST", "/v0/have", &receipts),
        ("POST", "/v0/lease", &cids),
        ("POST", "/v0/lease", &receipts),
    ]
    .into_iter()
    .enumerate()
    {
        found[n] = node.send(method, target, credential, body.as_bytes()).await.status.as_u16();
    }
    found
}

/// A grant for one bucket or prefix does not open all blocks of the owner, and a ticket opens none.
#[tokio::test]
async fn what_opens_blocks_is_a_credential_for_the_whole_account() {
    let node = node().await;
    let reply = node.put(&token(3), b"mine").await.json();
    let receipt = reply["receipt"].as_str().unwrap();
    let narrow_ticket = ticket_for(&node, |ticket| ticket.may_ask = false);
    for (what, credential, expected) in [
        ("everything", token(3), [200, 200, 200, 200, 200, 200, 200]),
        ("reads and writes all", narrow(3, &["admin:*"]), [200, 200, 200, 200, 200, 200, 200]),
        ("reads all", narrow(3, &["read:*"]), [403, 200, 200, 200, 200, 403, 403]),
        ("writes all", narrow(3, &["write:*"]), [200, 403, 403, 403, 200, 403, 200]),
        ("one bucket", narrow(3, &["admin:bucket"]), [200, 403, 403, 403, 200, 403, 200]),
        ("one prefix", narrow(3, &["write:bucket/in/"]), [200, 403, 403, 403, 200, 403, 200]),
        ("reads one bucket", narrow(3, &["read:bucket"]), [403, 403, 403, 403, 200, 403, 403]),
        ("ticket", ticket_for(&node, |_| {}), [200, 403, 403, 200, 200, 200, 200]),
        ("ticket of one bucket", narrow_ticket, [200, 403, 403, 403, 200, 403, 200]),
    ] {
        let found = statuses(&node, &credential, receipt).await;
        assert_eq!(found, expected, "{what}: {REQUESTS:?}");
    }
    // Whether a block is there makes no difference to the refusal.
    let narrow = narrow(3, &["write:bucket"]);
    let there = node.send("GET", &target(b"mine"), &narrow, b"").await;
    let absent = node.send("GET", &target(b"nowhere"), &narrow, b"").await;
    assert_eq!((there.status, there.body), (absent.status, absent.body));
}

/// Tickets come under the rate of one user: all tickets of an owner together.
#[tokio::test]
async fn tickets_have_a_rate_limit() {
    let rates = Rates { user: NonZeroU32::new(3), address: None };
    let node = node_with(rates).await;
    let mut statuses = Vec::new();
    for n in 0..12 {
        let ticket = ticket_for(&node, |ticket| ticket.id = [n; 16]);
        statuses.push(node.put(&ticket, b"hello").await.status.as_u16());
    }
    assert_eq!(statuses[..3], [200; 3]);
    assert!(statuses[3..].contains(&503), "{statuses:?}");
    let other = ticket_for(&node, |ticket| ticket.owner = owner(4));
    assert_eq!(node.put(&other, b"hello").await.status, 200);
}

/// Blocks that are sent again take no more memory.
#[tokio::test]
async fn a_block_that_is_sent_again_has_one_hold() {
    let node = node().await;
    let first = node.put(&token(3), b"hello").await.json();
    for _ in 0..50 {
        let again: Value = node.put(&token(3), b"hello").await.json();
        assert_eq!(again["lease"], first["lease"]);
    }
    assert_eq!(node.node.count(), (1, 1));
}
