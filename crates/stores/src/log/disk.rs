//! The files of a log, as a trait that promises only what the kernel promises.
//!
//! The trait is small, so that tests can put a simulated disk behind it. That disk loses, reorders and
//! tears what was not synced, and fails at any call (`sim_disk`).

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, IoSliceMut},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::room::Room;

/// A directory of files.
pub(crate) trait Disk: fmt::Debug + Send + Sync {
    /// Returns the names of all files, and their lengths in bytes.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Creates a file that does not exist.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Removes a file. A process that has it open can continue to read it.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Renames a file.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes the creation, removal and renaming of files durable.
    fn sync(&self) -> io::Result<()>;

    /// Returns the free space, and the size of the disk.
    fn room(&self) -> io::Result<Room>;
}

/// An open file.
pub(crate) trait DiskFile: fmt::Debug + Send + Sync {
    /// Returns the length of the file in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Writes all of `bytes`. On an error any part of them may be there.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Fills `buffer`. Fails with [`io::ErrorKind::UnexpectedEof`] where the file is too short.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Fills `buffer` without waiting for the disk. Returns false when it would have to wait.
    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool>;

    /// Cuts the file off at `len` bytes.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Makes everything durable that was written before the call. After an error the unsynced part may be
    /// lost although it can be read, and a later call may succeed.
    fn sync(&self) -> io::Result<()>;
}

/// Returns whether the data to be read is lost, as far as the disk can tell.
pub(crate) fn is_lost(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

/// A directory of the file system.
#[derive(Debug)]
pub(crate) struct FsDisk {
    path: PathBuf,
}

impl FsDisk {
    /// Opens a directory, and creates it if necessary.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Ok(Self::at(path))
    }

    /// Opens a directory that exists.
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }
}

impl Disk for FsDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            found.push((entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len()));
        }
        Ok(found)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        Ok(Box::new(options.open(self.path.join(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        Ok(Box::new(options.read(true).write(true).open(self.path.join(name))?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn room(&self) -> io::Result<Room> {
        let found = rustix::fs::statvfs(&self.path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Room { free: bytes(found.f_bavail), size: bytes(found.f_blocks) })
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        let len = buffer.len();
        let buffers = &mut [IoSliceMut::new(buffer)];
        match preadv2(self, buffers, offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(read == len),
            // The data is not cached, or the file system lacks the flag, so another thread has to wait.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
