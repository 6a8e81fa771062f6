//! Many small files in few requests: commits of independent changes (ADR 0057).

use std::collections::BTreeMap;

use bytes::Bytes;
use fula_seal::VaultPath;
use futures::{StreamExt, stream};

use super::{BODY_TYPE, Condition, Vault, VaultPutOptions, body};
use crate::{
    batch::{BODY_MAX, Batch, BatchPut, CHANGES_MAX, Independent},
    error::{Error, Result},
    many,
    meta::Version,
    send::Meter,
    source::{Reader, Source},
};

/// Largest file in bytes that [`Vault::put_small`] takes: with its padding and its end, it fits into a commit.
pub const SMALL_MAX: u64 = 800_000;
/// Most bytes of files in one call, so that the request stays below the limit of servers.
pub const SMALL_BYTES_MAX: u64 = 8 << 20;
/// Files that one task reads and seals, and tasks of a request at a time.
const SEALED_TOGETHER: usize = 32;
const TASKS: usize = 8;

/// A small file to be written.
#[derive(Debug)]
pub struct SmallFile {
    /// Path.
    pub path: VaultPath,
    /// Content.
    pub source: Source,
    /// Time of the last change, in nanoseconds since 1970.
    pub modified: Option<u64>,
    /// Headers and metadata of S3 by name. They are sealed.
    pub entries: BTreeMap<String, String>,
    /// What must hold: there is no file, or it has the entity tag of a listing.
    pub condition: Condition,
}

/// A file that is sealed, as a change of a commit has it.
struct Change {
    key: String,
    body: Bytes,
    metadata: BTreeMap<String, String>,
    condition: Condition,
    /// Clock of the path, once the server has carried the change out.
    clock: (fula_seal::SealedKey, u64),
    /// Length of the content.
    size: u64,
}

impl Vault {
    /// Writes small files with one request, each by itself. The result has one for each file, in their order.
    ///
    /// Their conditions come from a listing, so no file is looked up. The highest clock of each path is that which
    /// the listing showed, and a write is refused if someone else was first.
    ///
    /// # Errors
    /// [`Error::Unsupported`] from servers other than Fula: write the files one by one. [`Error::Invalid`] for
    /// too many or too much. Then no file was written. Of one file: [`Error::Exists`], [`Error::Changed`], and
    /// [`Error::Invalid`] for one that is not small or has no condition.
    pub async fn put_small(
        &self,
        files: Vec<SmallFile>,
        meter: Option<Meter>,
    ) -> Result<Vec<Result<Version>>> {
        if files.is_empty() {
            return Ok(Vec::new());
        }
        if files.len() > CHANGES_MAX {
            return Err(Error::Invalid(format!("one request writes at most {CHANGES_MAX} files")));
        }
        let together = stream::iter(files).chunks(SEALED_TOGETHER);
        let changes = together.map(|files| self.sealed_changes(files)).buffered(TASKS);
        let changes: Vec<Result<Change>> = changes.map(stream::iter).flatten().collect().await;
        let sealed: u64 = changes.iter().flatten().map(|change| change.size).sum();
        if sealed > SMALL_BYTES_MAX {
            let text = format!("one request writes at most {SMALL_BYTES_MAX} bytes of files");
            return Err(Error::Invalid(text));
        }
        let batch = changes
            .iter()
            .flatten()
            .fold(self.0.place.bucket.batch(), |batch, change| batch.put(&change.key, put(change)));
        let sent = if batch.is_empty() {
            Independent { version: None, results: Vec::new() }
        } else {
            self.each(batch).await?
        };
        let (mut etags, mut clocks) = (sent.results.into_iter(), Vec::new());
        let results = changes.into_iter().map(|change| {
            let change = change?;
            let etag = etags.next().unwrap_or(Err(Error::Canceled))?.unwrap_or_default();
            clocks.push(change.clock);
            if let Some(meter) = &meter {
                meter.add(change.size);
            }
            Ok(Version { etag, bucket: sent.version })
        });
        let results = results.collect();
        self.0.state.lock().remember(&clocks)?;
        self.settle().await?;
        Ok(results)
    }

    /// Reads and seals files. One task has several of them, because handing a task over takes as long as to seal a
    /// small file.
    async fn sealed_changes(&self, files: Vec<SmallFile>) -> Vec<Result<Change>> {
        let sources = stream::iter(files).then(|mut file| async move {
            file.source = match file.source {
                source @ Source::Stream { .. } => Source::Bytes(whole(source).await?),
                source => source,
            };
            Ok(file)
        });
        let files: Vec<Result<SmallFile>> = sources.collect().await;
        let vault = self.clone();
        let sealing = tokio::task::spawn_blocking(move || {
            files.into_iter().map(|file| vault.sealed_change(file?)).collect()
        });
        match sealing.await {
            Ok(changes) => changes,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn sealed_change(&self, file: SmallFile) -> Result<Change> {
        let invalid = |why| Error::Invalid(format!("{}: {why}", self.some_file()));
        if file.condition == Condition::None {
            return Err(invalid("it has no condition"));
        }
        let content = match file.source {
            Source::Bytes(bytes) => Some(bytes),
            Source::File(path) => many::read(&path, max())?,
            Source::Stream { .. } => None,
        };
        let content = content.filter(|content| content.len() <= max());
        let content = content.ok_or_else(|| invalid("it is not small"))?;
        let size = content.len() as u64;
        let options = VaultPutOptions {
            modified: file.modified,
            entries: file.entries,
            ..VaultPutOptions::default()
        };
        let current = self.current();
        let plan = self.plan(&current, &file.path, size, &options, None)?;
        Ok(Change {
            body: body::seal_whole(plan.body, content)?.into(),
            key: self.0.place.key(plan.key),
            metadata: plan.metadata,
            condition: file.condition,
            clock: (plan.key, plan.clock),
            size,
        })
    }

    /// Sends changes that count each for itself.
    ///
    /// # Errors
    /// [`Error::Unsupported`] from servers other than Fula, and as for every request.
    pub(super) async fn each(&self, batch: Batch) -> Result<Independent> {
        // Keys of objects tell a reader nothing.
        let batch = batch.shown_as(self.some_file());
        match batch.each().await {
            // Such a commit has no condition as a whole. S3 answers a POST that is no form with 412.
            Err(
                Error::Http { status: 400 | 405 | 501, .. }
                | Error::Invalid(_)
                | Error::Changed { .. },
            ) => Err(Error::Unsupported("POST ?fula-commit in dag-cbor".to_owned())),
            done => done,
        }
    }

    /// Returns what errors call a file: its path is a secret.
    pub(super) fn some_file(&self) -> String {
        format!("the file in {}", self.place())
    }
}

/// Returns the longest content in bytes.
fn max() -> usize {
    usize::try_from(SMALL_MAX).unwrap_or(usize::MAX)
}

/// Reads a stream, up to one byte more than the longest content.
async fn whole(source: Source) -> Result<Bytes> {
    Reader::open(source).await?.read(max() + 1).await
}

/// Returns a sealed file as a change of a commit.
fn put(change: &Change) -> BatchPut {
    let if_match = match &change.condition {
        Condition::Version(etag) => Some(etag.clone()),
        Condition::None | Condition::Absent => None,
    };
    BatchPut {
        body: change.body.clone(),
        content_type: Some(BODY_TYPE.to_owned()),
        metadata: change.metadata.clone(),
        if_absent: if_match.is_none(),
        if_match,
    }
}

const _: () = assert!(
    SMALL_MAX + SMALL_MAX / 8 + (66 << 10) < BODY_MAX as u64,
    "padding, metadata and the end of the body fit, too"
);
