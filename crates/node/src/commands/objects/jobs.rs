//! One transfer: up, down, or within the server.

use std::{
    collections::BTreeMap,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use fula_client::{
    Bucket, CopyOptions, DeleteOptions, DownloadOptions, Error, MTIME, PutOptions, Result, Source,
    StorageNodes, mtime_text,
};

use super::{
    local::Target,
    place::Remote,
    progress::Progress,
    report::{Action, Report},
};

/// One transfer.
#[derive(Clone, Debug)]
pub(super) enum Job {
    /// A file to an object.
    Up { path: PathBuf, size: u64, modified: Option<SystemTime>, to: Remote },
    /// An object to a file, whose name relative to the target this is.
    Down { from: Remote, size: u64, name: String },
    /// An object to another object.
    Across { from: Remote, size: u64, etag: String, to: Remote },
}

/// What all transfers of a command share.
pub(super) struct Work {
    pub(super) client: fula_client::Client,
    pub(super) report: Report,
    pub(super) progress: Arc<Progress>,
    pub(super) target: Option<Target>,
    pub(super) dry_run: bool,
    /// Storage nodes that get the bytes of files.
    pub(super) storage_nodes: Option<StorageNodes>,
    /// Whether sources are deleted once they are transferred.
    pub(super) is_move: bool,
}

/// Returns the media type that the ending of a name stands for.
pub(in crate::commands) fn content_type(name: &str) -> Option<String> {
    const TYPES: [(&str, &str); 30] = [
        ("avif", "image/avif"),
        ("bin", "application/octet-stream"),
        ("bz2", "application/x-bzip2"),
        ("css", "text/css"),
        ("csv", "text/csv"),
        ("gif", "image/gif"),
        ("gz", "application/gzip"),
        ("htm", "text/html"),
        ("html", "text/html"),
        ("ico", "image/x-icon"),
        ("jpeg", "image/jpeg"),
        ("jpg", "image/jpeg"),
        ("js", "text/javascript"),
        ("json", "application/json"),
        ("md", "text/markdown"),
        ("mjs", "text/javascript"),
        ("mp3", "audio/mpeg"),
        ("mp4", "video/mp4"),
        ("pdf", "application/pdf"),
        ("png", "image/png"),
        ("svg", "image/svg+xml"),
        ("tar", "application/x-tar"),
        ("txt", "text/plain"),
        ("wasm", "application/wasm"),
        ("webm", "video/webm"),
        ("webp", "image/webp"),
        ("woff2", "font/woff2"),
        ("xml", "application/xml"),
        ("zip", "application/zip"),
        ("zst", "application/zstd"),
    ];
    let ending = name.rsplit('/').next()?.rsplit_once('.')?.1.to_ascii_lowercase();
    let found = TYPES.binary_search_by(|(known, _)| (*known).cmp(&ending)).ok()?;
    Some(TYPES[found].1.to_owned())
}

/// Returns headers and metadata of the object that a file becomes.
pub(super) fn facts(
    to: &Remote,
    modified: Option<SystemTime>,
) -> (Option<String>, BTreeMap<String, String>) {
    let metadata = modified.map(|time| (MTIME.to_owned(), mtime_text(time)));
    (content_type(&to.key), BTreeMap::from_iter(metadata))
}

/// The notes about one upload, which this process alone uses while it has the lock.
struct Notes {
    journal: PathBuf,
    lock: PathBuf,
    /// Holds the lock.
    _file: std::fs::File,
}

/// Returns the notes about the upload of a file to an object; `None` if there is no folder for them, or if
/// another process is uploading the same file to the same object.
fn notes(path: &Path, endpoint: &str, to: &Remote) -> Option<Notes> {
    let folder =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
    let path = path.canonicalize().ok()?;
    let parts = [
        path.as_os_str().as_encoded_bytes(),
        endpoint.as_bytes(),
        to.bucket.as_bytes(),
        to.key.as_bytes(),
    ];
    let name = blake3::hash(&parts.join(&0)).to_hex();
    let folder = state.join("fula/uploads");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).ok()?;
    let lock = folder.join(format!("{name}.lock"));
    let mut how = std::fs::OpenOptions::new();
    let file = how.create(true).truncate(false).write(true).mode(0o600).open(&lock).ok()?;
    file.try_lock().ok()?;
    Some(Notes { journal: folder.join(format!("{name}.json")), lock, _file: file })
}

impl Work {
    fn bucket(&self, remote: &Remote) -> Result<Bucket> {
        self.client.bucket(&remote.bucket)
    }

    /// Carries a transfer out, and reports it.
    pub(super) async fn run(&self, job: Job) {
        let done = if self.dry_run { self.check(&job) } else { self.transfer(&job).await };
        self.tell(&job, done.as_ref().map(drop));
    }

    /// Reports how a job ended.
    pub(super) fn tell(&self, job: &Job, done: std::result::Result<(), &Error>) {
        let (action, from, to, size) = self.described(job);
        match done {
            Ok(()) => self.report.done(action, &from, Some(&to), size),
            Err(error) => self.report.failed(&from, error),
        }
        self.progress.done();
    }

    fn described(&self, job: &Job) -> (Action, String, String, u64) {
        let (action, from, to, size) = match job {
            Job::Up { path, size, to, .. } => {
                (Action::Upload, path.display().to_string(), to.to_string(), *size)
            }
            Job::Down { from, size, name } => {
                let path = self.target.as_ref().and_then(|target| target.path(name).ok());
                let path = path.map_or_else(|| name.clone(), |path| path.display().to_string());
                (Action::Download, from.to_string(), path, *size)
            }
            Job::Across { from, size, to, .. } => {
                (Action::Copy, from.to_string(), to.to_string(), *size)
            }
        };
        (if self.is_move { Action::Move } else { action }, from, to, size)
    }

    /// Finds what would fail without asking the server.
    fn check(&self, job: &Job) -> Result<()> {
        match (job, &self.target) {
            (Job::Down { name, .. }, Some(target)) => target.path(name).map(drop),
            _ => Ok(()),
        }
    }

    async fn transfer(&self, job: &Job) -> Result<()> {
        match job {
            Job::Up { path, size, modified, to } => self.up(path, *size, *modified, to).await,
            Job::Down { from, name, .. } => self.down(from, name).await,
            Job::Across { from, etag, to, .. } => self.across(from, etag, to).await,
        }
    }

    async fn up(
        &self,
        path: &Path,
        size: u64,
        modified: Option<SystemTime>,
        to: &Remote,
    ) -> Result<()> {
        let (content_type, metadata) = facts(to, modified);
        let is_long = size > fula_client::PART_BYTES as u64 || self.storage_nodes.is_some();
        let endpoint = self.client.endpoint().to_string();
        let notes = is_long.then(|| notes(path, &endpoint, to)).flatten();
        let options = PutOptions {
            content_type,
            metadata,
            meter: Some(self.progress.moved.clone()),
            journal: notes.as_ref().map(|notes| notes.journal.clone()),
            storage_nodes: self.storage_nodes.clone(),
            ..PutOptions::default()
        };
        self.bucket(to)?.put(&to.key, Source::File(path.to_owned()), options).await?;
        if let Some(notes) = notes {
            // A lock that stays is taken by the next upload.
            drop(std::fs::remove_file(&notes.lock));
        }
        if self.is_move {
            std::fs::remove_file(path).map_err(Error::io(path.display().to_string()))?;
        }
        Ok(())
    }

    async fn down(&self, from: &Remote, name: &str) -> Result<()> {
        let Some(target) = &self.target else {
            return Err(Error::Invalid("there is no folder to write to".to_owned()));
        };
        let (path, bucket) = (target.prepare(name)?, self.bucket(from)?);
        let options = DownloadOptions {
            meter: Some(self.progress.moved.clone()),
            ..DownloadOptions::default()
        };
        let done = bucket.download(&from.key, &path, options).await?;
        if let Some(error) = done.untimed {
            self.report.warned("the file has not the time of the object", &error);
        }
        if self.is_move {
            let if_match = Some(done.meta.version.etag);
            bucket.delete(&from.key, DeleteOptions { if_match }).await?;
        }
        Ok(())
    }

    async fn across(&self, from: &Remote, etag: &str, to: &Remote) -> Result<()> {
        if from == to {
            return Err(Error::Invalid("source and target are the same object".to_owned()));
        }
        let (source, bucket) = (self.bucket(from)?, self.bucket(to)?);
        let options =
            CopyOptions { if_source_match: Some(etag.to_owned()), ..CopyOptions::default() };
        if self.is_move && from.bucket == to.bucket {
            match bucket.rename(&from.key, &to.key, options.clone()).await {
                Err(Error::Unsupported(_)) => {}
                renamed => return renamed.map(drop),
            }
        }
        bucket.copy(&source, &from.key, &to.key, options).await?;
        if self.is_move {
            source.delete(&from.key, DeleteOptions { if_match: Some(etag.to_owned()) }).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_stand_for_media_types() {
        assert_eq!(content_type("a/B.HTML").as_deref(), Some("text/html"));
        assert_eq!(content_type("a.zst").as_deref(), Some("application/zstd"));
        for none in ["a", "a.b/c", "a.", "a.unknown"] {
            assert_eq!(content_type(none), None, "{none}");
        }
    }
}
