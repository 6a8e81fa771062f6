//! The settings of a gateway, each declared once: flag, environment variable, name in the settings
//! file, default, help, and row in docs/operations.md (`table`) all come from here.
//!
//! A default that depends on something else stands in the help as `[default: …]`. The heading says whether all
//! masters of an arbiter share the setting (`sharing`).

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgAction::Set, Args, ValueEnum};
use fula_gateway::WireLimits;
use fula_service::{
    Limits,
    auth::SESSIONS_MAX,
    limits::{KEYS_PER_USER, RetainedMax},
};

use super::{
    IngestSettings, PinSettings, PsaSettings,
    sharing::{OWN, SHARED},
    value::{Size, Time, above_zero, from_one, listen_address, retained_max, switch},
};

/// Settings of `fula gateway`. Each can also be set in the environment, or in the settings file under the
/// same name in lower case without FULA_. A flag wins over the environment, which wins over the file.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting that is on or off")]
pub(crate) struct GatewaySettings {
    /// File with settings, in TOML. A flag wins over the environment, which wins over the file
    /// [default: none]
    #[arg(long, env = "FULA_CONFIG", help_heading = OWN, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Address and port of the S3 listener: IP:PORT, localhost:PORT, or :PORT for all IPv4 addresses of
    /// the machine. Change it to serve other machines
    #[arg(
        long,
        env = "FULA_LISTEN", help_heading = OWN,
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:9000",
        value_parser = listen_address
    )]
    pub(crate) listen: SocketAddr,
    /// Address and port of the listener for `/healthz`, `/readyz` and `/metrics`. It asks for no
    /// credentials: let only your own machines reach it
    #[arg(
        long,
        env = "FULA_ADMIN_LISTEN", help_heading = OWN,
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:9001",
        value_parser = listen_address
    )]
    pub(crate) admin_listen: SocketAddr,
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
    /// Whether a master replaces the root pointer of a bucket only if nobody else has changed it. Never
    /// turn it off for data that matters
    #[arg(long, env = "FULA_BUCKET_ROOT_CAS", help_heading = SHARED, default_value = "auto", hide = true)]
    pub(crate) bucket_root_cas: CasMode,
    /// Whether reads are answered from the last known state, with the header x-fula-stale, while the
    /// arbiter does not answer. Otherwise they are answered 503
    #[arg(long, env = "FULA_STALE_READS", help_heading = SHARED, value_name = "on|off", value_parser = switch,
        action = Set, default_value = "off")]
    pub(crate) stale_reads: bool,
    /// Region that the gateway reports to clients
    #[arg(long, env = "FULA_REGION", help_heading = SHARED, default_value = "us-east-1")]
    pub(crate) region: String,
    /// Whether signatures for another region than --region are refused, with an error that tells
    /// clients the right one. Otherwise any region is accepted
    #[arg(long, env = "FULA_REGION_STRICT", help_heading = SHARED, value_name = "on|off", value_parser = switch,
        action = Set, default_value = "off")]
    pub(crate) region_strict: bool,
    /// Which signatures of version 2 are accepted. s3cmd, s3fs and boto3 presign URLs with version 2
    /// unless their configuration says otherwise
    #[arg(long, env = "FULA_SIGV2", help_heading = SHARED, default_value = "presigned")]
    pub(crate) sigv2: SignatureV2,
    /// Domain, without a port, whose subdomains are bucket names. Set it for virtual-host style URLs
    /// such as `http://my-bucket.s3.example.com`; case, port and a trailing dot of the Host header do not
    /// matter [default: none]
    #[arg(long, env = "FULA_DOMAIN", help_heading = SHARED)]
    pub(crate) domain: Option<String>,
    /// File with the certificate chain, in PEM; needs --tls-key too. Send SIGHUP after a renewal [default:
    /// none, plain HTTP]
    #[arg(long, env = "FULA_TLS_CERT", help_heading = OWN, value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// File with the private key of the certificate, in PEM, mode 0600 [default: none]
    #[arg(long, env = "FULA_TLS_KEY", help_heading = OWN, value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Whether a proxy terminates TLS in front of the gateway, and nobody else reaches the gateway. Tokens
    /// are then accepted over plain HTTP from other machines
    #[arg(long, env = "FULA_TLS_TERMINATED", help_heading = OWN, value_name = "on|off", value_parser = switch,
        action = Set, default_value = "off")]
    pub(crate) tls_terminated: bool,
    /// Scope in which a bucket name must be unique. With `owner`, a signed request without
    /// x-amz-expected-bucket-owner reaches only buckets of the caller
    #[arg(long, env = "FULA_BUCKET_NAMES", help_heading = SHARED, default_value = "owner")]
    pub(crate) bucket_names: BucketNames,
    /// Largest number of buckets of one owner; one more is answered 400 `TooManyBuckets`
    #[arg(long, env = "FULA_BUCKETS_PER_OWNER", help_heading = SHARED, value_name = "NUMBER", value_parser = from_one(),
        default_value_t = Limits::default().buckets_per_owner)]
    pub(crate) buckets_per_owner: u64,
    /// Largest number of public buckets of one owner with --bucket-names owner; a policy that makes one
    /// more bucket public is answered 400 `LimitExceeded`
    #[arg(long, env = "FULA_PUBLIC_BUCKETS_PER_OWNER", help_heading = SHARED, value_name = "NUMBER",
        value_parser = from_one(), default_value_t = Limits::default().public_buckets_per_owner)]
    pub(crate) public_buckets_per_owner: u64,
    /// Largest size of one bucket: of all its objects, versions and parts together. A write that would exceed it
    /// is answered 403 `QuotaExceeded`. 0 turns the limit off
    #[arg(long, env = "FULA_BUCKET_QUOTA", help_heading = SHARED, value_name = "SIZE",
        default_value_t = Size(Limits::default().bucket_bytes_max))]
    pub(crate) bucket_quota: Size,
    /// Largest size of all buckets of one owner together, counted in the same way, and of what the owner has pinned.
    /// A write that would exceed it is answered 403 `QuotaExceeded`. 0 turns the limit off
    #[arg(long, env = "FULA_OWNER_QUOTA", help_heading = SHARED, value_name = "SIZE",
        default_value_t = Size(Limits::default().owner_bytes_max))]
    pub(crate) owner_quota: Size,
    /// Longest time that a write may take to be committed; then it is answered 503
    #[arg(long, env = "FULA_COMMIT_DEADLINE", help_heading = SHARED, value_name = "TIME", value_parser = above_zero,
        default_value_t = Time(Limits::default().commit_deadline))]
    pub(crate) commit_deadline: Time,
    /// Whether garbage is collected. `off` keeps everything that was replaced or deleted, for example while an arbiter
    /// is restored, and the store grows
    #[arg(long, env = "FULA_COLLECT", help_heading = SHARED, value_name = "on|off", value_parser = switch,
        action = Set, default_value = "on")]
    pub(crate) collect: bool,
    /// Time for which replaced objects, deleted objects and deleted buckets are kept before their space is
    /// freed. A longer time lets `fula fsck --repair` go back further, and needs more disk
    #[arg(long, env = "FULA_RETENTION", help_heading = SHARED, value_name = "TIME",
        default_value_t = Time(Limits::default().retention))]
    pub(crate) retention: Time,
    /// Most bytes of replaced and deleted content that are kept for the retention: a size, a share of the
    /// content in use like 50% (1 GiB at least), or `off`. Beyond it, the oldest is collected early
    #[arg(long, env = "FULA_RETENTION_BYTES", help_heading = SHARED, value_name = "SIZE", default_value = "100%",
        value_parser = retained_max)]
    pub(crate) retention_bytes: RetainedMax,
    /// Period in which the scrub reads every block once, to find damage before somebody needs the block;
    /// masters that share a store take turns. 0s turns the scrub off
    #[arg(long, env = "FULA_SCRUB", help_heading = SHARED, value_name = "TIME", default_value_t = Time(Duration::from_hours(30 * 24)))]
    pub(crate) scrub: Time,
    /// Interval at which one of the masters applies lifecycle rules. 0s turns that off: rules are stored, and
    /// nothing expires
    #[arg(long, env = "FULA_LIFECYCLE_EVERY", help_heading = SHARED, value_name = "TIME", default_value_t = Time(Duration::from_hours(1)))]
    pub(crate) lifecycle_every: Time,
    /// Memory for request and response bodies of all connections together. When it is used up,
    /// connections that move less than 256 KiB in 5 s are closed, and a request that waits for 10 s is
    /// answered 503 `SlowDown`. Raise it for many large transfers at once
    #[arg(long, env = "FULA_BODY_BYTES", help_heading = OWN, value_name = "SIZE",
        default_value_t = Size(Limits::default().body_bytes as u64))]
    pub(crate) body_bytes: Size,
    /// Memory for decoded nodes of the trees that hold keys. Raise it if many keys are read again and
    /// again
    #[arg(long, env = "FULA_CACHE_BYTES", help_heading = OWN, value_name = "SIZE",
        default_value_t = Size(Limits::default().cache_bytes))]
    pub(crate) cache_bytes: Size,
    /// Largest total size of small bodies that wait to be committed to one bucket; more are answered
    /// 503 `SlowDown`
    #[arg(long, env = "FULA_QUEUE_BYTES", help_heading = OWN, value_name = "SIZE",
        default_value_t = Size(Limits::default().queue_bytes_max as u64))]
    pub(crate) queue_bytes: Size,
    /// Largest size of a request body in XML or JSON
    #[arg(long, env = "FULA_XML_BYTES", help_heading = SHARED, value_name = "SIZE",
        default_value_t = Size(WireLimits::default().xml_bytes_max as u64))]
    pub(crate) xml_bytes: Size,
    /// Largest size of a multi-key commit in dag-cbor. Raise it for clients that put many small objects at
    /// a time
    #[arg(long, env = "FULA_COMMIT_BYTES", help_heading = SHARED, value_name = "SIZE",
        default_value_t = Size(WireLimits::default().commit_bytes_max as u64))]
    pub(crate) commit_bytes: Size,
    /// Longest time that a client may take to send the headers of a request
    #[arg(long, env = "FULA_HEADER_TIMEOUT", help_heading = SHARED, value_name = "TIME", value_parser = above_zero,
        default_value_t = Time(WireLimits::default().header_timeout))]
    pub(crate) header_timeout: Time,
    /// Longest time that may pass without a byte of a request body, and longest time that an XML or
    /// JSON body may take in all
    #[arg(long, env = "FULA_BODY_IDLE_TIMEOUT", help_heading = SHARED, value_name = "TIME", value_parser = above_zero,
        default_value_t = Time(WireLimits::default().body_idle_timeout))]
    pub(crate) body_idle_timeout: Time,
    /// Fewest bytes per second that a client must send once a request body takes longer than
    /// --body-idle-timeout; a slower one is answered 400 `RequestTimeout`. 0 turns the limit off
    #[arg(long, env = "FULA_BODY_PACE", help_heading = SHARED, value_name = "SIZE",
        default_value_t = Size(WireLimits::default().body_bytes_per_second_min))]
    pub(crate) body_pace: Size,
    #[command(flatten)]
    pub(crate) connections: ConnectionSettings,
    /// Longest time that requests may take to finish after SIGTERM or SIGINT. A second signal ends the
    /// process at once
    #[arg(long, env = "FULA_SHUTDOWN_GRACE", help_heading = OWN, value_name = "TIME", value_parser = above_zero,
        default_value = "30s")]
    pub(crate) shutdown_grace: Time,
    /// Format of the log, which goes to standard error. `RUST_LOG` sets its level, for example
    /// `RUST_LOG=debug`
    #[arg(long, env = "FULA_LOG", help_heading = OWN, default_value = "text")]
    pub(crate) log: LogFormat,
    /// File with the key that encrypts access keys and objects at rest: 64 hex digits, mode 0600, made with
    /// `fula secrets keygen`. Further lines are further keys; the last line encrypts new objects, and after
    /// `fula secrets reseal` access keys. With a shared arbiter it must be set, to the same keys on every master [default: `secrets.key` in the
    /// data directory, made at the first start]
    #[arg(long, env = "FULA_SECRETS_KEY_FILE", help_heading = SHARED, value_name = "FILE")]
    pub(crate) secrets_key_file: Option<PathBuf>,
    /// Access key id of the user `admin`; needs --secret-access-key too [default: made at the first
    /// start]
    #[arg(long, env = "FULA_ACCESS_KEY_ID", help_heading = OWN, value_name = "ID")]
    pub(crate) access_key_id: Option<String>,
    /// Secret access key of the user `admin`. Set it in the environment: other users of the machine can
    /// read command lines [default: made at the first start]
    #[arg(
        long,
        env = "FULA_SECRET_ACCESS_KEY", help_heading = OWN,
        value_name = "SECRET",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub(crate) secret_access_key: Option<String>,
    /// File with the secret access key of the user `admin`, mode 0600; in place of --secret-access-key
    /// [default: none]
    #[arg(long, env = "FULA_SECRET_ACCESS_KEY_FILE", help_heading = OWN, value_name = "FILE")]
    pub(crate) secret_access_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) ingest: IngestSettings,
    #[command(flatten)]
    pub(crate) pins: PinSettings,
    #[command(flatten)]
    pub(crate) psa: PsaSettings,
    #[command(flatten)]
    pub(crate) auth: AuthSettings,
}

/// How many connections may be open. When a limit is reached, the one that is idle longest is closed; if
/// none is idle, the new one is refused.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ConnectionSettings {
    /// Largest number of open client connections; never more than three quarters of the file descriptors that
    /// the process may open
    #[arg(long, env = "FULA_CONNECTIONS", help_heading = OWN, value_name = "NUMBER", default_value_t = 10_000)]
    pub(crate) connections: usize,
    /// Largest number of client connections from one IPv4 address, or from one /64 network with IPv6. Set it
    /// to --connections if all clients come through one proxy [default: a quarter of --connections]
    #[arg(long, env = "FULA_CONNECTIONS_PER_ADDRESS", help_heading = OWN, value_name = "NUMBER")]
    pub(crate) connections_per_address: Option<usize>,
}

/// Which tokens are accepted, and how many requests, keys and sessions a user may have.
#[derive(Clone, Debug, Args)]
pub(crate) struct AuthSettings {
    /// Whether tokens that Ethereum wallets sign (EIP-712) are accepted. Every wallet is then a user,
    /// unless --wallets names some
    #[arg(long, env = "FULA_EIP712_AUTH", help_heading = SHARED, value_name = "on|off", value_parser = switch,
        action = Set, default_value = "off")]
    pub(crate) eip712_auth: bool,
    /// Whether wallet tokens of version 1, which name no audience, are accepted. Turn it off once all
    /// clients send version 2
    #[arg(long, env = "FULA_EIP712_V1", help_heading = SHARED, value_name = "on|off", value_parser = switch,
        action = Set, default_value = "on")]
    pub(crate) eip712_v1: bool,
    /// Names of this gateway that wallet tokens may be made for, separated by commas. Tokens for other
    /// names are refused [default: none, only tokens for * are accepted]
    #[arg(long, env = "FULA_AUDIENCE", help_heading = SHARED, value_name = "NAMES")]
    pub(crate) audience: Option<String>,
    /// Addresses of the wallets that are accepted, separated by commas [default: every wallet]
    #[arg(long, env = "FULA_WALLETS", help_heading = SHARED, value_name = "ADDRESSES")]
    pub(crate) wallets: Option<String>,
    /// File, mode 0600, with a secret of at least 32 bytes. JWTs that are signed with it (HS256) are
    /// accepted [default: none]
    #[arg(long, env = "FULA_JWT_SECRET_FILE", help_heading = SHARED, value_name = "FILE")]
    pub(crate) jwt_secret_file: Option<PathBuf>,
    /// Key set (JWKS) of an issuer: a file or an https URL. JWTs that one of its keys has signed
    /// (RS256, ES256 or `EdDSA`) are accepted. It is read again every five minutes, and when a token
    /// names an unknown key [default: none]
    #[arg(
        long,
        env = "FULA_JWKS", help_heading = SHARED,
        value_name = "FILE|URL",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub(crate) jwks: Option<String>,
    /// Time, at least 1m, for which the keys of --jwks are still used while the key set cannot be read.
    /// After that, tokens of the issuer are answered 503
    #[arg(long, env = "FULA_JWKS_KEEP", help_heading = SHARED, value_name = "TIME", default_value = "1h")]
    pub(crate) jwks_keep: Time,
    /// Value that the claim iss of a JWT must have. Set it together with --jwks [default: anything]
    #[arg(long, env = "FULA_JWT_ISSUER", help_heading = SHARED, value_name = "NAME")]
    pub(crate) jwt_issuer: Option<String>,
    /// Value that the claim aud of a JWT must contain. Set it, so that tokens for other services are
    /// refused [default: anything]
    #[arg(long, env = "FULA_JWT_AUDIENCE", help_heading = SHARED, value_name = "NAME")]
    pub(crate) jwt_audience: Option<String>,
    /// Largest number of sessions (STS) of one owner at a time, up to 1000. One token may have half of
    /// them
    #[arg(long, env = "FULA_SESSIONS_PER_OWNER", help_heading = SHARED, value_name = "NUMBER",
        default_value_t = SESSIONS_MAX)]
    pub(crate) sessions_per_owner: usize,
    /// Largest number of access keys of one user. Raise it for users with many machines
    #[arg(long, env = "FULA_KEYS_PER_USER", help_heading = SHARED, value_name = "NUMBER", value_parser = from_one(),
        default_value_t = KEYS_PER_USER as u64)]
    pub(crate) keys_per_user: u64,
    /// Largest number of requests per second of one user; more are answered 503 `SlowDown`. 0 turns the
    /// limit off
    #[arg(long, env = "FULA_RATE_PER_USER", help_heading = SHARED, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) rate_per_user: u32,
    /// Largest number of requests per second of one IPv4 address, or of one /64 network with IPv6; more
    /// are answered 503 `SlowDown`. 0 turns the limit off
    #[arg(long, env = "FULA_RATE_PER_ADDRESS", help_heading = SHARED, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) rate_per_address: u32,
}

/// Where a master keeps its state.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DataDirArgs {
    /// Directory of all state of this gateway [default: `$STATE_DIRECTORY`, else /var/lib/fula-gateway
    /// as root, else `$XDG_DATA_HOME/fula`, else ~/.local/share/fula]
    #[arg(long, env = "FULA_DATA_DIR", help_heading = OWN, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// What several masters share.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SharedArgs {
    /// URL of the Postgres database that several masters share as arbiter, e.g.
    /// <postgres://user:password@host/db>; needs --blocks and --secrets-key-file too [default: none, an
    /// embedded arbiter for one master]
    #[arg(
        long,
        env = "FULA_DATABASE_URL", help_heading = SHARED,
        value_name = "URL",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub(crate) database_url: Option<String>,
    /// File with the URL of the database, mode 0600; in place of --database-url, so that the password is
    /// neither in the environment nor in a command line [default: none]
    #[arg(long, env = "FULA_DATABASE_URL_FILE", help_heading = SHARED, value_name = "FILE")]
    pub(crate) database_url_file: Option<PathBuf>,
    /// Block store: `local` (the data directory), or a place that all masters reach: <file:///directory>,
    /// <s3://bucket/prefix>, <gs://bucket/prefix> or <az://container/prefix>. Credentials are given in the
    /// usual variables, which begin with `AWS_`, `GOOGLE_` or `AZURE_`; `AWS_ENDPOINT` names a server other
    /// than AWS, by a URL without a user or a password [default: local]
    #[arg(
        long,
        env = "FULA_BLOCKS", help_heading = SHARED,
        value_name = "URL",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub(crate) blocks: Option<String>,
    /// File with the credentials of the block store, mode 0600: a line NAME=VALUE for each of the variables
    /// that --blocks names. They win over the environment [default: none]
    #[arg(long, env = "FULA_BLOCKS_CREDENTIALS_FILE", help_heading = SHARED, value_name = "FILE")]
    pub(crate) blocks_credentials_file: Option<PathBuf>,
}

/// `FULA_BUCKET_ROOT_CAS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CasMode {
    /// The same as on
    Auto,
    /// A swap succeeds only if nothing has changed meanwhile
    On,
    /// A swap replaces any value, so updates are lost. This value exists for tests of such losses
    Off,
}

/// `FULA_BUCKET_NAMES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BucketNames {
    /// Among the buckets of one owner
    Owner,
    /// Among all buckets, as on AWS
    Global,
}

/// `FULA_SIGV2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SignatureV2 {
    /// Those of presigned URLs that read or write one object, for at most a week
    Presigned,
    /// No signature of version 2
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
