//! A small S3 client: one persistent connection, and Signature Version 4 in headers or a bearer token.

use std::{io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use fula_identity::{eip712::Claims, wallet::WalletKey, wallet_token};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::net::TcpStream;

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
    /// The day, and the signing key that is derived for it.
    signing: (String, Vec<u8>),
    connection: Option<http1::SendRequest<Full<Bytes>>>,
}

impl Client {
    /// Returns a client that connects with its first request.
    pub fn new(address: SocketAddr, credentials: Credentials) -> Self {
        let signing = (String::new(), Vec::new());
        Self { address, credentials, payload: Payload::Unsigned, signing, connection: None }
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
        let mut request = match self.credentials.clone() {
            Credentials::Key { id, secret } => self.sign(call, &id, &secret)?,
            Credentials::Bearer(token) => show(call, &self.address.to_string(), &token)?,
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
        let Credentials::Key { id, secret } = &self.credentials else {
            return Err(io::Error::other("only requests that are signed"));
        };
        let mut signer = Self::new(self.address, self.credentials.clone());
        let request = signer.sign(call, id, secret)?;
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
    fn sign(&mut self, call: &Call, id: &str, secret: &str) -> io::Result<Request<Full<Bytes>>> {
        #[expect(clippy::disallowed_methods, reason = "signatures carry the time of day")]
        let now = OffsetDateTime::from(std::time::SystemTime::now());
        let (hour, minute, second) = now.to_hms();
        let (year, month, day) = now.to_calendar_date();
        let month = u8::from(month);
        let stamp = format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z");
        let scope = format!("{}/us-east-1/s3/aws4_request", &stamp[..8]);
        let host = self.address.to_string();
        let payload = match self.payload {
            Payload::Unsigned => "UNSIGNED-PAYLOAD".to_owned(),
            Payload::Signed => hex::encode(Sha256::digest(&call.body)),
        };
        let mut signed: Vec<(String, String)> = vec![
            ("host".into(), host),
            ("x-amz-content-sha256".into(), payload.clone()),
            ("x-amz-date".into(), stamp.clone()),
        ];
        signed.extend(call.headers.iter().filter(|(name, _)| name.starts_with("x-amz-")).cloned());
        signed.sort();
        let names: Vec<&str> = signed.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let mut lines = String::new();
        for (name, value) in &signed {
            lines.extend([name, ":", value, "\n"]);
        }
        let query: Vec<String> = call
            .query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| if pair.contains('=') { pair.to_owned() } else { format!("{pair}=") })
            .collect();
        let canonical = format!(
            "{}\n{}\n{}\n{lines}\n{names}\n{payload}",
            call.method,
            call.path,
            query.join("&")
        );
        let digest = hex::encode(Sha256::digest(canonical));
        let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}");
        if self.signing.0 != stamp[..8] {
            let mut key = format!("AWS4{secret}").into_bytes();
            for part in [&stamp[..8], "us-east-1", "s3", "aws4_request"] {
                key = mac(&key, part);
            }
            self.signing = (stamp[..8].to_owned(), key);
        }
        let signature = hex::encode(mac(&self.signing.1, &text));
        let mut request = Request::builder().method(call.method.clone()).uri(call.uri());
        let unsigned = call.headers.iter().filter(|(name, _)| !name.starts_with("x-amz-"));
        for (name, value) in signed.iter().chain(unsigned) {
            request = request.header(name, value);
        }
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"
        );
        request = request.header("authorization", authorization);
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

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}
