//! What can be typed. Parsing opens nothing; checking is `config`'s.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// An S3 object store over content-addressed blocks
///
/// Start with `fula gateway --data-dir ./data`: it needs no other service, makes a first access
/// key and prints what to paste into a shell to use it with any S3 tool.
#[derive(Debug, Parser)]
#[command(name = "fula", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Roles and administrative commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve S3
    Gateway(Box<GatewayArgs>),
    /// Make, list and revoke access keys
    Keys(KeysArgs),
    /// Make wallet tokens, for bearers and for S3 tools
    Token(TokenArgs),
    /// Revoke users, tokens, keys and sessions on every master
    Revoke(RevokeArgs),
    /// List the masters of a shared arbiter, and forget those that will not come back
    Masters(MastersArgs),
    /// Look at the history of buckets, move them, and mend an arbiter that went back in time
    Roots(RootsArgs),
    /// Make the key that seals secrets, for all masters of a shared arbiter
    Secrets(SecretsArgs),
    /// Bring the tables of a shared arbiter up to date
    Migrate(MigrateArgs),
    /// Check that everything stored is there and intact
    ///
    /// Exits with 0 when all is well, 1 when something is damaged or missing, 2 when it could not
    /// look.
    Fsck(FsckArgs),
    /// Give back the space of deleted and replaced objects
    ///
    /// A gateway does so by itself as the log grows; what was replaced within the retention
    /// (`FULA_RETENTION`) stays. Works on a running gateway while it serves.
    Gc(GcArgs),
}

/// Options of `fula gateway`. Each can also be set in the environment, or in the TOML file under
/// the same name in lower case without FULA_; a flag wins over the environment, which wins over
/// the file.
#[derive(Debug, Default, Args)]
pub(crate) struct GatewayArgs {
    /// TOML file with settings
    #[arg(long, env = "FULA_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Address to serve S3 on [default: 127.0.0.1:9000]
    #[arg(long, env = "FULA_LISTEN", value_name = "ADDR:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Address of health, readiness and metrics [default: 127.0.0.1:9001]
    #[arg(long, env = "FULA_ADMIN_LISTEN", value_name = "ADDR:PORT")]
    pub(crate) admin_listen: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
    /// Whether swaps compare what they replace: on protects writes of several masters, off shows
    /// what is lost without it, auto is on [default: auto]
    #[arg(long, env = "FULA_BUCKET_ROOT_CAS")]
    pub(crate) bucket_root_cas: Option<CasMode>,
    /// Answer reads from the last known state while the arbiter cannot be asked, marked with
    /// x-fula-stale [default: off]
    #[arg(long, env = "FULA_STALE_READS")]
    pub(crate) stale_reads: Option<Switch>,
    /// Region to report to clients [default: us-east-1]
    #[arg(long, env = "FULA_REGION")]
    pub(crate) region: Option<String>,
    /// Domain whose subdomains are bucket names, for virtual-host style; without a port
    /// [default: none]
    #[arg(long, env = "FULA_DOMAIN")]
    pub(crate) domain: Option<String>,
    /// PEM file with the certificate chain; needs --tls-key as well [default: plain HTTP]
    #[arg(long, env = "FULA_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, env = "FULA_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Say that a proxy in front of this gateway ends TLS, and that nobody else reaches it: then tokens
    /// are accepted over plain HTTP from other machines [default: off]
    #[arg(long, env = "FULA_TLS_TERMINATED")]
    pub(crate) tls_terminated: Option<Switch>,
    /// What bucket names are unique within. With `owner`, signed requests without
    /// x-amz-expected-bucket-owner reach the caller's own buckets alone [default: owner]
    #[arg(long, env = "FULA_BUCKET_NAMES")]
    pub(crate) bucket_names: Option<BucketNames>,
    #[command(flatten)]
    pub(crate) buckets: BucketArgs,
    /// Longest time a write may take before it is answered 503, e.g. 10s [default: 10s]
    #[arg(long, env = "FULA_COMMIT_DEADLINE", value_name = "TIME")]
    pub(crate) commit_deadline: Option<String>,
    /// How long objects that were replaced or deleted keep their space, e.g. 1h [default: 10m]
    #[arg(long, env = "FULA_RETENTION", value_name = "TIME")]
    pub(crate) retention: Option<String>,
    /// Memory for bodies on their way in and out, e.g. 1G [default: 256M]
    #[arg(long, env = "FULA_BODY_BYTES", value_name = "SIZE")]
    pub(crate) body_bytes: Option<String>,
    /// Memory for decoded tree nodes, e.g. 64M [default: 64M]
    #[arg(long, env = "FULA_CACHE_BYTES", value_name = "SIZE")]
    pub(crate) cache_bytes: Option<String>,
    /// Small bodies that may wait for one bucket, in bytes, e.g. 64M [default: 64M]
    #[arg(long, env = "FULA_QUEUE_BYTES", value_name = "SIZE")]
    pub(crate) queue_bytes: Option<String>,
    /// Largest XML body of a request in bytes [default: 4M]
    #[arg(long, env = "FULA_XML_BYTES", value_name = "SIZE")]
    pub(crate) xml_bytes: Option<String>,
    /// Time a client gets to send its headers [default: 30s]
    #[arg(long, env = "FULA_HEADER_TIMEOUT", value_name = "TIME")]
    pub(crate) header_timeout: Option<String>,
    /// Time a request body may stand still [default: 1m]
    #[arg(long, env = "FULA_BODY_IDLE_TIMEOUT", value_name = "TIME")]
    pub(crate) body_idle_timeout: Option<String>,
    /// Bytes a client must send each second once a request body took longer than
    /// --body-idle-timeout in all; slower ones are answered 400 `RequestTimeout`; 0 is no bound
    /// [default: 1K]
    #[arg(long, env = "FULA_BODY_PACE", value_name = "SIZE")]
    pub(crate) body_pace: Option<String>,
    #[command(flatten)]
    pub(crate) connections: ConnectionArgs,
    /// Time that requests in flight get to finish at shutdown [default: 30s]
    #[arg(long, env = "FULA_SHUTDOWN_GRACE", value_name = "TIME")]
    pub(crate) shutdown_grace: Option<String>,
    /// How to write the log, to standard error [default: text]
    #[arg(long, env = "FULA_LOG")]
    pub(crate) log: Option<LogFormat>,
    /// File of 64 hex digits, mode 0600, that seals secrets at rest [default: `secrets.key` in
    /// the data directory, made at the first start]
    #[arg(long, env = "FULA_SECRETS_KEY_FILE", value_name = "FILE")]
    pub(crate) secrets_key_file: Option<PathBuf>,
    /// Access key id of the first user; needs the secret as well [default: made at first start]
    #[arg(long, env = "FULA_ACCESS_KEY_ID", value_name = "ID")]
    pub(crate) access_key_id: Option<String>,
    #[command(flatten)]
    pub(crate) auth: AuthArgs,
    /// Secret access key of the first user; better given in the environment than typed
    #[arg(long, env = "FULA_SECRET_ACCESS_KEY", value_name = "SECRET", hide_env_values = true)]
    pub(crate) secret_access_key: Option<String>,
}

/// How many connections may be open. When a limit is reached, those that are idle longest are
/// closed; a new one is refused when none is idle.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct ConnectionArgs {
    /// S3 connections in all; at most three quarters of the file descriptors that the process may
    /// open [default: 10000]
    #[arg(long, env = "FULA_CONNECTIONS", value_name = "NUMBER")]
    pub(crate) connections: Option<usize>,
    /// S3 connections from one address, or from one /64 network with IPv6; set it to the number of
    /// all where every client comes through one proxy [default: a quarter of --connections]
    #[arg(long, env = "FULA_CONNECTIONS_PER_ADDRESS", value_name = "NUMBER")]
    pub(crate) connections_per_address: Option<usize>,
}

/// Which tokens are accepted, and how often anyone may ask.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct AuthArgs {
    /// Accept wallet tokens (EIP-712): of every wallet, unless --wallets names some [default: off]
    #[arg(long, env = "FULA_EIP712_AUTH")]
    pub(crate) eip712_auth: Option<Switch>,
    /// Accept wallet tokens of version 1, which name no audience [default: on]
    #[arg(long, env = "FULA_EIP712_V1")]
    pub(crate) eip712_v1: Option<Switch>,
    /// Names that wallet tokens may be meant for, of this gateway and its federation, separated
    /// by commas; tokens for others are refused [default: none, only tokens for * are accepted]
    #[arg(long, env = "FULA_AUDIENCE", value_name = "NAMES")]
    pub(crate) audience: Option<String>,
    /// Wallets that are admitted, separated by commas [default: every wallet]
    #[arg(long, env = "FULA_WALLETS", value_name = "ADDRESSES")]
    pub(crate) wallets: Option<String>,
    /// File whose content, at least 32 bytes, verifies JWTs signed with HS256 [default: none]
    #[arg(long, env = "FULA_JWT_SECRET_FILE", value_name = "FILE")]
    pub(crate) jwt_secret_file: Option<PathBuf>,
    /// Key set (JWKS) that verifies JWTs signed with RS256, ES256 or `EdDSA`: a file, or an https
    /// URL; read again every five minutes and when a token names an unknown key [default: none]
    #[arg(long, env = "FULA_JWKS", value_name = "FILE|URL", hide_env_values = true)]
    pub(crate) jwks: Option<String>,
    /// Time for which the keys of --jwks are used while the key set cannot be read, from 1m; then
    /// its tokens are answered 503 until it can be read again [default: 1h]
    #[arg(long, env = "FULA_JWKS_KEEP", value_name = "TIME")]
    pub(crate) jwks_keep: Option<String>,
    /// What the iss claim of JWTs must be [default: anything]
    #[arg(long, env = "FULA_JWT_ISSUER", value_name = "NAME")]
    pub(crate) jwt_issuer: Option<String>,
    /// What the aud claim of JWTs must contain [default: anything]
    #[arg(long, env = "FULA_JWT_AUDIENCE", value_name = "NAME")]
    pub(crate) jwt_audience: Option<String>,
    /// Most sessions (STS) that one owner may have at a time, up to 1000; one token may have half of
    /// them [default: 1000]
    #[arg(long, env = "FULA_SESSIONS_PER_OWNER", value_name = "NUMBER")]
    pub(crate) sessions_per_owner: Option<usize>,
    /// Most access keys of one user; raise it for users with many machines [default: 100]
    #[arg(long, env = "FULA_KEYS_PER_USER", value_name = "NUMBER")]
    pub(crate) keys_per_user: Option<usize>,
    /// Requests per second of one user before 503 `SlowDown`; 0 is without bound [default: 0]
    #[arg(long, env = "FULA_RATE_PER_USER", value_name = "NUMBER")]
    pub(crate) rate_per_user: Option<u32>,
    /// Requests per second of one address before 503 `SlowDown`; 0 is without bound [default: 0]
    #[arg(long, env = "FULA_RATE_PER_ADDRESS", value_name = "NUMBER")]
    pub(crate) rate_per_address: Option<u32>,
}

/// How much one owner may have.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct BucketArgs {
    /// Most buckets of one owner before 400 `TooManyBuckets` [default: 10000]
    #[arg(long, env = "FULA_BUCKETS_PER_OWNER", value_name = "NUMBER")]
    pub(crate) buckets_per_owner: Option<u64>,
    /// Most global names of one owner where names are unique per owner: beyond it, a policy that makes
    /// one more bucket public is refused with 400 `LimitExceeded` [default: 100]
    #[arg(long, env = "FULA_PUBLIC_BUCKETS_PER_OWNER", value_name = "NUMBER")]
    pub(crate) public_buckets_per_owner: Option<u64>,
}

/// Where a master keeps its state.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct DataDirArgs {
    /// Directory of all state [default: `$STATE_DIRECTORY`, else /var/lib/fula-gateway as root,
    /// else `$XDG_DATA_HOME/fula`]
    #[arg(long, env = "FULA_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// What several masters share.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SharedArgs {
    /// Postgres that several masters share as arbiter, e.g. <postgres://user:password@host/db>
    /// [default: embedded, for one master]
    #[arg(long, env = "FULA_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub(crate) database_url: Option<String>,
    /// Where blocks are kept: `local`, or what all masters can reach: <file:///directory> or
    /// <s3://bucket/prefix> with the usual AWS_ variables [default: local]
    #[arg(long, env = "FULA_BLOCKS", value_name = "URL", hide_env_values = true)]
    pub(crate) blocks: Option<String>,
}

/// `FULA_BUCKET_ROOT_CAS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CasMode {
    /// On
    Auto,
    /// A swap succeeds only on the state it was made from
    On,
    /// A swap replaces whatever is there: updates get lost
    Off,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Switch {
    /// Yes
    On,
    /// No
    Off,
}

/// Options of `fula secrets`.
#[derive(Debug, Args)]
pub(crate) struct SecretsArgs {
    #[command(subcommand)]
    pub(crate) command: SecretsCommand,
}

/// What to do with the sealing key.
#[derive(Debug, Subcommand)]
pub(crate) enum SecretsCommand {
    /// Write a new key to FILE, for its owner alone; give the same file to every master
    Keygen {
        /// A file that does not exist yet
        file: PathBuf,
    },
}

/// Options of `fula migrate`.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// The arbiter, with a role that may create tables
    #[arg(long, env = "FULA_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub(crate) database_url: String,
}

/// `FULA_BUCKET_NAMES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BucketNames {
    /// Each owner has names of their own
    Owner,
    /// A name taken by anyone is taken, as on AWS
    Global,
}

/// `FULA_LOG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// Options of `fula keys`.
#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    pub(crate) command: KeysCommand,
}

/// What to do with access keys. Works beside a running gateway, and without one.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a key for a user and print its secret, which is not shown again
    Create {
        /// Whose requests the key signs; users exist by having a key
        #[arg(long)]
        user: String,
        /// Most access keys of one user, where no gateway runs; a running gateway uses its own limit
        /// [default: 100]
        #[arg(long, env = "FULA_KEYS_PER_USER", value_name = "NUMBER")]
        keys_per_user: Option<usize>,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// List keys, without their secrets
    List {
        /// Only this user's
        #[arg(long)]
        user: Option<String>,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Revoke a key: requests signed with it are refused from now on
    Revoke {
        /// The access key id
        id: String,
        /// Refuse unless the key is this user's
        #[arg(long)]
        user: Option<String>,
        #[command(flatten)]
        common: AdminArgs,
    },
}

/// Options of `fula revoke`.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    #[command(subcommand)]
    pub(crate) command: RevokeCommand,
}

/// What to revoke. It counts on this master at once and on all others within five seconds, and
/// cannot be taken back.
#[derive(Debug, Subcommand)]
pub(crate) enum RevokeCommand {
    /// Everything of a wallet
    Wallet {
        /// 0x and 40 hex digits
        address: String,
        /// Only what was issued before this time: seconds since 1970, or `now`
        #[arg(long, value_name = "TIME")]
        issued_before: Option<String>,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Everything of a user of an access key (key:NAME), or of the sub of a JWT
    User {
        /// User id, or the sub of a JWT
        user: String,
        /// The iss of a JWT that is verified with a key set
        #[arg(long, value_name = "ISS")]
        issuer: Option<String>,
        /// Only what was issued before this time: seconds since 1970, or `now`
        #[arg(long, value_name = "TIME")]
        issued_before: Option<String>,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// A token, however it is spelled, and the sessions that were had for it
    Token {
        /// The token, its meaning in 64 hex digits (see /fula/whoami), or - to read it from
        /// standard input
        token: String,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// An access key or a session, by its access key id
    #[command(alias = "session")]
    Key {
        /// Access key id
        id: String,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// List what was revoked
    List {
        #[command(flatten)]
        common: AdminArgs,
    },
}

/// Options of `fula token`.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

/// What to do about wallet tokens. Nothing here talks to a gateway.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a wallet and write its key, encrypted, to a file that Ethereum tools read as well
    Keygen {
        /// A file that does not exist yet
        file: PathBuf,
        /// File with the password [default: asked for]
        #[arg(long, env = "FULA_WALLET_PASSWORD_FILE", value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Sign a token with the key in an encrypted file (Web3 Secret Storage, version 3)
    ///
    /// To let SDKs fetch keys with it, write it where `AWS_WEB_IDENTITY_TOKEN_FILE` points, and
    /// set `AWS_ENDPOINT_URL_STS` to the gateway and `AWS_ROLE_ARN` to
    /// `arn:aws:iam::000000000000:role/fula`.
    Mint {
        /// The encrypted key
        #[arg(long, env = "FULA_WALLET_KEY_FILE", value_name = "FILE")]
        key_file: PathBuf,
        /// File with the password [default: asked for]
        #[arg(long, env = "FULA_WALLET_PASSWORD_FILE", value_name = "FILE")]
        password_file: Option<PathBuf>,
        #[command(flatten)]
        claims: ClaimArgs,
        /// How to print it
        #[arg(long, default_value = "bearer")]
        output: TokenOutput,
    },
    /// Print typed data for a browser wallet to sign with `eth_signTypedData_v4`
    TypedData {
        /// The wallet that will sign
        #[arg(long, value_name = "ADDRESS")]
        wallet: String,
        #[command(flatten)]
        claims: ClaimArgs,
    },
    /// Make a token of typed data and the signature that a wallet made over it
    Assemble {
        /// File with the typed data, or - for standard input
        #[arg(long, value_name = "FILE")]
        typed_data: PathBuf,
        /// 0x and 130 hex digits
        #[arg(long, value_name = "HEX")]
        signature: String,
        /// How to print it
        #[arg(long, default_value = "bearer")]
        output: TokenOutput,
    },
}

/// What a token says.
#[derive(Debug, Args)]
pub(crate) struct ClaimArgs {
    /// Gateway or federation that it is meant for
    #[arg(long, default_value = "*")]
    pub(crate) audience: String,
    /// What it may be used for, e.g. read:photos/2026/; can be repeated
    #[arg(long, default_value = "admin:*")]
    pub(crate) scope: Vec<String>,
    /// How long it is good: up to 24h, e.g. 12h
    #[arg(long, default_value = "12h", value_name = "TIME")]
    pub(crate) lifetime: String,
    /// Version 1: no audience, no scope, for gateways that know no other
    #[arg(long)]
    pub(crate) v1: bool,
}

/// How to print a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenOutput {
    /// The token itself, for `Authorization: Bearer` and `AWS_WEB_IDENTITY_TOKEN_FILE`
    Bearer,
    /// Lines for a shell, for tools that take nothing but an access key: as good as the token
    Env,
    /// What `credential_process` of an AWS configuration prints: as good as the token
    #[value(name = "credential_process")]
    CredentialProcess,
}

/// Options of `fula masters`.
#[derive(Debug, Args)]
pub(crate) struct MastersArgs {
    #[command(subcommand)]
    pub(crate) command: MastersCommand,
}

/// What to do about the masters of a shared arbiter.
#[derive(Debug, Subcommand)]
pub(crate) enum MastersCommand {
    /// List those that a recovery waits for
    List {
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Strike one off that will not come back: what only it remembers is not waited for
    Forget {
        /// Its name, as listed
        name: String,
        #[command(flatten)]
        common: AdminArgs,
    },
}

/// Options of `fula roots`.
#[derive(Debug, Args)]
pub(crate) struct RootsArgs {
    #[command(subcommand)]
    pub(crate) command: RootsCommand,
}

/// What to show of buckets.
#[derive(Debug, Subcommand)]
pub(crate) enum RootsCommand {
    /// Show the commits of a bucket, newest first
    Log {
        /// The bucket
        bucket: String,
        /// Whose bucket, when several users have one of this name
        #[arg(long)]
        user: Option<String>,
        /// Most commits to show
        #[arg(long, default_value_t = 20)]
        limit: usize,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Show the pointers of buckets, and how an arbiter that went back in time is coming back
    Show {
        /// Only this bucket
        bucket: Option<String>,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Say how a recovery stands; with --force, go on without masters that do not answer
    Heal {
        /// Heal with what the masters said so far: what only others know of is lost
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Merge a bucket whose masters remember states that exclude one another
    ///
    /// What changed on one side is taken. Of a key changed on both, the newer record stays and the
    /// older one is kept under the key followed by .fork- and its version.
    Merge {
        /// The bucket
        bucket: String,
        /// Whose bucket, when several users have one of this name
        #[arg(long)]
        user: Option<String>,
        /// Do it; without, only say what would be done
        #[arg(long)]
        apply: bool,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Move the buckets and keys of a single master's data directory into a shared arbiter; its
    /// gateway must be stopped, and nothing in the data directory is changed
    Import(ImportArgs),
}

/// Options of `fula roots import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
    /// File that seals secrets of the shared arbiter
    #[arg(long, env = "FULA_SECRETS_KEY_FILE", value_name = "FILE")]
    pub(crate) secrets_key_file: Option<PathBuf>,
    /// File that seals the single master's secrets [default: `secrets.key` in its data directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) source_secrets_key_file: Option<PathBuf>,
    /// Where the single master kept its blocks [default: local]
    #[arg(long, value_name = "URL")]
    pub(crate) source_blocks: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `fula fsck`.
#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// Mend what can be mended: set damaged segments aside and rebuild lost root pointers from
    /// root blocks; the gateway must not be running
    #[arg(long)]
    pub(crate) repair: bool,
    #[command(flatten)]
    pub(crate) common: AdminArgs,
}

/// Options of `fula gc`.
#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Collect now, and drop deleted buckets; without this, only say how large the log is
    #[arg(long)]
    pub(crate) now: bool,
    /// Keep what was replaced or deleted within this time, e.g. 0s or 1h [default: that of the gateway, or where
    /// none runs `FULA_RETENTION`, or 10m]
    #[arg(long, value_name = "TIME", requires = "now")]
    pub(crate) retention: Option<String>,
    /// As a gateway would take it
    #[arg(long, env = "FULA_RETENTION", hide = true)]
    pub(crate) usual_retention: Option<String>,
    #[command(flatten)]
    pub(crate) common: AdminArgs,
}

/// Options of every administrative command.
#[derive(Clone, Debug, Args)]
pub(crate) struct AdminArgs {
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
    /// File that seals secrets, when it is not in the data directory
    #[arg(long, env = "FULA_SECRETS_KEY_FILE", value_name = "FILE")]
    pub(crate) secrets_key_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
