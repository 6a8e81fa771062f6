//! `fula storage-node`: takes and serves blocks until a signal stops it.

use std::{process::ExitCode, sync::Arc};

use fula_gateway::{
    admin as wire_admin,
    ingest::{IngestRoutes, Trust},
    metrics,
    psa::PinningRoutes,
    server::{self, Listening},
    tls::Certificate,
};
use fula_ingest::StorageNode;
use fula_service::{Limits, auth::Authenticator};
use tokio::net::TcpListener;

use super::{
    Failure, fail,
    gateway::{
        StartError, note_running, pin_fetcher, start_log, stop_signal, tls_of, wait_for,
        warn_of_unknown_settings,
    },
};
use crate::{
    admin,
    cli::{self, StorageNodeSettings},
    config::{PeerAddress, StorageNodeConfig, admin_limits, raise_descriptors},
    files, gauges, gc,
    ingest::{MasterLinks, settle_for_ever},
    jwks,
    listeners::{Taken, usable},
    node::{Node, NodeError, Purpose},
    output::say,
    public::{self, NodeBlocks},
    readiness,
    reload::{Hangups, Parts},
};

/// Runs `fula storage-node`.
pub(crate) async fn run(settings: Box<StorageNodeSettings>) -> ExitCode {
    match serve(*settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(StartError::Config(error)) => Failure::from(error).report(),
        Err(error) => fail(&error),
    }
}

async fn serve(settings: StorageNodeSettings) -> Result<(), StartError> {
    let config = StorageNodeConfig::check(settings)?;
    start_log(config.log);
    warn_of_unknown_settings("storage-node");
    let hangups = Hangups::begin().map_err(|error| StartError::Process("signals", error.into()))?;
    let connections = config.connections.limits(raise_descriptors());
    let listener = Taken::take(config.listen, "--listen (FULA_NODE_LISTEN)")?;
    let admin_listener = Taken::take(config.admin_listen, "--admin-listen (FULA_ADMIN_LISTEN)")?;
    let cid_listener = public::take(config.cid_listen)?;
    let certificate = tls_of(config.tls.as_ref())?;
    let tls = certificate.as_ref().map(Certificate::acceptor).transpose()?;
    let recorder =
        metrics::install().map_err(|error| StartError::Process("metrics", error.into()))?;
    gauges::begin();
    // Pins of an owner count against a quota of their own, which is as large as that of blocks.
    let limits = Limits { owner_bytes_max: config.limits.quota, ..Limits::default() };
    let opened = Node::open(&config.backends, limits, Purpose::Store, false).await?;
    let node = Arc::new(opened);
    node.authenticator.set_policy(config.policy.clone());
    if let Some(source) = &config.jwks {
        jwks::start(source.clone(), node.authenticator.clone()).await.map_err(StartError::Jwks)?;
    }
    let storage = node.open_storage(config.limits).await?;
    let trust = Trust::new(config.masters.iter().map(|master| master.key));
    let authenticator = node.authenticator.clone();
    let routes = IngestRoutes::new(
        storage.clone(),
        authenticator.clone(),
        Arc::clone(&trust),
        config.routes.clone(),
    );

    let fetcher = pin_fetcher(&node, config.psa.as_ref())?;
    if let Some((fetcher, pins_max)) = &fetcher {
        let fetcher = Arc::clone(fetcher) as _;
        routes.serve_pins(PinningRoutes::new(node.service.clone(), fetcher, *pins_max));
    }

    let (listener, admin_listener) = (listener.listen()?, admin_listener.listen()?);
    let socket = admin::listen(&config.backends.data_dir)?;
    let stop = stop_signal()?;
    let open = note_running(&node, &listener, connections).await;
    greet(&config, &storage, &listener, &admin_listener);

    let admin_node = Arc::clone(&node);
    let answer_admin = move |request: http::Request<_>| {
        let (node, recorder) = (Arc::clone(&admin_node), recorder.clone());
        async move {
            let readiness = readiness::check(&node);
            wire_admin::answer(&request, &recorder, readiness, || gauges::refresh(&node)).await
        }
    };
    let (header_timeout, grace) = (config.routes.limits.header_timeout, config.shutdown_grace);
    let how = Listening { name: "blocks", tls, header_timeout, grace, connections, open };
    let admin = Listening {
        name: "admin",
        tls: None,
        connections: admin_limits(),
        open: Arc::default(),
        ..how.clone()
    };
    tokio::spawn(server::serve(admin_listener, admin, std::future::pending(), answer_admin));
    let (rated, reloaded) = (routes.clone(), authenticator.clone());
    if let Some((fetcher, _)) = &fetcher {
        fetcher.start();
    }
    let masters = start_background_work(&node, &storage, &config.masters, trust, authenticator)?;
    tokio::spawn(admin::serve(socket, Arc::clone(&node)));
    let mut by_cid = None;
    if let Some(taken) = cid_listener {
        let blocks = Arc::new(NodeBlocks { node: storage.clone(), masters });
        let (budget, rates) = (public::node_budget(), config.routes.rates);
        by_cid = Some(public::serve(taken, &how, blocks, budget, rates)?);
    }
    let parts = Parts {
        authenticator: reloaded,
        certificate,
        set_rates: Box::new(move |rates| {
            rated.set_rates(rates);
            if let Some(by_cid) = &by_cid {
                by_cid.set_rates(rates);
            }
        }),
        service: None,
    };
    tokio::spawn(hangups.serve(parts));
    let answer = move |request: http::Request<_>| {
        let routes = routes.clone();
        async move { routes.handle(request).await }
    };
    let cut = server::serve(listener, how, wait_for(stop), answer).await;
    if cut > 0 {
        tracing::warn!(cut, "connections were still open at the end of the grace period");
    }
    drop(std::fs::remove_file(files::socket_path(&config.backends.data_dir)));
    tracing::info!("stopped");
    Ok(())
}

fn start_background_work(
    node: &Arc<Node>,
    storage: &StorageNode,
    masters: &[PeerAddress],
    trust: Arc<Trust>,
    authenticator: Authenticator,
) -> Result<Arc<MasterLinks>, StartError> {
    let key = node.node_key();
    let masters = MasterLinks::new(masters, &key, trust, authenticator.clone());
    let masters = Arc::new(masters.map_err(|error| StartError::Process("HTTP", error.into()))?);
    node.masters.set(Arc::clone(&masters)).expect("nobody else sets it");
    tokio::spawn(Arc::clone(&masters).watch());
    tokio::spawn(settle_for_ever(storage.clone(), Arc::clone(&masters) as _));
    tokio::spawn(async move { authenticator.revocations().run().await });
    tokio::spawn(gc::tend(Arc::clone(node)));
    tokio::spawn(gauges::watch_disk(Arc::clone(node)));
    Ok(masters)
}

fn greet(
    config: &StorageNodeConfig,
    storage: &StorageNode,
    listener: &TcpListener,
    admin: &TcpListener,
) {
    let address = |listener: &TcpListener| {
        listener.local_addr().map_or_else(|_| "?".to_owned(), |address| usable(address).to_string())
    };
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let masters: Vec<&str> = config.masters.iter().map(|master| master.name.as_str()).collect();
    say!(
        "Fula {version} takes blocks on {scheme}://{listen}\n\n\
         \x20 data         {data}\n\
         \x20 node         {id}\n\
         \x20 key          {key}\n\
         \x20 masters      {masters}\n\
         \x20 health       http://{admin}/healthz  /readyz  /metrics\n\n\
         Set this on the masters, with a name for the node and the URL at which clients reach it:\n\n\
         \x20 FULA_STORAGE_NODES=NAME={scheme}://{listen}#{key}\n",
        version = cli::VERSION,
        listen = address(listener),
        admin = address(admin),
        data = config.backends.data_dir.display(),
        id = storage.id(),
        key = storage.key().public(),
        masters = masters.join(", "),
    );
}

impl From<fula_core::StoreError> for StartError {
    fn from(error: fula_core::StoreError) -> Self {
        Self::Node(NodeError::Modes(error))
    }
}
