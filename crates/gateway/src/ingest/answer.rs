//! Answers in JSON, and the status of each refusal.

use fula_core::{Cid, StoreError};
use fula_ingest::{NodeError, receipt::SizedCid};
use http::{HeaderValue, Response, StatusCode, header};
use s3s::Body;
use serde::{Serialize, Serializer};

/// The answer to a request, or the reason of a refusal.
pub(super) type Answer = Result<Response<Body>, Refused>;

/// A request that is refused.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    text: String,
    /// Methods that the route has, for 405.
    allow: Option<&'static str>,
    /// What was stored all the same.
    also: Option<serde_json::Value>,
}

impl Refused {
    pub(super) fn new(status: StatusCode, text: &str) -> Self {
        Self { status, text: text.to_owned(), allow: None, also: None }
    }

    pub(super) fn method(allow: &'static str) -> Self {
        let text = format!("the route has the methods {allow}");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, &text) }
    }

    pub(super) fn unauthorized(text: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, text)
    }

    /// Returns the refusal of a request that may be sent again later.
    pub(super) fn busy(text: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, &format!("{text}; try again later"))
    }

    /// Adds what was stored before the fault.
    pub(super) fn with(self, also: serde_json::Value) -> Self {
        Self { also: Some(also), ..self }
    }
}

impl From<NodeError> for Refused {
    fn from(error: NodeError) -> Self {
        let status = match &error {
            NodeError::OverQuota(_) => StatusCode::PAYMENT_REQUIRED,
            NodeError::TooMany => StatusCode::PAYLOAD_TOO_LARGE,
            NodeError::Store(error) => return Self::from_store(error),
        };
        Self::new(status, &error.to_string())
    }
}

impl Refused {
    /// Returns the refusal of a request that the store could not carry out. The reason is in the log.
    pub(super) fn from_store(error: &StoreError) -> Self {
        if let StoreError::Full { .. } = error {
            let text = "the disk of the node is full; nothing was stored";
            return Self::new(StatusCode::INSUFFICIENT_STORAGE, text);
        }
        let why = fula_service::error::chain(error);
        tracing::error!(why, "request failed: the block store cannot serve it");
        Self::new(StatusCode::BAD_GATEWAY, "the block store of the node failed; try again later")
    }
}

/// Blocks with their lengths, as pairs in JSON. They are written one by one, because there can be a thousand.
struct Listed<'a>(&'a [SizedCid]);

impl Serialize for Listed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|(cid, size)| (Text(cid), size)))
    }
}

/// A CID as text.
struct Text<'a>(&'a Cid);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self.0)
    }
}

/// The fields of an answer, and the blocks that it is about.
#[derive(Serialize)]
struct WithBlocks<'a> {
    #[serde(flatten)]
    fields: &'a serde_json::Value,
    blocks: Listed<'a>,
}

/// Returns an answer in JSON about blocks.
pub(super) fn json_with_blocks(fields: &serde_json::Value, blocks: &[SizedCid]) -> Response<Body> {
    match serde_json::to_string(&WithBlocks { fields, blocks: Listed(blocks) }) {
        Ok(text) => of_text(StatusCode::OK, text),
        Err(_) => refused(Refused::busy("the answer cannot be written")),
    }
}

/// Returns an answer in JSON.
pub(super) fn json(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    of_text(status, body.to_string())
}

fn of_text(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Returns blocks with their lengths, as pairs.
pub(super) fn listed(blocks: &[SizedCid]) -> serde_json::Value {
    blocks.iter().map(|(cid, size)| serde_json::json!([cid.to_string(), size])).collect()
}

/// Returns the answer to a request that is refused.
pub(super) fn refused(refused: Refused) -> Response<Body> {
    let mut body = refused.also.unwrap_or_else(|| serde_json::json!({}));
    body["error"] = refused.text.into();
    let mut response = json(refused.status, &body);
    let headers = response.headers_mut();
    if let Some(allow) = refused.allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    if refused.status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer realm=\"fula\"");
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    if refused.status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
