//! Bodies in chunks (`aws-chunked`), which are decoded as they arrive. Each chunk may be signed with the
//! signature before it, the first with that of the request. Checksums may follow as trailers.
//!
//! Bytes are passed on before the signature of their chunk is verified. A body with a wrong signature fails
//! before its end, and nothing of a failed body ever becomes part of an object.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use s3s::{Body, S3Error, S3ErrorCode, S3Result, StdError, s3_error};
use s3s_sigv4::{
    EMPTY_STRING_SHA256_HASH, calculate_signature_with_key, create_trailer_string_to_sign,
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::v4::{ChunkKey, no_hash};
use crate::{error::not_implemented, request_body::Lent};

/// Longest line that begins a chunk, in bytes.
const HEAD_BYTES_MAX: usize = 1024;

/// Largest trailer in bytes, all lines together.
const TRAILER_BYTES_MAX: usize = 16 << 10;

/// The framing of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Chunks without signatures. Trailers may follow.
    Unsigned,
    /// Signed chunks.
    Signed {
        /// Whether trailers follow, which are signed too.
        has_trailer: bool,
    },
}

impl Framing {
    /// Parses the framing of a body from `x-amz-content-sha256`; `None` when there is none.
    ///
    /// # Errors
    /// 501 for signatures with elliptic curves, 400 for unknown keywords.
    pub(crate) fn of(headers: &HeaderMap) -> S3Result<Option<Self>> {
        let value = headers.get("x-amz-content-sha256").map(HeaderValue::as_bytes);
        let Some(word) = value.and_then(|value| value.strip_prefix(b"STREAMING-")) else {
            return Ok(None);
        };
        match word {
            b"UNSIGNED-PAYLOAD-TRAILER" => Ok(Some(Self::Unsigned)),
            b"AWS4-HMAC-SHA256-PAYLOAD" => Ok(Some(Self::Signed { has_trailer: false })),
            b"AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => Ok(Some(Self::Signed { has_trailer: true })),
            word if word.starts_with(b"AWS4-ECDSA-P256-SHA256-PAYLOAD") => {
                Err(not_implemented("The signing method AWS4-ECDSA-P256-SHA256"))
            }
            _ => Err(no_hash()),
        }
    }
}

/// The trailers of a body, once it was read to its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trailers(Arc<Mutex<HeaderMap>>);

impl Trailers {
    /// Returns the value of a trailer.
    pub(crate) fn get(&self, name: &str) -> Option<HeaderValue> {
        self.0.lock().get(name).cloned()
    }
}

/// The reason why a body cannot be decoded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("the framing of the body is malformed or ends too early")]
    Framing,
    // The operation recognises the error by this text.
    #[error("the signature of a chunk is wrong")]
    Signature,
    #[error("the trailer of the body is malformed")]
    Trailer,
}

impl Fault {
    /// Returns the error for the client. The operation itself reports a wrong signature.
    fn told(&self) -> Option<S3Error> {
        match self {
            Self::Framing => Some(s3_error!(IncompleteBody)),
            Self::Signature => None,
            Self::Trailer => {
                let code = S3ErrorCode::Custom("MalformedTrailerError".into());
                let text = "The request contained trailing data that was not well-formed or did not \
                            conform to our published schema.";
                let mut error = S3Error::with_message(code, text);
                error.set_status_code(StatusCode::BAD_REQUEST);
                Some(error)
            }
        }
    }
}

/// Returns whether a body failed because a chunk or the trailer has a wrong signature.
pub(crate) fn is_forged(error: &StdError) -> bool {
    matches!(error.downcast_ref(), Some(Fault::Signature))
}

/// The part that is read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The line that begins a chunk.
    Head,
    /// The remaining bytes of a chunk.
    Data(u64),
    /// The end of the line after a chunk.
    End,
    /// Everything after the last chunk.
    Trailer,
    /// Nothing, because the body ended.
    Done,
}

/// The chain of signatures.
struct Chain {
    key: ChunkKey,
    has_trailer: bool,
    /// Hash of the chunk that is being read.
    hasher: Sha256,
    /// Required signature of the chunk that is being read.
    expected: [u8; 32],
}

impl Chain {
    /// Compares the signature of the chunk that was read, and continues with the next one.
    fn check_chunk(&mut self) -> Result<(), Fault> {
        let ChunkKey { date, region, service, seed, .. } = &self.key;
        let (time, day, seed) = (date.fmt_iso8601(), date.fmt_date(), hex::encode(seed));
        let hash = hex::encode(self.hasher.finalize_reset());
        let text = format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{time}\n{day}/{region}/{service}/aws4_request\n{seed}\n\
             {EMPTY_STRING_SHA256_HASH}\n{hash}"
        );
        self.check(&text, self.expected)
    }

    fn check_trailer(&mut self, canonical: &[u8], signature: &[u8]) -> Result<(), Fault> {
        let ChunkKey { date, region, service, seed, .. } = &self.key;
        let text =
            create_trailer_string_to_sign(date, region, service, &hex::encode(seed), canonical);
        let expected = signature_of(signature).ok_or(Fault::Signature)?;
        self.check(&text, expected)
    }

    fn check(&mut self, text: &str, expected: [u8; 32]) -> Result<(), Fault> {
        let found = calculate_signature_with_key(text, &self.key.key);
        if !bool::from(found.ct_eq(&expected)) {
            return Err(Fault::Signature);
        }
        self.key.seed = found;
        Ok(())
    }
}

fn signature_of(text: &[u8]) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

/// A body without its framing.
pub(crate) struct Decoded {
    inner: Body,
    /// Bytes that were received and not decoded yet.
    received: Bytes,
    /// Beginning of a line, or of the trailer.
    line: Vec<u8>,
    part: Part,
    chain: Option<Chain>,
    /// Number of content bytes that are still to come.
    left: u64,
    /// Names of the announced trailers.
    announced: HashSet<HeaderName>,
    trailers: Trailers,
    lent: Lent,
}

impl Decoded {
    /// Decodes a body. `length` is the length of the content according to the client.
    ///
    /// # Errors
    /// 400 for invalid names of trailers.
    pub(crate) fn decode(
        inner: Body,
        framing: Framing,
        key: Option<ChunkKey>,
        length: u64,
        headers: &HeaderMap,
        lent: Lent,
    ) -> S3Result<(Body, Trailers)> {
        let chain = match (framing, key) {
            (Framing::Unsigned, _) => None,
            (Framing::Signed { has_trailer }, Some(key)) => {
                Some(Chain { key, has_trailer, hasher: Sha256::new(), expected: [0; 32] })
            }
            (Framing::Signed { .. }, None) => return Err(no_hash()),
        };
        let announced = announced(headers)?;
        let trailers = Trailers::default();
        let decoded = Self {
            inner,
            received: Bytes::new(),
            line: Vec::new(),
            part: Part::Head,
            chain,
            left: length,
            announced,
            trailers: trailers.clone(),
            lent,
        };
        Ok((Body::http_body_unsync(decoded), trailers))
    }

    /// Decodes what was received. Returns content, if there is some.
    fn advance(&mut self) -> Result<Option<Bytes>, Fault> {
        while !self.received.is_empty() {
            match self.part {
                Part::Head => {
                    if let Some(line) = self.take_line()? {
                        self.begin(&line)?;
                    }
                }
                Part::Data(0) => self.part = Part::End,
                Part::Data(left) => {
                    let length = usize::try_from(left).unwrap_or(usize::MAX);
                    let data = self.received.split_to(length.min(self.received.len()));
                    if let Some(chain) = &mut self.chain {
                        chain.hasher.update(&data);
                    }
                    self.part = Part::Data(left - data.len() as u64);
                    return Ok(Some(data));
                }
                Part::End => {
                    if let Some(line) = self.take_line()? {
                        self.end_chunk(&line)?;
                    }
                }
                Part::Trailer => {
                    if self.line.len() + self.received.len() > TRAILER_BYTES_MAX {
                        return Err(Fault::Trailer);
                    }
                    self.line.extend_from_slice(&self.received);
                    self.received.clear();
                }
                Part::Done => return Err(Fault::Framing),
            }
        }
        Ok(None)
    }

    /// Returns a line without its end, once it is complete.
    fn take_line(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let end = self.received.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(self.received.len(), |end| end + 1);
        if self.line.len() + taken > HEAD_BYTES_MAX {
            return Err(Fault::Framing);
        }
        self.line.extend_from_slice(&self.received[..taken]);
        self.received.advance(taken);
        if end.is_none() {
            return Ok(None);
        }
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r\n").ok_or(Fault::Framing)?;
        Ok(Some(line.to_vec()))
    }

    /// Parses the line that begins a chunk: its length in hex, and its signature.
    fn begin(&mut self, line: &[u8]) -> Result<(), Fault> {
        let line = std::str::from_utf8(line).map_err(|_| Fault::Framing)?;
        let (length, extension) = line.split_once(';').unwrap_or((line, ""));
        let is_hex = !length.is_empty() && length.bytes().all(|c| c.is_ascii_hexdigit());
        let length = u64::from_str_radix(length, 16).ok().filter(|_| is_hex);
        let length = length.filter(|length| *length <= self.left).ok_or(Fault::Framing)?;
        self.left -= length;
        if let Some(chain) = &mut self.chain {
            let signature = extension.strip_prefix("chunk-signature=").ok_or(Fault::Framing)?;
            chain.expected = signature_of(signature.as_bytes()).ok_or(Fault::Signature)?;
        }
        self.part = if length > 0 { Part::Data(length) } else { Part::Trailer };
        if length == 0 {
            // The content is shorter than announced.
            if self.left > 0 {
                return Err(Fault::Framing);
            }
            self.check_chunk()?;
        }
        Ok(())
    }

    fn end_chunk(&mut self, line: &[u8]) -> Result<(), Fault> {
        if !line.is_empty() {
            return Err(Fault::Framing);
        }
        self.check_chunk()?;
        self.part = Part::Head;
        Ok(())
    }

    fn check_chunk(&mut self) -> Result<(), Fault> {
        self.chain.as_mut().map_or(Ok(()), Chain::check_chunk)
    }

    /// Parses the trailers at the end of the body.
    fn finish(&mut self) -> Result<(), Fault> {
        match self.part {
            Part::Trailer => {}
            Part::Done => return Ok(()),
            _ => return Err(Fault::Framing),
        }
        self.part = Part::Done;
        let (found, signature) = parse_trailer(&std::mem::take(&mut self.line))?;
        match &mut self.chain {
            Some(chain) if chain.has_trailer && signature.is_some() => {
                chain.check_trailer(&canonical(&found), &signature.unwrap_or_default())?;
            }
            // The trailer is not signed.
            Some(_) if !found.is_empty() => return Err(Fault::Trailer),
            _ => {}
        }
        let names: HashSet<HeaderName> = found.iter().map(|(name, _)| name.clone()).collect();
        if names != self.announced || names.len() != found.len() {
            return Err(Fault::Trailer);
        }
        *self.trailers.0.lock() = found.into_iter().collect();
        Ok(())
    }
}

/// Returns the names of the trailers that a request announces.
fn announced(headers: &HeaderMap) -> S3Result<HashSet<HeaderName>> {
    let Some(value) = headers.get("x-amz-trailer") else { return Ok(HashSet::new()) };
    let names = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let names = names.filter(|name| !name.is_empty()).map(HeaderName::from_bytes);
    let names: Result<_, _> = names.collect();
    names.map_err(|_| {
        s3_error!(
            InvalidRequest,
            "The value specified in the x-amz-trailer header is not supported"
        )
    })
}

/// Parses `name:value` lines. The signature of the others is returned separately.
#[expect(clippy::type_complexity, reason = "trailers, and their signature")]
fn parse_trailer(text: &[u8]) -> Result<(Vec<(HeaderName, HeaderValue)>, Option<Vec<u8>>), Fault> {
    let (mut found, mut signature) = (Vec::new(), None);
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Fault::Trailer)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let name = HeaderName::from_bytes(name).map_err(|_| Fault::Trailer)?;
        if name == "x-amz-trailer-signature" {
            if signature.replace(value.to_vec()).is_some() {
                return Err(Fault::Trailer);
            }
            continue;
        }
        found.push((name, HeaderValue::from_bytes(value).map_err(|_| Fault::Trailer)?));
    }
    found.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
    Ok((found, signature))
}

/// Returns trailers in the form that is signed.
fn canonical(found: &[(HeaderName, HeaderValue)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in found {
        out.extend_from_slice(name.as_str().as_bytes());
        out.push(b':');
        out.extend_from_slice(value.as_bytes());
        out.push(b'\n');
    }
    out
}

impl http_body::Body for Decoded {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        loop {
            let fault = match self.advance() {
                Ok(Some(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(None) => match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                    Some(Ok(frame)) => {
                        self.received = frame.into_data().unwrap_or_default();
                        continue;
                    }
                    Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                    None => match self.finish() {
                        Ok(()) => return Poll::Ready(None),
                        Err(fault) => fault,
                    },
                },
                Err(fault) => fault,
            };
            self.part = Part::Done;
            self.received.clear();
            if let Some(error) = fault.told() {
                self.lent.note_fault(error);
            }
            return Poll::Ready(Some(Err(fault.into())));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.part == Part::Done && self.received.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests;
