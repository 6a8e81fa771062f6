//! Recovery: files from the bodies of objects alone, where a tool dropped their metadata.

use std::{
    fs, io,
    io::Write,
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use fula_seal::{
    SealError,
    body::{FOOTER_BYTES, Footer, Proof, RangeReader, Trailer},
};
use futures::TryStreamExt;

use super::Vault;
use crate::{
    error::{Error, Result},
    get::{GetOptions, Span},
    list::{Entry, ListOptions},
};

/// What a recovery has found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Files that were written, by their paths below the directory.
    pub files: Vec<PathBuf>,
    /// Objects that could not be recovered, with the reason.
    pub failed: Vec<(String, Error)>,
}

impl Vault {
    /// Writes the files of all bodies into a directory, in the clear. No file in it is replaced.
    ///
    /// Names are not read, so nothing proves that a body is the newest of its path, and a renamed file has the path that
    /// it was written with. A proof in a body is verified, but nothing proves that a body without one never had it.
    ///
    /// # Errors
    /// As for every request. An object that does not open is no error: see [`Recovered::failed`].
    pub async fn recover(&self, directory: &Path) -> Result<Recovered> {
        let place = &self.0.place;
        let mut listing = Box::pin(place.bucket.list(&place.prefix, ListOptions::default()));
        let mut out = Recovered::default();
        while let Some(entry) = listing.try_next().await? {
            let Entry::Object { key, size, .. } = entry else { continue };
            if place.sealed_key(&key).is_none() {
                continue;
            }
            match self.recover_one(&key, size, directory).await {
                Ok(file) => out.files.push(file),
                Err(error @ (Error::Unavailable { .. } | Error::Denied { .. })) => {
                    return Err(error);
                }
                Err(error) => out.failed.push((key, error)),
            }
        }
        Ok(out)
    }

    async fn recover_one(&self, key: &str, bytes: u64, directory: &Path) -> Result<PathBuf> {
        let bucket = &self.0.place.bucket;
        let read = |range| GetOptions { range: Some(range), ..GetOptions::default() };
        let end = bucket.get(key, read(Span::Last(FOOTER_BYTES as u64))).await?;
        let if_match = Some(end.meta.version.etag.clone());
        let end = end.bytes(FOOTER_BYTES).await?;
        let footer = end.as_ref().try_into();
        let footer = footer.map_err(|_| SealError::Truncated { what: "the footer of the file" })?;
        let footer = Footer::parse(footer)?;
        let range = footer.trailer_range(bytes)?;
        let read = |from, to| GetOptions {
            range: Some(Span::Between(from, to)),
            if_match: if_match.clone(),
            ..GetOptions::default()
        };
        let end = range.end + footer.proof_bytes() as u64;
        let end = bucket.get(key, read(range.start, end)).await?.bytes(2 << 20).await?;
        let (sealed, proof) = end
            .split_at_checked(end.len().saturating_sub(footer.proof_bytes()))
            .ok_or(SealError::Truncated { what: "the trailer of the file" })?;
        let current = self.current();
        let keys = current.keyring.keys();
        let Trailer { layout, metadata } = Trailer::open(keys, &footer, sealed, bytes, None)?;
        let mut reader = RangeReader::new(keys, &footer, &layout, 0..layout.size())?;
        let writer = |device, epoch| current.keyring.writer(device, epoch);
        if let Some(proof) = Proof::open(keys.vault(), &footer, sealed, proof, writer)? {
            reader = reader.proved_by(proof);
        }
        let range = reader.sealed_range();
        let mut body = bucket.get(key, read(range.start, range.end)).await?;
        let relative = relative(metadata.path.as_bytes())?;
        let mut file = Unfinished::create(&directory.join(&relative))?;
        let mut plain = Vec::new();
        while let Some(sealed) = body.chunk().await? {
            reader.push(&sealed, &mut plain)?;
            file.write(&plain)?;
            plain.clear();
        }
        reader.finish()?;
        file.finish()?;
        Ok(relative)
    }
}

/// Returns a path that lies below a directory.
fn relative(path: &[u8]) -> Result<PathBuf> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let is_plain = |part: &&[u8]| !matches!(*part, b"" | b"." | b"..") && !part.contains(&0);
    if !parts.iter().all(is_plain) {
        let (name, why) = (String::from_utf8_lossy(path).into_owned(), "it leads nowhere");
        return Err(Error::LocalName { name, why: why.to_owned() });
    }
    Ok(parts.into_iter().map(std::ffi::OsStr::from_bytes).collect())
}

/// A file that is removed unless it is finished.
struct Unfinished {
    file: fs::File,
    path: PathBuf,
    is_finished: bool,
}

impl Unfinished {
    fn create(path: &Path) -> Result<Self> {
        let create = || -> io::Result<fs::File> {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
        };
        let file = create().map_err(Error::naming(path.display().to_string()))?;
        Ok(Self { file, path: path.to_owned(), is_finished: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(self.path.display().to_string()))
    }

    fn finish(mut self) -> Result<()> {
        self.file.sync_all().map_err(Error::io(self.path.display().to_string()))?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_finished {
            drop(fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_the_directory() {
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a\0b", "a/."] {
            assert!(relative(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert_eq!(relative(b"a/b c/\xff").unwrap().components().count(), 3);
        assert_eq!(relative(b"..a").unwrap(), Path::new("..a"));
    }
}
