//! Who else may read what is stored.

use std::{os::unix::fs::MetadataExt, path::Path};

/// Logs a warning if other users can read or enter a data directory.
pub(crate) fn warn_if_open(dir: &Path) {
    let mode = std::fs::metadata(dir).map_or(0, |metadata| metadata.mode());
    if mode & 0o077 != 0 {
        let dir = dir.display();
        tracing::warn!("{dir} is open to other users; unless that is meant, run: chmod 700 {dir}");
    }
}
