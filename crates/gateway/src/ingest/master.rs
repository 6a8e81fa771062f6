//! The master's side: tickets for clients, and what storage nodes ask masters.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use fula_core::Cid;
use fula_identity::{Grant, Identity};
use fula_ingest::{
    PublicKey, SigningKey, Ticket,
    node::ASKED_MAX,
    peer,
    ticket::{LIFE_MS, NODES_MAX},
};
use fula_service::{
    Service,
    auth::{Authenticator, CredentialCheck},
};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use s3s::Body;
use tokio::sync::Semaphore;

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

/// Largest number of bytes that may be sent to each node under one ticket.
const TICKET_BYTES: u64 = 64 << 30;

/// Largest number of questions that are answered at a time. A question costs a walk over all buckets.
const QUESTIONS: usize = 2;

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
    questions: Semaphore,
}

impl MasterIngest {
    /// Serves tickets and questions of `nodes`. `key` is that of the masters of the arbiter.
    pub fn new(
        service: Service,
        authenticator: Authenticator,
        key: Arc<SigningKey>,
        nodes: Vec<NodeAddress>,
        own: Option<IngestRoutes>,
    ) -> Self {
        let questions = Semaphore::new(QUESTIONS);
        Self(Arc::new(Inner { service, authenticator, key, nodes, own, questions }))
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
        let nodes: Vec<&NodeAddress> = self.0.nodes.iter().take(NODES_MAX).collect();
        let (credential, credential_issued, ends) = check.for_ticket();
        let issued = self.now_ms();
        let ends = ends.map_or(u64::MAX, |ends| ends.saturating_mul(1000));
        let ticket = Ticket {
            master: self.0.key.id(),
            owner: identity.owner,
            id: self.0.service.draw(),
            bytes_max: TICKET_BYTES,
            issued,
            expires: issued.saturating_add(LIFE_MS).min(ends),
            nodes: nodes.iter().map(|node| node.key.id()).collect(),
            credential,
            credential_issued,
        };
        let listed = nodes.iter().map(|node| {
            serde_json::json!({
                "name": node.name,
                "url": node.url,
                "node": node.key.id().to_string(),
                "key": node.key.to_string(),
            })
        });
        let answer = serde_json::json!({
            "ticket": ticket.sign(&self.0.key),
            "maxBytes": ticket.bytes_max,
            "expires": ticket.expires,
            "nodes": listed.collect::<serde_json::Value>(),
        });
        let mut response = json(StatusCode::OK, &answer);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    /// Answers a question of a storage node, and signs the answer.
    async fn answer_node(&self, request: Request<Body>) -> Answer {
        if request.method() != Method::POST {
            return Err(Refused::method("POST"));
        }
        let forbidden = |text: &str| Refused::new(StatusCode::FORBIDDEN, text);
        let signature = request.headers().get(peer::HEADER).and_then(|text| text.to_str().ok());
        let signature =
            signature.ok_or_else(|| forbidden("only storage nodes ask here"))?.to_owned();
        let turn = self.0.questions.try_acquire();
        let _turn = turn.map_err(|_| Refused::busy("other nodes are asking"))?;
        let path = request.uri().path().to_owned();
        let body = read(request.into_body()).await?;
        let signed = peer::Signed::of("POST", &path, &body);
        let key_of = |id| {
            let keys = self.0.nodes.iter().map(|node| node.key);
            keys.into_iter().find(|key| key.id() == id)
        };
        let asked = signed.verify(&signature, key_of, self.0.key.id(), self.now_ms());
        let node =
            asked.map_err(|error| forbidden(&format!("the signature is not accepted: {error}")))?;
        let answer = match path.strip_prefix(ASKED) {
            Some("needed") => self.needed(&body).await?,
            Some("revocations") => self.revocations()?,
            _ => return Err(Refused::new(StatusCode::NOT_FOUND, "there is no such route")),
        };
        let signed = peer::Signed::of("ANSWER", &signature, &answer);
        let signature = signed.sign(&self.0.key, node, self.now_ms());
        let mut response = Response::new(Body::from(answer));
        if let Ok(signature) = HeaderValue::from_str(&signature) {
            response.headers_mut().insert(peer::HEADER, signature);
        }
        Ok(response)
    }

    /// Answers which of the blocks in `body` are needed: a byte for each, 1 or 0.
    async fn needed(&self, body: &Bytes) -> Result<Bytes, Refused> {
        let bad = || Refused::new(StatusCode::BAD_REQUEST, "the body is a list of binary CIDs");
        if !body.len().is_multiple_of(Cid::BYTES) {
            return Err(bad());
        }
        let cids: Result<Vec<Cid>, _> = body.chunks(Cid::BYTES).map(Cid::from_bytes).collect();
        let cids = cids.map_err(|_| bad())?;
        let asked: HashSet<Cid> = cids.iter().copied().collect();
        match self.0.service.needed(asked).await {
            Ok(needed) => Ok(cids.iter().map(|cid| u8::from(needed.contains(cid))).collect()),
            Err(error) => {
                let why = fula_service::error::chain(&error);
                tracing::warn!(why, "cannot tell a storage node which blocks are needed");
                Err(Refused::busy("the buckets cannot be read"))
            }
        }
    }

    /// Answers all revocations that are known.
    fn revocations(&self) -> Result<Bytes, Refused> {
        let all = self.0.authenticator.revocations().all();
        serde_json::to_vec(&all)
            .map(Bytes::from)
            .map_err(|_| Refused::busy("the revocations cannot be written"))
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
