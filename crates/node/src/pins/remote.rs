//! Pins on an ipfs-cluster and on pinning services. Both fetch the blocks from a kubo that has them.
//!
//! A root is asked for first, and the older ones are removed once it is pinned. What was asked for is recorded
//! before, so that nothing is forgotten when this process ends.

use std::time::Duration;

use fula_core::Cid;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::http::{Client, PATIENCE, Reply};

/// Longest time for which a target is asked whether it has pinned a root. Later it is asked again from the
/// beginning.
const WAIT: Duration = Duration::from_secs(30);

/// Time between two questions. It doubles up to [`ASK_MAX`].
const ASK_FIRST: Duration = Duration::from_millis(200);
const ASK_MAX: Duration = Duration::from_secs(3);

/// How far a target is with a root.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Pinned,
    /// It is still at it.
    Working(String),
    Failed(String),
    /// It knows nothing of it.
    Unknown,
}

/// An ipfs-cluster.
#[derive(Clone, Debug)]
pub(super) struct Cluster(pub(super) Client);

impl Cluster {
    /// Makes the cluster pin a root.
    ///
    /// # Errors
    /// What the cluster says, or why it says nothing.
    pub(super) async fn pin(&self, root: Cid, name: &str) -> Result<(), String> {
        match self.stage(root).await? {
            Stage::Pinned => return Ok(()),
            Stage::Failed(_) => {
                let path = format!("pins/{root}/recover");
                self.ask(Method::POST, &path, &[]).await?.success()?;
            }
            Stage::Working(_) => {}
            Stage::Unknown => {
                let reply =
                    self.ask(Method::POST, &format!("pins/{root}"), &[("name", name)]).await?;
                reply.success()?;
            }
        }
        let mut wait = Wait::begin();
        while !wait.is_over(self.stage(root).await?).await? {}
        Ok(())
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Reply, String> {
        self.0.send(self.0.request(method, path, query), PATIENCE).await
    }

    /// Removes a pin. One that is not there is as good as removed.
    ///
    /// # Errors
    /// What the cluster says, or why it says nothing.
    pub(super) async fn unpin(&self, root: &str) -> Result<(), String> {
        let reply = self.ask(Method::DELETE, &format!("pins/{root}"), &[]).await?;
        if reply.status == StatusCode::NOT_FOUND { Ok(()) } else { reply.success().map(drop) }
    }

    /// Returns whether a root is pinned on every peer that has to have it.
    ///
    /// # Errors
    /// What the cluster says, or why it says nothing.
    pub(super) async fn has_pin(&self, root: Cid) -> Result<bool, String> {
        Ok(self.stage(root).await? == Stage::Pinned)
    }

    async fn stage(&self, root: Cid) -> Result<Stage, String> {
        let reply = self.ask(Method::GET, &format!("pins/{root}"), &[]).await?;
        if reply.status == StatusCode::NOT_FOUND {
            return Ok(Stage::Unknown);
        }
        Ok(stage_of_peers(&reply.success()?.json()["peer_map"]))
    }
}

/// Returns how far the peers of a cluster are together.
fn stage_of_peers(peers: &Value) -> Stage {
    let peers: Vec<&Value> =
        peers.as_object().into_iter().flat_map(|peers| peers.values()).collect();
    let status = |peer: &Value| peer["status"].as_str().unwrap_or_default().to_owned();
    let bad = ["pin_error", "error", "cluster_error", "unexpectedly_unpinned"];
    let failed = peers.iter().find(|peer| bad.contains(&status(peer).as_str()));
    if let Some(peer) = failed {
        let error = peer["error"].as_str().unwrap_or_default();
        return Stage::Failed(format!("{}: {error}", status(peer)));
    }
    let mut states: Vec<String> = peers.iter().map(|peer| status(peer)).collect();
    states.retain(|status| status != "remote");
    match states.iter().find(|status| *status != "pinned") {
        None if states.is_empty() => Stage::Unknown,
        None => Stage::Pinned,
        Some(status) if status == "unpinned" || status == "undefined" => Stage::Unknown,
        Some(status) => Stage::Working(status.clone()),
    }
}

/// A service that speaks the IPFS Pinning Service API.
#[derive(Clone, Debug)]
pub(super) struct PinningService(pub(super) Client);

impl PinningService {
    /// Makes the service pin a root, which it fetches from `origins`. Returns the id of the request, and whether
    /// the root is pinned.
    ///
    /// # Errors
    /// What the service says, or why it says nothing: no request was made.
    pub(super) async fn pin(
        &self,
        root: Cid,
        name: &str,
        origins: &[String],
    ) -> Result<(String, Result<(), String>), String> {
        let id = match self.find(root).await? {
            Some(id) => id,
            None => self.begin(root, name, origins).await?,
        };
        let outcome = self.wait_for(&id).await;
        Ok((id, outcome))
    }

    async fn wait_for(&self, id: &str) -> Result<(), String> {
        let mut wait = Wait::begin();
        while !wait.is_over(self.stage(id).await?).await? {}
        Ok(())
    }

    async fn begin(&self, root: Cid, name: &str, origins: &[String]) -> Result<String, String> {
        let pin = json!({"cid": root.to_string(), "name": name, "origins": origins, "meta": {}});
        let request = self.0.request(Method::POST, "pins", &[]);
        let request = request.header("content-type", "application/json").body(pin.to_string());
        let answer = self.0.send(request, PATIENCE).await?.success()?.json();
        let id = answer["requestid"].as_str().map(str::to_owned);
        id.ok_or_else(|| "its answer has no requestid".to_owned())
    }

    /// Returns the request by which a root is pinned, or is about to be.
    async fn find(&self, root: Cid) -> Result<Option<String>, String> {
        let root = root.to_string();
        let query = [("cid", root.as_str()), ("status", "queued,pinning,pinned")];
        let reply = self.0.send(self.0.request(Method::GET, "pins", &query), PATIENCE).await?;
        let found = reply.success()?.json();
        let results = found["results"].as_array().into_iter().flatten();
        let mut fitting = results.filter(|result| result["pin"]["cid"] == root.as_str());
        Ok(fitting.find_map(|result| result["requestid"].as_str().map(str::to_owned)))
    }

    async fn stage(&self, id: &str) -> Result<Stage, String> {
        let request = self.0.request(Method::GET, &format!("pins/{id}"), &[]);
        let reply = self.0.send(request, PATIENCE).await?;
        if reply.status == StatusCode::NOT_FOUND {
            return Ok(Stage::Unknown);
        }
        let found = reply.success()?.json();
        Ok(match found["status"].as_str().unwrap_or_default() {
            "pinned" => Stage::Pinned,
            "failed" => Stage::Failed(found["info"].to_string()),
            other => Stage::Working(other.to_owned()),
        })
    }

    /// Returns whether the request with this id is done.
    ///
    /// # Errors
    /// What the service says, or why it says nothing.
    pub(super) async fn has_pin(&self, id: &str) -> Result<bool, String> {
        Ok(self.stage(id).await? == Stage::Pinned)
    }

    /// Removes a request and its pin. One that is not there is as good as removed.
    ///
    /// # Errors
    /// What the service says, or why it says nothing.
    pub(super) async fn unpin(&self, id: &str) -> Result<(), String> {
        let request = self.0.request(Method::DELETE, &format!("pins/{id}"), &[]);
        let reply = self.0.send(request, PATIENCE).await?;
        if reply.status == StatusCode::NOT_FOUND { Ok(()) } else { reply.success().map(drop) }
    }
}

/// A wait until a target has pinned a root.
struct Wait {
    began: Instant,
    pause: Duration,
}

impl Wait {
    fn begin() -> Self {
        Self { began: Instant::now(), pause: ASK_FIRST }
    }

    /// Returns whether the root is pinned. Pauses before it is asked again.
    ///
    /// # Errors
    /// Why it will not be pinned, or not soon.
    async fn is_over(&mut self, stage: Stage) -> Result<bool, String> {
        match stage {
            Stage::Pinned => return Ok(true),
            Stage::Failed(why) => return Err(format!("it cannot pin the root: {why}")),
            Stage::Unknown => return Err("it has forgotten the root".to_owned()),
            Stage::Working(status) if self.began.elapsed() >= WAIT => {
                return Err(format!("it is still at it: {status}"));
            }
            Stage::Working(_) => {}
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (2 * self.pause).min(ASK_MAX);
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_that_have_nothing_to_do_do_not_count() {
        let stage = |states: &[&str]| {
            let peers: serde_json::Map<String, Value> = states
                .iter()
                .enumerate()
                .map(|(n, status)| (n.to_string(), json!({"status": status, "error": "why"})))
                .collect();
            stage_of_peers(&Value::Object(peers))
        };
        assert_eq!(stage(&["pinned", "remote"]), Stage::Pinned);
        assert_eq!(stage(&["pinned", "pinning"]), Stage::Working("pinning".to_owned()));
        assert_eq!(stage(&["pinned", "pin_error"]), Stage::Failed("pin_error: why".to_owned()));
        assert_eq!(stage(&["unpinned", "unpinned"]), Stage::Unknown);
        assert_eq!(stage(&["remote"]), Stage::Unknown);
        assert_eq!(stage(&[]), Stage::Unknown);
    }
}
