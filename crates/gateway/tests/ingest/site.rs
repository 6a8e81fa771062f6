//! A storage node in memory, and its clients.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use fula_core::{
    Block, BlockStore, Cid, Codec, OwnerId, StoreError,
    block::{Listed, Placement, Position, SyncMark},
    car,
    in_memory::{MemoryBlocks, MemoryMetadata},
};
use fula_gateway::{
    Peer, Rates, WireLimits,
    ingest::{IngestConfig, IngestRoutes, Trust},
};
use fula_identity::{
    Policy,
    eip712::{Claims, V2},
    wallet::{Address, WalletKey},
    wallet_token,
};
use fula_ingest::{
    DiskId, NodeLimits, SigningKey, StorageNode, Ticket, peer, ticket::CredentialTag,
};
use fula_service::auth::{Authenticator, KeyRing, Revocations, SealingKey};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value;
use zeroize::Zeroizing;

/// Time of the tests in milliseconds since 1970.
pub(super) const NOW: u64 = 1_700_000_000_000;

/// A block store whose disk can be full.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    pub(super) inner: MemoryBlocks,
    pub(super) is_full: AtomicBool,
    pub(super) has_failed: AtomicBool,
}

#[async_trait]
impl BlockStore for Blocks {
    async fn put(&self, blocks: &[Block], placement: Placement) -> Result<SyncMark, StoreError> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(StoreError::Full { backend: "log" });
        }
        if self.has_failed.load(Ordering::Relaxed) {
            let source = "broken".into();
            return Err(StoreError::Unavailable { backend: "log", action: "put", source });
        }
        self.inner.put(blocks, placement).await
    }

    async fn sync(&self, mark: SyncMark) -> Result<(), StoreError> {
        self.inner.sync(mark).await
    }

    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        self.inner.get(cid).await
    }

    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        self.inner.size(cid).await
    }

    async fn list(&self, from: Position) -> Result<Listed, StoreError> {
        self.inner.list(from).await
    }
}

pub(super) struct Site {
    pub(super) routes: IngestRoutes,
    pub(super) node: StorageNode,
    pub(super) blocks: Arc<Blocks>,
    pub(super) authenticator: Authenticator,
    pub(super) clock: Arc<AtomicU64>,
    pub(super) trust: Arc<Trust>,
}

pub(super) fn master() -> SigningKey {
    SigningKey::from_seed(&Zeroizing::new([1; 32]))
}

pub(super) async fn node() -> Site {
    node_with(Rates::default()).await
}

pub(super) async fn node_with(rates: Rates) -> Site {
    let (blocks, metadata) = (Arc::new(Blocks::default()), Arc::new(MemoryMetadata::default()));
    let clock = Arc::new(AtomicU64::new(NOW));
    let read = Arc::clone(&clock);
    let now = Arc::new(move || read.load(Ordering::Relaxed));
    let key = Arc::new(SigningKey::from_seed(&Zeroizing::new([7; 32])));
    let limits = NodeLimits { quota: 4 << 20, ..NodeLimits::default() };
    let (store, records) = (Arc::clone(&blocks) as _, Arc::clone(&metadata) as _);
    let opened =
        StorageNode::open(store, records, key, DiskId([5; 16]), limits, Arc::clone(&now) as _);
    let node = opened.await.unwrap();
    let sealing = SealingKey::parse(&"5a".repeat(32)).unwrap();
    let random = fula_service::system_random();
    let keys = KeyRing::new(Arc::clone(&metadata) as _, sealing, random, Duration::ZERO);
    let revocations = Revocations::open(metadata, None).await.unwrap();
    let authenticator = Authenticator::new(keys, revocations, now);
    authenticator.set_policy(Policy { eip712: true, v1: true, ..Policy::default() });
    let trust = Trust::new([master().public()]);
    trust.note_heard(master().id(), tokio::time::Instant::now());
    let config =
        IngestConfig { uploads: 4, tls_terminated: false, rates, limits: WireLimits::default() };
    let routes = IngestRoutes::new(node.clone(), authenticator.clone(), Arc::clone(&trust), config);
    Site { routes, node, blocks, authenticator, clock, trust }
}

pub(super) fn wallet(n: u8) -> WalletKey {
    WalletKey::new(&[n; 32]).unwrap()
}

pub(super) fn token(n: u8) -> String {
    let (iat, wallet) = (NOW / 1000, wallet(n));
    let claims = Claims { wallet: wallet.address(), iat, exp: iat + 86_400, v2: None };
    wallet_token::mint(&wallet, &claims)
}

/// Returns a token that is restricted to scopes.
pub(super) fn narrow(n: u8, scopes: &[&str]) -> String {
    let (iat, wallet) = (NOW / 1000, wallet(n));
    let scope = scopes.iter().map(ToString::to_string).collect();
    let (audience, session) = ("*".to_owned(), Address([0; 20]));
    let v2 = Some(V2 { audience, scope, nonce: [1; 32], session });
    let claims = Claims { wallet: wallet.address(), iat, exp: iat + 3600, v2 };
    wallet_token::mint(&wallet, &claims)
}

pub(super) fn owner(n: u8) -> OwnerId {
    OwnerId::of_user(&wallet(n).address().to_string())
}

pub(super) fn ticket_for(node: &Site, change: impl FnOnce(&mut Ticket)) -> String {
    let mut ticket = Ticket {
        master: master().id(),
        owner: owner(3),
        id: [1; 16],
        bytes_max: 1 << 20,
        issued: NOW,
        expires: NOW + 3_600_000,
        node: node.node.id(),
        credential: CredentialTag::of("some key"),
        credential_issued: NOW / 1000,
        may_ask: true,
    };
    change(&mut ticket);
    ticket.sign(&master())
}

pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Bytes,
}

impl Reply {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Site {
    pub(super) async fn send(&self, method: &str, target: &str, token: &str, body: &[u8]) -> Reply {
        let request = Request::builder().method(method).uri(target);
        let request = request.header(header::CONTENT_LENGTH, body.len());
        let request = match token {
            "" => request,
            token if token.starts_with("85") => request.header(peer::HEADER, token),
            token => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
        };
        self.answer(request.body(s3s::Body::from(Bytes::copy_from_slice(body))).unwrap()).await
    }

    pub(super) async fn answer(&self, mut request: Request<s3s::Body>) -> Reply {
        let address = "127.0.0.1".parse().unwrap();
        let peer = Peer { address, is_tls: false };
        if request.extensions().get::<Peer>().is_none() {
            request.extensions_mut().insert(peer);
        }
        let response = self.routes.handle(request).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { status: parts.status, headers: parts.headers, body }
    }

    pub(super) async fn put(&self, token: &str, bytes: &[u8]) -> Reply {
        let cid = Cid::of(Codec::Raw, bytes);
        self.send("PUT", &format!("/v0/block?cid={cid}"), token, bytes).await
    }

    /// Sends a request that a master signs.
    pub(super) async fn send_as_master(&self, method: &str, target: &str, body: &[u8]) -> Reply {
        let (line, now) = (peer::Line::of(method, target), self.clock.load(Ordering::Relaxed));
        let text = line.sign(body, &master(), self.node.id(), now);
        self.send(method, target, &text, body).await
    }
}

pub(super) fn target(bytes: &[u8]) -> String {
    format!("/v0/block?cid={}", Cid::of(Codec::Raw, bytes))
}

pub(super) fn car_of(blocks: &[(Cid, Bytes)]) -> Vec<u8> {
    let mut file = BytesMut::from(car::header(&[blocks[0].0]));
    for (cid, bytes) in blocks {
        car::put_section(&mut file, cid, bytes);
    }
    file.to_vec()
}
