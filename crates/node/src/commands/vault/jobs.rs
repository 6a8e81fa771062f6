//! One transfer into a vault, out of it, or within it.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use fula_client::{
    Bucket, DeleteOptions, Error, GetOptions, MTIME, PutOptions, Result, Source, mtime_of,
    mtime_text,
    vault::{Condition, Piped, SMALL_MAX, SmallFile, VaultGetOptions, VaultPutOptions},
};
use futures::{Stream, StreamExt, stream};

use super::{
    place::{At, End},
    single::{entries, named, nanoseconds, of_entries, time_of},
};
use crate::{
    cli::TransferArgs,
    commands::objects::{
        content_type,
        local::Target,
        progress::{Progress, Shown},
        report::{Action, Report},
    },
};

/// One transfer.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) from: End,
    pub(super) to: End,
    /// Size of the source in bytes.
    pub(super) size: u64,
    /// Time of a local source, in nanoseconds since 1970.
    pub(super) modified: Option<u64>,
    /// What a listing showed at the target: nothing, or a version. It lets small files share a request.
    pub(super) listed: Condition,
}

/// Most files and bytes that share a request.
const BATCH_FILES: usize = 500;
const BATCH_BYTES: u64 = 2 << 20;

/// Uploads tried one by one at a time, where a request that they share does not do.
const ALONE: usize = 4;

/// Small files that wait for a request that they share.
#[derive(Default)]
struct Batcher {
    jobs: Vec<Job>,
    bytes: u64,
}

impl Batcher {
    /// Takes a job, or `None` for the end, and returns what is to be carried out now, together.
    fn take(&mut self, job: Option<Job>) -> Option<Vec<Job>> {
        let Some(job) = job else { return self.flush() };
        let is_upload = matches!((&job.from, &job.to), (End::File(_), End::Vault(_)));
        if !is_upload || job.listed == Condition::None || job.size > SMALL_MAX {
            return Some(vec![job]);
        }
        let full = self.bytes + job.size > BATCH_BYTES || self.jobs.len() == BATCH_FILES;
        let together = if full { self.flush() } else { None };
        self.bytes += job.size;
        self.jobs.push(job);
        together
    }

    fn flush(&mut self) -> Option<Vec<Job>> {
        self.bytes = 0;
        let jobs = std::mem::take(&mut self.jobs);
        (!jobs.is_empty()).then_some(jobs)
    }
}

/// What all transfers of a command share.
pub(super) struct Work {
    pub(super) report: Report,
    pub(super) progress: Arc<Progress>,
    dry_run: bool,
    /// Whether sources are deleted once they are transferred.
    is_move: bool,
}

impl Work {
    pub(super) fn new(args: &TransferArgs, is_move: bool) -> Self {
        Self {
            report: Report::new(args.remote.json, args.dry_run),
            progress: Arc::default(),
            dry_run: args.dry_run,
            is_move,
        }
    }

    /// Carries out transfers, several at a time, and shows progress.
    pub(super) async fn run_all(&self, jobs: impl Stream<Item = Job>, args: &TransferArgs) {
        let quiet = args.no_progress || args.remote.json || args.dry_run;
        let shown = Shown::begin(&self.progress, quiet);
        let at_once = usize::try_from(args.transfers).unwrap_or(usize::MAX);
        let ending = jobs.map(Some).chain(stream::once(std::future::ready(None)));
        let mut batcher = Batcher::default();
        let units = ending.filter_map(|job| {
            match &job {
                Some(job) => self.progress.expect(job.size),
                None => self.progress.all_known(),
            }
            std::future::ready(batcher.take(job))
        });
        units.for_each_concurrent(at_once, |jobs| self.run_together(jobs)).await;
        drop(shown);
    }

    /// Uploads small files with one request. Where that does not do, each is uploaded by itself.
    async fn run_together(&self, jobs: Vec<Job>) {
        let mut versions = Vec::new();
        if jobs.len() > 1
            && !self.dry_run
            && let Some(End::Vault(at)) = jobs.first().map(|job| &job.to)
            && let Ok(files) = jobs.iter().map(small).collect::<Result<Vec<_>>>()
        {
            let meter = Some(self.progress.moved.clone());
            // If it fails, every file is written alone, which names the error of each.
            versions = at.vault.put_small(files, meter).await.unwrap_or_default();
        }
        let mut versions = versions.into_iter();
        let mut alone = Vec::new();
        for job in jobs {
            match versions.next() {
                Some(Ok(_)) => {
                    let moved = if self.is_move { remove(&job.from) } else { Ok(()) };
                    self.note(&job, moved);
                }
                Some(Err(_)) | None => alone.push(job),
            }
        }
        stream::iter(alone).for_each_concurrent(ALONE, |job| self.run(job)).await;
    }

    /// Carries a transfer out, and reports it.
    async fn run(&self, job: Job) {
        let done = if self.dry_run { check(&job) } else { Box::pin(self.transfer(&job)).await };
        self.note(&job, done);
    }

    fn note(&self, job: &Job, done: Result<()>) {
        let action = match (&job.from, &job.to) {
            _ if self.is_move => Action::Move,
            (End::File(_), _) => Action::Upload,
            (_, End::Below(..)) => Action::Download,
            _ => Action::Copy,
        };
        let (from, to) = (job.from.to_string(), job.to.to_string());
        match done {
            Ok(()) => self.report.done(action, &from, Some(&to), job.size),
            Err(error) => self.report.failed(&from, &error),
        }
        self.progress.done();
    }

    async fn transfer(&self, job: &Job) -> Result<()> {
        match (&job.from, &job.to) {
            (End::File(path), End::Vault(to)) => self.up(path, job.modified, to).await,
            (End::Vault(from), End::Below(target, name)) => self.down(from, target, name).await,
            (End::Link(shared), End::Below(target, name)) => {
                let path = target.prepare(name)?;
                let found = shared.get(self.get_options()).await?;
                let done = Box::pin(found.save(&path)).await?;
                self.warn(done.untimed);
                Ok(())
            }
            (End::Vault(from), End::Vault(to)) if from.vault.place() == to.vault.place() => {
                self.within(from, to).await
            }
            (End::Vault(from), End::Vault(to)) => self.across(from, to).await,
            (End::Vault(from), End::Object(bucket, key)) => self.unseal(from, bucket, key).await,
            (End::Object(bucket, key), End::Vault(to)) => self.seal(bucket, key, to).await,
            _ => Err(Error::Invalid("one of source and target must be in a vault".to_owned())),
        }
    }

    fn put_options(
        &self,
        modified: Option<u64>,
        entries: BTreeMap<String, String>,
    ) -> VaultPutOptions {
        let meter = Some(self.progress.moved.clone());
        VaultPutOptions { condition: Condition::None, modified, entries, meter }
    }

    fn get_options(&self) -> VaultGetOptions {
        VaultGetOptions { range: None, meter: Some(self.progress.moved.clone()) }
    }

    async fn up(&self, path: &Path, modified: Option<u64>, to: &At) -> Result<()> {
        let entries = entries(content_type(&to.path), BTreeMap::new());
        let options = self.put_options(modified, entries);
        let source = Source::File(path.to_owned());
        named(to.vault.put(&to.file()?, source, options).await, to)?;
        if self.is_move {
            std::fs::remove_file(path).map_err(Error::io(path.display().to_string()))?;
        }
        Ok(())
    }

    async fn down(&self, from: &At, target: &Target, name: &str) -> Result<()> {
        let (path, file) = (target.prepare(name)?, from.file()?);
        let meter = Some(self.progress.moved.clone());
        let done = named(Box::pin(from.vault.download(&file, &path, meter)).await, from)?;
        self.warn(done.untimed);
        self.delete(from, done.etag).await
    }

    fn warn(&self, untimed: Option<Error>) {
        if let Some(error) = untimed {
            self.report.warned("the file has not the time that it has in the vault", &error);
        }
    }

    /// Deletes the source of a move, in the version that was transferred.
    async fn delete(&self, from: &At, etag: String) -> Result<()> {
        if self.is_move {
            named(from.vault.delete(&from.file()?, Condition::Version(etag)).await, from)?;
        }
        Ok(())
    }

    async fn within(&self, from: &At, to: &At) -> Result<()> {
        let (source, target) = (from.file()?, to.file()?);
        if self.is_move {
            return match from.vault.rename(&source, &target).await {
                Err(error @ (Error::Exists { .. } | Error::Changed { .. })) => {
                    named(Err(error), to)
                }
                done => named(done, from),
            };
        }
        named(from.vault.copy(&source, &target).await, from).map(drop)
    }

    async fn across(&self, from: &At, to: &At) -> Result<()> {
        let (source, target) = (from.file()?, to.file()?);
        let (entry, entries) = named(from.vault.stat(&source).await, from)?;
        let get = named(from.vault.get(&source, self.get_options()).await, from)?;
        let (etag, len) = (get.etag.clone(), get.size);
        let options = VaultPutOptions { meter: None, ..self.put_options(entry.modified, entries) };
        let piped = Piped::new(get.into_stream(), len);
        named(piped.through(|source| to.vault.put(&target, source, options)).await, to)?;
        self.delete(from, etag).await
    }

    async fn unseal(&self, from: &At, bucket: &Bucket, key: &str) -> Result<()> {
        let source = from.file()?;
        let (entry, entries) = named(from.vault.stat(&source).await, from)?;
        let get = named(from.vault.get(&source, self.get_options()).await, from)?;
        let (etag, len) = (get.etag.clone(), get.size);
        let (content_type, mut metadata) = of_entries(entries);
        let time = time_of(entry.modified);
        metadata.extend(time.map(|time| (MTIME.to_owned(), mtime_text(time))));
        let options = PutOptions { content_type, metadata, ..PutOptions::default() };
        let piped = Piped::new(get.into_stream(), len);
        piped.through(|source| bucket.put(key, source, options)).await?;
        self.delete(from, etag).await
    }

    async fn seal(&self, bucket: &Bucket, key: &str, to: &At) -> Result<()> {
        let target = to.file()?;
        let get = bucket.get(key, GetOptions::default()).await?;
        let meta = get.meta.clone();
        let modified = nanoseconds(mtime_of(&meta.metadata).or(meta.modified));
        let mut metadata = meta.metadata;
        metadata.remove(MTIME);
        let options = self.put_options(modified, entries(meta.content_type, metadata));
        let piped = Piped::new(get.into_stream(), meta.size);
        named(piped.through(|source| to.vault.put(&target, source, options)).await, to)?;
        if self.is_move {
            let if_match = Some(meta.version.etag);
            bucket.delete(key, DeleteOptions { if_match }).await?;
        }
        Ok(())
    }
}

/// Returns a file that shares a request.
fn small(job: &Job) -> Result<SmallFile> {
    let (End::File(path), End::Vault(to)) = (&job.from, &job.to) else {
        return Err(Error::Invalid("only local files share a request".to_owned()));
    };
    Ok(SmallFile {
        path: to.file()?,
        source: Source::File(path.clone()),
        modified: job.modified,
        entries: entries(content_type(&to.path), BTreeMap::new()),
        condition: job.listed.clone(),
    })
}

/// Removes the source of a move.
fn remove(end: &End) -> Result<()> {
    match end {
        End::File(path) => {
            std::fs::remove_file(path).map_err(Error::io(path.display().to_string()))
        }
        _ => Ok(()),
    }
}

/// Finds what would fail without asking the server.
fn check(job: &Job) -> Result<()> {
    match &job.to {
        End::Below(target, name) => target.path(name).map(drop),
        End::Vault(at) => at.file().map(drop),
        End::File(_) | End::Object(..) | End::Link(_) => Ok(()),
    }
}
