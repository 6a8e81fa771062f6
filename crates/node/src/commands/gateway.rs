//! `fula gateway`: serves S3 until a signal stops it.

use std::{
    io::IsTerminal,
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    sync::{Arc, atomic::AtomicUsize},
};

use fula_gateway::{
    WireConfig, admin as wire_admin,
    ingest::{self, IngestRoutes, MasterIngest, NodeAddress, Trust},
    metrics,
    server::{self, ConnectionLimits, Listening},
    tls::Certificate,
};
use fula_service::{
    Mapping, MasterInfo, PublicReads, Recovery, Service, ServiceError,
    auth::{Revoked, user_of},
    error::chain,
};
use fula_stores::local::system_clock;
use tokio::{net::TcpListener, signal::unix, sync::watch};
use tracing_subscriber::EnvFilter;

use super::{Failure, fail};
use crate::{
    admin,
    cli::{self, GatewaySettings, LogFormat},
    config::{
        ConfigError, GatewayConfig, IngestConfig, PeerAddress, PinConfig, admin_limits,
        raise_descriptors,
    },
    files::{self, FileError},
    gauges, gc,
    ingest::{NodeLinks, OwnMaster, settle_for_ever},
    jwks, lifecycle,
    listeners::{ListenError, Taken, usable},
    node::{Node, NodeError, Purpose, host_name},
    output::say,
    pins::Pinner,
    public, readiness,
    reload::{Hangups, Parts},
    scrub,
    state::Running,
};

/// The user of the first access key.
const FIRST_USER: &str = "admin";

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
    let gateway = gateway.with_ingest(ingest);

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
    let stopped = wait_for(stop);
    let cut = server::serve(listener, how, stopped, answer).await;
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
    drop(std::fs::remove_file(files::socket_path(&config.backends.data_dir)));
    tracing::info!("stopped");
    Ok(())
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
    tokio::spawn(gc::tend(Arc::clone(node)));
    tokio::spawn(gc::shared::tend(Arc::clone(node)));
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

/// Makes sure that the first user has an access key, and that the credentials file holds it.
async fn set_first_key(config: &GatewayConfig, node: &Node) -> Result<(), StartError> {
    let now = node.service.arbiter().now().await.map_err(StartError::FirstKey)?;
    if let Some((id, secret)) = &config.first_key {
        let revoked = Revoked::Key(id.clone());
        if node.authenticator.revocations().all().iter().any(|found| found.revoked == revoked) {
            return Err(StartError::RevokedKey(id.clone()));
        }
        let imported = node.authenticator.keys().import_own(FIRST_USER, id, secret, now).await;
        imported.map_err(StartError::FirstKey)?;
        return Ok(files::write_credentials(&config.backends.data_dir, id, secret)?);
    }
    if files::credentials_path(&config.backends.data_dir).exists() {
        return Ok(());
    }
    let made =
        node.authenticator.keys().create(FIRST_USER, now).await.map_err(StartError::FirstKey)?;
    Ok(files::write_credentials(&config.backends.data_dir, &made.0.id, &made.1)?)
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
    };
    if let Err(error) = recovery.introduce(info).await {
        tracing::warn!(error = chain(&error), "cannot announce this master to the other ones yet");
    }
}

/// Returns why nobody should use the key in the credentials file, if that is so.
async fn credentials_fault(config: &GatewayConfig, node: &Node) -> Option<String> {
    let Some(id) = files::credentials_id(&config.backends.data_dir) else {
        return Some("the file has no access key".to_owned());
    };
    let (keys, revocations) = (node.authenticator.keys(), node.authenticator.revocations());
    // Where the arbiter does not answer, nothing is known about the key.
    let Some(found) = keys.find(&id).await.ok()? else {
        let was_revoked = keys.was_revoked(&id, None).await.unwrap_or(false);
        return Some(
            if was_revoked { "its key was revoked" } else { "its key is unknown here" }.to_owned(),
        );
    };
    let user = &found.identity.user;
    if revocations.refuses_key(user, found.created, Some(&id)) {
        return Some("its key was revoked".to_owned());
    }
    (*user != user_of(FIRST_USER))
        .then(|| format!("its key belongs to {user}, not to {FIRST_USER}"))
}

/// Prints where everything is. `fault` is the reason why nobody should use the key in the credentials file.
fn greet(
    config: &GatewayConfig,
    node: &Node,
    listener: &TcpListener,
    admin: &TcpListener,
    fault: Option<&str>,
) {
    let address = |listener: &TcpListener| {
        listener.local_addr().map_or_else(|_| "?".to_owned(), |address| usable(address).to_string())
    };
    let data_dir = std::path::absolute(&config.backends.data_dir);
    let data_dir = data_dir.as_deref().unwrap_or(Path::new("?"));
    let credentials = files::credentials_path(data_dir);
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let name = node.recovery.as_ref().map(Recovery::name);
    let (note, credentials_line) = match fault {
        None => {
            let line = format!("  export AWS_SHARED_CREDENTIALS_FILE={}", credentials.display());
            (String::new(), line)
        }
        Some(fault) => {
            let make = format!(
                "  (echo '[default]'; fula keys create --user {FIRST_USER} --data-dir {}) > new-credentials\n\
                 \x20 export AWS_SHARED_CREDENTIALS_FILE=$PWD/new-credentials",
                data_dir.display()
            );
            (format!("  (do not use it: {fault})"), make)
        }
    };
    say!(
        "Fula {version} serves S3 on {scheme}://{s3}\n\n\
         \x20 data         {data}\n\
         {master}\
         \x20 arbiter      {arbiter}\n\
         \x20 blocks       {blocks}\n\
         \x20 credentials  {credentials}{note}\n\
         \x20 health       http://{admin}/healthz  /readyz  /metrics\n\
         {everywhere}\n\
         Paste this to use it:\n\n\
         \x20 export AWS_ENDPOINT_URL={scheme}://{s3} AWS_REGION={region} AWS_DEFAULT_REGION={region}\n\
         {credentials_line}\n\
         \x20 aws --endpoint-url $AWS_ENDPOINT_URL s3 mb s3://my-bucket\n\
         \x20 aws --endpoint-url $AWS_ENDPOINT_URL s3 cp README.md s3://my-bucket/\n",
        version = cli::VERSION,
        s3 = address(listener),
        admin = address(admin),
        data = data_dir.display(),
        everywhere = everywhere(listener, scheme),
        master = name.map(|name| format!("  master       {name}\n")).unwrap_or_default(),
        arbiter = config.backends.arbiter_name(),
        blocks = config.backends.blocks_name(),
        credentials = credentials.display(),
        region = config.wire.region,
    );
}

/// Returns the line that says how other machines reach this gateway, or nothing if they cannot.
fn everywhere(listener: &TcpListener, scheme: &str) -> String {
    match listener.local_addr() {
        Ok(address) if address.ip().is_unspecified() => {
            let host = Some(host_name()).filter(|host| !host.is_empty());
            let host = host.as_deref().unwrap_or("ADDRESS");
            let port = address.port();
            format!("  listens on   all addresses of this machine, e.g. {scheme}://{host}:{port}\n")
        }
        _ => String::new(),
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
