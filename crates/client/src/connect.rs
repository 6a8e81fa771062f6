//! Connections: TLS with the certificates of the system or of a file, and one pool for all requests.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::{
    error::{Error, Result},
    send::SendBody,
};

/// A pool of connections.
pub(crate) type Http = Pool<HttpsConnector<HttpConnector>, SendBody>;

/// Time after which an idle connection is closed. Servers close theirs after a minute or more.
const IDLE: Duration = Duration::from_secs(45);

/// Longest time that addresses of one kind (IPv6 or IPv4) are tried alone.
const HAPPY_EYEBALLS: Duration = Duration::from_millis(300);

fn roots(ca_bundle: Option<&PathBuf>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_bundle {
        let shown = path.display();
        let wrong =
            |why: String| Error::Invalid(format!("cannot use the certificates in {shown}: {why}"));
        let certificates =
            CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(wrong("it holds none".to_owned()));
        }
        return Ok(roots);
    }
    // A certificate of the system that cannot be read is one that nothing is verified with.
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    Ok(roots)
}

/// Returns a pool of connections. `ca_bundle` is a file of certificates to trust in place of the system's.
///
/// # Errors
/// [`Error::Invalid`] if the certificates cannot be used.
pub(crate) fn pool(
    is_tls: bool,
    ca_bundle: Option<&PathBuf>,
    connect_timeout: Duration,
) -> Result<Http> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(connect_timeout));
    http.set_happy_eyeballs_timeout(Some(HAPPY_EYEBALLS));
    http.set_keepalive(Some(IDLE));
    // Reading the certificates of the system takes some milliseconds, which plain HTTP does not need.
    let roots = if is_tls { roots(ca_bundle)? } else { RootCertStore::empty() };
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Invalid(format!("TLS cannot be used: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
    Ok(Pool::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .build(connector.wrap_connector(http)))
}
