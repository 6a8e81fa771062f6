//! Bodies held to the hash that `x-amz-content-sha256` announces, where s3s verifies no signature
//! and so does not look at it: with a bearer token.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use s3s::StdError;
use sha2::{Digest, Sha256};

use crate::digest::hex_digest;

/// A body that fails at its end if it is not what was announced.
struct Announced {
    inner: s3s::Body,
    hasher: Sha256,
    expected: Vec<u8>,
    is_done: bool,
}

/// Returns a body that is held to the hash in the headers, if one is there.
pub(crate) fn held_to_hash(headers: &HeaderMap, body: s3s::Body) -> s3s::Body {
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
