//! The routes `/v0/` of a storage node: blocks in and out, receipts, leases and pins (docs/format.md).
//!
//! Clients are authenticated by the bearer tokens that masters accept too, or by tickets of a master; masters
//! by their signature. Nothing is read of a body before its sender is known to be allowed to send it, except
//! of the short bodies of masters.

mod answer;
mod blocks;
mod body;
mod lists;
mod master;
mod trust;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use fula_core::OwnerId;
use fula_identity::TokenError;
use fula_ingest::{InvalidDocument, SignerId, StorageNode, Ticket, peer, ticket};
use fula_service::{
    Identity,
    auth::{
        AuthError, Authenticator,
        access::{Target, Verb},
    },
};
use http::{Method, Request, Response, StatusCode};
use s3s::Body;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use self::{
    answer::{Answer, Refused, json, refused},
    trust::Tickets,
};
pub use self::{
    master::{MasterIngest, NodeAddress},
    trust::{SILENCE_MAX, Trust},
};
use crate::{
    WireLimits,
    auth::AuthLayer,
    credential::bearer_of,
    limit::{RateLimits, Rates},
    psa::{self, PinningRoutes},
    request::{Operation, Peer, query_value},
    request_body::{self, MinimumPace},
    request_log::{self, Line},
    signature::Rules,
};

/// Prefix of the routes. It cannot be a bucket name, which has three characters at least.
const ROUTES: &str = "/v0/";

/// Memory for the bodies of all requests together, in KiB.
const MEMORY_KIB: usize = 4 << 10;

/// Longest wait for memory, and for one of the uploads that run at a time.
const TURN: Duration = Duration::from_secs(10);

/// The settings of the routes of a storage node.
#[derive(Clone, Debug)]
pub struct IngestConfig {
    /// Largest number of requests with bodies that are handled at a time.
    pub uploads: usize,
    /// Whether a proxy in front terminates TLS.
    pub tls_terminated: bool,
    /// Rate limits of one user and of one address.
    pub rates: Rates,
    /// Limits of requests.
    pub limits: WireLimits,
}

/// Where a request to a master goes that is about ingest.
pub(crate) enum Routed<'a> {
    /// To the routes of a storage node that the master serves too.
    Own(&'a IngestRoutes),
    /// To the questions that nodes ask.
    Question,
    /// To the tickets.
    Ticket,
}

/// Returns where a request to a master goes, if it is about ingest.
pub(crate) fn route<'a>(ingest: &'a MasterIngest, path: &str) -> Option<Routed<'a>> {
    if path == master::TICKET {
        return Some(Routed::Ticket);
    }
    if path.starts_with(master::ASKED) {
        return Some(Routed::Question);
    }
    ingest.own().filter(|_| path.starts_with(ROUTES)).map(Routed::Own)
}

/// Answers the requests of a storage node. Clones share one state.
#[derive(Clone, Debug)]
pub struct IngestRoutes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: StorageNode,
    auth: AuthLayer,
    trust: Arc<Trust>,
    tickets: Tickets,
    uploads: Arc<Semaphore>,
    /// Memory that no body holds, in KiB.
    memory: Arc<Semaphore>,
    limits: WireLimits,
    /// The Pinning Service API; unset unless the node serves it.
    pinning: OnceLock<PinningRoutes>,
}

/// One of the uploads that run at a time, and the memory of its body.
struct Turn {
    _upload: OwnedSemaphorePermit,
    memory: OwnedSemaphorePermit,
}

/// The sender of a request.
#[derive(Clone, Debug)]
enum Sender {
    /// A client that acts for an owner.
    Client(Client),
    /// A master.
    Master,
}

/// A client that acts for an owner, under a ticket or with a bearer token.
#[derive(Clone, Debug)]
struct Client {
    owner: OwnerId,
    ticket: Option<Arc<Ticket>>,
    /// Whether it may send blocks.
    may_send: bool,
    /// Whether it may ask which blocks the owner holds: only with a credential for the whole account.
    may_ask: bool,
    /// Whether it may read blocks of the owner: only with a bearer token for the whole account.
    may_read: bool,
}

impl IngestRoutes {
    /// Returns the id of the node.
    pub(crate) fn node_id(&self) -> SignerId {
        self.0.node.id()
    }

    /// Serves `node`. Tokens are checked by `authenticator`, tickets and masters by `trust`.
    pub fn new(
        node: StorageNode,
        authenticator: Authenticator,
        trust: Arc<Trust>,
        config: IngestConfig,
    ) -> Self {
        let rates = Arc::new(RateLimits::new(config.rates));
        let rules = Rules { region: None, presigned_v2: false };
        let auth = AuthLayer::new(authenticator, rates, rules, config.tls_terminated);
        Self(Arc::new(Inner {
            node,
            auth,
            trust,
            tickets: Tickets::default(),
            uploads: Arc::new(Semaphore::new(config.uploads)),
            memory: Arc::new(Semaphore::new(MEMORY_KIB)),
            limits: config.limits,
            pinning: OnceLock::new(),
        }))
    }

    /// Serves the Pinning Service API, too, from now on.
    pub fn serve_pins(&self, pinning: PinningRoutes) {
        self.0.pinning.get_or_init(|| pinning);
    }

    /// Answers one request that comes straight from a connection.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Body>
    where
        Body: From<B>,
    {
        let started = Instant::now();
        let mut request = request.map(Body::from);
        let peer = request.extensions().get::<Peer>().copied();
        let waits_for_continue = request.headers().contains_key(http::header::EXPECT);
        let linger = request.extensions().get().cloned();
        let operation = Arc::new(Operation::default());
        request.extensions_mut().insert(Arc::clone(&operation));
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let pace = MinimumPace {
            idle: self.0.limits.body_idle_timeout,
            bytes_per_second: self.0.limits.body_bytes_per_second_min,
        };
        let (request, lent) = request_body::lend(request, pace);
        let mut response =
            if path == "/health" { self.health(&method) } else { self.answer(request).await };
        lent.settle(&mut response, waits_for_continue, linger.as_ref());
        let (request_id, received) = (String::new(), lent.received());
        let line = Line { request_id, peer, method, path, operation, received, started };
        request_log::follow(response, line)
    }

    /// Sets the rate limits of users and addresses.
    pub fn set_rates(&self, rates: Rates) {
        self.0.auth.set_rates(rates);
    }

    fn health(&self, method: &Method) -> Response<Body> {
        if ![Method::GET, Method::HEAD].contains(method) {
            return refused(Refused::method("GET, HEAD"));
        }
        match self.0.trust.silent() {
            None => json(StatusCode::OK, &serde_json::json!({"status": "ok"})),
            Some(id) => {
                let text = format!("no master with the key {id} has answered for too long");
                json(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({"status": text}))
            }
        }
    }

    /// Answers one request whose body is held to a minimum pace already.
    pub(crate) async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let name = |name: &str| {
            if let Some(operation) = request.extensions().get::<Arc<Operation>>() {
                operation.set(name.to_owned());
            }
        };
        if self.0.auth.check_address(request.extensions()).is_err() {
            return refused(Refused::busy("your address sends too many requests"));
        }
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        if let (Some(pinning), Some(path)) =
            (self.0.pinning.get(), path.strip_prefix(psa::ON_NODES))
        {
            return self.answer_about_pins(pinning, path, request).await;
        }
        let answered: Answer = match (&method, path.as_str()) {
            (&Method::PUT | &Method::POST, "/v0/block") => {
                name("IngestPutBlock");
                self.put_block(request).await
            }
            (&Method::GET | &Method::HEAD, "/v0/block") => {
                name("IngestGetBlock");
                self.get_block(request).await
            }
            (&Method::POST, "/v0/blocks") => {
                name("IngestPutBlocks");
                self.put_blocks(request).await
            }
            (&Method::POST, "/v0/have") => {
                name("IngestHave");
                self.have(request).await
            }
            (&Method::POST, "/v0/lease") => {
                name("IngestLease");
                self.lease(request).await
            }
            (&Method::POST, "/v0/pin") => {
                name("IngestPin");
                self.pin(request).await
            }
            (&Method::GET | &Method::HEAD, "/v0/info") => {
                name("IngestInfo");
                Ok(self.info())
            }
            (_, "/v0/block") => Err(Refused::method("GET, HEAD, POST, PUT")),
            (_, "/v0/blocks" | "/v0/have" | "/v0/lease" | "/v0/pin") => {
                Err(Refused::method("POST"))
            }
            (_, "/v0/info") => Err(Refused::method("GET, HEAD")),
            _ => Err(Refused::new(StatusCode::NOT_FOUND, "there is no such route")),
        };
        answered.unwrap_or_else(refused)
    }

    async fn answer_about_pins(
        &self,
        pinning: &PinningRoutes,
        path: &str,
        request: Request<Body>,
    ) -> Response<Body> {
        if let Some(id) = self.0.trust.silent() {
            // A revocation could be missing.
            let text = format!("no master with the key {id} has answered for too long");
            return psa::busy(&text);
        }
        let operation = request.extensions().get::<Arc<Operation>>().cloned().unwrap_or_default();
        pinning.serve(path, &self.0.auth, request, &operation).await
    }

    /// Waits for one of the uploads that run at a time, and for memory for a body.
    async fn turn(&self, bytes: usize) -> Result<Turn, Refused> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let take = async {
            let upload = Arc::clone(&self.0.uploads).acquire_owned().await.ok()?;
            let memory = Arc::clone(&self.0.memory).acquire_many_owned(kib).await.ok()?;
            Some(Turn { _upload: upload, memory })
        };
        let turn = timeout(TURN, take).await.ok().flatten();
        turn.ok_or_else(|| Refused::busy("the node has too many uploads"))
    }

    /// Returns the client that sends a request.
    fn client(&self, request: &Request<Body>) -> Result<Client, Refused> {
        if let Some(id) = self.0.trust.silent() {
            // A revocation could be missing.
            let text = format!("no master with the key {id} has answered for too long");
            return Err(Refused::busy(&text));
        }
        let token = bearer_of(request.headers()).ok().flatten();
        let Some(token) = token else {
            return Err(Refused::unauthorized("send a bearer token or a ticket"));
        };
        if token.starts_with(ticket::PREFIX) {
            return self.ticket(request, &token);
        }
        let shown = self.0.auth.bearer(request.extensions(), &token);
        let why = shown.as_ref().err().map(ToString::to_string);
        let is_unknown = matches!(
            shown,
            Err(AuthError::Service(_) | AuthError::Token(TokenError::KeysUnavailable))
        );
        match self.0.auth.decide(request.extensions(), "bearer", shown) {
            Ok(proof) => {
                let Identity { owner, grant, .. } = proof.identity;
                let reads_all = grant.allows(Verb::Read, Target::Account);
                let may_send = grant.can_write();
                Ok(Client {
                    owner,
                    ticket: None,
                    may_send,
                    may_ask: reads_all,
                    may_read: reads_all,
                })
            }
            Err(_) if is_unknown => Err(Refused::busy("the token cannot be checked now")),
            Err(_) => match why {
                Some(why) => Err(Refused::unauthorized(&why)),
                None => Err(Refused::busy("you send too many requests")),
            },
        }
    }

    fn ticket(&self, request: &Request<Body>, text: &str) -> Result<Client, Refused> {
        let forbidden = |text: &str| Refused::new(StatusCode::FORBIDDEN, text);
        if self.0.auth.check_private(request.extensions()).is_err() {
            return Err(Refused::unauthorized(
                "a ticket is accepted over TLS or from the same machine",
            ));
        }
        let (trust, node) = (&self.0.trust, &self.0.node);
        let ticket = Ticket::verify(text, |id| trust.key_of(id), node.id(), node.now())
            .map_err(|error| forbidden(&format!("the ticket is not accepted: {error}")))?;
        if self.0.auth.authenticator().revocations().refuses_ticket(&ticket) {
            return Err(forbidden("the credential that the ticket was given for was revoked"));
        }
        // A ticket names no user. All tickets of an owner share one rate.
        if self.0.auth.refuses_user(&format!("owner:{}", ticket.owner)) {
            return Err(Refused::busy("you send too many requests"));
        }
        let (owner, may_ask) = (ticket.owner, ticket.may_ask);
        let ticket = Some(Arc::new(ticket));
        if let Some(operation) = request.extensions().get::<Arc<Operation>>() {
            operation.asked_for(owner);
        }
        Ok(Client { owner, ticket, may_send: true, may_ask, may_read: false })
    }

    /// Returns the master that signed a request, if one did. Its body is not read for this.
    fn master(&self, request: &Request<Body>) -> Result<Option<peer::Sender>, Refused> {
        let Some(text) = request.headers().get(peer::HEADER) else { return Ok(None) };
        let (trust, node) = (&self.0.trust, &self.0.node);
        let (method, target) = (request.method().as_str(), target_of(request));
        let (line, text) = (peer::Line::of(method, &target), text.to_str().unwrap_or_default());
        line.verify(text, |id| trust.key_of(id), node.id(), node.now())
            .map(Some)
            .map_err(not_signed)
    }
}

fn not_signed(error: InvalidDocument) -> Refused {
    let text = format!("the signature of the request is not accepted: {error}");
    Refused::new(StatusCode::FORBIDDEN, &text)
}

/// Returns path and query of a request.
fn target_of(request: &Request<Body>) -> String {
    request.uri().path_and_query().map_or_else(String::new, ToString::to_string)
}

/// Returns the CID that the query names.
fn cid_of(request: &Request<Body>) -> Result<fula_core::Cid, Refused> {
    let bad = |text: &str| Refused::new(StatusCode::BAD_REQUEST, text);
    let text = query_value(request.uri(), "cid").ok_or_else(|| bad("name the block: ?cid=CID"))?;
    parse_cid(&text)
        .ok_or_else(|| bad("cid is a CIDv1 with the codec raw or dag-pb and the hash BLAKE3-256"))
}

/// Parses the CID of a block that a node keeps.
fn parse_cid(text: &str) -> Option<fula_core::Cid> {
    let cid: fula_core::Cid = text.parse().ok()?;
    (cid.codec() != fula_core::Codec::DagCbor).then_some(cid)
}
