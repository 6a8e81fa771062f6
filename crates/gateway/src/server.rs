//! Accepting connections and ending them well.

use std::{convert::Infallible, future::Future, time::Duration};

use fula_service::Hangup;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1::Builder, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{net::TcpListener, time::timeout};
use tokio_rustls::TlsAcceptor;

use crate::{auth::Peer, eager::Eager};

/// Most bytes that a connection reads or writes at a time.
const CONNECTION_BYTES: usize = 128 << 10;

/// How long to wait after a failed accept, e.g. when file descriptors ran out.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// How a listener treats its connections.
#[derive(Clone)]
pub struct Listening {
    /// TLS, or plain HTTP.
    pub tls: Option<TlsAcceptor>,
    /// How long a client may take for its handshake, and for its headers.
    pub header_timeout: Duration,
    /// How long requests in flight may take once told to stop.
    pub grace: Duration,
}

/// Serves `answer` on `listener` until `stop` resolves, then lets requests in flight finish for
/// up to the grace period. Returns the number of connections that were cut off.
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
    // HTTP/1.1 alone, as S3 itself: no client needs more, and the clock for headers starts with the
    // connection instead of after a guess at the protocol.
    let mut builder = Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(how.header_timeout);
    builder.max_buf_size(CONNECTION_BYTES);
    let graceful = GracefulShutdown::new();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let (stream, address) = match accepted {
            Ok((stream, address)) => (stream, address.ip()),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        // Answers are small and written whole: waiting to fill a packet only costs time.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "connection closed before it began");
            continue;
        }
        let answer = answer.clone();
        let peer = Peer { address, is_tls: how.tls.is_some() };
        let hangup = Hangup::default();
        let called = hangup.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(hangup.clone());
            let answer = answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let (builder, watcher, how) = (builder.clone(), graceful.watcher(), how.clone());
        let connection = async move {
            let ended = match how.tls {
                None => {
                    let connection = builder.serve_connection(TokioIo::new(stream), service);
                    watcher.watch(connection).await
                }
                Some(tls) => {
                    let handshake = tls.accept(stream);
                    let Ok(Ok(stream)) = timeout(how.header_timeout, handshake).await else {
                        return tracing::debug!("no TLS handshake");
                    };
                    let connection = builder.serve_connection(TokioIo::new(stream), service);
                    watcher.watch(connection).await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended early");
            }
        };
        tokio::spawn(Eager::new(async move {
            tokio::select! {
                () = connection => {}
                () = called.called() => tracing::debug!("connection ended: others wait"),
            }
        }));
    }
    drop(listener);
    let left = graceful.count();
    match timeout(how.grace, graceful.shutdown()).await {
        Ok(()) => 0,
        Err(_) => left,
    }
}
