//! TLS for the S3 listener: a certificate chain and its key, which are read once at the start.

use std::{path::Path, sync::Arc};

pub use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{
    self, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};

/// The reason why a certificate or key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read. Correct it.
    #[error("cannot read PEM from {0}")]
    Pem(String, #[source] pem::Error),
    /// The file holds something else than what its setting names. Correct the setting.
    #[error("{0} holds no {1}{hint}", hint = if *.2 { "; are --tls-cert and --tls-key swapped?" } else { "" })]
    Lacks(String, &'static str, bool),
    /// The key does not belong to the certificate, or is of an unsupported kind.
    #[error("certificate and key do not work together")]
    Rejected(#[from] rustls::Error),
}

/// Reads a PEM chain and a PEM key.
///
/// # Errors
/// [`TlsError`] with the reason.
pub fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error| TlsError::Pem(path, error)
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(failed(cert))?;
    if chain.is_empty() {
        let is_swapped = PrivateKeyDer::from_pem_file(cert).is_ok();
        return Err(TlsError::Lacks(cert.display().to_string(), "certificate", is_swapped));
    }
    let key = match PrivateKeyDer::from_pem_file(key) {
        Err(pem::Error::NoItemsFound) => {
            let is_swapped = CertificateDer::from_pem_file(key).is_ok();
            return Err(TlsError::Lacks(key.display().to_string(), "private key", is_swapped));
        }
        read => read.map_err(failed(key))?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Returns whether a file holds a certificate and no private key.
pub fn is_certificate(path: &Path) -> bool {
    CertificateDer::from_pem_file(path).is_ok() && PrivateKeyDer::from_pem_file(path).is_err()
}

/// Installs the TLS provider of the process, which all its parts use.
pub fn install_provider() {
    // If one is installed already, it is the same one, because there is no other.
    drop(tokio_rustls::rustls::crypto::ring::default_provider().install_default());
}
