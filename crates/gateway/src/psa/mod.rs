//! The routes of the IPFS Pinning Service API 1.0: `/fula/psa/pins` of a master, `/psa/pins` of a storage node
//! (docs/adr/0056).
//!
//! The sender is authenticated before anything is read of a body. Whose pins a request reaches is decided in
//! `fula_service::pinning::access`.

mod answer;
mod asked;

use std::{fmt::Debug, sync::Arc};

use fula_service::{
    Caller, Service, ServiceError,
    auth::Proof,
    pinning::{NewPin, PinState, access::PinAction},
};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use s3s::Body;

use self::answer::{Refused, json, pin_json, refused};
use crate::{auth::AuthLayer, request::Operation};

/// Prefix of the routes on a master.
pub(crate) const ON_MASTERS: &str = "/fula/psa/";

/// Prefix of the routes on a storage node. It cannot be mistaken for a bucket there, because a node has none.
pub(crate) const ON_NODES: &str = "/psa/";

/// Largest body of a request in bytes.
const BODY_BYTES_MAX: usize = 64 << 10;

/// What fetches pins, as the routes see it.
pub trait PinFetcher: Debug + Send + Sync {
    /// Returns the addresses to which clients may send data; none while they are not known.
    fn delegates(&self) -> Vec<String>;

    /// Looks for new pins soon.
    fn wake(&self);
}

/// Answers the requests of the Pinning Service API. Clones share one state.
#[derive(Clone, Debug)]
pub struct PinningRoutes {
    service: Service,
    fetcher: Arc<dyn PinFetcher>,
    pins_max: u64,
}

type Answer = Result<Response<Body>, Refused>;

impl PinningRoutes {
    /// Serves the pins of `service`, which `fetcher` fetches. An owner may have `pins_max`.
    pub fn new(service: Service, fetcher: Arc<dyn PinFetcher>, pins_max: u64) -> Self {
        Self { service, fetcher, pins_max }
    }

    /// Answers a request whose path is `path` below the prefix of the routes.
    pub(crate) async fn serve(
        &self,
        path: &str,
        auth: &AuthLayer,
        request: Request<Body>,
        operation: &Operation,
    ) -> Response<Body> {
        let is_write = request.method() == Method::POST;
        let mut answered = self.answer(path, auth, request, operation).await;
        if is_write && answered.is_ok() {
            self.fetcher.wake();
        }
        if let Ok(response) = &mut answered {
            let headers = response.headers_mut();
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        answered.unwrap_or_else(refused)
    }

    async fn answer(
        &self,
        path: &str,
        auth: &AuthLayer,
        request: Request<Body>,
        operation: &Operation,
    ) -> Answer {
        let (mut parts, body) = request.into_parts();
        let mut path = path.split('/');
        let place = (path.next(), path.next(), path.next(), path.next());
        let asked = match place {
            (Some("pins"), None | Some(""), None, _) => Asked::Pins,
            (Some("pins"), Some(id), None, _) => Asked::Pin(id),
            (Some("pins"), Some(id), Some("car"), None) => Asked::Car(id),
            _ => return Err(Refused::not_found("there is no such route")),
        };
        let act = match (&parts.method, &asked) {
            (&Method::GET, Asked::Pins) => "PinsList",
            (&Method::POST, Asked::Pins) => "PinsAdd",
            (&Method::GET, Asked::Pin(_)) => "PinsGet",
            (&Method::POST, Asked::Pin(_)) => "PinsReplace",
            (&Method::DELETE, Asked::Pin(_)) => "PinsDelete",
            (&Method::GET, Asked::Car(_)) => "PinsCar",
            (_, Asked::Pins) => return Err(Refused::method("GET, POST")),
            (_, Asked::Pin(_)) => return Err(Refused::method("DELETE, GET, POST")),
            (_, Asked::Car(_)) => return Err(Refused::method("GET")),
        };
        operation.set(act.to_owned());
        let proof = auth.authenticate(&mut parts).await?;
        let caller = caller_of(&proof);
        match (&parts.method, asked) {
            (&Method::POST, Asked::Pins) => self.add(&caller, &parts, body, None).await,
            (&Method::POST, Asked::Pin(id)) => self.add(&caller, &parts, body, Some(id)).await,
            (&Method::DELETE, Asked::Pin(id)) => {
                self.service.remove_pin(&caller, id).await?;
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::ACCEPTED;
                Ok(response)
            }
            (_, Asked::Pin(id)) => {
                Ok(self.shown(StatusCode::OK, &self.service.pin(&caller, id).await?))
            }
            (_, Asked::Pins) => self.list(&caller, &parts).await,
            (_, Asked::Car(id)) => self.car(&caller, id).await,
        }
    }

    async fn add(
        &self,
        caller: &Caller,
        parts: &http::request::Parts,
        body: Body,
        instead_of: Option<&str>,
    ) -> Answer {
        // Nothing is read for a caller who may not do it.
        fula_service::pinning::access::owner_of(caller.identity.as_ref(), PinAction::Change)?;
        asked::check_type(&parts.headers)?;
        let asked = asked::pin_of(&read(body).await?)?;
        let delegates = self.fetcher.delegates();
        if delegates.is_empty() {
            let text = "the kubo that fetches the data has not answered yet";
            return Err(Refused::busy(text));
        }
        let new = NewPin { delegates, ..asked };
        let added = self.service.add_pin(caller, new, instead_of, self.pins_max).await?;
        Ok(self.shown(StatusCode::ACCEPTED, &added))
    }

    async fn list(&self, caller: &Caller, parts: &http::request::Parts) -> Answer {
        let query = asked::query_of(parts.uri.query().unwrap_or_default())?;
        let page = self.service.list_pins(caller, &query).await?;
        let current = self.fetcher.delegates();
        let results: Vec<_> = page.pins.iter().map(|pin| pin_json(pin, &current)).collect();
        let body = serde_json::json!({"count": page.count, "results": results});
        Ok(json(StatusCode::OK, &body))
    }

    fn shown(&self, status: StatusCode, pin: &PinState) -> Response<Body> {
        json(status, &pin_json(pin, &self.fetcher.delegates()))
    }

    /// Sends what a pin has as a CAR file. If it cannot be read to its end, the connection is broken off.
    async fn car(&self, caller: &Caller, id: &str) -> Answer {
        let file = self.service.pin_file(caller, id).await?;
        let mut response = Response::new(answer::stream_body(file));
        let headers = response.headers_mut();
        let kind = "application/vnd.ipld.car; version=1";
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        Ok(response)
    }
}

/// Returns the answer of a service that cannot answer now.
pub(crate) fn busy(details: &str) -> Response<Body> {
    refused(Refused::busy(details))
}

/// What a path is about.
enum Asked<'a> {
    Pins,
    Pin(&'a str),
    Car(&'a str),
}

fn caller_of(proof: &Proof) -> Caller {
    let credential_check = Some(proof.credential_check.clone());
    Caller { credential_check, ..Caller::of(proof.identity.clone()) }
}

/// Reads the body of a request.
async fn read(mut from: Body) -> Result<Vec<u8>, Refused> {
    let mut bytes = Vec::new();
    while let Some(frame) = from.frame().await {
        let frame = frame
            .map_err(|_| Refused::bad_request("the body is cut off, or arrived too slowly"))?;
        let Ok(more) = frame.into_data() else { continue };
        if bytes.len() + more.len() > BODY_BYTES_MAX {
            let text = format!("the body is longer than {} KiB", BODY_BYTES_MAX >> 10);
            return Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE", &text));
        }
        bytes.extend_from_slice(&more);
    }
    Ok(bytes)
}

impl From<ServiceError> for Refused {
    fn from(error: ServiceError) -> Self {
        Self::of_service(&error)
    }
}
