//! A commit as a client wrote it, whatever the encoding, and what the service makes of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use fula_core::{Block, Cid, Codec, bucket::VersionId};
use fula_ingest::mapping::Offered;
use fula_service::{
    BatchAction, BatchChange, BatchSource, BucketOwner, CompletePart, CopySourceRequest,
    MapRequest, ObjectFacts,
    condition::{ReadConditions, Tags, WriteConditions},
};
use http::HeaderValue;
use s3s::{S3Result, s3_error};

use crate::s3::convert::{bucket_name, object_key};

/// The body of a request.
pub(super) struct Form {
    /// Whether each change is carried out by itself.
    pub(super) each: bool,
    pub(super) changes: Vec<Change>,
}

/// One change.
pub(super) enum Change {
    Put(Put),
    Copy(Copy),
    Check(Target),
    Delete(Target),
}

/// A key, and the conditions on it.
#[derive(Default)]
pub(super) struct Target {
    pub(super) key: String,
    pub(super) if_match: Option<String>,
    pub(super) if_none_match: Option<String>,
}

/// Headers and metadata of an object.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) content_type: Option<String>,
    /// `None` if the request names no metadata.
    pub(super) metadata: Option<BTreeMap<String, String>>,
}

pub(super) struct Put {
    pub(super) target: Target,
    /// Every content that the request has. There must be one.
    pub(super) contents: Vec<Content>,
    pub(super) facts: Facts,
}

/// The content of a put.
pub(super) enum Content {
    Bytes(Bytes),
    Upload(Upload),
    Map(Box<Map>),
}

#[derive(Default)]
pub(super) struct Upload {
    pub(super) id: String,
    /// Number and entity tag of each part.
    pub(super) parts: Vec<(u32, String)>,
}

/// Content that storage nodes hold.
pub(super) struct Map {
    pub(super) cid: Cid,
    pub(super) size: u64,
    /// Inner nodes.
    pub(super) nodes: Vec<Bytes>,
    pub(super) receipts: Vec<Offered>,
    /// An object that has some of the leaves.
    pub(super) from: Option<Source>,
}

/// The source of a copy.
#[derive(Default)]
pub(super) struct Source {
    pub(super) bucket: Option<String>,
    pub(super) key: String,
    pub(super) version: Option<String>,
    pub(super) if_match: Option<String>,
}

pub(super) struct Copy {
    pub(super) target: Target,
    pub(super) from: Source,
    pub(super) facts: Facts,
}

fn tags(value: Option<String>) -> Option<Tags> {
    Some(match value?.as_str() {
        "*" => Tags::Any,
        tag => Tags::Of(vec![tag.trim_matches('"').to_owned()]),
    })
}

impl Facts {
    fn is_empty(&self) -> bool {
        self.content_type.is_none() && self.metadata.is_none()
    }

    /// Returns the facts. They can be answered as headers.
    fn read(self) -> S3Result<ObjectFacts> {
        let headers = self.content_type.map(|kind| ("content-type".to_owned(), kind));
        let metadata = self.metadata.unwrap_or_default();
        let mut values = headers.iter().map(|(_, value)| value).chain(metadata.values());
        if let Some(bad) = values.find(|value| HeaderValue::from_str(value).is_err()) {
            return Err(s3_error!(InvalidArgument, "{bad:?} cannot be sent as a header"));
        }
        let is_name = |name: &String| {
            http::HeaderName::from_bytes(format!("x-amz-meta-{name}").as_bytes())
                .is_ok_and(|_| name.to_ascii_lowercase() == *name)
        };
        if let Some(bad) = metadata.keys().find(|key| !is_name(key)) {
            return Err(s3_error!(InvalidArgument, "{bad:?} is no lower-case header name"));
        }
        let headers = headers.into_iter().collect();
        Ok(ObjectFacts { headers, metadata, ..ObjectFacts::default() })
    }

    /// Returns what replaces headers and metadata that are there already; `None` to keep them.
    fn replacing(self) -> S3Result<Option<ObjectFacts>> {
        if self.is_empty() { Ok(None) } else { self.read().map(Some) }
    }
}

impl Source {
    fn version(&self) -> S3Result<Option<VersionId>> {
        let Some(text) = &self.version else { return Ok(None) };
        let version = text.parse();
        version.map(Some).map_err(|_| s3_error!(InvalidArgument, "{text:?} is no version id"))
    }
}

impl Map {
    fn read(self, facts: ObjectFacts) -> S3Result<MapRequest> {
        let source = |from: Source| -> S3Result<CopySourceRequest> {
            let version = from.version()?;
            let bucket = from.bucket.as_deref().unwrap_or_default();
            let conditions =
                ReadConditions { if_match: tags(from.if_match), ..ReadConditions::default() };
            Ok(CopySourceRequest {
                owner: BucketOwner::Unsaid,
                bucket: bucket_name(bucket)?,
                key: object_key(&from.key)?,
                version,
                conditions,
            })
        };
        let nodes = self.nodes.into_iter().map(|bytes| Block::new(Codec::DagPb, bytes));
        Ok(MapRequest {
            cid: self.cid,
            size: self.size,
            nodes: nodes.collect(),
            receipts: self.receipts,
            source: self.from.map(source).transpose()?,
            facts,
        })
    }
}

impl Put {
    fn action(self) -> S3Result<BatchAction> {
        let mut contents = self.contents.into_iter();
        let (Some(content), None) = (contents.next(), contents.next()) else {
            let text = "a put has one of text, base64, bytes, upload and map";
            return Err(s3_error!(InvalidArgument, "{:?}: {text}", self.target.key));
        };
        Ok(match content {
            Content::Bytes(body) => BatchAction::Put { body, facts: self.facts.read()? },
            Content::Map(map) => BatchAction::Map(Box::new(map.read(self.facts.read()?)?)),
            Content::Upload(upload) => {
                let part = |(number, etag): (u32, String)| CompletePart {
                    number,
                    etag: etag.trim_matches('"').to_owned(),
                    checksum: None,
                };
                let parts = upload.parts.into_iter().map(part).collect();
                let replace = self.facts.replacing()?;
                BatchAction::Complete { id: upload.id, parts, replace }
            }
        })
    }
}

impl Copy {
    fn action(self) -> S3Result<BatchAction> {
        let version = self.from.version()?;
        let conditions =
            ReadConditions { if_match: tags(self.from.if_match), ..ReadConditions::default() };
        let source = BatchSource {
            bucket: self.from.bucket.as_deref().map(bucket_name).transpose()?,
            key: object_key(&self.from.key)?,
            version,
            conditions,
        };
        Ok(BatchAction::Copy { source, replace: self.facts.replacing()? })
    }
}

impl Change {
    /// Returns the change as the service takes it.
    ///
    /// # Errors
    /// 400 `InvalidArgument` with the reason.
    pub(super) fn read(mut self) -> S3Result<BatchChange> {
        let target = match &mut self {
            Self::Put(put) => &mut put.target,
            Self::Copy(copy) => &mut copy.target,
            Self::Check(target) | Self::Delete(target) => target,
        };
        let key = object_key(&target.key)?;
        let conditions = WriteConditions {
            if_match: tags(target.if_match.take()),
            if_none_match: tags(target.if_none_match.take()),
        };
        let action = match self {
            Self::Put(put) => put.action()?,
            Self::Copy(copy) => copy.action()?,
            Self::Check(_) => BatchAction::Check,
            Self::Delete(_) => BatchAction::Delete,
        };
        Ok(BatchChange { key, conditions, action })
    }
}
