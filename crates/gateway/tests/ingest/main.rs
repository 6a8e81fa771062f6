//! The routes of a storage node: every status of the wire format, and who may do what.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod grants;
mod questions;
mod site;

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use fula_core::{Cid, Codec};
use fula_gateway::Peer;
use fula_ingest::{
    DiskId, Receipt, SignerId, SigningKey, Ticket, holds::CHARGE_MIN, peer, receipt::Subject,
    ticket::CredentialTag,
};
use fula_service::auth::Revoked;
use http::{Method, Request, header};
use zeroize::Zeroizing;

use self::site::*;

/// A change of a ticket that is valid otherwise.
type Change = fn(&mut Ticket);

#[tokio::test]
async fn a_block_is_answered_with_a_receipt_and_can_be_read_back() {
    let node = node().await;
    for method in ["PUT", "POST"] {
        let reply = node.send(method, &target(b"hello"), &token(3), b"hello").await;
        assert_eq!(reply.status, 200, "{:?}", reply.body);
        let answer = reply.json();
        assert_eq!(answer["cid"], Cid::of(Codec::Raw, b"hello").to_string());
        assert_eq!(
            (answer["size"].as_u64(), answer["lease"].as_u64()),
            (Some(5), Some(NOW + 86_400_000))
        );
        let text = answer["receipt"].as_str().unwrap();
        assert_eq!(reply.headers["x-fula-receipt"], text);
        let receipt = Receipt::verify(text, |_| Some(node.node.key().public())).unwrap();
        assert_eq!((receipt.owner, receipt.disk), (owner(3), DiskId([5; 16])));
        assert_eq!(receipt.subject, Subject::Block(Cid::of(Codec::Raw, b"hello")));
    }
    let reply = node.send("GET", &target(b"hello"), &token(3), b"").await;
    assert_eq!((reply.status, reply.body.as_ref()), (http::StatusCode::OK, &b"hello"[..]));
    let reply = node.send("HEAD", &target(b"hello"), &token(3), b"").await;
    assert_eq!(
        (reply.status.as_u16(), reply.headers["content-length"].to_str().unwrap()),
        (200, "5")
    );
    assert!(
        reply.headers.contains_key("x-fula-receipt") && reply.headers.contains_key("x-fula-lease")
    );
    let info = node.send("GET", "/v0/info", "", b"").await.json();
    assert_eq!(info["key"], node.node.key().public().to_string());
    assert_eq!(node.send("GET", "/health", "", b"").await.status, 200);
}

#[tokio::test]
async fn every_fault_has_its_status_and_stores_nothing() {
    let node = node().await;
    let token = token(3);
    let cbor = format!("/v0/block?cid={}", Cid::of(Codec::DagCbor, b"hello"));
    let sha = "/v0/block?cid=bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
    let large = vec![0; (1 << 20) + 1];
    let hello = target(b"hello");
    for (method, target, token, body, status) in [
        ("PUT", hello.as_str(), "", &b"hello"[..], 401),
        ("PUT", &hello, "nonsense", b"hello", 401),
        ("PUT", "/v0/block", &token, b"hello", 400),
        ("PUT", "/v0/block?cid=nonsense", &token, b"hello", 400),
        ("PUT", &cbor, &token, b"hello", 400),
        ("PUT", sha, &token, b"hello", 400),
        ("PUT", &hello, &token, b"", 400),
        ("PUT", &hello, &token, b"hellO", 422),
        ("PUT", &hello, &token, &large, 413),
        ("DELETE", &hello, &token, b"", 405),
        ("GET", "/v0/blocks", &token, b"", 405),
        ("POST", "/v0/info", &token, b"", 405),
        ("GET", "/v0/nothing", &token, b"", 404),
        ("GET", "/bucket/key", &token, b"", 404),
        ("GET", &hello, &token, b"", 404),
        ("POST", "/v0/have", &token, b"{", 400),
        ("POST", "/v0/have", &token, b"{\"cids\":[]}", 400),
        ("POST", "/v0/have", &token, b"{\"cids\":[\"x\"]}", 400),
        ("POST", "/v0/have", "", b"{}", 401),
        ("POST", "/v0/lease", &token, b"{\"receipts\":[\"AAAA\"]}", 400),
    ] {
        let reply = node.send(method, target, token, body).await;
        assert_eq!(reply.status.as_u16(), status, "{method} {target}: {:?}", reply.body);
        let challenge = reply.headers.contains_key(header::WWW_AUTHENTICATE);
        assert_eq!(challenge, status == 401, "{method} {target}");
        assert_eq!(reply.headers.contains_key(header::ALLOW), status == 405, "{method} {target}");
    }
    // A body without a length.
    let request = Request::builder().method(Method::PUT).uri(&hello);
    let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    let reply = node.answer(request.body(s3s::Body::from(Bytes::from("hello"))).unwrap()).await;
    assert_eq!(reply.status, 411);
    // A body that ends early.
    let request = Request::builder().method(Method::PUT).uri(&hello);
    let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    let request = request.header(header::CONTENT_LENGTH, 6);
    let reply = node.answer(request.body(s3s::Body::from(Bytes::from("hello"))).unwrap()).await;
    assert_eq!(reply.status, 400);
    assert_eq!(node.node.count(), (0, 0));
    assert_eq!(node.node.charged(owner(3)), 0);
    node.blocks.is_full.store(true, Ordering::Relaxed);
    assert_eq!(node.put(&token, b"hello").await.status, 507);
    node.blocks.is_full.store(false, Ordering::Relaxed);
    node.blocks.has_failed.store(true, Ordering::Relaxed);
    assert_eq!(node.put(&token, b"hello").await.status, 502);
    assert_eq!(node.node.count(), (0, 0));
}

#[tokio::test]
async fn a_block_of_somebody_else_looks_like_one_that_is_not_there() {
    let node = node().await;
    assert_eq!(node.put(&token(3), b"mine").await.status, 200);
    let (there, absent) = (target(b"mine"), target(b"nowhere"));
    for method in ["GET", "HEAD"] {
        let replies = [
            node.send(method, &there, &token(4), b"").await,
            node.send(method, &absent, &token(4), b"").await,
        ];
        assert_eq!(replies[0].status, 404);
        assert_eq!(replies[0].body, replies[1].body);
        assert_eq!(replies[0].headers, replies[1].headers);
    }
    let cids = [b"mine".as_slice(), b"nowhere"].map(|bytes| Cid::of(Codec::Raw, bytes).to_string());
    let body = serde_json::json!({"cids": cids}).to_string();
    for route in ["/v0/have", "/v0/lease"] {
        let theirs = node.send("POST", route, &token(4), body.as_bytes()).await.json();
        assert_eq!(theirs, serde_json::json!({"bitmap": "00", "blocks": []}));
        let mine = node.send("POST", route, &token(3), body.as_bytes()).await.json();
        assert_eq!(mine["bitmap"], "10");
    }
    // Only a master pins, and names the owner.
    assert_eq!(node.send("POST", "/v0/pin", &token(3), body.as_bytes()).await.status, 403);
    let pin = serde_json::json!({"owner": owner(3).to_string(), "cids": cids}).to_string();
    assert_eq!(node.send("POST", "/v0/pin", &token(3), pin.as_bytes()).await.status, 400);
    let pinned = node.send_as_master("POST", "/v0/pin", pin.as_bytes()).await;
    assert_eq!(pinned.json()["bitmap"], "10", "{:?}", pinned.body);
    assert_eq!(node.node.charged(owner(3)), 0);
    // A master reads what the owner holds whom it names.
    let of = |target: &str, n: u8| format!("{target}&owner={}", owner(n));
    assert_eq!(node.send_as_master("GET", &of(&there, 3), b"").await.body, &b"mine"[..]);
    for (target, status) in [(of(&there, 4), 404), (of(&absent, 3), 404), (there.clone(), 400)] {
        assert_eq!(node.send_as_master("GET", &target, b"").await.status, status, "{target}");
    }
    let key = SigningKey::from_seed(&Zeroizing::new([2; 32]));
    let forged = peer::Line::of("GET", &there).sign(b"", &key, node.node.id(), NOW);
    assert_eq!(node.send("GET", &there, &forged, b"").await.status, 403);
}

#[tokio::test]
async fn quotas_and_tickets_bound_what_is_sent() {
    let node = node().await;
    let mib = |n: u8| vec![n; 1 << 20];
    for n in 0..4 {
        assert_eq!(node.put(&token(4), &mib(n)).await.status, 200);
    }
    assert_eq!(node.put(&token(4), b"x").await.status, 402);
    let ticket = ticket_for(&node, |ticket| ticket.bytes_max = 2 * CHARGE_MIN);
    // What does not hash to its CID is not charged.
    let reply = node.send("PUT", &target(b"hello"), &ticket, b"hellO").await;
    assert_eq!(reply.status, 422);
    // A short block counts as much as its hold costs.
    assert_eq!(node.put(&ticket, b"hello").await.status, 200);
    assert_eq!(node.put(&ticket, &[1; 4097]).await.status, 402);
    assert_eq!(node.put(&ticket, b"world").await.status, 200);
    assert_eq!(node.put(&ticket, b"!").await.status, 402);
    let changes: [(&str, Change); 4] = [
        ("expired", |ticket| (ticket.issued, ticket.expires) = (NOW - 10, NOW)),
        ("too long", |ticket| ticket.expires = NOW + 7_200_000),
        ("for another node", |ticket| ticket.node = SignerId([9; 8])),
        ("of unknown masters", |ticket| ticket.master = SignerId([9; 8])),
    ];
    for (what, change) in changes {
        let reply = node.put(&ticket_for(&node, change), b"hello").await;
        assert_eq!(reply.status, 403, "{what}");
    }
}

#[tokio::test]
async fn what_was_revoked_or_cannot_be_known_is_refused() {
    let node = node().await;
    let ticket = |id: u8, user: u8| {
        ticket_for(&node, |ticket| (ticket.id, ticket.owner) = ([id; 16], owner(user)))
    };
    assert_eq!(node.put(&ticket(1, 3), b"hello").await.status, 200);
    node.authenticator.revoke(Revoked::Key("some key".to_owned())).await.unwrap();
    assert_eq!(node.put(&ticket(2, 3), b"hello").await.status, 403);
    let user = wallet(4).address().to_string();
    let other = |credential: &'static str| {
        ticket_for(&node, |ticket| {
            (ticket.owner, ticket.credential) = (owner(4), CredentialTag::of(credential));
        })
    };
    assert_eq!(node.put(&other("another"), b"hello").await.status, 200);
    assert_eq!(node.put(&token(4), b"hello").await.status, 200);
    node.authenticator.revoke(Revoked::User(user)).await.unwrap();
    assert_eq!(node.put(&other("another"), b"hello").await.status, 403);
    assert_eq!(node.put(&token(4), b"hello").await.status, 401);
    // A token over plain HTTP from another machine.
    let request = Request::builder().method(Method::PUT).uri(target(b"hello"));
    let request = request.header(header::AUTHORIZATION, format!("Bearer {}", token(3)));
    let mut request = request.body(s3s::Body::from(Bytes::from("hello"))).unwrap();
    let address = "192.0.2.1".parse().unwrap();
    request.extensions_mut().insert(Peer { address, is_tls: false });
    assert_eq!(node.answer(request).await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_hears_of_no_master_accepts_nothing() {
    let node = node().await;
    tokio::time::advance(fula_gateway::ingest::SILENCE_MAX + Duration::from_millis(1)).await;
    let reply = node.put(&token(3), b"hello").await;
    assert_eq!(
        (reply.status.as_u16(), reply.headers[header::RETRY_AFTER].to_str().unwrap()),
        (503, "1")
    );
    assert_eq!(node.send("GET", "/health", "", b"").await.status, 503);
    node.trust.note_heard(master().id(), tokio::time::Instant::now());
    assert_eq!(node.put(&token(3), b"hello").await.status, 200);
}

#[tokio::test]
async fn a_car_is_stored_under_one_receipt_up_to_its_fault() {
    let node = node().await;
    let blocks: Vec<(Cid, Bytes)> = (0..600_u32)
        .map(|n| Bytes::from(vec![n.to_le_bytes()[0]; 1000 + n as usize]))
        .map(|bytes| (Cid::of(Codec::Raw, &bytes), bytes))
        .collect();
    let file = car_of(&blocks);
    let reply = node.send("POST", "/v0/blocks", &token(3), &file).await;
    assert_eq!(reply.status, 200, "{:?}", reply.body);
    let answer = reply.json();
    let listed: Vec<(String, u32)> = serde_json::from_value(answer["blocks"].clone()).unwrap();
    let sized: Vec<(Cid, u32)> =
        listed.iter().map(|(cid, size)| (cid.parse().unwrap(), *size)).collect();
    assert_eq!(sized.len(), 600);
    let text = answer["receipt"].as_str().unwrap();
    let receipt = Receipt::verify(text, |_| Some(node.node.key().public())).unwrap();
    assert!(receipt.is_about(&sized));
    assert_eq!(node.node.count(), (600, 1), "one record for all");
    // Prolonging it needs the list.
    node.clock.fetch_add(7_200_000, Ordering::Relaxed);
    let body = serde_json::json!({"receipts": [{"receipt": text, "blocks": listed}]}).to_string();
    let longer = node.send("POST", "/v0/lease", &token(3), body.as_bytes()).await;
    assert_eq!(longer.json()["lease"], NOW + 93_600_000, "{:?}", longer.body);
    let body = serde_json::json!({"receipts": [text]}).to_string();
    let reply = node.send("POST", "/v0/lease", &token(3), body.as_bytes()).await;
    assert_eq!(reply.status, 400);

    // Cut off in the last block: the others are kept, and named.
    let reply = node.send("POST", "/v0/blocks", &token(4), &file[..file.len() - 1]).await;
    let answer = reply.json();
    assert_eq!((reply.status.as_u16(), answer["stored"].as_array().unwrap().len()), (400, 599));
    assert!(answer["bad"].is_null() && answer["receipt"].is_string());
    // A block that does not match its CID.
    let mut bad = blocks[..3].to_vec();
    bad[1].1 = Bytes::from("something else");
    let reply = node.send("POST", "/v0/blocks", &token(5), &car_of(&bad)).await;
    let answer = reply.json();
    assert_eq!((reply.status.as_u16(), answer["stored"].as_array().unwrap().len()), (422, 1));
    assert_eq!(answer["bad"], bad[1].0.to_string());
    assert_eq!(node.send("GET", &target(&bad[2].1), &token(5), b"").await.status, 404);
    // Nothing at all.
    let reply = node.send("POST", "/v0/blocks", &token(5), b"no CAR").await;
    assert_eq!((reply.status.as_u16(), &reply.json()["stored"]), (400, &serde_json::json!([])));
    // Too many blocks for one request, and more than the quota.
    let many: Vec<_> = (0..1025_u32)
        .map(|n| Bytes::from(n.to_le_bytes().to_vec()))
        .map(|bytes| (Cid::of(Codec::Raw, &bytes), bytes))
        .collect();
    let reply = node.send("POST", "/v0/blocks", &token(6), &car_of(&many)).await;
    assert_eq!(
        (reply.status.as_u16(), reply.json()["stored"].as_array().unwrap().len()),
        (413, 1024)
    );
    let large: Vec<_> = (0..5_u8)
        .map(|n| Bytes::from(vec![n; 1 << 20]))
        .map(|bytes| (Cid::of(Codec::Raw, &bytes), bytes))
        .collect();
    let reply = node.send("POST", "/v0/blocks", &token(8), &car_of(&large)).await;
    assert_eq!((reply.status.as_u16(), reply.json()["stored"].as_array().unwrap().len()), (402, 4));
}
