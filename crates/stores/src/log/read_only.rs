//! A directory that is only read, perhaps on a file system that cannot be written. The changes that a log
//! makes to its files when it is opened are made in memory, and are gone when the process ends.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

use super::{
    disk::{Disk, DiskFile, FsDisk},
    room::Room,
};

/// Free space that the disk reports, in bytes. It is large, because no write can run out of space here.
const ROOM_BYTES: u64 = 1 << 50;

/// A directory of the file system that is never changed.
#[derive(Debug)]
pub(crate) struct ReadOnlyDisk {
    path: PathBuf,
    files: FsDisk,
}

impl ReadOnlyDisk {
    /// Opens a directory that exists.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        std::fs::read_dir(path)?;
        Ok(Self { path: path.to_owned(), files: FsDisk::at(path) })
    }
}

fn read_only() -> io::Error {
    io::Error::new(
        io::ErrorKind::ReadOnlyFilesystem,
        "the data directory is opened for reading only",
    )
}

impl Disk for ReadOnlyDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.files.list()
    }

    fn create(&self, _: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(MemoryFile::default()))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = File::open(self.path.join(name))?;
        let len = file.metadata()?.len();
        Ok(Box::new(ReadOnlyFile { file, len: Mutex::new(len) }))
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn room(&self) -> io::Result<Room> {
        Ok(Room { free: ROOM_BYTES, size: ROOM_BYTES })
    }
}

/// A file that is never changed, and may appear shorter than it is.
#[derive(Debug)]
struct ReadOnlyFile {
    file: File,
    len: Mutex<u64>,
}

impl DiskFile for ReadOnlyFile {
    fn len(&self) -> io::Result<u64> {
        Ok(*self.len.lock())
    }

    /// Accepts writes of the bytes that are there already, and of those that are not read any more.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if offset + bytes.len() as u64 <= *self.len.lock() { Ok(()) } else { Err(read_only()) }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }

    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        self.file.read_cached(buffer, offset)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        *self.len.lock() = len;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A file in memory, for the segments that a log begins when it is opened.
#[derive(Debug, Default)]
struct MemoryFile(Mutex<Vec<u8>>);

impl DiskFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().len() as u64)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut content = self.0.lock();
        // Only the header is written, and nothing after it.
        if offset != 0 || !content.is_empty() {
            return Err(read_only());
        }
        content.extend_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let content = self.0.lock();
        let found = usize::try_from(offset).ok().and_then(|at| content.get(at..at + buffer.len()));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        self.read_at(buffer, offset).map(|()| true)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.lock().truncate(usize::try_from(len).unwrap_or(usize::MAX));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
