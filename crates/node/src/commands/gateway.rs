//! `fula gateway`: serves S3 until a signal stops it.

mod greeting;

use std::{
    io::IsTerminal,
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use fula_gateway::{
    WireConfig, admin as wire_admin,
    ingest::{self, IngestRoutes, MasterIngest, NodeAddress, Trust},
    metrics,
    psa::PinningRoutes,
    server::{self, ConnectionLimits, Listening},
    tls::Certificate,
};
use fula_service::{Mapping, MasterInfo, PublicReads, Service, ServiceError, error::chain};
use fula_stores::local::system_clock;
use tokio::{net::TcpListener, signal::unix, sync::watch};
use tracing_subscriber::EnvFilter;

use self::greeting::{credentials_fault, greet, set_first_key};
use super::{Failure, fail};
use crate::{
    admin,
    cli::{self, GatewaySettings, LogFormat},
    config::{
        ConfigError, GatewayConfig, IngestConfig, PeerAddress, PinConfig, PsaConfig, admin_limits,
        raise_descriptors,
    },
    files::{self, FileError},
    gauges, gc,
    ingest::{NodeLinks, OwnMaster, settle_for_ever},
    jwks, lifecycle,
    listeners::{ListenError, Taken},
    node::{Node, NodeError, Purpose, host_name},
    pins::Pinner,
    psa::Fetcher,
    public, readiness,
    reload::{Hangups, Parts},
    scrub,
    state::Running,
};

/// The reason why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot set up the first access key")]
    FirstKey(#[source] ServiceError),
    #[error("FULA_JWKS: {0}")]
    Jwks(String),
    #[error("access key {0} was revoked; choose another --access-key-id")]
    RevokedKey(String),
    #[error("cannot set up TLS")]
    Tls(#[from] fula_gateway::tls::TlsError),
    #[error("cannot set up {0}")]
    Process(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Runs `fula gateway`.
pub(crate) async fn run(settings: Box<GatewaySettings>) -> ExitCode {
    match serve(*settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(StartError::Config(error)) => Failure::from(error).report(),
        Err(error) => fail(&error),
    }
}

async fn serve(settings: GatewaySettings) -> Result<(), StartError> {
    let config = GatewayConfig::check(settings)?;
    start_log(config.log);
    warn_of_unknown_settings("gateway");
    let hangups = Hangups::begin().map_err(|error| StartError::Process("signals", error.into()))?;
    let connections = config.connections.limits(raise_descriptors());
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let listener = Taken::take(config.listen, "--listen (FULA_LISTEN)")?;
    let admin_listener = Taken::take(config.admin_listen, "--admin-listen (FULA_ADMIN_LISTEN)")?;
    let cid_listener = public::take(config.ingest.cid_listen)?;
    let certificate = tls_of(config.tls.as_ref())?;
    let tls = certificate.as_ref().map(Certificate::acceptor).transpose()?;
    let recorder =
        metrics::install().map_err(|error| StartError::Process("metrics", error.into()))?;
    gauges::begin();
    let node = Arc::new(open_node(&config).await?);
    let (service, authenticator) = (node.service.clone(), node.authenticator.clone());
    let (service, ingest, public) = with_ingest(&config, &node, service).await?;
    let cid_budget = service.unauthenticated_budget().clone();
    let gateway = fula_gateway::gateway(service, authenticator, config.wire.clone());
    let mut gateway = gateway.with_ingest(ingest);
    let fetcher = pin_fetcher(&node, config.psa.as_ref())?;
    if let Some((fetcher, pins_max)) = &fetcher {
        let fetcher = Arc::clone(fetcher) as _;
        gateway =
            gateway.with_pinning(PinningRoutes::new(node.service.clone(), fetcher, *pins_max));
    }

    let (listener, admin_listener) = (listener.listen()?, admin_listener.listen()?);
    let socket = admin::listen(&config.backends.data_dir)?;
    let stop = stop_signal()?;
    let open = note_running(&node, &listener, connections).await;
    let fault = credentials_fault(&config, &node).await;
    greet(&config, &node, &listener, &admin_listener, fault.as_deref());

    let limits = config.wire.limits.clone();
    let admin_node = Arc::clone(&node);
    let answer_admin = move |request: http::Request<_>| {
        let (node, recorder) = (Arc::clone(&admin_node), recorder.clone());
        async move {
            let readiness = readiness::check(&node);
            wire_admin::answer(&request, &recorder, readiness, || gauges::refresh(&node)).await
        }
    };
    let grace = config.shutdown_grace;
    let header_timeout = limits.header_timeout;
    let how = Listening { name: "s3", tls, header_timeout, grace, connections, open };
    let admin = Listening {
        name: "admin",
        tls: None,
        connections: admin_limits(),
        open: Arc::default(),
        ..how.clone()
    };
    tokio::spawn(server::serve(admin_listener, admin, std::future::pending(), answer_admin));
    let by_cid = public::serve_reads(cid_listener, public, &how, cid_budget, config.wire.rates)?;
    tokio::spawn(admin::serve(socket, Arc::clone(&node)));
    start_background_work(&node, &config);
    start_pinning(&node, config.pins.clone())?;
    if let Some((fetcher, _)) = &fetcher {
        fetcher.start();
    }
    let rated = gateway.clone();
    let parts = Parts {
        authenticator: node.authenticator.clone(),
        certificate,
        set_rates: Box::new(move |rates| {
            rated.set_rates(rates);
            if let Some(by_cid) = &by_cid {
                by_cid.set_rates(rates);
            }
        }),
        service: Some(node.service.clone()),
    };
    tokio::spawn(hangups.serve(parts));

    let answer = move |request: http::Request<_>| {
        let gateway = gateway.clone();
        async move { gateway.handle(request).await }
    };
    let stopping = node.service.clone();
    let stopped = async move {
        wait_for(stop).await;
        stopping.stop_waits();
    };
    let cut = server::serve(listener, how, stopped, answer).await;
    finish(&node, cut, grace).await;
    drop(std::fs::remove_file(files::socket_path(&config.backends.data_dir)));
    tracing::info!("stopped");
    Ok(())
}

/// Commits what is queued, and gives up what other masters would wait for. `cut` is the number of connections that
/// were still open at the end of the grace period.
async fn finish(node: &Node, cut: usize, grace: Duration) {
    if cut > 0 {
        tracing::warn!(cut, "connections were still open at the end of the grace period");
    }
    // Queued changes are committed even if their clients have left.
    if tokio::time::timeout(grace, node.service.committer().drained()).await.is_err() {
        tracing::warn!("changes were still queued at the end of the grace period");
    }
    if let Some(recovery) = &node.recovery
        && let Ok(Err(error)) = tokio::time::timeout(grace, recovery.give_lease_up()).await
    {
        let error = chain(&error);
        tracing::info!(
            error,
            "a collection will wait for this master, whose lease is not given up"
        );
    }
}

/// Connects the service with the storage nodes, and opens the one of this gateway if it is on. Holds of an
/// earlier start are kept in any case.
async fn with_ingest(
    config: &GatewayConfig,
    node: &Arc<Node>,
    service: Service,
) -> Result<(Service, MasterIngest, Option<PublicReads>), StartError> {
    let IngestConfig { nodes, accepts, copies, own, limits, uploads, cid_listen, cid_index } =
        config.ingest.clone();
    let key = node.master_key();
    let is_needed = own || (node.owns_blocks() && node.has_holds().await?);
    let storage = if is_needed { Some(node.open_storage(limits).await?) } else { None };
    if let Some(storage) = &storage {
        let master = OwnMaster { service: service.clone(), node: storage.id() };
        let master = Arc::new(master);
        tokio::spawn(settle_for_ever(storage.clone(), master));
    }
    let links = NodeLinks::new(&nodes, &key, storage.clone().filter(|_| own));
    let links = Arc::new(links.map_err(|error| StartError::Process("HTTP", error.into()))?);
    tokio::spawn(Arc::clone(&links).watch());
    let service = service.with_mapping(Mapping { nodes: links, accepts, copies });
    node.with_nodes.set(service.clone()).expect("nobody else sets it");
    let routes = storage.filter(|_| own).map(|storage| {
        let (trust, wire) = (Trust::own(key.public()), config.wire.clone());
        let WireConfig { tls_terminated, rates, limits, .. } = wire;
        let how = ingest::IngestConfig { uploads, tls_terminated, rates, limits };
        IngestRoutes::new(storage, node.authenticator.clone(), trust, how)
    });
    let address = |node: &PeerAddress| NodeAddress {
        name: node.name.clone(),
        url: node.url.as_str().trim_end_matches('/').to_owned(),
        key: node.key,
    };
    let addresses = nodes.iter().map(address).collect();
    let authenticator = node.authenticator.clone();
    let public = cid_listen.map(|_| PublicReads::new(service.clone(), cid_index));
    let (master, public_reads) = (service.clone(), public.clone());
    let ingest = MasterIngest::new(master, authenticator, key, addresses, routes, public_reads);
    Ok((service, ingest, public))
}

/// Reads a certificate and its key, if there are any.
pub(super) fn tls_of(
    files: Option<&(std::path::PathBuf, std::path::PathBuf)>,
) -> Result<Option<Certificate>, StartError> {
    let Some((cert, key)) = files else { return Ok(None) };
    files::check_readable(cert).map_err(FileError::of_setting("--tls-cert (FULA_TLS_CERT)"))?;
    // A certificate in place of the key is open to all. What is wrong then is not its mode.
    if fula_gateway::tls::is_certificate(key) {
        Certificate::read(cert, key)?;
    }
    let of_key = FileError::of_setting("--tls-key (FULA_TLS_KEY)");
    files::check_private(key).and_then(|()| files::check_readable(key)).map_err(of_key)?;
    Ok(Some(Certificate::read(cert, key)?))
}

/// Records the state of this gateway in the node, and announces it to the other masters. Returns the counter
/// of its open connections.
pub(super) async fn note_running(
    node: &Node,
    listener: &TcpListener,
    connections: ConnectionLimits,
) -> Arc<AtomicUsize> {
    let running = Running {
        started: system_clock()(),
        listen: listener.local_addr().ok(),
        connections: Arc::default(),
        connections_max: connections.total,
    };
    let open = Arc::clone(&running.connections);
    introduce(node, running.listen).await;
    node.running.set(running).expect("nobody else sets it");
    open
}

/// Opens the node, and sets up authentication.
async fn open_node(config: &GatewayConfig) -> Result<Node, StartError> {
    let purpose = Purpose::Serve(config.names);
    let node = Node::open(&config.backends, config.limits.clone(), purpose, false).await?;
    report_recovery(&node);
    let authenticator = &node.authenticator;
    authenticator.keys().set_keys_max(config.keys_max);
    set_first_key(config, &node).await?;
    authenticator.set_policy(config.policy.clone());
    authenticator.set_sessions_max(config.sessions_max);
    if let Some(source) = &config.jwks {
        jwks::start(source.clone(), authenticator.clone()).await.map_err(StartError::Jwks)?;
    }
    Ok(node)
}

/// Starts the background tasks of a gateway.
fn start_background_work(node: &Arc<Node>, config: &GatewayConfig) {
    let authenticator = node.authenticator.clone();
    tokio::spawn(async move { authenticator.revocations().run().await });
    let authenticator = node.authenticator.clone();
    tokio::spawn(async move { authenticator.keep_keys().await });
    if let Some(recovery) = &node.recovery {
        tokio::spawn(recovery.clone().run());
    }
    if config.limits.collects {
        tokio::spawn(gc::tend(Arc::clone(node)));
        tokio::spawn(gc::shared::tend(Arc::clone(node)));
    } else {
        tracing::warn!(
            "FULA_COLLECT is off: what was replaced or deleted stays, and the store grows until it is on"
        );
    }
    tokio::spawn(gauges::watch_disk(Arc::clone(node)));
    tokio::spawn(scrub::run(Arc::clone(node), config.scrub));
    tokio::spawn(lifecycle::tend(Arc::clone(node), config.lifecycle_every));
    tokio::spawn(node.service.clone().settle_names(Arc::clone(&node.metadata)));
}

/// Begins to pin buckets, if there are targets.
fn start_pinning(node: &Arc<Node>, config: PinConfig) -> Result<(), StartError> {
    let pinner = Pinner::new(node, config);
    let pinner = pinner.map_err(|error| StartError::Process("pins", error.into()))?;
    if let Some(pinner) = pinner {
        node.pins.set(Arc::clone(&pinner) as _).expect("nobody else sets it");
        tokio::spawn(pinner.run());
    }
    Ok(())
}

/// Makes what fetches the pins of users, if the Pinning Service API is on. Returns it with the number of pins that
/// an owner may have.
pub(super) fn pin_fetcher(
    node: &Node,
    config: Option<&PsaConfig>,
) -> Result<Option<(Arc<Fetcher>, u64)>, StartError> {
    let Some(config) = config else { return Ok(None) };
    let fetcher = Fetcher::new(node, config.clone());
    let fetcher = fetcher.map_err(|error| StartError::Process("HTTP", error.into()))?;
    Ok(Some((fetcher, config.pins_max)))
}

/// Warns of variables that look like settings and are none: a name that is mistyped would have no effect.
pub(super) fn warn_of_unknown_settings(role: &str) {
    for found in cli::ineffective(std::env::vars_os().map(|(name, _)| name), role) {
        if matches!(found.why, cli::Why::Unknown(_)) {
            tracing::warn!("{}", found.text(role));
        }
    }
}

pub(super) fn start_log(format: LogFormat) {
    // s3s logs every refused request as an error. The gateway logs them once, so the log of s3s is off.
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info"))
        .add_directive("s3s=off".parse().expect("a constant directive"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

fn report_recovery(node: &Node) {
    for cut in &node.store.recovery.truncated {
        let (segment, offset, bytes) = (&cut.segment, cut.offset, cut.bytes);
        tracing::warn!(segment, offset, bytes, "cut an unfinished write off the log");
    }
    for damage in &node.store.recovery.damaged {
        let cid = damage.cid.map(|cid| cid.to_string());
        let (segment, offset) = (&damage.segment, damage.offset);
        tracing::error!(segment, offset, cid, "damaged block in the log; run fula fsck");
    }
}

/// Announces this master to the other masters of a shared arbiter, and logs its name.
async fn introduce(node: &Node, listen: Option<SocketAddr>) {
    let Some(recovery) = &node.recovery else { return };
    let master = recovery.name();
    tracing::info!(master, "this master's name in fula masters list and fula masters forget");
    let host = host_name();
    let address = |address: SocketAddr| {
        if address.ip().is_unspecified() && !host.is_empty() {
            format!("{host}:{}", address.port())
        } else {
            address.to_string()
        }
    };
    let info = MasterInfo {
        address: listen.map(address).unwrap_or_default(),
        host,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        secrets_keys: node.authenticator.keys().sealing_lines(),
    };
    if let Err(error) = recovery.introduce(info).await {
        tracing::warn!(error = chain(&error), "cannot announce this master to the other ones yet");
    }
}

/// Returns a value that becomes true at SIGTERM or SIGINT. A second signal ends the process at once.
pub(super) fn stop_signal() -> Result<watch::Receiver<bool>, StartError> {
    let failed = |error: std::io::Error| StartError::Process("signals", error.into());
    let mut term = unix::signal(unix::SignalKind::terminate()).map_err(failed)?;
    let mut int = unix::signal(unix::SignalKind::interrupt()).map_err(failed)?;
    let (send, receive) = watch::channel(false);
    tokio::spawn(async move {
        for is_second in [false, true] {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if is_second {
                tracing::warn!("got a second signal to stop: ending at once");
                std::process::exit(1);
            }
            tracing::info!("finishing requests in flight");
            send.send_replace(true);
        }
    });
    Ok(receive)
}

pub(super) async fn wait_for(mut stop: watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}
