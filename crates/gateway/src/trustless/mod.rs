//! Public objects by CID, in the form of an IPFS trustless gateway: single blocks and CAR files, which a client
//! verifies itself (<https://specs.ipfs.tech/http-gateways/trustless-gateway/>, docs/adr/0050).
//!
//! It has a listener of its own and asks for no credentials. What is not public looks like what is not there.

mod answer;
mod asked;
mod car;
mod entity;
mod refused;

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use fula_core::{AnyCid, Block, Cid, Codec, StoreError, content::FileNode};
use fula_service::{
    ConnectionCloser, FindError, MemoryBudget, MemoryPermit, PublicObject, PublicReads,
};
use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use s3s::Body;
use tokio::time::{Instant, timeout};

use self::{
    answer::{allow_all_origins, etag, headers, is_cached, raw_type},
    asked::{Asked, CAR, CarForm, Form, Scope},
    car::{Dups, Walk},
    entity::Wanted,
    refused::Refused,
};
use crate::{
    limit::{RateLimits, Rates},
    range::ByteRange,
    request::{Operation, Peer},
    request_log::{self, Line},
};

/// Memory of a request whose answer is sent, in bytes: a block, the section made of it, and the blocks that are
/// remembered.
const MEMORY: usize = 3 << 20;

/// Longest wait for a block that is asked for first.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of one frame of an answer. The progress of a slow reader is visible after each.
const FRAME: usize = 64 << 10;

/// The blocks of one public object.
#[async_trait]
pub trait PublicDag: fmt::Debug + Send + Sync {
    /// Returns a block of the object.
    ///
    /// # Errors
    /// [`StoreError`], also for a block that is missing.
    async fn get(&self, cid: &Cid) -> Result<Block, StoreError>;
}

/// Finds public objects by the blocks that they have.
#[async_trait]
pub trait PublicBlocks: fmt::Debug + Send + Sync + 'static {
    /// Finds a public object that has a block. It takes as long for one that is private as for one that is not
    /// there.
    ///
    /// # Errors
    /// [`CannotTell`].
    async fn find(&self, cid: &Cid) -> Result<Option<Arc<dyn PublicDag>>, CannotTell>;
}

/// It cannot be said now whether a block is public. The text is for the log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CannotTell(pub String);

#[async_trait]
impl PublicDag for PublicObject {
    async fn get(&self, cid: &Cid) -> Result<Block, StoreError> {
        Self::get(self, cid).await
    }
}

#[async_trait]
impl PublicBlocks for PublicReads {
    async fn find(&self, cid: &Cid) -> Result<Option<Arc<dyn PublicDag>>, CannotTell> {
        match Self::find(self, cid).await {
            Ok(found) => Ok(found.map(|object| Arc::new(object) as Arc<dyn PublicDag>)),
            Err(error @ FindError::NotReady) => Err(CannotTell(error.to_string())),
            Err(FindError::Service(error)) => Err(CannotTell(fula_service::error::chain(&error))),
        }
    }
}

/// Answers the requests of the listener for public blocks. Clones share one state.
#[derive(Clone, Debug)]
pub struct TrustlessGateway(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    blocks: Arc<dyn PublicBlocks>,
    budget: MemoryBudget,
    rates: RateLimits,
}

/// The content that a request is about.
struct Found {
    dag: Arc<dyn PublicDag>,
    root: Block,
}

impl TrustlessGateway {
    /// Serves `blocks`. Answers are counted in `budget`.
    pub fn new(blocks: Arc<dyn PublicBlocks>, budget: MemoryBudget, rates: Rates) -> Self {
        let rates = RateLimits::new(Rates { user: None, ..rates });
        Self(Arc::new(Inner { blocks, budget, rates }))
    }

    /// Sets other rates of addresses.
    pub fn set_rates(&self, rates: Rates) {
        self.0.rates.set(Rates { user: None, ..rates });
    }

    /// Answers one request.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Body> {
        let (started, peer) = (Instant::now(), request.extensions().get::<Peer>().copied());
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let (name, answered) = self.answer(&request).await;
        let mut response = answered.unwrap_or_else(Refused::response);
        allow_all_origins(response.headers_mut());
        if method == Method::HEAD {
            *response.body_mut() = Body::empty();
        }
        let operation = Arc::new(Operation::default());
        operation.set(name.to_owned());
        let (request_id, received) = (String::new(), 0);
        let line = Line { request_id, peer, method, path, operation, received, started };
        request_log::follow(response, line)
    }

    /// Returns the name of the operation, and the answer.
    async fn answer<B>(
        &self,
        request: &Request<B>,
    ) -> (&'static str, Result<Response<Body>, Refused>) {
        const OTHER: &str = "PublicOther";
        let peer = request.extensions().get::<Peer>();
        if peer.is_some_and(|peer| self.0.rates.refuses_address(peer.address)) {
            let text = "your address sends too many requests; try again later";
            return (OTHER, Err(Refused::later(StatusCode::TOO_MANY_REQUESTS, text)));
        }
        match *request.method() {
            Method::GET | Method::HEAD => {}
            Method::OPTIONS => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                return (OTHER, Ok(response));
            }
            _ => {
                let text = "the route has the methods GET, HEAD and OPTIONS";
                let refused = Refused::new(StatusCode::METHOD_NOT_ALLOWED, text);
                return (OTHER, Err(refused.with(header::ALLOW, "GET, HEAD, OPTIONS")));
            }
        }
        let asked = match Asked::of(request.uri(), request.headers()) {
            Ok(asked) => asked,
            Err(refused) => return (OTHER, Err(refused)),
        };
        match asked.form {
            Form::Raw => ("PublicBlock", self.raw(&asked, request).await),
            Form::Car(form) => ("PublicCar", self.car(&asked, form, request).await),
        }
    }

    /// Finds the content, and its root block.
    async fn find<B>(&self, asked: &Asked, request: &Request<B>) -> Result<Found, Refused> {
        let absent = || {
            let wants_cached =
                request.headers().get_all(header::CACHE_CONTROL).iter().any(|value| {
                    value.to_str().is_ok_and(|value| value.contains("only-if-cached"))
                });
            let status =
                if wants_cached { StatusCode::PRECONDITION_FAILED } else { StatusCode::NOT_FOUND };
            Refused::new(status, "there is no public block with this CID here")
        };
        let AnyCid::Known(cid) = &asked.cid else { return Err(absent()) };
        let later = |why: String| {
            tracing::warn!(why, "cannot serve a public block");
            let text = "this cannot be answered now; try again later";
            Refused::later(StatusCode::SERVICE_UNAVAILABLE, text)
        };
        let dag = self.0.blocks.find(cid).await.map_err(|error| later(error.0))?;
        let dag = dag.ok_or_else(absent)?;
        if asked.has_more {
            // Files have no names below them.
            return Err(Refused::new(StatusCode::NOT_FOUND, "there is nothing at this path"));
        }
        match timeout(PATIENCE, dag.get(cid)).await {
            Ok(Ok(root)) => Ok(Found { dag, root }),
            Ok(Err(StoreError::Missing { .. })) => Err(absent()),
            Ok(Err(error)) => Err(later(fula_service::error::chain(&error))),
            Err(_) => {
                let text = "the block did not arrive in time; try again later";
                Err(Refused::later(StatusCode::GATEWAY_TIMEOUT, text))
            }
        }
    }

    /// Takes memory for an answer.
    async fn permit<B>(&self, request: &Request<B>) -> Result<MemoryPermit, Refused> {
        let closer = request.extensions().get::<ConnectionCloser>();
        self.0.budget.take(MEMORY, closer).await.map_err(|_| {
            Refused::later(StatusCode::SERVICE_UNAVAILABLE, "the gateway is busy; try again later")
        })
    }

    /// Answers a request for a block.
    async fn raw<B>(&self, asked: &Asked, request: &Request<B>) -> Result<Response<Body>, Refused> {
        let permit = self.permit(request).await?;
        let bytes = match &asked.cid {
            AnyCid::Identity { bytes, .. } => Bytes::from(bytes.clone()),
            _ => self.find(asked, request).await?.root.bytes().clone(),
        };
        let etag = etag(asked);
        let mut response = Response::new(Body::empty());
        *response.headers_mut() = headers(asked, &etag, raw_type());
        response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if is_cached(request.headers(), &etag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        let size = bytes.len() as u64;
        let is_current = request.headers().get(header::IF_RANGE).is_none_or(|tag| tag == &etag);
        let range = ByteRange::of(request.headers()).filter(|_| is_current);
        let part = match range.map(|range| range.within(size)) {
            None => bytes,
            Some(None) => {
                let refused = Refused::new(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "the range lies outside of the block",
                );
                return Err(refused.with(header::CONTENT_RANGE, &format!("bytes */{size}")));
            }
            Some(Some(Range { start, end })) => {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let text = format!("bytes {start}-{}/{size}", end - 1);
                if let Ok(value) = HeaderValue::from_str(&text) {
                    response.headers_mut().insert(header::CONTENT_RANGE, value);
                }
                let index = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
                bytes.slice(index(start)..index(end))
            }
        };
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(part.len()));
        if request.method() == Method::GET {
            *response.body_mut() = streamed(stream::iter([Ok(part)]), permit);
        }
        Ok(response)
    }

    /// Answers a request for a CAR file.
    async fn car<B>(
        &self,
        asked: &Asked,
        form: CarForm,
        request: &Request<B>,
    ) -> Result<Response<Body>, Refused> {
        let permit = self.permit(request).await?;
        let (walk, dups) = if matches!(asked.cid, AnyCid::Identity { .. }) {
            (None, if form.dups == Some(true) { Dups::Sent } else { Dups::Left })
        } else {
            let Found { dag, root } = self.find(asked, request).await?;
            let (range, dups) = (range_of(form, &root)?, Dups::of(form.dups, &root));
            (Some(Walk::new(dag, root, range, dups)), dups)
        };
        let order = if form.is_any_order { "unk" } else { "dfs" };
        let dups = match dups {
            Dups::Sent => "; dups=y",
            Dups::Left => "; dups=n",
            Dups::Unknown => "",
        };
        let etag = etag(asked);
        let mut response = Response::new(Body::empty());
        let content_type = format!("{CAR}; version=1; order={order}{dups}");
        *response.headers_mut() = headers(asked, &etag, &content_type);
        response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("none"));
        if is_cached(request.headers(), &etag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else if request.method() == Method::GET {
            *response.body_mut() = match (walk, &asked.cid) {
                (Some(walk), _) => streamed(walk.stream(), permit),
                (None, AnyCid::Identity { binary, .. }) => Body::from(car::of_identity(binary)),
                (None, _) => Body::empty(),
            };
        }
        Ok(response)
    }
}

/// Returns the bytes of the file whose blocks are wanted.
fn range_of(form: CarForm, root: &Block) -> Result<Range<u64>, Refused> {
    let malformed = || Refused::new(StatusCode::BAD_GATEWAY, "the root block is no file");
    let size = match root.cid().codec() {
        Codec::Raw => root.bytes().len() as u64,
        _ => FileNode::from_block(root).map_err(|_| malformed())?.size(),
    };
    // `entity-bytes` implies the scope of the file.
    let Some(bytes) = form.bytes else {
        return Ok(if form.scope == Some(Scope::Block) { 0..0 } else { 0..size });
    };
    match bytes.within(size) {
        Wanted::Bytes(range) => Ok(range),
        Wanted::Nothing => Ok(0..0),
        Wanted::Outside => {
            let text = format!("entity-bytes lies outside of the file, which has {size} bytes");
            Err(Refused::new(StatusCode::BAD_REQUEST, &text))
        }
    }
}

/// Returns a body that is counted in a permit while it is sent. If a block is missing, the body breaks off.
fn streamed(
    parts: impl futures::Stream<Item = Result<Bytes, StoreError>> + Send + 'static,
    permit: MemoryPermit,
) -> Body {
    let frames = parts
        .map_ok(|part| stream::iter(frames(part).map(Ok::<_, StoreError>)))
        .try_flatten()
        .inspect_err(|error| {
            let why = fula_service::error::chain(error);
            tracing::warn!(why, "a CAR file broke off");
        })
        .map_ok(move |frame: Bytes| {
            permit.moved(frame.len());
            Frame::data(frame)
        });
    Body::http_body_unsync(StreamBody::new(frames.boxed()))
}

/// Splits a part into frames.
fn frames(mut part: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || (!part.is_empty()).then(|| part.split_to(part.len().min(FRAME))))
}
