//! Options of `fula join`, `fula invite` and `fula leave`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Subcommand};

use super::{AdminArgs, Time};
use crate::join::Role;

/// File with the key of a machine that joins, where no option names one.
pub(crate) const JOIN_KEY: &str = "join.key";

/// Options of `fula join`.
#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    #[command(subcommand)]
    pub(crate) command: Option<JoinCommand>,
    /// File with the key of this machine; it is made if it is missing, and removed once the invitation was
    /// used
    #[arg(long, global = true, value_name = "FILE", default_value = JOIN_KEY)]
    pub(crate) join_key: PathBuf,
}

/// What to join as.
#[derive(Debug, Subcommand)]
pub(crate) enum JoinCommand {
    /// Check everything that a new master needs, and write its settings and its service
    Master(JoinHow),
    /// Check everything that a new storage node needs, and write its settings and its service
    Storage(JoinHow),
}

/// How to join.
#[derive(Clone, Debug, Args)]
pub(crate) struct JoinHow {
    /// Invitation that `fula invite` wrote for the key of this machine
    #[arg(long, value_name = "FILE")]
    pub(crate) invite: PathBuf,
    /// Directory for the settings, the secrets and the service; no file in it is replaced
    #[arg(long, value_name = "DIR", default_value = "/etc/fula")]
    pub(crate) config_dir: PathBuf,
    /// Data directory of the new process; it must be new or empty [default: that of the service]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Setting of this machine alone, such as `FULA_LISTEN=:9000` of a master or `FULA_NODE_LISTEN=:3601` of a
    /// storage node; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) set: Vec<String>,
    /// Start it as well: as a service where systemd runs, and otherwise in place of this command
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) start: bool,
    /// Only check, and say what would be written
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `fula invite`.
#[derive(Debug, Args)]
pub(crate) struct InviteArgs {
    /// Key that `fula join` printed on the new machine
    #[arg(long = "for", value_name = "KEY")]
    pub(crate) key: String,
    /// What the new machine becomes
    #[arg(long, value_enum, default_value = "master")]
    pub(crate) role: Role,
    /// Time for which the invitation can be used, at most 1d
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(crate) expires: Time,
    /// URL at which storage nodes reach this master, e.g. <https://master.example:9000>; needed for a storage node
    #[arg(long, value_name = "URL", required_if_eq("role", "storage"))]
    pub(crate) url: Option<String>,
    #[command(flatten)]
    pub(crate) common: AdminArgs,
    /// Options of the gateway, after --; needed only if no gateway runs on the data directory and its
    /// settings are not in the environment
    #[arg(last = true, value_name = "OPTIONS")]
    pub(crate) start: Vec<OsString>,
}

/// Options of `fula leave`.
#[derive(Debug, Args)]
pub(crate) struct LeaveArgs {
    /// Only say whether the master may leave
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) common: AdminArgs,
}
