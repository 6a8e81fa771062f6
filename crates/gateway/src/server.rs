//! Accepts connections, serves them, and ends them without losing answers.

use std::{
    convert::Infallible,
    future::Future,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1::Builder, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

pub use crate::connections::ConnectionLimits;
use crate::{
    connection_io::ConnectionIo,
    connections::{Connection, Connections},
    request::Peer,
    request_body::Linger,
};

/// Largest number of bytes that a connection reads or writes at a time.
const CONNECTION_BYTES: usize = 128 << 10;

/// Wait after a failed accept, for example when file descriptors ran out.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// The settings of a listener.
#[derive(Clone)]
pub struct Listening {
    /// Name of the listener in logs and metrics.
    pub name: &'static str,
    /// TLS; `None` for plain HTTP.
    pub tls: Option<TlsAcceptor>,
    /// Longest time that a client may take for its handshake, and for its headers.
    pub header_timeout: Duration,
    /// Longest time that requests in flight may take after the listener was told to stop.
    pub grace: Duration,
    /// Largest numbers of open connections.
    pub connections: ConnectionLimits,
    /// Set to the number of open connections.
    pub open: Arc<AtomicUsize>,
}

/// Serves `answer` on `listener` until `stop` resolves. Then requests in flight may finish during the grace
/// period. Returns the number of connections that were cut off.
pub async fn serve<F, A, B>(
    listener: TcpListener,
    how: Listening,
    stop: impl Future<Output = ()>,
    answer: F,
) -> usize
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Response<B>> + Send + 'static,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Only HTTP/1.1 is served, as by S3 itself. No client needs more, and the time limit for headers starts
    // with the connection instead of after the detection of the protocol.
    let mut builder = Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(how.header_timeout);
    builder.max_buf_size(CONNECTION_BYTES);
    let graceful = GracefulShutdown::new();
    let connections = Connections::new(how.name, how.connections, Arc::clone(&how.open));
    let mut is_failing = false;
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let (stream, address) = match accepted {
            Ok((stream, address)) => (stream, address.ip()),
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(%error, listener = how.name, "cannot accept a connection; trying again");
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        is_failing = false;
        let Some(connection) = connections.admit(address) else { continue };
        // Answers are small and written whole, so waiting to fill a packet only costs time.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was closed before its first request");
            continue;
        }
        let peer = Peer { address, is_tls: how.tls.is_some() };
        let served =
            Served { builder: builder.clone(), watcher: graceful.watcher(), peer, connection };
        tokio::spawn(served.run(stream, how.clone(), answer.clone()));
    }
    drop(listener);
    let left = graceful.count();
    match timeout(how.grace, graceful.shutdown()).await {
        Ok(()) => 0,
        Err(_) => left,
    }
}

/// One accepted connection.
struct Served {
    builder: Builder,
    watcher: Watcher,
    peer: Peer,
    connection: Connection,
}

impl Served {
    /// Answers the requests of the connection until it ends, or is closed to make room for others.
    async fn run<F, A, B>(self, stream: TcpStream, how: Listening, answer: F)
    where
        F: Fn(Request<Incoming>) -> A + Send + 'static,
        A: Future<Output = Response<B>> + Send + 'static,
        B: hyper::body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let closer = self.connection.closer.clone();
        let requests = async {
            match how.tls {
                None => self.answer(stream, answer).await,
                Some(tls) => {
                    let handshake = timeout(how.header_timeout, tls.accept(stream)).await;
                    let Ok(Ok(stream)) = handshake else {
                        return tracing::debug!("the TLS handshake failed or took too long");
                    };
                    self.answer(stream, answer).await;
                }
            }
        };
        tokio::select! {
            () = requests => {}
            () = closer.closed() => tracing::debug!("a connection was closed to make room"),
        }
    }

    async fn answer<S, F, A, B>(self, stream: S, answer: F)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        F: Fn(Request<Incoming>) -> A + Send + 'static,
        A: Future<Output = Response<B>> + Send + 'static,
        B: hyper::body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (peer, connection, linger) = (self.peer, &self.connection, Linger::default());
        let io = ConnectionIo::new(stream, Arc::clone(&connection.activity), linger.clone());
        let (activity, closer) = (Arc::clone(&connection.activity), connection.closer.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            activity.set_answering(true);
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(closer.clone());
            request.extensions_mut().insert(linger.clone());
            let (answer, activity) = (answer(request), Arc::clone(&activity));
            async move {
                let answer = answer.await;
                activity.set_answering(false);
                Ok::<_, Infallible>(answer)
            }
        });
        let serving = self.builder.serve_connection(TokioIo::new(io), service);
        if let Err(error) = self.watcher.watch(serving).await {
            tracing::debug!(%error, "a connection ended with an error");
        }
    }
}
