//! What lies below a folder, a prefix of a bucket, or a folder of a vault.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use fula_client::{Bucket, Entry, Error, ListOptions, Result, vault::Condition};
use futures::{StreamExt, pin_mut};

use super::{
    names::normal,
    place::{At, End, Side, text_of},
    single::nanoseconds,
};
use crate::commands::objects::{
    filter::Filter,
    local::{Found, Target, Walk},
    place::{Remote, folder, printable},
    report::Report,
};

/// A file or an object below a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Name below the root, as it is there.
    pub(super) name: String,
    pub(super) size: u64,
    /// Time in nanoseconds since 1970. Listings of buckets have none of a file.
    pub(super) modified: Option<u64>,
    /// Entity tag in a vault; empty elsewhere.
    pub(super) etag: String,
}

/// Items by their names below a root, in NFC.
pub(super) type Items = BTreeMap<String, Item>;

/// Items that are gathered by their names in NFC.
#[derive(Default)]
struct Gathered {
    items: Items,
    /// Names that several items have.
    shared: BTreeSet<String>,
}

impl Gathered {
    /// Adds an item. One whose name another item has, too, is reported. `shown` makes a place of a name.
    fn add(&mut self, item: Item, shown: impl Fn(&str) -> String, report: &Report) {
        let name = normal(&item.name);
        let Some(first) = self.items.get(&name) else {
            self.items.insert(name, item);
            return;
        };
        let (first, second) = (shown(&first.name), shown(&item.name));
        report.failed(&second.clone(), &Error::SameName { first, second });
        self.shared.insert(name);
    }

    /// Returns the items whose names are their own.
    fn finish(mut self) -> Items {
        self.items.retain(|name, _| !self.shared.contains(name));
        self.items
    }
}

/// Names and entity tags of the files of a vault, by their names below a root in NFC.
pub(super) struct Listed {
    files: BTreeMap<String, (String, String)>,
    /// Whether some objects did not open: any of them may have the key of a file.
    refused: bool,
}

impl Listed {
    /// Returns the name under which a file is written, and what must hold.
    pub(super) fn of<'a>(&'a self, name: &'a str) -> (&'a str, Condition) {
        match self.files.get(name) {
            Some((name, etag)) => (name, Condition::Version(etag.clone())),
            None if self.refused => (name, Condition::None),
            None => (name, Condition::Absent),
        }
    }
}

/// Where many files or objects lie.
#[derive(Clone, Debug)]
pub(super) enum Root {
    Local(PathBuf, Arc<Target>),
    /// A bucket, and a prefix that is empty or ends with a slash.
    Objects(Bucket, String),
    /// A folder of a vault, whose path is empty or ends with a slash.
    Vault(At),
}

impl Root {
    /// Returns the root of what was typed.
    ///
    /// # Errors
    /// [`Error::Invalid`] for standard input and output.
    pub(super) fn of(side: Side) -> Result<Self> {
        Ok(match side {
            Side::Standard => {
                return Err(Error::Invalid("- is one file: leave --recursive out".to_owned()));
            }
            Side::Local(path) => Self::Local(path.clone(), Arc::new(Target::new(path))),
            Side::Objects(bucket, key) => Self::Objects(bucket, folder(&key)),
            Side::Vault(at) => Self::Vault(At { path: at.folder(), ..at }),
        })
    }

    /// Returns an item as the source of a transfer. The name is that which it has there.
    pub(super) fn source(&self, name: &str) -> End {
        match self {
            Self::Local(root, _) => End::File(root.join(name)),
            Self::Objects(bucket, prefix) => End::Object(bucket.clone(), format!("{prefix}{name}")),
            Self::Vault(at) => End::Vault(below(at, name)),
        }
    }

    /// Returns an item as the target of a transfer.
    pub(super) fn target(&self, name: &str) -> End {
        match self {
            Self::Local(_, target) => End::Below(Arc::clone(target), name.to_owned()),
            Self::Objects(..) | Self::Vault(_) => self.source(name),
        }
    }

    /// Returns whether one of two roots is within the other, in the same vault.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Vault(one), Self::Vault(two)) => {
                one.vault.place() == two.vault.place()
                    && (one.path.starts_with(&two.path) || two.path.starts_with(&one.path))
            }
            _ => false,
        }
    }

    /// Returns what a vault has below the root, for the conditions of uploads; `None` for other roots.
    ///
    /// # Errors
    /// As for every request.
    pub(super) async fn listed(&self) -> Result<Option<Listed>> {
        let Self::Vault(at) = self else { return Ok(None) };
        let listing = at.vault.list(at.path.as_bytes()).await?;
        let refused = !listing.refused.is_empty();
        let files = listing.entries.into_iter().filter_map(|entry| {
            let name = text_of(&entry.path).ok()?.strip_prefix(&at.path)?.to_owned();
            Some((normal(&name), (name, entry.etag)))
        });
        Ok(Some(Listed { files: files.collect(), refused }))
    }

    /// Returns everything below the root that a filter takes. What cannot be taken is reported, and so are items
    /// whose names are the same in NFC.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is nothing, and as for every request.
    pub(super) async fn items(
        &self,
        filter: &Filter,
        follow: bool,
        report: &Report,
    ) -> Result<Items> {
        match self {
            Self::Local(root, _) => walk(root, filter, follow, report),
            Self::Objects(bucket, prefix) => objects(bucket, prefix, filter, report).await,
            Self::Vault(at) => sealed(at, filter, report).await,
        }
    }
}

fn below(at: &At, name: &str) -> At {
    At { path: format!("{}{name}", at.path), ..at.clone() }
}

fn walk(root: &Path, filter: &Filter, follow: bool, report: &Report) -> Result<Items> {
    std::fs::metadata(root).map_err(Error::io(root.display().to_string()))?;
    let (mut items, shown) =
        (Gathered::default(), |name: &str| root.join(name).display().to_string());
    for found in Walk::new(root, follow) {
        match found {
            Found::File(file) if filter.takes(&normal(&file.name)) => {
                let (name, size, modified) = (file.name, file.size, nanoseconds(file.modified));
                items.add(Item { name, size, modified, etag: String::new() }, shown, report);
            }
            Found::File(_) => {}
            Found::Skipped { path, why } => report.skipped(&path.display().to_string(), why),
            Found::Failed(error) => report.failed(&root.display().to_string(), &error),
        }
    }
    Ok(items.finish())
}

async fn objects(bucket: &Bucket, prefix: &str, filter: &Filter, report: &Report) -> Result<Items> {
    let listing = bucket.list(prefix, ListOptions::default());
    pin_mut!(listing);
    let (mut items, mut is_any) = (Gathered::default(), false);
    let remote = |name: &str| {
        let (bucket, key) = (bucket.name().to_owned(), format!("{prefix}{name}"));
        Remote { bucket, key }.to_string()
    };
    while let Some(entry) = listing.next().await {
        let Entry::Object { key, size, .. } = entry? else { continue };
        is_any = true;
        let Some(name) = key.strip_prefix(prefix) else { continue };
        // An empty object whose key ends with a slash stands for a folder.
        let is_folder = size == 0 && (name.is_empty() || name.ends_with('/'));
        if filter.takes(&normal(name)) && !is_folder {
            let (name, etag) = (name.to_owned(), String::new());
            items.add(Item { name, size, modified: None, etag }, remote, report);
        }
    }
    if is_any { Ok(items.finish()) } else { Err(Error::NotFound { what: remote("") }) }
}

async fn sealed(at: &At, filter: &Filter, report: &Report) -> Result<Items> {
    let listing = at.vault.list(at.path.as_bytes()).await?;
    for (key, error) in &listing.refused {
        report.failed(key, error);
    }
    if listing.entries.is_empty() && listing.refused.is_empty() {
        return Err(Error::NotFound { what: at.to_string() });
    }
    let (mut items, shown) = (Gathered::default(), |name: &str| below(at, name).to_string());
    for entry in listing.entries {
        match text_of(&entry.path) {
            Ok(path) => {
                let name = path.strip_prefix(&at.path).unwrap_or(path);
                if filter.takes(&normal(name)) {
                    let (name, size, etag) = (name.to_owned(), entry.size, entry.etag);
                    items.add(Item { name, size, modified: entry.modified, etag }, shown, report);
                }
            }
            Err(error) => report.failed(&printable(&at.to_string()), &error),
        }
    }
    Ok(items.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_unicode_takes_for_the_same_are_taken_by_none() {
        let (report, mut gathered) = (Report::new(false, false), Gathered::default());
        for name in ["b", "e\u{301}", "\u{e9}", "e"] {
            let (name, etag) = (name.to_owned(), String::new());
            let item = Item { name, size: 1, modified: None, etag };
            gathered.add(item, |name| format!("folder/{name}"), &report);
        }
        assert!(report.has_failed());
        assert_eq!(gathered.finish().into_keys().collect::<Vec<_>>(), ["b", "e"]);
    }
}
