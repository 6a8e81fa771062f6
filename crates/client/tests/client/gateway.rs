// A gateway in memory, for tests, for the examples of this crate, and for the examples in the documentation, which
// include this file. An included file cannot begin with the documentation of a module.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fula_client::{Bucket, Client, Credentials};
use fula_core::{
    WriterId,
    in_memory::{MemoryBlocks, MemoryMetadata, MemoryRoots},
    tree::Nodes,
};
use fula_gateway::{Gateway, Peer, Rates, WireConfig, WireLimits};
use fula_service::{
    Arbiter, Limits, NamePolicy, RollbackGuard, Service,
    auth::{Authenticator, KeyRing, Revocations, SealingKey},
    system_random,
};
use http_body_util::BodyExt;

fn clock() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "signatures carry the time of day")]
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap().as_millis()).unwrap()
}

pub(crate) async fn gateway() -> (Gateway, Credentials) {
    let limits = Limits::default();
    let nodes = Arc::new(Nodes::new(Arc::new(MemoryBlocks::default()), limits.cache_bytes));
    let (roots, guard) = (Arc::new(MemoryRoots::default()), RollbackGuard::new(None, true));
    let arbiter = Arbiter::new(nodes, roots, WriterId([1; 16]), &limits, guard);
    let service = Service::new(arbiter, limits, system_random(), NamePolicy::PerOwner);
    let metadata = Arc::new(MemoryMetadata::default());
    let sealing = SealingKey::parse(&"5a".repeat(32)).unwrap();
    let keys = KeyRing::new(Arc::clone(&metadata) as _, sealing, system_random(), Duration::ZERO);
    let (key, secret) = keys.create("alice", clock()).await.unwrap();
    let revocations = Revocations::open(metadata, None).await.unwrap();
    let authenticator = Authenticator::new(keys, revocations, Arc::new(clock));
    let config = WireConfig {
        region: "us-east-1".to_owned(),
        region_strict: false,
        presigned_v2: true,
        domain: None,
        tls_terminated: false,
        rates: Rates::default(),
        limits: WireLimits::default(),
    };
    let credentials = Credentials::key(key.id, secret.expose());
    (fula_gateway::gateway(service, authenticator, config), credentials)
}

/// Serves a gateway with an empty bucket `my-bucket`, and returns its URL and a credential.
pub(crate) async fn serve() -> (String, Credentials) {
    let (gateway, credentials) = gateway().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let gateway = gateway.clone();
            let service = hyper::service::service_fn(move |request: http::Request<_>| {
                let gateway = gateway.clone();
                async move {
                    let (parts, body): (_, hyper::body::Incoming) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    let mut request = http::Request::from_parts(parts, body);
                    let peer = Peer { address: [127, 0, 0, 1].into(), is_tls: false };
                    request.extensions_mut().insert(peer);
                    Ok::<_, hyper::Error>(gateway.handle(request).await)
                }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    let client = Client::builder().endpoint(&url).credentials(credentials.clone()).build().unwrap();
    client.bucket("my-bucket").unwrap().create().await.unwrap();
    (url, credentials)
}

/// Returns the bucket of a gateway that was started for one example.
pub(crate) async fn bucket() -> Bucket {
    let (url, credentials) = serve().await;
    let client = Client::builder().endpoint(url).credentials(credentials).build().unwrap();
    client.bucket("my-bucket").unwrap()
}
