//! Removes old backups, and the files that no backup needs any more.

use std::{collections::HashSet, time::Duration};

use serde::Serialize;

use super::{
    manifest::{Manifest, time_in},
    place::{Place, unusable},
};

/// Age from which on files without a manifest are those of a backup that was interrupted.
const UNFINISHED_AFTER: Duration = Duration::from_hours(24);

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Removed {
    /// Ids of the backups.
    pub(crate) backups: Vec<String>,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Why manifests cannot be read; then no files were removed.
    pub(crate) unreadable: Vec<String>,
}

/// Keeps the newest `keep` backups, or all, of which `newest` is the newest. Removes the others, and files that none
/// of them needs. No file is removed while it is not known what a backup needs.
///
/// # Errors
/// The reason why something cannot be removed. What was removed until then is gone.
pub(crate) async fn keep_newest(
    place: &Place,
    keep: Option<usize>,
    newest: &Manifest,
) -> Result<Removed, String> {
    let ids = place.ids().await?;
    let old = keep.map_or(0, |keep| ids.len().saturating_sub(keep.max(1)));
    let (old, kept) = ids.split_at(old);
    let mut removed = Removed::default();
    let mut needed = files_of(newest);
    for id in kept.iter().filter(|id| **id != newest.id) {
        match place.manifest(id).await {
            Ok(manifest) => needed.extend(files_of(&manifest)),
            Err(why) => removed.unreadable.push(why),
        }
    }
    let mut unneeded = HashSet::new();
    for id in old {
        // Without its manifest, its files go once they are old.
        if let Ok(manifest) = place.manifest(id).await {
            unneeded.extend(files_of(&manifest));
        }
        place.archive().delete(&Place::manifest_file(id)).await.map_err(unusable)?;
        removed.backups.push(id.clone());
    }
    if removed.unreadable.is_empty() {
        unneeded.retain(|name| !needed.contains(name));
        remove_files(place, newest, &needed, &unneeded, &mut removed).await?;
    }
    let newest = Place::manifest_file(&newest.id);
    place.archive().remove_unfinished(&newest, UNFINISHED_AFTER).await.map_err(unusable)?;
    Ok(removed)
}

fn files_of(manifest: &Manifest) -> HashSet<String> {
    manifest.volumes().map(|volume| volume.file.clone()).collect()
}

/// Removes `unneeded` files, and those that no backup needs and that are too old to be of one that runs: it has no
/// manifest yet.
async fn remove_files(
    place: &Place,
    newest: &Manifest,
    needed: &HashSet<String>,
    unneeded: &HashSet<String>,
    removed: &mut Removed,
) -> Result<(), String> {
    let before = newest.time_ms.saturating_sub(millis(UNFINISHED_AFTER));
    for (name, bytes) in place.files().await? {
        let id = name.split('/').nth(1).unwrap_or_default();
        let is_old = time_in(id).is_some_and(|time| time < before);
        if unneeded.contains(&name) || (is_old && !needed.contains(&name)) {
            place.archive().delete(&name).await.map_err(unusable)?;
            removed.files += 1;
            removed.bytes += bytes;
        }
    }
    Ok(())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::{Bucket, Car, Volume};

    fn manifest(id: &str, time_ms: u64, files: &[&str]) -> Manifest {
        let volume = |file: &&str| Volume {
            file: (*file).to_owned(),
            bytes: 1,
            blake3: blake3::hash(b"x").to_hex().to_string(),
        };
        let cars = files.iter().map(|file| Car {
            root: String::new(),
            version: 1,
            volumes: vec![volume(file)],
        });
        Manifest {
            format: 1,
            id: id.to_owned(),
            time_ms,
            program: String::new(),
            secrets_key: String::new(),
            written_bytes: 0,
            keys: 0,
            revocations: 0,
            has_secrets_key: false,
            state: Vec::new(),
            buckets: vec![Bucket {
                owner: String::new(),
                name: String::new(),
                root: String::new(),
                version: 1,
                global_name: false,
                objects: 0,
                bytes: 0,
                without_mapped: false,
                cars: cars.collect(),
            }],
        }
    }

    async fn write(place: &Place, name: &str) {
        let mut volume = place.begin_volume(name.to_owned());
        volume.write(bytes::Bytes::from_static(b"x")).await.unwrap();
        volume.finish().await.unwrap();
    }

    async fn left(place: &Place) -> Vec<String> {
        let mut names: Vec<String> =
            place.files().await.unwrap().into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn what_a_kept_or_a_running_backup_needs_stays() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::open(dir.path().to_str().unwrap(), None, true).await.unwrap();
        let ids = ["20251101T000000Z-0a", "20251102T000000Z-0b", "20251103T000000Z-0c"];
        let [a, b, c] = ids.map(|id| format!("data/{id}/1"));
        // One was interrupted long ago, and another one runs.
        let (lost, running) = ("data/20251101T120000Z-0d/1", "data/20251102T235959Z-0e/1");
        for name in [&a, &b, &c, lost, running] {
            write(&place, name).await;
        }
        let time = |n: usize| time_in(ids[n]).unwrap();
        place.publish(&manifest(ids[0], time(0), &[&a])).await.unwrap();
        place.publish(&manifest(ids[1], time(1), &[&a, &b])).await.unwrap();
        let newest = manifest(ids[2], time(2), &[&a, &c]);
        place.publish(&newest).await.unwrap();
        let removed = keep_newest(&place, None, &newest).await.unwrap();
        assert_eq!((removed.backups.len(), removed.files), (0, 1));
        assert_eq!(left(&place).await, [&a, &b, running, &c]);
        // While a manifest that is kept cannot be read, no file goes.
        let file = dir.path().join("backups").join(format!("{}.json", ids[1]));
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, "x").unwrap();
        let removed = keep_newest(&place, Some(2), &newest).await.unwrap();
        assert_eq!((removed.backups, removed.files), (vec![ids[0].to_owned()], 0));
        assert_eq!(removed.unreadable.len(), 1);
        std::fs::write(&file, whole).unwrap();
        let removed = keep_newest(&place, Some(1), &newest).await.unwrap();
        assert_eq!((removed.backups, removed.files), (vec![ids[1].to_owned()], 1));
        assert_eq!(left(&place).await, [&a, running, &c]);
        assert_eq!(place.ids().await.unwrap(), [ids[2]]);
    }
}
