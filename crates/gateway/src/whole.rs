//! Requests and answers that are held whole: what they take of the memory for bodies, so that clients
//! which do not send or read them cannot take all of it (docs/adr/0021).

use std::time::Duration;

use bytes::Bytes;
use fula_service::{Hangup, Memory, Service, Share};
use http::{Extensions, Response, request::Parts};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use s3s::{S3Result, s3_error};

use crate::{error::s3_error, guard, http::respond};

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
    ) -> S3Result<(Bytes, Share)> {
        let announced = body.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
        let bytes = announced.unwrap_or(bytes_max).min(bytes_max);
        let share = self.strangers.take(bytes, parts.extensions.get::<Hangup>()).await;
        let share = share.map_err(s3_error)?;
        let noted = body.map_frame(|frame| {
            share.moved(frame.data_ref().map_or(0, Bytes::len));
            frame
        });
        let collected = Limited::new(noted, bytes_max).collect();
        let collected = tokio::time::timeout(self.timeout, collected).await;
        let collected = collected.map_err(|_| s3_error!(RequestTimeout))?;
        let collected = collected.map_err(|error| match error.downcast::<LengthLimitError>() {
            Ok(_) => guard::too_large(bytes_max),
            Err(_) => s3_error!(IncompleteBody),
        })?;
        share.is_ours();
        Ok((collected.to_bytes(), share))
    }

    /// Takes memory for a page of names.
    pub(crate) async fn page(&self, extensions: &Extensions) -> S3Result<Share> {
        let share = self.bodies.take(PAGE_BYTES, extensions.get::<Hangup>()).await;
        let share = share.map_err(s3_error)?;
        share.is_ours();
        Ok(share)
    }
}

/// Counts an answer until it is sent, if it is held whole. One that takes too much is replaced by an error,
/// unless it tells what a change has done.
pub(crate) fn send(
    mut response: Response<s3s::Body>,
    share: Share,
    is_change: bool,
) -> Response<s3s::Body> {
    if let Some(bytes) = response.body().bytes() {
        match share.send(bytes.clone()) {
            Ok(counted) => *response.body_mut() = s3s::Body::from(counted),
            Err(_) if is_change => {}
            Err(error) => return respond(s3_error(error)),
        }
    }
    response
}
