//! Options of `fula vault`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::{RemoteArgs, value::from_one};

/// Options of `fula vault`.
#[derive(Debug, Args)]
pub(crate) struct VaultArgs {
    #[command(subcommand)]
    pub(crate) command: VaultCommand,
}

/// Commands on vaults.
#[derive(Debug, Subcommand)]
pub(crate) enum VaultCommand {
    /// Create a vault in a bucket that exists, with this device as its admin
    Create(VaultCreateArgs),
    /// Open a vault on this device for the first time, and give it a name here
    Open(VaultOpenArgs),
    /// Show the keys of this device, for an admin who adds it to a vault
    Device(VaultDeviceArgs),
    /// Show who opens a vault and who writes in it
    Slots(VaultNameArgs),
    /// Add a person, a device, a passphrase or words to a vault
    Add(VaultAddArgs),
    /// Remove everyone with a label. They cannot read what is written from then on
    Remove(VaultRemoveArgs),
    /// Seal the files of older epochs again, after someone was removed
    ///
    /// The keys that a removed person had still open files that were written before. This command reads each file and
    /// writes it under new keys, in one step, and others can write meanwhile. If it is interrupted, run it again: it
    /// goes on where it stopped.
    Reseal(VaultResealArgs),
    /// Make a link to a file or a folder as it is now; everyone who has the link can read it
    ///
    /// The link leads to a copy that is sealed under a key of its own, and only the link has this key. The policy of
    /// the bucket must allow everyone to read what lies below `s/` in the vault. `fula cat` and `fula cp` read the
    /// link.
    Share(VaultShareArgs),
    /// List the links of a vault
    Shares(VaultNameArgs),
    /// Delete what a link leads to. People who have read it keep their copies
    Unshare(VaultUnshareArgs),
    /// Print what other devices change in a vault, as they change it, until the command is ended
    Watch(VaultNameArgs),
    /// Write the files of a vault into a folder, in the clear, without the metadata of its objects
    ///
    /// This is for objects that were copied without their metadata, which has the names of files. Nothing proves that
    /// a file is the newest version, nor who wrote it.
    Recover(VaultRecoverArgs),
    /// Print what this device sees of a vault as one word, or compare it with the word of another device
    Checkpoint(VaultCheckpointArgs),
}

/// Padding of a new vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum VaultPadding {
    /// Sizes are rounded up by at most 12 %
    Padme,
    /// The server sees the exact sizes of files
    None,
}

/// Options of `fula vault device`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct VaultDeviceArgs {
    /// Print JSON, one object a line, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

impl VaultCommand {
    /// Returns whether results are printed for programs.
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::Device(args) => args.json,
            Self::Create(args) => args.remote.json,
            Self::Open(args) => args.remote.json,
            Self::Slots(args) | Self::Shares(args) | Self::Watch(args) => args.remote.json,
            Self::Unshare(args) => args.remote.json,
            Self::Add(args) => args.remote.json,
            Self::Remove(args) => args.remote.json,
            Self::Reseal(args) => args.remote.json,
            Self::Share(args) => args.remote.json,
            Self::Recover(args) => args.remote.json,
            Self::Checkpoint(args) => args.remote.json,
        }
    }
}

/// The name of a vault on this device.
#[derive(Debug, Args)]
pub(crate) struct VaultNameArgs {
    /// Name of the vault on this device
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// What opens a vault in addition to this device.
#[derive(Debug, Default, Args)]
pub(crate) struct VaultSecretArgs {
    /// Ask for a passphrase that opens the vault
    #[arg(long)]
    pub(crate) passphrase: bool,
    /// File whose first line is a passphrase that opens the vault
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "passphrase")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// Options of `fula vault create`.
#[derive(Debug, Args)]
pub(crate) struct VaultCreateArgs {
    /// Name of the vault on this device: small letters, digits and hyphens
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Bucket, and perhaps a prefix: `bucket/prefix`
    #[arg(value_name = "PLACE")]
    pub(crate) place: String,
    /// Name by which the members of the vault know this device [default: the name of the host]
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,
    #[command(flatten)]
    pub(crate) secret: VaultSecretArgs,
    /// Print 24 words that open the vault. Write them down: without another way in, a lost device is a lost vault
    #[arg(long)]
    pub(crate) words: bool,
    /// How the sizes of files are hidden from the server
    #[arg(long, value_enum, default_value = "padme")]
    pub(crate) padding: VaultPadding,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// Options of `fula vault open`.
#[derive(Debug, Args)]
pub(crate) struct VaultOpenArgs {
    /// Name of the vault on this device: small letters, digits and hyphens
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Bucket, and perhaps a prefix, and the fingerprint of an invitation: `bucket/prefix#fingerprint`
    #[arg(value_name = "PLACE")]
    pub(crate) place: String,
    #[command(flatten)]
    pub(crate) secret: VaultSecretArgs,
    /// File with the 24 words that open the vault
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["passphrase", "passphrase_file"])]
    pub(crate) words_file: Option<PathBuf>,
    /// Name by which the members of the vault know this device, if a passphrase or words add it [default: the name
    /// of the host]
    #[arg(long, value_name = "TEXT")]
    pub(crate) label: Option<String>,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// Options of `fula vault add`.
#[derive(Debug, Args)]
pub(crate) struct VaultAddArgs {
    /// Name of the vault on this device
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Name by which the members of the vault know who is added
    #[arg(value_name = "LABEL")]
    pub(crate) label: String,
    /// Public key of who is added, as `fula vault device` or `age-keygen -pq` prints it (`age1pq1…`). It allows reading
    #[arg(long, value_name = "KEY")]
    pub(crate) recipient: Option<String>,
    /// Key for signatures of who is added, as `fula vault device` prints it. It allows writing
    #[arg(long, value_name = "KEY")]
    pub(crate) writer: Option<String>,
    /// Allow changing who opens the vault and who writes in it, too
    #[arg(long, requires = "writer")]
    pub(crate) admin: bool,
    #[command(flatten)]
    pub(crate) secret: VaultSecretArgs,
    /// Print 24 words that open the vault
    #[arg(long)]
    pub(crate) words: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// Options of `fula vault remove`.
#[derive(Debug, Args)]
pub(crate) struct VaultRemoveArgs {
    /// Name of the vault on this device
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Label, as `fula vault slots` shows it
    #[arg(value_name = "LABEL")]
    pub(crate) label: String,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// Options of `fula vault reseal`.
#[derive(Debug, Args)]
pub(crate) struct VaultResealArgs {
    /// Name of the vault on this device
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Show how many files would be sealed again, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Afterwards refuse everything that removed members have signed. Only an admin can do this
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) forget_removed: bool,
    /// Number of files that are sealed at a time; a large one takes 32 MiB of memory
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = from_one())]
    pub(crate) transfers: u64,
    /// Show no progress
    #[arg(long)]
    pub(crate) no_progress: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// Options of `fula vault share`.
#[derive(Debug, Args)]
pub(crate) struct VaultShareArgs {
    /// The file, or the folder with --recursive: `vault:name/path`
    #[arg(value_name = "PLACE")]
    pub(crate) place: String,
    /// Share everything below the folder, with one link
    #[arg(long, short)]
    pub(crate) recursive: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// Options of `fula vault unshare`.
#[derive(Debug, Args)]
pub(crate) struct VaultUnshareArgs {
    /// Name of the vault on this device
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The link, with or without the part behind its `#`
    #[arg(value_name = "LINK")]
    pub(crate) link: String,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// Options of `fula vault recover`.
#[derive(Debug, Args)]
pub(crate) struct VaultRecoverArgs {
    /// Name of the vault on this device
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Folder for the files; none in it is replaced
    #[arg(value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub(crate) folder: PathBuf,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// Options of `fula vault checkpoint`.
#[derive(Debug, Args)]
pub(crate) struct VaultCheckpointArgs {
    /// Name of the vault on this device
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Word that this command printed on another device, or earlier on this one
    #[arg(value_name = "CHECKPOINT")]
    pub(crate) other: Option<String>,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}
