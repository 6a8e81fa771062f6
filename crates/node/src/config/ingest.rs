//! Checks the settings of storage nodes.

use std::{path::PathBuf, time::Duration};

use fula_gateway::{Rates, WireLimits, ingest::IngestConfig as Routes};
use fula_identity::Policy;
use fula_ingest::{NodeLimits, PublicKey, SignerId, mapping::HOLDERS_MAX};
use reqwest::Url;

use super::{Backends, ConfigError, ConnectionConfig, Jwks, PsaConfig, auth, both};
use crate::cli::{
    CasMode, DataDirArgs, IngestLimits, IngestSettings, LogFormat, SharedArgs, StorageNodeSettings,
};

/// A master or a storage node that a setting names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerAddress {
    pub(crate) name: String,
    /// URL without a path.
    pub(crate) url: Url,
    pub(crate) key: PublicKey,
}

impl PeerAddress {
    pub(crate) fn id(&self) -> SignerId {
        self.key.id()
    }

    /// Parses a list of NAME=URL#KEY. Several may have one key: masters of one arbiter do.
    pub(crate) fn parse_list(name: &'static str, text: &str) -> Result<Vec<Self>, ConfigError> {
        let wrong = |value: &str, expected| {
            Err(ConfigError::Value { name, value: value.to_owned(), expected })
        };
        let mut found: Vec<Self> = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let parts = item.split_once('=').and_then(|(name, rest)| {
                let (url, key) = rest.rsplit_once('#')?;
                Some((name.trim(), url, key))
            });
            let Some((peer, url, key)) = parts else {
                return wrong(item, "it is a list of NAME=URL#KEY, separated by commas");
            };
            let Ok(key) = key.parse() else {
                return wrong(item, "after # stands a key: 43 characters of base64url");
            };
            let Ok(url) = Url::parse(url) else { return wrong(item, "the URL is malformed") };
            let host = url.host_str().unwrap_or_default();
            let is_local = ["127.0.0.1", "localhost", "[::1]"].contains(&host);
            if url.scheme() != "https" && !(url.scheme() == "http" && is_local) {
                return wrong(item, "the URL begins with https://, or names this machine");
            }
            if !["", "/"].contains(&url.path())
                || url.query().is_some()
                || !url.username().is_empty()
            {
                return wrong(item, "the URL has no path, query or user name");
            }
            if peer.is_empty() || found.iter().any(|other| other.name == peer) {
                return wrong(item, "every entry has a name of its own");
            }
            found.push(Self { name: peer.to_owned(), url, key });
        }
        Ok(found)
    }
}

/// What a master does with storage nodes.
#[derive(Clone, Debug)]
pub(crate) struct IngestConfig {
    pub(crate) nodes: Vec<PeerAddress>,
    pub(crate) accepts: bool,
    pub(crate) copies: bool,
    /// Whether the master takes blocks itself.
    pub(crate) own: bool,
    pub(crate) limits: NodeLimits,
    pub(crate) uploads: usize,
    /// Address of the listener for public objects by CID.
    pub(crate) cid_listen: Option<std::net::SocketAddr>,
    /// Largest index of public objects in bytes.
    pub(crate) cid_index: usize,
}

/// Shortest lease. A receipt must have more than an hour left when it is used.
const LEASE_MIN: Duration = Duration::from_hours(2);

/// Longest time without a byte of a body. Bodies share little memory, so it is shorter than on a gateway.
const IDLE: Duration = Duration::from_secs(15);

/// Number of bytes that a client must send each second once a body takes longer than that.
const PACE: u64 = 64 << 10;

fn node_limits(limits: IngestLimits) -> Result<NodeLimits, ConfigError> {
    let lease = limits.lease;
    if lease.0 < LEASE_MIN {
        let (name, expected) = ("--ingest-lease", "a lease lasts for at least 2h");
        return Err(ConfigError::Value { name, value: lease.to_string(), expected });
    }
    let lease_ms = u64::try_from(lease.0.as_millis()).unwrap_or(u64::MAX);
    Ok(NodeLimits { lease_ms, quota: limits.quota.0, ..NodeLimits::default() })
}

fn uploads(limits: IngestLimits) -> usize {
    usize::try_from(limits.uploads).unwrap_or(usize::MAX).min(tokio::sync::Semaphore::MAX_PERMITS)
}

impl IngestConfig {
    /// Checks that the settings are compatible with each other.
    pub(super) fn check(
        settings: &IngestSettings,
        backends: &Backends,
    ) -> Result<Self, ConfigError> {
        let nodes = settings.storage_nodes.as_deref().unwrap_or_default();
        let nodes = PeerAddress::parse_list("--storage-nodes", nodes)?;
        let mut ids: Vec<SignerId> = nodes.iter().map(PeerAddress::id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            let (name, expected) = ("--storage-nodes", "every node has a key of its own");
            let value = settings.storage_nodes.clone().unwrap_or_default();
            return Err(ConfigError::Value { name, value, expected });
        }
        if nodes.len() > HOLDERS_MAX {
            let (name, expected) = ("--storage-nodes", "a master has at most 64 storage nodes");
            return Err(ConfigError::Value { name, value: nodes.len().to_string(), expected });
        }
        if settings.remote_cid_put && nodes.is_empty() && !settings.ingest {
            let needed = "FULA_STORAGE_NODES or FULA_INGEST=on";
            return Err(ConfigError::Without("FULA_REMOTE_CID_PUT=on", needed));
        }
        if settings.ingest_copy && !settings.remote_cid_put {
            return Err(ConfigError::Without("FULA_INGEST_COPY=on", "FULA_REMOTE_CID_PUT=on"));
        }
        if settings.ingest && (backends.shared.is_some() || backends.blocks_url.is_some()) {
            let needed = "FULA_BLOCKS=local: the holds on blocks are in the data directory";
            return Err(ConfigError::Without("FULA_INGEST=on", needed));
        }
        Ok(Self {
            nodes,
            accepts: settings.remote_cid_put,
            copies: settings.ingest_copy,
            own: settings.ingest,
            limits: node_limits(settings.limits)?,
            uploads: uploads(settings.limits),
            cid_listen: settings.cid.cid_listen,
            cid_index: usize::try_from(settings.cid_index.0).unwrap_or(usize::MAX),
        })
    }
}

/// The settings of a storage node, checked.
#[derive(Debug)]
pub(crate) struct StorageNodeConfig {
    pub(crate) listen: std::net::SocketAddr,
    pub(crate) admin_listen: std::net::SocketAddr,
    pub(crate) cid_listen: Option<std::net::SocketAddr>,
    pub(crate) backends: Backends,
    pub(crate) masters: Vec<PeerAddress>,
    pub(crate) limits: NodeLimits,
    pub(crate) routes: Routes,
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    pub(crate) connections: ConnectionConfig,
    pub(crate) shutdown_grace: Duration,
    pub(crate) log: LogFormat,
    pub(crate) policy: Policy,
    pub(crate) jwks: Option<Jwks>,
    /// The Pinning Service API; `None` if it is off.
    pub(crate) psa: Option<PsaConfig>,
}

impl StorageNodeConfig {
    /// Checks that the settings are valid and compatible with each other.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub(crate) fn check(settings: StorageNodeSettings) -> Result<Self, ConfigError> {
        let masters = PeerAddress::parse_list("--masters", &settings.masters)?;
        if masters.is_empty() {
            let (name, value) = ("--masters", settings.masters);
            return Err(ConfigError::Value { name, value, expected: "a node has a master" });
        }
        let shared = SharedArgs::default();
        let data = DataDirArgs { data_dir: settings.data_dir };
        let key_file = settings.secrets_key_file;
        let rates: Rates = auth::rates(&settings.auth);
        Ok(Self {
            listen: settings.listen,
            admin_listen: settings.admin_listen,
            cid_listen: settings.cid.cid_listen,
            backends: Backends::check(&data, shared, key_file, CasMode::Auto)?,
            masters,
            limits: node_limits(settings.limits)?,
            routes: Routes {
                uploads: uploads(settings.limits),
                tls_terminated: settings.tls_terminated,
                rates,
                limits: WireLimits {
                    body_idle_timeout: IDLE,
                    body_bytes_per_second_min: PACE,
                    ..WireLimits::default()
                },
            },
            tls: both(settings.tls_cert, settings.tls_key, ConfigError::HalfOfTls)?,
            connections: ConnectionConfig::check(settings.connections)?,
            shutdown_grace: settings.shutdown_grace.0,
            log: settings.log,
            policy: auth::policy(&settings.auth)?,
            jwks: auth::jwks(&settings.auth)?,
            psa: PsaConfig::check(&settings.psa)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";

    #[test]
    fn peers_are_named_with_url_and_key() {
        let parse = |text: &str| PeerAddress::parse_list("--masters", text);
        let text = format!("a=https://one.example:3601#{KEY}, b=http://127.0.0.1:1#{KEY},");
        let found = parse(&text).unwrap();
        assert_eq!((found.len(), found[0].name.as_str()), (2, "a"));
        assert_eq!(found[1].url.as_str(), "http://127.0.0.1:1/");
        assert!(parse("").unwrap().is_empty());
        for (text, expected) in [
            (format!("https://one.example#{KEY}"), "NAME=URL#KEY"),
            ("a=https://one.example".to_owned(), "NAME=URL#KEY"),
            ("a=https://one.example#short".to_owned(), "base64url"),
            (format!("a=http://one.example#{KEY}"), "https://"),
            (format!("a=https://one.example/path#{KEY}"), "no path"),
            (format!("a=https://u@one.example#{KEY}"), "no path"),
            (format!("a=https://one.example#{KEY},a=https://two.example#{KEY}"), "name of its own"),
            (format!("a=nonsense#{KEY}"), "malformed"),
        ] {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("--masters"), "{text}: {error}");
        }
    }
}
