//! The file that an export writes.

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
};

use fula_core::error::io_text;
use tokio::{fs::File, io::AsyncWrite, sync::mpsc, task::JoinHandle};

/// Bytes after which what was written is brought to the disk.
const SYNC_BYTES: usize = 32 << 20;

/// A file that is written beside its place, and moved there once it is whole and durable. What was written
/// goes to the disk while more is written, so that little is left to do at the end.
pub(super) struct Output {
    place: PathBuf,
    part: PathBuf,
    file: File,
    progress: Progress,
    syncing: JoinHandle<io::Result<()>>,
}

/// Brings to the disk what was written, from time to time.
#[derive(Clone)]
pub(super) struct Progress {
    unsynced: usize,
    wake: mpsc::Sender<()>,
}

impl Progress {
    /// Notes that bytes were written.
    pub(super) fn written(&mut self, bytes: usize) {
        self.unsynced += bytes;
        if self.unsynced >= SYNC_BYTES && self.wake.try_send(()).is_ok() {
            self.unsynced = 0;
        }
    }
}

impl Output {
    /// Creates the file beside its place.
    pub(super) async fn create(place: &Path) -> Result<Self, String> {
        let mut name = place.as_os_str().to_owned();
        name.push(".part");
        let part = PathBuf::from(name);
        let failed = |error: io::Error| format!("{}: {}", place.display(), io_text(&error));
        // A pipe or a device would be replaced by the file.
        if tokio::fs::metadata(place).await.is_ok_and(|found| !found.is_file()) {
            return Err(format!(
                "{} is not a file: leave out --output, and redirect standard output there",
                place.display()
            ));
        }
        let file = File::create(&part).await.map_err(failed)?;
        let same = file.try_clone().await.map_err(failed)?;
        let (wake, mut woken) = mpsc::channel(1);
        let syncing = tokio::spawn(async move {
            while woken.recv().await.is_some() {
                same.sync_data().await?;
            }
            Ok(())
        });
        let progress = Progress { unsynced: 0, wake };
        Ok(Self { place: place.to_owned(), part, file, progress, syncing })
    }

    /// Returns the file, for one who writes to it directly and tells the progress.
    pub(super) async fn file(&self) -> Result<(std::fs::File, Progress), String> {
        let failed = |error: io::Error| format!("{}: {}", self.place.display(), io_text(&error));
        let file = self.file.try_clone().await.map_err(failed)?;
        Ok((file.into_std().await, self.progress.clone()))
    }

    /// Makes the file durable, and moves it to its place.
    pub(super) async fn finish(self) -> Result<(), String> {
        let Self { place, part, file, progress, syncing } = self;
        drop(progress);
        let moved = async {
            // The system reports an error of the disk only once, here.
            syncing.await.map_err(io::Error::other)??;
            file.sync_all().await?;
            tokio::fs::rename(&part, &place).await?;
            // The name is durable once its directory is.
            let dir = place.parent().filter(|dir| !dir.as_os_str().is_empty());
            File::open(dir.unwrap_or(Path::new("."))).await?.sync_all().await
        };
        let failed = |error| format!("{}: {}", place.display(), io_text(&error));
        let moved = moved.await.map_err(failed);
        if moved.is_err() {
            drop(tokio::fs::remove_file(&part).await);
        }
        moved
    }

    /// Removes what was written.
    pub(super) async fn discard(self) {
        drop(tokio::fs::remove_file(&self.part).await);
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.file).poll_write(cx, bytes))?;
        self.progress.written(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_shutdown(cx)
    }
}
