//! Files and folders on this machine.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use fula_client::{Error, Result};

use super::place::printable;

/// A file in a folder.
#[derive(Clone, Debug)]
pub(in crate::commands) struct File {
    /// Path relative to the folder, with `/` between its parts.
    pub(in crate::commands) name: String,
    pub(in crate::commands) path: PathBuf,
    pub(in crate::commands) size: u64,
    pub(in crate::commands) modified: Option<SystemTime>,
}

/// What a walk comes to.
#[derive(Debug)]
pub(in crate::commands) enum Found {
    File(File),
    /// Something that is left out, and why.
    Skipped {
        path: PathBuf,
        why: &'static str,
    },
    Failed(Error),
}

/// A folder whose entries are still to be visited, in reverse order.
struct Folder {
    entries: Vec<(OsString, String, bool)>,
    path: PathBuf,
    name: String,
    /// Device and inode, by which a link that leads back is noticed.
    id: (u64, u64),
}

/// Walks over a folder, in the order of the names that the files have as keys. Memory is bounded by the
/// largest folder on each level.
pub(in crate::commands) struct Walk {
    stack: Vec<Folder>,
    follow: bool,
    failed: Option<Error>,
}

impl Walk {
    /// Begins at a folder. `follow` takes what symbolic links lead to.
    pub(in crate::commands) fn new(root: &Path, follow: bool) -> Self {
        let mut walk = Self { stack: Vec::new(), follow, failed: None };
        walk.failed = walk.enter(root.to_owned(), String::new()).err();
        walk
    }

    fn enter(&mut self, path: PathBuf, name: String) -> Result<()> {
        let failed = |error| Error::io(path.display().to_string())(error);
        let id =
            fs::metadata(&path).map(|metadata| (metadata.dev(), metadata.ino())).map_err(failed)?;
        if self.stack.iter().any(|folder| folder.id == id) {
            return Err(failed(io::Error::other(
                "the link leads back to a folder that contains it",
            )));
        }
        let mut entries = Vec::new();
        for entry in fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let file_name = entry.file_name();
            let is_folder = if self.follow {
                fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_dir())
            } else {
                entry.file_type().map_err(failed)?.is_dir()
            };
            // A folder comes where its files come in the order of keys.
            let mut order = file_name.to_string_lossy().into_owned();
            if is_folder {
                order.push('/');
            }
            entries.push((file_name, order, is_folder));
        }
        entries.sort_by(|a, b| b.1.cmp(&a.1));
        self.stack.push(Folder { entries, path, name, id });
        Ok(())
    }

    fn visit(&mut self, path: PathBuf, name: String, is_folder: bool) -> Option<Found> {
        if is_folder {
            return self.enter(path, format!("{name}/")).err().map(Found::Failed);
        }
        let metadata =
            match if self.follow { fs::metadata(&path) } else { fs::symlink_metadata(&path) } {
                Ok(metadata) => metadata,
                Err(error) => {
                    return Some(Found::Failed(Error::io(path.display().to_string())(error)));
                }
            };
        if metadata.is_symlink() {
            return Some(Found::Skipped {
                path,
                why: "a symbolic link (--follow-symlinks takes it)",
            });
        }
        if !metadata.is_file() {
            return Some(Found::Skipped { path, why: "neither a file nor a folder" });
        }
        let (size, modified) = (metadata.len(), metadata.modified().ok());
        Some(Found::File(File { name, path, size, modified }))
    }
}

impl Iterator for Walk {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if let Some(error) = self.failed.take() {
            return Some(Found::Failed(error));
        }
        loop {
            let folder = self.stack.last_mut()?;
            let Some((file_name, order, is_folder)) = folder.entries.pop() else {
                self.stack.pop();
                continue;
            };
            let path = folder.path.join(&file_name);
            if is_part(&order) {
                continue;
            }
            let Some(text) = file_name.to_str() else {
                let why = "its name is not UTF-8, and keys are";
                return Some(Found::Failed(Error::Invalid(format!("{}: {why}", path.display()))));
            };
            let name = format!("{}{text}", folder.name);
            if let Some(found) = self.visit(path, name, is_folder) {
                return Some(found);
            }
        }
    }
}

/// Returns whether a file is part of a download that was interrupted.
fn is_part(name: &str) -> bool {
    name.strip_prefix(".fula-").is_some_and(|rest| rest.strip_suffix(".part").is_some())
}

/// Longest name of a file in bytes, of all file systems that are in use.
const NAME_MAX: usize = 255;

/// Returns why no file can have a part of a key as its name.
fn why_not(part: &str) -> Option<&'static str> {
    match part {
        "" => Some("a part of it is empty"),
        "." | ".." => Some("it leads to another folder"),
        part if part.contains('\0') => Some("it has a character of number 0"),
        part if is_part(part) => Some("downloads that are under way have such names"),
        part if part.len() > NAME_MAX => Some("a part of it is longer than 255 bytes"),
        _ => None,
    }
}

/// Returns the parts of a path for a key; an error if it would lead out of the folder, or if no file can have
/// the name.
fn parts_of(key: &str) -> Result<Vec<&str>> {
    let parts: Vec<&str> = key.split('/').collect();
    match parts.iter().find_map(|part| why_not(part)) {
        Some(why) => Err(Error::LocalName { name: printable(key), why: why.to_owned() }),
        None => Ok(parts),
    }
}

/// A folder into which objects are written.
#[derive(Debug)]
pub(in crate::commands) struct Target {
    root: PathBuf,
    /// Folders that exist and are no links.
    known: parking_lot::Mutex<BTreeSet<PathBuf>>,
}

impl Target {
    pub(in crate::commands) fn new(root: PathBuf) -> Self {
        Self { root, known: parking_lot::Mutex::default() }
    }

    /// Returns the path for a key relative to the prefix, without making anything.
    ///
    /// # Errors
    /// [`Error::LocalName`] if the key would lead out of the folder, or if no file can have its name.
    pub(in crate::commands) fn path(&self, key: &str) -> Result<PathBuf> {
        Ok(parts_of(key)?.iter().fold(self.root.clone(), |path, part| path.join(part)))
    }

    /// Makes the folders for a key, and returns its path. Links below the target are not followed, because
    /// somebody who can write keys must not reach what they lead to.
    ///
    /// # Errors
    /// [`Error::LocalName`] if the key would lead out of the folder, or if the file system does not take its name;
    /// [`Error::Invalid`] for a link on the way; [`Error::Io`].
    pub(in crate::commands) fn prepare(&self, key: &str) -> Result<PathBuf> {
        let parts = parts_of(key)?;
        let (name, folders) =
            parts.split_last().ok_or_else(|| Error::Invalid("an empty key".to_owned()))?;
        let mut known = self.known.lock();
        let mut path = self.root.clone();
        let failed = |path: &Path| Error::io(path.display().to_string());
        if known.insert(path.clone()) {
            fs::create_dir_all(&path).map_err(failed(&path))?;
        }
        for folder in folders {
            path.push(folder);
            if known.contains(&path) {
                continue;
            }
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::naming(path.display().to_string())(error));
                }
                _ => {}
            }
            let found = fs::symlink_metadata(&path).map_err(failed(&path))?;
            if !found.is_dir() {
                return Err(Error::Invalid(format!(
                    "{} is refused: {} is no folder, and links are not followed",
                    printable(key),
                    path.display()
                )));
            }
            known.insert(path.clone());
        }
        let path = path.join(name);
        // The file system knows which names are too long, before anything is read for one.
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {
                Err(Error::naming(path.display().to_string())(error))
            }
            _ => Ok(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(root: &Path, follow: bool) -> Vec<String> {
        Walk::new(root, follow)
            .filter_map(|found| match found {
                Found::File(file) => Some(file.name),
                Found::Skipped { .. } => None,
                Found::Failed(error) => Some(format!("! {error}")),
            })
            .collect()
    }

    #[test]
    fn files_come_in_the_order_of_keys() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a/b", "a.b", "a-b", "a0", "b/c/d", "b/é", ".fula-1.part"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        symlink("a.b", dir.path().join("link")).unwrap();
        symlink("..", dir.path().join("b/up")).unwrap();
        let mut expected = ["a-b", "a.b", "a/b", "a0", "b/c/d", "b/é"].map(str::to_owned).to_vec();
        assert_eq!(names(dir.path(), false), expected);
        expected.sort();
        assert_eq!(names(dir.path(), false), expected);
        let followed = names(dir.path(), true);
        assert!(followed.contains(&"link".to_owned()), "{followed:?}");
        assert!(followed.iter().any(|name| name.contains("leads back")), "{followed:?}");
        assert!(names(&dir.path().join("nowhere"), false)[0].starts_with("! "));
    }

    #[test]
    fn no_key_leads_out_of_the_target() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("target"), dir.path().join("outside"));
        fs::create_dir(&outside).unwrap();
        let target = Target::new(root.clone());
        let long = "é".repeat(128);
        let bad = [
            "../x",
            "a/../../x",
            "/etc/x",
            "a//b",
            "..",
            ".",
            "a/",
            "a\0b",
            "",
            ".fula-1.part",
            &long,
        ];
        for key in bad {
            let refused = |done: Result<PathBuf>| matches!(done, Err(Error::LocalName { .. }));
            assert!(refused(target.prepare(key)) && refused(target.path(key)), "{key:?}");
        }
        // Each part is short enough, and the whole is not.
        let deep = vec!["d".repeat(250); 17].join("/");
        assert!(matches!(target.prepare(&deep), Err(Error::LocalName { .. })));
        assert_eq!(target.prepare(&long[..254]).unwrap(), root.join(&long[..254]));
        assert_eq!(target.prepare("a/b\\..\\c").unwrap(), root.join("a/b\\..\\c"));
        symlink(&outside, root.join("link")).unwrap();
        assert!(target.prepare("link/x").is_err());
        assert_eq!(target.prepare("..a/...").unwrap(), root.join("..a/..."));
    }
}
