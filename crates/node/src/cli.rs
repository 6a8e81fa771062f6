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
    /// Domain whose subdomains are bucket names, for virtual-host style [default: none]
    #[arg(long, env = "FULA_DOMAIN")]
    pub(crate) domain: Option<String>,
    /// PEM file with the certificate chain; needs --tls-key as well [default: plain HTTP]
    #[arg(long, env = "FULA_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, env = "FULA_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// What bucket names are unique within [default: owner]
    #[arg(long, env = "FULA_BUCKET_NAMES")]
    pub(crate) bucket_names: Option<BucketNames>,
    /// Longest time a write may take before it is answered 503, e.g. 10s [default: 10s]
    #[arg(long, env = "FULA_COMMIT_DEADLINE", value_name = "TIME")]
    pub(crate) commit_deadline: Option<String>,
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
    /// Secret access key of the first user; better given in the environment than typed
    #[arg(long, env = "FULA_SECRET_ACCESS_KEY", value_name = "SECRET", hide_env_values = true)]
    pub(crate) secret_access_key: Option<String>,
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
    #[arg(long, env = "FULA_BLOCKS", value_name = "URL")]
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
