//! Options of the administrative commands.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};
use fula_identity::Address;
use fula_service::limits::RetainedMax;

use super::{
    DataDirArgs, SharedArgs, Time,
    sharing::SHARED,
    value::{BucketVersion, IssuedBefore, from_one, listen_address, retained_max, wallet},
};

/// Options of `fula keys`.
#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    pub(crate) command: KeysCommand,
}

/// What to do with access keys. A gateway may be running, and need not be.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a key for a user and print its secret, which is not shown again
    Create {
        /// User whose requests the key signs. A new name makes a new user; `carol` and `key:carol` are
        /// the same user
        #[arg(long)]
        user: String,
        /// Largest number of access keys of one user, where no gateway runs; a running gateway has its own
        /// limit [default: 100]
        #[arg(long, env = "FULA_KEYS_PER_USER", value_name = "NUMBER", value_parser = from_one())]
        keys_per_user: Option<u64>,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// List access keys, without their secrets
    List {
        /// List only the keys of this user
        #[arg(long)]
        user: Option<String>,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Revoke one access key for ever; its user keeps the other keys, and can get new ones
    ///
    /// Requests signed with the key are refused at once on this master, and within five seconds on all
    /// others. `fula revoke key` does the same, and takes the ids of sessions as well.
    Revoke {
        /// Access key id, as `fula keys list` shows it
        id: String,
        /// Revoke the key only if it belongs to this user
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

/// What to revoke. A revocation counts on this master at once and on all others within five seconds. It is
/// for ever: nothing takes it back.
#[derive(Debug, Subcommand)]
pub(crate) enum RevokeCommand {
    /// Revoke all tokens and sessions of a wallet, also those made later
    Wallet {
        /// Address of the wallet: 0x and 40 hex digits
        #[arg(value_parser = wallet)]
        address: Address,
        /// Revoke only what was issued before this time, given as seconds since 1970 or `now`
        #[arg(long, value_name = "TIME")]
        issued_before: Option<IssuedBefore>,
        /// Revoke the wallet even if it owns buckets, which nobody can write to afterwards
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Revoke all credentials of a user, also those made later; to revoke one key, use `revoke key`
    ///
    /// This is for ever: no new access key can be made for this user.
    User {
        /// User of access keys, `carol` or `key:carol`; address of a wallet; or the claim sub of a JWT
        user: String,
        /// Take USER as the claim sub of JWTs that `FULA_JWT_SECRET_FILE` verifies
        #[arg(long, conflicts_with = "issuer")]
        jwt: bool,
        /// Take USER as the claim sub of JWTs that `FULA_JWKS` verifies and whose claim iss is this
        #[arg(long, value_name = "ISS")]
        issuer: Option<String>,
        /// Revoke a user who has live access keys or owns buckets, and one who was never seen here
        #[arg(long)]
        yes: bool,
        /// Revoke only what was issued before this time, given as seconds since 1970 or `now`
        #[arg(long, value_name = "TIME")]
        issued_before: Option<IssuedBefore>,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Revoke one token, and the sessions that were made with it
    Token {
        /// `-` to read the token from standard input; or its digest of 64 hex digits (`meaning` in
        /// /fula/whoami); or the token itself, which other users of this machine can then see
        token: String,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Revoke one access key or one session, by its access key id
    ///
    /// For an access key this is the same as `fula keys revoke`.
    #[command(alias = "session")]
    Key {
        /// Access key id of the key or of the session
        id: String,
        /// Revoke the id even if no key and no session has it
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// List all revocations
    List {
        #[command(flatten)]
        common: AdminArgs,
    },
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
    /// Write a new key to FILE, mode 0600; every master needs the same file
    Keygen {
        /// File to write, which must not exist yet
        file: PathBuf,
    },
    /// Encrypt the secrets of all access keys with the last line of the key file
    ///
    /// All masters need that line first. Afterwards an earlier line is needed only for sessions, objects and backups
    /// that it encrypts. Storage nodes recognise masters by the key of the first line. Run it once more after all
    /// other masters were restarted.
    Reseal {
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Show the public keys that are derived from a key: that of masters, and that of a storage node
    ///
    /// They stand after # in `FULA_MASTERS` and `FULA_STORAGE_NODES`, and are no secrets.
    Public {
        /// File with the key, mode 0600, or - for standard input
        file: PathBuf,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
}

/// Options of `fula migrate`.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// URL of the Postgres database, with a role that may create tables
    #[arg(
        long,
        env = "FULA_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        required_unless_present = "database_url_file"
    )]
    pub(crate) database_url: Option<String>,
    /// File with the URL of the database, mode 0600; in place of --database-url
    #[arg(long, env = "FULA_DATABASE_URL_FILE", value_name = "FILE")]
    pub(crate) database_url_file: Option<PathBuf>,
    /// Print the grants that this role needs if it may not create tables; repeat it for more roles
    #[arg(long = "role", value_name = "NAME", value_parser = role)]
    pub(crate) roles: Vec<String>,
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
    /// List the masters, with host, address, version and when each was last seen
    List {
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Remove a master that will not come back from the list, so that recoveries no longer wait for it
    Forget {
        /// Name of the master, as `fula masters list` shows it
        name: String,
        /// Forget even a master that was seen in the last minute; one that runs is back on the list
        /// within 15 seconds
        #[arg(long)]
        force: bool,
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
        /// Name of the bucket
        bucket: String,
        /// Owner of the bucket: a user of access keys, a wallet, or an owner id as `fula roots show` prints it;
        /// needed if several have a bucket of this name
        #[arg(long)]
        user: Option<String>,
        /// Largest number of commits to show
        #[arg(long, default_value_t = 20)]
        limit: usize,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Show the root pointers of buckets, and the state of a recovery
    Show {
        /// Show only buckets of this name
        bucket: Option<String>,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Show the state of a recovery: what happens after an arbiter was restored to an older state
    ///
    /// Exits with 0 if the arbiter has all that this master remembers, and with 1 while it is in doubt and
    /// requests are refused.
    Heal {
        /// End the recovery without the masters that are missing; what only they remember is lost
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Merge a bucket of which two masters hold different changes
    ///
    /// Changes of one side alone are taken over. If a key changed on both sides, the newer object keeps the
    /// key, and the older one gets the key followed by .fork- and its version.
    Merge {
        /// Name of the bucket
        bucket: String,
        /// Owner of the bucket: a user of access keys, a wallet, or an owner id as `fula roots show` prints it;
        /// needed if several have a bucket of this name
        #[arg(long)]
        user: Option<String>,
        /// Merge the bucket; without this, the command only shows what a merge would do
        #[arg(long)]
        apply: bool,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Copy buckets and keys from the data directory of a single master into a shared arbiter
    ///
    /// The gateway of the data directory must be stopped. Nothing in the data directory is changed.
    Import(ImportArgs),
}

/// Options of `fula roots import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
    #[command(flatten)]
    pub(crate) shared: SharedArgs,
    /// File with the key that encrypts access keys in the shared arbiter
    #[arg(long, env = "FULA_SECRETS_KEY_FILE", help_heading = SHARED, value_name = "FILE")]
    pub(crate) secrets_key_file: Option<PathBuf>,
    /// File with the key that encrypts the access keys of the single master [default: `secrets.key` in its
    /// data directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) source_secrets_key_file: Option<PathBuf>,
    /// Block store of the single master, as its `FULA_BLOCKS` was set [default: local]
    #[arg(long, value_name = "URL")]
    pub(crate) source_blocks: Option<String>,
    /// Print JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `fula status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) common: AdminArgs,
}

/// Options of `fula doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) common: AdminArgs,
}

/// Options of `fula usage`.
#[derive(Debug, Args)]
pub(crate) struct UsageArgs {
    /// Show only buckets of this user: a user of access keys, a wallet, or an owner id
    #[arg(long)]
    pub(crate) user: Option<String>,
    #[command(flatten)]
    pub(crate) common: AdminArgs,
}

/// Options of `fula clone`.
#[derive(Debug, Args)]
pub(crate) struct CloneArgs {
    /// Bucket to clone, and the version after @: `fula roots log` lists versions [default: as it is now]
    #[arg(value_name = "BUCKET[@VERSION]")]
    pub(crate) source: BucketVersion,
    /// Name of the new bucket
    #[arg(value_name = "NEW")]
    pub(crate) name: String,
    /// Owner of the bucket: a user of access keys, a wallet, or an owner id as `fula roots show` prints it;
    /// needed if several have a bucket of this name
    #[arg(long)]
    pub(crate) user: Option<String>,
    #[command(flatten)]
    pub(crate) common: AdminArgs,
}

/// Options of `fula health`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct HealthArgs {
    /// Address and port of the admin listener of the gateway or storage node
    #[arg(
        long,
        env = "FULA_ADMIN_LISTEN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:9001",
        value_parser = listen_address
    )]
    pub(crate) admin_listen: SocketAddr,
    /// Ask only whether the process runs, not whether it can serve requests
    #[arg(long)]
    pub(crate) live: bool,
}

/// What a repair does with root pointers where some may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RootsLeft {
    /// Keep the root pointers that are left, and set damaged segments aside
    Keep,
    /// Take the newest root of each bucket that is found among the blocks; it may be that of a change which
    /// was refused, or never answered
    Rebuild,
}

/// Options of `fula fsck`.
#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// Repair what can be repaired
    ///
    /// In a data directory that holds blocks and root pointers, the command sets damaged segments aside, and
    /// rebuilds lost root pointers from root blocks; the gateway must be stopped. In every data directory, it
    /// gives up missing segments of the log. For each bucket whose newest root cannot be read, it looks for
    /// the newest root that can be read, and shows what would be lost; with --apply the bucket goes back to
    /// that root.
    #[arg(long)]
    pub(crate) repair: bool,
    /// What to do about root pointers if a missing segment may have held some
    #[arg(long, requires = "repair", value_name = "HOW")]
    pub(crate) roots: Option<RootsLeft>,
    /// Let buckets whose newest root is lost go back to the root that --repair offers
    #[arg(long, requires = "repair")]
    pub(crate) apply: bool,
    #[command(flatten)]
    pub(crate) common: AdminArgs,
}

/// Options of `fula gc`.
#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Collect garbage now, and drop deleted buckets; without this, the command only shows what uses the
    /// space, and until when content is retained
    #[arg(long)]
    pub(crate) now: bool,
    /// Keep content that was replaced or deleted within this time, e.g. 0s or 1h [default: the retention of
    /// the running gateway, else `FULA_RETENTION`, else 10m]
    #[arg(long, value_name = "TIME", requires = "now")]
    pub(crate) retention: Option<Time>,
    /// Retention of a gateway, where none runs
    #[arg(long, env = "FULA_RETENTION", hide = true)]
    pub(crate) usual_retention: Option<Time>,
    /// Bound on what is kept for it, where no gateway runs
    #[arg(long, env = "FULA_RETENTION_BYTES", hide = true, value_parser = retained_max)]
    pub(crate) usual_retention_bytes: Option<RetainedMax>,
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
    /// File with the keys that encrypt access keys and objects [default: `secrets.key` in the data directory]
    #[arg(long, env = "FULA_SECRETS_KEY_FILE", help_heading = SHARED, value_name = "FILE")]
    pub(crate) secrets_key_file: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// Reads the name of a database role. `public` is none to Postgres, even in quotes, but everybody.
fn role(text: &str) -> Result<String, String> {
    match text {
        "" | "public" | "none" => {
            Err("not the name of a role: it would mean everybody, or nobody".to_owned())
        }
        name => Ok(name.to_owned()),
    }
}
