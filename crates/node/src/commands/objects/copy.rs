//! `fula cp` and `fula mv`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use fula_client::{Client, Entry, Error, GetOptions, ListOptions, PutOptions, Result};
use futures::{Stream, StreamExt, stream};

use super::{
    connect, ended,
    filter::Filter,
    jobs::{Job, Work, content_type},
    local::{Found, Target, Walk},
    place::{Place, Remote, folder},
    progress::{Progress, Shown},
    report::Report,
    single,
    together::{self, alone, units},
};
use crate::{
    cli::{CopyArgs, TransferArgs},
    output::note,
};

/// Copies files and objects.
pub(crate) async fn copy(args: CopyArgs) -> ExitCode {
    let json = args.transfer.remote.json;
    ended(run(args, false).await, json)
}

/// Moves files and objects.
pub(crate) async fn rename(args: CopyArgs) -> ExitCode {
    let json = args.transfer.remote.json;
    ended(run(args, true).await, json)
}

/// Returns what the transfers of a command share.
pub(super) fn work(
    client: Client,
    args: &TransferArgs,
    target: Option<PathBuf>,
    is_move: bool,
) -> Work {
    Work {
        storage_nodes: args.nodes.storage_nodes.then(|| client.storage_nodes()),
        client,
        report: Report::new(args.remote.json, args.dry_run),
        progress: Arc::default(),
        target: target.map(Target::new),
        dry_run: args.dry_run,
        is_move,
    }
}

/// Carries out transfers, several at a time, and shows progress.
pub(super) async fn run_all(work: &Work, jobs: impl Stream<Item = Job>, args: &TransferArgs) {
    if let Some(nodes) = &work.storage_nodes
        && !nodes.are_offered().await
    {
        note!(
            "fula: the gateway offers no storage nodes, so files are sent to the gateway itself; an operator offers them \
             with FULA_STORAGE_NODES and FULA_REMOTE_CID_PUT"
        );
    }
    let progress: &Arc<Progress> = &work.progress;
    let shown = Shown::begin(progress, args.no_progress || args.remote.json || args.dry_run);
    let at_once = usize::try_from(args.transfers).unwrap_or(usize::MAX);
    let ending = jobs.map(Some).chain(stream::once(std::future::ready(None)));
    let counted = ending.filter_map(|job| {
        match &job {
            Some(Job::Up { size, .. } | Job::Down { size, .. }) => progress.expect(*size),
            Some(Job::Across { .. }) => progress.expect(0),
            None => progress.all_known(),
        }
        std::future::ready(job)
    });
    // What is known already is put together. Nothing waits for what is not.
    let units = counted.ready_chunks(together::AT_ONCE).then(|jobs| async {
        let is_together =
            !work.dry_run && together::have_small(&jobs) && work.client.is_fula().await;
        stream::iter(if is_together { units(jobs) } else { alone(jobs) })
    });
    units.flatten().for_each_concurrent(at_once, |unit| work.run_unit(unit)).await;
    drop(shown);
}

async fn run(args: CopyArgs, is_move: bool) -> Result<ExitCode> {
    let (source, target) = (Place::parse(&args.source)?, Place::parse(&args.target)?);
    let client = connect(&args.transfer.remote)?;
    if args.recursive {
        return many(client, source, target, &args.transfer, is_move).await;
    }
    match (source, target) {
        (Place::Standard, Place::Remote(to)) if !is_move => {
            let options =
                PutOptions { content_type: content_type(&to.key), ..PutOptions::default() };
            let to = Place::object(&format!("s3://{}/{}", to.bucket, to.key))?;
            let source = single::standard_input()?;
            client.bucket(&to.bucket)?.put(&to.key, source, options).await?;
            Ok(ExitCode::SUCCESS)
        }
        (Place::Remote(from), Place::Standard) if !is_move => {
            let get = client.bucket(&from.bucket)?.get(&from.key, GetOptions::default()).await?;
            single::write_out(get).await.map(|()| ExitCode::SUCCESS)
        }
        (source, target) => one(client, source, target, &args, is_move).await,
    }
}

/// Returns the last part of a name.
pub(in crate::commands) fn base(name: &str) -> &str {
    name.trim_end_matches('/').rsplit('/').next().unwrap_or(name)
}

/// Returns the object that a file or an object is copied to: below a target that is a folder.
fn within(to: Remote, name: &str) -> Remote {
    let is_folder = to.key.is_empty() || to.key.ends_with('/');
    let key = if is_folder { format!("{}{name}", to.key) } else { to.key };
    Remote { bucket: to.bucket, key }
}

async fn one(
    client: Client,
    source: Place,
    target: Place,
    args: &CopyArgs,
    is_move: bool,
) -> Result<ExitCode> {
    let mut root = None;
    let job = match (source, target) {
        (Place::Local(path), Place::Remote(to)) => {
            let metadata =
                std::fs::metadata(&path).map_err(Error::io(path.display().to_string()))?;
            if metadata.is_dir() {
                let text = format!(
                    "{} is a folder: give --recursive to copy what is in it",
                    path.display()
                );
                return Err(Error::Invalid(text));
            }
            let name = path.file_name().and_then(|name| name.to_str());
            let name =
                name.ok_or_else(|| Error::Invalid(format!("{} names no file", path.display())))?;
            let (size, modified, to) = (metadata.len(), metadata.modified().ok(), within(to, name));
            Job::Up { path, size, modified, to }
        }
        (Place::Remote(from), Place::Local(path)) => {
            let size = head(&client, &from).await?.0;
            let (folder, name) = split(&path, base(&from.key))?;
            root = Some(folder);
            Job::Down { from, size, name }
        }
        (Place::Remote(from), Place::Remote(to)) => {
            let (size, etag) = head(&client, &from).await?;
            let to = within(to, base(&from.key));
            Job::Across { from, size, etag, to }
        }
        _ => return Err(neither()),
    };
    let work = work(client, &args.transfer, root, is_move);
    run_all(&work, stream::iter([job]), &args.transfer).await;
    Ok(work.report.end(true))
}

fn neither() -> Error {
    Error::Invalid("one of source and target must be s3://bucket/key".to_owned())
}

/// Returns length and entity tag of an object.
async fn head(client: &Client, from: &Remote) -> Result<(u64, String)> {
    if from.key.is_empty() || from.key.ends_with('/') {
        return Err(Error::Invalid(format!(
            "{from} is a folder: give --recursive to copy what is below it"
        )));
    }
    let meta = client.bucket(&from.bucket)?.head(&from.key).await?;
    Ok((meta.size, meta.version.etag))
}

/// Returns the folder and the name of the file that an object is written to.
pub(in crate::commands) fn split(path: &Path, name: &str) -> Result<(PathBuf, String)> {
    let is_folder = path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if is_folder {
        return Ok((path.to_owned(), name.to_owned()));
    }
    let typed = path.file_name().and_then(|name| name.to_str());
    let typed = typed.ok_or_else(|| Error::Invalid(format!("{} names no file", path.display())))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")).to_owned(), typed.to_owned()))
}

async fn many(
    client: Client,
    source: Place,
    target: Place,
    args: &TransferArgs,
    is_move: bool,
) -> Result<ExitCode> {
    if let (Place::Remote(from), Place::Remote(to)) = (&source, &target)
        && from.bucket == to.bucket
        && folder(&to.key).starts_with(&folder(&from.key))
    {
        return Err(Error::Invalid("the target is within the source".to_owned()));
    }
    let filter = Filter::new(&args.filter);
    let root = match &target {
        Place::Local(path) => Some(path.clone()),
        Place::Remote(_) | Place::Standard => None,
    };
    let work = work(client.clone(), args, root, is_move);
    match (source, target) {
        (Place::Local(path), Place::Remote(to)) => {
            std::fs::metadata(&path).map_err(Error::io(path.display().to_string()))?;
            let found = Walk::new(&path, args.follow_symlinks);
            let prefix = folder(&to.key);
            let jobs = found.filter_map(|found| up_job(&work, found, &filter, &to.bucket, &prefix));
            run_all(&work, stream::iter(jobs), args).await;
        }
        (Place::Remote(from), target @ (Place::Local(_) | Place::Remote(_))) => {
            let prefix = folder(&from.key);
            let listing = client.bucket(&from.bucket)?.list(&prefix, ListOptions::default());
            let (work, filter, is_any) = (&work, &filter, &std::cell::Cell::new(false));
            let (from, prefix, target) = (&from, &prefix, &target);
            let jobs = listing.filter_map(|entry| async move {
                is_any.set(true);
                match entry {
                    Ok(entry) => remote_job(work, entry, filter, from, prefix, target),
                    Err(error) => {
                        work.report.failed(&from.to_string(), &error);
                        None
                    }
                }
            });
            run_all(work, jobs, args).await;
            if !is_any.get() {
                return Err(Error::NotFound { what: from.to_string() });
            }
        }
        _ => return Err(neither()),
    }
    Ok(work.report.end(false))
}

fn up_job(work: &Work, found: Found, filter: &Filter, bucket: &str, prefix: &str) -> Option<Job> {
    match found {
        Found::File(file) if filter.takes(&file.name) => Some(Job::Up {
            to: Remote { bucket: bucket.to_owned(), key: format!("{prefix}{}", file.name) },
            path: file.path,
            size: file.size,
            modified: file.modified,
        }),
        Found::File(_) => None,
        Found::Skipped { path, why } => {
            work.report.skipped(&path.display().to_string(), why);
            None
        }
        Found::Failed(error) => {
            work.report.failed("the source", &error);
            None
        }
    }
}

fn remote_job(
    work: &Work,
    entry: Entry,
    filter: &Filter,
    from: &Remote,
    prefix: &str,
    target: &Place,
) -> Option<Job> {
    let Entry::Object { key, size, etag, .. } = entry else { return None };
    let Some(name) = key.strip_prefix(prefix) else {
        let error = Error::Invalid("the listing has a key that was not asked for".to_owned());
        work.report.failed(&key, &error);
        return None;
    };
    // An empty object whose key ends with a slash stands for a folder.
    if !filter.takes(name) || (size == 0 && key.ends_with('/')) {
        return None;
    }
    let (name, source) =
        (name.to_owned(), Remote { bucket: from.bucket.clone(), key: key.clone() });
    Some(match target {
        Place::Remote(to) => {
            let key = format!("{}{name}", folder(&to.key));
            Job::Across { from: source, size, etag, to: Remote { bucket: to.bucket.clone(), key } }
        }
        Place::Local(_) | Place::Standard => Job::Down { from: source, size, name },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_that_are_folders_get_the_name_of_the_source() {
        let key =
            |key: &str| within(Remote { bucket: "b".to_owned(), key: key.to_owned() }, "n").key;
        assert_eq!([key(""), key("a/"), key("a")], ["n", "a/n", "a"]);
        let split = |path: &str| split(Path::new(path), "n").ok();
        assert_eq!(split("nowhere/"), Some(("nowhere/".into(), "n".to_owned())));
        assert_eq!(split("x"), Some((".".into(), "x".to_owned())));
        assert_eq!(split("."), Some((".".into(), "n".to_owned())));
        assert_eq!([base("a/b"), base("b"), base("a/b/")], ["b"; 3]);
    }
}
