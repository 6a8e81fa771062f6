//! The implementations of the subcommands.

pub(crate) mod admin;
pub(crate) mod backup;
pub(crate) mod buckets;
pub(crate) mod car;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod files;
pub(crate) mod fsck;
pub(crate) mod gateway;
pub(crate) mod health;
pub(crate) mod import;
pub(crate) mod join;
pub(crate) mod manual;
pub(crate) mod objects;
pub(crate) mod pins;
mod reach;
pub(crate) mod restore;
pub(crate) mod revoke;
pub(crate) mod secrets;
pub(crate) mod status;
pub(crate) mod storage_node;
mod text;
pub(crate) mod token;
pub(crate) mod vault;
pub(crate) mod verify;

use std::process::ExitCode;

use fula_service::error::chain;

use crate::{config::ConfigError, output::note};

/// Exit status of a command that was called in a wrong way, as after a mistyped option.
pub(crate) const WRONG_USAGE: u8 = 2;

/// The reason why a command failed, in words for the operator, and its exit status.
#[derive(Debug)]
pub(crate) struct Failure {
    text: String,
    status: u8,
}

impl Failure {
    /// Prints the reason, and returns the exit status.
    fn report(&self) -> ExitCode {
        note!("fula: {}", self.text);
        ExitCode::from(self.status)
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { text, status: 1 }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let status = if error.is_wrong_usage() { WRONG_USAGE } else { 1 };
        Self { text: chain(&error), status }
    }
}

/// Prints an error with its causes, and fails.
fn fail(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    note!("fula: {}", chain(error));
    ExitCode::FAILURE
}
