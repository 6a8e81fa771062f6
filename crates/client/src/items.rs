//! The stream of items that answers `?fula-list` and `?fula-changes` (docs/format.md, ADR 0057), read while it arrives.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use fula_core::cbor::{Invalid, Reader};
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::{
    client::{Bucket, Opened},
    error::{Error, Outcome, Result},
    request::{Request, header},
};

/// Media type of the stream.
const CBOR_SEQ: &str = "application/cbor-seq";

/// Longest item of the stream in bytes: a key and a metadata value.
const ITEM_BYTES_MAX: usize = 64 << 10;

/// What a listing tells about the metadata value that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The value.
    Value(String),
    /// The object has no such value, or the caller may not read the object.
    Nothing,
    /// The server tells no values in listings, or none was asked for.
    Unasked,
}

/// An object of a listing with values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Key.
    pub key: String,
    /// Length of the content in bytes.
    pub size: u64,
    /// Entity tag, without quotes.
    pub etag: String,
    /// Time of the last write.
    pub modified: Option<SystemTime>,
    /// The metadata value that was asked for.
    pub value: Told,
}

/// A stream of items under way.
pub(crate) struct ItemStream {
    bucket: Bucket,
    body: Incoming,
    pub(crate) items: Items,
}

impl ItemStream {
    /// Sends a request for a stream; `is_asked` says that it names a metadata value. Returns `None` if the server
    /// answers with something else: one that does not know the query parameter lists in pages in spite of it.
    ///
    /// # Errors
    /// As for every request.
    pub(crate) async fn open(
        bucket: &Bucket,
        request: &Request,
        is_asked: bool,
    ) -> Result<Option<Self>> {
        let Opened { headers, body, .. } = bucket.client().open(request).await?;
        let is_stream =
            header(&headers, CONTENT_TYPE.as_str()).is_some_and(|kind| kind == CBOR_SEQ);
        let items = Items { is_asked, ..Items::default() };
        Ok(is_stream.then(|| Self { bucket: bucket.clone(), body, items }))
    }

    /// Reads more items, until [`Items::is_done`].
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the stream broke off; [`Error::Http`] if it is malformed.
    pub(crate) async fn read(&mut self) -> Result<()> {
        let idle = self.bucket.client().idle_timeout();
        let what = || self.bucket.name().to_owned();
        let why = match tokio::time::timeout(idle, self.body.frame()).await {
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { return Ok(()) };
                return self.items.push(&data).map_err(|Invalid(why)| malformed(&what(), why));
            }
            Ok(Some(Err(error))) => error.to_string(),
            Ok(None) => "the listing was cut off".to_owned(),
            Err(_) => format!("no byte arrived for {} s", idle.as_secs_f32()),
        };
        Err(Error::Unavailable { what: what(), outcome: Outcome::None, why })
    }

    /// Reads the stream to its end.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub(crate) async fn all(mut self) -> Result<Items> {
        while !self.items.is_done {
            self.read().await?;
        }
        Ok(self.items)
    }
}

fn malformed(what: &str, why: &str) -> Error {
    Error::Http {
        what: what.to_owned(),
        status: 200,
        code: "InvalidAnswer".to_owned(),
        why: format!("the listing is malformed: {why}"),
    }
}

/// Items that arrived.
#[derive(Default)]
pub(crate) struct Items {
    held: BytesMut,
    /// Objects that were not taken yet.
    pub(crate) found: VecDeque<Listed>,
    /// Keys that are gone.
    pub(crate) removed: Vec<String>,
    /// Version of the bucket, once the first item arrived.
    pub(crate) version: Option<u64>,
    /// Number of objects and removed keys so far.
    count: u64,
    is_asked: bool,
    /// Whether the last item arrived.
    pub(crate) is_done: bool,
}

impl Items {
    fn push(&mut self, data: &[u8]) -> std::result::Result<(), Invalid> {
        self.held.extend_from_slice(data);
        let all: Bytes = self.held.split().freeze();
        let mut at = 0;
        while at < all.len() && !self.is_done {
            let mut reader = Reader::at(&all, at);
            match self.item(&mut reader) {
                Ok(()) => at = reader.position(),
                // The rest of the item comes with the next bytes.
                Err(Invalid::CUT_OFF) if all.len() - at <= ITEM_BYTES_MAX => break,
                Err(error) => return Err(error),
            }
        }
        self.held.extend_from_slice(&all[at..]);
        Ok(())
    }

    fn item(&mut self, reader: &mut Reader<'_>) -> std::result::Result<(), Invalid> {
        let fields = reader.array()?;
        match (reader.uint()?, fields) {
            (0, 5) => {
                let version = reader.uint()?;
                reader.link()?;
                // The version that changes begin with; a listing has none.
                reader.value()?;
                reader.value()?;
                self.version = Some(version);
            }
            (1, 8) => {
                let listed = self.object(reader)?;
                self.found.push_back(listed);
                self.count += 1;
            }
            (2, 3) => {
                let key = reader.text()?.to_owned();
                reader.value()?;
                self.removed.push(key);
                self.count += 1;
            }
            (3, 3) => {
                let count = reader.uint()?;
                reader.value()?;
                if count != self.count {
                    return Err(Invalid("objects are missing"));
                }
                if self.version.is_none() {
                    return Err(Invalid("it has no begin"));
                }
                self.is_done = true;
            }
            _ => return Err(Invalid("an item is of an unknown kind")),
        }
        Ok(())
    }

    fn object(&self, reader: &mut Reader<'_>) -> std::result::Result<Listed, Invalid> {
        let (key, size, etag) = (reader.text()?, reader.uint()?, reader.text()?);
        let millis = Duration::from_millis(reader.uint()?);
        // Version and index, which together name a version of the object.
        reader.value()?;
        let value = match (reader.null(), self.is_asked) {
            (true, true) => Told::Nothing,
            (true, false) => Told::Unasked,
            (false, _) => Told::Value(reader.text()?.to_owned()),
        };
        reader.value()?;
        let (key, etag) = (key.to_owned(), etag.trim_matches('"').to_owned());
        Ok(Listed { key, size, etag, modified: UNIX_EPOCH.checked_add(millis), value })
    }
}

#[cfg(test)]
mod tests {
    use fula_core::{Cid, Codec, cbor::Writer};

    use super::*;

    fn begin(out: &mut Writer) {
        out.array(5).uint(0).uint(7).link(&Cid::of(Codec::DagCbor, b"root")).null().map(0);
    }

    #[test]
    fn items_are_read_in_pieces_of_any_size() {
        let mut out = Writer::default();
        begin(&mut out);
        for (key, value) in [("a", Some("5.5")), ("b", None)] {
            out.array(8).uint(1).text(key).uint(9).text("etag").uint(1500);
            out.array(2).uint(7).uint(0);
            match value {
                Some(value) => out.text(value),
                None => out.null(),
            };
            out.map(0);
        }
        out.array(3).uint(2).text("gone").map(0);
        out.array(3).uint(3).uint(3).map(0);
        let bytes = out.finish();
        for (step, is_asked) in [(1, true), (2, false), (7, true), (bytes.len(), true)] {
            let mut items = Items { is_asked, ..Items::default() };
            for piece in bytes.chunks(step) {
                items.push(piece).unwrap();
            }
            assert!(items.is_done && items.found.len() == 2 && items.version == Some(7));
            assert_eq!(items.removed, ["gone"]);
            let first = &items.found[0];
            let found = (first.key.as_str(), first.size, first.etag.as_str(), &first.value);
            assert_eq!(found, ("a", 9, "etag", &Told::Value("5.5".to_owned())));
            assert_eq!(first.modified, UNIX_EPOCH.checked_add(Duration::from_millis(1500)));
            let nothing = if is_asked { Told::Nothing } else { Told::Unasked };
            assert_eq!(items.found[1].value, nothing);
        }
    }

    #[test]
    fn a_stream_that_is_not_whole_is_refused() {
        let end = |count| {
            let mut out = Writer::default();
            begin(&mut out);
            out.array(3).uint(3).uint(count).map(0);
            Items::default().push(&out.finish())
        };
        assert!(end(0).is_ok());
        assert!(end(1).is_err(), "an object is missing");
        assert!(Items::default().push(&[0x83, 3, 0, 0xa0]).is_err(), "it has no begin");
        assert!(Items::default().push(&[0x81, 9]).is_err());
    }
}
