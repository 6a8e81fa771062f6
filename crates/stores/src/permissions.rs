//! Who else may read what is stored.

use std::{os::unix::fs::MetadataExt, path::Path};

/// Warns of a directory of data that is open to others than its owner.
pub(crate) fn warn_if_open(dir: &Path) {
    let mode = std::fs::metadata(dir).map_or(0, |metadata| metadata.mode());
    if mode & 0o077 != 0 {
        let dir = dir.display();
        tracing::warn!("{dir} is open to other users; unless that is meant, run: chmod 700 {dir}");
    }
}
