//! Settings of a client.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use tokio::sync::{OnceCell, Semaphore};

use super::{Client, Inner, MEMORY_UNIT};
use crate::{
    connect,
    credentials::Credentials,
    endpoint::Endpoint,
    error::{Error, Result},
    retry::RetryPolicy,
    sign::Signer,
};

/// Settings of a client.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    endpoint: Option<String>,
    region: String,
    credentials: Credentials,
    allow_http: bool,
    ca_bundle: Option<PathBuf>,
    connect_timeout: Duration,
    idle_timeout: Duration,
    retry: RetryPolicy,
    upload_memory: usize,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: "us-east-1".to_owned(),
            credentials: Credentials::Anonymous,
            allow_http: false,
            ca_bundle: None,
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_mins(1),
            retry: RetryPolicy::default(),
            upload_memory: 48 << 20,
        }
    }
}

impl ClientBuilder {
    /// Sets the URL of the gateway: `https://host[:port]`. It is needed.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// Sets the region that signatures name. Default: `us-east-1`.
    #[must_use]
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = region.into();
        self
    }

    /// Sets the credentials. Default: none.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// Allows plain HTTP to other machines. Everyone on the way can then read all that is sent.
    #[must_use]
    pub fn allow_http(mut self, allow: bool) -> Self {
        self.allow_http = allow;
        self
    }

    /// Trusts the certificates in a PEM file in place of those of the system.
    #[must_use]
    pub fn ca_bundle(mut self, path: Option<PathBuf>) -> Self {
        self.ca_bundle = path;
        self
    }

    /// Sets the longest time for a new connection. Default: 5 seconds.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the longest time in which no byte moves. There is no limit for a whole transfer. Default: 1 minute.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Sets how often and how fast failed requests are tried again.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Sets the memory for the bodies of all uploads of this client together, in bytes. Default: 48 MiB.
    /// Parts of very large objects are longer, so fewer of them are in flight.
    #[must_use]
    pub fn upload_memory(mut self, bytes: usize) -> Self {
        self.upload_memory = bytes;
        self
    }

    /// Makes the client. No connection is opened yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the endpoint is missing or wrong, for plain HTTP to another machine, for a
    /// bearer token over plain HTTP to another machine, and for certificates that cannot be used.
    pub fn build(self) -> Result<Client> {
        let missing =
            || Error::Invalid("no endpoint: set AWS_ENDPOINT_URL to the gateway".to_owned());
        let url = self.endpoint.ok_or_else(missing)?;
        let endpoint = Endpoint::parse(&url, self.allow_http)?;
        let signer = match &self.credentials {
            Credentials::Key { id, secret, session } => {
                Some(Signer::new(id, secret.clone(), session.clone(), self.region))
            }
            Credentials::Bearer(_) if endpoint.is_exposed() => {
                return Err(Error::Invalid(format!(
                    "{endpoint}: a bearer token over plain HTTP could be stolen; use https://"
                )));
            }
            Credentials::Anonymous | Credentials::Bearer(_) => None,
        };
        let http = connect::pool(endpoint.is_tls(), self.ca_bundle.as_ref(), self.connect_timeout)?;
        let units = (self.upload_memory / MEMORY_UNIT).max(1);
        Ok(Client(Arc::new(Inner {
            http,
            endpoint,
            credentials: self.credentials,
            signer,
            ca_bundle: self.ca_bundle,
            idle_timeout: self.idle_timeout,
            retry: self.retry,
            skew: AtomicI64::new(0),
            upload_units: units,
            upload_memory: Arc::new(Semaphore::new(units)),
            is_fula: OnceCell::new(),
        })))
    }
}
