//! The implementations of the subcommands.

pub(crate) mod admin;
pub(crate) mod fsck;
pub(crate) mod gateway;
pub(crate) mod import;
pub(crate) mod revoke;
pub(crate) mod status;
pub(crate) mod storage_node;
mod text;
pub(crate) mod token;

use std::process::ExitCode;

/// Prints an error with its causes, and fails.
fn fail(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    eprintln!("fula: {}", fula_service::error::chain(error));
    ExitCode::FAILURE
}
