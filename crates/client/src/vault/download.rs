//! Downloads of files of a vault, which appear as a whole or not at all.

use std::{
    fs,
    io::{self, Write},
    mem,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use fula_seal::{VaultPath, body::Layout};
use tokio::sync::mpsc;

use super::{
    Found, Vault, VaultGet, VaultGetOptions,
    partial::{NOTED_MIN, Partial},
};
use crate::{
    download::{WriteBehind, at, put_in_place},
    error::{Error, Result},
    retry,
    send::Meter,
};

/// Pieces that have arrived and wait to be opened. A connection hands out up to 400 KiB at a time.
const WAITING: usize = 4;

/// A file that was written from a vault.
#[derive(Debug)]
pub struct VaultDownload {
    /// Size of the content in bytes.
    pub size: u64,
    /// Entity tag, for conditions.
    pub etag: String,
    /// Why the file did not get its time, where its file system takes no such time. The content is complete.
    pub untimed: Option<Error>,
}

/// A file that is removed unless it was put in place.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        // It is not there any more if it was put in place.
        drop(fs::remove_file(&self.0));
    }
}

impl Vault {
    /// Reads a file into a local one, with its time. The bytes go to a file `.fula-….part` in the same folder, which
    /// takes the place of `to` once everything was verified and is on stable storage. If that file is there from a
    /// download of at least 64 MiB that was interrupted, only the segments are read that it does not have.
    ///
    /// # Errors
    /// [`Error::Io`] for the local file, and as for [`Vault::get`]. After [`Error::Unavailable`], what arrived is kept
    /// for the next call.
    pub async fn download(
        &self,
        path: &VaultPath,
        to: &Path,
        meter: Option<Meter>,
    ) -> Result<VaultDownload> {
        let found = self.look_up(path).await?.ok_or_else(|| self.missing())?;
        if found.name.size < NOTED_MIN {
            return self.get(path, VaultGetOptions { range: None, meter }).await?.save(to).await;
        }
        let (trailer, proof) = self.ending(&found).await?;
        let layout = trailer.layout;
        self.settle().await?;
        let Some(partial) = self.partial(&found, &layout, to).await? else {
            return self.read_found(&found, (&layout, proof), None, meter).await?.save(to).await;
        };
        let (kept, part, note) = (partial.kept, partial.path.clone(), partial.note.clone());
        if let Some(meter) = &meter {
            meter.add(kept);
        }
        let rest = Some(kept..layout.size());
        let done = match self.read_found(&found, (&layout, proof), rest, meter).await {
            Ok(get) => Box::pin(get.save_rest(partial, to)).await,
            Err(error) => Err(error),
        };
        match &done {
            // The part is in its place, and the note is out of date.
            Ok(_) => drop(fs::remove_file(note)),
            Err(Error::Unavailable { .. }) => {}
            Err(_) => drop((fs::remove_file(part), fs::remove_file(note))),
        }
        done
    }

    /// Opens the part of a file from a download that was interrupted.
    async fn partial(&self, found: &Found, layout: &Layout, to: &Path) -> Result<Option<Partial>> {
        let current = self.current();
        let keys = current.keyring.keys();
        let (sealed, footer) = (keys.sealed_key(&found.name.path), found.anchor.footer());
        let key = keys.journal(footer.epoch, footer.file)?;
        let note = self.0.state.lock().download_note(sealed);
        let (layout, to) = (layout.clone(), to.to_owned());
        let opening = tokio::task::spawn_blocking(move || {
            Partial::open((to.as_path(), note), (sealed, footer.file), key, &layout)
        });
        opening.await.map_err(|error| Error::io("a download")(io::Error::other(error)))?
    }
}

impl VaultGet {
    /// Writes what is read into a local file, as [`Vault::download`] does.
    ///
    /// # Errors
    /// [`Error::Io`] for the local file, and as for [`VaultGet::chunk`].
    pub async fn save(self, to: &Path) -> Result<VaultDownload> {
        let part = Part(to.with_file_name(format!(".fula-{:016x}.part", retry::random())));
        let mut how = fs::OpenOptions::new();
        let file = how.write(true).create_new(true).custom_flags(no_follow()).open(&part.0);
        let file = file.map_err(Error::io(to.display().to_string()))?;
        let other = file.try_clone().map_err(Error::io(to.display().to_string()))?;
        let write = |file: &mut fs::File, plain: &[u8]| file.write_all(plain);
        let (this, file) = self.fill((file, other, write), to).await?;
        this.finish(file, &part.0, to).await
    }

    /// Appends the rest of the content to a part, and puts the file in its place.
    async fn save_rest(self, partial: Partial, to: &Path) -> Result<VaultDownload> {
        let other = partial.other().map_err(Error::io(to.display().to_string()))?;
        let (this, partial) = self.fill((partial, other, Partial::write), to).await?;
        let (file, part) = partial.into_parts();
        this.finish(file, &part, to).await
    }

    async fn finish(self, file: fs::File, part: &Path, to: &Path) -> Result<VaultDownload> {
        let Self { size, modified, etag, .. } = self;
        let file = tokio::fs::File::from_std(file);
        let time = modified.and_then(|time| UNIX_EPOCH.checked_add(Duration::from_nanos(time)));
        let untimed = put_in_place(&file, part, to, at(time)).await?;
        Ok(VaultDownload { size, etag, untimed })
    }

    /// Writes what is ready, and then what arrives. The network goes on while a piece is opened and written. `file` is
    /// another handle of the file that is written.
    async fn fill<T: Send + 'static>(
        mut self,
        (mut sink, file, write_to): (
            T,
            fs::File,
            impl Fn(&mut T, &[u8]) -> io::Result<()> + Send + 'static,
        ),
        to: &Path,
    ) -> Result<(Self, T)> {
        let shown = to.display().to_string();
        let (ready, body) = (mem::take(&mut self.ready), self.body.take());
        let mut behind = WriteBehind::new(file);
        let (send, mut arrived) = mpsc::channel::<Bytes>(WAITING);
        let ((mut body, reader), path) = (body.unzip(), shown.clone());
        let writing = tokio::task::spawn_blocking(move || {
            let failed = |error| Error::io(&path)(error);
            let mut write = |plain: &[u8]| write_to(&mut sink, plain).map_err(failed);
            write(&ready)?;
            if let Some(mut reader) = reader {
                let mut plain = Vec::new();
                while let Some(sealed) = arrived.blocking_recv() {
                    reader.push(&sealed, &mut plain)?;
                    write(&plain)?;
                    plain.clear();
                }
                reader.finish()?;
            }
            Ok(sink)
        });
        let receiving = async {
            let Some(body) = &mut body else { return Ok(()) };
            while let Some(sealed) = body.chunk().await? {
                let bytes = sealed.len();
                if send.send(sealed).await.is_err() {
                    // The task that writes has failed, and says why.
                    break;
                }
                behind.wrote(bytes).await.map_err(Error::io(&shown))?;
            }
            behind.finish().await.map_err(Error::io(&shown))
        };
        let received = receiving.await;
        drop(send);
        let written = writing.await.map_err(|error| Error::io(&shown)(io::Error::other(error)))?;
        received.and(written).map(|sink| (self, sink))
    }
}

fn no_follow() -> i32 {
    i32::from_ne_bytes(rustix::fs::OFlags::NOFOLLOW.bits().to_ne_bytes())
}
