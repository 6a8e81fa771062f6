//! The settings of a gateway, each declared once: flag, environment variable, name in the settings
//! file, default, help, and row in docs/operations.md (`table`) all come from here.
//!
//! A default that depends on something else stands in the help as `[default: …]`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{ArgAction::Set, Args, ValueEnum};
use fula_gateway::WireLimits;
use fula_service::{Limits, auth::SESSIONS_MAX, limits::KEYS_PER_USER};

use super::value::{Size, Time, above_zero, from_one, listen_address, switch};
use crate::scrub::PERIOD;

/// Settings of `fula gateway`. Each can also be set in the environment, or in the TOML file under
/// the same name in lower case without FULA_; a flag wins over the environment, which wins over
/// the file.
#[derive(Debug, Args)]
pub(crate) struct GatewaySettings {
    /// TOML file with settings [default: none]
    #[arg(long, env = "FULA_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Address to serve S3 on: IP:PORT, localhost:PORT, or :PORT for every IPv4 interface
    #[arg(
        long,
        env = "FULA_LISTEN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:9000",
        value_parser = listen_address
    )]
    pub(crate) listen: SocketAddr,
    /// Address of health, readiness and metrics
    #[arg(
        long,
        env = "FULA_ADMIN_LISTEN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:9001",
        value_parser = listen_address
    )]
    pub(crate) admin_listen: SocketAddr,
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
    /// Whether swaps of a shared arbiter compare what they replace
    #[arg(long, env = "FULA_BUCKET_ROOT_CAS", default_value = "auto")]
    pub(crate) bucket_root_cas: CasMode,
    /// Answer reads from the last known state while the arbiter cannot be asked, marked with
    /// x-fula-stale
    #[arg(long, env = "FULA_STALE_READS", value_name = "on|off", value_parser = switch,
        action = Set, default_value = "off")]
    pub(crate) stale_reads: bool,
    /// Region to report to clients
    #[arg(long, env = "FULA_REGION", default_value = "us-east-1")]
    pub(crate) region: String,
    /// Refuse signatures for another region than --region, with an error from which clients learn the
    /// right one; otherwise any region is accepted
    #[arg(long, env = "FULA_REGION_STRICT", value_name = "on|off", value_parser = switch,
        action = Set, default_value = "off")]
    pub(crate) region_strict: bool,
    /// Which signatures of version 2 are accepted; s3cmd, s3fs and boto3 presign with them by default
    #[arg(long, env = "FULA_SIGV2", default_value = "presigned")]
    pub(crate) sigv2: SignatureV2,
    /// Domain whose subdomains are bucket names, for virtual-host style; without a port. Case, port
    /// and a trailing dot of the Host header do not matter [default: none]
    #[arg(long, env = "FULA_DOMAIN")]
    pub(crate) domain: Option<String>,
    /// PEM file with the certificate chain; needs --tls-key as well. It is read at the start
    /// [default: none, plain HTTP]
    #[arg(long, env = "FULA_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key [default: none]
    #[arg(long, env = "FULA_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Says that a proxy in front of this gateway ends TLS, and that nobody else reaches the gateway:
    /// then tokens are accepted over plain HTTP from other machines
    #[arg(long, env = "FULA_TLS_TERMINATED", value_name = "on|off", value_parser = switch,
        action = Set, default_value = "off")]
    pub(crate) tls_terminated: bool,
    /// What bucket names are unique within. With `owner`, signed requests without
    /// x-amz-expected-bucket-owner reach the caller's own buckets alone
    #[arg(long, env = "FULA_BUCKET_NAMES", default_value = "owner")]
    pub(crate) bucket_names: BucketNames,
    /// Most buckets of one owner before 400 `TooManyBuckets`
    #[arg(long, env = "FULA_BUCKETS_PER_OWNER", value_name = "NUMBER", value_parser = from_one(),
        default_value_t = Limits::default().buckets_per_owner)]
    pub(crate) buckets_per_owner: u64,
    /// Most global names of one owner where names are unique per owner: beyond it, a policy that makes
    /// one more bucket public is refused with 400 `LimitExceeded`
    #[arg(long, env = "FULA_PUBLIC_BUCKETS_PER_OWNER", value_name = "NUMBER",
        value_parser = from_one(), default_value_t = Limits::default().public_buckets_per_owner)]
    pub(crate) public_buckets_per_owner: u64,
    /// Longest time that a write may take before it is answered 503
    #[arg(long, env = "FULA_COMMIT_DEADLINE", value_name = "TIME", value_parser = above_zero,
        default_value_t = Time(Limits::default().commit_deadline))]
    pub(crate) commit_deadline: Time,
    /// Time for which objects that were replaced or deleted, and deleted buckets, keep their space
    #[arg(long, env = "FULA_RETENTION", value_name = "TIME",
        default_value_t = Time(Limits::default().retention))]
    pub(crate) retention: Time,
    /// Time in which every block of the block store is read once, to find damage before somebody needs the
    /// block; masters that share a store take turns. 0s reads nothing
    #[arg(long, env = "FULA_SCRUB", value_name = "TIME", default_value_t = Time(PERIOD))]
    pub(crate) scrub: Time,
    /// Memory for request and response bodies. A request that waits longer than 10 s for it is
    /// answered 503 `SlowDown`; connections that move less than 256 KiB in 5 s are closed first
    #[arg(long, env = "FULA_BODY_BYTES", value_name = "SIZE",
        default_value_t = Size(Limits::default().body_bytes as u64))]
    pub(crate) body_bytes: Size,
    /// Memory for decoded tree nodes
    #[arg(long, env = "FULA_CACHE_BYTES", value_name = "SIZE",
        default_value_t = Size(Limits::default().cache_bytes))]
    pub(crate) cache_bytes: Size,
    /// Bytes of small bodies that may wait for one bucket
    #[arg(long, env = "FULA_QUEUE_BYTES", value_name = "SIZE",
        default_value_t = Size(Limits::default().queue_bytes_max as u64))]
    pub(crate) queue_bytes: Size,
    /// Largest XML or JSON body of a request
    #[arg(long, env = "FULA_XML_BYTES", value_name = "SIZE",
        default_value_t = Size(WireLimits::default().xml_bytes_max as u64))]
    pub(crate) xml_bytes: Size,
    /// Time that a client gets to send its headers
    #[arg(long, env = "FULA_HEADER_TIMEOUT", value_name = "TIME", value_parser = above_zero,
        default_value_t = Time(WireLimits::default().header_timeout))]
    pub(crate) header_timeout: Time,
    /// Time that a request body may stand still, and that an XML or JSON body may take in all
    #[arg(long, env = "FULA_BODY_IDLE_TIMEOUT", value_name = "TIME", value_parser = above_zero,
        default_value_t = Time(WireLimits::default().body_idle_timeout))]
    pub(crate) body_idle_timeout: Time,
    /// Bytes that a client must send each second once a request body took longer than
    /// --body-idle-timeout in all; a slower one is answered 400 `RequestTimeout`; 0 is no bound
    #[arg(long, env = "FULA_BODY_PACE", value_name = "SIZE",
        default_value_t = Size(WireLimits::default().body_bytes_per_second_min))]
    pub(crate) body_pace: Size,
    #[command(flatten)]
    pub(crate) connections: ConnectionSettings,
    /// Time that requests in flight get to finish at shutdown
    #[arg(long, env = "FULA_SHUTDOWN_GRACE", value_name = "TIME", value_parser = above_zero,
        default_value = "30s")]
    pub(crate) shutdown_grace: Time,
    /// Format of the log, which goes to standard error; `RUST_LOG` sets its level
    #[arg(long, env = "FULA_LOG", default_value = "text")]
    pub(crate) log: LogFormat,
    /// File of 64 hex digits, mode 0600, that seals secrets at rest; it must be set, to the same key
    /// on every master, with a shared arbiter [default: `secrets.key` in the data directory, made at
    /// the first start]
    #[arg(long, env = "FULA_SECRETS_KEY_FILE", value_name = "FILE")]
    pub(crate) secrets_key_file: Option<PathBuf>,
    /// Access key id of the user `admin`; needs the secret as well [default: made at the first start]
    #[arg(long, env = "FULA_ACCESS_KEY_ID", value_name = "ID")]
    pub(crate) access_key_id: Option<String>,
    /// Secret access key of the user `admin`; better given in the environment than typed
    /// [default: made at the first start]
    #[arg(
        long,
        env = "FULA_SECRET_ACCESS_KEY",
        value_name = "SECRET",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub(crate) secret_access_key: Option<String>,
    #[command(flatten)]
    pub(crate) auth: AuthSettings,
}

/// How many connections may be open. When a limit is reached, those that are idle longest are
/// closed; a new one is refused when none is idle.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ConnectionSettings {
    /// S3 connections in all; never more than three quarters of the file descriptors that the
    /// process may open
    #[arg(long, env = "FULA_CONNECTIONS", value_name = "NUMBER", default_value_t = 10_000)]
    pub(crate) connections: usize,
    /// S3 connections from one address, or from one /64 network with IPv6; set it to the number of
    /// all where every client comes through one proxy [default: a quarter of --connections]
    #[arg(long, env = "FULA_CONNECTIONS_PER_ADDRESS", value_name = "NUMBER")]
    pub(crate) connections_per_address: Option<usize>,
}

/// Which tokens are accepted, and how often anyone may ask.
#[derive(Clone, Debug, Args)]
pub(crate) struct AuthSettings {
    /// Accept wallet tokens (EIP-712): of every wallet, unless --wallets names some
    #[arg(long, env = "FULA_EIP712_AUTH", value_name = "on|off", value_parser = switch,
        action = Set, default_value = "off")]
    pub(crate) eip712_auth: bool,
    /// Accept wallet tokens of version 1, which name no audience
    #[arg(long, env = "FULA_EIP712_V1", value_name = "on|off", value_parser = switch,
        action = Set, default_value = "on")]
    pub(crate) eip712_v1: bool,
    /// Names of this gateway and its federation that wallet tokens may be meant for, separated by
    /// commas; tokens for others are refused [default: none, only tokens for * are accepted]
    #[arg(long, env = "FULA_AUDIENCE", value_name = "NAMES")]
    pub(crate) audience: Option<String>,
    /// Wallets that are admitted, separated by commas [default: every wallet]
    #[arg(long, env = "FULA_WALLETS", value_name = "ADDRESSES")]
    pub(crate) wallets: Option<String>,
    /// File, mode 0600, whose content, at least 32 bytes, verifies JWTs signed with HS256
    /// [default: none]
    #[arg(long, env = "FULA_JWT_SECRET_FILE", value_name = "FILE")]
    pub(crate) jwt_secret_file: Option<PathBuf>,
    /// Key set (JWKS) that verifies JWTs signed with RS256, ES256 or `EdDSA`: a file, or an https
    /// URL; read again every five minutes and when a token names an unknown key [default: none]
    #[arg(
        long,
        env = "FULA_JWKS",
        value_name = "FILE|URL",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub(crate) jwks: Option<String>,
    /// Time for which the keys of --jwks are used while the key set cannot be read, from 1m; then
    /// its tokens are answered 503 until it can be read again
    #[arg(long, env = "FULA_JWKS_KEEP", value_name = "TIME", default_value = "1h")]
    pub(crate) jwks_keep: Time,
    /// What the iss claim of JWTs must be [default: anything]
    #[arg(long, env = "FULA_JWT_ISSUER", value_name = "NAME")]
    pub(crate) jwt_issuer: Option<String>,
    /// What the aud claim of JWTs must contain [default: anything]
    #[arg(long, env = "FULA_JWT_AUDIENCE", value_name = "NAME")]
    pub(crate) jwt_audience: Option<String>,
    /// Most sessions (STS) that one owner may have at a time, up to 1000; one token may have half of
    /// them
    #[arg(long, env = "FULA_SESSIONS_PER_OWNER", value_name = "NUMBER",
        default_value_t = SESSIONS_MAX)]
    pub(crate) sessions_per_owner: usize,
    /// Most access keys of one user; raise it for users with many machines
    #[arg(long, env = "FULA_KEYS_PER_USER", value_name = "NUMBER", value_parser = from_one(),
        default_value_t = KEYS_PER_USER as u64)]
    pub(crate) keys_per_user: u64,
    /// Requests per second of one user before 503 `SlowDown`; 0 is no bound
    #[arg(long, env = "FULA_RATE_PER_USER", value_name = "NUMBER", default_value_t = 0)]
    pub(crate) rate_per_user: u32,
    /// Requests per second of one address, or of one /64 network with IPv6, before 503 `SlowDown`; 0
    /// is no bound
    #[arg(long, env = "FULA_RATE_PER_ADDRESS", value_name = "NUMBER", default_value_t = 0)]
    pub(crate) rate_per_address: u32,
}

/// Where a master keeps its state.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DataDirArgs {
    /// Directory of all state [default: `$STATE_DIRECTORY`, else /var/lib/fula-gateway as root,
    /// else `$XDG_DATA_HOME/fula`, else ~/.local/share/fula]
    #[arg(long, env = "FULA_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// What several masters share.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SharedArgs {
    /// Postgres that several masters share as arbiter, e.g. <postgres://user:password@host/db>
    /// [default: none, embedded for one master]
    #[arg(
        long,
        env = "FULA_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub(crate) database_url: Option<String>,
    /// Block store: `local` (the data directory), or a place that all masters reach: <file:///directory>,
    /// <s3://bucket/prefix>, <gs://bucket/prefix> or <az://container/prefix>. Credentials are given in the
    /// usual variables, which begin with `AWS_`, `GOOGLE_` or `AZURE_`; `AWS_ENDPOINT` names a server other
    /// than AWS, by a URL without a user or a password [default: local]
    #[arg(
        long,
        env = "FULA_BLOCKS",
        value_name = "URL",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub(crate) blocks: Option<String>,
}

/// `FULA_BUCKET_ROOT_CAS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CasMode {
    /// The same as on
    Auto,
    /// A swap succeeds only on the state that it was made from
    On,
    /// A swap replaces whatever is there: updates get lost. It exists to show that
    Off,
}

/// `FULA_BUCKET_NAMES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BucketNames {
    /// Each owner has names of their own
    Owner,
    /// A name that anyone has taken is taken, as on AWS
    Global,
}

/// `FULA_SIGV2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SignatureV2 {
    /// Those of presigned URLs that read or write one object, for at most a week
    Presigned,
    /// None
    Off,
}

/// `FULA_LOG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}
