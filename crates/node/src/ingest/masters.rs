//! The masters as a storage node sees them: revocations, and which blocks are needed.

use std::{
    collections::{BTreeMap, HashSet},
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
use reqwest::{Method, StatusCode};
use tokio::time::Instant;

use super::client::{Bounds, PeerClient, http};
use crate::config::PeerAddress;

/// Interval between two questions for revocations.
const LOOK: Duration = Duration::from_secs(5);

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
        Ok(Self { arbiters, here: key.id(), trust, authenticator })
    }

    /// Copies the revocations of the masters, for ever.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut was_well = true;
        loop {
            let mut failure = None;
            for (id, clients) in &self.arbiters {
                let asked = Instant::now();
                match self.look(clients).await {
                    Ok(()) => self.trust.note_heard(*id, asked),
                    Err(error) => failure = Some(error),
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

    async fn look(&self, clients: &[PeerClient]) -> Result<(), String> {
        let body = self.ask(clients, "/fula/ingest/revocations", Bytes::new(), REVOCATIONS).await?;
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
    ) -> Result<Bytes, String> {
        let reply = client.send(Method::POST, target, body, bounds).await?;
        if reply.status != StatusCode::OK {
            let text = String::from_utf8_lossy(&reply.body);
            let text: String = text.chars().take(200).collect();
            return Err(format!("it answered {}: {text}", reply.status));
        }
        let signature = reply.headers.get(peer::HEADER).and_then(|text| text.to_str().ok());
        let signature = signature.ok_or("its answer is not signed")?;
        let key = client.peer.key;
        let key_of = |id| (id == key.id()).then_some(key);
        let line = peer::Line::of("ANSWER", &reply.signature);
        let sender = line.verify(signature, key_of, self.here, system_clock()());
        sender.and_then(|sender| sender.sent(&reply.body)).map_err(|error| {
            format!("its answer is not signed with the key in FULA_MASTERS: {error}")
        })?;
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
