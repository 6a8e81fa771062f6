//! Checks the settings of pins.

use std::{path::Path, time::Duration};

use fula_core::{BucketAddress, BucketName, OwnerId};
use zeroize::Zeroizing;

use super::ConfigError;
use crate::{
    cli::{Endpoint, PinSettings},
    files::{self, FileError},
    user::owner_id,
};

/// A token for a target. It is never shown.
#[derive(Clone)]
pub(crate) struct Token(Zeroizing<String>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    pub(super) fn read(file: &Path) -> Result<Self, FileError> {
        let bytes = files::read_secret(file)?;
        Ok(Self(Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned())))
    }

    /// Returns the token.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// Returns user name and password, if it is both with a colon between.
    pub(crate) fn basic(&self) -> Option<(&str, &str)> {
        self.0.split_once(':')
    }
}

/// The interface of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetKind {
    /// The RPC of a kubo.
    Kubo,
    /// The REST interface of an ipfs-cluster.
    Cluster,
    /// The IPFS Pinning Service API.
    Psa,
}

/// Something that pins buckets.
#[derive(Clone, Debug)]
pub(crate) struct PinTarget {
    pub(crate) kind: TargetKind,
    pub(crate) endpoint: Endpoint,
    pub(crate) token: Option<Token>,
}

impl PinTarget {
    /// Returns the name of the target in records, metrics and lists.
    pub(crate) fn name(&self) -> String {
        let kind = match self.kind {
            TargetKind::Kubo => "kubo",
            TargetKind::Cluster => "cluster",
            TargetKind::Psa => "psa",
        };
        format!("{kind}:{}", self.endpoint.shown())
    }
}

/// Which buckets are pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PinChoice {
    /// Whether owners choose, with a tag of the bucket.
    pub(crate) tagged: bool,
    /// Whether all are.
    pub(crate) all: bool,
    named: Vec<(Option<OwnerId>, BucketName)>,
}

impl PinChoice {
    fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut found = Self::default();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            match item {
                "tagged" => found.tagged = true,
                "*" => found.all = true,
                item => {
                    let (user, name) = match item.rsplit_once('/') {
                        Some((user, name)) => (Some(user), name),
                        None => (None, item),
                    };
                    let name = BucketName::parse(name).map_err(|_| ConfigError::Value {
                        name: "--pin-buckets",
                        value: item.to_owned(),
                        expected: "it is a list of tagged, *, BUCKET and USER/BUCKET, separated by commas",
                    })?;
                    found.named.push((user.map(owner_id), name));
                }
            }
        }
        Ok(found)
    }

    /// Returns whether the operator has chosen a bucket.
    pub(crate) fn names(&self, bucket: &BucketAddress) -> bool {
        let fits = |(owner, name): &(Option<OwnerId>, BucketName)| {
            *name == bucket.name && owner.is_none_or(|owner| owner == bucket.owner)
        };
        self.all || self.named.iter().any(fits)
    }
}

/// What is pinned, and where.
#[derive(Clone, Debug)]
pub(crate) struct PinConfig {
    pub(crate) targets: Vec<PinTarget>,
    pub(crate) buckets: PinChoice,
    /// Least time between two changes of one pin.
    pub(crate) interval: Duration,
}

impl PinConfig {
    /// Checks that the settings are valid.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub(super) fn check(settings: &PinSettings) -> Result<Self, ConfigError> {
        let name = "--pins";
        // The value is not repeated: a URL may hold a password by mistake.
        let wrong =
            |n: usize, expected| ConfigError::Value { name, value: format!("entry {n}"), expected };
        let mut targets: Vec<PinTarget> = Vec::new();
        let text = settings.pins.as_deref().unwrap_or_default();
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        for (n, item) in items.enumerate().map(|(n, item)| (n + 1, item)) {
            let expected = "it is kubo:URL, cluster:URL or psa:URL, with a token file after # if one is needed";
            let (kind, url) = item.split_once(':').ok_or_else(|| wrong(n, expected))?;
            let kind = match kind {
                "kubo" => TargetKind::Kubo,
                "cluster" => TargetKind::Cluster,
                "psa" => TargetKind::Psa,
                _ => return Err(wrong(n, expected)),
            };
            let endpoint: Endpoint = url.parse().map_err(|_| wrong(n, expected))?;
            let token = endpoint.token_file.as_deref().map(Token::read).transpose();
            let token = token.map_err(FileError::of_setting("--pins (FULA_PINS)"))?;
            let target = PinTarget { kind, endpoint, token };
            if targets.iter().any(|other| other.name() == target.name()) {
                return Err(wrong(n, "every target stands there once"));
            }
            targets.push(target);
        }
        let is_kubo = |target: &PinTarget| target.kind == TargetKind::Kubo;
        if !targets.is_empty() && !targets.iter().any(is_kubo) {
            let expected =
                "a kubo must be among them: clusters and pinning services fetch the blocks from it";
            return Err(wrong(1, expected));
        }
        let buckets = PinChoice::parse(&settings.pin_buckets)?;
        Ok(Self { targets, buckets, interval: settings.pin_interval.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pins: &str, buckets: &str) -> Result<PinConfig, String> {
        let settings = PinSettings {
            pins: Some(pins.to_owned()),
            pin_buckets: buckets.to_owned(),
            pin_interval: "1s".parse().unwrap(),
        };
        PinConfig::check(&settings).map_err(|error| error.to_string())
    }

    #[test]
    fn targets_are_read_in_order() {
        let found =
            check("kubo:http://127.0.0.1:5001, cluster:http://c:9094,psa:https://p/v1", "*")
                .unwrap();
        let names: Vec<String> = found.targets.iter().map(PinTarget::name).collect();
        assert_eq!(
            names,
            ["kubo:http://127.0.0.1:5001", "cluster:http://c:9094", "psa:https://p/v1"]
        );
        assert!(check("", "tagged").unwrap().targets.is_empty());
        for (pins, text) in [
            ("http://127.0.0.1:5001", "entry 1"),
            ("kubo:http://k,ftp:x", "entry 2"),
            ("kubo:ftp://secret@x", "kubo:URL"),
            ("cluster:http://c", "a kubo must be among them"),
            ("kubo:http://k,kubo:http://k/", "once"),
            ("kubo:http://k#/no/such/file", "/no/such/file"),
        ] {
            let wrong = check(pins, "*").unwrap_err();
            assert!(wrong.contains(text) && !wrong.contains("secret"), "{wrong}");
        }
    }

    #[test]
    fn buckets_are_chosen_by_name_and_owner() {
        let choice = check("", "tagged, photos, carol/private").unwrap().buckets;
        let bucket = |user: &str, name: &str| {
            BucketAddress::new(OwnerId::of_user(user), BucketName::parse(name).unwrap())
        };
        assert!(choice.tagged && choice.names(&bucket("key:any", "photos")));
        assert!(choice.names(&bucket("key:carol", "private")));
        assert!(!choice.names(&bucket("key:dave", "private")));
        assert!(check("", "*").unwrap().buckets.names(&bucket("key:dave", "private")));
        assert!(check("", "NO NAME").unwrap_err().contains("USER/BUCKET"));
    }
}
