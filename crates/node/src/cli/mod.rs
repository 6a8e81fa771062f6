//! What can be typed. Parsing opens nothing but the settings file; checking is `config`'s.

mod admin;
mod file;
mod settings;
#[cfg(test)]
mod table;
mod token;
mod value;

use std::{ffi::OsString, path::Path};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub(crate) use self::{
    admin::{
        AdminArgs, FsckArgs, GcArgs, ImportArgs, KeysArgs, KeysCommand, MastersArgs,
        MastersCommand, MigrateArgs, RevokeArgs, RevokeCommand, RootsArgs, RootsCommand, RootsLeft,
        SecretsArgs, SecretsCommand, StatusArgs,
    },
    file::SettingsFileError,
    settings::{
        AuthSettings, BucketNames, CasMode, ConnectionSettings, DataDirArgs, GatewaySettings,
        LogFormat, SharedArgs, SignatureV2,
    },
    token::{ClaimArgs, TokenArgs, TokenCommand, TokenOutput},
    value::Time,
};

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
    Gateway(Box<GatewaySettings>),
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
    /// Say how this gateway is, on one page: readiness, masters, space, collections, and what is wrong
    ///
    /// Exits with 0 when a gateway runs and nothing is wrong, 1 when something needs attention, 2 when
    /// it could not look.
    Status(StatusArgs),
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

/// Why a command line cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// Help and version are asked for this way, too.
    #[error(transparent)]
    Typed(#[from] clap::Error),
    /// Mend the settings file.
    #[error(transparent)]
    File(#[from] SettingsFileError),
    /// Mend a value in the settings file.
    #[error("cannot use the settings in {0}: {1}")]
    Value(std::path::PathBuf, String),
}

/// Parses a command line with the program's name in front. Values in the settings file of a
/// gateway stand beneath flags and environment.
pub(crate) fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Cli, CliError> {
    parse_as(command(), line)
}

/// Returns everything that can be typed.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

/// The same with a command that a test has changed.
pub(crate) fn parse_as(
    command: clap::Command,
    line: impl IntoIterator<Item = OsString>,
) -> Result<Cli, CliError> {
    let line: Vec<OsString> = line.into_iter().collect();
    let typed = Cli::from_arg_matches(&command.clone().try_get_matches_from(&line)?)?;
    let Command::Gateway(settings) = &typed.command else { return Ok(typed) };
    let Some(path) = &settings.config else { return Ok(typed) };
    let mut layered = Ok(());
    let command = command.mut_subcommand("gateway", |gateway| {
        file::layer(gateway.clone(), path).unwrap_or_else(|error| {
            layered = Err(error);
            gateway
        })
    });
    layered?;
    // What was typed is right, so an error is about the file.
    let parsed = command.try_get_matches_from(&line);
    let parsed = parsed.and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| of_file(path, &error))
}

/// Returns what is wrong in a settings file, without the advice about a command line.
fn of_file(path: &Path, error: &clap::Error) -> CliError {
    let text = error.render().to_string();
    let lines: Vec<&str> =
        text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let text = lines.join(" ");
    CliError::Value(path.to_owned(), text.trim_start_matches("error: ").to_owned())
}

/// Returns the settings of a gateway that is started with `options`, whatever the environment says.
#[cfg(test)]
pub(crate) fn gateway_settings(options: &[&str]) -> Result<GatewaySettings, CliError> {
    let command = command().mut_subcommand("gateway", |gateway| {
        gateway
            .mut_args(|arg| if arg.get_env().is_some() { arg.env("FULA_TEST_UNSET") } else { arg })
    });
    let line = ["fula", "gateway", "--data-dir", "/tmp/x"].iter().chain(options);
    match parse_as(command, line.map(OsString::from))?.command {
        Command::Gateway(settings) => Ok(*settings),
        other => panic!("{other:?}"),
    }
}
