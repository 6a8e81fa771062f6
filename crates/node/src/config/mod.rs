//! Settings as checked: a wrong one never starts.

mod auth;
mod connections;
mod limits;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use fula_gateway::{Domain, InvalidDomain, WireConfig};
use fula_identity::Policy;
use fula_service::{Limits, NamePolicy, auth::Secret};
use serde::Deserialize;

use crate::{
    cli::{BucketNames, CasMode, DataDirArgs, GatewayArgs, LogFormat, SharedArgs, Switch},
    files::{self, FileError},
};

pub(crate) use self::{
    auth::{Jwks, JwksSource},
    connections::{ConnectionSettings, admin_limits, raise_descriptors},
};

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// Mend the file.
    #[error("cannot read the settings in {0}: {1}")]
    File(PathBuf, String),
    /// Mend the setting.
    #[error("{name} is {value:?}; {expected}")]
    Value {
        /// As typed on the command line.
        name: &'static str,
        /// What it was.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Set both or none.
    #[error("set both --access-key-id and --secret-access-key, or neither")]
    HalfAKey,
    /// Set both or none.
    #[error("set both --tls-cert and --tls-key, or neither")]
    HalfOfTls,
    /// Put the blocks where every master can read them.
    #[error(
        "a shared arbiter needs blocks that every master can read: set FULA_BLOCKS to \
         file:///directory on a shared disk, or to s3://bucket/prefix"
    )]
    BlocksNotShared,
    /// Make a key and give it to every master.
    #[error(
        "a shared arbiter needs FULA_SECRETS_KEY_FILE, the same on every master: make one with \
         `fula secrets keygen FILE` and copy it to each of them"
    )]
    NoSecretsKey,
    /// Leave the setting out.
    #[error(
        "FULA_BUCKET_ROOT_CAS=off has no meaning for the embedded arbiter, which always compares; \
         leave it out, or set FULA_DATABASE_URL"
    )]
    EmbeddedCompares,
    /// Turn on what the setting is about.
    #[error("{0} has no meaning without {1}")]
    Without(&'static str, &'static str),
    /// Make a longer one.
    #[error("{0}: {1}")]
    Secret(PathBuf, String),
    /// Name a domain.
    #[error(transparent)]
    Domain(#[from] InvalidDomain),
    /// Mend the setting; its value is not repeated, for it may hold a password.
    #[error("FULA_JWKS is not a file or a URL that can be used: {0}")]
    Jwks(&'static str),
    /// Protect the settings: they hold a secret.
    #[error(transparent)]
    Open(#[from] FileError),
    /// Say where.
    #[error(
        "no data directory: set --data-dir (neither $STATE_DIRECTORY, $XDG_DATA_HOME nor $HOME is set)"
    )]
    NoDataDir,
}

/// The file's words; the same as the options'.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSettings {
    listen: Option<SocketAddr>,
    admin_listen: Option<SocketAddr>,
    data_dir: Option<PathBuf>,
    database_url: Option<String>,
    blocks: Option<String>,
    bucket_root_cas: Option<CasMode>,
    stale_reads: Option<Switch>,
    region: Option<String>,
    domain: Option<String>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_terminated: Option<Switch>,
    bucket_names: Option<BucketNames>,
    buckets_per_owner: Option<u64>,
    public_buckets_per_owner: Option<u64>,
    commit_deadline: Option<String>,
    retention: Option<String>,
    body_bytes: Option<String>,
    cache_bytes: Option<String>,
    queue_bytes: Option<String>,
    xml_bytes: Option<String>,
    header_timeout: Option<String>,
    body_idle_timeout: Option<String>,
    body_pace: Option<String>,
    connections: Option<usize>,
    connections_per_address: Option<usize>,
    shutdown_grace: Option<String>,
    log: Option<LogFormat>,
    secrets_key_file: Option<PathBuf>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    eip712_auth: Option<Switch>,
    eip712_v1: Option<Switch>,
    audience: Option<String>,
    wallets: Option<String>,
    jwt_secret_file: Option<PathBuf>,
    jwks: Option<String>,
    jwks_keep: Option<String>,
    jwt_issuer: Option<String>,
    jwt_audience: Option<String>,
    sessions_per_owner: Option<usize>,
    keys_per_user: Option<usize>,
    rate_per_user: Option<u32>,
    rate_per_address: Option<u32>,
}

/// Where everything is kept, in combinations that are safe.
#[derive(Clone, Debug)]
pub(crate) struct Backends {
    pub(crate) data_dir: PathBuf,
    pub(crate) secrets_key_file: Option<PathBuf>,
    /// `None` is the log of the data directory.
    pub(crate) blocks_url: Option<String>,
    /// `None` is the embedded arbiter.
    pub(crate) shared: Option<SharedArbiter>,
}

/// An arbiter that several masters share.
#[derive(Clone)]
pub(crate) struct SharedArbiter {
    /// May hold a password.
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
    /// Checks that the parts go together.
    pub(crate) fn check(
        data: &DataDirArgs,
        shared: SharedArgs,
        secrets_key_file: Option<PathBuf>,
        cas: CasMode,
    ) -> Result<Self, ConfigError> {
        let blocks_url = shared.blocks.filter(|blocks| blocks != "local");
        let shared = match shared.database_url {
            None if cas == CasMode::Off => return Err(ConfigError::EmbeddedCompares),
            None => None,
            Some(_) if blocks_url.is_none() => return Err(ConfigError::BlocksNotShared),
            Some(_) if secrets_key_file.is_none() => return Err(ConfigError::NoSecretsKey),
            Some(database_url) => {
                Some(SharedArbiter { database_url, compares: cas != CasMode::Off })
            }
        };
        let data_dir = data_dir(data)?;
        Ok(Self { data_dir, secrets_key_file, blocks_url, shared })
    }
}

/// A gateway's settings, valid by construction.
#[derive(Debug)]
pub(crate) struct GatewayConfig {
    pub(crate) listen: SocketAddr,
    pub(crate) admin_listen: SocketAddr,
    pub(crate) backends: Backends,
    pub(crate) wire: WireConfig,
    /// Certificate chain and key; plain HTTP without.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    pub(crate) names: NamePolicy,
    pub(crate) limits: Limits,
    pub(crate) connections: ConnectionSettings,
    pub(crate) shutdown_grace: Duration,
    pub(crate) log: LogFormat,
    pub(crate) first_key: Option<(String, Secret)>,
    /// Which tokens are accepted; without the key set.
    pub(crate) policy: Policy,
    /// Most sessions of one owner at a time.
    pub(crate) sessions_max: usize,
    /// Most access keys of one user.
    pub(crate) keys_max: usize,
    /// The key set of JWTs.
    pub(crate) jwks: Option<Jwks>,
}

impl GatewayConfig {
    /// Returns what the log should warn of when the gateway starts.
    pub(crate) fn warnings(&self) -> Vec<&'static str> {
        let takes_jwts = self.jwks.is_some() || self.policy.jwt.accepts_any();
        let mut warnings = Vec::new();
        if self.policy.eip712 && self.policy.v1 {
            warnings.push(
                "wallet tokens of version 1 name no audience, so one that was given to any gateway is \
                 accepted here; set FULA_EIP712_V1=off once clients send version 2",
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
                 FULA_TLS_CERT and FULA_TLS_KEY, or FULA_TLS_TERMINATED=on if a proxy ends TLS",
            );
        }
        warnings
    }

    /// Reads the file if there is one, and checks everything.
    pub(crate) fn load(mut args: GatewayArgs) -> Result<Self, ConfigError> {
        let mut file = match &args.config {
            Some(path) => read_file(path)?,
            None => FileSettings::default(),
        };
        let wire_limits = limits::of_wire(&mut args, &mut file)?;
        let limits = limits::of_service(&mut args, &mut file)?;
        let auth = auth::merge(args.auth, &mut file);
        let first_key = match (
            args.access_key_id.or(file.access_key_id),
            args.secret_access_key.or(file.secret_access_key),
        ) {
            (Some(id), Some(secret)) => Some((id, Secret::new(secret))),
            (None, None) => None,
            _ => return Err(ConfigError::HalfAKey),
        };
        let data = DataDirArgs { data_dir: args.data.data_dir.or(file.data_dir) };
        Ok(Self {
            listen: args.listen.or(file.listen).unwrap_or(([127, 0, 0, 1], 9000).into()),
            admin_listen: args
                .admin_listen
                .or(file.admin_listen)
                .unwrap_or(([127, 0, 0, 1], 9001).into()),
            backends: Backends::check(
                &data,
                SharedArgs {
                    database_url: args.shared.database_url.or(file.database_url),
                    blocks: args.shared.blocks.or(file.blocks),
                },
                args.secrets_key_file.or(file.secrets_key_file),
                args.bucket_root_cas.or(file.bucket_root_cas).unwrap_or(CasMode::Auto),
            )?,
            wire: WireConfig {
                region: args.region.or(file.region).unwrap_or_else(|| "us-east-1".to_owned()),
                domain: match args.domain.or(file.domain) {
                    Some(text) => Some(Domain::parse(&text)?),
                    None => None,
                },
                tls_terminated: args.tls_terminated.or(file.tls_terminated) == Some(Switch::On),
                rates: auth::rates(&auth),
                limits: wire_limits,
            },
            tls: match (args.tls_cert.or(file.tls_cert), args.tls_key.or(file.tls_key)) {
                (Some(cert), Some(key)) => Some((cert, key)),
                (None, None) => None,
                _ => return Err(ConfigError::HalfOfTls),
            },
            names: match args.bucket_names.or(file.bucket_names) {
                None | Some(BucketNames::Owner) => NamePolicy::PerOwner,
                Some(BucketNames::Global) => NamePolicy::Global,
            },
            limits,
            connections: ConnectionSettings::check(
                args.connections.connections.or(file.connections),
                args.connections.connections_per_address.or(file.connections_per_address),
            )?,
            shutdown_grace: match args.shutdown_grace.or(file.shutdown_grace) {
                Some(text) => duration("--shutdown-grace", text)?,
                None => Duration::from_secs(30),
            },
            log: args.log.or(file.log).unwrap_or(LogFormat::Text),
            first_key,
            policy: auth::policy(&auth)?,
            sessions_max: auth::sessions_max(&auth)?,
            keys_max: auth::keys_max(&auth)?,
            jwks: auth::jwks(&auth)?,
        })
    }
}

fn read_file(path: &Path) -> Result<FileSettings, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::File(path.to_owned(), error.to_string()))?;
    let settings: FileSettings = toml::from_str(&text).map_err(|error| {
        // The message alone: the line it points at may hold a secret.
        let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
        ConfigError::File(path.to_owned(), format!("line {line}: {}", error.message()))
    })?;
    if settings.secret_access_key.is_some()
        || settings.database_url.as_deref().is_some_and(may_hold_password)
    {
        files::check_private(path)?;
    }
    Ok(settings)
}

/// Returns whether there may be a password in a database URL.
fn may_hold_password(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return true };
    let userinfo = rest.rsplit_once('@').map(|(userinfo, _)| userinfo);
    userinfo.is_some_and(|userinfo| userinfo.contains(':')) || rest.contains("password")
}

/// Returns the data directory: as set, else where a service or a user keeps state.
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

pub(crate) fn duration(name: &'static str, text: String) -> Result<Duration, ConfigError> {
    let parsed = span(name, text.clone())?;
    if parsed.is_zero() {
        return Err(ConfigError::Value { name, value: text, expected: TIME });
    }
    Ok(parsed)
}

/// What a time looks like.
const TIME: &str = "a time is a whole number and ms, s, m or h, e.g. 10s";

/// Parses a time that may be zero.
pub(crate) fn span(name: &'static str, text: String) -> Result<Duration, ConfigError> {
    let parsed = split(&text).and_then(|(number, unit)| {
        let unit = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        number.checked_mul(unit).map(Duration::from_millis)
    });
    parsed.ok_or(ConfigError::Value { name, value: text, expected: TIME })
}

fn size(name: &'static str, text: String) -> Result<u64, ConfigError> {
    let parsed = split(&text).and_then(|(number, unit)| {
        let shift = match unit {
            "" => 0,
            "K" => 10,
            "M" => 20,
            "G" => 30,
            _ => return None,
        };
        number.checked_mul(1 << shift)
    });
    let expected = "a size is a whole number of bytes, or one and K, M or G, e.g. 64M";
    parsed.ok_or(ConfigError::Value { name, value: text, expected })
}

fn length(name: &'static str, text: String) -> Result<usize, ConfigError> {
    let bytes = size(name, text)?;
    Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::BucketArgs;

    fn args() -> GatewayArgs {
        let data = DataDirArgs { data_dir: Some("/tmp/x".into()) };
        GatewayArgs { data, ..GatewayArgs::default() }
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let config = GatewayConfig::load(args()).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:9000");
        assert_eq!(config.admin_listen.to_string(), "127.0.0.1:9001");
        assert_eq!(config.wire.region, "us-east-1");
        assert_eq!(config.limits.commit_deadline, Duration::from_secs(10));
        assert_eq!(config.limits.cache_bytes, 64 << 20);
        assert_eq!(config.names, NamePolicy::PerOwner);
        assert_eq!(config.limits.buckets_per_owner, 10_000);
        assert_eq!(config.limits.public_buckets_per_owner, 100);
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "region = \"eu-x\"\ncache_bytes = \"1M\"\nbucket_names = \"global\"\n";
        std::fs::write(file.path(), text).unwrap();
        let config = Some(file.path().to_owned());
        let typed = GatewayArgs { config, region: Some("us-y".into()), ..args() };
        let loaded = GatewayConfig::load(typed).unwrap();
        assert_eq!(loaded.wire.region, "us-y");
        assert_eq!(loaded.limits.cache_bytes, 1 << 20);
        assert_eq!(loaded.names, NamePolicy::Global);
    }

    #[test]
    fn unsafe_combinations_do_not_start() {
        let shared = |blocks: Option<&str>, key: Option<&str>| GatewayArgs {
            shared: SharedArgs {
                database_url: Some("postgres://u:hush@h/d".into()),
                blocks: blocks.map(Into::into),
            },
            secrets_key_file: key.map(Into::into),
            ..args()
        };
        let wrong = |args| GatewayConfig::load(args).unwrap_err().to_string();
        for blocks in [None, Some("local")] {
            assert!(wrong(shared(blocks, Some("k"))).contains("FULA_BLOCKS"));
        }
        assert!(wrong(shared(Some("s3://b"), None)).contains("fula secrets keygen"));
        let config = GatewayConfig::load(shared(Some("s3://b"), Some("k"))).unwrap();
        assert!(config.backends.shared.as_ref().unwrap().compares);
        assert!(!format!("{config:?}").contains("hush"));
        let off = GatewayArgs { bucket_root_cas: Some(CasMode::Off), ..args() };
        assert!(wrong(off).contains("always compares"));
    }

    #[test]
    fn settings_with_a_secret_must_be_private() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        let load = |text: &str, mode| {
            std::fs::write(file.path(), text).unwrap();
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            read_file(file.path()).map(drop).map_err(|error| error.to_string())
        };
        for secret in [
            "secret_access_key = \"hush-hush\"",
            "database_url = \"postgres://fula:hush@db/fula\"",
            "database_url = \"postgres://fula@db/fula?password=hush\"",
            "database_url = \"fula:hush@db/fula\"",
        ] {
            let refused = load(secret, 0o644).unwrap_err();
            assert!(refused.contains("chmod 600") && !refused.contains("hush"), "{refused}");
            assert_eq!(load(secret, 0o600), Ok(()), "{secret}");
        }
        for other in ["region = \"x\"", "database_url = \"postgres://fula@db/fula\""] {
            assert_eq!(load(other, 0o644), Ok(()), "{other}");
        }
    }

    #[test]
    fn wrong_settings_say_what_to_do() {
        let wrong = |args| GatewayConfig::load(args).unwrap_err().to_string();
        let text = wrong(GatewayArgs { commit_deadline: Some("ten".into()), ..args() });
        assert!(text.contains("--commit-deadline") && text.contains("e.g. 10s"), "{text}");
        let limited = GatewayArgs { xml_bytes: Some("1M".into()), ..args() };
        assert_eq!(GatewayConfig::load(limited).unwrap().wire.limits.xml_bytes_max, 1 << 20);
        let text = wrong(GatewayArgs { header_timeout: Some("0s".into()), ..args() });
        assert!(text.contains("--header-timeout"), "{text}");
        let text = wrong(GatewayArgs { cache_bytes: Some("64T".into()), ..args() });
        assert!(text.contains("e.g. 64M"), "{text}");
        let text = wrong(GatewayArgs { domain: Some("s3.test:9000".into()), ..args() });
        assert!(text.contains("leave it out: s3.test"), "{text}");
        let buckets = BucketArgs { buckets_per_owner: Some(0), ..BucketArgs::default() };
        let text = wrong(GatewayArgs { buckets, ..args() });
        assert!(text.contains("--buckets-per-owner"), "{text}");
        let buckets = BucketArgs { public_buckets_per_owner: Some(3), ..BucketArgs::default() };
        let limits = GatewayConfig::load(GatewayArgs { buckets, ..args() }).unwrap().limits;
        assert_eq!((limits.buckets_per_owner, limits.public_buckets_per_owner), (10_000, 3));
        let text = wrong(GatewayArgs { access_key_id: Some("A".into()), ..args() });
        assert!(text.contains("both"), "{text}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "regoin = \"x\"\n").unwrap();
        let text = wrong(GatewayArgs { config: Some(file.path().to_owned()), ..args() });
        assert!(text.contains("regoin"), "{text}");
        // What stands in the file is not repeated: it may be a secret.
        for wrong_line in ["secret_acces_key = \"hush-hush\"", "secret_access_key = hush-hush"] {
            std::fs::write(file.path(), wrong_line).unwrap();
            let config = Some(file.path().to_owned());
            let text = wrong(GatewayArgs { config, ..args() });
            assert!(!text.contains("hush"), "{text}");
        }
    }
}
