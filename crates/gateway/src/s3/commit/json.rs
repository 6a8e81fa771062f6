//! Commits in JSON.

use std::{collections::BTreeMap, fmt};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use fula_core::Cid;
use fula_ingest::mapping::Offered;
use fula_service::limits::COMMIT_CHANGES_MAX;
use s3s::{S3Result, s3_error};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};

use super::form;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[serde(default)]
    each: bool,
    #[serde(deserialize_with = "changes")]
    changes: Vec<Change>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Change {
    Put(Box<Put>),
    Copy(Copy),
    Check(Check),
    Delete(Delete),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Put {
    key: String,
    text: Option<String>,
    base64: Option<String>,
    upload: Option<Upload>,
    map: Option<Map>,
    content_type: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
    if_match: Option<String>,
    if_none_match: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Upload {
    id: String,
    parts: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    number: u32,
    etag: String,
}

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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Copy {
    key: String,
    from: CopySource,
    content_type: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
    if_match: Option<String>,
    if_none_match: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CopySource {
    bucket: Option<String>,
    key: String,
    version: Option<String>,
    if_match: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Check {
    key: String,
    if_match: Option<String>,
    if_none_match: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Delete {
    key: String,
    if_match: Option<String>,
}

/// Reads the changes, and keeps one more of them than a commit may have: a small body could name very many.
fn changes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Change>, D::Error> {
    struct Bounded;
    impl<'de> Visitor<'de> for Bounded {
        type Value = Vec<Change>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of changes")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut changes = Vec::new();
            while changes.len() <= COMMIT_CHANGES_MAX {
                let Some(change) = list.next_element()? else { return Ok(changes) };
                changes.push(change);
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(changes)
        }
    }
    deserializer.deserialize_seq(Bounded)
}

/// Parses a commit in JSON.
///
/// # Errors
/// 400 `InvalidArgument` with the reason.
pub(super) fn parse(body: &[u8]) -> S3Result<form::Form> {
    let request: Request = serde_json::from_slice(body)
        .map_err(|error| s3_error!(InvalidArgument, "The commit is malformed: {error}"))?;
    let changes = request.changes.into_iter().map(Change::form).collect::<S3Result<_>>()?;
    Ok(form::Form { each: request.each, changes })
}

fn decoded(key: &str, text: &str) -> S3Result<Bytes> {
    let bytes = BASE64_STANDARD.decode(text);
    let bytes = bytes.map_err(|_| s3_error!(InvalidArgument, "{key:?}: base64 is malformed"))?;
    Ok(Bytes::from(bytes))
}

impl Change {
    fn form(self) -> S3Result<form::Change> {
        Ok(match self {
            Self::Put(put) => form::Change::Put(put.form()?),
            Self::Copy(copy) => form::Change::Copy(copy.form()),
            Self::Check(Check { key, if_match, if_none_match }) => {
                form::Change::Check(form::Target { key, if_match, if_none_match })
            }
            Self::Delete(Delete { key, if_match }) => {
                form::Change::Delete(form::Target { key, if_match, if_none_match: None })
            }
        })
    }
}

impl Put {
    fn form(self) -> S3Result<form::Put> {
        let mut contents = Vec::new();
        contents.extend(self.text.map(|text| form::Content::Bytes(Bytes::from(text))));
        if let Some(text) = self.base64 {
            contents.push(form::Content::Bytes(decoded(&self.key, &text)?));
        }
        if let Some(Upload { id, parts }) = self.upload {
            let parts = parts.into_iter().map(|part| (part.number, part.etag)).collect();
            contents.push(form::Content::Upload(form::Upload { id, parts }));
        }
        if let Some(map) = self.map {
            contents.push(form::Content::Map(Box::new(map.form(&self.key)?)));
        }
        let (key, if_match, if_none_match) = (self.key, self.if_match, self.if_none_match);
        let target = form::Target { key, if_match, if_none_match };
        let facts = form::Facts { content_type: self.content_type, metadata: self.metadata };
        Ok(form::Put { target, contents, facts })
    }
}

impl Copy {
    fn form(self) -> form::Copy {
        let CopySource { bucket, key, version, if_match } = self.from;
        let from = form::Source { bucket, key, version, if_match };
        let (key, if_match, if_none_match) = (self.key, self.if_match, self.if_none_match);
        let target = form::Target { key, if_match, if_none_match };
        let facts = form::Facts { content_type: self.content_type, metadata: self.metadata };
        form::Copy { target, from, facts }
    }
}

impl Map {
    fn form(self, key: &str) -> S3Result<form::Map> {
        let cid = |text: &str| {
            let cid: Result<Cid, _> = text.parse();
            cid.map_err(|_| {
                s3_error!(InvalidRequest, "{key:?}: {text:?} is no CID that is supported")
            })
        };
        let offered = |shown: MapReceipt| {
            let blocks = shown.blocks.iter().map(|(text, size)| Ok((cid(text)?, *size)));
            let blocks = blocks.collect::<S3Result<_>>()?;
            Ok(Offered { receipt: shown.receipt, blocks })
        };
        let source = |from: MapSource| form::Source {
            bucket: Some(from.bucket),
            key: from.key,
            ..form::Source::default()
        };
        Ok(form::Map {
            cid: cid(&self.cid)?,
            size: self.size,
            nodes: self.nodes.iter().map(|text| decoded(key, text)).collect::<S3Result<_>>()?,
            receipts: self.receipts.into_iter().map(offered).collect::<S3Result<_>>()?,
            from: self.from.map(source),
        })
    }
}
