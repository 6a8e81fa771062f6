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
    /// Try again now what has failed, without waiting for the pause to end
    Retry {
        /// Try only buckets of this name
        bucket: Option<String>,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// Check that targets have all blocks, and send again what they have lost
    ///
    /// Of a kubo, number and bytes of the blocks are compared with those of the bucket. A cluster or a pinning
    /// service is asked whether it has the pin. Exits with 0 if all is there, and with 1 if something was lost or
    /// could not be checked.
    Verify {
        /// Check only buckets of this name
        bucket: Option<String>,
        #[command(flatten)]
        common: AdminArgs,
    },
}
