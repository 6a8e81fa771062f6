//! Streamed bodies of objects and parts: without their framing, and checked against the hash that
//! `x-amz-content-sha256` announces.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header, request::Parts};
use http_body::{Body, Frame, SizeHint};
use s3s::{S3Result, StdError, s3_error};
use sha2::{Digest, Sha256};

use crate::{
    digest::hex_digest,
    request_body::Lent,
    signature::{
        CONTENT_HASH, ChunkKey, UNSIGNED,
        chunks::{Decoded, Framing},
        no_hash,
    },
};

/// Returns the content of a body, and replaces the length of the framing by that of the content. Trailers
/// are put into the extensions.
///
/// # Errors
/// 400 for a malformed framing or length, 411 for a missing length.
pub(crate) fn streamed(
    parts: &mut Parts,
    body: s3s::Body,
    key: Option<ChunkKey>,
    lent: &Lent,
) -> S3Result<s3s::Body> {
    let announced = decoded_length(&parts.headers)?;
    let Some(framing) = Framing::of(&parts.headers)? else {
        if let Some(length) = announced
            && !parts.headers.contains_key(header::CONTENT_LENGTH)
        {
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        return held_to_hash(&parts.headers, body);
    };
    let length = announced.ok_or_else(|| s3_error!(MissingContentLength))?;
    let (body, trailers) =
        Decoded::decode(body, framing, key, length, &parts.headers, lent.clone())?;
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    parts.extensions.insert(trailers);
    Ok(body)
}

/// Returns the content of a body that will be buffered. An empty one has no framing.
///
/// # Errors
/// The errors of [`streamed`].
pub(crate) fn unframed(
    parts: &mut Parts,
    body: s3s::Body,
    key: Option<ChunkKey>,
    lent: &Lent,
) -> S3Result<s3s::Body> {
    let is_framed = Framing::of(&parts.headers)?.is_some() && !body.is_end_stream();
    if is_framed { streamed(parts, body, key, lent) } else { Ok(body) }
}

/// Returns the hash that `x-amz-content-sha256` announces of the body as it is sent, if it announces one.
///
/// # Errors
/// 400 for a value that is neither a hash nor a known keyword; 501 for a keyword that is not supported.
pub(crate) fn announced_hash(headers: &HeaderMap) -> S3Result<Option<Vec<u8>>> {
    let Some(value) = headers.get(CONTENT_HASH) else { return Ok(None) };
    if value == UNSIGNED || Framing::of(headers)?.is_some() {
        return Ok(None);
    }
    hex_digest(value).map(Some).ok_or_else(no_hash)
}

/// Returns the length of the content inside the framing.
fn decoded_length(headers: &HeaderMap) -> S3Result<Option<u64>> {
    let Some(value) = headers.get("x-amz-decoded-content-length") else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| text.bytes().all(|c| c.is_ascii_digit()));
    let length = text.and_then(|text| text.parse().ok());
    let length = length.ok_or_else(|| {
        s3_error!(InvalidArgument, "x-amz-decoded-content-length is not a number of bytes")
    });
    length.map(Some)
}

/// A body that fails at its end if it does not match its announced hash.
struct Announced {
    inner: s3s::Body,
    hasher: Sha256,
    expected: Vec<u8>,
    is_done: bool,
}

/// Returns a body that is checked against the hash in the headers, if there is one.
fn held_to_hash(headers: &HeaderMap, body: s3s::Body) -> S3Result<s3s::Body> {
    let Some(expected) = announced_hash(headers)? else { return Ok(body) };
    let announced = Announced { inner: body, hasher: Sha256::new(), expected, is_done: false };
    Ok(s3s::Body::http_body_unsync(announced))
}

impl Body for Announced {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        if self.is_done {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.hasher.update(data);
        }
        if frame.is_some() {
            return Poll::Ready(frame);
        }
        self.is_done = true;
        let found = self.hasher.finalize_reset();
        let is_right = found.as_slice() == self.expected;
        Poll::Ready((!is_right).then(|| Err("the body has another SHA256 than announced".into())))
    }

    /// Reports the end of the body only after the hash was checked.
    fn is_end_stream(&self) -> bool {
        self.is_done
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::{BodyExt, Collected};

    use super::*;

    fn parts(headers: &[(&'static str, &str)]) -> Parts {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_hash_is_one_or_a_word_for_none() {
        let announced = |value: &str| {
            let hash = announced_hash(&parts(&[(CONTENT_HASH, value)]).headers);
            hash.map_err(|error| error.code().as_str().to_owned())
        };
        assert_eq!(announced(&"0a".repeat(32)), Ok(Some(vec![10; 32])));
        for word in [UNSIGNED, "STREAMING-UNSIGNED-PAYLOAD-TRAILER"] {
            assert_eq!(announced(word), Ok(None), "{word}");
        }
        assert!(matches!(announced_hash(&HeaderMap::new()), Ok(None)));
        let short = "0".repeat(63);
        for none in ["", &short, "unsigned-payload", "UNSIGNED", "STREAMING-", "é"] {
            assert_eq!(announced(none), Err("InvalidArgument".to_owned()), "{none}");
        }
        let wrong = parts(&[(CONTENT_HASH, &short), ("content-length", "1")]);
        let body = s3s::Body::from(Bytes::from_static(b"x"));
        assert!(streamed(&mut wrong.clone(), body, None, &Lent::default()).is_err());
    }

    #[tokio::test]
    async fn a_framed_body_that_is_read_whole_is_taken_apart() {
        let framed = [
            (CONTENT_HASH, "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
            ("x-amz-decoded-content-length", "0"),
        ];
        let read = async |text: &'static str| {
            let (mut parts, lent) = (parts(&framed), Lent::default());
            let body = s3s::Body::from(Bytes::from_static(text.as_bytes()));
            let body = unframed(&mut parts, body, None, &lent).unwrap();
            let content = body.collect().await.map(Collected::to_bytes);
            content.map_err(|_| lent.take_fault().unwrap().code().as_str().to_owned())
        };
        for empty in ["", "0\r\n\r\n"] {
            assert_eq!(read(empty).await, Ok(Bytes::new()), "{empty}");
        }
        for other in ["<Delete/>", "9\r\n<Delete/>\r\n0\r\n\r\n", "0\r\n<Delete/>\r\n"] {
            assert!(read(other).await.is_err(), "{other}");
        }
    }
}
