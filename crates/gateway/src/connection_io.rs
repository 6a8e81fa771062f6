//! The byte stream of one connection. It records when bytes last moved, and closes without losing an
//! answer.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use crate::request_body::Linger;

/// Longest time for which a connection is read after its last answer.
const LINGER: Duration = Duration::from_secs(30);

/// Longest time without a byte while it is.
const LINGER_IDLE: Duration = Duration::from_secs(5);

/// Largest number of bytes that are read and discarded then.
const LINGER_BYTES_MAX: u64 = 64 << 20;

/// Number of bytes that are discarded at a time.
const DISCARDED: usize = 16 << 10;

/// The last activity of a connection, shared with the list of connections.
#[derive(Debug)]
pub(crate) struct Activity {
    began: Instant,
    /// Milliseconds after `began` at which a byte was last read or written.
    moved: AtomicU64,
    /// Whether a request is being answered.
    is_answering: AtomicBool,
}

impl Activity {
    pub(crate) fn new(began: Instant) -> Self {
        let activity = Self { began, moved: 0.into(), is_answering: false.into() };
        activity.note();
        activity
    }

    fn note(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    pub(crate) fn set_answering(&self, is_answering: bool) {
        self.is_answering.store(is_answering, Ordering::Relaxed);
    }

    /// Returns when the last byte moved, in milliseconds since the beginning; `None` while a request is
    /// being answered.
    pub(crate) fn idle_since(&self) -> Option<u64> {
        let is_idle = !self.is_answering.load(Ordering::Relaxed);
        is_idle.then(|| self.moved.load(Ordering::Relaxed))
    }
}

/// The byte stream of one connection.
pub(crate) struct ConnectionIo<S> {
    inner: S,
    activity: Arc<Activity>,
    linger: Linger,
    ending: Option<Ending>,
}

/// A connection that has sent its last byte, and is still read.
struct Ending {
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
    left: u64,
}

impl<S> ConnectionIo<S> {
    pub(crate) fn new(inner: S, activity: Arc<Activity>, linger: Linger) -> Self {
        Self { inner, activity, linger, ending: None }
    }
}

impl<S: AsyncRead + Unpin> ConnectionIo<S> {
    /// Discards what the client still sends. Closing with unread bytes would reset the connection, and the
    /// client could lose the answer.
    fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let ending = self.ending.get_or_insert_with(|| {
            let now = Instant::now();
            let timer = Box::pin(tokio::time::sleep_until(now + LINGER_IDLE));
            Ending { deadline: now + LINGER, timer, left: LINGER_BYTES_MAX }
        });
        let mut bytes = [0; DISCARDED];
        loop {
            if ending.timer.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer));
            let length = buffer.filled().len() as u64;
            if read.is_err() || length == 0 || length >= ending.left {
                return Poll::Ready(());
            }
            ending.left -= length;
            let next = (Instant::now() + LINGER_IDLE).min(ending.deadline);
            ending.timer.as_mut().reset(next);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ConnectionIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(context, buffer));
        self.activity.note();
        Poll::Ready(read)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ConnectionIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, bytes));
        self.activity.note();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(context, slices));
        self.activity.note();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ending.is_none() {
            ready!(Pin::new(&mut self.inner).poll_shutdown(context))?;
            if !self.linger.is_requested() {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_discard(context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    fn pair(lingers: bool) -> (DuplexStream, ConnectionIo<DuplexStream>) {
        let (client, server) = tokio::io::duplex(64 << 10);
        let linger = Linger::default();
        if lingers {
            linger.request();
        }
        let activity = Arc::new(Activity::new(Instant::now()));
        (client, ConnectionIo::new(server, activity, linger))
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_sends_after_the_answer_is_discarded_until_it_ends() {
        let (mut client, mut server) = pair(true);
        server.write_all(b"answer").await.unwrap();
        let ending = tokio::spawn(async move { server.shutdown().await });
        // This does not fit into the pipe, so it is read.
        client.write_all(&vec![0; 1 << 20]).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        drop(client);
        ending.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_on_for_ever_or_stops_is_cut_off() {
        let (mut client, mut server) = pair(true);
        let begun = Instant::now();
        server.shutdown().await.unwrap();
        assert_eq!(begun.elapsed(), LINGER_IDLE, "a client that sends nothing");

        let (other, mut server) = pair(true);
        drop(std::mem::replace(&mut client, other));
        let begun = Instant::now();
        let sending = tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        server.shutdown().await.unwrap();
        assert_eq!(begun.elapsed(), LINGER, "a client that trickles");
        drop(server);
        sending.await.unwrap();

        let (mut client, mut server) = pair(true);
        let sending = tokio::spawn(async move {
            let (mut sent, bytes) = (0, vec![0; 1 << 20]);
            while client.write_all(&bytes).await.is_ok() {
                sent += bytes.len() as u64;
            }
            sent
        });
        server.shutdown().await.unwrap();
        drop(server);
        let sent = sending.await.unwrap();
        assert!((LINGER_BYTES_MAX - (1 << 20)..=LINGER_BYTES_MAX + (1 << 20)).contains(&sent));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_requests_were_read_ends_at_once() {
        let (_client, mut server) = pair(false);
        assert!(server.shutdown().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn activity_is_noted() {
        let (mut client, mut server) = pair(false);
        let activity = Arc::clone(&server.activity);
        tokio::time::advance(Duration::from_secs(1)).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(activity.idle_since(), Some(0));
        server.read_u8().await.unwrap();
        assert_eq!(activity.idle_since(), Some(1000));
        tokio::time::advance(Duration::from_secs(1)).await;
        server.write_u8(0).await.unwrap();
        assert_eq!(activity.idle_since(), Some(2000));
        activity.set_answering(true);
        assert_eq!(activity.idle_since(), None);
    }
}
