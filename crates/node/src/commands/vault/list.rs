//! `fula ls` and `fula du` in a vault.

use std::{collections::BTreeMap, process::ExitCode};

use fula_client::{Error, Result, vault::VaultListing};
use serde_json::json;

use super::{
    place::{At, text_of},
    single::time_of,
};
use crate::{
    cli::{DuArgs, LsArgs},
    commands::objects::{ended, place::printable, size_text, time_text},
    output::{note, say},
};

/// Exit status when a file of a listing is damaged, or not genuine.
const DAMAGED: u8 = 5;

/// Lists files.
pub(in crate::commands) async fn ls(args: LsArgs) -> ExitCode {
    let json = args.remote.json;
    ended(list(args).await, json)
}

/// A line of a listing.
struct Line<'a> {
    path: &'a str,
    size: u64,
    etag: &'a str,
    modified: Option<u64>,
}

impl Line<'_> {
    fn show(&self, args: &LsArgs) {
        let modified = time_text(time_of(self.modified));
        if args.remote.json {
            let (path, size, etag) = (self.path, self.size, self.etag);
            say!("{}", json!({"path": path, "size": size, "etag": etag, "modified": modified}));
        } else {
            let size = size_text(self.size, args.human);
            say!("{modified:>20} {size:>12} {}", printable(self.path));
        }
    }
}

async fn list(args: LsArgs) -> Result<ExitCode> {
    let at = At::open(args.place.as_deref().unwrap_or_default(), &args.remote).await?;
    let listing = at.vault.list(at.path.as_bytes()).await?;
    let (mut shown, mut count, mut bytes) = (String::new(), 0_u64, 0_u64);
    for entry in &listing.entries {
        let path = String::from_utf8_lossy(entry.path.as_bytes());
        let rest = path.get(at.path.len()..).unwrap_or_default();
        if let (false, Some(end)) = (args.recursive, rest.find('/')) {
            let prefix = &path[..=at.path.len() + end];
            if shown != prefix {
                if args.remote.json {
                    say!("{}", json!({"prefix": prefix}));
                } else {
                    say!("{:>20} {:>12} {}", "", "PRE", printable(prefix));
                }
                prefix.clone_into(&mut shown);
            }
            continue;
        }
        (count, bytes) = (count + 1, bytes + entry.size);
        let (size, etag, modified) = (entry.size, &*entry.etag, entry.modified);
        Line { path: &path, size, etag, modified }.show(&args);
    }
    if args.summarize && args.remote.json {
        say!("{}", json!({"objects": count, "bytes": bytes}));
    } else if args.summarize {
        say!("{count} objects, {}", size_text(bytes, args.human));
    }
    end(&at, &listing, args.remote.json)
}

/// Names what does not open, and returns the exit status.
fn end(at: &At, listing: &VaultListing, json: bool) -> Result<ExitCode> {
    for (key, error) in &listing.refused {
        if json {
            say!("{}", json!({"failed": key, "error": error.to_string()}));
        }
        note!("fula: failed: {}: {}", printable(key), printable(&error.to_string()));
    }
    match (listing.refused.is_empty(), listing.entries.is_empty() && !at.path.is_empty()) {
        (false, _) => Ok(ExitCode::from(DAMAGED)),
        (true, true) => Err(Error::NotFound { what: at.to_string() }),
        (true, false) => Ok(ExitCode::SUCCESS),
    }
}

/// Shows how much there is below a prefix, and below each part of it.
pub(in crate::commands) async fn du(args: DuArgs) -> ExitCode {
    let json = args.remote.json;
    ended(usage(args).await, json)
}

async fn usage(args: DuArgs) -> Result<ExitCode> {
    let at = At::open(&args.place, &args.remote).await?;
    let listing = at.vault.list(at.path.as_bytes()).await?;
    let mut sizes = BTreeMap::<String, (u64, u64)>::new();
    let (mut count, mut bytes) = (0_u64, 0_u64);
    for entry in &listing.entries {
        let path = text_of(&entry.path)?;
        if let Some(end) = path.get(at.path.len()..).and_then(|rest| rest.find('/')) {
            let part = sizes.entry(at.shown(&path[..=at.path.len() + end])).or_default();
            *part = (part.0 + 1, part.1 + entry.size);
        }
        (count, bytes) = (count + 1, bytes + entry.size);
    }
    for (place, (count, bytes)) in sizes.into_iter().chain([(at.shown(&at.path), (count, bytes))]) {
        if args.remote.json {
            say!("{}", json!({"place": place, "objects": count, "bytes": bytes}));
        } else {
            say!("{:>12} {count:>9} {}", size_text(bytes, args.human), printable(&place));
        }
    }
    end(&at, &listing, args.remote.json)
}
