//! Bodies of requests that count what was sent, and time limits without progress.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Number of bytes that are handed to a connection at a time.
const FRAME: usize = 256 << 10;

/// Counts bytes that were sent or received. Clones share one count.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<AtomicU64>);

impl Meter {
    /// Returns the number of bytes so far.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes back what an attempt sent that failed.
    pub(crate) fn take_back(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A body in memory, which can be sent again.
#[derive(Debug)]
pub(crate) struct SendBody {
    rest: Bytes,
    sent: Meter,
    all: Option<Meter>,
}

impl SendBody {
    /// Returns a body, which adds to `sent` and to `all` what the connection takes of it.
    pub(crate) fn new(bytes: Bytes, sent: Meter, all: Option<Meter>) -> Self {
        Self { rest: bytes, sent, all }
    }
}

impl Body for SendBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let len = self.rest.len().min(FRAME);
        let frame = self.rest.split_to(len);
        self.sent.add(len as u64);
        if let Some(all) = &self.all {
            all.add(len as u64);
        }
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// Nothing happened within the time limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stalled;

/// Waits for `work` for as long as `progress` counts on within each `patience`.
pub(crate) async fn while_progressing<T>(
    work: impl Future<Output = T>,
    progress: &Meter,
    patience: Duration,
) -> Result<T, Stalled> {
    let mut work = pin!(work);
    loop {
        let before = progress.bytes();
        match tokio::time::timeout(patience, work.as_mut()).await {
            Ok(done) => return Ok(done),
            Err(_) if progress.bytes() != before => {}
            Err(_) => return Err(Stalled),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_body_counts_what_is_taken() {
        let meter = Meter::default();
        let mut body = SendBody::new(vec![7; FRAME + 1].into(), meter.clone(), None);
        assert_eq!(body.size_hint().exact(), Some(FRAME as u64 + 1));
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((frame.len(), meter.bytes()), (FRAME, FRAME as u64));
        body.frame().await.unwrap().unwrap();
        assert!(body.frame().await.is_none() && body.is_end_stream());
    }

    #[tokio::test(start_paused = true)]
    async fn work_goes_on_while_it_progresses() {
        let (meter, patience) = (Meter::default(), Duration::from_secs(10));
        let slow = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(9)).await;
                meter.add(1);
            }
        };
        assert!(while_progressing(slow, &meter, patience).await.is_ok());
        let never = std::future::pending::<()>();
        assert!(while_progressing(never, &meter, patience).await.is_err());
    }
}
