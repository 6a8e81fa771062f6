//! What can be typed. Parsing opens nothing but the settings file; checking is `config`'s.

mod admin;
mod backup;
mod car;
mod config;
mod file;
mod ingest;
mod join;
mod objects;
mod origin;
mod pin_settings;
mod pins;
mod psa;
#[cfg(test)]
mod reference;
mod settings;
mod sharing;
mod storage_node;
#[cfg(test)]
mod table;
mod token;
mod value;
mod vault;
mod verify;

use std::{ffi::OsString, path::Path};

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

pub(crate) use self::{
    admin::{
        AdminArgs, CloneArgs, DoctorArgs, FsckArgs, GcArgs, HealthArgs, ImportArgs, KeysArgs,
        KeysCommand, MastersArgs, MastersCommand, MigrateArgs, RevokeArgs, RevokeCommand,
        RootsArgs, RootsCommand, RootsLeft, SecretsArgs, SecretsCommand, StatusArgs, UsageArgs,
    },
    backup::{BackupArgs, BackupCommand, PlaceArgs},
    car::{BlockSource, Endpoint, ExportArgs, ImportCarArgs, RestoreArgs, TargetArgs},
    config::{ConfigArgs, ConfigCommand},
    file::SettingsFileError,
    ingest::{CidSettings, IngestLimits, IngestSettings},
    join::{InviteArgs, JOIN_KEY, JoinArgs, JoinCommand, JoinHow, LeaveArgs},
    objects::{
        CatArgs, CompletionArgs, CopyArgs, DuArgs, FilterArgs, LsArgs, ManArgs, MaxDelete, PutArgs,
        RemoteArgs, RmArgs, Shell, StatArgs, SyncArgs, TransferArgs,
    },
    origin::{Setting, Start, Why, ineffective, start, start_of},
    pin_settings::PinSettings,
    pins::{PinsArgs, PinsCommand},
    psa::PsaSettings,
    settings::{
        AuthSettings, BucketNames, CasMode, ConnectionSettings, DataDirArgs, GatewaySettings,
        LogFormat, SharedArgs, SignatureV2,
    },
    sharing::{flags_of, given_to_masters, given_to_nodes, own_of},
    storage_node::StorageNodeSettings,
    token::{ClaimArgs, TokenArgs, TokenCommand, TokenOutput},
    value::{IssuedBefore, Time},
    vault::{
        VaultAddArgs, VaultArgs, VaultCheckpointArgs, VaultCommand, VaultCreateArgs, VaultOpenArgs,
        VaultPadding, VaultRecoverArgs, VaultResealArgs, VaultSecretArgs, VaultShareArgs,
    },
    verify::{ProofArgs, VerifyArgs, VerifyCommand},
};

/// Version of the program, and the commit that it was built from where the build knew it (`build.rs`).
pub(crate) const VERSION: &str = env!("FULA_VERSION");

/// An S3 object store over content-addressed blocks
///
/// Start with `fula gateway --data-dir ./data`. It needs no other service, makes a first access key, and prints
/// what to paste into a shell to use it with any S3 tool.
#[derive(Debug, Parser)]
#[command(name = "fula", version = VERSION, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Roles and administrative commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a gateway: serve S3 until SIGTERM or SIGINT
    Gateway(Box<GatewaySettings>),
    /// Run a storage node: take and serve blocks for masters until SIGTERM or SIGINT
    ///
    /// Clients send blocks to the node, and a master maps keys to their content. The node signs a receipt for
    /// each block, keeps the block for a day, and then for as long as some master needs it.
    StorageNode(Box<StorageNodeSettings>),
    /// Copy files and objects: up, down, or within the gateway
    ///
    /// Exit status: 0 if all is done; 1 if some of several failed; 2 for a wrong command line; 3 if the source
    /// does not exist; 4 if a condition failed; 5 if bytes are damaged.
    Cp(CopyArgs),
    /// Move files and objects: copy them, then delete the sources. An object in the same bucket is renamed
    Mv(CopyArgs),
    /// Make a folder or a prefix like another one, by size and time
    ///
    /// What differs is transferred. What only the target has stays, unless --delete is given.
    Sync(SyncArgs),
    /// List buckets, or objects
    Ls(LsArgs),
    /// Show the number of objects below a prefix, and their size together
    Du(DuArgs),
    /// Show what is known of an object: size, `ETag`, time, metadata, checksum
    Stat(StatArgs),
    /// Write an object to standard output
    Cat(CatArgs),
    /// Write an object from a file or from standard input, with conditions and metadata
    Put(PutArgs),
    /// Delete an object, or everything below a prefix
    Rm(RmArgs),
    /// Keep files in sealed vaults, whose server can read neither them nor their names
    ///
    /// `fula cp`, `mv`, `sync`, `ls`, `cat`, `put`, `rm`, `du` and `stat` take `vault:name/path`.
    Vault(VaultArgs),
    /// Check settings, or show them all with their sources
    Config(ConfigArgs),
    /// Make, list and revoke access keys
    Keys(KeysArgs),
    /// Make tokens that an Ethereum wallet signs
    Token(TokenArgs),
    /// Revoke users, tokens, keys and sessions, for ever and on every master
    Revoke(RevokeArgs),
    /// List the masters of a shared arbiter, and forget those that will not come back
    Masters(MastersArgs),
    /// Join a federation: make a key for an invitation, then check this machine and write its settings
    ///
    /// Without a subcommand, makes the key and prints its public part, which `fula invite` needs.
    Join(JoinArgs),
    /// Invite a new master or storage node: print its settings and secrets, encrypted to the key of its
    /// machine
    Invite(InviteArgs),
    /// Stop the master of this data directory for good, and say when its machine can be switched off
    Leave(LeaveArgs),
    /// Show the history of buckets, import a single master into a shared arbiter, and recover from a restored
    /// backup
    Roots(RootsArgs),
    /// Show how much each owner and each bucket stores
    ///
    /// SIZE counts the current objects. IN ALL also counts older versions and parts of uploads.
    Usage(UsageArgs),
    /// Make a bucket with the objects that another one has, or had at a version, without copying data
    ///
    /// The new bucket has the same owner. It gets the objects and their versions, and no settings, so it is
    /// private even if the other one is public. Afterwards both change independently.
    Clone(CloneArgs),
    /// Make and change the key that encrypts access keys and objects, and show the public keys that are derived from it
    Secrets(SecretsArgs),
    /// Create or update the tables of a shared arbiter
    Migrate(MigrateArgs),
    /// Show the state of this gateway on one page: readiness, masters, space, and what is wrong
    ///
    /// Exits with 0 if a gateway runs and nothing is wrong, with 1 if something needs attention, and with 2 if
    /// the state could not be found out.
    Status(StatusArgs),
    /// Look at everything that this gateway depends on: disk, arbiter, clocks, blocks, masters
    ///
    /// Prints a line for each, with the time that it took to answer and what to do. Exits with 0 if nothing is a
    /// problem, with 1 if something is, and with 2 if the check could not be made.
    Doctor(DoctorArgs),
    /// Ask a running gateway or storage node whether it is ready, for health checks and scripts
    ///
    /// Prints one line. Exits with 0 if requests can be served, and with 1 if not.
    Health(HealthArgs),
    /// Check that all stored data is there and intact
    ///
    /// Exits with 0 if all is well, with 1 if something is damaged or missing, and with 2 if the check could
    /// not be made.
    Fsck(FsckArgs),
    /// Write a bucket as a CAR file, which IPFS tools read
    ///
    /// The file has everything of the bucket: objects, versions, uploads in progress and settings. The same
    /// version makes the same file. The command works beside a running gateway, and without one.
    Export(ExportArgs),
    /// Make a bucket from a CAR file that `fula export` or an IPFS tool wrote
    ///
    /// Everything is verified. If anything is wrong, nothing of the file becomes visible. If no bucket ever
    /// had the name, the bucket gets exactly the root of the file. Otherwise it gets a new root with the same
    /// trees.
    Import(ImportCarArgs),
    /// Make backups in a directory or an object store, list them, and check them
    Backup(BackupArgs),
    /// Restore buckets from a backup, or one bucket by its root CID from a CAR file, a kubo or an IPFS
    /// gateway
    ///
    /// What is read is verified, so the source need not be trusted. A restore never replaces a bucket: if the
    /// name is taken, the restored bucket gets that name with its version at the end.
    Restore(RestoreArgs),
    /// Read from a server that need not be trusted, and verify its answers against a bucket root
    Verify(VerifyArgs),
    /// Show the pins of buckets on IPFS, retry failed ones, and check that targets have all blocks
    Pins(PinsArgs),
    /// Show what uses the space, and free the space of deleted and replaced objects
    ///
    /// A gateway frees space by itself as its log grows. Content that was replaced or deleted within the
    /// retention (`FULA_RETENTION`) keeps its space. The command works beside a running gateway, and without
    /// one.
    Gc(GcArgs),
    /// Print the completion script of a shell, which loads it when it starts
    Completion(CompletionArgs),
    /// Write a manual page for each command
    Man(ManArgs),
}

impl Command {
    /// Returns whether the command writes files of the user, which get the permissions that the user has set,
    /// and not files of a server, which are private.
    pub(crate) fn is_about_files(&self) -> bool {
        matches!(
            self,
            Self::Cp(_)
                | Self::Mv(_)
                | Self::Sync(_)
                | Self::Ls(_)
                | Self::Du(_)
                | Self::Stat(_)
                | Self::Cat(_)
                | Self::Put(_)
                | Self::Rm(_)
                | Self::Man(_)
        )
    }
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

impl CliError {
    /// Returns whether the call is wrong. Otherwise the settings file cannot be read.
    pub(crate) fn is_wrong_usage(&self) -> bool {
        !matches!(self, Self::File(SettingsFileError::Open(_)))
    }
}

/// Parses a command line with the program's name in front. Values in the settings file of a
/// gateway stand beneath flags and environment.
pub(crate) fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Cli, CliError> {
    parse_as(command(), line)
}

/// Returns everything that can be typed.
pub(crate) fn command() -> clap::Command {
    let mut built = Cli::command();
    built.build();
    with_usage(Cli::command(), &mut built)
}

/// Gives each command the usage line of its help for its errors, too. Made by clap for an error, the line
/// names every option that the environment sets, as if each had to be there.
fn with_usage(mut command: clap::Command, built: &mut clap::Command) -> clap::Command {
    let names: Vec<String> =
        command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for name in names {
        let Some(built) = built.find_subcommand_mut(&name) else { continue };
        command = command.mut_subcommand(&name, |command| with_usage(command, built));
    }
    let usage = built.render_usage().to_string();
    command.override_usage(usage.trim_start_matches("Usage: ").to_owned())
}

/// Parses a command line with `command`: the program's own, or one that a test has changed.
pub(crate) fn parse_as(
    command: clap::Command,
    line: impl IntoIterator<Item = OsString>,
) -> Result<Cli, CliError> {
    layered(command, line.into_iter().collect()).map(|layered| layered.cli)
}

/// A command line with the settings file beneath it.
struct Layered {
    cli: Cli,
    matches: ArgMatches,
    /// Names of the settings that the file has, whether they count or not.
    of_file: Vec<String>,
}

fn layered(command: clap::Command, line: Vec<OsString>) -> Result<Layered, CliError> {
    let matches = command.clone().try_get_matches_from(&line)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let path = match &cli.command {
        Command::Gateway(settings) => settings.config.clone(),
        _ => None,
    };
    let Some(path) = path else { return Ok(Layered { cli, matches, of_file: Vec::new() }) };
    let mut layered = Ok(Vec::new());
    let command = command.mut_subcommand("gateway", |gateway| {
        let (gateway, names) = match file::layer(gateway.clone(), &path) {
            Ok((gateway, names)) => (gateway, Ok(names)),
            Err(error) => (gateway, Err(error)),
        };
        layered = names;
        gateway
    });
    let of_file = layered?;
    // What was typed is right, so an error is about the file.
    let parsed = command.try_get_matches_from(&line);
    let parsed = parsed.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = parsed.map_err(|error| of_file_error(&path, &error))?;
    Ok(Layered { cli, matches, of_file })
}

/// Returns what is wrong in a settings file, without the advice about a command line.
fn of_file_error(path: &Path, error: &clap::Error) -> CliError {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_need_not_be_there_stand_in_brackets() {
        for (line, usage) in [
            (&["keys", "create", "--json"][..], "Usage: fula keys create [OPTIONS] --user <USER>"),
            (&["keys", "list", "--data-dirr", "x"], "Usage: fula keys list [OPTIONS]"),
            (&["roots", "log", "--limit", "3"], "Usage: fula roots log [OPTIONS] <BUCKET>"),
            (&["gateway", "--lisen", "x"], "Usage: fula gateway [OPTIONS]"),
        ] {
            let line = std::iter::once(&"fula").chain(line).map(OsString::from);
            let text = parse(line).unwrap_err().to_string();
            assert!(text.contains(&format!("{usage}\n")), "{text}");
        }
    }

    /// Every text of every command, with its place.
    fn texts(command: &clap::Command, place: &str, found: &mut Vec<(String, String)>) {
        let place = format!("{place} {}", command.get_name());
        let mut note = |place: String, text: Option<String>| {
            found.push((place, text.unwrap_or_default()));
        };
        note(place.clone(), command.get_about().map(ToString::to_string));
        for arg in command
            .get_arguments()
            .filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()))
        {
            let place = format!("{place} {}", arg.get_id());
            note(place.clone(), arg.get_help().map(ToString::to_string));
            for value in arg.get_possible_values() {
                note(
                    format!("{place} {}", value.get_name()),
                    value.get_help().map(ToString::to_string),
                );
            }
        }
        for command in command.get_subcommands() {
            texts(command, &place, found);
        }
    }

    #[test]
    fn every_command_option_and_value_says_what_it_is_for() {
        let mut found = Vec::new();
        texts(&command(), "", &mut found);
        assert!(found.len() > 150, "{}", found.len());
        for (place, text) in found {
            let is_switch = ["true", "false"].iter().any(|value| place.ends_with(value));
            assert!(is_switch || text.split(' ').count() >= 2, "{place}: {text:?}");
            assert!(!text.ends_with('.'), "{place}: {text:?}");
        }
    }
}
