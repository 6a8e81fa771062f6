//! Options of `fula config`.

use std::ffi::OsString;

use clap::{Args, Subcommand};

/// Options of `fula config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

/// What to do with settings. Nothing is started, opened or changed.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check the settings of a start, and the files that they name
    ///
    /// Exits with 0 if a gateway or a storage node would start with them, as far as a check without a start
    /// can tell. Otherwise it says what to fix. It also names variables that begin with FULA_ and are no
    /// setting.
    Check {
        /// The start to check: `gateway` or `storage-node` with options [default: gateway]
        #[arg(value_name = "START", trailing_var_arg = true, allow_hyphen_values = true)]
        start: Vec<OsString>,
    },
    /// Show all settings of a start, with the source of each value; secrets are not shown
    Print {
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
        /// The start to show: `gateway` or `storage-node` with options [default: gateway]
        #[arg(value_name = "START", trailing_var_arg = true, allow_hyphen_values = true)]
        start: Vec<OsString>,
    },
}
