//! Signed requests to a master or a storage node.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use fula_ingest::{SigningKey, peer};
use fula_service::error::chain;
use fula_stores::local::system_clock;
use reqwest::{Method, StatusCode, header::HeaderMap};
use tokio::time::timeout;

use crate::config::PeerAddress;

/// Time limit for a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// Sends requests to one peer.
#[derive(Clone, Debug)]
pub(super) struct PeerClient {
    http: reqwest::Client,
    key: Arc<SigningKey>,
    pub(super) peer: PeerAddress,
}

/// An answer of a peer.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// The signature of the request, which a signed answer refers to.
    pub(super) signature: String,
}

/// Limits of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Longest time until the whole answer is there.
    pub(super) patience: Duration,
    /// Longest body of the answer in bytes.
    pub(super) bytes_max: usize,
}

/// Returns the HTTP client that all peers share.
pub(super) fn http() -> Result<reqwest::Client, String> {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let client = client.connect_timeout(CONNECT).no_proxy();
    client.build().map_err(|error| chain(&error))
}

impl PeerClient {
    pub(super) fn new(http: reqwest::Client, key: Arc<SigningKey>, peer: PeerAddress) -> Self {
        Self { http, key, peer }
    }

    /// Sends a signed request. `target` is the path and the query.
    ///
    /// # Errors
    /// The reason why there is no answer. It names no URL.
    pub(super) async fn send(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
        bounds: Bounds,
    ) -> Result<Reply, String> {
        let line = peer::Line::of(method.as_str(), target);
        let signature = line.sign(&body, &self.key, self.peer.id(), system_clock()());
        let sent = self.exchange(method, target, body, &signature, bounds.bytes_max);
        let patience = bounds.patience;
        match timeout(patience, sent).await {
            Ok(Ok((status, headers, body))) => Ok(Reply { status, headers, body, signature }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(format!("no answer within {patience:?}")),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
        signature: &str,
        bytes_max: usize,
    ) -> Result<(StatusCode, HeaderMap, Bytes), String> {
        let failed = |error: reqwest::Error| chain(&error.without_url());
        let url = self.peer.url.join(target).map_err(|error| error.to_string())?;
        let request = self.http.request(method, url).header(peer::HEADER, signature);
        let mut response = request.body(body).send().await.map_err(failed)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut bytes = BytesMut::new();
        while let Some(more) = response.chunk().await.map_err(failed)? {
            if bytes.len() + more.len() > bytes_max {
                return Err("the answer is too large".to_owned());
            }
            bytes.extend_from_slice(&more);
        }
        Ok((status, headers, bytes.freeze()))
    }
}
