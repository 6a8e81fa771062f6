//! `fula cp` and `fula mv` with a vault on one side, or on both.

use std::{path::Path, process::ExitCode, sync::Arc};

use fula_client::{
    Error, Result,
    vault::{Condition, RENAMES_MAX, Shared, VaultGetOptions, VaultPutOptions},
};
use fula_seal::VaultPath;
use futures::stream;

use super::{
    items::{Items, Root},
    jobs::{Job, Work},
    names::normal,
    place::{At, End, Side, is_link, is_vault, sides},
    single::{named, nanoseconds, write_out},
};
use crate::{
    cli::{CopyArgs, TransferArgs},
    commands::objects::{
        base, ended, filter::Filter, link_options, local::Target, place::Place, report::Action,
        split, standard_input,
    },
};

/// Copies files and objects.
pub(in crate::commands) async fn copy(args: CopyArgs) -> ExitCode {
    let json = args.transfer.remote.json;
    ended(run(args, false).await, json)
}

/// Moves files and objects.
pub(in crate::commands) async fn rename(args: CopyArgs) -> ExitCode {
    let json = args.transfer.remote.json;
    ended(run(args, true).await, json)
}

/// Refuses what no vault offers.
///
/// # Errors
/// [`Error::Invalid`].
pub(super) fn check(args: &TransferArgs) -> Result<()> {
    if args.nodes.storage_nodes {
        let text = "--storage-nodes is for objects: files of vaults go to the gateway";
        return Err(Error::Invalid(text.to_owned()));
    }
    Ok(())
}

async fn run(args: CopyArgs, is_move: bool) -> Result<ExitCode> {
    check(&args.transfer)?;
    if is_link(&args.source) {
        return from_link(&args, is_move).await;
    }
    let (source, target) = sides(&args.source, &args.target, &args.transfer.remote).await?;
    if args.recursive {
        return many(source, target, &args.transfer, is_move).await;
    }
    match (source, target) {
        (Side::Standard, Side::Vault(to)) if !is_move => {
            let (path, source) = (to.file()?, standard_input()?);
            named(to.vault.put(&path, source, VaultPutOptions::default()).await, &to)?;
            Ok(ExitCode::SUCCESS)
        }
        (Side::Vault(from), Side::Standard) if !is_move => {
            let get = from.vault.get(&from.file()?, VaultGetOptions::default()).await;
            write_out(named(get, &from)?).await.map(|()| ExitCode::SUCCESS)
        }
        (source, target) => one(source, target, &args.transfer, is_move).await,
    }
}

/// Copies what a link leads to.
async fn from_link(args: &CopyArgs, is_move: bool) -> Result<ExitCode> {
    let invalid = |text: &str| Err(Error::Invalid(text.to_owned()));
    if is_move {
        return invalid("what a link leads to can be copied, and not moved");
    }
    let transfer = &args.transfer;
    let shared = Shared::parse(&args.source, &link_options(&transfer.remote)?)?;
    let target = match Place::parse(&args.target) {
        Ok(Place::Local(path)) if !is_vault(&args.target) => path,
        Ok(Place::Standard) => {
            let get = shared.get(VaultGetOptions::default()).await?;
            return write_out(get).await.map(|()| ExitCode::SUCCESS);
        }
        _ => return invalid("what a link leads to is copied to a file, a folder or -"),
    };
    let work = Work::new(transfer, false);
    if shared.is_folder() != args.recursive {
        let file = "the link leads to one file: leave --recursive out";
        let folder = "the link leads to a folder: give --recursive to copy what is in it";
        return invalid(if args.recursive { file } else { folder });
    }
    let job = |file: Shared, target: &Arc<Target>, name: String| {
        let (size, to) = (file.size.unwrap_or_default(), End::Below(Arc::clone(target), name));
        Job { from: End::Link(Box::new(file)), to, size, modified: None, listed: Condition::None }
    };
    if !args.recursive {
        let (folder, name) = split(&target, &shared.name)?;
        let job = job(shared, &Arc::new(Target::new(folder)), name);
        work.run_all(stream::iter([job]), transfer).await;
        return Ok(work.report.end(true));
    }
    let (filter, target) = (Filter::new(&transfer.filter), Arc::new(Target::new(target)));
    let files = shared.files().await?.into_iter().filter(|file| filter.takes(&file.name));
    let jobs = files.map(|file| {
        let name = file.name.clone();
        job(file, &target, name)
    });
    work.run_all(stream::iter(jobs), transfer).await;
    Ok(work.report.end(false))
}

/// A single source.
struct Single {
    end: End,
    /// Last part of its name.
    name: String,
    size: u64,
    modified: Option<u64>,
}

async fn single(source: Side) -> Result<Single> {
    match source {
        Side::Standard => Err(Error::Invalid("- cannot be moved".to_owned())),
        Side::Local(path) => local(&path),
        Side::Objects(bucket, key) => {
            if key.is_empty() || key.ends_with('/') {
                let text = "the source is a folder: give --recursive to copy what is below it";
                return Err(Error::Invalid(text.to_owned()));
            }
            let size = bucket.head(&key).await?.size;
            let name = base(&key).to_owned();
            Ok(Single { end: End::Object(bucket, key), name, size, modified: None })
        }
        Side::Vault(at) => {
            let entry = named(at.vault.head(&at.file()?).await, &at)?;
            let (name, size) = (base(&at.path).to_owned(), entry.size);
            Ok(Single { end: End::Vault(at), name, size, modified: entry.modified })
        }
    }
}

fn local(path: &Path) -> Result<Single> {
    let shown = path.display().to_string();
    let metadata = std::fs::metadata(path).map_err(Error::io(&shown))?;
    if metadata.is_dir() {
        let text = format!("{shown} is a folder: give --recursive to copy what is in it");
        return Err(Error::Invalid(text));
    }
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Error::Invalid(format!("{shown} names no file")))?.to_owned();
    let (size, modified) = (metadata.len(), nanoseconds(metadata.modified().ok()));
    Ok(Single { end: End::File(path.to_owned()), name, size, modified })
}

/// Returns the target for a source with a name: below a target that is a folder.
fn within(target: Side, name: &str) -> Result<End> {
    let joined = |key: String, name: &str| {
        let is_folder = key.is_empty() || key.ends_with('/');
        if is_folder { format!("{key}{name}") } else { key }
    };
    Ok(match target {
        Side::Standard => return Err(Error::Invalid("- cannot be moved to".to_owned())),
        Side::Local(path) => {
            let (folder, name) = split(&path, name)?;
            End::Below(Arc::new(Target::new(folder)), name)
        }
        Side::Objects(bucket, key) => End::Object(bucket, joined(key, name)),
        Side::Vault(at) => End::Vault(At { path: joined(at.path.clone(), &normal(name)), ..at }),
    })
}

async fn one(source: Side, target: Side, args: &TransferArgs, is_move: bool) -> Result<ExitCode> {
    let Single { end: from, name, size, modified } = single(source).await?;
    let to = within(target, &name)?;
    let work = Work::new(args, is_move);
    work.run_all(stream::iter([Job { from, to, size, modified, listed: Condition::None }]), args)
        .await;
    Ok(work.report.end(true))
}

async fn many(source: Side, target: Side, args: &TransferArgs, is_move: bool) -> Result<ExitCode> {
    let (source, target) = (Root::of(source)?, Root::of(target)?);
    if source.overlaps(&target) {
        return Err(Error::Invalid("one of source and target is within the other".to_owned()));
    }
    let (work, filter) = (Work::new(args, is_move), Filter::new(&args.filter));
    let items = source.items(&filter, args.follow_symlinks, &work.report).await?;
    match (&source, &target) {
        (Root::Vault(from), Root::Vault(to))
            if is_move && from.vault.place() == to.vault.place() =>
        {
            rename_all(from, to, &items, args.dry_run, &work).await;
        }
        _ => {
            let there = target.listed().await?;
            let jobs = items.into_iter().map(|(name, item)| {
                let none = || (name.as_str(), Condition::None);
                let (to, listed) = there.as_ref().map_or_else(none, |there| there.of(&name));
                let (from, to) = (source.source(&item.name), target.target(to));
                Job { from, to, size: item.size, modified: item.modified, listed }
            });
            work.run_all(stream::iter(jobs), args).await;
        }
    }
    Ok(work.report.end(false))
}

/// Renames files within a vault, many in one step.
async fn rename_all(from: &At, to: &At, items: &Items, dry_run: bool, work: &Work) {
    let names: Vec<_> = items.iter().collect();
    for names in names.chunks(RENAMES_MAX) {
        let pair = |old: &str, new: &str| -> Result<_> {
            let path = |at: &At, name| VaultPath::new(format!("{}{name}", at.path));
            Ok((path(from, old)?, path(to, new)?))
        };
        let pairs: Result<Vec<_>> =
            names.iter().map(|(name, item)| pair(&item.name, name)).collect();
        let done = match pairs {
            Ok(_) if dry_run => Ok(()),
            Ok(pairs) => from.vault.rename_many(&pairs).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            work.report.failed(&format!("{from} ({} files, all or none)", names.len()), &error);
            continue;
        }
        for (name, item) in names {
            let place = |at: &At, name: &str| at.shown(&format!("{}{name}", at.path));
            let (from, to) = (place(from, &item.name), place(to, name));
            work.report.done(Action::Move, &from, Some(&to), item.size);
        }
    }
}
