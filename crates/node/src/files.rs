//! Files of a data directory besides the log: the sealing key, credentials, the admin socket.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use fula_service::{
    Random,
    auth::{SealingKey, Secret},
};
use zeroize::Zeroizing;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// Look at the disk and the permissions.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    /// Protect it with `chmod 600`.
    #[error("{0} can be read by others; run: chmod 600 {0}")]
    TooOpen(PathBuf),
    /// Choose a shorter data directory.
    #[error("{0} is too long a path for a socket; choose a shorter --data-dir")]
    TooLong(PathBuf),
    /// Put 64 hex digits into it.
    #[error("{0} does not hold 64 hex digits")]
    NotAKey(PathBuf),
}

/// Returns where administrative commands reach the gateway.
pub(crate) fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.sock")
}

/// Returns where the first user's key is written.
pub(crate) fn credentials_path(data_dir: &Path) -> PathBuf {
    data_dir.join("credentials")
}

/// Makes the data directory, for its owner alone.
pub(crate) fn make_data_dir(dir: &Path) -> Result<(), FileError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| FileError::Io(dir.to_owned(), error))
}

/// Writes a file for its owner alone, in one step: a reader sees the old one or the new one.
fn write_private(path: &Path, text: &str) -> Result<(), FileError> {
    let failed = |error| FileError::Io(path.to_owned(), error);
    let temporary = path.with_extension("new");
    let options =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary);
    let mut file = options.map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
}

/// Reads a file that its owner alone may read; a line end at its end is not part of it.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let failed = |error| FileError::Io(path.to_owned(), error);
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(FileError::TooOpen(path.to_owned()));
    }
    let mut bytes = Zeroizing::new(std::fs::read(path).map_err(failed)?);
    while bytes.last().is_some_and(|last| b"\r\n".contains(last)) {
        bytes.pop();
    }
    Ok(bytes)
}

/// Writes a new file for its owner alone; fails if it is there.
pub(crate) fn write_new(path: &Path, text: &str) -> Result<(), FileError> {
    let failed = |error| FileError::Io(path.to_owned(), error);
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = made.map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// Reads the sealing key; makes it first when it is the data directory's own and not there yet.
pub(crate) fn sealing_key(
    data_dir: &Path,
    file: Option<&Path>,
    random: &Random,
) -> Result<SealingKey, FileError> {
    let own = data_dir.join("secrets.key");
    let path = file.unwrap_or(&own);
    let failed = |error| FileError::Io(path.to_owned(), error);
    if file.is_none() && !path.try_exists().map_err(failed)? {
        let mut key = [0; 32];
        random(&mut key);
        write_private(path, &format!("{}\n", hex::encode(key)))?;
    }
    let text = read_secret(path)?;
    let text = std::str::from_utf8(&text).map_err(|_| FileError::NotAKey(path.to_owned()))?;
    SealingKey::parse(text).map_err(|_| FileError::NotAKey(path.to_owned()))
}

/// Makes a sealing key in a file that is not there yet.
pub(crate) fn make_sealing_key(path: &Path, random: &Random) -> Result<(), FileError> {
    let mut key = [0; 32];
    random(&mut key);
    write_new(path, &format!("{}\n", hex::encode(key)))
}

/// Writes the first user's key as an AWS credentials file.
pub(crate) fn write_credentials(
    data_dir: &Path,
    id: &str,
    secret: &Secret,
) -> Result<(), FileError> {
    let text = format!(
        "[default]\naws_access_key_id = {id}\naws_secret_access_key = {}\n",
        secret.expose()
    );
    write_private(&credentials_path(data_dir), &text)
}

/// Restricts a socket to its owner.
pub(crate) fn restrict(path: &Path) -> Result<(), FileError> {
    let permissions = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, permissions)
        .map_err(|error| FileError::Io(path.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sealing_key_is_made_once_and_must_be_private() {
        let dir = tempfile::tempdir().unwrap();
        let random = fula_service::system_random();
        sealing_key(dir.path(), None, &random).unwrap();
        let path = dir.path().join("secrets.key");
        let first = std::fs::read_to_string(&path).unwrap();
        sealing_key(dir.path(), None, &random).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = sealing_key(dir.path(), None, &random);
        assert!(matches!(refused, Err(FileError::TooOpen(_))));
        let absent = dir.path().join("elsewhere");
        assert!(matches!(sealing_key(dir.path(), Some(&absent), &random), Err(FileError::Io(..))));
    }

    #[test]
    fn credentials_are_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        write_credentials(dir.path(), "AKID", &Secret::new("s3cret".into())).unwrap();
        let path = credentials_path(dir.path());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.starts_with("[default]\naws_access_key_id = AKID\n"));
    }
}
