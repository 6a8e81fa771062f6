//! `fula rm`, and deleting many objects.

use std::process::ExitCode;

use fula_client::{Bucket, DELETE_MAX, DeleteOptions, Entry, Error, ListOptions, Result};
use futures::{StreamExt, pin_mut};

use super::{
    connect, ended,
    filter::Filter,
    place::{Place, Remote, folder},
    report::{Action, Report},
};
use crate::cli::RmArgs;

/// Deletes an object, or everything below a prefix.
pub(crate) async fn rm(args: RmArgs) -> ExitCode {
    let json = args.remote.json;
    ended(remove(args).await, json)
}

async fn remove(args: RmArgs) -> Result<ExitCode> {
    let from =
        if args.recursive { Place::remote(&args.object)? } else { Place::object(&args.object)? };
    let bucket = connect(&args.remote)?.bucket(&from.bucket)?;
    let report = Report::new(args.remote.json, args.dry_run);
    if !args.recursive {
        let size = bucket.head(&from.key).await?.size;
        if !args.dry_run {
            let if_match = args.if_match.map(|etag| etag.trim_matches('"').to_owned());
            bucket.delete(&from.key, DeleteOptions { if_match }).await?;
        }
        report.done(Action::Delete, &from.to_string(), None, size);
        return Ok(report.end(true));
    }
    let (filter, prefix) = (Filter::new(&args.filter), folder(&from.key));
    let entries = bucket.list(&prefix, ListOptions::default());
    pin_mut!(entries);
    let (mut batch, mut is_any) = (Vec::new(), false);
    while let Some(entry) = entries.next().await {
        let Entry::Object { key, size, .. } = entry? else { continue };
        is_any = true;
        if !filter.takes(key.strip_prefix(&prefix).unwrap_or(&key)) {
            continue;
        }
        batch.push((key, size));
        if batch.len() == DELETE_MAX {
            delete(&bucket, std::mem::take(&mut batch), args.dry_run, &report).await;
        }
    }
    delete(&bucket, batch, args.dry_run, &report).await;
    if !is_any {
        return Err(Error::NotFound { what: from.to_string() });
    }
    Ok(report.end(false))
}

/// Deletes objects with one request, and reports each.
pub(super) async fn delete(
    bucket: &Bucket,
    batch: Vec<(String, u64)>,
    dry_run: bool,
    report: &Report,
) {
    let name =
        |key: &str| Remote { bucket: bucket.name().to_owned(), key: key.to_owned() }.to_string();
    let keys: Vec<String> = batch.iter().map(|(key, _)| key.clone()).collect();
    let failures =
        if keys.is_empty() || dry_run { Ok(Vec::new()) } else { bucket.delete_many(&keys).await };
    let failures = match failures {
        Ok(failures) => failures,
        Err(error) => {
            for key in &keys {
                report.failed(&name(key), &error);
            }
            return;
        }
    };
    for (key, size) in batch {
        match failures.iter().find(|failure| failure.key == key) {
            Some(failure) => report.failed(&name(&key), &failure.error),
            None => report.done(Action::Delete, &name(&key), None, size),
        }
    }
}
