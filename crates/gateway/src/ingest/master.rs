//! The master's side: tickets for clients, and what storage nodes ask masters.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use fula_core::{Cid, Codec};
use fula_identity::{Grant, Identity};
use fula_ingest::{
    InvalidDocument, PublicKey, SignerId, SigningKey, Ticket, node::ASKED_MAX, peer,
    ticket::LIFE_MS,
};
use fula_service::{
    PublicReads, Service,
    auth::{
        Authenticator, CredentialCheck,
        access::{Target, Verb},
    },
};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use parking_lot::Mutex;
use s3s::Body;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    IngestRoutes, Routed,
    answer::{Answer, Refused, json, refused},
    body,
};

use crate::{auth::AuthLayer, error::respond, request::Operation};

/// Prefix of the routes that storage nodes ask.
pub(super) const ASKED: &str = "/fula/ingest/";

/// Route of tickets.
pub(super) const TICKET: &str = "/fula/ingest-ticket";

/// Largest number of bytes that may be sent under one ticket.
const TICKET_BYTES: u64 = 64 << 30;

/// Largest number of walks over all buckets at a time. Nodes wait for one in the order in which they asked, and
/// each node has at most one question of a kind. So no node shuts others out.
const WALKS: usize = 2;

/// Largest number of questions whether a block is public that are answered at a time. Each reads one record.
const PUBLIC_TURNS: usize = 32;

/// Longest time in which the body of a question arrives.
const BODY: Duration = Duration::from_secs(30);

/// A storage node that clients may send blocks to.
#[derive(Clone, Debug)]
pub struct NodeAddress {
    /// Its name, from the settings.
    pub name: String,
    /// Its URL, without a path.
    pub url: String,
    /// Its key.
    pub key: PublicKey,
}

/// What a master does for storage nodes and their clients. Clones share one state.
#[derive(Clone, Debug)]
pub struct MasterIngest(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: Service,
    authenticator: Authenticator,
    key: Arc<SigningKey>,
    nodes: Vec<NodeAddress>,
    /// The routes of a storage node that this master serves too.
    own: Option<IngestRoutes>,
    walks: Semaphore,
    /// The public objects, if they are served by CID.
    public: Option<PublicReads>,
    /// Questions whether a block is public that may be answered at a time.
    public_turns: Semaphore,
    /// Questions that are being answered: who asks, and what.
    asking: Mutex<HashSet<(SignerId, Question)>>,
}

/// What storage nodes ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Question {
    /// Which blocks are needed.
    Needed,
    /// What was revoked.
    Revocations,
    /// Whether a block is public.
    Public,
}

/// A question that is being answered.
struct Asking<'a>(&'a Inner, (SignerId, Question));

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.asking.lock().remove(&self.1);
    }
}

impl MasterIngest {
    /// Serves tickets and questions of `nodes`. `key` is that of the masters of the arbiter.
    pub fn new(
        service: Service,
        authenticator: Authenticator,
        key: Arc<SigningKey>,
        nodes: Vec<NodeAddress>,
        own: Option<IngestRoutes>,
        public: Option<PublicReads>,
    ) -> Self {
        Self(Arc::new(Inner {
            service,
            authenticator,
            key,
            nodes,
            own,
            public,
            walks: Semaphore::new(WALKS),
            public_turns: Semaphore::new(PUBLIC_TURNS),
            asking: Mutex::default(),
        }))
    }

    /// Returns the routes of a storage node that this master serves too.
    pub(crate) fn own(&self) -> Option<&IngestRoutes> {
        self.0.own.as_ref()
    }

    /// Returns what a master says about ingest in its capabilities: whether mappings are accepted, and whether
    /// there is a node to send blocks to.
    pub(crate) fn capabilities(&self) -> (bool, bool) {
        (self.0.service.accepts_mappings(), !self.0.nodes.is_empty() || self.0.own.is_some())
    }

    /// Returns the key by which storage nodes know the masters of this arbiter.
    pub(crate) fn key(&self) -> PublicKey {
        self.0.key.public()
    }

    fn now_ms(&self) -> u64 {
        self.0.authenticator.now().saturating_mul(1000)
    }

    /// Answers a request of a storage node or of a client of one.
    pub(crate) async fn serve(
        &self,
        routed: Routed<'_>,
        auth: &AuthLayer,
        request: Request<Body>,
        operation: &Operation,
    ) -> Response<Body> {
        match routed {
            Routed::Own(routes) => routes.answer(request).await,
            Routed::Question => {
                operation.set("IngestQuestion".to_owned());
                self.answer_node(request).await.unwrap_or_else(refused)
            }
            Routed::Ticket => {
                operation.set("IngestTicket".to_owned());
                self.ticket(auth, request).await
            }
        }
    }

    /// Gives a ticket to a client.
    async fn ticket(&self, auth: &AuthLayer, request: Request<Body>) -> Response<Body> {
        if request.method() != Method::POST {
            return refused(Refused::method("POST"));
        }
        let (mut parts, _) = request.into_parts();
        match auth.authenticate(&mut parts).await {
            Ok(proof) => {
                self.ticket_for(&proof.identity, &proof.credential_check).unwrap_or_else(refused)
            }
            Err(error) => respond(error),
        }
    }

    fn ticket_for(&self, identity: &Identity, check: &CredentialCheck) -> Answer {
        if !Grant::can_write(&identity.grant) {
            let text = "the scope of the token does not allow to write";
            return Err(Refused::new(StatusCode::FORBIDDEN, text));
        }
        if self.0.nodes.is_empty() {
            let text = "there are no storage nodes: let the operator set FULA_STORAGE_NODES";
            return Err(Refused::new(StatusCode::NOT_FOUND, text));
        }
        let (credential, credential_issued, ends) = check.for_ticket();
        let issued = self.now_ms();
        let ends = ends.map_or(u64::MAX, |ends| ends.saturating_mul(1000));
        let ticket = |node: SignerId| Ticket {
            master: self.0.key.id(),
            owner: identity.owner,
            id: self.0.service.draw(),
            bytes_max: TICKET_BYTES,
            issued,
            expires: issued.saturating_add(LIFE_MS).min(ends),
            node,
            credential,
            credential_issued,
            may_ask: identity.grant.allows(Verb::Read, Target::Account),
        };
        // Each node gets a ticket of its own, which it cannot use at another one.
        let listed = self.0.nodes.iter().map(|node| {
            serde_json::json!({
                "name": node.name,
                "url": node.url,
                "node": node.key.id().to_string(),
                "key": node.key.to_string(),
                "ticket": ticket(node.key.id()).sign(&self.0.key),
            })
        });
        // Where no node answers, blocks may go to this gateway.
        let own = self.0.own.as_ref().map(|own| {
            let node = own.node_id();
            serde_json::json!({"node": node.to_string(), "ticket": ticket(node).sign(&self.0.key)})
        });
        let listed: Vec<serde_json::Value> = listed.collect();
        let answer = serde_json::json!({
            "ticket": listed[0]["ticket"],
            "maxBytes": TICKET_BYTES,
            "expires": issued.saturating_add(LIFE_MS).min(ends),
            "nodes": listed,
            "own": own,
        });
        let mut response = json(StatusCode::OK, &answer);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    /// Answers a question of a storage node, and signs the answer. Nothing is read of the body before the
    /// signature was verified.
    async fn answer_node(&self, request: Request<Body>) -> Answer {
        if request.method() != Method::POST {
            return Err(Refused::method("POST"));
        }
        let forbidden = |text: &str| Refused::new(StatusCode::FORBIDDEN, text);
        let signature = request.headers().get(peer::HEADER).and_then(|text| text.to_str().ok());
        let signature =
            signature.ok_or_else(|| forbidden("only storage nodes ask here"))?.to_owned();
        let path = request.uri().path().to_owned();
        let key_of = |id| {
            let keys = self.0.nodes.iter().map(|node| node.key);
            keys.into_iter().find(|key| key.id() == id)
        };
        let refused = |error| forbidden(&why_refused(&error));
        let (here, now) = (self.0.key.id(), self.now_ms());
        let sender = peer::Line::of("POST", &path).verify(&signature, key_of, here, now);
        let sender = sender.map_err(refused)?;
        let question = match path.strip_prefix(ASKED) {
            Some("needed") => Question::Needed,
            Some("revocations") => Question::Revocations,
            Some("public") => Question::Public,
            _ => return Err(Refused::new(StatusCode::NOT_FOUND, "there is no such route")),
        };
        // Each read of a public block is a question of its own.
        let _asking = match question {
            Question::Public => None,
            _ => Some(self.asking(sender.id, question)?),
        };
        let body = timeout(BODY, read(request.into_body())).await;
        let body = body.map_err(|_| body::cut_off())??;
        let node = sender.sent(&body).map_err(refused)?;
        let answer = match question {
            Question::Needed => self.needed(node, &body).await?,
            Question::Revocations => self.revocations()?,
            Question::Public => self.public(&body).await?,
        };
        let line = peer::Line::of("ANSWER", &signature);
        let signature = line.sign(&answer, &self.0.key, node, self.now_ms());
        let mut response = Response::new(Body::from(answer));
        if let Ok(signature) = HeaderValue::from_str(&signature) {
            response.headers_mut().insert(peer::HEADER, signature);
        }
        Ok(response)
    }

    /// Notes that a node asks. It has one question of a kind at a time.
    fn asking(&self, node: SignerId, question: Question) -> Result<Asking<'_>, Refused> {
        let key = (node, question);
        if self.0.asking.lock().insert(key) {
            Ok(Asking(&self.0, key))
        } else {
            Err(Refused::busy("an earlier question of this node is being answered"))
        }
    }

    /// Answers which of the blocks in `body` are needed on a node: a byte for each, 1 or 0.
    async fn needed(&self, node: SignerId, body: &Bytes) -> Result<Bytes, Refused> {
        let bad = || Refused::new(StatusCode::BAD_REQUEST, "the body is a list of binary CIDs");
        if !body.len().is_multiple_of(Cid::BYTES) {
            return Err(bad());
        }
        let cids: Result<Vec<Cid>, _> = body.chunks(Cid::BYTES).map(Cid::from_bytes).collect();
        let cids = cids.map_err(|_| bad())?;
        let asked: HashSet<Cid> = cids.iter().copied().collect();
        let walk = self.0.walks.acquire().await;
        let _walk = walk.map_err(|_| Refused::busy("the master is stopping"))?;
        match self.0.service.needed(node, asked).await {
            Ok(needed) => Ok(cids.iter().map(|cid| u8::from(needed.contains(cid))).collect()),
            Err(error) => {
                let why = fula_service::error::chain(&error);
                tracing::warn!(why, "cannot tell a storage node which blocks are needed");
                Err(Refused::busy("the buckets cannot be read"))
            }
        }
    }

    /// Answers whether a block is public: nothing if it is not, else a byte, and the block if it is an inner node.
    async fn public(&self, body: &Bytes) -> Result<Bytes, Refused> {
        let off = "public objects are not served by CID here: let the operator set FULA_CID_LISTEN";
        let public = self.0.public.as_ref();
        let public = public.ok_or_else(|| Refused::new(StatusCode::NOT_FOUND, off))?;
        let cid = Cid::from_bytes(body)
            .map_err(|_| Refused::new(StatusCode::BAD_REQUEST, "the body is a binary CID"))?;
        let turn = self.0.public_turns.acquire().await;
        let _turn = turn.map_err(|_| Refused::busy("the master is stopping"))?;
        let busy = |error: &dyn std::error::Error| {
            tracing::warn!(%error, "cannot tell a storage node whether a block is public");
            Refused::busy("it cannot be said whether the block is public")
        };
        let Some(object) = public.find(&cid).await.map_err(|error| busy(&error))? else {
            return Ok(Bytes::new());
        };
        let mut answer = vec![1];
        if cid.codec() == Codec::DagPb {
            answer.extend(object.get(&cid).await.map_err(|error| busy(&error))?.bytes());
        }
        Ok(answer.into())
    }

    /// Answers all revocations that are known.
    fn revocations(&self) -> Result<Bytes, Refused> {
        let all = self.0.authenticator.revocations().all();
        serde_json::to_vec(&all)
            .map(Bytes::from)
            .map_err(|_| Refused::busy("the revocations cannot be written"))
    }
}

/// Returns why the signature of a storage node is not accepted, and what its operator can do.
fn why_refused(error: &InvalidDocument) -> String {
    match error {
        InvalidDocument::NotForHere => {
            "FULA_STORAGE_NODES of this master names no node with this key, or \
             FULA_MASTERS of the node names another key than that of this master"
                .to_owned()
        }
        InvalidDocument::Time => {
            "the clocks of the node and of this master differ: correct the one that is wrong"
                .to_owned()
        }
        _ => format!("the signature is not accepted: {error}"),
    }
}

/// Reads the body of a question.
async fn read(mut from: Body) -> Result<Bytes, Refused> {
    let mut bytes = bytes::BytesMut::new();
    while let Some(more) = body::next(&mut from).await? {
        if bytes.len() + more.len() > ASKED_MAX * Cid::BYTES {
            return Err(Refused::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too many blocks in one question",
            ));
        }
        bytes.extend_from_slice(&more);
    }
    Ok(bytes.freeze())
}
