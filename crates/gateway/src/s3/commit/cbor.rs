//! Commits in dag-cbor. The reader accepts each value in one encoding only.

use std::collections::BTreeMap;

use bytes::Bytes;
use fula_core::cbor::{Invalid, Reader};
use fula_ingest::mapping::Offered;
use fula_service::limits::COMMIT_CHANGES_MAX;
use s3s::{S3Result, s3_error};

use super::form::{Change, Content, Copy, Facts, Form, Map, Put, Source, Target, Upload};

/// Largest number of parts, nodes, blocks, receipts and metadata values in one body together. Each needs more
/// memory than it has bytes.
const ITEMS_MAX: usize = 1 << 18;

/// What is wrong with a body.
struct Malformed(String);

impl From<Invalid> for Malformed {
    fn from(invalid: Invalid) -> Self {
        Self(invalid.to_string())
    }
}

type Read<T> = Result<T, Malformed>;

/// A body that is read.
struct Body<'a> {
    reader: Reader<'a>,
    /// Number of further items that the body may have.
    items_left: usize,
}

/// Parses a commit in dag-cbor.
///
/// # Errors
/// 400 `InvalidArgument` with the reason, and the place in the body.
pub(super) fn parse(bytes: &Bytes) -> S3Result<Form> {
    let mut body = Body { reader: Reader::new(bytes), items_left: ITEMS_MAX };
    let form = body.form().and_then(|form| Ok((form, body.reader.end()?)));
    form.map(|(form, ())| form).map_err(|Malformed(why)| {
        let at = body.reader.position();
        s3_error!(InvalidArgument, "The commit is malformed before byte {at}: {why}")
    })
}

/// Returns the error for a field that is not there.
fn missing(name: &str) -> Malformed {
    Malformed(format!("the field {name} is missing"))
}

impl<'a> Body<'a> {
    /// Reads a map. `field` reads the value of the field of a name, and returns whether there is such a field.
    fn fields(&mut self, mut field: impl FnMut(&mut Self, &'a str) -> Read<bool>) -> Read<()> {
        let mut names = self.reader.names()?;
        for _ in 0..names.count() {
            let name = names.next(&mut self.reader)?;
            if !field(self, name)? {
                let name: String = name.chars().take(64).collect();
                return Err(Malformed(format!("the field {name:?} is unknown")));
            }
        }
        Ok(())
    }

    /// Reads an array. `item` reads one item.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let count = self.reader.array()?;
        self.take(count)?;
        (0..count).map(|_| item(self)).collect()
    }

    fn take(&mut self, count: usize) -> Read<()> {
        let left = self.items_left.checked_sub(count);
        self.items_left =
            left.ok_or_else(|| Malformed(format!("there are more than {ITEMS_MAX} items")))?;
        Ok(())
    }

    fn text(&mut self) -> Read<String> {
        Ok(self.reader.text()?.to_owned())
    }

    fn u32(&mut self) -> Read<u32> {
        let number = self.reader.uint()?;
        u32::try_from(number).map_err(|_| Malformed(format!("{number} is too large")))
    }

    fn form(&mut self) -> Read<Form> {
        let (mut each, mut changes) = (false, None);
        self.fields(|body, name| {
            match name {
                "each" => each = body.reader.boolean()?,
                "changes" => {
                    let count = body.reader.array()?;
                    if count > COMMIT_CHANGES_MAX {
                        let text = format!("a commit has 1 to {COMMIT_CHANGES_MAX} changes");
                        return Err(Malformed(text));
                    }
                    changes = Some((0..count).map(|_| body.change()).collect::<Read<_>>()?);
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(Form { each, changes: changes.ok_or_else(|| missing("changes"))? })
    }

    fn change(&mut self) -> Read<Change> {
        let mut change = None;
        let mut count = 0;
        self.fields(|body, name| {
            count += 1;
            change = Some(match name {
                "put" => Change::Put(body.put()?),
                "copy" => Change::Copy(body.copy()?),
                "check" => Change::Check(body.target(true)?),
                "delete" => Change::Delete(body.target(false)?),
                _ => return Ok(false),
            });
            Ok(true)
        })?;
        let one = "a change has one of put, copy, check and delete";
        change.filter(|_| count == 1).ok_or_else(|| Malformed(one.to_owned()))
    }

    /// Reads a field of a target. Returns whether it is one.
    fn target_field(&mut self, name: &str, target: &mut Target, absent: bool) -> Read<bool> {
        match name {
            "key" => target.key = self.text()?,
            "ifMatch" => target.if_match = Some(self.text()?),
            "ifNoneMatch" if absent => target.if_none_match = Some(self.text()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn target(&mut self, absent: bool) -> Read<Target> {
        let (mut target, mut has_key) = (Target::default(), false);
        self.fields(|body, name| {
            has_key |= name == "key";
            body.target_field(name, &mut target, absent)
        })?;
        if has_key { Ok(target) } else { Err(missing("key")) }
    }

    fn facts_field(&mut self, name: &str, facts: &mut Facts) -> Read<bool> {
        match name {
            "contentType" => facts.content_type = Some(self.text()?),
            "metadata" => {
                let mut metadata = BTreeMap::new();
                self.fields(|body, name| {
                    body.take(1)?;
                    metadata.insert(name.to_owned(), body.text()?);
                    Ok(true)
                })?;
                facts.metadata = Some(metadata);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn put(&mut self) -> Read<Put> {
        let mut put =
            Put { target: Target::default(), contents: Vec::new(), facts: Facts::default() };
        let mut has_key = false;
        self.fields(|body, name| {
            has_key |= name == "key";
            put.contents.push(match name {
                "bytes" => Content::Bytes(body.reader.bytes()?),
                "upload" => Content::Upload(body.upload()?),
                "map" => Content::Map(Box::new(body.map()?)),
                _ => {
                    return Ok(body.target_field(name, &mut put.target, true)?
                        || body.facts_field(name, &mut put.facts)?);
                }
            });
            Ok(true)
        })?;
        if has_key { Ok(put) } else { Err(missing("key")) }
    }

    fn copy(&mut self) -> Read<Copy> {
        let (mut target, mut facts, mut from) = (Target::default(), Facts::default(), None);
        let mut has_key = false;
        self.fields(|body, name| {
            has_key |= name == "key";
            if name == "from" {
                from = Some(body.source(true)?);
                return Ok(true);
            }
            Ok(body.target_field(name, &mut target, true)? || body.facts_field(name, &mut facts)?)
        })?;
        if !has_key {
            return Err(missing("key"));
        }
        Ok(Copy { target, from: from.ok_or_else(|| missing("from"))?, facts })
    }

    /// Reads the source of a copy, or of a mapping, which has a bucket and a key.
    fn source(&mut self, is_copy: bool) -> Read<Source> {
        let (mut source, mut has_key) = (Source::default(), false);
        self.fields(|body, name| {
            has_key |= name == "key";
            match name {
                "key" => source.key = body.text()?,
                "bucket" => source.bucket = Some(body.text()?),
                "version" if is_copy => source.version = Some(body.text()?),
                "ifMatch" if is_copy => source.if_match = Some(body.text()?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if !has_key {
            return Err(missing("key"));
        }
        if !is_copy && source.bucket.is_none() {
            return Err(missing("bucket"));
        }
        Ok(source)
    }

    fn upload(&mut self) -> Read<Upload> {
        let (mut id, mut parts) = (None, None);
        self.fields(|body, name| {
            match name {
                "id" => id = Some(body.text()?),
                "parts" => parts = Some(body.list(Self::part)?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let id = id.ok_or_else(|| missing("id"))?;
        Ok(Upload { id, parts: parts.ok_or_else(|| missing("parts"))? })
    }

    fn part(&mut self) -> Read<(u32, String)> {
        let (mut number, mut etag) = (None, None);
        self.fields(|body, name| {
            match name {
                "number" => number = Some(body.u32()?),
                "etag" => etag = Some(body.text()?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let number = number.ok_or_else(|| missing("number"))?;
        Ok((number, etag.ok_or_else(|| missing("etag"))?))
    }

    fn map(&mut self) -> Read<Map> {
        let (mut cid, mut size, mut from) = (None, None, None);
        let (mut nodes, mut receipts) = (Vec::new(), Vec::new());
        self.fields(|body, name| {
            match name {
                "cid" => cid = Some(body.reader.link()?),
                "size" => size = Some(body.reader.uint()?),
                "nodes" => nodes = body.list(|body| Ok(body.reader.bytes()?))?,
                "receipts" => receipts = body.list(Self::receipt)?,
                "from" => from = Some(body.source(false)?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let cid = cid.ok_or_else(|| missing("cid"))?;
        Ok(Map { cid, size: size.ok_or_else(|| missing("size"))?, nodes, receipts, from })
    }

    fn receipt(&mut self) -> Read<Offered> {
        let (mut receipt, mut blocks) = (None, None);
        self.fields(|body, name| {
            match name {
                "receipt" => receipt = Some(body.text()?),
                "blocks" => {
                    blocks = Some(body.list(|body| {
                        body.reader.tuple(2)?;
                        Ok((body.reader.link()?, body.u32()?))
                    })?);
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let receipt = receipt.ok_or_else(|| missing("receipt"))?;
        Ok(Offered { receipt, blocks: blocks.ok_or_else(|| missing("blocks"))? })
    }
}
