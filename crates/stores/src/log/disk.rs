//! The files of a log: what the kernel promises of them, and nothing more.
//!
//! A small trait, so that tests can put a disk behind it that forgets, reorders and tears what was
//! not synced, and that fails at any call (`sim_disk`).

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

    /// Removes a file; whoever has it open can go on reading it.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Renames a file.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes the creation, removal and renaming of files durable.
    fn sync(&self) -> io::Result<()>;

    /// Returns how much more fits, and how large the disk is.
    fn room(&self) -> io::Result<Room>;
}

/// An open file.
pub(crate) trait DiskFile: fmt::Debug + Send + Sync {
    /// Returns its length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Writes all of `bytes`; on an error any part of them may be there.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Fills `buffer`; [`io::ErrorKind::UnexpectedEof`] where the file is too short.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Fills `buffer` without waiting for the disk; false when it would have to.
    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool>;

    /// Cuts the file off.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// Makes what was written before the call durable. After an error, what was not may be lost
    /// though it can be read, and a later call may succeed.
    fn sync(&self) -> io::Result<()>;
}

/// Returns whether what was to be read is lost, as far as the disk can tell.
pub(crate) fn is_lost(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

/// A directory of the file system.
#[derive(Debug)]
pub(crate) struct FsDisk {
    path: PathBuf,
}

impl FsDisk {
    /// Opens a directory, and creates it if need be.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Ok(Self::at(path))
    }

    /// Takes a directory that is there.
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
            // Not cached, or a file system without the flag: wait elsewhere.
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
