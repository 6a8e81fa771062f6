//! Files of a directory of objects that somebody began to write, and did not finish.

use std::{fs, io, path::Path, time::SystemTime};

/// Deepest level of directories below that of the objects.
const DEPTH_MAX: u32 = 4;

/// Removes unfinished files that were last written before a time. Returns their number.
pub(super) fn remove(directory: &Path, until: SystemTime) -> io::Result<u64> {
    below(directory, until, DEPTH_MAX)
}

fn below(directory: &Path, until: SystemTime, depth: u32) -> io::Result<u64> {
    let mut removed = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && depth > 0 {
            removed += below(&entry.path(), until, depth - 1)?;
        } else if kind.is_file() && is_unfinished(&entry.file_name().to_string_lossy()) {
            removed += u64::from(remove_if_older(&entry.path(), until)?);
        }
    }
    Ok(removed)
}

/// Returns whether a name is one that `object_store` gives to a file until it is complete: the name of the
/// object, `#` and a number. Listings leave such files out.
fn is_unfinished(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(object, number)| {
        !object.is_empty()
            && !number.is_empty()
            && number.bytes().all(|digit| digit.is_ascii_digit())
    })
}

fn remove_if_older(file: &Path, until: SystemTime) -> io::Result<bool> {
    let removed = fs::metadata(file).and_then(|metadata| {
        let is_older = metadata.modified()? < until;
        if is_older {
            fs::remove_file(file)?;
        }
        Ok(is_older)
    });
    match removed {
        // It was finished, or removed by somebody else.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_old_files_of_unfinished_writes_go() {
        let dir = tempfile::tempdir().unwrap();
        // Now, by the clock of the file system.
        let now = fs::metadata(dir.path()).unwrap().modified().unwrap();
        let hours = |hours| now - Duration::from_hours(hours);
        let shard = dir.path().join("packs/00");
        fs::create_dir_all(&shard).unwrap();
        for (name, age, stays) in [
            ("aa#1", 30, false),
            ("aa#17", 25, false),
            ("bb#1", 23, true),
            ("aa", 30, true),
            ("#1", 30, true),
            ("aa#", 30, true),
            ("aa#1x", 30, true),
        ] {
            let path = shard.join(name);
            let file = fs::File::create(&path).unwrap();
            file.set_modified(hours(age)).unwrap();
            let removed = remove(dir.path(), hours(24)).unwrap();
            assert_eq!((path.exists(), removed), (stays, u64::from(!stays)), "{name}");
        }
    }
}
