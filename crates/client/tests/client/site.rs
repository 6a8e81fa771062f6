//! A gateway in this process, behind a listener that can fail as networks do.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use fula_client::{Bucket, Client, Credentials, RetryPolicy};
use fula_gateway::{Gateway, Peer};
use http::{Method, Request, Response, request::Parts};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::watch};

use super::gateway::gateway;

/// A failure of the network, or of the server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The connection ends before the gateway sees the request.
    Refused,
    /// The gateway carries the request out, and the connection ends without an answer.
    Lost,
    /// The answer is the one to a condition that fails because another client wrote first.
    Outrun,
    /// The answer is 503, with this many seconds to wait.
    Busy(u64),
    /// The connection ends after this many bytes of the body.
    Cut(usize),
    /// The first byte of the body is another one.
    Flipped,
    /// Nothing is answered.
    Silent,
}

type Wanted = Box<dyn Fn(&Parts) -> bool + Send>;

struct Rule {
    is_wanted: Wanted,
    fault: Fault,
    times: u32,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) invocation: String,
    pub(crate) attempt: String,
    pub(crate) range: String,
}

#[derive(Default)]
struct Network {
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Seen>>,
    /// Number of requests that the gateway has carried out.
    answered: watch::Sender<usize>,
    script: Option<Script>,
}

impl Network {
    fn fault(&self, parts: &Parts) -> Option<Fault> {
        let text = |name: &str| {
            let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        self.seen.lock().push(Seen {
            method: parts.method.clone(),
            target: parts.uri.to_string(),
            invocation: text("amz-sdk-invocation-id"),
            attempt: text("amz-sdk-request"),
            range: text("range"),
        });
        let mut rules = self.rules.lock();
        let rule = rules.iter_mut().find(|rule| rule.times > 0 && (rule.is_wanted)(parts))?;
        rule.times -= 1;
        Some(rule.fault)
    }
}

/// A gateway, and a client of it with short pauses.
pub(crate) struct Site {
    pub(crate) client: Client,
    pub(crate) url: String,
    pub(crate) credentials: Credentials,
    network: Arc<Network>,
}

/// A body that ends early, or with other bytes.
struct Broken {
    body: UnsyncBoxBody<Bytes, io::Error>,
    cut_after: Option<usize>,
    flip: bool,
    /// Time for the bytes before the cut to leave.
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<http_body::Frame<Bytes>>>> {
        if self.cut_after == Some(0) {
            let sleep = || Box::pin(tokio::time::sleep(Duration::from_millis(50)));
            std::task::ready!(self.pause.get_or_insert_with(sleep).as_mut().poll(context));
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())));
        }
        let frame = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            other => return other,
        };
        let Ok(mut data) = frame.into_data() else { return Poll::Ready(None) };
        if let Some(left) = &mut self.cut_after {
            data.truncate(*left);
            *left -= data.len();
        }
        if self.flip && !data.is_empty() {
            let mut changed = data.to_vec();
            changed[0] ^= 1;
            (data, self.flip) = (changed.into(), false);
        }
        Poll::Ready(Some(Ok(http_body::Frame::data(data))))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// What a script does with a request.
pub(crate) enum Reply {
    /// It answers this.
    Answer(Response<Bytes>),
    /// The connection ends without an answer.
    Lost,
    /// Nothing is answered.
    Silent,
    /// The gateway answers.
    Pass,
}

/// Answers requests in place of a gateway.
pub(crate) type Script = Arc<dyn Fn(&Parts, &Bytes) -> Reply + Send + Sync>;

fn full(body: Bytes) -> UnsyncBoxBody<Bytes, io::Error> {
    Full::new(body).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// Lets a script answer; `None` if the gateway is to do so.
async fn scripted(script: &Script, parts: &Parts, body: &Bytes) -> Option<io::Result<Answer>> {
    match script(parts, body) {
        Reply::Answer(answer) => Some(Ok(answer.map(full))),
        Reply::Lost => Some(Err(io::ErrorKind::ConnectionReset.into())),
        Reply::Silent => std::future::pending().await,
        Reply::Pass => None,
    }
}

/// Serves a script, and returns its URL.
pub(crate) async fn serve(
    script: impl Fn(&Parts, &Bytes) -> Reply + Send + Sync + 'static,
) -> String {
    let (script, listener) =
        (Arc::new(script) as Script, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let script = Arc::clone(&script);
            let service = service_fn(move |request: Request<Incoming>| {
                let script = Arc::clone(&script);
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
                    let gone = || Err(io::ErrorKind::NotFound.into());
                    scripted(&script, &parts, &body).await.unwrap_or_else(gone)
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    url
}

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

async fn answer(
    gateway: Gateway,
    network: Arc<Network>,
    request: Request<Incoming>,
) -> io::Result<Answer> {
    let (parts, body) = request.into_parts();
    let fault = network.fault(&parts);
    let body = match fault {
        Some(Fault::Refused) => return Err(io::ErrorKind::ConnectionReset.into()),
        Some(Fault::Silent) => std::future::pending().await,
        Some(Fault::Busy(seconds)) => {
            drop(body.collect().await);
            let text = "<Error><Code>SlowDown</Code><Message>later</Message></Error>";
            let answer = Response::builder().status(503).header("retry-after", seconds);
            return answer.body(full(text.into())).map_err(io::Error::other);
        }
        Some(Fault::Outrun) => {
            drop(body.collect().await);
            let text = "<Error><Code>PreconditionFailed</Code><Message>changed</Message></Error>";
            return Response::builder()
                .status(412)
                .body(full(text.into()))
                .map_err(io::Error::other);
        }
        _ => body,
    };
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    if let Some(script) = &network.script
        && let Some(answer) = scripted(script, &parts, &body).await
    {
        return answer;
    }
    let mut request = Request::from_parts(parts, body);
    request.extensions_mut().insert(Peer { address: [127, 0, 0, 1].into(), is_tls: false });
    let (parts, body) = gateway.handle(request).await.into_parts();
    network.answered.send_modify(|count| *count += 1);
    let body = body.map_err(io::Error::other).boxed_unsync();
    let (cut_after, flip) = match fault {
        Some(Fault::Lost) => return Err(io::ErrorKind::ConnectionReset.into()),
        Some(Fault::Cut(bytes)) => (Some(bytes), false),
        Some(Fault::Flipped) => (None, true),
        _ => (None, false),
    };
    Ok(Response::from_parts(parts, Broken { body, cut_after, flip, pause: None }.boxed_unsync()))
}

impl Site {
    /// Starts a gateway with a bucket `bucket`.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_, _| Reply::Pass).await
    }

    /// Starts a gateway in front of which a script may answer.
    pub(crate) async fn start_with(
        script: impl Fn(&Parts, &Bytes) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let (gateway, credentials) = gateway().await;
        let network = Arc::new(Network { script: Some(Arc::new(script)), ..Network::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::clone(&network);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (gateway, network) = (gateway.clone(), Arc::clone(&shared));
                let service = service_fn(move |request| {
                    answer(gateway.clone(), Arc::clone(&network), request)
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        let client = client(&url, credentials.clone(), Duration::from_secs(20));
        let site = Self { client, url, credentials, network };
        site.bucket().create().await.unwrap();
        site
    }

    pub(crate) fn bucket(&self) -> Bucket {
        self.client.bucket("bucket").unwrap()
    }

    /// Returns a client for which nothing may stand still for longer than `idle`.
    pub(crate) fn impatient(&self, idle: Duration) -> Bucket {
        client(&self.url, self.credentials.clone(), idle).bucket("bucket").unwrap()
    }

    /// Lets the next `times` requests fail for which `is_wanted`.
    pub(crate) fn fail(
        &self,
        times: u32,
        fault: Fault,
        is_wanted: impl Fn(&Parts) -> bool + Send + 'static,
    ) {
        self.forget();
        self.network.rules.lock().push(Rule { is_wanted: Box::new(is_wanted), fault, times });
    }

    /// Ends all failures, and forgets the requests so far.
    pub(crate) fn calm(&self) {
        self.network.rules.lock().clear();
        self.forget();
    }

    fn forget(&self) {
        self.network.seen.lock().clear();
        self.network.answered.send_replace(0);
    }

    /// Waits until the gateway has carried out `count` requests since the last rule.
    pub(crate) async fn answered(&self, count: usize) {
        let mut answered = self.network.answered.subscribe();
        let waited = answered.wait_for(|answered| *answered >= count);
        let waited = tokio::time::timeout(Duration::from_mins(1), waited).await;
        assert!(waited.is_ok_and(|answered| answered.is_ok()), "{:?}", self.seen());
    }

    /// Returns the requests since the last rule.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.network.seen.lock().clone()
    }
}

fn client(url: &str, credentials: Credentials, idle: Duration) -> Client {
    let retry = RetryPolicy { base: Duration::from_millis(2), ..RetryPolicy::default() };
    let builder = Client::builder().endpoint(url).credentials(credentials);
    builder.retry(retry).idle_timeout(idle).build().unwrap()
}

/// Returns bytes that do not repeat.
pub(crate) fn pattern(len: usize) -> Bytes {
    let mut state = 7_u64;
    let bytes = (0..len).map(|_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    bytes.collect::<Vec<u8>>().into()
}

pub(crate) fn is_put(parts: &Parts) -> bool {
    parts.method == Method::PUT
}

pub(crate) fn is_get(parts: &Parts) -> bool {
    parts.method == Method::GET
}
