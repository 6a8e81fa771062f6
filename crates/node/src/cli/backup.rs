//! Options of `fula backup`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{AdminArgs, value::from_one};

/// Options of `fula backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    #[command(subcommand)]
    pub(crate) command: BackupCommand,
}

/// Where backups are, and the key that opens them.
#[derive(Clone, Debug, Args)]
pub(crate) struct PlaceArgs {
    /// Place of the backups: a directory, or <s3://bucket/prefix>, <gs://bucket/prefix> or
    /// <az://container/prefix> with credentials in the usual variables, which begin with `AWS_`, `GOOGLE_` or
    /// `AZURE_`
    pub(crate) place: String,
    /// File with the key that encrypts the backups, mode 0600, as `fula secrets keygen` makes it; without one
    /// they are not encrypted. Keep a copy apart from the backups: nobody can read them without it
    #[arg(long, env = "FULA_BACKUP_KEY_FILE", value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
}

/// What to do with backups.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Make a backup of all buckets, access keys and revocations; after the first one, only changes are
    /// written
    ///
    /// Each backup can be restored without the others, and any of them can be removed. The command works
    /// beside a running gateway, and without one. A backup that is interrupted does not count.
    Create {
        #[command(flatten)]
        place: PlaceArgs,
        /// Write everything again, whatever earlier backups have
        #[arg(long)]
        full: bool,
        /// Keep this many backups, and remove older ones with the files that only they use [default: all]
        #[arg(long, value_name = "NUMBER", value_parser = from_one())]
        keep: Option<u64>,
        /// Include the key that encrypts the access keys (`secrets.key`), so that a restore needs nothing
        /// else; the backups must be encrypted
        #[arg(long, requires = "key_file")]
        with_secrets_key: bool,
        #[command(flatten)]
        common: AdminArgs,
    },
    /// List backups, or the buckets of one
    List {
        #[command(flatten)]
        place: PlaceArgs,
        /// Backup whose buckets are listed
        backup: Option<String>,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Read a backup in full, and check that every block of every bucket is there and intact
    ///
    /// Exits with 0 if all is well, with 1 if something is damaged or missing, and with 2 if the check could not be
    /// made.
    Verify {
        #[command(flatten)]
        place: PlaceArgs,
        /// Backup to check [default: the newest]
        backup: Option<String>,
        /// Check all backups
        #[arg(long, conflicts_with = "backup")]
        all: bool,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Write the key that encrypts the access keys to a new file, mode 0600; the backup must contain the key
    SecretsKey {
        #[command(flatten)]
        place: PlaceArgs,
        /// File to write, which must not exist yet: `secrets.key` in the data directory of a single master, or the file
        /// that `FULA_SECRETS_KEY_FILE` names
        file: PathBuf,
    },
}
