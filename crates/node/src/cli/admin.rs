//! Options of the administrative commands.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{DataDirArgs, SharedArgs, Time, value::from_one};

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
        /// Whose requests the key signs, with or without key: in front; users exist by having a key
        #[arg(long)]
        user: String,
        /// Most access keys of one user, where no gateway runs; a running gateway uses its own limit
        /// [default: 100]
        #[arg(long, env = "FULA_KEYS_PER_USER", value_name = "NUMBER", value_parser = from_one())]
        keys_per_user: Option<u64>,
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
        address: String,
        /// Revoke only what was issued before this time, given as seconds since 1970 or `now`
        #[arg(long, value_name = "TIME")]
        issued_before: Option<String>,
        /// Revoke the wallet even if it owns buckets, which nobody can write to afterwards
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Revoke all credentials of a user, also those made later; to revoke one key, use `revoke key`
    ///
    /// The user can never be let in again: no new access key can be made under this name.
    User {
        /// Name of a user of access keys, with or without key: in front, address of a wallet, or
        /// sub of a JWT
        user: String,
        /// USER is the sub of a JWT that is verified with `FULA_JWT_SECRET_FILE`
        #[arg(long, conflicts_with = "issuer")]
        jwt: bool,
        /// USER is the sub of a JWT that is verified with a key set, and this is its iss
        #[arg(long, value_name = "ISS")]
        issuer: Option<String>,
        /// Revoke a user who has live access keys or owns buckets, and one who was never seen here
        #[arg(long)]
        yes: bool,
        /// Revoke only what was issued before this time, given as seconds since 1970 or `now`
        #[arg(long, value_name = "TIME")]
        issued_before: Option<String>,
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
        /// Revoke the id even if no key and no session is known by it
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
    /// Print the grants that this role needs to work on the tables, for a gateway whose role may not create
    /// tables; give it again for another role
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
    /// List those that a recovery waits for, with host, address, version and when each was last seen
    List {
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Strike one off that will not come back: what only it remembers is not waited for
    Forget {
        /// Its name, as listed
        name: String,
        /// Also one that was seen within the last minute; if it lives, it is on the list again within
        /// 15 seconds
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
        /// The bucket
        bucket: String,
        /// Whose bucket, when several users have one of this name: a user of access keys, or a wallet
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
    ///
    /// Exits with 0 when the arbiter is trusted, and with 1 while it is in doubt.
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

/// Options of `fula status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) common: AdminArgs,
}

/// What a repair does with root pointers where some may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RootsLeft {
    /// Leave those that are there as they are, and set damaged segments aside in any data directory
    Keep,
    /// Take the newest root of each bucket that is found among the blocks. It may be that of a change
    /// which was refused, or never answered
    Rebuild,
}

/// Options of `fula fsck`.
#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// Mend what can be mended
    ///
    /// Of a data directory that holds blocks and root pointers: set damaged segments aside, and rebuild
    /// lost root pointers from root blocks; the gateway must not be running. Of any data directory: give
    /// up segments of the log that are missing. Of every bucket whose newest root cannot be read: find
    /// the newest one that can, and say what would be lost; with --apply, have the bucket go back to it.
    #[arg(long)]
    pub(crate) repair: bool,
    /// What to do where a segment is missing that held root pointers or other records
    #[arg(long, requires = "repair", value_name = "HOW")]
    pub(crate) roots: Option<RootsLeft>,
    /// Have buckets whose newest root is lost go back to the one that --repair offers
    #[arg(long, requires = "repair")]
    pub(crate) apply: bool,
    #[command(flatten)]
    pub(crate) common: AdminArgs,
}

/// Options of `fula gc`.
#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Collect now, and drop deleted buckets; without this, only say what the bytes of the log are for,
    /// and what waits for the retention until when
    #[arg(long)]
    pub(crate) now: bool,
    /// Keep what was replaced or deleted within this time, e.g. 0s or 1h [default: that of the
    /// gateway, or where none runs `FULA_RETENTION`, or 10m]
    #[arg(long, value_name = "TIME", requires = "now")]
    pub(crate) retention: Option<Time>,
    /// As a gateway would take it
    #[arg(long, env = "FULA_RETENTION", hide = true)]
    pub(crate) usual_retention: Option<Time>,
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

/// Reads the name of a database role. `public` is none to Postgres, even in quotes, but everybody.
fn role(text: &str) -> Result<String, String> {
    match text {
        "" | "public" | "none" => {
            Err("not the name of a role: it would mean everybody, or nobody".to_owned())
        }
        name => Ok(name.to_owned()),
    }
}
