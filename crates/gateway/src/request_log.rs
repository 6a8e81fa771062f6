//! The request log: one line for each request once its answer was sent, under the target `fula::requests`. It
//! says who asked for what, the outcome, the bytes of both bodies, and the time that it took.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Method, Response, header};
use http_body::{Body as _, Frame, SizeHint};
use s3s::{Body, StdError};
use tokio::time::Instant;

use crate::request::{Operation, Peer};

/// What the line of a request contains in addition to the answer.
#[derive(Debug)]
pub(crate) struct Line {
    /// Id of the request; empty where requests have none.
    pub(crate) request_id: String,
    /// The client, unless it is unknown.
    pub(crate) peer: Option<Peer>,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) operation: Arc<Operation>,
    /// Bytes of the request body that were read.
    pub(crate) received: u64,
    /// When the headers had arrived.
    pub(crate) started: Instant,
}

/// Counts a request, and logs it once the body of its answer was sent or given up.
pub(crate) fn follow(response: Response<Body>, line: Line) -> Response<Body> {
    let status = response.status().as_u16();
    let answered = line.started.elapsed();
    let operation = line.operation.name().to_owned();
    let labels = [("operation", operation.clone()), ("status", status.to_string())];
    metrics::counter!("fula_requests_total", &labels).increment(1);
    metrics::histogram!("fula_request_seconds", "operation" => operation)
        .record(answered.as_secs_f64());
    metrics::counter!("fula_received_bytes_total").increment(line.received);
    let mut sending = Sending { line, status, micros: micros(answered), sent: 0, expected: None };
    let (parts, body) = response.into_parts();
    if let Some(bytes) = body.bytes() {
        sending.sent = bytes.len() as u64;
        sending.expected = Some(sending.sent);
        drop(sending);
        return Response::from_parts(parts, Body::from(bytes));
    }
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|text| text.to_str().ok());
    sending.expected = length.and_then(|text| text.parse().ok()).or(body.size_hint().exact());
    Response::from_parts(parts, Body::http_body_unsync(Followed { body, sending }))
}

fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// An answer on its way. Its end is logged on drop, whatever ends it.
struct Sending {
    line: Line,
    status: u16,
    /// Time until the answer began.
    micros: u64,
    /// Bytes of the body that were handed to the connection.
    sent: u64,
    /// Length of the body, if it is known. A body of unknown length sets it at its end.
    expected: Option<u64>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        let Self { line, status, micros: first, sent, expected } = self;
        metrics::counter!("fula_sent_bytes_total").increment(*sent);
        let address = line.peer.map(|peer| peer.address.to_canonical().to_string());
        let asker = line.operation.asker();
        let owner = asker.map(|asker| asker.owner.to_string());
        tracing::info!(
            target: "fula::requests",
            request_id = line.request_id,
            address = address.unwrap_or_default(),
            user = asker.map(|asker| asker.user.as_str()).unwrap_or_default(),
            owner = owner.unwrap_or_default(),
            method = %line.method,
            path = line.path,
            operation = line.operation.name(),
            status,
            received = line.received,
            sent,
            is_complete = *expected == Some(*sent),
            micros = first,
            total_micros = micros(line.started.elapsed()),
            "request"
        );
    }
}

/// A body whose bytes are counted.
struct Followed {
    body: Body,
    sending: Sending,
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let sending = &mut self.sending;
        match &frame {
            Some(Ok(frame)) => {
                sending.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            None => sending.expected = sending.expected.or(Some(sending.sent)),
            Some(Err(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
