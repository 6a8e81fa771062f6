//! A small S3 client: one persistent connection, and Signature Version 4 in headers or a bearer token.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use fula_client::sign::{Signable, Signer, UNSIGNED_PAYLOAD, payload_hash};
use fula_identity::{eip712::Claims, wallet::WalletKey, wallet_token};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use zeroize::Zeroizing;

/// The credentials of a client.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// An access key, with which requests are signed.
    Key {
        /// Access key id.
        id: String,
        /// Secret access key.
        secret: String,
    },
    /// A bearer token.
    Bearer(String),
}

impl Credentials {
    /// Returns credentials of a new wallet, which are valid for a day.
    ///
    /// # Errors
    /// An error when the system has no random numbers.
    pub fn of_new_wallet() -> io::Result<Self> {
        let mut secret = [0; 32];
        let wallet = loop {
            getrandom::fill(&mut secret).map_err(io::Error::other)?;
            if let Some(wallet) = WalletKey::new(&secret) {
                break wallet;
            }
        };
        #[expect(clippy::disallowed_methods, reason = "tokens carry the time of day")]
        let now = std::time::SystemTime::now();
        let iat = now.duration_since(std::time::UNIX_EPOCH).map_err(io::Error::other)?.as_secs();
        let claims =
            Claims { wallet: wallet.address(), iat, exp: iat + wallet_token::LIFE_MAX, v2: None };
        Ok(Self::Bearer(wallet_token::mint(&wallet, &claims)))
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    /// Method.
    pub method: Method,
    /// Path, encoded.
    pub path: String,
    /// Query, encoded and in order of name.
    pub query: String,
    /// Additional headers. Those that begin with `x-amz-` are signed.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Bytes,
}

impl Call {
    /// Returns a request without query, headers or body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        let (path, query, headers) = (path.into(), String::new(), Vec::new());
        Self { method, path, query, headers, body: Bytes::new() }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Sets the query.
    #[must_use]
    pub fn query(mut self, query: impl Into<String>) -> Self {
        self.query = query.into();
        self
    }

    fn uri(&self) -> String {
        if self.query.is_empty() {
            return self.path.clone();
        }
        format!("{}?{}", self.path, self.query)
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Reply {
    /// Returns a header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Returns the entity tag without quotes.
    pub fn etag(&self) -> Option<String> {
        self.header("etag").map(|etag| etag.trim_matches('"').to_owned())
    }

    /// Returns the text of the first XML element of a name.
    pub fn element(&self, name: &str) -> Option<String> {
        let text = std::str::from_utf8(&self.body).ok()?;
        elements(text, name).next()
    }
}

/// Returns the texts of the XML elements of a name, which must not nest.
pub fn elements<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find(&open)? + open.len();
        let end = start + rest[start..].find(&close)?;
        let found = rest[start..end].replace("&quot;", "\"").replace("&#34;", "\"");
        rest = &rest[end..];
        Some(found)
    })
}

/// The part of a body that a signature covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Payload {
    /// None, as S3 allows.
    #[default]
    Unsigned,
    /// Its SHA-256.
    Signed,
}

/// A connection to one gateway, which is opened again when it breaks.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    credentials: Credentials,
    payload: Payload,
    /// Signs requests, unless a token is shown.
    signer: Option<Signer>,
    connection: Option<http1::SendRequest<Full<Bytes>>>,
}

impl Client {
    /// Returns a client that connects with its first request.
    pub fn new(address: SocketAddr, credentials: Credentials) -> Self {
        let signer = match &credentials {
            Credentials::Key { id, secret } => {
                Some(Signer::new(id, Zeroizing::new(secret.clone()), None, "us-east-1"))
            }
            Credentials::Bearer(_) => None,
        };
        Self { address, credentials, payload: Payload::Unsigned, signer, connection: None }
    }

    /// Sets which part of bodies is signed.
    #[must_use]
    pub fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }

    /// Sends a request, and reads the whole answer within `patience`.
    ///
    /// # Errors
    /// An error when no answer came. It is then unknown whether the request was carried out.
    pub async fn send(&mut self, call: &Call, patience: Duration) -> io::Result<Reply> {
        let sent = tokio::time::timeout(patience, self.exchange(call)).await;
        let reply = sent.unwrap_or_else(|late| Err(io::Error::other(late)));
        if reply.is_err() {
            self.connection = None;
        }
        reply
    }

    /// Sends a request, and counts the bytes of its answer as they arrive. The body of the reply is empty
    /// unless the answer is an error.
    ///
    /// # Errors
    /// An error when no complete answer came.
    pub async fn drain(&mut self, call: &Call) -> io::Result<(Reply, u64)> {
        let drained = self.count(call).await;
        if drained.is_err() {
            self.connection = None;
        }
        drained
    }

    async fn count(&mut self, call: &Call) -> io::Result<(Reply, u64)> {
        let (connection, response) = self.ask(call).await?;
        let (parts, mut body) = response.into_parts();
        let (mut bytes, mut kept) = (0, Vec::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(io::Error::other)?.into_data() else { continue };
            bytes += data.len() as u64;
            if !parts.status.is_success() {
                kept.extend_from_slice(&data);
            }
        }
        self.connection = Some(connection);
        let reply = Reply { status: parts.status, headers: parts.headers, body: kept.into() };
        Ok((reply, bytes))
    }

    async fn exchange(&mut self, call: &Call) -> io::Result<Reply> {
        let (connection, response) = self.ask(call).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        self.connection = Some(connection);
        Ok(Reply { status: parts.status, headers: parts.headers, body })
    }

    /// Sends a request, and returns the answer once its head has arrived.
    async fn ask(
        &mut self,
        call: &Call,
    ) -> io::Result<(http1::SendRequest<Full<Bytes>>, Response<Incoming>)> {
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => self.connect().await?,
        };
        connection.ready().await.map_err(io::Error::other)?;
        let mut request = match (&self.signer, &self.credentials) {
            (None, Credentials::Bearer(token)) => show(call, &self.address.to_string(), token)?,
            _ => self.sign(call)?,
        };
        // hyper leaves the header out for an empty body, but S3 requires it.
        if call.body.is_empty() && [Method::PUT, Method::POST].contains(&call.method) {
            request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let response = connection.send_request(request).await.map_err(io::Error::other)?;
        Ok((connection, response))
    }

    /// Returns the head of a request as it is sent, for callers that send the body themselves.
    ///
    /// # Errors
    /// An error when the request is malformed.
    pub fn head_of(&self, call: &Call) -> io::Result<String> {
        let request = self.sign(call)?;
        let mut head = format!("{} {} HTTP/1.1\r\n", request.method(), request.uri());
        for (name, value) in request.headers() {
            let value = value.to_str().map_err(io::Error::other)?;
            head.extend([name.as_str(), ": ", value, "\r\n"]);
        }
        if !call.body.is_empty() {
            head.extend(["content-length: ", &call.body.len().to_string(), "\r\n"]);
        }
        head.push_str("\r\n");
        Ok(head)
    }

    async fn connect(&self) -> io::Result<http1::SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Returns the request with a signature in its headers.
    fn sign(&self, call: &Call) -> io::Result<Request<Full<Bytes>>> {
        let unsigned = || io::Error::other("only requests that are signed");
        let signer = self.signer.as_ref().ok_or_else(unsigned)?;
        #[expect(clippy::disallowed_methods, reason = "signatures carry the time of day")]
        let time = std::time::SystemTime::now();
        let host = self.address.to_string();
        let payload = match self.payload {
            Payload::Unsigned => UNSIGNED_PAYLOAD.to_owned(),
            Payload::Signed => payload_hash(&call.body),
        };
        let query: Vec<String> = call
            .query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| if pair.contains('=') { pair.to_owned() } else { format!("{pair}=") })
            .collect();
        let added = signer.sign(&Signable {
            method: call.method.as_str(),
            host: &host,
            path: &call.path,
            query: &query.join("&"),
            headers: &call.headers,
            payload: &payload,
            time,
        });
        let mut request = Request::builder().method(call.method.clone()).uri(call.uri());
        request = request.header("host", host);
        for (name, value) in call.headers.iter().chain(&added) {
            request = request.header(name, value);
        }
        request.body(Full::new(call.body.clone())).map_err(io::Error::other)
    }
}

/// Returns the request with a bearer token.
fn show(call: &Call, host: &str, token: &str) -> io::Result<Request<Full<Bytes>>> {
    let mut request = Request::builder().method(call.method.clone()).uri(call.uri());
    for (name, value) in &call.headers {
        request = request.header(name, value);
    }
    request = request.header("host", host).header("authorization", format!("Bearer {token}"));
    request.body(Full::new(call.body.clone())).map_err(io::Error::other)
}
