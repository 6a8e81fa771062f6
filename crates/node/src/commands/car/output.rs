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
    unsynced: usize,
    wake: mpsc::Sender<()>,
    syncing: JoinHandle<io::Result<()>>,
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
        Ok(Self { place: place.to_owned(), part, file, unsynced: 0, wake, syncing })
    }

    /// Makes the file durable, and moves it to its place.
    pub(super) async fn finish(self) -> Result<(), String> {
        let Self { place, part, file, wake, syncing, .. } = self;
        drop(wake);
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
        self.unsynced += written;
        if self.unsynced >= SYNC_BYTES && self.wake.try_send(()).is_ok() {
            self.unsynced = 0;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_shutdown(cx)
    }
}
