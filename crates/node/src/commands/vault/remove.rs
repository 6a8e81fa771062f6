//! `fula rm` in a vault.

use std::process::ExitCode;

use fula_client::{
    Error, Result,
    vault::{Condition, VaultEntry},
};
use futures::{StreamExt, stream};

use super::{
    names::normal,
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

/// Files that one request deletes.
const TOGETHER: usize = 500;
/// Requests in flight.
const AT_ONCE: usize = 4;

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
            Ok(path) if !filter.takes(&normal(path.strip_prefix(&folder).unwrap_or(path))) => {}
            Ok(_) => taken.push(entry),
            Err(error) => report.failed(&at.to_string(), &error),
        }
    }
    delete(&at, taken, args.dry_run, &report).await;
    Ok(report.end(false))
}

/// Deletes files in the versions that were listed, many with one request, and reports each.
pub(super) async fn delete(at: &At, entries: Vec<VaultEntry>, dry_run: bool, report: &Report) {
    let requests = stream::iter(entries.chunks(TOGETHER)).map(|entries| async move {
        if dry_run {
            return (entries, Ok(entries.iter().map(|_| Ok(())).collect()));
        }
        let files = entries.iter().map(|entry| (entry.path.clone(), entry.etag.clone()));
        let files: Vec<_> = files.collect();
        (entries, at.vault.delete_many(&files).await)
    });
    let mut requests = requests.buffered(AT_ONCE);
    while let Some((entries, done)) = requests.next().await {
        let (mut results, failed): (_, Option<Error>) = match done {
            Ok(results) => (results.into_iter(), None),
            Err(error) => (Vec::new().into_iter(), Some(error)),
        };
        for entry in entries {
            let path = String::from_utf8_lossy(entry.path.as_bytes()).into_owned();
            let file = At { path, ..at.clone() };
            match (results.next().map(|result| named(result, &file)), &failed) {
                (Some(Ok(())), _) => {
                    report.done(Action::Delete, &file.to_string(), None, entry.size);
                }
                (Some(Err(error)), _) => report.failed(&file.to_string(), &error),
                (None, Some(error)) => report.failed(&file.to_string(), error),
                (None, None) => report.failed(&file.to_string(), &Error::Canceled),
            }
        }
    }
}
