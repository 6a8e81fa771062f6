//! Storage nodes of a gateway: whether it has any, tickets for them, and which of them answer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;
use parking_lot::Mutex;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    client::Client,
    credentials::Credentials,
    error::{Error, Result},
    request::Request,
    retry::RetryPolicy,
};

/// Time for which the answer to the probe counts.
const PROBED: Duration = Duration::from_mins(10);

/// Time after which a node that failed is asked again.
const CIRCUIT: Duration = Duration::from_secs(30);

/// Time before its end at which a ticket is not used any more.
const TICKET_REST: Duration = Duration::from_mins(5);

/// Longest life of a ticket.
const TICKET_LIFE: Duration = Duration::from_hours(1);

/// Longest time for a connection to a node.
const CONNECT: Duration = Duration::from_secs(2);

/// Longest time in which no byte of a block moves.
const IDLE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Capabilities {
    #[serde(default)]
    remote_cid_put: bool,
    #[serde(default)]
    ingest: bool,
}

#[derive(Deserialize)]
struct Answered {
    nodes: Vec<Offered>,
    /// The gateway itself, if it takes blocks.
    own: Option<Own>,
}

#[derive(Deserialize)]
struct Own {
    node: String,
    ticket: String,
}

#[derive(Deserialize)]
struct Offered {
    url: String,
    node: String,
    ticket: String,
}

/// A node, with a ticket for it.
#[derive(Debug)]
pub(super) struct Node {
    /// Id of its key.
    id: String,
    pub(super) client: Client,
    down_until: Mutex<Option<Instant>>,
}

impl Node {
    /// Returns whether the node is thought to answer.
    pub(super) fn is_up(&self) -> bool {
        self.down_until.lock().is_none_or(|until| Instant::now() >= until)
    }

    /// Notes that the node failed. It is left alone for half a minute.
    pub(super) fn failed(&self) {
        *self.down_until.lock() = Some(Instant::now() + CIRCUIT);
    }
}

/// The nodes that a ticket was got for.
#[derive(Debug)]
pub(super) struct Nodes {
    offered: Vec<Arc<Node>>,
    /// The gateway itself.
    own: Option<Arc<Node>>,
    until: Instant,
}

impl Nodes {
    /// Returns the nodes in the order in which they are asked about an object: by rendezvous, so that all nodes
    /// get their share, and the leaves of one object go to one node. The gateway itself is the last one.
    pub(super) fn order(&self, object: &str) -> Vec<Arc<Node>> {
        let mut nodes = self.offered.clone();
        nodes.sort_by_cached_key(|node| Sha256::digest(format!("{}\n{object}", node.id)));
        nodes.extend(self.own.clone());
        nodes
    }
}

/// The storage nodes of a gateway. Clones share what is known of them.
#[derive(Clone, Debug)]
pub struct StorageNodes(Arc<Known>);

#[derive(Debug)]
struct Known {
    master: Client,
    probed: Mutex<Option<(Instant, bool)>>,
    nodes: tokio::sync::Mutex<Option<Arc<Nodes>>>,
}

impl Client {
    /// Returns the storage nodes of the gateway, for [`crate::PutOptions::storage_nodes`]. Nothing is sent.
    pub fn storage_nodes(&self) -> StorageNodes {
        let (master, probed, nodes) =
            (self.clone(), Mutex::default(), tokio::sync::Mutex::default());
        StorageNodes(Arc::new(Known { master, probed, nodes }))
    }
}

impl StorageNodes {
    /// Returns whether the gateway has storage nodes and takes mappings. It is asked once in ten minutes, and any
    /// failure means no. If not, writes go to the gateway itself.
    pub async fn are_offered(&self) -> bool {
        let known = &self.0;
        if let Some((at, answer)) = *known.probed.lock()
            && at.elapsed() < PROBED
        {
            return answer;
        }
        let request = Request::of_path(Method::GET, "/fula/capabilities");
        let answer = match known.master.once(&request).await {
            Ok(answer) => serde_json::from_slice::<Capabilities>(&answer.body)
                .is_ok_and(|found| found.remote_cid_put && found.ingest),
            Err(_) => false,
        };
        *known.probed.lock() = Some((Instant::now(), answer));
        answer
    }

    /// Returns the nodes, with tickets. With `fresh`, new tickets are asked for.
    ///
    /// # Errors
    /// As for every request.
    pub(super) async fn get(&self, fresh: bool) -> Result<Arc<Nodes>> {
        let mut held = self.0.nodes.lock().await;
        if let Some(nodes) = held.as_ref()
            && !fresh
            && Instant::now() < nodes.until
        {
            return Ok(Arc::clone(nodes));
        }
        let request = Request::of_path(Method::POST, "/fula/ingest-ticket");
        let answer = self.0.master.send(&request).await?;
        let answered: Answered = serde_json::from_slice(&answer.body).map_err(|_| {
            Error::Unsupported("the answer is no ticket for storage nodes".to_owned())
        })?;
        let nodes = answered.nodes.into_iter();
        let offered = nodes.filter_map(|offered| self.node(offered, held.as_deref())).collect();
        let url = self.0.master.endpoint().to_string();
        let own = answered.own.map(|Own { node, ticket }| Offered { url, node, ticket });
        let own = own.and_then(|offered| self.node(offered, held.as_deref()));
        let nodes = Arc::new(Nodes {
            offered,
            own,
            until: Instant::now() + TICKET_LIFE.saturating_sub(TICKET_REST),
        });
        *held = Some(Arc::clone(&nodes));
        Ok(nodes)
    }

    /// Returns a node; `None` if its URL cannot be used, because tickets are never sent in the clear.
    fn node(&self, offered: Offered, before: Option<&Nodes>) -> Option<Arc<Node>> {
        let retry = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
        let client = Client::builder()
            .endpoint(offered.url)
            .credentials(Credentials::bearer(offered.ticket))
            .ca_bundle(self.0.master.ca_bundle())
            .connect_timeout(CONNECT)
            .idle_timeout(IDLE.min(self.0.master.idle_timeout()))
            .retry(retry)
            .build()
            .ok()?;
        let known = before.and_then(|nodes| {
            nodes.offered.iter().chain(&nodes.own).find(|node| node.id == offered.node)
        });
        let down_until = known.and_then(|node| *node.down_until.lock());
        Some(Arc::new(Node { id: offered.node, client, down_until: Mutex::new(down_until) }))
    }
}
