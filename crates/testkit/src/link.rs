//! A link that fails: a TCP proxy that delays, cuts connections, and drops answers.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
};

/// Number of bytes that are moved at a time.
const CHUNK: usize = 64 << 10;

#[derive(Debug)]
struct State {
    target: SocketAddr,
    /// Latency that is added each way, in microseconds.
    latency_us: AtomicU64,
    is_cut: AtomicBool,
    /// Number of answers in 1000 that are dropped with their connections.
    drop_per_mille: AtomicU64,
    dropped: AtomicU64,
    /// Number of bytes that were carried to the target.
    sent: AtomicU64,
    draws: AtomicU64,
    /// Raised to close all connections.
    epoch: watch::Sender<u64>,
}

/// A link to one address, on its own port.
#[derive(Clone, Debug)]
pub struct Link {
    address: SocketAddr,
    state: Arc<State>,
}

impl Link {
    /// Opens a link to `target`.
    ///
    /// # Errors
    /// An error when no port is free.
    pub async fn open(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            target,
            latency_us: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            drop_per_mille: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            draws: AtomicU64::new(u64::from(address.port())),
            epoch: watch::Sender::new(0),
        });
        tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { address, state })
    }

    /// Returns the address to connect to instead of the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the latency that is added each way.
    pub fn set_latency(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.state.latency_us.store(micros, Ordering::Relaxed);
    }

    /// Sets the number of answers in 1000 that are dropped.
    pub fn drop_answers(&self, per_mille: u64) {
        self.state.drop_per_mille.store(per_mille, Ordering::Relaxed);
    }

    /// Returns the number of dropped answers.
    pub fn dropped(&self) -> u64 {
        self.state.dropped.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes that were carried to the target.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }

    /// Closes every connection, and refuses new ones until [`Self::mend`].
    pub fn cut(&self) {
        self.state.is_cut.store(true, Ordering::SeqCst);
        self.state.epoch.send_modify(|epoch| *epoch += 1);
    }

    /// Accepts connections again.
    pub fn mend(&self) {
        self.state.is_cut.store(false, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        if state.is_cut.load(Ordering::SeqCst) {
            continue;
        }
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let mut epoch = state.epoch.subscribe();
            let Ok(server) = TcpStream::connect(state.target).await else { return };
            drop((client.set_nodelay(true), server.set_nodelay(true)));
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::select! {
                () = carry(from_client, to_server, &state, false) => {}
                () = carry(from_server, to_client, &state, true) => {}
                _ = epoch.changed() => {}
            }
        });
    }
}

/// Moves bytes one way until either end closes, or an answer is dropped.
async fn carry(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    state: &State,
    is_answer: bool,
) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = match from.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        let latency = state.latency_us.load(Ordering::Relaxed);
        if latency > 0 {
            tokio::time::sleep(Duration::from_micros(latency)).await;
        }
        if !is_answer {
            state.sent.fetch_add(length as u64, Ordering::Relaxed);
        }
        if is_answer && swallows(state) {
            state.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
}

fn swallows(state: &State) -> bool {
    let per_mille = state.drop_per_mille.load(Ordering::Relaxed);
    if per_mille == 0 {
        return false;
    }
    let draw = state.draws.fetch_add(1, Ordering::Relaxed);
    crate::rng::Rng::new(draw).below(1000) < per_mille
}
