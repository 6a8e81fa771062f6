//! The client: signing, and attempts of a request.

mod builder;

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, header::CONTENT_LENGTH};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OnceCell, Semaphore};

pub use self::builder::ClientBuilder;
use crate::{
    connect::Http,
    credentials::Credentials,
    date,
    endpoint::Endpoint,
    error::{Error, Outcome, Result},
    request::{Answer, Request, header},
    retry::{self, RetryPolicy},
    send::{Meter, SendBody, while_progressing},
    sign::{Signable, Signer, UNSIGNED_PAYLOAD, payload_hash},
    xml,
};

/// Largest answer that is read as a whole, in bytes. A page of a listing has up to 4 MiB.
const ANSWER_MAX: usize = 16 << 20;

/// Unit of the memory for uploads, in bytes.
pub(crate) const MEMORY_UNIT: usize = 1 << 20;

/// A client of one gateway. Clones share connections and memory.
///
/// ```no_run
/// # async fn example() -> fula_client::Result<()> {
/// use fula_client::{Client, Credentials};
///
/// let client = Client::builder()
///     .endpoint("http://127.0.0.1:9000")
///     .credentials(Credentials::key("ID", "SECRET"))
///     .build()?;
/// let bucket = client.bucket("my-bucket")?;
/// bucket.put("greeting", "hello", Default::default()).await?;
/// let body = bucket.get("greeting", Default::default()).await?.bytes(1 << 20).await?;
/// assert_eq!(body, "hello");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: Http,
    endpoint: Endpoint,
    credentials: Credentials,
    signer: Option<Signer>,
    ca_bundle: Option<PathBuf>,
    idle_timeout: Duration,
    retry: RetryPolicy,
    /// Seconds that the clock of the server is ahead.
    skew: AtomicI64,
    upload_units: usize,
    upload_memory: Arc<Semaphore>,
    /// Whether the server is a Fula gateway, once it was asked.
    is_fula: OnceCell<bool>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.0.endpoint)
    }
}

/// One bucket of a gateway.
#[derive(Clone, Debug)]
pub struct Bucket {
    client: Client,
    name: Arc<str>,
}

impl Bucket {
    /// Returns the client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
}

/// Why an attempt failed.
pub(crate) struct Failure {
    error: Error,
    is_temporary: bool,
    may_be_applied: bool,
    /// Status of the answer, if there was one.
    pub(crate) status: Option<u16>,
    /// Pause that the server asks for.
    pub(crate) asked: Option<Duration>,
}

impl Failure {
    fn of_connection(what: &str, why: String, may_be_applied: bool) -> Self {
        let (what, outcome) = (what.to_owned(), Outcome::Unknown);
        let error = Error::Unavailable { what, outcome, why };
        Self { error, is_temporary: true, may_be_applied, status: None, asked: None }
    }

    fn finally(error: Error) -> Self {
        Self { error, is_temporary: false, may_be_applied: false, status: None, asked: None }
    }
}

/// Returns whether TLS failed, which it will again.
fn is_untrusted(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if inner
            .is_some_and(<dyn std::error::Error + Send + Sync>::is::<tokio_rustls::rustls::Error>)
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// Returns an error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text.find(" (os error ").map_or(text.clone(), |end| text[..end].to_owned())
}

impl Client {
    /// Returns a builder with the default settings.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Returns a bucket. Nothing is sent.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that no bucket can have.
    pub fn bucket(&self, name: &str) -> Result<Bucket> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if !(3..=255).contains(&name.len()) || !name.bytes().all(is_plain) || name.starts_with('.')
        {
            return Err(Error::Invalid(format!("{name:?} cannot be the name of a bucket")));
        }
        Ok(Bucket { client: self.clone(), name: name.into() })
    }

    /// Returns the address of the gateway.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// Returns the retry policy.
    pub fn retry_policy(&self) -> RetryPolicy {
        self.0.retry
    }

    /// Returns whether the server is a Fula gateway, which has the operations that S3 has not. It is asked once;
    /// any failure means no.
    pub async fn is_fula(&self) -> bool {
        let asked = self.0.is_fula.get_or_init(|| async {
            let request = Request::of_path(Method::GET, "/fula/capabilities");
            let answer = self.once(&request).await;
            answer.is_ok_and(|answer| {
                let told = serde_json::from_slice::<serde_json::Value>(&answer.body);
                told.is_ok_and(|told| told["bucketRootCas"] == true)
            })
        });
        *asked.await
    }

    /// Returns the file of certificates that are trusted in place of the system's.
    pub(crate) fn ca_bundle(&self) -> Option<PathBuf> {
        self.0.ca_bundle.clone()
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        self.0.idle_timeout
    }

    /// Waits for memory for the body of an upload, in units of [`MEMORY_UNIT`]. A body that is larger than
    /// all memory gets all of it.
    pub(crate) async fn memory(&self, bytes: usize) -> tokio::sync::OwnedSemaphorePermit {
        let units = bytes.div_ceil(MEMORY_UNIT).clamp(1, self.0.upload_units);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.0.upload_memory).acquire_many_owned(units).await;
        permit.expect("the semaphore is never closed")
    }

    /// Sends a request as often as the policy allows, and reads the whole answer.
    ///
    /// All attempts have one `amz-sdk-invocation-id`, by which a Fula gateway recognises a write that it has
    /// carried out already, and gives the same answer again (ADR 0006).
    ///
    /// # Errors
    /// [`Error`] with the reason.
    pub async fn send(&self, request: &Request) -> Result<Answer> {
        self.retried(request, |opened| async move {
            let Opened { status, headers, body } = opened;
            let body = self.read_whole(&request.what, body).await?;
            if status == StatusCode::OK && xml::is_error(&body) {
                // The server found out about the error after it had sent the status.
                return Err(refused(request, StatusCode::INTERNAL_SERVER_ERROR, &headers, &body));
            }
            Ok(Answer { status, headers, body })
        })
        .await
    }

    /// Sends a request as often as the policy allows until the head of an answer arrives.
    pub(crate) async fn open(&self, request: &Request) -> Result<Opened> {
        self.retried(request, |opened| async move { Ok(opened) }).await
    }

    /// Sends a request once, and reads the whole answer.
    pub(crate) async fn once(&self, request: &Request) -> std::result::Result<Answer, Failure> {
        let sent = Meter::default();
        let done = match self.attempt(request, &retry::invocation_id(), 1, &sent).await {
            Ok(Opened { status, headers, body }) => {
                let body = self.read_whole(&request.what, body).await;
                body.map(|body| Answer { status, headers, body })
            }
            Err(failure) => Err(failure),
        };
        if let (Err(_), Some(meter)) = (&done, &request.meter) {
            meter.take_back(sent.bytes());
        }
        done
    }

    async fn retried<T, F>(&self, request: &Request, read: impl Fn(Opened) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, Failure>>,
    {
        let (policy, invocation) = (self.0.retry, retry::invocation_id());
        let (mut attempt, mut may_be_applied, mut is_clock_set) = (1, false, false);
        loop {
            let sent = Meter::default();
            let result = match self.attempt(request, &invocation, attempt, &sent).await {
                Ok(opened) => read(opened).await,
                Err(failure) => Err(failure),
            };
            let mut failure = match result {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            if let Some(meter) = &request.meter {
                meter.take_back(sent.bytes());
            }
            may_be_applied |= failure.may_be_applied;
            let is_skewed = matches!(&failure.error, Error::Denied { code, .. } if code == "RequestTimeTooSkewed");
            if is_skewed && !is_clock_set {
                (is_clock_set, failure.is_temporary) = (true, true);
            }
            if !failure.is_temporary || attempt >= policy.attempts {
                return Err(with_outcome(failure.error, may_be_applied));
            }
            tokio::time::sleep(policy.pause(attempt, failure.asked, retry::random())).await;
            attempt += 1;
        }
    }

    async fn attempt(
        &self,
        request: &Request,
        invocation: &str,
        attempt: u32,
        sent: &Meter,
    ) -> std::result::Result<Opened, Failure> {
        let what = &request.what;
        let signed = self.signed(request, invocation, attempt, sent).map_err(Failure::finally)?;
        let work = self.0.http.request(signed);
        let answered = while_progressing(work, sent, self.0.idle_timeout).await;
        let response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let mut failure = Failure::of_connection(what, chain(&error), !error.is_connect());
                failure.is_temporary = !is_untrusted(&error);
                return Err(failure);
            }
            Err(_) => {
                let why = format!("nothing moved for {} s", self.0.idle_timeout.as_secs_f32());
                return Err(Failure::of_connection(what, why, true));
            }
        };
        let (parts, body) = response.into_parts();
        if parts.status.is_success() {
            return Ok(Opened { status: parts.status, headers: parts.headers, body });
        }
        let body = self.read_whole(what, body).await?;
        let failure = refused(request, parts.status, &parts.headers, &body);
        if matches!(&failure.error, Error::Denied { code, .. } if code == "RequestTimeTooSkewed") {
            self.set_clock(&parts.headers);
        }
        Err(failure)
    }

    /// Takes the time of day from an answer.
    fn set_clock(&self, headers: &HeaderMap) {
        let Some(theirs) = header(headers, "date").and_then(date::http) else { return };
        let seconds = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs().cast_signed())
        };
        self.0.skew.store(seconds(theirs) - seconds(date::now()), Ordering::Relaxed);
    }

    fn time(&self) -> SystemTime {
        let skew = self.0.skew.load(Ordering::Relaxed);
        let by = Duration::from_secs(skew.unsigned_abs());
        if skew < 0 { date::now() - by } else { date::now() + by }
    }

    async fn read_whole(
        &self,
        what: &str,
        mut body: Incoming,
    ) -> std::result::Result<Bytes, Failure> {
        let mut whole = BytesMut::new();
        loop {
            let frame = match tokio::time::timeout(self.0.idle_timeout, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => return Ok(whole.freeze()),
                Ok(Some(Err(error))) => {
                    return Err(Failure::of_connection(what, chain(&error), true));
                }
                Err(_) => {
                    let why = "the answer stopped in the middle".to_owned();
                    return Err(Failure::of_connection(what, why, true));
                }
            };
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > ANSWER_MAX {
                return Err(Failure::finally(Error::Http {
                    what: what.to_owned(),
                    status: 200,
                    code: "InvalidAnswer".to_owned(),
                    why: format!("the answer has more than {} MiB", ANSWER_MAX >> 20),
                }));
            }
            whole.extend_from_slice(&data);
        }
    }

    fn signed(
        &self,
        request: &Request,
        invocation: &str,
        attempt: u32,
        sent: &Meter,
    ) -> Result<http::Request<SendBody>> {
        let (inner, query) = (&self.0, request.encoded_query());
        let mut headers = request.headers.clone();
        headers.push(("amz-sdk-invocation-id".to_owned(), invocation.to_owned()));
        if let Some(signer) = &inner.signer {
            // Where the connection is not encrypted, the signature is all that protects the body.
            let is_covered = inner.endpoint.is_exposed() || request.body.is_empty();
            let payload =
                if is_covered { payload_hash(&request.body) } else { UNSIGNED_PAYLOAD.to_owned() };
            let added = signer.sign(&Signable {
                method: request.method.as_str(),
                host: inner.endpoint.authority(),
                path: &request.path,
                query: &query,
                headers: &headers,
                payload: &payload,
                time: self.time(),
            });
            headers.extend(added);
        } else if let Credentials::Bearer(token) = &inner.credentials {
            headers.push(("authorization".to_owned(), format!("Bearer {}", **token)));
        }
        let max = inner.retry.attempts;
        headers.push(("amz-sdk-request".to_owned(), format!("attempt={attempt}; max={max}")));
        headers.push((
            "user-agent".to_owned(),
            concat!("fula/", env!("CARGO_PKG_VERSION")).to_owned(),
        ));
        let target = if query.is_empty() {
            request.path.clone()
        } else {
            format!("{}?{query}", request.path)
        };
        let mut builder = http::Request::builder()
            .method(request.method.clone())
            .uri(format!("{}{target}", inner.endpoint))
            .header("host", inner.endpoint.authority());
        for (name, value) in &headers {
            builder = builder.header(name, value.as_bytes());
        }
        // hyper leaves the header out for an empty body, but S3 requires it.
        if request.body.is_empty() && matches!(request.method.as_str(), "PUT" | "POST") {
            builder = builder.header(CONTENT_LENGTH, "0");
        }
        let meter = request.meter.clone();
        let body = SendBody::new(request.body.clone(), sent.clone(), meter);
        builder.body(body).map_err(|_| {
            Error::Invalid(format!(
                "{}: a header has characters that HTTP cannot carry",
                request.what
            ))
        })
    }
}

fn with_outcome(error: Error, may_be_applied: bool) -> Error {
    match error {
        Error::Unavailable { what, why, .. } => {
            let outcome = if may_be_applied { Outcome::Unknown } else { Outcome::None };
            Error::Unavailable { what, outcome, why }
        }
        error => error,
    }
}

/// Returns the failure that an answer reports.
fn refused(request: &Request, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    let (what, number) = (&request.what, status.as_u16());
    let xml::S3Error { code, message } = xml::error(body);
    let code = if code.is_empty() {
        status.canonical_reason().unwrap_or("").replace(' ', "")
    } else {
        code
    };
    let asked = header(headers, "retry-after").and_then(|text| text.trim().parse().ok());
    let outcome = header(headers, "x-fula-outcome");
    let is_temporary = retry::is_temporary(number, &code);
    let error = if is_temporary {
        let why = format!("{code} ({number}) {message}").trim().to_owned();
        Error::Unavailable { what: what.clone(), outcome: Outcome::Unknown, why }
    } else {
        match Error::of_answer(what, number, &code, &message, request.is_creation()) {
            Error::Changed { what, .. } => {
                let current = header(headers, "etag").map(|etag| etag.trim_matches('"').to_owned());
                Error::Changed { what, current }
            }
            error => error,
        }
    };
    Failure {
        error,
        is_temporary,
        may_be_applied: is_temporary && retry::may_be_applied(number, outcome),
        status: Some(number),
        asked: asked.map(Duration::from_secs),
    }
}
