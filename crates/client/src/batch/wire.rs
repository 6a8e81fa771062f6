//! Commits and their answers in dag-cbor, in which bodies are bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use fula_core::cbor::{Invalid, Reader, Writer};

use super::{Action, Change, Content, Facts, Mapped};
use crate::error::{Error, Outcome};
use crate::retry;

/// Media type of commits and answers.
pub(super) const DAG_CBOR: &str = "application/vnd.ipld.dag-cbor";

/// The answer to a commit.
#[derive(Debug)]
pub(super) struct Answered {
    /// Version of the bucket; `None` if nothing was changed.
    pub(super) version: Option<u64>,
    pub(super) results: Vec<Result<Option<String>, Refused>>,
}

/// Why an independent change was refused.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Refused {
    code: String,
    status: u16,
    message: String,
}

impl Refused {
    /// Returns the error about `what`. `is_creation` says that the change named no version.
    pub(super) fn error(self, what: &str, is_creation: bool) -> Error {
        let Self { code, status, message } = self;
        if retry::is_temporary(status, &code) {
            let why = format!("{code} ({status}) {message}");
            return Error::Unavailable { what: what.to_owned(), outcome: Outcome::None, why };
        }
        match Error::of_answer(what, status, &code, &message, is_creation) {
            Error::NotFound { what } if !is_creation => Error::Changed { what, current: None },
            error => error,
        }
    }
}

/// Returns the body of a commit. Names are in the order of dag-cbor: shorter ones first, then by their bytes.
pub(super) fn encode(changes: &[Change], each: bool) -> Bytes {
    let mut out = Writer::with_capacity(changes.iter().map(length).sum());
    out.map(1 + usize::from(each));
    if each {
        out.text("each").boolean(true);
    }
    out.text("changes").array(changes.len());
    for change in changes {
        encode_change(&mut out, change);
    }
    out.finish()
}

/// Returns about how many bytes a change has.
fn length(change: &Change) -> usize {
    let content = match &change.action {
        Action::Put(Content::Bytes(body), _) => body.len() + 256,
        Action::Put(Content::Upload(_, parts), _) => 1024 + 64 * parts.len(),
        Action::Put(Content::Mapped(mapped), _) => {
            let nodes: usize = mapped.nodes.iter().map(|node| node.bytes().len() + 8).sum();
            nodes
                + mapped
                    .receipts
                    .iter()
                    .map(|(text, list)| text.len() + 48 * list.len())
                    .sum::<usize>()
        }
        Action::Copy { .. } => 1024,
        Action::Check | Action::Delete => 0,
    };
    change.key.len() + 128 + content
}

/// A field of a change: its name, and what writes its value.
type Field<'a> = (&'static str, Box<dyn Fn(&mut Writer) + 'a>);

fn field<'a>(name: &'static str, write: impl Fn(&mut Writer) + 'a) -> Field<'a> {
    (name, Box::new(write))
}

fn text<'a>(name: &'static str, value: &'a str) -> Field<'a> {
    field(name, move |out| {
        out.text(value);
    })
}

/// Writes a map of fields.
fn encode_fields(out: &mut Writer, mut fields: Vec<Field<'_>>) {
    fields.sort_by_key(|(name, _)| (name.len(), *name));
    out.map(fields.len());
    for (name, value) in fields {
        out.text(name);
        value(out);
    }
}

fn encode_change(out: &mut Writer, change: &Change) {
    let mut fields = vec![text("key", &change.key)];
    fields.extend(change.if_match.as_deref().map(|etag| text("ifMatch", etag)));
    if change.if_absent {
        fields.push(text("ifNoneMatch", "*"));
    }
    let name = match &change.action {
        Action::Put(content, facts) => {
            fields.push(match content {
                Content::Bytes(body) => field("bytes", move |out| {
                    out.bytes(body);
                }),
                Content::Upload(id, parts) => {
                    field("upload", move |out| encode_upload(out, id, parts))
                }
                Content::Mapped(mapped) => field("map", move |out| encode_map(out, mapped)),
            });
            fields.extend(described(facts));
            "put"
        }
        Action::Copy { from, if_source_match, facts } => {
            fields.push(field("from", move |out| {
                let mut source = vec![text("key", from)];
                source.extend(if_source_match.as_deref().map(|etag| text("ifMatch", etag)));
                encode_fields(out, source);
            }));
            fields.extend(described(facts));
            "copy"
        }
        Action::Check => "check",
        Action::Delete => "delete",
    };
    out.map(1).text(name);
    encode_fields(out, fields);
}

fn described(facts: &Facts) -> Vec<Field<'_>> {
    let mut fields = Vec::new();
    fields.extend(facts.content_type.as_deref().map(|kind| text("contentType", kind)));
    if let Some(metadata) = facts.metadata.as_ref().filter(|metadata| !metadata.is_empty()) {
        fields.push(field("metadata", move |out| encode_metadata(out, metadata)));
    }
    fields
}

fn encode_metadata(out: &mut Writer, metadata: &BTreeMap<String, String>) {
    let by_length: BTreeMap<_, _> =
        metadata.iter().map(|(name, value)| ((name.len(), name), value)).collect();
    out.map(by_length.len());
    for ((_, name), value) in by_length {
        out.text(name).text(value);
    }
}

fn encode_upload(out: &mut Writer, id: &str, parts: &[(u32, String)]) {
    out.map(2).text("id").text(id).text("parts").array(parts.len());
    for (number, etag) in parts {
        out.map(2).text("etag").text(etag).text("number").uint(u64::from(*number));
    }
}

fn encode_map(out: &mut Writer, mapped: &Mapped) {
    out.map(4).text("cid").link(&mapped.cid).text("size").uint(mapped.size);
    out.text("nodes").array(mapped.nodes.len());
    for node in &mapped.nodes {
        out.bytes(node.bytes());
    }
    out.text("receipts").array(mapped.receipts.len());
    for (receipt, blocks) in &mapped.receipts {
        out.map(2).text("blocks").array(blocks.len());
        for (cid, size) in blocks {
            out.array(2).link(cid).uint(u64::from(*size));
        }
        out.text("receipt").text(receipt);
    }
}

/// Reads the answer to a commit. Fields that are not known are left out.
pub(super) fn decode(body: &Bytes) -> Result<Answered, Invalid> {
    let mut reader = Reader::new(body);
    let (mut version, mut results) = (None, None);
    let mut names = reader.names()?;
    for _ in 0..names.count() {
        match names.next(&mut reader)? {
            "results" => {
                let count = reader.array()?;
                // Each result has a byte at least, so the length of the answer bounds what is read.
                results = Some((0..count).map(|_| result(&mut reader)).collect::<Result<_, _>>()?);
            }
            "version" if !reader.null() => version = Some(reader.uint()?),
            "version" => {}
            _ => reader.value()?,
        }
    }
    reader.end()?;
    Ok(Answered { version, results: results.ok_or(Invalid("there are no results"))? })
}

fn result(reader: &mut Reader<'_>) -> Result<Result<Option<String>, Refused>, Invalid> {
    let (mut etag, mut refused) = (None, None);
    let mut names = reader.names()?;
    for _ in 0..names.count() {
        match names.next(reader)? {
            "etag" if reader.null() => {}
            "etag" => etag = Some(reader.text()?.trim_matches('"').to_owned()),
            "error" => refused = Some(reason(reader)?),
            _ => reader.value()?,
        }
    }
    Ok(refused.map_or(Ok(etag), Err))
}

fn reason(reader: &mut Reader<'_>) -> Result<Refused, Invalid> {
    let mut refused = Refused::default();
    let mut names = reader.names()?;
    for _ in 0..names.count() {
        match names.next(reader)? {
            "code" => reader.text()?.clone_into(&mut refused.code),
            "status" => {
                let status = u16::try_from(reader.uint()?);
                refused.status = status.map_err(|_| Invalid("a status is too large"))?;
            }
            "message" => reader.text()?.clone_into(&mut refused.message),
            _ => reader.value()?,
        }
    }
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use fula_core::{Block, Cid, Codec};

    use super::*;

    #[test]
    fn names_are_in_the_order_of_dag_cbor() {
        let metadata: BTreeMap<_, _> =
            ["bb", "a", "ccc"].map(|name| (name.to_owned(), name.to_owned())).into();
        let facts =
            || Facts { content_type: Some("t".to_owned()), metadata: Some(metadata.clone()) };
        let (cid, if_source_match) = (Cid::of(Codec::Raw, b"x"), Some("e".to_owned()));
        let mapped = Mapped {
            cid,
            size: 1,
            nodes: vec![Block::new(Codec::DagPb, Bytes::from_static(b"node"))],
            receipts: vec![("receipt".into(), vec![(cid, 1)])],
        };
        let actions = [
            Action::Put(Content::Bytes("x".into()), facts()),
            Action::Put(Content::Mapped(mapped), facts()),
            Action::Put(Content::Upload("id".to_owned(), vec![(1, "e".to_owned())]), facts()),
            Action::Copy { from: "f".to_owned(), if_source_match, facts: facts() },
            Action::Check,
            Action::Delete,
        ];
        let change = |action| Change {
            key: "k".to_owned(),
            action,
            if_match: Some("e".to_owned()),
            if_absent: true,
        };
        let changes = actions.map(change);
        for each in [false, true] {
            let body = encode(&changes, each);
            let mut reader = Reader::new(&body);
            // The reader takes each map in this order only.
            reader.value().unwrap();
            reader.end().unwrap();
        }
    }

    #[test]
    fn answers_are_read_with_their_refusals() {
        let mut out = Writer::default();
        out.map(2).text("results").array(3);
        out.map(2).text("key").text("a").text("etag").text("\"e\"");
        out.map(2).text("key").text("b").text("etag").null();
        out.map(2).text("key").text("c").text("error").map(3);
        out.text("code").text("PreconditionFailed").text("status").uint(412);
        out.text("message").text("m").text("version").uint(7);
        let body = out.finish();
        for len in 0..body.len() {
            assert!(decode(&body.slice(..len)).is_err(), "{len}");
        }
        let answered = decode(&body).unwrap();
        assert_eq!(answered.version, Some(7));
        let [first, second, third] = <[_; 3]>::try_from(answered.results).unwrap();
        assert_eq!((first.unwrap().as_deref(), second.unwrap()), (Some("e"), None));
        let refused = third.unwrap_err();
        assert_eq!((refused.status, &*refused.code), (412, "PreconditionFailed"));
        assert!(matches!(refused.error("b/c", true), Error::Exists { .. }));
        let gone = Refused { code: "NoSuchKey".to_owned(), status: 404, ..Refused::default() };
        assert!(matches!(gone.error("b/c", false), Error::Changed { .. }));
        let busy = Refused { code: "SlowDown".to_owned(), status: 503, ..Refused::default() };
        assert!(matches!(busy.error("b/c", true), Error::Unavailable { .. }));
        assert!(decode(&Bytes::from_static(b"{}")).is_err());
    }
}
