//! Notes about transfers that are under way, which only their owner can read.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Error, Result};

/// Largest note that is read, in bytes.
const NOTE_MAX: u64 = 1 << 20;

/// Writes a note, mode 0600, in place of the one before. Missing folders are made, mode 0700.
///
/// # Errors
/// [`Error::Io`] if it cannot be written.
pub(crate) fn write(path: &Path, note: &impl Serialize) -> Result<()> {
    let shown = path.display().to_string();
    let put = || -> io::Result<()> {
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let new = path.with_extension("new");
        // A file that somebody else has put there is not written to.
        drop(fs::remove_file(&new));
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(note)?)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    put().map_err(Error::io(shown))
}

/// Reads a note; `None` if there is none that can be read.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let len = fs::metadata(path).ok()?.len();
    if len > NOTE_MAX {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Removes a note. One that stays is found to be out of date.
pub(crate) fn remove(path: &Path) {
    drop(fs::remove_file(path));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn notes_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/note.json");
        assert_eq!(read::<String>(&path), None);
        for text in ["one", "two"] {
            write(&path, &text).unwrap();
            assert_eq!(read::<String>(&path).as_deref(), Some(text));
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        fs::write(&path, "{").unwrap();
        assert_eq!(read::<String>(&path), None);
        remove(&path);
        assert!(!path.exists());
    }
}
