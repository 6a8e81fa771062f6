//! What storage nodes ask masters: no node, and nobody else, keeps a master from answering the others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fula_core::{
    Cid, Codec, WriterId,
    in_memory::{MemoryBlocks, MemoryMetadata, MemoryRoots},
    tree::Nodes,
};
use fula_gateway::{
    Gateway, Rates, WireConfig, WireLimits,
    ingest::{MasterIngest, NodeAddress},
};
use fula_identity::Policy;
use fula_ingest::{SignerId, SigningKey, Ticket, peer};
use fula_service::{
    Arbiter, Limits, NamePolicy, RollbackGuard, Service,
    auth::{Authenticator, KeyRing, Revocations, SealingKey},
    system_random,
};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use zeroize::Zeroizing;

use super::site::{NOW, master, narrow, token};

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&Zeroizing::new([n; 32]))
}

/// A master that knows the nodes north and south.
async fn gateway() -> Gateway {
    let limits = Limits::default();
    let nodes = Arc::new(Nodes::new(Arc::new(MemoryBlocks::default()), limits.cache_bytes));
    let (roots, guard) = (Arc::new(MemoryRoots::default()), RollbackGuard::new(None, true));
    let arbiter = Arbiter::new(nodes, roots, WriterId([1; 16]), &limits, guard);
    let service = Service::new(arbiter, limits, system_random(), NamePolicy::PerOwner);
    let metadata = Arc::new(MemoryMetadata::default());
    let sealing = SealingKey::parse(&"5a".repeat(32)).unwrap();
    let keys = KeyRing::new(Arc::clone(&metadata) as _, sealing, system_random(), Duration::ZERO);
    let revocations = Revocations::open(metadata, None).await.unwrap();
    let authenticator = Authenticator::new(keys, revocations, Arc::new(|| NOW));
    authenticator.set_policy(Policy { eip712: true, v1: true, ..Policy::default() });
    let config = WireConfig {
        region: "us-east-1".to_owned(),
        region_strict: false,
        presigned_v2: true,
        domain: None,
        tls_terminated: true,
        rates: Rates::default(),
        limits: WireLimits::default(),
    };
    let node = |(name, n): (&str, u8)| NodeAddress {
        name: name.to_owned(),
        url: format!("https://{name}.example"),
        key: key(n).public(),
    };
    let nodes = [("north", 2), ("south", 3)].map(node).to_vec();
    let key = Arc::new(master());
    let ingest = MasterIngest::new(service.clone(), authenticator.clone(), key, nodes, None, None);
    fula_gateway::gateway(service, authenticator, config).with_ingest(ingest)
}

fn question(route: &str, signer: &SigningKey, body: &[u8], sent: s3s::Body) -> Request<s3s::Body> {
    let path = format!("/fula/ingest/{route}");
    let signature = peer::Line::of("POST", &path).sign(body, signer, master().id(), NOW);
    let request = Request::builder().method("POST").uri(path);
    request.header(peer::HEADER, signature).body(sent).unwrap()
}

async fn ask(gateway: &Gateway, route: &str, signer: &SigningKey, body: &[u8]) -> StatusCode {
    let sent = s3s::Body::from(Bytes::copy_from_slice(body));
    gateway.handle(question(route, signer, body, sent)).await.status()
}

/// Returns a body that never ends, and whether anything was read of it.
fn endless() -> (s3s::Body, Arc<AtomicBool>) {
    let read = Arc::new(AtomicBool::new(false));
    let was_read = Arc::clone(&read);
    let frames = futures::stream::poll_fn(move |_| {
        was_read.store(true, Ordering::Relaxed);
        std::task::Poll::<Option<Result<http_body::Frame<Bytes>, std::io::Error>>>::Pending
    });
    (s3s::Body::http_body_unsync(StreamBody::new(frames)), read)
}

#[tokio::test]
async fn nothing_is_read_of_a_question_before_its_signature_is_verified() {
    let gateway = gateway().await;
    let body = Cid::of(Codec::Raw, b"block").to_bytes();
    for signer in [key(9), master()] {
        let (endless, read) = endless();
        let answer = gateway.handle(question("needed", &signer, &body, endless)).await;
        assert_eq!(answer.status(), 403);
        assert!(!read.load(Ordering::Relaxed));
    }
    // A body that is not the signed one.
    let other = s3s::Body::from(Bytes::from_static(b"other"));
    let answer = gateway.handle(question("needed", &key(2), &body, other)).await;
    assert_eq!(answer.status(), 403);
    assert_eq!(ask(&gateway, "needed", &key(2), &body).await, 200);
    assert_eq!(ask(&gateway, "nothing", &key(2), &body).await, 404);
}

#[tokio::test(start_paused = true)]
async fn slow_questions_of_one_node_do_not_shut_others_out() {
    let gateway = gateway().await;
    let body = Cid::of(Codec::Raw, b"block").to_bytes();
    let mut slow = Vec::new();
    for route in ["needed", "needed", "revocations", "revocations", "needed"] {
        let (gateway, (endless, _)) = (gateway.clone(), endless());
        let question = question(route, &key(2), &body, endless);
        slow.push(tokio::spawn(async move { gateway.handle(question).await.status() }));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The other node is answered, and the slow one has one question of a kind at a time.
    for route in ["needed", "revocations"] {
        assert_eq!(ask(&gateway, route, &key(3), &body).await, 200, "{route}");
        assert_eq!(ask(&gateway, route, &key(2), &body).await, 503, "{route}");
    }
    let mut statuses = Vec::new();
    for task in slow {
        statuses.push(task.await.unwrap().as_u16());
    }
    assert_eq!(statuses, [400, 503, 400, 503, 503]);
    assert_eq!(ask(&gateway, "needed", &key(2), &body).await, 200, "its turn has ended");
}

async fn tickets(gateway: &Gateway, token: &str) -> serde_json::Value {
    let request = Request::builder().method("POST").uri("/fula/ingest-ticket");
    let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    let answer: Response<s3s::Body> =
        gateway.handle(request.body(s3s::Body::empty()).unwrap()).await;
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn a_ticket_is_for_one_node() {
    let gateway = gateway().await;
    let read = |text: &serde_json::Value, here: SignerId| {
        let key_of = |id| (id == master().id()).then(|| master().public());
        Ticket::verify(text.as_str().unwrap(), key_of, here, NOW)
    };
    let all = tickets(&gateway, &token(3)).await;
    let [north, south] = [2, 3].map(|n| key(n).id());
    let [first, second] = [0, 1].map(|n| &all["nodes"][n]["ticket"]);
    assert_eq!(&all["ticket"], first);
    assert!(read(first, north).unwrap().may_ask && read(second, south).is_ok());
    assert!(read(first, south).is_err() && read(second, north).is_err());
    // A credential for a part of the account gets tickets that only send.
    let narrow = tickets(&gateway, &narrow(3, &["write:bucket"])).await;
    assert!(!read(&narrow["ticket"], north).unwrap().may_ask);
}
