//! Options of `fula pins`.

use clap::{Args, Subcommand};

use super::AdminArgs;

/// Options of `fula pins`.
#[derive(Debug, Args)]
pub(crate) struct PinsArgs {
    #[command(subcommand)]
    pub(crate) command: PinsCommand,
}

/// What to do about pins. A gateway must be running.
#[derive(Debug, Subcommand)]
pub(crate) enum PinsCommand {
    /// List what each target has of each bucket
    List {
        /// List only buckets of this name
        bucket: Option<String>,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Show for each target how far it is behind, and what went wrong
    ///
    /// Exits with 0 if every target has the newest root of every bucket, and with 1 otherwise.
    Status {
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Retry failed changes now, without waiting for the next attempt
    Retry {
        /// Try only buckets of this name
        bucket: Option<String>,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Check that targets have all blocks, and send again what they have lost
    ///
    /// For a kubo, the command compares the number and the bytes of its blocks with those of the bucket. It
    /// asks a cluster or a pinning service whether it has the pin. Exits with 0 if all is there, and with 1
    /// if something was lost or could not be checked.
    Verify {
        /// Check only buckets of this name
        bucket: Option<String>,
        #[command(flatten)]
        common: AdminArgs,
    },
}
