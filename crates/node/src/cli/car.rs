//! Options of the commands about buckets as CAR files.

use std::{path::PathBuf, str::FromStr};

use clap::Args;
use reqwest::Url;

use super::AdminArgs;

/// Options of `fula export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Name of the bucket; with @VERSION the bucket as it was at a version that `fula roots log` lists
    #[arg(value_name = "BUCKET[@VERSION]")]
    pub(crate) bucket: Versioned,
    /// Leave out what the bucket had at this version, for a target that has it; such a file cannot be imported
    /// by itself
    #[arg(long, value_name = "VERSION")]
    pub(crate) since: Option<u64>,
    /// Owner of the bucket: a user of access keys, a wallet, or an owner id as `fula roots show` prints it;
    /// needed if several have a bucket of this name
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// File to write, which appears once it is whole [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) common: AdminArgs,
}

/// The bucket that a file becomes.
#[derive(Clone, Debug, Args)]
pub(crate) struct TargetArgs {
    /// Name of the bucket [default: the one that its root names]
    #[arg(long, value_name = "NAME")]
    pub(crate) bucket: Option<String>,
    /// Owner of the bucket: a user of access keys, a wallet, or an owner id [default: the one that its root
    /// names]
    #[arg(long)]
    pub(crate) user: Option<String>,
}

/// Options of `fula import`.
#[derive(Debug, Args)]
pub(crate) struct ImportCarArgs {
    /// CAR file of a bucket; `-` for standard input
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) common: AdminArgs,
}

/// Options of `fula restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Name of the bucket in a backup; for other sources the CID of the bucket's root, as `fula roots show`
    /// prints it
    #[arg(value_name = "BUCKET|ROOT", required_unless_present = "all")]
    pub(crate) what: Option<String>,
    /// Where the bucket is: backup:PLACE as `fula backup` names it, car:FILE, kubo:URL for the RPC of a kubo, or
    /// gateway:URL for an IPFS gateway. The path of a file with a token may follow the URL after #
    #[arg(long, value_name = "SOURCE")]
    pub(crate) from: BlockSource,
    /// Backup to restore: its id; a time such as 2026-11-30T12:00:00Z, for the newest one made by then; or a
    /// version, for the newest one with this version of the bucket [default: the newest]
    #[arg(long, value_name = "VERSION|TIME|BACKUP")]
    pub(crate) at: Option<String>,
    /// Restore all buckets of the backup, and the access keys and revocations that are missing
    #[arg(long, conflicts_with_all = ["what", "bucket"])]
    pub(crate) all: bool,
    /// With --all, restore no access keys. Revocations come back all the same, so that nobody who was refused is
    /// let in again
    #[arg(long, requires = "all")]
    pub(crate) buckets_only: bool,
    /// File with the key that encrypts the backups, mode 0600
    #[arg(long, env = "FULA_BACKUP_KEY_FILE", value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) common: AdminArgs,
}

/// A bucket, and perhaps a version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Versioned {
    pub(crate) bucket: String,
    pub(crate) version: Option<u64>,
}

impl FromStr for Versioned {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((bucket, version)) = text.split_once('@') else {
            return Ok(Self { bucket: text.to_owned(), version: None });
        };
        let version = version.parse().ok().filter(|version| *version > 0);
        let wrong = || "after @ stands a version of the bucket, a number from 1".to_owned();
        Ok(Self { bucket: bucket.to_owned(), version: Some(version.ok_or_else(wrong)?) })
    }
}

/// Where the blocks of a bucket come from.
#[derive(Clone, Debug)]
pub(crate) enum BlockSource {
    /// A CAR file; `-` for standard input.
    Car(PathBuf),
    /// The RPC of a kubo.
    Kubo(Endpoint),
    /// An IPFS gateway.
    Gateway(Endpoint),
    /// The backups at a place.
    Backup(String),
}

impl FromStr for BlockSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("car", file)) if !file.is_empty() => Ok(Self::Car(file.into())),
            Some(("kubo", url)) => Ok(Self::Kubo(url.parse()?)),
            Some(("gateway", url)) => Ok(Self::Gateway(url.parse()?)),
            Some(("backup", place)) if !place.is_empty() => Ok(Self::Backup(place.to_owned())),
            // A URL is not repeated: it may hold a password.
            _ if text.starts_with(['.', '/']) => Err(format!(
                "it is backup:PLACE, car:FILE, kubo:URL or gateway:URL; is backup:{text} meant?"
            )),
            _ => Err("it is backup:PLACE, car:FILE, kubo:URL or gateway:URL".to_owned()),
        }
    }
}

/// A URL, and the file of a token for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) url: Url,
    pub(crate) token_file: Option<PathBuf>,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (url, file) = match text.split_once('#') {
            Some((url, file)) => (url, Some(PathBuf::from(file))),
            None => (text, None),
        };
        // The URL is not repeated: it may hold a password.
        let mut url = Url::parse(url).map_err(|_| "the URL is malformed".to_owned())?;
        if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
            return Err("the URL begins with http:// or https://".to_owned());
        }
        if url.query().is_some() || !url.username().is_empty() || url.password().is_some() {
            let text =
                "the URL has no query, user name or password: name the file of a token after #";
            return Err(text.to_owned());
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Ok(Self { url, token_file: file })
    }
}

impl Endpoint {
    /// Returns the URL of a path below this one.
    pub(crate) fn at(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        let below = format!("{}/{path}", url.path().trim_end_matches('/'));
        url.set_path(&below);
        url
    }

    /// Returns the URL for people.
    pub(crate) fn shown(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_may_have_a_version() {
        let parse =
            |text: &str| text.parse::<Versioned>().map(|found| (found.bucket, found.version));
        assert_eq!(parse("photos").unwrap(), ("photos".to_owned(), None));
        assert_eq!(parse("photos@12").unwrap(), ("photos".to_owned(), Some(12)));
        for wrong in ["photos@", "photos@0", "photos@x", "photos@-1"] {
            assert!(parse(wrong).unwrap_err().contains("number from 1"), "{wrong}");
        }
    }

    #[test]
    fn sources_and_endpoints_are_read() {
        assert!(matches!("car:a:b.car".parse(), Ok(BlockSource::Car(file)) if file == *"a:b.car"));
        let Ok(BlockSource::Kubo(kubo)) = "kubo:http://127.0.0.1:5001#/etc/token".parse() else {
            panic!("it is a kubo");
        };
        assert_eq!(kubo.token_file.as_deref(), Some(std::path::Path::new("/etc/token")));
        assert_eq!(kubo.at("api/v0/id").as_str(), "http://127.0.0.1:5001/api/v0/id");
        assert_eq!(kubo.shown(), "http://127.0.0.1:5001");
        let Ok(BlockSource::Gateway(gateway)) = "gateway:https://host/below/".parse() else {
            panic!("it is a gateway");
        };
        assert_eq!(gateway.at("ipfs/x").as_str(), "https://host/below/ipfs/x");
        let backup: BlockSource = "backup:s3://bucket/x".parse().unwrap();
        assert!(matches!(backup, BlockSource::Backup(place) if place == "s3://bucket/x"));
        for wrong in
            ["car:", "backup:", "http://x", "kubo:x", "kubo:ftp://x", "gateway:http://u:p@x", ""]
        {
            assert!(wrong.parse::<BlockSource>().is_err(), "{wrong}");
        }
    }
}
