//! Requests and answers that are held whole: what they take of the memory for bodies, so that clients
//! which do not send or read them cannot take all of it (docs/adr/0021).

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use fula_service::{Hangup, Memory, Service, Share};
use http::{Extensions, Response, request::Parts};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use s3s::{S3Result, StdError, s3_error};
use tokio::time::Sleep;

use crate::{error::s3_error, guard};

/// What is taken for a page of names before it is made: a thousand of them take a third, unless they
/// are long.
const PAGE_BYTES: usize = 1 << 20;

/// Counts what is held whole; cloned freely.
#[derive(Clone, Debug)]
pub(crate) struct Whole {
    bodies: Memory,
    /// For bodies that are read before it is known who sent them.
    strangers: Memory,
    /// How long a body may take.
    timeout: Duration,
}

impl Whole {
    pub(crate) fn new(service: &Service, timeout: Duration) -> Self {
        let (bodies, strangers) = (service.memory().clone(), service.strangers().clone());
        Self { bodies, strangers, timeout }
    }

    /// Reads a body whole, up to `bytes_max`, before anybody knows who sent it: all such bodies share
    /// some memory, so that many of them cannot take more.
    pub(crate) async fn collect(
        &self,
        parts: &Parts,
        body: s3s::Body,
        bytes_max: usize,
    ) -> S3Result<(Bytes, Arc<Share>)> {
        let (body, share) = self.watch(parts, body, bytes_max).await?;
        let collected = Limited::new(body, bytes_max).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                guard::too_large(bytes_max)
            } else if error.is::<TooSlow>() {
                s3_error!(RequestTimeout)
            } else {
                s3_error!(IncompleteBody)
            }
        })?;
        share.is_ours();
        Ok((collected.to_bytes(), share))
    }

    /// Counts a body that somebody else reads whole, and ends it when it takes too long.
    pub(crate) async fn watch(
        &self,
        parts: &Parts,
        body: s3s::Body,
        bytes_max: usize,
    ) -> S3Result<(s3s::Body, Arc<Share>)> {
        let announced = body.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
        let bytes = announced.unwrap_or(bytes_max).min(bytes_max);
        let share = self.strangers.take(bytes, parts.extensions.get::<Hangup>()).await;
        let share = Arc::new(share.map_err(s3_error)?);
        let end = Box::pin(tokio::time::sleep(self.timeout));
        let watched = Watched { inner: body, share: Arc::clone(&share), end };
        Ok((s3s::Body::http_body_unsync(watched), share))
    }

    /// Takes memory for a page of names.
    pub(crate) async fn page(&self, extensions: &Extensions) -> S3Result<Share> {
        let share = self.bodies.take(PAGE_BYTES, extensions.get::<Hangup>()).await;
        let share = share.map_err(s3_error)?;
        share.is_ours();
        Ok(share)
    }
}

/// Counts an answer until it is sent, if it is held whole.
pub(crate) fn send(
    mut response: Response<s3s::Body>,
    share: Share,
) -> S3Result<Response<s3s::Body>> {
    if let Some(bytes) = response.body_mut().take_bytes() {
        *response.body_mut() = s3s::Body::from(share.send(bytes).map_err(s3_error)?);
    }
    Ok(response)
}

/// A body that took too long.
#[derive(Debug, thiserror::Error)]
#[error("the body took too long")]
struct TooSlow;

/// A body that is counted, and has to be there in time.
struct Watched {
    inner: s3s::Body,
    share: Arc<Share>,
    end: Pin<Box<Sleep>>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(TooSlow.into())));
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            self.share.moved(frame.data_ref().map_or(0, Bytes::len));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
