//! Requests to pin targets.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fula_service::error::chain;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;

use crate::{cli::Endpoint, config::Token};

/// Longest time for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Longest answer in bytes.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Longest part of an error of a target that is repeated, in characters.
const SHOWN_CHARS: usize = 300;

/// Longest time for a small request.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Sends requests to one target.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
    token: Option<Token>,
}

/// An answer of a target.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

impl Reply {
    /// Returns the JSON values of the answer, one of each line.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Returns the answer as one JSON value.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// Returns the answer if its status is one of success.
    ///
    /// # Errors
    /// What the target says otherwise.
    pub(crate) fn success(self) -> Result<Self, String> {
        if self.status.is_success() { Ok(self) } else { Err(self.complaint()) }
    }

    /// Returns what a target says is wrong.
    pub(crate) fn complaint(&self) -> String {
        let told = self.json();
        let texts = [
            &told["Message"],
            &told["message"],
            &told["error"]["details"],
            &told["error"]["reason"],
        ];
        let text = texts.into_iter().find_map(Value::as_str).unwrap_or(self.text.trim());
        let text: String = text.chars().take(SHOWN_CHARS).collect();
        format!("it answers {}: {text}", self.status.as_u16())
    }
}

impl Client {
    pub(crate) fn new(endpoint: &Endpoint, token: Option<&Token>) -> Result<Self, String> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none());
        let http = http.build().map_err(|error| chain(&error))?;
        Ok(Self { http, endpoint: endpoint.clone(), token: token.cloned() })
    }

    /// Returns a request for a path below the URL of the target.
    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> RequestBuilder {
        let mut url = self.endpoint.at(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.request(method, url);
        match &self.token {
            None => request,
            Some(token) => match token.basic() {
                Some((user, password)) => request.basic_auth(user, Some(password)),
                None => request.bearer_auth(token.text()),
            },
        }
    }

    /// Sends a request, and reads the whole answer.
    ///
    /// # Errors
    /// The reason why there is no answer within `patience`. It names no URL.
    pub(crate) async fn send(
        &self,
        request: RequestBuilder,
        patience: Duration,
    ) -> Result<Reply, String> {
        let (status, bytes) = self.exchange(request, patience, ANSWER_BYTES_MAX).await?;
        Ok(Reply { status, text: String::from_utf8_lossy(&bytes).into_owned() })
    }

    /// Does the same for an answer of bytes, of `bytes_max` at most. One of an error may be as long as any other.
    ///
    /// # Errors
    /// Those of [`Self::send`]; what the server says if its status is not one of success.
    pub(crate) async fn fetch(
        &self,
        request: RequestBuilder,
        patience: Duration,
        bytes_max: usize,
    ) -> Result<Bytes, String> {
        let (status, bytes) = self.exchange(request, patience, bytes_max).await?;
        if status.is_success() {
            return Ok(bytes.freeze());
        }
        let reply = Reply { status, text: String::from_utf8_lossy(&bytes).into_owned() };
        Err(reply.complaint())
    }

    async fn exchange(
        &self,
        request: RequestBuilder,
        patience: Duration,
        bytes_max: usize,
    ) -> Result<(StatusCode, BytesMut), String> {
        let exchange = async {
            let mut response = request.send().await.map_err(failure)?;
            let status = response.status();
            let mut bytes = BytesMut::new();
            while let Some(more) = response.chunk().await.map_err(failure)? {
                if bytes.len() + more.len() > bytes_max {
                    return Err("its answer is too large".to_owned());
                }
                bytes.extend_from_slice(&more);
            }
            Ok((status, bytes))
        };
        match tokio::time::timeout(patience, exchange).await {
            Ok(done) => done,
            Err(_) => Err(format!("no answer within {} s", patience.as_secs())),
        }
    }
}

/// Returns why a request has failed, without the URL.
fn failure(error: reqwest::Error) -> String {
    let error = error.without_url();
    if !error.is_connect() {
        return chain(&error);
    }
    let mut cause: &(dyn std::error::Error + 'static) = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    format!("it cannot be reached: {}", chain(cause))
}
