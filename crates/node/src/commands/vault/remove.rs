//! `fula rm` in a vault.

use std::process::ExitCode;

use fula_client::{
    Error, Result,
    vault::{Condition, VaultEntry},
};
use futures::{StreamExt, stream};

use super::{
    place::{At, text_of},
    single::named,
};
use crate::{
    cli::RmArgs,
    commands::objects::{
        ended,
        filter::Filter,
        report::{Action, Report},
    },
};

/// Requests in flight.
const AT_ONCE: usize = 16;

/// Deletes a file, or everything below a folder.
pub(in crate::commands) async fn rm(args: RmArgs) -> ExitCode {
    let json = args.remote.json;
    ended(remove(args).await, json)
}

async fn remove(args: RmArgs) -> Result<ExitCode> {
    let at = At::open(&args.object, &args.remote).await?;
    let report = Report::new(args.remote.json, args.dry_run);
    if !args.recursive {
        let path = at.file()?;
        let entry = match named(at.vault.head(&path).await, &at) {
            // What does not open can be deleted, too.
            Err(Error::Sealed(_)) if args.if_match.is_none() => None,
            entry => Some(entry?),
        };
        if !args.dry_run {
            let etag = args.if_match.map(|etag| etag.trim_matches('"').to_owned());
            let condition = etag.map_or(Condition::None, Condition::Version);
            named(at.vault.delete(&path, condition).await, &at)?;
        }
        let size = entry.map_or(0, |entry| entry.size);
        report.done(Action::Delete, &at.to_string(), None, size);
        return Ok(report.end(true));
    }
    let (filter, folder) = (Filter::new(&args.filter), at.folder());
    let listing = at.vault.list(folder.as_bytes()).await?;
    for (key, error) in &listing.refused {
        report.failed(key, error);
    }
    if listing.entries.is_empty() && listing.refused.is_empty() {
        return Err(Error::NotFound { what: at.to_string() });
    }
    let mut taken = Vec::new();
    for entry in listing.entries {
        match text_of(&entry.path) {
            Ok(path) if !filter.takes(path.strip_prefix(&folder).unwrap_or(path)) => {}
            Ok(_) => taken.push(entry),
            Err(error) => report.failed(&at.to_string(), &error),
        }
    }
    delete(&at, taken, args.dry_run, &report).await;
    Ok(report.end(false))
}

/// Deletes files in the versions that were listed, and reports each.
pub(super) async fn delete(at: &At, entries: Vec<VaultEntry>, dry_run: bool, report: &Report) {
    let deletions = stream::iter(entries).map(|entry| async move {
        let path = String::from_utf8_lossy(entry.path.as_bytes()).into_owned();
        let file = At { path, ..at.clone() };
        let condition = Condition::Version(entry.etag.clone());
        let done = if dry_run {
            Ok(())
        } else {
            named(at.vault.delete(&entry.path, condition).await, &file).map(drop)
        };
        (file.to_string(), entry.size, done)
    });
    deletions
        .buffered(AT_ONCE)
        .for_each(|(place, size, done)| {
            match done {
                Ok(()) => report.done(Action::Delete, &place, None, size),
                Err(error) => report.failed(&place, &error),
            }
            std::future::ready(())
        })
        .await;
}
