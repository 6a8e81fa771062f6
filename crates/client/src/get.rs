//! Reading objects. A body that breaks off is continued where it ended, and its checksum is verified.

use std::{ops::Range, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{Stream, stream};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::{
    checksum::Crc,
    client::{Bucket, Client, Opened},
    error::{Error, Outcome, Result},
    meta::Meta,
    request::{Request, header},
    retry,
    send::Meter,
};

/// Options of a read.
#[derive(Clone, Debug, Default)]
pub struct GetOptions {
    /// Bytes to read; everything by default.
    pub range: Option<Span>,
    /// Entity tag that the object must have, without quotes.
    pub if_match: Option<String>,
    /// Entity tag that the object must not have, without quotes.
    pub if_none_match: Option<String>,
    /// Counts the bytes that arrive.
    pub meter: Option<Meter>,
}

/// A range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// From the first to before the second.
    Between(u64, u64),
    /// From here to the end.
    From(u64),
    /// This many at the end.
    Last(u64),
}

impl Span {
    fn header(self) -> Result<String> {
        match self {
            Self::Between(from, to) if from < to => Ok(format!("bytes={from}-{}", to - 1)),
            Self::Between(..) | Self::Last(0) => {
                Err(Error::Invalid("a range has at least one byte".to_owned()))
            }
            Self::From(from) => Ok(format!("bytes={from}-")),
            Self::Last(count) => Ok(format!("bytes=-{count}")),
        }
    }
}

/// An object that is being read.
#[derive(Debug)]
pub struct Get {
    /// What is known of the object.
    pub meta: Meta,
    /// The bytes that are read.
    pub range: Range<u64>,
    client: Client,
    request: Request,
    body: Incoming,
    /// Offset of the next byte.
    next: u64,
    /// Checksum so far, if the whole object is read and the server keeps a checksum.
    crc: Option<Crc>,
    /// Attempts since a byte arrived.
    attempt: u32,
    meter: Meter,
}

impl Bucket {
    /// Reads an object. The answer has arrived when this returns; the body is read piece by piece.
    ///
    /// If the body breaks off, the rest is asked for with `If-Match`, so no bytes of another version are
    /// mixed in. If the whole object is read, its CRC-64/NVME is verified at the end.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Changed`], [`Error::NotModified`], and as for every request.
    pub async fn get(&self, key: &str, options: GetOptions) -> Result<Get> {
        let request = Request::of_object(Method::GET, self.name(), key)?
            .header("x-amz-checksum-mode", "ENABLED")
            .maybe("if-match", options.if_match.map(|etag| format!("\"{etag}\"")))
            .maybe("if-none-match", options.if_none_match.map(|etag| format!("\"{etag}\"")));
        let span = options.range.map(Span::header).transpose()?;
        let first = request.clone().maybe("range", span.as_deref());
        let Opened { status, headers, body } = self.client().open(&first).await?;
        let (range, size) = range_of(&request.what, status, &headers)?;
        let meta = Meta::of(&headers, size);
        let is_whole = range == (0..size) && meta.crc64nvme.is_some();
        let next = range.start;
        Ok(Get {
            meta,
            range,
            client: self.client().clone(),
            request,
            body,
            next,
            crc: is_whole.then(Crc::default),
            attempt: 0,
            meter: options.meter.unwrap_or_default(),
        })
    }

    /// Returns what is known of an object, without its content.
    ///
    /// # Errors
    /// [`Error::NotFound`], and as for every request.
    pub async fn head(&self, key: &str) -> Result<Meta> {
        let request = Request::of_object(Method::HEAD, self.name(), key)?
            .header("x-amz-checksum-mode", "ENABLED");
        let answer = self.client().send(&request).await?;
        let size = header(&answer.headers, "content-length").and_then(|text| text.parse().ok());
        let size = size.ok_or_else(|| strange(&request.what, "it names no length"))?;
        Ok(Meta::of(&answer.headers, size))
    }
}

fn strange(what: &str, why: &str) -> Error {
    let code = "InvalidAnswer".to_owned();
    Error::Http {
        what: what.to_owned(),
        status: 200,
        code,
        why: format!("the answer is malformed: {why}"),
    }
}

/// Returns the bytes that an answer has, and the length of the object.
fn range_of(what: &str, status: StatusCode, headers: &HeaderMap) -> Result<(Range<u64>, u64)> {
    let length = header(headers, "content-length").and_then(|text| text.parse::<u64>().ok());
    let length = length.ok_or_else(|| strange(what, "it names no length"))?;
    if status != StatusCode::PARTIAL_CONTENT {
        return Ok((0..length, length));
    }
    let range = header(headers, "content-range").and_then(|text| {
        let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (from, to) = range.split_once('-')?;
        let (from, to, size) = (from.parse().ok()?, to.parse::<u64>().ok()?, size.parse().ok()?);
        let end = to.checked_add(1).filter(|end| *end <= size)?;
        (end.checked_sub(from)? == length).then_some((from..end, size))
    });
    range.ok_or_else(|| strange(what, "its range is not that of its length"))
}

impl Get {
    /// Returns the next bytes, or `None` at the end.
    ///
    /// # Errors
    /// [`Error::Changed`] if the object was overwritten while it was read; [`Error::Damaged`] if the
    /// checksum is wrong; [`Error::Unavailable`]. Nothing more can be read after an error.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.next == self.range.end {
                return self.verify().map(|()| None);
            }
            let idle = self.client.idle_timeout();
            let why = match tokio::time::timeout(idle, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if data.is_empty() {
                        continue;
                    }
                    return self.take(data).map(Some);
                }
                Ok(Some(Err(error))) => error.to_string(),
                Ok(None) => "the answer ended early".to_owned(),
                Err(_) => format!("no byte arrived for {} s", idle.as_secs_f32()),
            };
            self.resume(why).await?;
        }
    }

    fn take(&mut self, data: Bytes) -> Result<Bytes> {
        self.next += data.len() as u64;
        if self.next > self.range.end {
            return Err(strange(&self.request.what, "it has more bytes than it names"));
        }
        self.attempt = 0;
        self.meter.add(data.len() as u64);
        if let Some(crc) = &mut self.crc {
            crc.update(&data);
        }
        Ok(data)
    }

    fn verify(&mut self) -> Result<()> {
        let Some(crc) = self.crc.take() else { return Ok(()) };
        if self.meta.crc64nvme.as_deref().is_some_and(|expected| expected != crc.text()) {
            return Err(Error::Damaged {
                what: self.request.what.clone(),
                why: "the bytes that arrived do not match the checksum of the object".to_owned(),
            });
        }
        Ok(())
    }

    /// Asks for the rest.
    async fn resume(&mut self, why: String) -> Result<()> {
        let policy = self.client.retry_policy();
        self.attempt += 1;
        if self.attempt >= policy.attempts {
            let what = self.request.what.clone();
            return Err(Error::Unavailable { what, outcome: Outcome::None, why });
        }
        let pause: Duration = policy.pause(self.attempt, None, retry::random());
        tokio::time::sleep(pause).await;
        let mut request = self.request.clone();
        request.headers.retain(|(name, _)| name != "if-none-match" && name != "if-match");
        let request = request
            .header("if-match", format!("\"{}\"", self.meta.version.etag))
            .header("range", format!("bytes={}-{}", self.next, self.range.end - 1));
        let Opened { status, headers, body } = self.client.open(&request).await?;
        let (range, size) = range_of(&request.what, status, &headers)?;
        if (range, size) != (self.next..self.range.end, self.meta.size) {
            return Err(strange(&request.what, "it is not the rest that was asked for"));
        }
        self.body = body;
        Ok(())
    }

    /// Reads everything into memory, up to `max` bytes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is more, and as for [`Self::chunk`].
    pub async fn bytes(mut self, max: usize) -> Result<Bytes> {
        let length = self.range.end - self.range.start;
        let Some(length) = usize::try_from(length).ok().filter(|length| *length <= max) else {
            let what = &self.request.what;
            return Err(Error::Invalid(format!(
                "{what} has {length} bytes, and {max} are the most"
            )));
        };
        let mut whole = BytesMut::with_capacity(length);
        while let Some(data) = self.chunk().await? {
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }

    /// Returns the bytes as a stream, which ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
        stream::try_unfold(self, |mut get| async {
            let chunk = get.chunk().await?;
            Ok(chunk.map(|chunk| (chunk, get)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_answers_are_checked() {
        let of = |status, range: &str, length: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("content-range", range.parse().unwrap());
            headers.insert("content-length", length.parse().unwrap());
            range_of("b/k", status, &headers).ok()
        };
        let partial = StatusCode::PARTIAL_CONTENT;
        assert_eq!(of(partial, "bytes 2-4/10", "3"), Some((2..5, 10)));
        assert_eq!(of(StatusCode::OK, "", "3"), Some((0..3, 3)));
        for (range, length) in [
            ("bytes 2-4/10", "4"),
            ("bytes 2-10/10", "9"),
            ("bytes 4-2/10", "3"),
            ("bytes 0-18446744073709551615/10", "0"),
            ("nonsense", "3"),
        ] {
            assert_eq!(of(partial, range, length), None, "{range} {length}");
        }
    }

    #[test]
    fn spans_are_written_as_headers() {
        assert_eq!(Span::Between(2, 5).header().unwrap(), "bytes=2-4");
        assert_eq!(Span::From(2).header().unwrap(), "bytes=2-");
        assert_eq!(Span::Last(2).header().unwrap(), "bytes=-2");
        assert!(Span::Between(2, 2).header().is_err() && Span::Last(0).header().is_err());
    }
}
