//! TLS for the S3 listener: a certificate chain and its key, which can be replaced while the listener serves.

use std::{path::Path, sync::Arc};

use parking_lot::RwLock;
pub use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{
    self, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
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

/// A certificate chain and its key. Clones share one state.
#[derive(Clone, Debug)]
pub struct Certificate(Arc<Current>);

/// The chain and key for the connections that begin now.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

impl Certificate {
    /// Reads a PEM chain and a PEM key.
    ///
    /// # Errors
    /// [`TlsError`] with the reason.
    pub fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(Current(RwLock::new(Arc::new(certified(cert, key)?))))))
    }

    /// Takes over what is in the files now. Connections that are open go on as they are. Returns whether the
    /// certificate is another one.
    ///
    /// # Errors
    /// [`TlsError`] with the reason. The old certificate is served on.
    pub fn read_again(&self, cert: &Path, key: &Path) -> Result<bool, TlsError> {
        let read = Arc::new(certified(cert, key)?);
        let old = std::mem::replace(&mut *self.0.0.write(), Arc::clone(&read));
        Ok(old.cert != read.cert)
    }

    /// Returns what accepts connections with the certificate that is current when they begin.
    ///
    /// # Errors
    /// [`TlsError::Rejected`].
    pub fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.0) as _);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Reads a chain and its key, and checks that they belong together.
fn certified(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
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
    Ok(CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())?)
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
