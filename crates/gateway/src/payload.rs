//! Bodies of objects and parts as operations take them: without their framing, and held to the hash that
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
        ChunkKey,
        chunks::{Decoded, Framing},
    },
};

/// Returns the content of a body, and puts its length in place of that of the framing. Trailers are put in the
/// extensions.
///
/// # Errors
/// 400 for a framing or a length that is none, 411 for one that is not there.
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
        return Ok(held_to_hash(&parts.headers, body));
    };
    let length = announced.ok_or_else(|| s3_error!(MissingContentLength))?;
    let (body, trailers) =
        Decoded::decode(body, framing, key, length, &parts.headers, lent.clone())?;
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    parts.extensions.insert(trailers);
    Ok(body)
}

/// Returns the length of the content that is framed.
fn decoded_length(headers: &HeaderMap) -> S3Result<Option<u64>> {
    let Some(value) = headers.get("x-amz-decoded-content-length") else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| text.bytes().all(|c| c.is_ascii_digit()));
    let length = text.and_then(|text| text.parse().ok());
    let length = length.ok_or_else(|| {
        s3_error!(InvalidArgument, "x-amz-decoded-content-length is not a number of bytes")
    });
    length.map(Some)
}

/// A body that fails at its end if it is not what was announced.
struct Announced {
    inner: s3s::Body,
    hasher: Sha256,
    expected: Vec<u8>,
    is_done: bool,
}

/// Returns a body that is held to the hash in the headers, if one is there.
fn held_to_hash(headers: &HeaderMap, body: s3s::Body) -> s3s::Body {
    let Some(expected) = headers.get("x-amz-content-sha256").and_then(hex_digest) else {
        return body;
    };
    let hasher = Sha256::new();
    s3s::Body::http_body_unsync(Announced { inner: body, hasher, expected, is_done: false })
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

    /// Never at its end before the hash was looked at.
    fn is_end_stream(&self) -> bool {
        self.is_done
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
