//! The files of a data directory other than the log: the sealing key, credentials and the admin socket. Files
//! that hold secrets are created for their owner alone, and refused when others can read them.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use fula_core::error::io_text;
use fula_service::{
    Random,
    auth::{SealingKey, Secret},
};
use rustix::fs::Mode;
use zeroize::Zeroizing;

/// Name of a data directory's own sealing key.
const SEALING_KEY: &str = "secrets.key";

/// Longest text that is read as a sealing key, in bytes.
const KEY_TEXT_MAX: u64 = 8 << 10;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The operating system refused an operation. Check the path, the disk and the permissions.
    #[error("{0}: {reason}{cure}", reason = io_text(.1), cure = cure(.1))]
    Io(PathBuf, io::Error),
    /// The file that a setting names cannot be used. Correct the file or the setting.
    #[error("{0}: {1}")]
    Setting(&'static str, Box<FileError>),
    /// Others can read a file that holds a secret. Protect it with `chmod 600`.
    #[error("{0} holds a secret and can be read by others; run: chmod 600 {0}")]
    TooOpen(PathBuf),
    /// A file stands where a directory is expected. Name a directory.
    #[error("{0} is a file, not a directory: name a directory that is new or empty")]
    NotADirectory(PathBuf),
    /// The directory holds files of something else. Name another one.
    #[error(
        "{0} is not empty, and not a data directory of Fula: it holds {1}; name a directory that is new or empty"
    )]
    Foreign(PathBuf, String),
    /// This user may not read the data directory. Become its owner.
    #[error(
        "{dir}: permission denied for user id {user}, as which this command runs; run it as the user that the \
         gateway runs as{owner}"
    )]
    Denied {
        /// Path that cannot be read.
        dir: PathBuf,
        /// User id of this process.
        user: u32,
        /// User id of the owner, as the end of a sentence; empty if it cannot be read either.
        owner: String,
    },
    /// Root opens the data directory of another user. Become that user.
    #[error(
        "{0} belongs to user id {1}, who could not read what root writes into it; run this as that user, or \
         start the gateway as that user first: it carries commands of root out itself"
    )]
    OfAnotherUser(PathBuf, u32),
    /// The path of a socket is too long. Choose a data directory with a shorter path.
    #[error("{0} is too long a path for a socket; choose a shorter --data-dir")]
    TooLong(PathBuf),
    /// The file of the sealing key holds something else. Write 64 hex digits into each line.
    #[error("{0} does not hold keys of 64 hex digits, one a line")]
    NotAKey(PathBuf),
}

impl FileError {
    /// Returns a function that puts the setting which names the file in front of an error.
    pub(crate) fn of_setting(setting: &'static str) -> impl Fn(FileError) -> FileError {
        move |error| FileError::Setting(setting, Box::new(error))
    }
}

/// Returns what to do about an error of the operating system, as the end of a sentence.
fn cure(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "; check the path".to_owned(),
        io::ErrorKind::AlreadyExists => "; choose another name, or remove it first".to_owned(),
        io::ErrorKind::PermissionDenied => {
            let user = rustix::process::geteuid().as_raw();
            format!(" for user id {user}, as which fula runs; change its owner or its mode")
        }
        _ => String::new(),
    }
}

/// Checks that a file can be read.
///
/// # Errors
/// [`FileError::Io`].
pub(crate) fn check_readable(path: &Path) -> Result<(), FileError> {
    std::fs::File::open(path).map(drop).map_err(|error| FileError::Io(path.to_owned(), error))
}

/// Reads a text file.
///
/// # Errors
/// [`FileError::Io`].
pub(crate) fn read_text(path: &Path) -> Result<String, FileError> {
    std::fs::read_to_string(path).map_err(|error| FileError::Io(path.to_owned(), error))
}

/// Sets the umask, so that every file, directory and socket of this process is created for its owner alone.
pub(crate) fn keep_private() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Returns whether a file with this mode and owner is private: only its owner can read it. A file of root may
/// also be readable by its group, because systemd and Kubernetes hand credentials to services in this way.
fn is_private(mode: u32, owner: u32) -> bool {
    let refused = if owner == 0 { 0o037 } else { 0o077 };
    mode & refused == 0
}

/// Checks that a file with a secret is private.
///
/// # Errors
/// [`FileError::TooOpen`], [`FileError::Io`].
pub(crate) fn check_private(path: &Path) -> Result<(), FileError> {
    let metadata =
        std::fs::metadata(path).map_err(|error| FileError::Io(path.to_owned(), error))?;
    if is_private(metadata.mode(), metadata.uid()) {
        return Ok(());
    }
    Err(FileError::TooOpen(path.to_owned()))
}

/// Checks that a data directory does not belong to another user if root is about to write into it. A gateway
/// of that user could not open the files afterwards.
///
/// # Errors
/// [`FileError::OfAnotherUser`].
pub(crate) fn check_own(data_dir: &Path) -> Result<(), FileError> {
    let user = rustix::process::geteuid().as_raw();
    match fs::metadata(data_dir).map(|found| found.uid()) {
        Ok(owner) if user == 0 && owner != 0 => {
            Err(FileError::OfAnotherUser(data_dir.to_owned(), owner))
        }
        _ => Ok(()),
    }
}

/// Returns the path of the socket for administrative commands.
pub(crate) fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.sock")
}

/// Returns whether a directory has the credentials of a gateway and no segment of its log.
pub(crate) fn lacks_log(data_dir: &Path) -> bool {
    let is_segment = |entry: fs::DirEntry| entry.file_name().to_string_lossy().ends_with(".log");
    let has_log = fs::read_dir(data_dir.join("log"))
        .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(is_segment)));
    credentials_path(data_dir).exists() && !has_log
}

/// Returns the path of the credentials file, which holds the access key of the first user.
pub(crate) fn credentials_path(data_dir: &Path) -> PathBuf {
    data_dir.join("credentials")
}

/// What a path that is named as a data directory leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DataDir {
    /// Nothing.
    Missing,
    /// A directory without files.
    Empty,
    /// A data directory without a log: a file of one is there already, or a start did not come further.
    Begun,
    /// A data directory that a gateway or a command has used.
    Used,
    /// A directory with files of something else, one of which is named here.
    Foreign(String),
}

/// Looks at what a path that is named as a data directory leads to.
///
/// # Errors
/// [`FileError::Denied`], [`FileError::NotADirectory`], [`FileError::Io`].
pub(crate) fn look_at(dir: &Path) -> Result<DataDir, FileError> {
    let Some(names) = names_in(dir)? else { return Ok(DataDir::Missing) };
    let is_of_log = |name: &String| {
        let is_segment = ["commit-", "bulk-"].iter().any(|stream| name.starts_with(stream));
        name == "manifest" || (is_segment && name.strip_suffix(".log").is_some())
    };
    if names.iter().any(|name| name == "log") && dir.join("log").is_dir() {
        let in_log = names_in(&dir.join("log"))?.unwrap_or_default();
        if in_log.iter().any(is_of_log) {
            return Ok(DataDir::Used);
        }
    }
    let is_lock = |path: &Path| fs::metadata(path).is_ok_and(|it| it.is_file() && it.len() == 0);
    if credentials_path(dir).is_file()
        || dir.join(SEALING_KEY).is_file()
        || is_lock(&dir.join("lock"))
    {
        return Ok(DataDir::Begun);
    }
    // Some file systems have this directory from the beginning.
    let foreign = names.into_iter().filter(|name| name != "lost+found").min();
    Ok(foreign.map_or(DataDir::Empty, DataDir::Foreign))
}

/// Returns the names of the files in a directory, or `None` if there is no such path.
fn names_in(dir: &Path) -> Result<Option<Vec<String>>, FileError> {
    let names = fs::read_dir(dir).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    });
    match names {
        Ok(names) => Ok(Some(names)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => Ok(None),
            io::ErrorKind::NotADirectory if dir.exists() => {
                Err(FileError::NotADirectory(dir.to_owned()))
            }
            io::ErrorKind::PermissionDenied => Err(denied(dir)),
            _ => Err(FileError::Io(dir.to_owned(), error)),
        },
    }
}

/// Returns the error for a path that this user may not read.
pub(crate) fn denied(path: &Path) -> FileError {
    let owner = fs::metadata(path).map(|found| found.uid());
    let owner = owner.map(|owner| format!(", user id {owner} (sudo -u '#{owner}' fula …)"));
    let user = rustix::process::geteuid().as_raw();
    FileError::Denied { dir: path.to_owned(), user, owner: owner.unwrap_or_default() }
}

/// Refuses a directory that holds files of something else, as the place of a new data directory.
///
/// # Errors
/// [`FileError::Foreign`], and the errors of [`look_at`].
pub(crate) fn check_not_foreign(dir: &Path) -> Result<(), FileError> {
    match look_at(dir)? {
        DataDir::Foreign(name) => Err(FileError::Foreign(dir.to_owned(), name)),
        DataDir::Missing | DataDir::Empty | DataDir::Begun | DataDir::Used => Ok(()),
    }
}

/// Creates the data directory for its owner alone, if it does not exist.
pub(crate) fn make_data_dir(dir: &Path) -> Result<(), FileError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| FileError::Io(dir.to_owned(), error))
}

/// A temporary directory, which is removed on drop. It serves commands that need no data directory of a
/// gateway.
#[derive(Debug)]
pub(crate) struct ScratchDir(PathBuf);

impl ScratchDir {
    /// Creates the directory where the system keeps temporary files.
    pub(crate) fn make(random: &Random) -> Result<Self, FileError> {
        let mut bytes = [0; 8];
        random(&mut bytes);
        let dir = std::env::temp_dir().join(format!("fula-{}", hex::encode(bytes)));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(|error| FileError::Io(dir.clone(), error))?;
        Ok(Self(dir))
    }

    /// Returns the path of the directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Writes a file for its owner alone. It replaces an old file atomically and durably.
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

/// Reads a private file, and removes line ends from its end.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    check_private(path)?;
    let read = std::fs::read(path).map_err(|error| FileError::Io(path.to_owned(), error));
    let mut bytes = Zeroizing::new(read?);
    while bytes.last().is_some_and(|last| b"\r\n".contains(last)) {
        bytes.pop();
    }
    Ok(bytes)
}

/// Writes a new file for its owner alone. Fails if the file exists.
pub(crate) fn write_new(path: &Path, text: &str) -> Result<(), FileError> {
    let failed = |error| FileError::Io(path.to_owned(), error);
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = made.map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// Returns whether a data directory has a sealing key of its own.
pub(crate) fn has_sealing_key(data_dir: &Path) -> Result<bool, FileError> {
    let path = data_dir.join(SEALING_KEY);
    path.try_exists().map_err(|error| FileError::Io(path, error))
}

/// Returns the path of a data directory's own sealing key.
pub(crate) fn own_sealing_key(data_dir: &Path) -> PathBuf {
    data_dir.join(SEALING_KEY)
}

/// Reads the sealing key. Makes the key first if no setting names its file and the data directory has none.
pub(crate) fn sealing_key(
    data_dir: &Path,
    file: Option<&Path>,
    random: &Random,
) -> Result<SealingKey, FileError> {
    let setting = FileError::of_setting("--secrets-key-file (FULA_SECRETS_KEY_FILE)");
    read_sealing_key(data_dir, file, random)
        .map_err(|error| if file.is_some() { setting(error) } else { error })
}

fn read_sealing_key(
    data_dir: &Path,
    file: Option<&Path>,
    random: &Random,
) -> Result<SealingKey, FileError> {
    let own = data_dir.join(SEALING_KEY);
    let path = file.unwrap_or(&own);
    let failed = |error| FileError::Io(path.to_owned(), error);
    if file.is_none() && !path.try_exists().map_err(failed)? {
        let mut key = [0; 32];
        random(&mut key);
        write_private(path, &format!("{}\n", hex::encode(key)))?;
    }
    key_in(path)
}

fn key_in(path: &Path) -> Result<SealingKey, FileError> {
    let text = read_secret(path)?;
    let text = std::str::from_utf8(&text).map_err(|_| FileError::NotAKey(path.to_owned()))?;
    SealingKey::parse(text).map_err(|_| FileError::NotAKey(path.to_owned()))
}

/// Reads a sealing key from a file, or from standard input if the file is `-`.
///
/// # Errors
/// [`FileError`].
pub(crate) fn read_key(file: &Path) -> Result<SealingKey, FileError> {
    if file != Path::new("-") {
        return key_in(file);
    }
    let mut text = Zeroizing::new(String::new());
    let read = io::stdin().take(KEY_TEXT_MAX).read_to_string(&mut text);
    read.map_err(|error| FileError::Io("standard input".into(), error))?;
    SealingKey::parse(text.trim_end()).map_err(|_| FileError::NotAKey("standard input".into()))
}

/// Checks that the sealing key can be read, if there is one already.
///
/// # Errors
/// [`FileError`].
pub(crate) fn check_sealing_key(data_dir: &Path, file: Option<&Path>) -> Result<(), FileError> {
    match file {
        Some(file) => {
            let setting = FileError::of_setting("--secrets-key-file (FULA_SECRETS_KEY_FILE)");
            key_in(file).map(drop).map_err(setting)
        }
        None if has_sealing_key(data_dir).unwrap_or(false) => {
            key_in(&data_dir.join(SEALING_KEY)).map(drop)
        }
        None => Ok(()),
    }
}

/// Makes a sealing key in a new file.
pub(crate) fn make_sealing_key(path: &Path, random: &Random) -> Result<(), FileError> {
    let mut key = [0; 32];
    random(&mut key);
    write_new(path, &format!("{}\n", hex::encode(key)))
}

/// Returns the access key id in the credentials file.
pub(crate) fn credentials_id(data_dir: &Path) -> Option<String> {
    let text = fs::read_to_string(credentials_path(data_dir)).ok()?;
    let id = text.lines().find_map(|line| line.trim().strip_prefix("aws_access_key_id"))?;
    Some(id.trim().strip_prefix('=')?.trim().to_owned())
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_owner_may_read_a_secret_or_the_group_of_roots() {
        const ROOT: u32 = 0;
        const SERVICE: u32 = 990;
        for (mode, owner, expected) in [
            (0o100_600, SERVICE, true),
            (0o100_400, SERVICE, true),
            (0o100_440, SERVICE, false),
            (0o100_640, SERVICE, false),
            (0o100_604, SERVICE, false),
            (0o100_600, ROOT, true),
            (0o100_440, ROOT, true),
            (0o100_640, ROOT, true),
            (0o100_660, ROOT, false),
            (0o100_444, ROOT, false),
            (0o100_644, ROOT, false),
        ] {
            assert_eq!(is_private(mode, owner), expected, "{mode:o} of {owner}");
        }
    }

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
        let refused = sealing_key(dir.path(), Some(&absent), &random).err().unwrap().to_string();
        assert!(refused.starts_with("--secrets-key-file (FULA_SECRETS_KEY_FILE): /"), "{refused}");
        assert!(refused.ends_with("elsewhere: there is no such file or directory; check the path"));
    }

    #[test]
    fn a_directory_of_something_else_is_no_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let at = |name: &str| path.join(name);
        assert_eq!(look_at(&at("absent")).unwrap(), DataDir::Missing);
        fs::create_dir(at("lost+found")).unwrap();
        assert_eq!(look_at(path).unwrap(), DataDir::Empty);
        fs::write(at("notes.txt"), "x").unwrap();
        assert_eq!(look_at(path).unwrap(), DataDir::Foreign("notes.txt".to_owned()));
        let refused = check_not_foreign(path).unwrap_err().to_string();
        assert!(refused.contains("notes.txt") && refused.contains("new or empty"), "{refused}");
        let refused = look_at(&at("notes.txt")).unwrap_err().to_string();
        assert!(refused.contains("is a file, not a directory"), "{refused}");
        // As /var has: a directory of logs, and one for locks.
        fs::create_dir(at("log")).unwrap();
        fs::write(at("log/syslog.log"), "x").unwrap();
        fs::create_dir(at("lock")).unwrap();
        assert!(matches!(look_at(path).unwrap(), DataDir::Foreign(_)));
        fs::remove_dir(at("lock")).unwrap();
        fs::write(at("lock"), "").unwrap();
        assert_eq!(look_at(path).unwrap(), DataDir::Begun);
        fs::write(at("log/commit-00000001.log"), "x").unwrap();
        assert_eq!(look_at(path).unwrap(), DataDir::Used);
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
        assert_eq!(credentials_id(dir.path()).as_deref(), Some("AKID"));
    }
}
