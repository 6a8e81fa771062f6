//! The HTTP interface: S3, the gateway's own routes, the mapping of errors to S3 codes, and metrics.
//!
//! `http` is the outermost layer: request ids, logs, metrics, limits. A request then goes to one of the
//! gateway's own routes, or, once `signature` has verified it, through `s3s` (XML and headers) to `s3`,
//! which translates to and from the service. Nothing below this crate knows of HTTP.
//!
//! | routes | module |
//! |---|---|
//! | S3, STS, multi-key commits, buckets as streams and CAR files | [`Gateway`] |
//! | blocks of a storage node, tickets, questions of nodes | [`ingest`] |
//! | public objects by CID | [`trustless`] |
//! | the Pinning Service API | [`psa`] |
//! | health, readiness, metrics | [`admin`], [`metrics`] |
//!
//! # Invariants
//! - A request without a credential is refused before its body is read, unless its owner may have made it public.
//! - A signature is verified over the request as it was received, before anything is normalised.
//! - An error of the service has one S3 code: the translation has no catch-all.
//! - What a client sends is bounded before memory is taken for it ([`WireLimits`]).
//!
//! # Deliberately absent
//! Decisions about who may do what, and about what is stored (`fula-service`).

pub mod admin;
mod auth;
mod buffered;
mod connection_io;
mod connections;
mod cors;
mod credential;
mod date;
mod digest;
mod error;
mod form;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod guard;
mod host;
mod http;
pub mod ingest;
mod limit;
pub mod metrics;
mod normalise;
mod payload;
mod presigned;
pub mod psa;
mod query;
mod range;
mod request;
mod request_body;
mod request_log;
mod s3;
pub mod server;
mod signature;
mod sts;
pub mod tls;
pub mod trustless;
mod xml;

use fula_service::{Service, auth::Authenticator};
use s3s::service::S3Service;

pub use self::{
    host::{Domain, InvalidDomain},
    http::Gateway,
    limit::Rates,
    request::Peer,
};

/// The limits of requests and connections.
#[derive(Clone, Debug)]
pub struct WireLimits {
    /// Largest body of a request in XML or JSON, in bytes.
    pub xml_bytes_max: usize,
    /// Largest body of a multi-key commit in dag-cbor, in bytes.
    pub commit_bytes_max: usize,
    /// Longest time that a client may take to send its headers.
    pub header_timeout: std::time::Duration,
    /// Longest time without a byte of a body.
    pub body_idle_timeout: std::time::Duration,
    /// Number of bytes that a client must send each second, once its body has taken longer than that in
    /// all; 0 for no limit.
    pub body_bytes_per_second_min: u64,
}

impl Default for WireLimits {
    fn default() -> Self {
        Self {
            xml_bytes_max: 4 << 20,
            commit_bytes_max: 16 << 20,
            header_timeout: std::time::Duration::from_secs(30),
            body_idle_timeout: std::time::Duration::from_mins(1),
            body_bytes_per_second_min: 1 << 10,
        }
    }
}

/// The settings of the HTTP interface.
#[derive(Clone, Debug)]
pub struct WireConfig {
    /// Region that `GetBucketLocation` and `HeadBucket` report.
    pub region: String,
    /// Whether a signature for another region is refused.
    pub region_strict: bool,
    /// Whether presigned URLs of signature version 2 are accepted.
    pub presigned_v2: bool,
    /// Domain whose subdomains are bucket names, for virtual-host style.
    pub domain: Option<Domain>,
    /// Whether a proxy in front of the gateway terminates TLS, so that tokens which arrive over plain HTTP could
    /// not be read on the way.
    pub tls_terminated: bool,
    /// Rate limits of one user and of one address.
    pub rates: Rates,
    /// Limits of requests and connections.
    pub limits: WireLimits,
}

/// Returns the HTTP interface of a service.
pub fn gateway(service: Service, authenticator: Authenticator, config: WireConfig) -> Gateway {
    let limits = &config.limits;
    let mut s3_config = s3s::config::S3Config::default();
    s3_config.xml_max_body_size = limits.xml_bytes_max;
    s3_config.put_object_max_size = None; // The service bounds bodies, with S3's own error.
    s3_config.operation_id_routing = false;
    let commit_bytes_max = limits.xml_bytes_max.max(limits.commit_bytes_max);
    s3_config.custom_route_max_body_size = Some(commit_bytes_max as u64);
    let provider = s3s::config::StaticConfigProvider::new(std::sync::Arc::new(s3_config));

    let limited = std::sync::Arc::new(limit::RateLimits::new(config.rates));
    let rules = signature::Rules {
        region: config.region_strict.then(|| config.region.clone()),
        presigned_v2: config.presigned_v2,
    };
    let auth_layer = auth::AuthLayer::new(authenticator, limited, rules, config.tls_terminated);
    let routes = s3::OwnRoutes::new(service.clone(), commit_bytes_max);
    let buffered = buffered::BufferedBodies::new(&service, limits.body_idle_timeout);
    let for_cors = service.clone();
    let mut builder = s3s::service::S3ServiceBuilder::new(s3::Api::new(service, config.clone()));
    builder.set_route(routes);
    builder.set_config(std::sync::Arc::new(provider));
    builder.set_auth(s3::NoSecrets);
    builder.set_access(s3::Access);
    if let Some(domain) = &config.domain {
        builder.set_host(domain.clone());
    }
    let s3: S3Service = builder.build();
    Gateway::new(s3, for_cors, auth_layer, buffered, config)
}
