//! `fula sync` with a vault on one side, or on both.

use std::process::ExitCode;

use fula_client::{
    Bucket, Error, Result, mtime_of,
    vault::{Condition, VaultEntry},
};
use fula_seal::VaultPath;
use futures::{StreamExt, stream};

use super::{
    copy::check,
    items::{Item, Items, Root},
    jobs::{Job, Work},
    place::{End, sides},
    remove,
    single::nanoseconds,
};
use crate::{
    cli::{MaxDelete, SyncArgs},
    commands::objects::{ended, filter::Filter, report::Action},
    output::note,
};

/// Makes the target like the source.
pub(in crate::commands) async fn sync(args: SyncArgs) -> ExitCode {
    let json = args.transfer.remote.json;
    ended(run(args).await, json)
}

async fn run(args: SyncArgs) -> Result<ExitCode> {
    check(&args.transfer)?;
    if args.checksum {
        return Err(Error::Invalid(
            "--checksum is for objects: a vault has no checksums of contents, and compares sizes and times"
                .to_owned(),
        ));
    }
    let (source, target) = sides(&args.source, &args.target, &args.transfer.remote).await?;
    let (source, target) = (Root::of(source)?, Root::of(target)?);
    if source.overlaps(&target) {
        return Err(Error::Invalid("one of source and target is within the other".to_owned()));
    }
    let (work, filter) = (Work::new(&args.transfer, false), Filter::new(&args.transfer.filter));
    let follow = args.transfer.follow_symlinks;
    let from = match source.items(&filter, follow, &work.report).await {
        // A folder that is empty makes the target empty, but a typing error must not.
        Err(error @ Error::NotFound { .. }) => return Err(error),
        items => items?,
    };
    let to = match target.items(&filter, follow, &work.report).await {
        Err(Error::NotFound { .. }) => Items::new(),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Items::new()
        }
        items => items?,
    };
    let pairs = from.iter().map(|(name, item)| (name, item, to.get(name)));
    let compare = Compare { source: &source, target: &target, size_only: args.size_only };
    let at_once = usize::try_from(args.transfer.transfers).unwrap_or(usize::MAX);
    let jobs = stream::iter(pairs)
        .map(|(name, item, other)| compare.job(name, item, other, &work))
        .buffered(at_once)
        .filter_map(std::future::ready);
    work.run_all(jobs, &args.transfer).await;
    if args.delete {
        let extra = to.iter().filter(|(name, _)| !from.contains_key(*name));
        let extra = extra.map(|(name, item)| (name.clone(), item.clone())).collect();
        delete(&target, extra, to.len(), &work, &args).await?;
    }
    Ok(work.report.end(false))
}

/// Decides whether a pair differs.
struct Compare<'a> {
    source: &'a Root,
    target: &'a Root,
    size_only: bool,
}

impl Compare<'_> {
    async fn job(&self, name: &str, item: &Item, other: Option<&Item>, work: &Work) -> Option<Job> {
        if let Some(other) = other {
            match self.is_same(item, other).await {
                Ok(true) => {
                    work.report.same();
                    return None;
                }
                Ok(false) => {}
                Err(error) => {
                    work.report.failed(name, &error);
                    return None;
                }
            }
        }
        // A file that is there keeps its name.
        let there = other.map_or(name, |other| &other.name);
        let (from, to) = (self.source.source(&item.name), self.target.target(there));
        // Without an entity tag, the target is no vault.
        let listed = match (self.target, other) {
            (Root::Vault(_), Some(other)) => Condition::Version(other.etag.clone()),
            (Root::Vault(_), None) if !work.report.has_failed() => Condition::Absent,
            _ => Condition::None,
        };
        Some(Job { from, to, size: item.size, modified: item.modified, listed })
    }

    async fn is_same(&self, item: &Item, other: &Item) -> Result<bool> {
        if item.size != other.size || self.size_only {
            return Ok(item.size == other.size);
        }
        let one = time(self.source, item).await?;
        Ok(one.is_some() && one == time(self.target, other).await?)
    }
}

/// Returns the time of an item. Of an object, it is in its metadata.
async fn time(root: &Root, item: &Item) -> Result<Option<u64>> {
    match root {
        Root::Local(..) | Root::Vault(_) => Ok(item.modified),
        Root::Objects(bucket, prefix) => {
            let meta = bucket.head(&format!("{prefix}{}", item.name)).await?;
            Ok(nanoseconds(mtime_of(&meta.metadata).or(meta.modified)))
        }
    }
}

/// Deletes what only the target has, unless something failed or it would be too much.
async fn delete(
    target: &Root,
    extra: Items,
    total: usize,
    work: &Work,
    args: &SyncArgs,
) -> Result<()> {
    if work.report.has_failed() {
        note!("fula: nothing was deleted, because something failed");
        return Ok(());
    }
    let (count, total) = (extra.len() as u64, total as u64);
    if args.max_delete.forbids(count, total) {
        let max = match args.max_delete {
            MaxDelete::Number(max) => max.to_string(),
            MaxDelete::Percent(max) => format!("{max}%"),
        };
        let text = format!(
            "nothing was deleted: {count} of {total} would be, which is more than --max-delete {max} allows"
        );
        work.report.failed("sync --delete", &Error::Invalid(text));
        return Ok(());
    }
    let dry_run = args.transfer.dry_run;
    if let Root::Vault(at) = target {
        let entry = |item: Item| -> Result<VaultEntry> {
            let path = VaultPath::new(format!("{}{}", at.path, item.name))?;
            Ok(VaultEntry { path, size: item.size, modified: item.modified, etag: item.etag })
        };
        let entries = extra.into_values().map(entry).collect::<Result<_>>()?;
        remove::delete(at, entries, dry_run, &work.report).await;
        return Ok(());
    }
    for item in extra.into_values() {
        let end = target.source(&item.name);
        let done = if dry_run { Ok(()) } else { remove_one(&end).await };
        match done {
            Ok(()) => work.report.done(Action::Delete, &end.to_string(), None, item.size),
            Err(error) => work.report.failed(&end.to_string(), &error),
        }
    }
    Ok(())
}

async fn remove_one(end: &End) -> Result<()> {
    match end {
        End::File(path) => {
            std::fs::remove_file(path).map_err(Error::io(path.display().to_string()))
        }
        End::Object(bucket, key) => remove_object(bucket, key).await,
        End::Below(..) | End::Vault(_) | End::Link(_) => Ok(()),
    }
}

async fn remove_object(bucket: &Bucket, key: &str) -> Result<()> {
    bucket.delete(key, fula_client::DeleteOptions::default()).await.map(drop)
}
