//! The outermost layer, which every request passes.
//!
//! It assigns request ids, logs each request, counts metrics by operation and status, serves the routes of
//! the gateway itself, and completes the error bodies of `s3s`. No secret, token or query is ever logged.

mod answer;
mod post;
#[cfg(test)]
mod tests;

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use fula_service::{Seen, Service, auth::Proof};
use futures::FutureExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body as _;
use s3s::{S3ErrorCode, S3Result, s3_error, service::S3Service};
use tokio::time::Instant;

use self::answer::{mend, tell_version};
use crate::{
    WireConfig,
    auth::{AuthLayer, Signer},
    buffered::{self, BufferedBodies},
    cors::{self, CrossOrigin},
    credential::{Credential, bearer_of},
    error::{FORGED_HEADER, respond},
    form, guard,
    ingest::{self, MasterIngest},
    limit::Rates,
    normalise,
    payload::{streamed, unframed},
    psa::{self, PinningRoutes},
    query::{self, Kind, Payload, Route},
    request::{HostBucket, Operation, Peer, RequestId, SecureTransport},
    request_body::{self, Lent, MinimumPace},
    request_log::{self, Line},
    signature::{ChunkKey, Received},
    sts,
};

/// Prefix of the gateway's own routes. `fula` cannot be a bucket name.
const OWN_ROUTES: &str = "/fula/";

/// Answers HTTP requests. Clones share one state.
#[derive(Clone, Debug)]
pub struct Gateway {
    s3: S3Service,
    service: Service,
    auth_layer: AuthLayer,
    buffered: BufferedBodies,
    config: Arc<WireConfig>,
    ids: Arc<RequestIds>,
    ingest: Option<MasterIngest>,
    pinning: Option<PinningRoutes>,
}

/// Generates request ids from the start of the process and a counter.
#[derive(Debug)]
struct RequestIds {
    seed: u64,
    next: AtomicU64,
}

impl RequestIds {
    fn draw(&self) -> String {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        // The multiplication makes the ids of one process look different. It never repeats an id.
        format!("{:016X}", self.seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

impl Gateway {
    pub(crate) fn new(
        s3: S3Service,
        service: Service,
        auth_layer: AuthLayer,
        buffered: BufferedBodies,
        config: WireConfig,
    ) -> Self {
        use std::hash::{BuildHasher, RandomState};
        let seed = RandomState::new().hash_one("request ids");
        Self {
            s3,
            service,
            auth_layer,
            buffered,
            config: Arc::new(config),
            ids: Arc::new(RequestIds { seed, next: AtomicU64::new(0) }),
            ingest: None,
            pinning: None,
        }
    }

    /// Answers the requests of the Pinning Service API, too.
    #[must_use]
    pub fn with_pinning(mut self, pinning: PinningRoutes) -> Self {
        self.pinning = Some(pinning);
        self
    }

    /// Answers the requests of storage nodes and of their clients, too.
    #[must_use]
    pub fn with_ingest(mut self, ingest: MasterIngest) -> Self {
        self.ingest = Some(ingest);
        self
    }

    /// Sets the rate limits of users and addresses.
    pub fn set_rates(&self, rates: Rates) {
        self.auth_layer.set_rates(rates);
        if let Some(own) = self.ingest.as_ref().and_then(MasterIngest::own) {
            own.set_rates(rates);
        }
    }

    /// Answers one request.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<s3s::Body>
    where
        s3s::Body: From<B>,
    {
        let started = Instant::now();
        let mut request = request.map(s3s::Body::from);
        let id = self.ids.draw();
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let peer = request.extensions().get::<Peer>().copied();
        let host_bucket = self.host_bucket(&request);
        let cross_origin = CrossOrigin::of(&request, host_bucket.as_ref());
        if let Some(cross_origin) = &cross_origin {
            request.extensions_mut().insert(Arc::clone(cross_origin));
        }
        let waits_for_continue = request.headers().contains_key(header::EXPECT);
        let linger = request.extensions().get().cloned();
        let operation = Arc::new(Operation::default());
        let seen = Arc::new(Seen::default());
        request.extensions_mut().insert(RequestId(id.clone()));
        let is_tls = request.extensions().get::<Peer>().is_some_and(|peer| peer.is_tls);
        if is_tls || self.config.tls_terminated {
            request.extensions_mut().insert(SecureTransport);
        }
        request.extensions_mut().insert(Arc::clone(&operation));
        request.extensions_mut().insert(Arc::clone(&seen));
        let is_empty = request.body().is_end_stream();
        let limits = &self.config.limits;
        let pace = MinimumPace {
            idle: limits.body_idle_timeout,
            bytes_per_second: limits.body_bytes_per_second_min,
        };
        let (request, lent) = request_body::lend(request, pace);
        let mut response = self.answer(request, &lent, &operation, &id).await;
        if !response.status().is_success()
            && let Some(fault) = lent.take_fault()
        {
            response = respond(fault);
        }
        mend(&mut response, &id, &path);
        match cross_origin {
            Some(cross_origin) => cross_origin.complete(&self.service, &mut response).await,
            None if [Method::GET, Method::HEAD].contains(&method) => cors::vary(&mut response),
            None => {}
        }
        if waits_for_continue && is_empty {
            // No 100 is sent for an empty body. Clients may then misread the next answer on the connection
            // (botocore takes the status of this answer for it), so the connection is closed.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        lent.settle(&mut response, waits_for_continue, linger.as_ref());
        tell_version(&mut response, &seen);
        let received = lent.received();
        let line = Line { request_id: id, peer, method, path, operation, received, started };
        request_log::follow(response, line)
    }

    /// Determines what a request is about, and passes it to the layer that answers it.
    async fn answer(
        &self,
        request: Request<s3s::Body>,
        lent: &Lent,
        operation: &Operation,
        id: &str,
    ) -> Response<s3s::Body> {
        let host_bucket = self.host_bucket(&request);
        if let Err(error) = self.auth_layer.check_address(request.extensions()) {
            return respond(error);
        }
        if let (None, Some(ingest)) = (&host_bucket, &self.ingest)
            && let Some(routed) = ingest::route(ingest, request.uri().path())
        {
            return ingest.serve(routed, &self.auth_layer, request, operation).await;
        }
        if let (None, Some(pinning)) = (&host_bucket, &self.pinning)
            && let Some(path) = request.uri().path().strip_prefix(psa::ON_MASTERS)
        {
            let path = path.to_owned();
            return pinning.serve(&path, &self.auth_layer, request, operation).await;
        }
        if request.uri().path().starts_with(OWN_ROUTES) && host_bucket.is_none() {
            operation.set("FulaRoute".to_owned());
            return self.own_route(&request);
        }
        if request.method() == Method::OPTIONS {
            operation.set("Preflight".to_owned());
            let authenticator = self.auth_layer.authenticator();
            return cors::preflight(&self.service, authenticator, &request, host_bucket.as_ref())
                .await;
        }
        let (parts, body) = request.into_parts();
        if sts::is_sts(&parts) && host_bucket.is_none() {
            operation.set("AssumeRoleWithWebIdentity".to_owned());
            return match self.buffered.unauthenticated(&parts, body, sts::BODY_BYTES_MAX).await {
                Ok((body, _memory, _share)) => {
                    sts::answer(&self.auth_layer, &parts, &body, id).await
                }
                Err(error) => respond(error),
            };
        }
        if form::is_form(&parts) && parts.uri.query().is_none_or(str::is_empty) {
            operation.set("PostObject".to_owned());
            return self.post_form(parts, body, host_bucket, lent).await;
        }
        let admitted = self.admit(parts, body, host_bucket, lent).await;
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(error) => return respond(error),
        };
        if !admitted.route.is_page {
            return self.s3(admitted).await;
        }
        // The result of a change is reported in any case.
        let is_change = admitted.request.method() == Method::POST;
        match self.buffered.page(admitted.request.extensions()).await {
            Ok(share) => buffered::send(self.s3(admitted).await, share, is_change),
            Err(error) => respond(error),
        }
    }

    /// Returns the bucket that the `Host` header names below the gateway's domain.
    fn host_bucket<B>(&self, request: &Request<B>) -> Option<HostBucket> {
        let domain = self.config.domain.as_ref()?;
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        domain.bucket_of(host?).map(HostBucket)
    }

    /// Refuses what can be refused, first by the headers alone and then by the signature. Then takes the
    /// body, and leaves only those parts of the request that `s3s` must see.
    async fn admit(
        &self,
        mut parts: Parts,
        body: s3s::Body,
        host_bucket: Option<HostBucket>,
        lent: &Lent,
    ) -> S3Result<Admitted> {
        guard::check_host(&parts)?;
        let credential = Credential::of(&parts)?;
        let has_token =
            self.auth_layer.authenticate_bearer(&parts.headers, &mut parts.extensions)?;
        guard::check_form(&parts)?;
        let mut received = None;
        if credential == Credential::Presigned {
            received = Some((parts.uri.clone(), parts.headers.clone()));
            normalise::take_presigned(&mut parts)?;
        }
        let route = query::route(&parts, host_bucket.is_some())?;
        if credential == Credential::None && !route.is_for_anyone {
            return Err(s3_error!(AccessDenied));
        }
        let mut signer = None;
        if credential != Credential::None && !has_token {
            let as_sent = received.as_ref().map(|(uri, headers)| (uri, headers));
            let (uri, headers) = as_sent.unwrap_or((&parts.uri, &parts.headers));
            let host_bucket = host_bucket.as_ref().map(|bucket| bucket.0.as_str());
            let received = Received { method: &parts.method, uri, headers, host_bucket };
            let (extensions, began) = (&mut parts.extensions, Instant::now());
            let verified = self.auth_layer.authenticate_signature(received, credential, extensions);
            signer = Some(verified.await?);
            if let Some(seen) = parts.extensions.get::<Arc<Seen>>() {
                seen.note_waited(began.elapsed());
            }
        }
        if let (Some(cross_origin), Some(proof)) =
            (parts.extensions.get::<Arc<CrossOrigin>>(), parts.extensions.get::<Proof>())
        {
            cross_origin.signed_by(&proof.identity);
        }
        if host_bucket.is_none() {
            check_bucket(parts.uri.path())?;
        }
        normalise::join_repeated(&mut parts.headers)?;
        let key = signer.as_mut().and_then(|signer| signer.chunk_key.take());
        let body = self.body(&mut parts, body, route.payload, key, lent).await;
        let body = body.inspect_err(|error| {
            let is_forged = *error.code() == S3ErrorCode::SignatureDoesNotMatch;
            if let Some(signer) = signer.as_ref().filter(|_| is_forged) {
                signer.note_forged_chunk();
            }
        })?;
        if let Some(bucket) = host_bucket {
            parts.extensions.insert(bucket);
        }
        normalise::hide(&mut parts);
        Ok(Admitted { request: Request::from_parts(parts, body), route, signer })
    }

    /// Returns the body as the operation reads it: without its framing, and checked against its digests.
    async fn body(
        &self,
        parts: &mut Parts,
        body: s3s::Body,
        payload: Payload,
        key: Option<ChunkKey>,
        lent: &Lent,
    ) -> S3Result<s3s::Body> {
        match payload {
            Payload::None => Ok(body),
            Payload::Streamed => {
                guard::check_length(parts)?;
                streamed(parts, body, key, lent)
            }
            Payload::BufferedBodies(kind) => {
                guard::check_framing(&parts.headers, kind)?;
                let body = unframed(parts, body, key, lent)?;
                let limits = &self.config.limits;
                let is_cbor = kind == Kind::Commit && crate::s3::is_cbor(&parts.headers);
                let bytes_max =
                    if is_cbor { limits.commit_bytes_max } else { limits.xml_bytes_max };
                let read = self.buffered.checked(parts, body, kind, bytes_max, lent).await?;
                // A commit may have any bytes.
                let is_xml = kind != Kind::Commit;
                Ok(s3s::Body::from(if is_xml { normalise::expand_references(read) } else { read }))
            }
        }
    }

    async fn s3(&self, admitted: Admitted) -> Response<s3s::Body> {
        let Admitted { request, signer, .. } = admitted;
        // A bug in one request must not look like a network fault to the client.
        match AssertUnwindSafe(self.s3.call(request)).catch_unwind().await {
            Ok(Ok(mut response)) => {
                answer::set_body(&mut response);
                let is_forged = response.headers_mut().remove(FORGED_HEADER).is_some();
                if let Some(signer) = signer.filter(|_| is_forged) {
                    signer.note_forged_chunk();
                }
                return response;
            }
            Ok(Err(error)) => tracing::error!(%error, "a request could not be answered"),
            Err(_) => tracing::error!("internal error: a request panicked; please report it"),
        }
        respond(s3s::S3Error::new(S3ErrorCode::InternalError))
    }
}

/// Refuses the name of a bucket in a path, with the rule that it breaks: `s3s` names none.
fn check_bucket(path: &str) -> S3Result<()> {
    match path.split('/').nth(1) {
        // One that is escaped is left to `s3s`.
        Some(name) if !name.is_empty() && !name.contains('%') => {
            crate::s3::bucket_name(name).map(drop)
        }
        _ => Ok(()),
    }
}

/// A request that is passed on to `s3s`.
struct Admitted {
    request: Request<s3s::Body>,
    route: &'static Route,
    /// Signer of the request, if it is signed.
    signer: Option<Signer>,
}

impl Gateway {
    /// Answers requests of non-S3 routes under `/fula/`.
    fn own_route(&self, request: &Request<s3s::Body>) -> Response<s3s::Body> {
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/fula/capabilities") => {
                let policy = self.auth_layer.authenticator().policy();
                let ingest = self.ingest.as_ref();
                let (maps, ingests) = ingest.map(MasterIngest::capabilities).unwrap_or_default();
                let capabilities = serde_json::json!({
                    "remoteCidPut": maps,
                    "eip712Auth": policy.eip712,
                    "eip712V1": policy.eip712 && policy.v1,
                    "audiences": policy.audiences,
                    "bucketRootCas": true,
                    "ingest": ingests,
                    "masterKey": ingest.map(|ingest| ingest.key().to_string()),
                    "version": env!("CARGO_PKG_VERSION"),
                });
                json_response(StatusCode::OK, &capabilities)
            }
            (&Method::GET, "/fula/whoami") => self.who_am_i(request),
            _ => {
                json_response(StatusCode::NOT_FOUND, &serde_json::json!({"error": "no such route"}))
            }
        }
    }

    /// Answers what a bearer token may be used for.
    fn who_am_i(&self, request: &Request<s3s::Body>) -> Response<s3s::Body> {
        let unauthorized = |text: &str| {
            let body = serde_json::json!({"error": text});
            let mut response = json_response(StatusCode::UNAUTHORIZED, &body);
            let challenge = HeaderValue::from_static("Bearer realm=\"fula\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            response
        };
        let token = match bearer_of(request.headers()) {
            Ok(Some(token)) => token,
            Ok(None) => return unauthorized("this route takes a bearer token"),
            Err(_) => return unauthorized("there is more than one Authorization header"),
        };
        let authenticator = self.auth_layer.authenticator();
        let shown = self.auth_layer.bearer(request.extensions(), &token);
        if let Err(error) = self.auth_layer.decide(request.extensions(), "bearer", shown.clone()) {
            if error.status_code().is_some_and(|status| status.is_server_error()) {
                return respond(error);
            }
            return unauthorized(error.message().unwrap_or("the token is not accepted"));
        }
        match authenticator.inspect(&token) {
            Ok(verified) => {
                let body = serde_json::json!({
                    "user": verified.identity.display(),
                    "owner": verified.identity.owner.to_string(),
                    "scopes": verified.identity.grant.to_texts(),
                    "issued": verified.issued,
                    "expires": verified.expires,
                    "meaning": verified.digest.to_string(),
                });
                json_response(StatusCode::OK, &body)
            }
            Err(error) => unauthorized(&error.to_string()),
        }
    }
}

fn json_response(status: StatusCode, body: &serde_json::Value) -> Response<s3s::Body> {
    let mut response = Response::new(s3s::Body::from(body.to_string()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
