//! Multi-key commits: `POST /{bucket}?fula-commit` with a body in JSON (docs/format.md).

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use fula_core::{Block, Cid, Codec};
use fula_ingest::mapping::Offered;
use fula_service::{
    BatchAction, BatchChange, BucketOwner, CompletePart, CopySourceRequest, MapRequest,
    ObjectFacts, Service,
    condition::{ReadConditions, Tags, WriteConditions},
};
use http::{HeaderValue, Method, Uri, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use s3s::{Body, S3Request, S3Response, S3Result, s3_error};
use serde::Deserialize;

use super::{
    caller,
    convert::{bucket_name, object_key},
    routes::bucket_of,
};
use crate::error::{s3_error as to_s3, too_large};

/// Query parameter of a commit.
const QUERY: &str = "fula-commit";

/// Returns whether a request is a multi-key commit.
pub(super) fn is_commit(method: &Method, uri: &Uri) -> bool {
    let mut query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    *method == Method::POST && query.any(|(name, _)| name == QUERY)
}

/// The body of a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    changes: Vec<Change>,
}

/// One change: `put` or `delete`.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Change {
    Put(Put),
    Delete(Delete),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Put {
    key: String,
    /// Content as text. Instead of it there may be `base64` or `upload`.
    text: Option<String>,
    base64: Option<String>,
    upload: Option<Upload>,
    map: Option<Box<Map>>,
    content_type: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    if_match: Option<String>,
    if_none_match: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Upload {
    id: String,
    parts: Vec<Part>,
}

/// Content that storage nodes hold.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Map {
    cid: String,
    size: u64,
    /// Inner nodes in base64.
    #[serde(default)]
    nodes: Vec<String>,
    #[serde(default)]
    receipts: Vec<MapReceipt>,
    /// An object that has some of the leaves.
    from: Option<MapSource>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MapReceipt {
    receipt: String,
    blocks: Vec<(String, u32)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MapSource {
    bucket: String,
    key: String,
}

impl Map {
    fn read(self, key: &str, facts: ObjectFacts) -> S3Result<MapRequest> {
        let cid = |text: &str| {
            let cid: Result<Cid, _> = text.parse();
            cid.map_err(|_| {
                s3_error!(InvalidRequest, "{key:?}: {text:?} is no CID that is supported")
            })
        };
        let node = |text: &String| match BASE64_STANDARD.decode(text) {
            Ok(bytes) => Ok(Block::new(Codec::DagPb, bytes)),
            Err(_) => Err(s3_error!(InvalidArgument, "{key:?}: base64 is malformed")),
        };
        let offered = |shown: MapReceipt| {
            let blocks = shown.blocks.iter().map(|(text, size)| Ok((cid(text)?, *size)));
            let blocks = blocks.collect::<S3Result<_>>()?;
            Ok(Offered { receipt: shown.receipt, blocks })
        };
        let source = |from: MapSource| -> S3Result<CopySourceRequest> {
            let (bucket, key) = (bucket_name(&from.bucket)?, object_key(&from.key)?);
            let (owner, conditions) = (BucketOwner::Unsaid, ReadConditions::default());
            Ok(CopySourceRequest { owner, bucket, key, version: None, conditions })
        };
        Ok(MapRequest {
            cid: cid(&self.cid)?,
            size: self.size,
            nodes: self.nodes.iter().map(node).collect::<S3Result<_>>()?,
            receipts: self.receipts.into_iter().map(offered).collect::<S3Result<_>>()?,
            source: self.from.map(source).transpose()?,
            facts,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    number: u32,
    etag: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Delete {
    key: String,
    if_match: Option<String>,
}

fn tags(value: Option<String>) -> Option<Tags> {
    Some(match value?.as_str() {
        "*" => Tags::Any,
        tag => Tags::Of(vec![tag.trim_matches('"').to_owned()]),
    })
}

impl Put {
    fn action(&mut self) -> S3Result<BatchAction> {
        let map = self.map.take();
        let given = (self.text.take(), self.base64.take(), self.upload.take());
        let body = match given {
            (None, None, None) if map.is_some() => Bytes::new(),
            _ if map.is_some() => {
                let text = "a put has one of text, base64, upload and map";
                return Err(s3_error!(InvalidArgument, "{:?}: {text}", self.key));
            }
            (Some(text), None, None) => Bytes::from(text),
            (None, Some(text), None) => match BASE64_STANDARD.decode(text) {
                Ok(bytes) => Bytes::from(bytes),
                Err(_) => {
                    return Err(s3_error!(InvalidArgument, "{:?}: base64 is malformed", self.key));
                }
            },
            (None, None, Some(upload)) => {
                if self.content_type.is_some() || !self.metadata.is_empty() {
                    let text = "an upload has the headers that it was begun with";
                    return Err(s3_error!(InvalidArgument, "{:?}: {text}", self.key));
                }
                let parts = upload.parts.into_iter().map(|part| CompletePart {
                    number: part.number,
                    etag: part.etag.trim_matches('"').to_owned(),
                    checksum: None,
                });
                return Ok(BatchAction::Complete { id: upload.id, parts: parts.collect() });
            }
            _ => {
                let text = "a put has one of text, base64, upload and map";
                return Err(s3_error!(InvalidArgument, "{:?}: {text}", self.key));
            }
        };
        let headers = self.content_type.take().map(|kind| ("content-type".to_owned(), kind));
        let values = headers.iter().map(|(_, value)| value).chain(self.metadata.values());
        if let Some(bad) = values.into_iter().find(|value| HeaderValue::from_str(value).is_err()) {
            return Err(s3_error!(InvalidArgument, "{bad:?} cannot be sent as a header"));
        }
        let name = |name: &String| {
            http::HeaderName::from_bytes(format!("x-amz-meta-{name}").as_bytes())
                .is_ok_and(|_| name.to_ascii_lowercase() == *name)
        };
        if let Some(bad) = self.metadata.keys().find(|key| !name(key)) {
            return Err(s3_error!(InvalidArgument, "{bad:?} is no lower-case header name"));
        }
        let metadata = std::mem::take(&mut self.metadata);
        let headers = headers.into_iter().collect();
        let facts = ObjectFacts { headers, metadata, ..ObjectFacts::default() };
        match map {
            Some(map) => Ok(BatchAction::Map(Box::new(map.read(&self.key, facts)?))),
            None => Ok(BatchAction::Put { body, facts }),
        }
    }
}

impl Change {
    fn read(self) -> S3Result<BatchChange> {
        match self {
            Self::Put(mut put) => Ok(BatchChange {
                action: put.action()?,
                key: object_key(&put.key)?,
                conditions: WriteConditions {
                    if_match: tags(put.if_match),
                    if_none_match: tags(put.if_none_match),
                },
            }),
            Self::Delete(delete) => Ok(BatchChange {
                key: object_key(&delete.key)?,
                conditions: WriteConditions {
                    if_match: tags(delete.if_match),
                    if_none_match: None,
                },
                action: BatchAction::Delete,
            }),
        }
    }
}

/// Parses the changes of a body.
///
/// # Errors
/// 400 `InvalidArgument` with the reason.
pub(crate) fn parse(body: &[u8]) -> S3Result<Vec<BatchChange>> {
    let request: Request = serde_json::from_slice(body)
        .map_err(|error| s3_error!(InvalidArgument, "The commit is malformed: {error}"))?;
    request.changes.into_iter().map(Change::read).collect()
}

/// Answers a multi-key commit, whose body has at most `bytes_max` bytes.
pub(super) async fn answer(
    service: &Service,
    bytes_max: usize,
    mut request: S3Request<Body>,
) -> S3Result<S3Response<Body>> {
    let caller = caller(&request)?;
    let bucket = bucket_of(&request.uri, &request.extensions, "POST", QUERY)?;
    // The limit applies whatever the framing: a body in chunks was not measured before.
    let body = Limited::new(std::mem::take(&mut request.input), bytes_max).collect().await;
    let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
        Ok(_) => too_large(bytes_max),
        Err(_) => s3_error!(IncompleteBody),
    })?;
    let changes = parse(&body.to_bytes())?;
    let results = service.commit(&caller, &bucket, &changes).await.map_err(to_s3)?;
    let results: Vec<serde_json::Value> = results
        .into_iter()
        .map(|(key, etag)| {
            serde_json::json!({"key": key.as_str(), "etag": etag.map(|etag| format!("\"{etag}\""))})
        })
        .collect();
    let answer =
        serde_json::json!({"version": caller.seen.version(), "results": results}).to_string();
    let mut response = S3Response::new(Body::from(answer));
    let json = HeaderValue::from_static("application/json");
    response.headers.insert(header::CONTENT_TYPE, json);
    Ok(response)
}
