//! Where the bytes of an upload come from.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream::BoxStream};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::{Error, Result};

/// Largest number of bytes that are read at a time.
const READ: usize = 1 << 20;

/// The bytes of an upload.
pub enum Source {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A file. It must not change while it is read.
    File(PathBuf),
    /// A stream, and its length where that is known.
    Stream {
        /// The bytes.
        stream: BoxStream<'static, io::Result<Bytes>>,
        /// Length in bytes.
        len: Option<u64>,
    },
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Stream { len, .. } => write!(f, "Stream({len:?})"),
        }
    }
}

impl Source {
    /// Returns a stream as source. `len` is its length in bytes, where that is known.
    pub fn stream(
        stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        len: Option<u64>,
    ) -> Self {
        Self::Stream { stream: stream.boxed(), len }
    }

    /// Returns a reader as source, such as standard input.
    pub fn reader(reader: impl AsyncRead + Send + Unpin + 'static, len: Option<u64>) -> Self {
        let stream = futures::stream::try_unfold(reader, |mut reader| async {
            let mut buffer = BytesMut::with_capacity(READ);
            let read = reader.read_buf(&mut buffer).await?;
            Ok((read > 0).then(|| (buffer.freeze(), reader)))
        });
        Self::stream(stream, len)
    }
}

impl<T: Into<Bytes>> From<T> for Source {
    fn from(bytes: T) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// Size and time of a file, by which a change is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) size: u64,
    pub(crate) modified_ns: u128,
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        let modified = metadata.modified().ok();
        let since = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        Self { size: metadata.len(), modified_ns: since.map_or(0, |since| since.as_nanos()) }
    }
}

/// A source that is being read.
pub(crate) struct Reader {
    from: Origin,
    /// Length in bytes, where it is known.
    pub(crate) len: Option<u64>,
}

enum Origin {
    Bytes(Bytes),
    File { file: Arc<fs::File>, path: PathBuf, stamp: Stamp },
    Stream { stream: BoxStream<'static, io::Result<Bytes>>, rest: Bytes, read: u64 },
}

impl Reader {
    /// Opens a source.
    pub(crate) async fn open(source: Source) -> Result<Self> {
        Ok(match source {
            Source::Bytes(bytes) => {
                let len = Some(bytes.len() as u64);
                Self { from: Origin::Bytes(bytes), len }
            }
            Source::File(path) => {
                let failed = |error| Error::io(path.display().to_string())(error);
                let file = tokio::fs::File::open(&path).await.map_err(failed)?;
                let metadata = file.metadata().await.map_err(failed)?;
                if metadata.is_dir() {
                    return Err(failed(io::ErrorKind::IsADirectory.into()));
                }
                // A pipe or a device has no length.
                let len = metadata.is_file().then_some(metadata.len());
                let (stamp, file) = (Stamp::of(&metadata), Arc::new(file.into_std().await));
                Self { from: Origin::File { file, path, stamp }, len }
            }
            Source::Stream { stream, len } => {
                Self { from: Origin::Stream { stream, rest: Bytes::new(), read: 0 }, len }
            }
        })
    }

    /// Returns size and time of the file as it was opened; `None` if the source is no regular file.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        match &self.from {
            Origin::File { stamp, .. } if self.len.is_some() => Some(*stamp),
            Origin::File { .. } | Origin::Bytes(_) | Origin::Stream { .. } => None,
        }
    }

    /// Reads up to `max` bytes: fewer only at the end.
    pub(crate) async fn read(&mut self, max: usize) -> Result<Bytes> {
        match &mut self.from {
            Origin::Bytes(bytes) => {
                let len = bytes.len().min(max);
                Ok(bytes.split_to(len))
            }
            Origin::File { file, path, .. } => {
                read_file(file, max).await.map_err(Error::io(path.display().to_string()))
            }
            Origin::Stream { stream, rest, read } => {
                let taken = take(stream, rest, max).await;
                let bytes = taken.map_err(Error::io("the source of the upload"))?;
                *read += bytes.len() as u64;
                check_length(self.len, *read, bytes.len() < max)?;
                Ok(bytes)
            }
        }
    }

    /// Lets the next read begin at another byte of the file.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a source that is no file.
    pub(crate) fn seek(&mut self, to: u64) -> Result<()> {
        let Origin::File { file, path, .. } = &mut self.from else {
            return Err(Error::Invalid("only files are read from any place".to_owned()));
        };
        let sought = io::Seek::seek(&mut &**file, io::SeekFrom::Start(to));
        sought.map(drop).map_err(Error::io(path.display().to_string()))
    }

    /// Checks that the file is the one that was opened, with the bytes that it had.
    pub(crate) fn check_unchanged(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let opened = match &self.from {
            Origin::File { path, stamp, .. } if self.len.is_some() => Some((path.clone(), *stamp)),
            Origin::File { .. } | Origin::Bytes(_) | Origin::Stream { .. } => None,
        };
        async move {
            let Some((path, stamp)) = opened else { return Ok(()) };
            if is_same(&path, stamp).await {
                return Ok(());
            }
            let what = path.display().to_string();
            let why = "the file changed while it was read; send it again".to_owned();
            Err(Error::Damaged { what, why })
        }
    }
}

async fn is_same(path: &Path, stamp: Stamp) -> bool {
    tokio::fs::metadata(path).await.is_ok_and(|metadata| Stamp::of(&metadata) == stamp)
}

fn check_length(len: Option<u64>, read: u64, is_end: bool) -> Result<()> {
    match len {
        Some(len) if read > len || is_end && read < len => Err(Error::Invalid(format!(
            "the source has another length than the {len} bytes that were announced"
        ))),
        _ => Ok(()),
    }
}

/// Reads a file without a buffer in between.
async fn read_file(file: &Arc<fs::File>, max: usize) -> io::Result<Bytes> {
    use io::Read;
    let file = Arc::clone(file);
    let reading = tokio::task::spawn_blocking(move || {
        let mut buffer = Vec::with_capacity(max);
        file.as_ref().take(max as u64).read_to_end(&mut buffer).map(|_| Bytes::from(buffer))
    });
    reading.await.map_err(io::Error::other)?
}

/// Takes up to `max` bytes from a stream: fewer only at the end. `rest` is what was left of its last piece. Pieces are
/// copied only where several of them are put together.
async fn take(
    stream: &mut BoxStream<'static, io::Result<Bytes>>,
    rest: &mut Bytes,
    max: usize,
) -> io::Result<Bytes> {
    let (mut first, mut whole) = (Bytes::new(), BytesMut::new());
    loop {
        let missing = max - first.len() - whole.len();
        if missing == 0 {
            break;
        }
        if rest.is_empty() {
            match stream.next().await {
                Some(bytes) => *rest = bytes?,
                None => break,
            }
        }
        let piece = rest.split_to(rest.len().min(missing));
        if first.is_empty() && whole.is_empty() {
            first = piece;
            continue;
        }
        if whole.is_empty() {
            whole.reserve(max);
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_have_the_length_that_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        std::fs::write(&path, &content).unwrap();
        let pieces: Vec<_> =
            content.chunks(7001).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        for source in [
            Source::from(content.clone()),
            Source::File(path.clone()),
            Source::stream(futures::stream::iter(pieces), None),
            Source::reader(io::Cursor::new(content.clone()), Some(100_000)),
        ] {
            let mut reader = Reader::open(source).await.unwrap();
            let mut whole = Vec::new();
            for expected in [30_000, 30_000, 30_000, 10_000, 0] {
                let piece = reader.read(30_000).await.unwrap();
                assert_eq!(piece.len(), expected);
                whole.extend_from_slice(&piece);
            }
            assert_eq!(whole, content);
            reader.check_unchanged().await.unwrap();
        }
        assert!(Reader::open(Source::File(dir.path().to_owned())).await.is_err());
    }

    #[tokio::test]
    async fn a_source_that_is_not_what_it_was_is_noticed() {
        for len in [3, 5] {
            let mut reader = Reader::open(Source::reader(&b"1234"[..], Some(len))).await.unwrap();
            assert!(matches!(reader.read(10).await, Err(Error::Invalid(_))));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "1234").unwrap();
        let reader = Reader::open(Source::File(path.clone())).await.unwrap();
        std::fs::write(&path, "12345").unwrap();
        assert!(matches!(reader.check_unchanged().await, Err(Error::Damaged { .. })));
    }
}
