//! Downloads of files of a vault, which appear as a whole or not at all.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use fula_seal::{
    VaultPath,
    body::{Layout, Proof},
};

use super::{
    Found, Vault, VaultGet, VaultGetOptions,
    partial::{Expected, Partial, RESUMED_MIN},
};
use crate::{
    download::{WriteBehind, at, put_in_place},
    error::{Error, Result},
    retry,
    send::Meter,
};

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
        if found.name.size < RESUMED_MIN {
            return self.get(path, VaultGetOptions { range: None, meter }).await?.save(to).await;
        }
        let (trailer, proof) = self.ending(&found).await?;
        let layout = trailer.layout;
        self.settle().await?;
        let partial = match &proof {
            Some(proof) => self.partial(&found, (&layout, proof), to).await?,
            None => None,
        };
        let Some(partial) = partial else {
            return self.read_found(&found, (&layout, proof), None, meter).await?.save(to).await;
        };
        let (kept, part) = (partial.kept, partial.path.clone());
        if let Some(meter) = &meter {
            meter.add(kept);
        }
        let rest = Some(kept..layout.size());
        let done = match self.read_found(&found, (&layout, proof), rest, meter).await {
            Ok(get) => Box::pin(get.save_rest(partial, to)).await,
            Err(error) => Err(error),
        };
        if !matches!(&done, Ok(_) | Err(Error::Unavailable { .. })) {
            drop(fs::remove_file(part));
        }
        done
    }

    /// Opens the part of a file from a download that was interrupted.
    async fn partial(
        &self,
        found: &Found,
        (layout, proof): (&Layout, &Proof),
        to: &Path,
    ) -> Result<Option<Partial>> {
        let keys = self.current().keyring.keys().clone();
        let (key, footer) = (keys.sealed_key(&found.name.path), found.anchor.footer());
        let (layout, proof, to) = (layout.clone(), proof.clone(), to.to_owned());
        let expected = Expected { keys, footer, layout, proof };
        let opening = tokio::task::spawn_blocking(move || Partial::open(&to, key, &expected));
        opening.await.map_err(|error| Error::io("a download")(io::Error::other(error)))?
    }
}

impl VaultGet {
    /// Writes what is left into a local file, as [`Vault::download`] does.
    ///
    /// # Errors
    /// [`Error::Io`] for the local file, and as for [`VaultGet::chunk`].
    pub async fn save(mut self, to: &Path) -> Result<VaultDownload> {
        let part = Part(to.with_file_name(format!(".fula-{:016x}.part", retry::random())));
        let shown = to.display().to_string();
        let mut how = fs::OpenOptions::new();
        let file = how.write(true).create_new(true).custom_flags(no_follow()).open(&part.0);
        let file = file.map_err(Error::io(&shown))?;
        let behind = WriteBehind::new(file.try_clone().map_err(Error::io(&shown))?);
        let file = self.drain(file, &shown, Some(behind)).await?;
        self.finish(file, &part.0, to).await
    }

    /// Appends the rest of the content to a part, and puts the file in its place.
    async fn save_rest(mut self, partial: Partial, to: &Path) -> Result<VaultDownload> {
        let shown = to.display().to_string();
        let Partial { path: part, file, .. } = partial;
        let behind = WriteBehind::new(file.try_clone().map_err(Error::io(&shown))?);
        let file = self.drain(file, &shown, Some(behind)).await?;
        self.finish(file, &part, to).await
    }

    async fn finish(self, file: fs::File, part: &Path, to: &Path) -> Result<VaultDownload> {
        let Self { size, modified, etag, .. } = self;
        let file = tokio::fs::File::from_std(file);
        let time = modified.and_then(|time| UNIX_EPOCH.checked_add(Duration::from_nanos(time)));
        let untimed = put_in_place(&file, part, to, at(time)).await?;
        Ok(VaultDownload { size, etag, untimed })
    }
}

fn no_follow() -> i32 {
    i32::from_ne_bytes(rustix::fs::OFlags::NOFOLLOW.bits().to_ne_bytes())
}
