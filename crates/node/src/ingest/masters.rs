//! The masters as a storage node sees them: revocations, and which blocks are needed.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use fula_core::{Cid, block::BLOCK_BYTES_MAX};
use fula_gateway::ingest::Trust;
use fula_ingest::{SignerId, SigningKey, node::Masters, peer};
use fula_service::{
    Service,
    auth::{Authenticator, Revocation},
    error::chain,
};
use fula_stores::local::system_clock;
use parking_lot::Mutex;
use reqwest::{Method, StatusCode};
use tokio::time::Instant;

use super::client::{Bounds, PeerClient, http};
use crate::config::PeerAddress;

/// Interval between two questions for revocations.
const LOOK: Duration = Duration::from_secs(5);

/// Route of the question for revocations.
const REVOKED: &str = "/fula/ingest/revocations";

/// Limits of a question for revocations.
const REVOCATIONS: Bounds = Bounds { patience: Duration::from_secs(10), bytes_max: 16 << 20 };

/// Limits of a question which blocks are needed. The master walks over all its buckets.
const NEEDED: Bounds = Bounds { patience: Duration::from_mins(30), bytes_max: 1 << 20 };

/// Limits of a question whether a block is public.
const PUBLIC: Bounds = Bounds { patience: Duration::from_secs(5), bytes_max: 1 + BLOCK_BYTES_MAX };

/// The masters of a storage node, by the key that those of one arbiter share.
#[derive(Debug)]
pub(crate) struct MasterLinks {
    arbiters: BTreeMap<SignerId, Vec<PeerClient>>,
    here: SignerId,
    trust: Arc<Trust>,
    authenticator: Authenticator,
    /// Held while revocations are asked for: a master answers one such question of a node at a time.
    asking: tokio::sync::Mutex<()>,
    /// Arbiters of which no master answered the last question for revocations.
    silent: Mutex<BTreeSet<SignerId>>,
}

/// A question that a master did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// There was no answer.
    #[error("{0}")]
    Silent(String),
    /// The answer was a refusal.
    #[error("it answered {0}: {1}")]
    Refused(StatusCode, String),
    /// The answer does not count, because it is not signed as it should be.
    #[error("its answer is not signed with the key in FULA_MASTERS: {0}")]
    Untrusted(String),
}

/// What a master said to this node when it was asked.
#[derive(Debug)]
pub(crate) struct Said {
    /// Name of the master in `FULA_MASTERS`.
    pub(crate) name: String,
    /// The key that the masters of its arbiter share.
    pub(crate) arbiter: SignerId,
    pub(crate) answer: Result<(), Unanswered>,
}

impl MasterLinks {
    /// Returns the links to `masters`. Requests are signed with `key`, that of the node.
    ///
    /// # Errors
    /// The reason why there is no HTTP client.
    pub(crate) fn new(
        masters: &[PeerAddress],
        key: &Arc<SigningKey>,
        trust: Arc<Trust>,
        authenticator: Authenticator,
    ) -> Result<Self, String> {
        let http = http()?;
        let mut arbiters: BTreeMap<SignerId, Vec<PeerClient>> = BTreeMap::new();
        for master in masters {
            let client = PeerClient::new(http.clone(), Arc::clone(key), master.clone());
            arbiters.entry(master.id()).or_default().push(client);
        }
        let (asking, silent) = (tokio::sync::Mutex::default(), Mutex::default());
        Ok(Self { arbiters, here: key.id(), trust, authenticator, asking, silent })
    }

    /// Copies the revocations of the masters, for ever.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut was_well = true;
        loop {
            let mut failure = None;
            for (id, clients) in &self.arbiters {
                let asked = Instant::now();
                match self.look(clients).await {
                    Ok(()) => {
                        self.trust.note_heard(*id, asked);
                        self.silent.lock().remove(id);
                    }
                    Err(error) => {
                        self.silent.lock().insert(*id);
                        failure = Some(error);
                    }
                }
            }
            if let Some(error) = &failure
                && was_well
            {
                tracing::warn!(error, "revocations cannot be read from the masters; trying again");
            }
            was_well = failure.is_none();
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Returns the arbiters of which no master answered the last question for revocations.
    pub(crate) fn silent(&self) -> Vec<SignerId> {
        self.silent.lock().iter().copied().collect()
    }

    /// Asks each master for the revocations, as this node does all the time, and returns what each said.
    pub(crate) async fn ask_each(&self) -> Vec<Said> {
        let _asking = self.asking.lock().await;
        let clients = self.arbiters.iter();
        let clients =
            clients.flat_map(|(arbiter, all)| all.iter().map(|client| (*arbiter, client)));
        let asked = clients.map(async |(arbiter, client)| {
            let answer = self.ask_one(client, REVOKED, Bytes::new(), REVOCATIONS).await;
            Said { name: client.peer.name.clone(), arbiter, answer: answer.map(drop) }
        });
        futures::future::join_all(asked).await
    }

    async fn look(&self, clients: &[PeerClient]) -> Result<(), String> {
        let _asking = self.asking.lock().await;
        let body = self.ask(clients, REVOKED, Bytes::new(), REVOCATIONS).await?;
        let theirs: Vec<Revocation> =
            serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        let known: HashSet<String> =
            self.authenticator.revocations().all().iter().map(name_of).collect();
        for revocation in theirs {
            if !known.contains(&name_of(&revocation)) {
                let Revocation { revoked, at } = revocation;
                let added = self.authenticator.revocations().revoke(revoked, at).await;
                added.map_err(|error| chain(&error))?;
            }
        }
        Ok(())
    }

    /// Asks whether a block is public. Returns its bytes if it is an inner node of a file, and nothing for a leaf.
    /// `None` if it is not public.
    ///
    /// # Errors
    /// The reason why no master of an arbiter answered.
    pub(crate) async fn public(&self, cid: &Cid) -> Result<Option<Bytes>, String> {
        let body = Bytes::copy_from_slice(&cid.to_bytes());
        let mut failure = None;
        for clients in self.arbiters.values() {
            match self.ask(clients, "/fula/ingest/public", body.clone(), PUBLIC).await {
                Ok(mut answer) if !answer.is_empty() => return Ok(Some(answer.split_off(1))),
                Ok(_) => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// Asks the masters of one arbiter, one after another. Returns the first answer that they signed.
    async fn ask(
        &self,
        clients: &[PeerClient],
        target: &str,
        body: Bytes,
        bounds: Bounds,
    ) -> Result<Bytes, String> {
        let mut failure = "there is no master".to_owned();
        for client in clients {
            match self.ask_one(client, target, body.clone(), bounds).await {
                Ok(answer) => return Ok(answer),
                Err(error) => failure = format!("master {}: {error}", client.peer.name),
            }
        }
        Err(failure)
    }

    async fn ask_one(
        &self,
        client: &PeerClient,
        target: &str,
        body: Bytes,
        bounds: Bounds,
    ) -> Result<Bytes, Unanswered> {
        let sent = client.send(Method::POST, target, body, bounds).await;
        let reply = sent.map_err(Unanswered::Silent)?;
        if reply.status != StatusCode::OK {
            let text = String::from_utf8_lossy(&reply.body);
            return Err(Unanswered::Refused(reply.status, text.chars().take(300).collect()));
        }
        let untrusted = |why: &dyn std::fmt::Display| Unanswered::Untrusted(why.to_string());
        let signature = reply.headers.get(peer::HEADER).and_then(|text| text.to_str().ok());
        let signature = signature.ok_or_else(|| untrusted(&"it has no signature"))?;
        let key = client.peer.key;
        let key_of = |id| (id == key.id()).then_some(key);
        let line = peer::Line::of("ANSWER", &reply.signature);
        let sender = line.verify(signature, key_of, self.here, system_clock()());
        sender.and_then(|sender| sender.sent(&reply.body)).map_err(|error| untrusted(&error))?;
        Ok(reply.body)
    }
}

fn name_of(revocation: &Revocation) -> String {
    serde_json::to_string(revocation).unwrap_or_default()
}

#[async_trait]
impl Masters for MasterLinks {
    async fn needed(&self, cids: &[Cid]) -> Result<HashSet<Cid>, String> {
        let mut body = Vec::with_capacity(cids.len() * Cid::BYTES);
        for cid in cids {
            body.extend(cid.to_bytes());
        }
        let (body, mut needed) = (Bytes::from(body), HashSet::new());
        for clients in self.arbiters.values() {
            let answer = self.ask(clients, "/fula/ingest/needed", body.clone(), NEEDED).await?;
            if answer.len() != cids.len() {
                return Err("a master answered about another number of blocks".to_owned());
            }
            let found = cids.iter().zip(&answer).filter(|(_, is_needed)| **is_needed != 0);
            needed.extend(found.map(|(cid, _)| *cid));
        }
        Ok(needed)
    }
}

/// The master that a process is itself, for the storage node in its data directory.
#[derive(Debug)]
pub(crate) struct OwnMaster {
    pub(crate) service: Service,
    pub(crate) node: SignerId,
}

#[async_trait]
impl Masters for OwnMaster {
    async fn needed(&self, cids: &[Cid]) -> Result<HashSet<Cid>, String> {
        let asked = cids.iter().copied().collect();
        self.service.needed(self.node, asked).await.map_err(|error| chain(&error))
    }
}
