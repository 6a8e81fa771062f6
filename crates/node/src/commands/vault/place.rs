//! Places in vaults: `vault:name/path`.

use std::{fmt, path::PathBuf, sync::Arc};

use fula_client::{
    Bucket, Client, Error, Result,
    vault::{Shared, Vault},
};
use fula_seal::VaultPath;

use super::{local::Local, names::normal};
use crate::{
    cli::RemoteArgs,
    commands::objects::{
        connect,
        local::Target,
        place::{Place, Remote, folder, printable},
    },
};

const SCHEME: &str = "vault:";

/// Returns whether a place is in a vault.
pub(in crate::commands) fn is_vault(place: &str) -> bool {
    place.starts_with(SCHEME)
}

/// Returns whether a text is a link to a file of a vault.
pub(in crate::commands) fn is_link(text: &str) -> bool {
    let is_url = text.starts_with("https://") || text.starts_with("http://");
    is_url && text.contains('#')
}

/// A place in a vault.
#[derive(Clone, Debug)]
pub(super) struct At {
    /// Name of the vault on this device.
    pub(super) name: String,
    pub(super) vault: Vault,
    /// Path of a file or a folder; empty for the whole vault.
    pub(super) path: String,
}

impl At {
    /// Opens a place.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no place in a vault, and as for [`Vault::open`].
    pub(super) async fn open(text: &str, remote: &RemoteArgs) -> Result<Self> {
        Self::of(text, &connect(remote)?).await
    }

    async fn of(text: &str, client: &Client) -> Result<Self> {
        let (name, path) = parts(text)?;
        let vault = Local::open()?.vault(client, name).await?;
        let path = path_of(&vault, path).await?;
        Ok(Self { name: name.to_owned(), vault, path })
    }

    /// Returns the path of one file.
    ///
    /// # Errors
    /// [`Error::Invalid`] for that of a folder.
    pub(super) fn file(&self) -> Result<VaultPath> {
        if self.path.is_empty() || self.path.ends_with('/') {
            return Err(Error::Invalid(format!(
                "{self} is a folder: write vault:{}/path/of/a/file, or give --recursive",
                self.name
            )));
        }
        Ok(VaultPath::new(self.path.as_bytes())?)
    }

    /// Returns the path as that of a folder: empty, or with a slash at its end.
    pub(super) fn folder(&self) -> String {
        folder(&self.path)
    }

    /// Returns the place of a path in the same vault.
    pub(super) fn shown(&self, path: &str) -> String {
        format!("{SCHEME}{}/{path}", self.name)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.shown(&self.path)))
    }
}

/// Splits `vault:name/path`.
fn parts(text: &str) -> Result<(&str, &str)> {
    let wrong = || Error::Invalid(format!("{text} is not in a vault: write vault:name/path"));
    let rest = text.strip_prefix(SCHEME).ok_or_else(wrong)?;
    let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
    if name.is_empty() || path.starts_with('/') { Err(wrong()) } else { Ok((name, path)) }
}

/// Returns the path that was typed: in NFC, unless another program has written a file just as it was typed.
async fn path_of(vault: &Vault, typed: &str) -> Result<String> {
    let normal = normal(typed);
    if normal == typed {
        return Ok(normal);
    }
    match vault.head(&VaultPath::new(typed)?).await {
        Err(Error::NotFound { .. }) => Ok(normal),
        Ok(_) | Err(Error::Sealed(_)) => Ok(typed.to_owned()),
        Err(error) => Err(error),
    }
}

/// Returns the text of a path.
///
/// # Errors
/// [`Error::Invalid`] for a path that is not UTF-8: another program wrote it.
pub(super) fn text_of(path: &VaultPath) -> Result<&str> {
    std::str::from_utf8(path.as_bytes()).map_err(|_| {
        let text = String::from_utf8_lossy(path.as_bytes()).into_owned();
        Error::Invalid(format!("the path {} is not UTF-8", printable(&text)))
    })
}

/// A source or a target of a copy.
#[derive(Clone, Debug)]
pub(super) enum Side {
    Standard,
    Local(PathBuf),
    /// A bucket, and a key or a prefix.
    Objects(Bucket, String),
    Vault(At),
}

/// Opens source and target. A vault that both are in is opened once.
///
/// # Errors
/// As for [`At::open`] and [`Place::parse`].
pub(super) async fn sides(source: &str, target: &str, remote: &RemoteArgs) -> Result<(Side, Side)> {
    let client = connect(remote)?;
    let source = side(source, &client).await?;
    let target = match &source {
        Side::Vault(at) if is_vault(target) && parts(target)?.0 == at.name => {
            let path = path_of(&at.vault, parts(target)?.1).await?;
            Side::Vault(At { path, ..at.clone() })
        }
        _ => side(target, &client).await?,
    };
    Ok((source, target))
}

async fn side(text: &str, client: &Client) -> Result<Side> {
    if is_vault(text) {
        return At::of(text, client).await.map(Side::Vault);
    }
    Ok(match Place::parse(text)? {
        Place::Standard => Side::Standard,
        Place::Local(path) => Side::Local(path),
        Place::Remote(Remote { bucket, key }) => Side::Objects(client.bucket(&bucket)?, key),
    })
}

/// One file or object, as source or target of a transfer.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// A local file.
    File(PathBuf),
    /// A file below a local folder, which gets what is downloaded.
    Below(Arc<Target>, String),
    Object(Bucket, String),
    /// A file of a vault, whose path the place has.
    Vault(At),
    /// A file that a link leads to.
    Link(Box<Shared>),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Below(target, name) => match target.path(name) {
                Ok(path) => path.display().fmt(f),
                Err(_) => f.write_str(&printable(name)),
            },
            Self::Object(bucket, key) => {
                Remote { bucket: bucket.name().to_owned(), key: key.clone() }.fmt(f)
            }
            Self::Vault(at) => at.fmt(f),
            Self::Link(shared) => write!(f, "link:{}", printable(&shared.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_vaults_have_a_name_and_a_path() {
        assert!(is_vault("vault:a/b") && !is_vault("s3://vault/a") && !is_vault("./vault:"));
        assert!(is_link("https://a/b/s/c#d") && !is_link("https://a/b") && !is_link("a#b"));
        assert_eq!(parts("vault:a").unwrap(), ("a", ""));
        assert_eq!(parts("vault:a/b/c").unwrap(), ("a", "b/c"));
        for wrong in ["vault:", "vault:/b", "vault:a//b", "a/b"] {
            assert!(parts(wrong).is_err(), "{wrong}");
        }
        assert!(text_of(&VaultPath::new(b"\xff".as_slice()).unwrap()).is_err());
    }
}
