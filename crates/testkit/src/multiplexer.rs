//! A pooler that shares sessions in the worst possible way: a proxy of the Postgres protocol that gives
//! each transaction to the session that has been unused longest.
//!
//! Everything that a client leaves in a session, the next one finds. Only prepared statements are
//! separated, as by poolers that support them: a session that lacks one gets it first. It is for tests, and
//! supports neither TLS nor passwords.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Codes that a client may begin with instead of a protocol version.
const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

/// Longest message in bytes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A message: its kind, and the part after its length.
type Message = (u8, Vec<u8>);

/// A session of the server.
struct Session {
    stream: TcpStream,
    /// Prepared statements that it has.
    known: BTreeSet<Vec<u8>>,
    /// Messages of the server when the session began.
    greeting: Vec<u8>,
}

struct State {
    target: SocketAddr,
    resting: Mutex<VecDeque<Session>>,
    permits: Arc<Semaphore>,
    clients: AtomicU64,
    transactions: AtomicU64,
}

/// A running proxy.
#[derive(Clone)]
pub struct Multiplexer {
    address: SocketAddr,
    state: Arc<State>,
}

impl Multiplexer {
    /// Serves the server at `target` with at most `sessions` sessions.
    ///
    /// # Errors
    /// An error when no port is free.
    pub async fn open(target: SocketAddr, sessions: usize) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            target,
            resting: Mutex::default(),
            permits: Arc::new(Semaphore::new(sessions)),
            clients: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
        });
        tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { address, state })
    }

    /// Returns the URL that clients connect to.
    pub fn url(&self) -> String {
        format!("postgres://fula@{}/postgres", self.address)
    }

    /// Returns the number of transactions so far.
    pub fn transactions(&self) -> u64 {
        self.state.transactions.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let id = state.clients.fetch_add(1, Ordering::Relaxed);
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            drop(stream.set_nodelay(true));
            // A client or a server that goes away ends only the connection.
            drop(serve(stream, id, &state).await);
        });
    }
}

fn wrong(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

async fn read_body(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await? as usize;
    if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(wrong("a length"));
    }
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Message> {
    let kind = stream.read_u8().await?;
    Ok((kind, read_body(stream).await?))
}

fn append(bytes: &mut Vec<u8>, kind: u8, body: &[u8]) {
    bytes.push(kind);
    append_body(bytes, body);
}

fn append_body(bytes: &mut Vec<u8>, body: &[u8]) {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    bytes.extend(length.to_be_bytes());
    bytes.extend(body);
}

impl State {
    /// Returns the session that has been unused longest, or a new one that begins as the client asks.
    async fn session(&self, startup: &[u8]) -> io::Result<(Session, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(io::Error::other)?;
        let resting = self.resting.lock().pop_front();
        if let Some(session) = resting {
            return Ok((session, permit));
        }
        let mut stream = TcpStream::connect(self.target).await?;
        stream.set_nodelay(true)?;
        let mut bytes = Vec::new();
        append_body(&mut bytes, startup);
        stream.write_all(&bytes).await?;
        let mut greeting = Vec::new();
        loop {
            let (kind, body) = read_message(&mut stream).await?;
            append(&mut greeting, kind, &body);
            match kind {
                b'Z' => break,
                b'E' => return Err(wrong("the server refuses")),
                _ => {}
            }
        }
        Ok((Session { stream, known: BTreeSet::new(), greeting }, permit))
    }

    fn rest(&self, session: Session, permit: OwnedSemaphorePermit) {
        self.resting.lock().push_back(session);
        drop(permit);
    }
}

/// Answers the beginning of a client. Returns `None` when it wants nothing more.
async fn startup(client: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    loop {
        let body = read_body(client).await?;
        let code = body.first_chunk().map(|code| u32::from_be_bytes(*code));
        match code {
            Some(SSL | GSS) => client.write_all(b"N").await?,
            Some(CANCEL) | None => return Ok(None),
            Some(_) => return Ok(Some(body)),
        }
    }
}

async fn serve(mut client: TcpStream, id: u64, state: &State) -> io::Result<()> {
    let Some(startup) = startup(&mut client).await? else { return Ok(()) };
    let (session, permit) = state.session(&startup).await?;
    let greeting = session.greeting.clone();
    state.rest(session, permit);
    client.write_all(&greeting).await?;
    // Statements that this client has prepared, by its names.
    let mut prepared: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut held: Option<(Session, OwnedSemaphorePermit)> = None;
    loop {
        let mut batch: Vec<Message> = Vec::new();
        loop {
            let (kind, body) = read_message(&mut client).await?;
            if kind == b'X' {
                return Ok(());
            }
            batch.push((kind, body));
            if matches!(kind, b'Q' | b'S') {
                break;
            }
        }
        let (mut session, permit) = if let Some(held) = held.take() {
            held
        } else {
            state.transactions.fetch_add(1, Ordering::Relaxed);
            state.session(&startup).await?
        };
        let status = exchange(&mut client, &mut session, id, batch, &mut prepared).await?;
        if status == b'I' {
            state.rest(session, permit);
        } else {
            held = Some((session, permit));
        }
    }
}

/// Splits off a name that ends with a zero byte.
fn name_of(body: &[u8]) -> io::Result<(&[u8], &[u8])> {
    let end = body.iter().position(|byte| *byte == 0).ok_or_else(|| wrong("a name"))?;
    Ok((&body[..end], &body[end + 1..]))
}

fn own_name(id: u64, name: &[u8]) -> Vec<u8> {
    if name.is_empty() { Vec::new() } else { [format!("c{id}_").as_bytes(), name].concat() }
}

/// Sends one batch to a session, and its answers back. Returns the status of the transaction.
async fn exchange(
    client: &mut TcpStream,
    session: &mut Session,
    id: u64,
    batch: Vec<Message>,
    prepared: &mut BTreeMap<Vec<u8>, Vec<u8>>,
) -> io::Result<u8> {
    let (mut told, mut sent, mut unasked) = (Vec::new(), Vec::new(), 0);
    for (kind, body) in batch {
        // The part before the name of the statement, the name, and the part after it.
        let (before, name, rest) = match kind {
            b'P' => {
                let (name, rest) = name_of(&body)?;
                (&body[..0], name, rest)
            }
            b'B' => {
                let (portal, rest) = name_of(&body)?;
                let (name, rest) = name_of(rest)?;
                (&body[..=portal.len()], name, rest)
            }
            b'D' | b'C' if body.first() == Some(&b'S') => {
                let (name, rest) = name_of(&body[1..])?;
                (&body[..1], name, rest)
            }
            _ => {
                append(&mut sent, kind, &body);
                continue;
            }
        };
        let own = own_name(id, name);
        let named = [before, &own, b"\0", rest].concat();
        if kind == b'P' && !own.is_empty() {
            prepared.insert(own.clone(), named.clone());
            session.known.insert(own);
        } else if kind == b'C' {
            session.known.remove(&own);
        } else if let Some(parse) = prepared.get(&own).filter(|_| !session.known.contains(&own)) {
            append(&mut told, b'P', parse);
            unasked += 1;
            session.known.insert(own);
        }
        append(&mut sent, kind, &named);
    }
    session.stream.write_all(&told).await?;
    session.stream.write_all(&sent).await?;
    let mut answer = Vec::new();
    loop {
        let (kind, body) = read_message(&mut session.stream).await?;
        if kind == b'1' && unasked > 0 {
            unasked -= 1;
            continue;
        }
        append(&mut answer, kind, &body);
        if kind == b'Z' {
            client.write_all(&answer).await?;
            return body.first().copied().ok_or_else(|| wrong("a status"));
        }
    }
}
