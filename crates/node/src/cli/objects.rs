//! Options of the commands on objects and files.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::value::from_one;

/// Where the gateway is, and who asks. AWS tools have the same variables and files.
#[derive(Clone, Debug, Args)]
pub(crate) struct RemoteArgs {
    /// URL of the gateway, such as `https://s3.example.com` [default: `AWS_ENDPOINT_URL_S3`,
    /// `AWS_ENDPOINT_URL`, or `endpoint_url` of the profile]
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) endpoint_url: Option<String>,
    /// Profile in `~/.aws/credentials` and `~/.aws/config` [default: `AWS_PROFILE`, else `default`]
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// Region that signatures name [default: `AWS_REGION`, that of the profile, else `us-east-1`]
    #[arg(long, value_name = "NAME")]
    pub(crate) region: Option<String>,
    /// Allow `http://` to other machines: everyone on the way can read what is sent
    #[arg(long)]
    pub(crate) allow_http: bool,
    /// Print JSON, one object a line, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which files and objects of many.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FilterArgs {
    /// Leave out paths that match; repeat it for more. `*` stands for anything but `/`, `**` for anything, and
    /// a pattern without `/` is compared with the last part of a path
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// Take paths that match, even if --exclude matches them; without --exclude, take only these
    #[arg(long, value_name = "PATTERN")]
    pub(crate) include: Vec<String>,
}

/// Where the bytes of files go.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct NodeArgs {
    /// Send files of 1 MiB to 4 GiB to the storage nodes of the gateway, if it has any; each file is then on one
    /// node, and the gateway records where
    #[arg(long)]
    pub(crate) storage_nodes: bool,
}

/// How files and objects are transferred.
#[derive(Clone, Debug, Args)]
pub(crate) struct TransferArgs {
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Number of files that are transferred at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 16, value_parser = from_one())]
    pub(crate) transfers: u64,
    /// Follow symbolic links in a folder; without this, they are skipped and reported
    #[arg(long)]
    pub(crate) follow_symlinks: bool,
    #[command(flatten)]
    pub(crate) nodes: NodeArgs,
    /// Show no progress
    #[arg(long)]
    pub(crate) no_progress: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// Options of `fula cp` and `fula mv`.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// Source: a file, a folder, `s3://bucket/key` or `vault:name/path`. `fula cp` also takes `-` for standard
    /// input, and a link of `fula vault share`
    #[arg(value_name = "SOURCE", value_hint = ValueHint::AnyPath)]
    pub(crate) source: String,
    /// Target: a file, a folder, `s3://bucket/key` or `vault:name/path`; with `fula cp` also `-` for standard output.
    /// A name that ends with `/` is a folder
    #[arg(value_name = "TARGET", value_hint = ValueHint::AnyPath)]
    pub(crate) target: String,
    /// Copy everything in the folder SOURCE, or below the prefix SOURCE
    #[arg(long, short)]
    pub(crate) recursive: bool,
    #[command(flatten)]
    pub(crate) transfer: TransferArgs,
}

/// Options of `fula sync`.
#[derive(Debug, Args)]
pub(crate) struct SyncArgs {
    /// Folder, `s3://bucket/prefix` or `vault:name/path` that is left as it is
    #[arg(value_name = "SOURCE", value_hint = ValueHint::AnyPath)]
    pub(crate) source: String,
    /// Folder, `s3://bucket/prefix` or `vault:name/path` that becomes like the source
    #[arg(value_name = "TARGET", value_hint = ValueHint::AnyPath)]
    pub(crate) target: String,
    /// Delete what the source does not have, once everything else was transferred without a failure
    #[arg(long)]
    pub(crate) delete: bool,
    /// Largest number of deletions, or percentage of what the target has. If there would be more, nothing is
    /// deleted
    #[arg(long, value_name = "NUMBER|PERCENT", default_value = "50%", requires = "delete")]
    pub(crate) max_delete: MaxDelete,
    /// Compare sizes alone, without a request for each object
    #[arg(long, conflicts_with = "checksum")]
    pub(crate) size_only: bool,
    /// Compare sizes and checksums in place of sizes and times; every file of equal size is read
    #[arg(long)]
    pub(crate) checksum: bool,
    #[command(flatten)]
    pub(crate) transfer: TransferArgs,
}

/// The most that `fula sync` deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MaxDelete {
    /// This many.
    Number(u64),
    /// This many in a hundred of what the target has.
    Percent(u64),
}

impl std::str::FromStr for MaxDelete {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| "write a number such as 100, or a percentage such as 50%".to_owned();
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse().map_err(wrong)? {
                percent @ 0..=100 => Ok(Self::Percent(percent)),
                _ => Err("a percentage is 0% to 100%".to_owned()),
            },
            None => text.parse().map(Self::Number).map_err(wrong),
        }
    }
}

impl MaxDelete {
    /// Returns whether deleting `deleted` of `total` is too much.
    pub(crate) fn forbids(self, deleted: u64, total: u64) -> bool {
        match self {
            Self::Number(max) => deleted > max,
            Self::Percent(max) => u128::from(deleted) * 100 > u128::from(total) * u128::from(max),
        }
    }
}

/// Options of `fula ls`.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// What to list: `s3://bucket/prefix` or `vault:name/path`; without it, the buckets are listed
    #[arg(value_name = "PLACE")]
    pub(crate) place: Option<String>,
    /// List everything below the prefix; without this, names end at the next `/`
    #[arg(long, short)]
    pub(crate) recursive: bool,
    /// Show sizes in KiB, MiB and GiB
    #[arg(long)]
    pub(crate) human: bool,
    /// Show the number of objects and their size at the end
    #[arg(long)]
    pub(crate) summarize: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// Options of `fula du`.
#[derive(Debug, Args)]
pub(crate) struct DuArgs {
    /// What to add up: `s3://bucket/prefix` or `vault:name/path`
    #[arg(value_name = "PLACE")]
    pub(crate) place: String,
    /// Show sizes in KiB, MiB and GiB
    #[arg(long)]
    pub(crate) human: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// Options of `fula stat`.
#[derive(Debug, Args)]
pub(crate) struct StatArgs {
    /// The object, `s3://bucket/key`, or the file of a vault, `vault:name/path`
    #[arg(value_name = "OBJECT")]
    pub(crate) object: String,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// Options of `fula cat`.
#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// The object, `s3://bucket/key`, the file of a vault, `vault:name/path`, or a link of `fula vault share`
    #[arg(value_name = "OBJECT")]
    pub(crate) object: String,
    /// Bytes to write: `FROM-TO` with both counted from 0 and included, `FROM-`, or `-COUNT` for the last ones
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true)]
    pub(crate) range: Option<String>,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// Options of `fula put`.
#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// File, or `-` for standard input
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// The object, `s3://bucket/key`, or the file of a vault, `vault:name/path`
    #[arg(value_name = "OBJECT")]
    pub(crate) object: String,
    /// Write only if there is no such object
    #[arg(long, conflicts_with = "if_match")]
    pub(crate) if_absent: bool,
    /// Write only if the present object has this `ETag`, as `fula stat` shows it
    #[arg(long, value_name = "ETAG")]
    pub(crate) if_match: Option<String>,
    /// Media type [default: by the ending of the key]
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
    /// Metadata of the object; repeat it for more
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) metadata: Vec<String>,
    /// Show no progress
    #[arg(long)]
    pub(crate) no_progress: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// Options of `fula rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// What to delete: `s3://bucket/key` or `vault:name/path`, or everything below it with --recursive
    #[arg(value_name = "OBJECT")]
    pub(crate) object: String,
    /// Delete everything below the prefix
    #[arg(long, short, conflicts_with = "if_match")]
    pub(crate) recursive: bool,
    /// Delete only if the object has this `ETag`, as `fula stat` shows it
    #[arg(long, value_name = "ETAG")]
    pub(crate) if_match: Option<String>,
    /// Show what would be deleted, and delete nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

/// Options of `fula completion`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct CompletionArgs {
    /// Shell that the completion is for
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

/// A shell that completes commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Shell {
    /// The shell of GNU, from version 4
    Bash,
    /// The Z shell
    Zsh,
    /// The friendly interactive shell
    Fish,
}

/// Options of `fula man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Folder for the pages, which is made if it is missing; `man` looks in `~/.local/share/man/man1`
    #[arg(value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub(crate) folder: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_deletions_are_numbers_or_percentages() {
        let of = |text: &str| text.parse::<MaxDelete>();
        assert_eq!((of("7"), of("50%")), (Ok(MaxDelete::Number(7)), Ok(MaxDelete::Percent(50))));
        assert!(of("101%").is_err() && of("x").is_err() && of("-1").is_err());
        assert!(MaxDelete::Number(7).forbids(8, 100) && !MaxDelete::Number(7).forbids(7, 7));
        assert!(MaxDelete::Percent(50).forbids(6, 10) && !MaxDelete::Percent(50).forbids(5, 10));
        assert!(MaxDelete::Percent(0).forbids(1, u64::MAX));
    }
}
