//! Request bodies. They are lent to the operation and held to a minimum pace, and the part that the
//! operation does not read is discarded (docs/adr/0034).

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use fula_service::MemoryPermit;
use http::{HeaderValue, Request, Response, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::{Mutex, MutexGuard};
use s3s::{Body, S3Error, StdError, s3_error};
use tokio::time::{Instant, Sleep};

/// Largest rest of a body that is read so that the connection can be reused, in bytes.
const KEPT_ALIVE_BYTES_MAX: u64 = 64 << 10;

/// Longest time that a client may take to send that rest.
const REST_TIMEOUT: Duration = Duration::from_secs(10);

/// The minimum pace at which a client must send a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MinimumPace {
    /// Longest time without a byte.
    pub(crate) idle: Duration,
    /// Number of bytes that a client must send each second, once it has taken longer than `idle` in all; 0
    /// for no limit.
    pub(crate) bytes_per_second: u64,
}

/// Set when a connection ends before the whole request was read. The rest is then read and discarded for a
/// while, so that the client gets the answer instead of a reset.
#[derive(Clone, Debug, Default)]
pub(crate) struct Linger(Arc<AtomicBool>);

impl Linger {
    pub(crate) fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The state of a body that was lent.
#[derive(Clone, Default)]
pub(crate) struct Lent(Arc<Mutex<Slot>>);

#[derive(Default)]
struct Slot {
    /// The body, until it was read to its end.
    body: Option<Body>,
    /// The error because of which it could not be read.
    fault: Option<S3Error>,
    /// Number of bytes that were read.
    received: u64,
    /// Memory of a buffered body, which is kept until the request is answered.
    permit: Option<MemoryPermit>,
}

impl Lent {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.0.lock()
    }

    /// Records the error that the client gets if its request fails. `s3s` would answer a body that cannot
    /// be read with 500 `InternalError`.
    pub(crate) fn note_fault(&self, error: S3Error) {
        self.slot().fault.get_or_insert(error);
    }

    /// Returns the recorded error, if there is one.
    pub(crate) fn take_fault(&self) -> Option<S3Error> {
        self.slot().fault.take()
    }

    /// Returns the number of bytes of the body that the operation has read so far.
    pub(crate) fn received(&self) -> u64 {
        self.slot().received
    }

    /// Keeps memory until the request is answered.
    pub(crate) fn keep(&self, permit: MemoryPermit) {
        self.slot().permit = Some(permit);
    }

    /// Decides about the connection when the answer was given before the body was read. If the rest of the
    /// body is small, it is read and the connection is reused; otherwise the connection is closed.
    ///
    /// A client that waits for `100 Continue` may take this answer for it and send nothing, or continue to
    /// send. In that case the connection is closed too.
    pub(crate) fn settle(
        &self,
        response: &mut Response<Body>,
        waits_for_continue: bool,
        linger: Option<&Linger>,
    ) {
        let Some(body) = self.slot().body.take().filter(|body| !body.is_end_stream()) else {
            return;
        };
        let is_small = body.size_hint().upper().is_some_and(|rest| rest <= KEPT_ALIVE_BYTES_MAX);
        if is_small && !waits_for_continue {
            tokio::spawn(tokio::time::timeout(REST_TIMEOUT, discard(body)));
        } else {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        // This includes a small rest that does not arrive in time.
        if let Some(linger) = linger {
            linger.request();
        }
    }
}

async fn discard(mut body: Body) {
    while let Some(Ok(_)) = body.frame().await {}
}

/// Lends the body of a request to the layer that answers it.
pub(crate) fn lend(request: Request<Body>, pace: MinimumPace) -> (Request<Body>, Lent) {
    let lent = Lent::default();
    if request.body().is_end_stream() {
        return (request, lent);
    }
    let (parts, body) = request.into_parts();
    lent.slot().body = Some(body);
    let body = LentBody { lent: lent.clone(), clock: PaceClock::new(pace) };
    (Request::from_parts(parts, Body::http_body_unsync(body)), lent)
}

/// A body that can be taken back.
struct LentBody {
    lent: Lent,
    clock: PaceClock,
}

impl http_body::Body for LentBody {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let Self { lent, clock } = self.get_mut();
        let mut slot = lent.slot();
        let Some(body) = slot.body.as_mut() else { return Poll::Ready(None) };
        match Pin::new(body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                clock.received(bytes);
                slot.received += bytes as u64;
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(other) => {
                slot.body = None;
                Poll::Ready(other)
            }
            Poll::Pending if clock.is_late(context) => {
                let text = "The request body arrived too slowly, or not at all.";
                slot.fault.get_or_insert(s3_error!(RequestTimeout, "{text}"));
                Poll::Ready(Some(Err(text.into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.lent.slot().body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.lent.slot().body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Measures how long the gateway waits for bytes of a client. Time that the gateway itself takes is not
/// counted.
struct PaceClock {
    pace: MinimumPace,
    received: u64,
    waited: Duration,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl PaceClock {
    fn new(pace: MinimumPace) -> Self {
        Self { pace, received: 0, waited: Duration::ZERO, waiting_since: None, timer: None }
    }

    fn received(&mut self, bytes: usize) {
        self.received += bytes as u64;
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
    }

    /// Returns how long the next byte may take.
    fn patience(&self) -> Duration {
        let MinimumPace { idle, bytes_per_second } = self.pace;
        match self.received.saturating_mul(1000).checked_div(bytes_per_second) {
            None => idle,
            Some(earned) => {
                let in_all = idle.saturating_add(Duration::from_millis(earned));
                idle.min(in_all.saturating_sub(self.waited))
            }
        }
    }

    /// Returns whether the next byte took too long. Otherwise wakes the task when it has.
    fn is_late(&mut self, context: &mut Context<'_>) -> bool {
        if self.waiting_since.is_none() {
            let (now, patience) = (Instant::now(), self.patience());
            self.waiting_since = Some(now);
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(now + patience),
                None => self.timer = Some(Box::pin(tokio::time::sleep_until(now + patience))),
            }
        }
        self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(context).is_ready())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{StreamExt, stream};
    use http_body_util::StreamBody;
    use tokio::sync::mpsc;

    use super::*;

    const PACE: MinimumPace = MinimumPace { idle: Duration::from_mins(1), bytes_per_second: 1000 };

    /// Returns a body whose frames come through a channel.
    fn body() -> (mpsc::UnboundedSender<Bytes>, Body) {
        let (send, receive) = mpsc::unbounded_channel::<Bytes>();
        let frames = stream::unfold(receive, async |mut receive| {
            let bytes = receive.recv().await?;
            Some((Ok::<_, Infallible>(Frame::data(bytes)), receive))
        });
        (send, Body::http_body_unsync(StreamBody::new(frames.boxed())))
    }

    fn lent(body: Body) -> (Body, Lent) {
        let (request, lent) = lend(Request::new(body), PACE);
        (request.into_body(), lent)
    }

    /// Sends `bytes` bytes at intervals of `every` until the body fails. Returns how long that took.
    async fn fails_after(bytes: usize, every: Duration) -> Option<Duration> {
        let (send, body) = body();
        let (mut body, lent) = lent(body);
        let begun = Instant::now();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                if send.send(Bytes::from(vec![0; bytes])).is_err() {
                    return;
                }
            }
        });
        while begun.elapsed() < Duration::from_hours(1) {
            if body.frame().await.expect("it never ends").is_err() {
                let fault = lent.take_fault().expect("it is said why");
                assert_eq!(fault.code().as_str(), "RequestTimeout");
                return Some(begun.elapsed());
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_a_minimum_pace() {
        let second = Duration::from_secs(1);
        // The client sends nothing more, a byte a second, or half of what is required.
        assert_eq!(fails_after(1, 600 * second).await.unwrap().as_secs(), 60);
        assert_eq!(fails_after(1, second).await.unwrap().as_secs(), 60);
        let half = fails_after(500, second).await.unwrap();
        assert!((118..=120).contains(&half.as_secs()), "{half:?}");
        assert_eq!(fails_after(1000, second).await, None);
        // The client sends as much as required, but with longer breaks than allowed.
        assert_eq!(fails_after(100_000, 61 * second).await.unwrap().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_the_server_takes_does_not_count() {
        let (send, body) = body();
        let (mut body, _lent) = lent(body);
        for _ in 0..100 {
            send.send(Bytes::from_static(b"x")).unwrap();
            tokio::time::advance(Duration::from_secs(59)).await;
            assert!(body.frame().await.unwrap().is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_a_body_decides_on_the_connection() {
        for (length, waits, closes) in [
            (Some(KEPT_ALIVE_BYTES_MAX), false, false),
            (Some(KEPT_ALIVE_BYTES_MAX), true, true),
            (Some(KEPT_ALIVE_BYTES_MAX + 1), false, true),
            (None, false, true),
        ] {
            let body = match length {
                Some(length) => Body::from(Bytes::from(vec![0; usize::try_from(length).unwrap()])),
                None => body().1,
            };
            let (_body, lent) = lent(body);
            let (mut response, linger) = (Response::new(Body::empty()), Linger::default());
            lent.settle(&mut response, waits, Some(&linger));
            let found = response.headers().contains_key(header::CONNECTION);
            assert_eq!((found, linger.is_requested()), (closes, true), "{length:?} {waits}");
        }
        // A body that was read leaves the connection open, however long it was.
        let (mut body, lent) = lent(Body::from(Bytes::from(vec![0; 1 << 20])));
        while body.frame().await.is_some() {}
        let (mut response, linger) = (Response::new(Body::empty()), Linger::default());
        lent.settle(&mut response, true, Some(&linger));
        assert!(response.headers().is_empty() && !linger.is_requested());
    }
}
