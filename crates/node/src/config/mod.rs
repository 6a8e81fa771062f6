//! Checks the settings of the gateway and of commands. Values of these types are valid: a gateway does not
//! start with a wrong setting, or with settings that contradict each other.

mod auth;
mod connections;
mod ingest;
mod pins;
mod psa;
mod secrets;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use fula_gateway::{Domain, InvalidDomain, WireConfig, WireLimits};
use fula_identity::Policy;
use fula_service::{Limits, NamePolicy, auth::Secret};

use crate::{
    cli::{BucketNames, CasMode, DataDirArgs, GatewaySettings, LogFormat, SharedArgs, SignatureV2},
    files::FileError,
};

pub(crate) use self::{
    auth::{Jwks, JwksSource},
    connections::{ConnectionConfig, admin_limits, raise_descriptors},
    ingest::{IngestConfig, PeerAddress, StorageNodeConfig},
    pins::{PinConfig, PinTarget, TargetKind, Token},
    psa::{FetchSource, PsaConfig},
    secrets::{BlocksCredentials, database_url},
};

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A value is out of its range. Correct the setting.
    #[error("{name} is {value:?}; {expected}")]
    Value {
        /// The flag of the setting.
        name: &'static str,
        /// The refused value.
        value: String,
        /// The values that are accepted, as a clause.
        expected: &'static str,
    },
    /// Only one half of the first access key is set. Set both or none.
    #[error("set both --access-key-id and --secret-access-key, or neither")]
    HalfAKey,
    /// Only one of certificate and key is set. Set both or none.
    #[error("set both --tls-cert and --tls-key, or neither")]
    HalfOfTls,
    /// The arbiter is shared and the blocks are not. Store them where every master can read them.
    #[error(
        "a shared arbiter needs blocks that every master can read: set FULA_BLOCKS to \
         file:///directory on a shared disk, or to s3://bucket/prefix"
    )]
    BlocksNotShared,
    /// The arbiter is shared and no sealing key is set. Make a key and copy it to every master.
    #[error(
        "a shared arbiter needs FULA_SECRETS_KEY_FILE, the same on every master: make one with \
         `fula secrets keygen FILE` and copy it to each of them"
    )]
    NoSecretsKey,
    /// The embedded arbiter always compares. Leave the setting out.
    #[error(
        "FULA_BUCKET_ROOT_CAS=off has no meaning for the embedded arbiter, which always compares; \
         leave it out, or set FULA_DATABASE_URL"
    )]
    EmbeddedCompares,
    /// A setting needs another one. Set that one as well, or leave both out.
    #[error("{0} has no meaning without {1}")]
    Without(&'static str, &'static str),
    /// A secret is given by itself and as a file. Set one of the two.
    #[error("set {0} or {1}, not both")]
    Twice(&'static str, &'static str),
    /// A file holds something else than the secret that it should, e.g. one that is too short. Correct the file.
    #[error("{0}: {1}")]
    Secret(PathBuf, String),
    /// The file that a setting names cannot be used. Correct the file or the setting.
    #[error(transparent)]
    File(#[from] FileError),
    /// The domain is no domain name. Correct the setting.
    #[error(transparent)]
    Domain(#[from] InvalidDomain),
    /// The key set of JWTs cannot be used. Correct the setting. Its value is not shown, because it may hold a
    /// password.
    #[error("FULA_JWKS is not a file or a URL that can be used: {0}")]
    Jwks(&'static str),
    /// Both listeners have one address. Give the admin listener another port.
    #[error(
        "--listen (FULA_LISTEN) and --admin-listen (FULA_ADMIN_LISTEN) are both {0}: give them different ports"
    )]
    SameAddress(SocketAddr),
    /// No data directory is set, and none can be derived from the environment. Set one.
    #[error(
        "no data directory: set --data-dir (neither $STATE_DIRECTORY, $XDG_DATA_HOME nor $HOME is set)"
    )]
    NoDataDir,
}

impl ConfigError {
    /// Returns whether the settings are wrong in themselves. Otherwise a file that they name cannot be used.
    pub(crate) fn is_wrong_usage(&self) -> bool {
        !matches!(self, Self::File(_) | Self::Secret(..) | Self::Jwks(_))
    }
}

/// The places of all stores, in a combination that is safe.
#[derive(Clone, Debug)]
pub(crate) struct Backends {
    pub(crate) data_dir: PathBuf,
    /// Whether a command made the data directory for itself. Then it holds no state of a gateway.
    pub(crate) is_scratch: bool,
    pub(crate) secrets_key_file: Option<PathBuf>,
    /// URL of the block store; `None` means the log of the data directory.
    pub(crate) blocks_url: Option<String>,
    /// Credentials of the block store that win over the environment.
    pub(crate) blocks_credentials: BlocksCredentials,
    /// The shared arbiter; `None` means the embedded arbiter.
    pub(crate) shared: Option<SharedArbiter>,
}

/// An arbiter that several masters share.
#[derive(Clone)]
pub(crate) struct SharedArbiter {
    /// URL of the database. It may hold a password, so it is never shown.
    pub(crate) database_url: String,
    /// Whether swaps compare.
    pub(crate) compares: bool,
}

impl std::fmt::Debug for SharedArbiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedArbiter").field("compares", &self.compares).finish_non_exhaustive()
    }
}

impl Backends {
    /// Checks that the settings are compatible with each other.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub(crate) fn check(
        data: &DataDirArgs,
        shared: SharedArgs,
        secrets_key_file: Option<PathBuf>,
        cas: CasMode,
    ) -> Result<Self, ConfigError> {
        let blocks_url = shared.blocks.filter(|blocks| blocks != "local");
        let blocks_credentials = match &shared.blocks_credentials_file {
            Some(_) if blocks_url.is_none() => {
                return Err(ConfigError::Without("FULA_BLOCKS_CREDENTIALS_FILE", "FULA_BLOCKS"));
            }
            Some(file) => BlocksCredentials::read(file)?,
            None => BlocksCredentials::default(),
        };
        let url = database_url(shared.database_url, shared.database_url_file.as_deref())?;
        let shared = match url {
            None if cas == CasMode::Off => return Err(ConfigError::EmbeddedCompares),
            None => None,
            Some(_) if blocks_url.is_none() => return Err(ConfigError::BlocksNotShared),
            Some(_) if secrets_key_file.is_none() => return Err(ConfigError::NoSecretsKey),
            Some(database_url) => {
                Some(SharedArbiter { database_url, compares: cas != CasMode::Off })
            }
        };
        let data_dir = data_dir(data)?;
        let is_scratch = false;
        Ok(Self { data_dir, is_scratch, secrets_key_file, blocks_url, blocks_credentials, shared })
    }

    /// Returns a description of the arbiter for people, without user name and password.
    pub(crate) fn arbiter_name(&self) -> String {
        let Some(shared) = &self.shared else {
            return "embedded, in the data directory".to_owned();
        };
        let place = fula_stores::place_of(&shared.database_url).unwrap_or_default();
        format!("Postgres at {place}, shared")
    }

    /// Returns a description of the block store for people. URLs of block stores hold no password.
    pub(crate) fn blocks_name(&self) -> &str {
        self.blocks_url.as_deref().unwrap_or("in the data directory")
    }
}

/// The settings of a gateway, checked.
#[derive(Debug)]
pub(crate) struct GatewayConfig {
    pub(crate) listen: SocketAddr,
    pub(crate) admin_listen: SocketAddr,
    pub(crate) backends: Backends,
    pub(crate) wire: WireConfig,
    /// Files of the certificate chain and of its key; `None` means plain HTTP.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    pub(crate) names: NamePolicy,
    pub(crate) limits: Limits,
    pub(crate) connections: ConnectionConfig,
    pub(crate) shutdown_grace: Duration,
    /// Time in which every block is read once; zero turns that off.
    pub(crate) scrub: Duration,
    /// Interval at which lifecycle rules are applied; zero turns that off.
    pub(crate) lifecycle_every: Duration,
    pub(crate) log: LogFormat,
    pub(crate) first_key: Option<(String, Secret)>,
    /// The tokens that are accepted, without the key set of JWTs.
    pub(crate) policy: Policy,
    /// Most sessions of one owner at the same time.
    pub(crate) sessions_max: usize,
    /// Most access keys of one user.
    pub(crate) keys_max: usize,
    /// The key set of JWTs.
    pub(crate) jwks: Option<Jwks>,
    /// Storage nodes, and what this master does with them.
    pub(crate) ingest: IngestConfig,
    /// What is pinned on IPFS.
    pub(crate) pins: PinConfig,
    /// The Pinning Service API; `None` if it is off.
    pub(crate) psa: Option<PsaConfig>,
}

impl GatewayConfig {
    /// Returns the warnings that the gateway logs at its start.
    pub(crate) fn warnings(&self) -> Vec<&'static str> {
        let takes_jwts = self.jwks.is_some() || self.policy.jwt.accepts_any();
        let mut warnings = Vec::new();
        if self.policy.eip712 && self.policy.v1 {
            warnings.push(
                "wallet tokens of version 1 name no audience, so a token that was made for any \
                 gateway is accepted here; set FULA_EIP712_V1=off once clients send version 2",
            );
        }
        if takes_jwts && self.policy.jwt.takes_any_audience() {
            warnings.push(
                "JWTs that their issuer made for other services are accepted here; set \
                 FULA_JWT_AUDIENCE to the audience that names this gateway",
            );
        }
        let is_private = self.tls.is_some() || self.wire.tls_terminated;
        if (self.policy.eip712 || takes_jwts) && !is_private && !self.listen.ip().is_loopback() {
            warnings.push(
                "tokens from other machines are refused, because they come over plain HTTP; set \
                 FULA_TLS_CERT and FULA_TLS_KEY, or FULA_TLS_TERMINATED=on if a proxy terminates TLS",
            );
        }
        warnings
    }

    /// Checks that the settings are valid and compatible with each other.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub(crate) fn check(settings: GatewaySettings) -> Result<Self, ConfigError> {
        let wire = wire(&settings)?;
        if settings.listen == settings.admin_listen && settings.listen.port() != 0 {
            return Err(ConfigError::SameAddress(settings.listen));
        }
        let limits = limits(&settings);
        let first_secret = secrets::secret(
            settings.secret_access_key,
            settings.secret_access_key_file.as_deref(),
            ("FULA_SECRET_ACCESS_KEY", "FULA_SECRET_ACCESS_KEY_FILE"),
            "--secret-access-key-file (FULA_SECRET_ACCESS_KEY_FILE)",
        )?;
        let backends = Backends::check(
            &settings.data,
            settings.shared,
            settings.secrets_key_file,
            settings.bucket_root_cas,
        )?;
        Ok(Self {
            listen: settings.listen,
            admin_listen: settings.admin_listen,
            ingest: IngestConfig::check(&settings.ingest, &backends)?,
            pins: PinConfig::check(&settings.pins)?,
            psa: PsaConfig::check(&settings.psa)?,
            backends,
            wire,
            tls: both(settings.tls_cert, settings.tls_key, ConfigError::HalfOfTls)?,
            names: match settings.bucket_names {
                BucketNames::Owner => NamePolicy::PerOwner,
                BucketNames::Global => NamePolicy::Global,
            },
            limits,
            connections: ConnectionConfig::check(settings.connections)?,
            shutdown_grace: settings.shutdown_grace.0,
            scrub: settings.scrub.0,
            lifecycle_every: settings.lifecycle_every.0,
            log: settings.log,
            first_key: both(settings.access_key_id, first_secret, ConfigError::HalfAKey)?
                .map(|(id, secret)| (id, Secret::new(secret))),
            policy: auth::policy(&settings.auth)?,
            sessions_max: auth::sessions_max(&settings.auth)?,
            keys_max: usize::try_from(settings.auth.keys_per_user).unwrap_or(usize::MAX),
            jwks: auth::jwks(&settings.auth)?,
        })
    }
}

/// Returns two settings that need each other, if both are set. Fails with `error` if only one is set.
fn both<A, B>(
    one: Option<A>,
    other: Option<B>,
    error: ConfigError,
) -> Result<Option<(A, B)>, ConfigError> {
    match (one, other) {
        (Some(one), Some(other)) => Ok(Some((one, other))),
        (None, None) => Ok(None),
        _ => Err(error),
    }
}

/// Returns the limits of the service.
fn limits(settings: &GatewaySettings) -> Limits {
    Limits {
        commit_deadline: settings.commit_deadline.0,
        collects: settings.collect,
        retention: settings.retention.0,
        retained_max: settings.retention_bytes,
        body_bytes: settings.body_bytes.length(),
        cache_bytes: settings.cache_bytes.0,
        queue_bytes_max: settings.queue_bytes.length(),
        stale_reads: settings.stale_reads,
        buckets_per_owner: settings.buckets_per_owner,
        bucket_bytes_max: settings.bucket_quota.0,
        owner_bytes_max: settings.owner_quota.0,
        public_buckets_per_owner: settings.public_buckets_per_owner,
        ..Limits::default()
    }
}

/// Returns the settings of the S3 protocol.
fn wire(settings: &GatewaySettings) -> Result<WireConfig, ConfigError> {
    let limits = WireLimits {
        xml_bytes_max: settings.xml_bytes.length(),
        commit_bytes_max: settings.commit_bytes.length(),
        header_timeout: settings.header_timeout.0,
        body_idle_timeout: settings.body_idle_timeout.0,
        body_bytes_per_second_min: settings.body_pace.0,
    };
    Ok(WireConfig {
        region: settings.region.clone(),
        region_strict: settings.region_strict,
        presigned_v2: settings.sigv2 == SignatureV2::Presigned,
        domain: settings.domain.as_deref().map(Domain::parse).transpose()?,
        tls_terminated: settings.tls_terminated,
        rates: auth::rates(&settings.auth),
        limits,
    })
}

/// Returns the data directory: the one that is set, otherwise the usual place for the state of a service or a
/// user.
#[expect(clippy::disallowed_methods, reason = "these variables are not settings of ours")]
pub(crate) fn data_dir(args: &DataDirArgs) -> Result<PathBuf, ConfigError> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(dir) = &args.data_dir {
        return Ok(dir.clone());
    }
    if let Some(dir) = variable("STATE_DIRECTORY") {
        return Ok(dir.into());
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/fula-gateway".into());
    }
    let home = || variable("HOME").map(|home| Path::new(&home).join(".local/share"));
    let base = variable("XDG_DATA_HOME").map(PathBuf::from).or_else(home);
    base.map(|base| base.join("fula")).ok_or(ConfigError::NoDataDir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::gateway_settings;

    fn check(options: &[&str]) -> Result<GatewayConfig, String> {
        let settings = gateway_settings(options).map_err(|error| error.to_string())?;
        GatewayConfig::check(settings).map_err(|error| error.to_string())
    }

    fn with_file(text: &str, options: &[&str]) -> Result<GatewayConfig, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let config = ["--config", file.path().to_str().unwrap()];
        check(&[&config, options].concat())
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let text = "region = \"eu-x\"\ncache_bytes = \"1M\"\nbucket_names = \"global\"\n\
                    connections = 7\nstale_reads = true\n";
        let loaded = with_file(text, &["--region", "us-y"]).unwrap();
        assert_eq!(loaded.wire.region, "us-y");
        assert_eq!(loaded.limits.cache_bytes, 1 << 20);
        assert_eq!(loaded.names, NamePolicy::Global);
        assert_eq!(loaded.connections.limits(1 << 20).total, 7);
        assert!(loaded.limits.stale_reads);
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "region = \"eu-x\"\nlog = \"json\"\n").unwrap();
        // The region is read from a variable that every test run has.
        let path = clap::Command::mut_subcommand(crate::cli::command(), "gateway", |gateway| {
            gateway.mut_arg("region", |arg| arg.env("CARGO_PKG_NAME"))
        });
        let line = ["fula", "gateway", "--data-dir", "/tmp/x", "--config"].map(Into::into);
        let line = line.into_iter().chain([file.path().as_os_str().to_owned()]);
        let parsed = crate::cli::parse_as(path, line).unwrap();
        let crate::cli::Command::Gateway(settings) = parsed.command else { panic!("{parsed:?}") };
        assert_eq!((settings.region.as_str(), settings.log), ("fula", LogFormat::Json));
    }

    #[test]
    fn unsafe_combinations_do_not_start() {
        let shared =
            |more: &[&str]| check(&[&["--database-url", "postgres://u:hush@h/d"], more].concat());
        for blocks in
            [&["--secrets-key-file", "k"][..], &["--secrets-key-file", "k", "--blocks", "local"]]
        {
            assert!(shared(blocks).unwrap_err().contains("FULA_BLOCKS"));
        }
        assert!(shared(&["--blocks", "s3://b"]).unwrap_err().contains("fula secrets keygen"));
        let config = shared(&["--blocks", "s3://b", "--secrets-key-file", "k"]).unwrap();
        assert!(config.backends.shared.as_ref().unwrap().compares);
        assert!(!format!("{config:?}").contains("hush"));
        assert!(check(&["--bucket-root-cas", "off"]).unwrap_err().contains("always compares"));
    }

    #[test]
    fn wrong_settings_say_what_to_do() {
        let wrong = |options: &[&str]| check(options).unwrap_err();
        let text = wrong(&["--commit-deadline", "ten"]);
        assert!(text.contains("--commit-deadline") && text.contains("e.g. 10s"), "{text}");
        assert_eq!(check(&["--xml-bytes", "1M"]).unwrap().wire.limits.xml_bytes_max, 1 << 20);
        let text = wrong(&["--header-timeout", "0s"]);
        assert!(text.contains("--header-timeout"), "{text}");
        let text = wrong(&["--cache-bytes", "64X"]);
        assert!(text.contains("e.g. 64M"), "{text}");
        let text = wrong(&["--domain", "s3.test:9000"]);
        assert!(text.contains("leave it out: s3.test"), "{text}");
        for name in ["--buckets-per-owner", "--public-buckets-per-owner", "--keys-per-user"] {
            assert!(wrong(&[name, "0"]).contains(name));
        }
        let limits = check(&["--public-buckets-per-owner", "3"]).unwrap().limits;
        assert_eq!((limits.buckets_per_owner, limits.public_buckets_per_owner), (10_000, 3));
        assert!(wrong(&["--access-key-id", "A"]).contains("both"));
        assert!(wrong(&["--tls-cert", "A"]).contains("both"));
        let text = wrong(&["--listen", ":9000", "--admin-listen", "0.0.0.0:9000"]);
        assert!(text.contains("FULA_ADMIN_LISTEN") && text.contains("different ports"), "{text}");
        check(&["--listen", ":0", "--admin-listen", ":0"]).unwrap();
    }

    #[test]
    fn collections_can_be_off_and_a_retention_can_be_years() {
        assert!(check(&[]).unwrap().limits.collects);
        let limits = check(&["--collect", "off", "--retention", "3650d"]).unwrap().limits;
        assert!(!limits.collects);
        assert_eq!(limits.retention, std::time::Duration::from_hours(3650 * 24));
    }

    #[test]
    fn wrong_files_say_what_to_do_and_repeat_no_secret() {
        let wrong = |text: &str| with_file(text, &[]).unwrap_err();
        assert!(wrong("regoin = \"x\"\n").contains("`regoin`"));
        assert!(wrong("config = \"x\"\n").contains("`config`"));
        assert!(wrong("region = [\"x\"]\n").contains("`region`"));
        let text = wrong("cache_bytes = \"64X\"\n");
        assert!(
            text.contains("cannot use the settings in") && text.contains("--cache-bytes"),
            "{text}"
        );
        assert!(wrong("log = \"xml\"\n").contains("possible values: text, json"));
        // The error does not repeat the contents of the file, because they may be a secret.
        for line in ["secret_acces_key = \"hush-hush\"", "secret_access_key = hush-hush"] {
            let text = wrong(line);
            assert!(!text.contains("hush"), "{text}");
        }
    }
}
