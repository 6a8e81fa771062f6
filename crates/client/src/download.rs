//! Downloads into files, which appear as a whole or not at all.

use std::{
    collections::BTreeMap,
    fs, io,
    io::{Read, Seek},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use crate::{
    checksum::Crc,
    client::Bucket,
    error::{Error, Result},
    get::{Get, GetOptions, Span},
    meta::Meta,
    retry,
    send::Meter,
};

/// Metadata in which the time of a file is kept: seconds since 1970, with a fraction. rclone has the same.
pub const MTIME: &str = "mtime";

/// Number of bytes after which a download asks the disk to store what it wrote.
const SYNC_BYTES: u64 = 32 << 20;

/// Number of bytes that are read at a time of a download that was interrupted.
const READ: usize = 1 << 20;

/// Returns a time as the metadata [`MTIME`] has it.
pub fn mtime_text(time: SystemTime) -> String {
    let (sign, since) = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => ("", since),
        Err(before) => ("-", before.duration()),
    };
    let text = format!("{sign}{}.{:09}", since.as_secs(), since.subsec_nanos());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Returns the time in metadata; `None` if there is none, or if it is no time.
pub fn mtime_of(metadata: &BTreeMap<String, String>) -> Option<SystemTime> {
    let text = metadata.get(MTIME)?;
    let (is_before, text) =
        text.strip_prefix('-').map_or((false, text.as_str()), |rest| (true, rest));
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let fraction = fraction.get(..9).unwrap_or(fraction);
    let scale = 10_u32.checked_pow(9_u32.checked_sub(u32::try_from(fraction.len()).ok()?)?)?;
    let nanos = fraction.parse::<u32>().ok()?.checked_mul(scale)?;
    let since = Duration::new(seconds.parse().ok()?, nanos);
    if is_before { UNIX_EPOCH.checked_sub(since) } else { UNIX_EPOCH.checked_add(since) }
}

/// A file that was written from an object.
#[derive(Debug)]
pub struct Downloaded {
    /// What is known of the object.
    pub meta: Meta,
    /// Why the file did not get its time, where its file system takes no such time. The content is complete.
    pub untimed: Option<Error>,
}

/// Options of a download.
#[derive(Clone, Debug, Default)]
pub struct DownloadOptions {
    /// Entity tag that the object must have.
    pub if_match: Option<String>,
    /// Counts the bytes that arrive. Bytes of an earlier download count, too.
    pub meter: Option<Meter>,
}

impl Bucket {
    /// Reads an object into a file.
    ///
    /// The bytes go to a file `.fula-….part` in the same folder, which takes the place of `path` once it is
    /// complete, verified and on stable storage. If that file is there from a download that was interrupted,
    /// only the rest is read, provided that the server keeps a checksum of the whole. The file gets the time
    /// in the metadata [`MTIME`], or that of the object. A time that the file system does not take is left out.
    ///
    /// # Errors
    /// [`Error::Io`] for the file, and as for [`Bucket::get`]. After [`Error::Unavailable`], what arrived is
    /// kept for the next call.
    pub async fn download(
        &self,
        key: &str,
        path: &Path,
        options: DownloadOptions,
    ) -> Result<Downloaded> {
        let get = GetOptions {
            if_match: options.if_match,
            meter: options.meter.clone(),
            ..GetOptions::default()
        };
        // One request is enough for most objects. Only where a part is there already, it is asked for the rest.
        let mut get = self.get(key, get).await?;
        let meta = get.meta.clone();
        let mut part = Part::open(path, &format!("{}/{key}", self.name()), &meta).await?;
        if part.len > 0 {
            if let Some(meter) = &options.meter {
                meter.add(part.len);
            }
            if part.len < meta.size {
                let rest = GetOptions {
                    range: Some(Span::From(part.len)),
                    if_match: Some(meta.version.etag.clone()),
                    meter: options.meter,
                    ..GetOptions::default()
                };
                get = self.get(key, rest).await?;
            }
        }
        match part.fill(get, &meta).await {
            Ok(()) => {
                let time = mtime_of(&meta.metadata).or(meta.modified);
                let untimed = put_in_place(&part.file, &part.path, path, at(time)).await?;
                Ok(Downloaded { meta, untimed })
            }
            Err(error) => {
                if !matches!(error, Error::Unavailable { .. }) || meta.crc64nvme.is_none() {
                    drop(fs::remove_file(&part.path));
                }
                Err(error)
            }
        }
    }
}

/// Brings what was written to stable storage while more arrives, so that the end does not wait for all of it.
pub(crate) struct WriteBehind {
    file: Arc<fs::File>,
    /// Bytes since the disk was last asked.
    unsynced: u64,
    syncing: Option<JoinHandle<io::Result<()>>>,
}

impl WriteBehind {
    /// Takes another handle of the file that is written.
    pub(crate) fn new(file: fs::File) -> Self {
        Self { file: Arc::new(file), unsynced: 0, syncing: None }
    }

    /// Notes that so many bytes were written. It does not wait for the disk.
    ///
    /// # Errors
    /// What the disk said to an earlier part of the file.
    pub(crate) async fn wrote(&mut self, bytes: usize) -> io::Result<()> {
        self.unsynced += bytes as u64;
        let is_busy = self.syncing.as_ref().is_some_and(|syncing| !syncing.is_finished());
        if self.unsynced < SYNC_BYTES || is_busy {
            return Ok(());
        }
        self.finish().await?;
        let file = Arc::clone(&self.file);
        self.syncing = Some(tokio::task::spawn_blocking(move || file.sync_data()));
        self.unsynced = 0;
        Ok(())
    }

    /// Waits for the disk, if it was asked. What came after that is not on stable storage yet.
    ///
    /// # Errors
    /// What the disk said.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        match self.syncing.take() {
            Some(syncing) => syncing.await.map_err(io::Error::other)?,
            None => Ok(()),
        }
    }
}

/// A file that is not complete yet.
struct Part {
    path: PathBuf,
    file: tokio::fs::File,
    /// Number of bytes that it has.
    len: u64,
    crc: Crc,
}

impl Part {
    /// Opens the part of a file, and locks it. A part that another process is writing to is left alone, and a
    /// new one is made.
    async fn open(path: &Path, what: &str, meta: &Meta) -> Result<Self> {
        let name = path
            .file_name()
            .ok_or_else(|| Error::Invalid(format!("{} names no file", path.display())))?;
        let digest = Sha256::digest(
            [name.as_encoded_bytes(), what.as_bytes(), meta.version.etag.as_bytes()].join(&0),
        );
        let usual = path.with_file_name(format!(".fula-{}.part", hex::encode(&digest[..16])));
        let other = path.with_file_name(format!(".fula-{:016x}.part", retry::random()));
        let can_resume = meta.crc64nvme.is_some();
        let (size, shown) = (meta.size, path.display().to_string());
        let opened = tokio::task::spawn_blocking(move || -> io::Result<Self> {
            let (path, mut file) = match lock(&usual) {
                Ok(file) => (usual, file),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let file = lock(&other)?;
                    (other, file)
                }
                Err(error) => return Err(error),
            };
            let (len, crc) =
                if can_resume { checked(&mut file, size)? } else { (0, Crc::default()) };
            file.set_len(len)?;
            file.seek(io::SeekFrom::Start(len))?;
            Ok(Self { path, file: tokio::fs::File::from_std(file), len, crc })
        });
        opened.await.map_err(io::Error::other).flatten().map_err(Error::io(shown))
    }

    /// Writes what is missing, and verifies the whole.
    async fn fill(&mut self, mut get: Get, meta: &Meta) -> Result<()> {
        use tokio::io::AsyncWriteExt;
        let shown = self.path.display().to_string();
        let other = self.file.try_clone().await.map_err(Error::io(&shown))?;
        let mut behind = WriteBehind::new(other.into_std().await);
        while self.len < meta.size {
            let Some(chunk) = get.chunk().await? else { break };
            self.crc.update(&chunk);
            self.len += chunk.len() as u64;
            self.file.write_all(&chunk).await.map_err(Error::io(&shown))?;
            behind.wrote(chunk.len()).await.map_err(Error::io(&shown))?;
        }
        self.file.flush().await.map_err(Error::io(&shown))?;
        behind.finish().await.map_err(Error::io(&shown))?;
        if self.len != meta.size {
            let why = format!("{} bytes arrived, and the object has {}", self.len, meta.size);
            return Err(Error::Damaged { what: shown, why });
        }
        if meta.crc64nvme.as_ref().is_some_and(|expected| *expected != self.crc.text()) {
            let why = "the bytes that arrived do not match the checksum of the object".to_owned();
            return Err(Error::Damaged { what: shown, why });
        }
        Ok(())
    }
}

/// Returns what gives a file a time, if there is one.
pub(crate) fn at(time: Option<SystemTime>) -> impl FnOnce(&fs::File) -> io::Result<()> + Send {
    move |file| time.map_or(Ok(()), |time| file.set_modified(time))
}

/// Gives a file its time, makes it durable, and puts it in place. Returns why the file has no such time, if the file
/// system does not take it.
///
/// # Errors
/// [`Error::Io`]. Nothing is in place then, or not durably.
pub(crate) async fn put_in_place(
    file: &tokio::fs::File,
    part: &Path,
    path: &Path,
    set_time: impl FnOnce(&fs::File) -> io::Result<()> + Send + 'static,
) -> Result<Option<Error>> {
    let shown = path.display().to_string();
    let file = file.try_clone().await.map_err(Error::io(&shown))?.into_std().await;
    let (part, path) = (part.to_owned(), path.to_owned());
    let name = shown.clone();
    let done = tokio::task::spawn_blocking(move || -> Result<Option<io::Error>> {
        let untimed = set_time(&file).err();
        file.sync_all().map_err(Error::io(&name))?;
        fs::rename(&part, &path).map_err(Error::naming(&name))?;
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = fs::File::open(dir.unwrap_or(Path::new(".")));
        dir.and_then(|dir| dir.sync_all()).map_err(Error::io(&name))?;
        Ok(untimed)
    });
    let failed = |error| Error::io(&shown)(io::Error::other(error));
    let untimed = done.await.map_err(failed).flatten()?;
    Ok(untimed.map(Error::io(shown)))
}

/// Opens a part, which is no link, for this process alone.
pub(crate) fn lock(path: &Path) -> io::Result<fs::File> {
    let no_follow = i32::from_ne_bytes(rustix::fs::OFlags::NOFOLLOW.bits().to_ne_bytes());
    let mut how = fs::OpenOptions::new();
    let file = how
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(no_follow)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Returns how many bytes of a part can be kept, and their checksum.
fn checked(file: &mut fs::File, size: u64) -> io::Result<(u64, Crc)> {
    let len = file.metadata()?.len();
    if len > size {
        return Ok((0, Crc::default()));
    }
    let (mut crc, mut buffer, mut left) = (Crc::default(), vec![0; READ], len);
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(READ).min(READ);
        let read = file.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Ok((0, Crc::default()));
        }
        crc.update(&buffer[..read]);
        left -= read as u64;
    }
    Ok((len, crc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_to_the_nanosecond() {
        for (text, nanos) in [("1700000000.123456789", 123_456_789), ("5.5", 500_000_000), ("7", 0)]
        {
            let metadata = BTreeMap::from([(MTIME.to_owned(), text.to_owned())]);
            let time = mtime_of(&metadata).unwrap();
            assert_eq!(time.duration_since(UNIX_EPOCH).unwrap().subsec_nanos(), nanos);
            assert_eq!(mtime_text(time), text);
        }
        let before = UNIX_EPOCH - Duration::from_millis(1500);
        let metadata = BTreeMap::from([(MTIME.to_owned(), mtime_text(before))]);
        assert_eq!((mtime_text(before).as_str(), mtime_of(&metadata)), ("-1.5", Some(before)));
        for wrong in ["", "x", "1.x", "1e9", "99999999999999999999"] {
            let metadata = BTreeMap::from([(MTIME.to_owned(), wrong.to_owned())]);
            assert_eq!(mtime_of(&metadata), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_time_that_the_file_system_does_not_take_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let (part, path) = (dir.path().join("part"), dir.path().join("path"));
        fs::write(&part, b"content").unwrap();
        let file = tokio::fs::File::open(&part).await.unwrap();
        let refused = |_: &fs::File| Err(io::ErrorKind::InvalidInput.into());
        let untimed = put_in_place(&file, &part, &path, refused).await;
        assert!(matches!(untimed.unwrap(), Some(Error::Io { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"content");
    }

    #[test]
    fn a_part_is_written_to_by_one_process_and_is_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("part"), dir.path().join("target"));
        let held = lock(&path).unwrap();
        assert_eq!(lock(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        fs::write(&path, b"123456789").unwrap();
        let (len, crc) = checked(&mut lock(&path).unwrap(), 10).unwrap();
        assert_eq!((len, crc.value()), (9, 0xae8b_1486_0a79_9888));
        assert_eq!(checked(&mut lock(&path).unwrap(), 8).unwrap().0, 0);
        fs::write(&target, b"x").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(lock(&link).is_err());
    }
}
