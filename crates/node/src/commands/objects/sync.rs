//! `fula sync`: a merge of two listings in the order of their names, and then deletions.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::Pin,
    process::ExitCode,
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fula_client::{Client, Crc, DELETE_MAX, Error, Listed, MTIME, Meta, Result, Told, mtime_of};
use futures::{Stream, StreamExt, stream};

use super::{
    connect,
    copy::{run_all, work},
    ended,
    filter::Filter,
    jobs::{Job, Work},
    local::{Found, Walk},
    place::{Place, Remote, folder},
    remove,
    report::{Action, Report},
};
use crate::{
    cli::{MaxDelete, SyncArgs},
    output::note,
};

/// A file or an object on one side.
#[derive(Clone, Debug)]
struct Item {
    /// Name relative to the place of its side.
    name: String,
    size: u64,
    modified: Option<SystemTime>,
    /// Entity tag of an object; empty for files.
    etag: String,
    /// What the listing tells of the time of the file that an object was made of.
    file_time: Told,
}

/// One side.
#[derive(Clone, Debug)]
enum Side {
    Local(PathBuf),
    /// A bucket, and a prefix that is empty or ends with a slash.
    Remote(Remote),
}

impl Side {
    fn parse(text: &str) -> Result<Self> {
        match Place::parse(text)? {
            Place::Local(path) => Ok(Self::Local(path)),
            Place::Remote(Remote { bucket, key }) => {
                Ok(Self::Remote(Remote { bucket, key: folder(&key) }))
            }
            Place::Standard => {
                Err(Error::Invalid("- cannot be synchronised; use fula cp".to_owned()))
            }
        }
    }

    fn object(&self, name: &str) -> Option<Remote> {
        match self {
            Self::Local(_) => None,
            Self::Remote(Remote { bucket, key }) => {
                Some(Remote { bucket: bucket.clone(), key: format!("{key}{name}") })
            }
        }
    }
}

/// Items of one side, in the order of their names.
type Items<'a> = Pin<Box<dyn Stream<Item = Result<Item>> + 'a>>;

fn items<'a>(
    side: &'a Side,
    client: &Client,
    follow: bool,
    filter: &'a Filter,
    report: Option<&'a Report>,
) -> Result<Items<'a>> {
    Ok(match side {
        Side::Local(path) => {
            let found = Walk::new(path, follow).filter_map(move |found| match found {
                Found::File(file) if filter.takes(&file.name) => {
                    let (name, size, modified) = (file.name, file.size, file.modified);
                    let (etag, file_time) = (String::new(), Told::Unasked);
                    Some(Ok(Item { name, size, modified, etag, file_time }))
                }
                Found::File(_) => None,
                Found::Skipped { path, why } => {
                    if let Some(report) = report {
                        report.skipped(&path.display().to_string(), why);
                    }
                    None
                }
                Found::Failed(error) => Some(Err(error)),
            });
            Box::pin(stream::iter(found))
        }
        Side::Remote(Remote { bucket, key: prefix }) => {
            let listing = client.bucket(bucket)?.list_with(prefix, Some(MTIME));
            Box::pin(listing.filter_map(move |listed| async move {
                let Listed { key, size, etag, modified, value } = match listed {
                    Ok(listed) => listed,
                    Err(error) => return Some(Err(error)),
                };
                let name = key.strip_prefix(prefix.as_str())?.to_owned();
                // An empty object whose key ends with a slash stands for a folder.
                let is_folder = size == 0 && (name.is_empty() || name.ends_with('/'));
                (filter.takes(&name) && !is_folder).then_some(Ok(Item {
                    name,
                    size,
                    modified,
                    etag,
                    file_time: value,
                }))
            }))
        }
    })
}

/// Makes the target like the source.
pub(crate) async fn sync(args: SyncArgs) -> ExitCode {
    let json = args.transfer.remote.json;
    ended(run(args).await, json)
}

/// What only the target has, and how much it has in all.
#[derive(Default)]
struct Extra {
    names: Vec<(String, u64)>,
    total: u64,
}

async fn run(args: SyncArgs) -> Result<ExitCode> {
    let (source, target) = (Side::parse(&args.source)?, Side::parse(&args.target)?);
    match (&source, &target) {
        (Side::Local(_), Side::Local(_)) => {
            return Err(Error::Invalid(
                "one of source and target must be s3://bucket/prefix".to_owned(),
            ));
        }
        (Side::Local(path), _) if !path.is_dir() => {
            return Err(Error::NotFound { what: format!("the folder {}", path.display()) });
        }
        (Side::Remote(from), Side::Remote(to))
            if from.bucket == to.bucket
                && (to.key.starts_with(&from.key) || from.key.starts_with(&to.key)) =>
        {
            return Err(Error::Invalid("one of source and target is within the other".to_owned()));
        }
        _ => {}
    }
    let client = connect(&args.transfer.remote)?;
    let root = match &target {
        Side::Local(path) => Some(path.clone()),
        Side::Remote(_) => None,
    };
    let work = work(client.clone(), &args.transfer, root, false);
    let filter = Filter::new(&args.transfer.filter);
    let extra = Mutex::new(Extra::default());
    let follow = args.transfer.follow_symlinks;
    let from = items(&source, &client, follow, &filter, Some(&work.report))?;
    let has_target = !matches!(&target, Side::Local(path) if !path.exists());
    let to: Items<'_> = if has_target {
        items(&target, &client, follow, &filter, None)?
    } else {
        Box::pin(stream::empty())
    };
    let compare = Compare { source: &source, target: &target, client: &client, args: &args };
    let pairs = merge(from, to, &extra, &work.report);
    let at_once = usize::try_from(args.transfer.transfers).unwrap_or(usize::MAX);
    let jobs = pairs.map(|pair| compare.job(pair, &work)).buffer_unordered(at_once);
    run_all(&work, jobs.filter_map(std::future::ready), &args.transfer).await;
    if args.delete {
        let extra = extra.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        delete(&target, &client, extra, &work, &args).await?;
    }
    Ok(work.report.end(false))
}

/// Goes over both sides, and returns what the source has, with what the target has under the same name.
fn merge<'a>(
    from: Items<'a>,
    to: Items<'a>,
    extra: &'a Mutex<Extra>,
    report: &'a Report,
) -> impl Stream<Item = (Item, Option<Item>)> + 'a {
    let sides = (from.peekable(), to.peekable());
    stream::unfold(sides, move |(mut from, mut to)| async move {
        loop {
            let order = {
                let source = Pin::new(&mut from).peek().await;
                let target = Pin::new(&mut to).peek().await;
                match (source, target) {
                    (Some(Err(_)), _) | (Some(Ok(_)), None) => Ordering::Less,
                    (_, Some(Err(_))) | (None, Some(Ok(_))) => Ordering::Greater,
                    (Some(Ok(source)), Some(Ok(target))) => source.name.cmp(&target.name),
                    (None, None) => return None,
                }
            };
            let source = if order.is_le() { from.next().await } else { None };
            let target = if order.is_ge() { to.next().await } else { None };
            let target = match target.transpose() {
                Ok(target) => target,
                Err(error) => {
                    // What the target has is not known, so all that is left would look as if it was missing.
                    report.failed("the target", &error);
                    return None;
                }
            };
            if let Some(target) = &target {
                let mut extra = extra.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                extra.total += 1;
                if source.is_none() {
                    extra.names.push((target.name.clone(), target.size));
                }
            }
            match source {
                Some(Ok(source)) => return Some(((source, target), (from, to))),
                Some(Err(error)) => report.failed("the source", &error),
                None => {}
            }
        }
    })
}

/// Decides whether a pair differs.
struct Compare<'a> {
    source: &'a Side,
    target: &'a Side,
    client: &'a Client,
    args: &'a SyncArgs,
}

impl Compare<'_> {
    async fn job(&self, (source, target): (Item, Option<Item>), work: &Work) -> Option<Job> {
        if let Some(target) = &target {
            match self.is_same(&source, target).await {
                Ok(true) => {
                    work.report.same();
                    return None;
                }
                Ok(false) => {}
                Err(error) => {
                    work.report.failed(&source.name, &error);
                    return None;
                }
            }
        }
        let Item { name, size, modified, etag, .. } = source;
        match (self.source, self.source.object(&name), self.target.object(&name)) {
            (Side::Local(root), _, Some(to)) => {
                Some(Job::Up { path: root.join(&name), size, modified, to })
            }
            (_, Some(from), None) => Some(Job::Down { from, size, name }),
            (_, Some(from), Some(to)) => Some(Job::Across { from, size, etag, to }),
            (Side::Local(_) | Side::Remote(_), None, _) => None,
        }
    }

    async fn is_same(&self, source: &Item, target: &Item) -> Result<bool> {
        if source.size != target.size {
            return Ok(false);
        }
        let (file, path, object, is_up) = match (self.source, self.target) {
            (Side::Remote(_), Side::Remote(_)) => {
                return Ok(self.args.size_only || source.etag == target.etag);
            }
            (Side::Local(root), side) => (source, root, side.object(&target.name), true),
            (side, Side::Local(root)) => (target, root, side.object(&source.name), false),
        };
        let Some(object) = object.filter(|_| !self.args.size_only) else { return Ok(true) };
        let listed = if is_up { target } else { source };
        if !self.args.checksum
            && let Some(known) = same_as_listed(listed, file.modified, is_up)
        {
            return Ok(known);
        }
        let meta = self.client.bucket(&object.bucket)?.head(&object.key).await?;
        if self.args.checksum {
            return same_content(&meta, &path.join(&file.name)).await;
        }
        let times = Times { file: mtime_of(&meta.metadata), written: meta.modified };
        Ok(same_time(times, file.modified, is_up))
    }
}

/// Times of an object.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// That of the file that it was made of, in its metadata.
    file: Option<SystemTime>,
    /// That of the write.
    written: Option<SystemTime>,
}

/// Returns whether a file has the time of an object, if the listing tells that.
///
/// A listing does not tell the time of a file also where the caller may not read the object. Then a file that is
/// sent for nothing is better than one that is taken to be the same.
fn same_as_listed(object: &Item, modified: Option<SystemTime>, is_up: bool) -> Option<bool> {
    let written = object.modified;
    match &object.file_time {
        Told::Value(text) => {
            let file = mtime_of(&BTreeMap::from([(MTIME.to_owned(), text.clone())]));
            Some(same_time(Times { file, written }, modified, is_up))
        }
        Told::Nothing => {
            let is_same = same_time(Times { file: None, written }, modified, is_up);
            (!is_up || !is_same).then_some(is_same)
        }
        Told::Unasked => None,
    }
}

/// Returns whether a file has the time of an object. Objects that other tools wrote have no time of a file:
/// one that was written after the file changed is taken to be the same on the way up, as `aws s3 sync` does.
fn same_time(times: Times, modified: Option<SystemTime>, is_up: bool) -> bool {
    let seconds =
        |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    match (times.file, times.written, modified) {
        (Some(time), _, Some(modified)) => time == modified,
        (None, Some(written), Some(modified)) if is_up => seconds(modified) <= seconds(written),
        (None, Some(written), Some(modified)) => seconds(modified) == seconds(written),
        _ => false,
    }
}

/// Returns whether a file has the checksum of an object.
async fn same_content(meta: &Meta, path: &Path) -> Result<bool> {
    let Some(expected) = &meta.crc64nvme else { return Ok(false) };
    let (path, expected) = (path.to_owned(), expected.clone());
    let read = tokio::task::spawn_blocking(move || -> Result<bool> {
        let failed = |error| Error::io(path.display().to_string())(error);
        let mut file = std::fs::File::open(&path).map_err(failed)?;
        let (mut crc, mut buffer) = (Crc::default(), vec![0; 1 << 20]);
        loop {
            match std::io::Read::read(&mut file, &mut buffer).map_err(failed)? {
                0 => return Ok(crc.text() == expected),
                read => crc.update(&buffer[..read]),
            }
        }
    });
    read.await.map_err(|error| Error::io("the checksum")(std::io::Error::other(error)))?
}

/// Deletes what only the target has, unless something failed or it would be too much.
async fn delete(
    target: &Side,
    client: &Client,
    extra: Extra,
    work: &Work,
    args: &SyncArgs,
) -> Result<()> {
    if work.report.has_failed() {
        note!("fula: nothing was deleted, because something failed");
        return Ok(());
    }
    let (count, total) = (extra.names.len() as u64, extra.total);
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
    match target {
        Side::Remote(Remote { bucket, key }) => {
            let bucket = client.bucket(bucket)?;
            for names in extra.names.chunks(DELETE_MAX) {
                let batch =
                    names.iter().map(|(name, size)| (format!("{key}{name}"), *size)).collect();
                remove::delete(&bucket, batch, work.dry_run, &work.report).await;
            }
        }
        Side::Local(root) => {
            for (name, size) in &extra.names {
                let path = root.join(name);
                let shown = path.display().to_string();
                let removed = if work.dry_run { Ok(()) } else { std::fs::remove_file(&path) };
                match removed {
                    Ok(()) => work.report.done(Action::Delete, &shown, None, *size),
                    Err(error) => work.report.failed(&shown, &Error::io(shown.clone())(error)),
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_decides_where_it_tells_the_time() {
        let at = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let object = |file_time| Item {
            name: "n".to_owned(),
            size: 1,
            modified: at(100),
            etag: String::new(),
            file_time,
        };
        let value = |text: &str| object(Told::Value(text.to_owned()));
        for is_up in [true, false] {
            assert_eq!(same_as_listed(&value("50"), at(50), is_up), Some(true));
            assert_eq!(same_as_listed(&value("50"), at(51), is_up), Some(false));
            assert_eq!(same_as_listed(&object(Told::Unasked), at(50), is_up), None);
        }
        // Another tool wrote the object, or nobody but its owner may read it: on the way up, only a request tells.
        assert_eq!(same_as_listed(&object(Told::Nothing), at(50), true), None);
        assert_eq!(same_as_listed(&object(Told::Nothing), at(101), true), Some(false));
        assert_eq!(same_as_listed(&object(Told::Nothing), at(100), false), Some(true));
        assert_eq!(same_as_listed(&object(Told::Nothing), at(50), false), Some(false));
    }
}
