//! Writing many small files in one request.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::{
    batch::{BatchPut, CHANGES_MAX, Independent},
    client::Bucket,
    error::{Error, Result},
    meta::Version,
    put::{Put, PutOptions},
    send::Meter,
    source::Source,
};

/// Longest file that goes into a commit with others, in bytes. Longer ones are sent as fast one by one.
pub const SMALL_MAX: usize = 256 << 10;

/// Length of the files of one commit together, in bytes.
pub const TOGETHER_MAX: usize = 4 << 20;

/// Requests in flight for files that are sent one by one.
const ALONE: usize = 16;

/// A file that becomes an object.
#[derive(Clone, Debug, Default)]
pub struct FilePut {
    /// The file.
    pub path: PathBuf,
    /// Key of the object.
    pub key: String,
    /// Media type.
    pub content_type: Option<String>,
    /// Metadata of the user.
    pub metadata: BTreeMap<String, String>,
}

impl Bucket {
    /// Writes small files: those of up to [`SMALL_MAX`] bytes in one request, as long as they have up to
    /// [`TOGETHER_MAX`] bytes together, and the others one by one. So are all if the server does not offer
    /// commits. Returns what became of each file, in their order: one that fails does not stop the others.
    ///
    /// No key may occur twice. `meter` counts the bytes of files that were sent.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more than [`CHANGES_MAX`] files. [`Error::Unavailable`] with
    /// [`crate::Outcome::Unknown`] if any of the objects may have been written, and as for every request: then
    /// nothing is known of the single files.
    pub async fn put_files(
        &self,
        files: Vec<FilePut>,
        meter: Option<&Meter>,
    ) -> Result<Vec<Result<Put>>> {
        if files.len() > CHANGES_MAX {
            let text = format!("{} files are more than {CHANGES_MAX}", files.len());
            return Err(Error::Invalid(text));
        }
        // The files, and the body that is made of them.
        let memory = self.client().memory(2 * TOGETHER_MAX).await;
        let (files, bodies) = read_all(files).await;
        let mut done: Vec<Option<Result<Put>>> = Vec::with_capacity(files.len());
        let (mut batch, mut sizes) = (self.batch(), Vec::new());
        for (at, (file, body)) in files.iter().zip(bodies).enumerate() {
            done.push(match body {
                Ok(Some(body)) => {
                    sizes.push((at, body.len() as u64));
                    let (content_type, metadata) =
                        (file.content_type.clone(), file.metadata.clone());
                    let put = BatchPut { body, content_type, metadata, ..BatchPut::default() };
                    batch = batch.put(&file.key, put);
                    None
                }
                Ok(None) => None,
                Err(error) => Some(Err(error)),
            });
        }
        if sizes.len() > 1 {
            match batch.each().await {
                Ok(Independent { version, results }) => {
                    for ((at, size), result) in sizes.into_iter().zip(results) {
                        if let (Ok(_), Some(meter)) = (&result, meter) {
                            meter.add(size);
                        }
                        done[at] = Some(result.map(|etag| Put {
                            version: Version { etag: etag.unwrap_or_default(), bucket: version },
                            size,
                        }));
                    }
                }
                // The form was refused, so nothing was written. Alone, each file gets its own answer.
                Err(Error::Unsupported(_) | Error::Http { status: 400..500, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        drop((batch, memory));
        let rest = files.into_iter().zip(done).map(|(file, done)| async move {
            match done {
                Some(done) => done,
                None => self.put_alone(file, meter).await,
            }
        });
        Ok(stream::iter(rest).buffered(ALONE).collect().await)
    }

    async fn put_alone(&self, file: FilePut, meter: Option<&Meter>) -> Result<Put> {
        let FilePut { path, key, content_type, metadata } = file;
        let meter = meter.cloned();
        let options = PutOptions { content_type, metadata, meter, ..PutOptions::default() };
        self.put(&key, Source::File(path), options).await
    }
}

/// Reads files. There is `None` for one that is too long for a commit with the others.
async fn read_all(files: Vec<FilePut>) -> (Vec<FilePut>, Vec<Result<Option<Bytes>>>) {
    let reading = tokio::task::spawn_blocking(move || {
        let (mut left, mut bodies) = (TOGETHER_MAX, Vec::with_capacity(files.len()));
        for file in &files {
            let body = read(&file.path, left.min(SMALL_MAX));
            left -= body.as_ref().map_or(0, |body| body.as_ref().map_or(0, Bytes::len));
            bodies.push(body);
        }
        (files, bodies)
    });
    match reading.await {
        Ok(read) => read,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Reads a file. Returns `None` if it is longer than `max` bytes, or no regular file.
///
/// # Errors
/// [`Error::Damaged`] for a file that changes meanwhile.
pub(crate) fn read(path: &Path, max: usize) -> Result<Option<Bytes>> {
    let what = || path.display().to_string();
    let mut file = fs::File::open(path).map_err(|error| Error::io(what())(error))?;
    let before = file.metadata().map_err(|error| Error::io(what())(error))?;
    // A pipe or a device has no length.
    if !before.is_file() || before.len() > max as u64 {
        return Ok(None);
    }
    let limit = before.len() + 1;
    let mut body = Vec::with_capacity(usize::try_from(limit).unwrap_or_default());
    file.by_ref().take(limit).read_to_end(&mut body).map_err(|error| Error::io(what())(error))?;
    let after = fs::metadata(path).map_err(|error| Error::io(what())(error))?;
    let is_same = after.len() == before.len() && after.modified().ok() == before.modified().ok();
    if body.len() as u64 != before.len() || !is_same {
        let why = "the file changed while it was read; send it again".to_owned();
        return Err(Error::Damaged { what: what(), why });
    }
    Ok(Some(body.into()))
}
