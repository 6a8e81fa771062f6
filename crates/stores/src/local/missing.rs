//! Tests of missing segments, and of directories that are opened for reading only.

use std::{collections::BTreeMap, fs};

use fula_core::{
    Block, BlockStore, Codec, MetadataStore,
    block::{Kept, Placement},
    metadata::Table,
};

use super::*;

const SEGMENT: u64 = 4096;

fn open(dir: &Path, despite_damage: bool) -> Result<LocalStore, OpenError> {
    LocalStore::open_with(dir, Arc::new(|| 1), despite_damage, Some(SEGMENT))
}

fn block(n: u8) -> Block {
    Block::new(Codec::Raw, vec![n; 1500])
}

async fn put(store: &LocalStore, n: u8, placement: Placement) {
    let mark = store.blocks.put(&[block(n)], placement).await.unwrap();
    store.blocks.sync(mark).await.unwrap();
}

/// Returns the segments of a stream, oldest first.
fn segments(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("log")).unwrap().map(|file| file.unwrap().path());
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(prefix) && path.extension().is_some_and(|extension| extension == "log")
    };
    let mut found: Vec<PathBuf> = files.filter(is_one).collect();
    found.sort();
    found
}

/// Returns a directory with several segments in both streams.
async fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), false).unwrap();
    for n in 0..10 {
        put(&store, n, Placement::Commit).await;
        put(&store, 100 + n, Placement::Bulk).await;
    }
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_nobody_removed_is_missed() {
    let dir = filled().await;
    let path = dir.path();
    for prefix in ["commit", "bulk"] {
        let all = segments(path, prefix);
        assert!(all.len() > 3, "{all:?}");
        // The first segment, one in the middle, and the one that was written last.
        for missing in [&all[0], &all[all.len() / 2], all.last().unwrap()] {
            let aside = path.join("aside");
            fs::rename(missing, &aside).unwrap();
            let refused = open(path, false).unwrap_err().to_string();
            let name = missing.file_name().unwrap().to_str().unwrap();
            assert!(refused.contains(name) && refused.contains("fsck --repair"), "{refused}");
            let looked = open(path, true).unwrap();
            assert_eq!(looked.recovery.missing, [name]);
            assert_eq!(looked.recovery.pointers_at_risk(), usize::from(prefix == "commit"));
            assert!(looked.verify().unwrap().iter().any(|damage| damage.segment == name));
            // Opening the log and writing to it does not hide the loss.
            put(&looked, 50, Placement::Commit).await;
            put(&looked, 51, Placement::Bulk).await;
            drop(looked);
            assert!(open(path, false).is_err());
            fs::rename(&aside, missing).unwrap();
            assert_eq!(open(path, false).unwrap().recovery.missing, [""; 0]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_was_emptied_is_missed() {
    let dir = filled().await;
    let path = dir.path();
    let manifest = path.join("log/manifest");
    for prefix in ["commit", "bulk"] {
        let all = segments(path, prefix);
        for (segment, len) in [(&all[0], 0), (&all[0], 80), (&all[all.len() / 2], 80)] {
            let content = fs::read(segment).unwrap();
            fs::write(segment, &content[..len]).unwrap();
            let name = segment.file_name().unwrap().to_str().unwrap();
            let named = fs::read_to_string(&manifest).unwrap();
            assert!(named.contains(name));
            let only_read = LocalStore::open_read_only(path, Arc::new(|| 1)).unwrap_err();
            for refused in [only_read, open(path, false).unwrap_err()] {
                assert!(matches!(refused, OpenError::Missing(..)), "{refused}");
                assert!(refused.to_string().contains(name), "{refused}");
            }
            let looked = open(path, true).unwrap();
            assert_eq!(looked.recovery.missing, [name]);
            assert_eq!(looked.recovery.pointers_at_risk(), usize::from(prefix == "commit"));
            assert!(looked.verify().unwrap().iter().any(|damage| damage.segment == name));
            looked.set_damaged_aside().unwrap();
            drop(looked);
            // File and name stay until the segment is given up.
            assert_eq!(fs::metadata(segment).unwrap().len(), len as u64);
            assert_eq!(fs::read_to_string(&manifest).unwrap(), named);
            fs::write(segment, content).unwrap();
            assert_eq!(open(path, false).unwrap().recovery.missing, [""; 0]);
        }
    }
    let emptied = &segments(path, "bulk")[0];
    fs::write(emptied, "").unwrap();
    open(path, true).unwrap().end_repair().unwrap();
    let store = open(path, false).unwrap();
    assert!(store.verify().unwrap().is_empty() && !emptied.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_segment_may_be_named_before_it_holds_a_record() {
    let dir = filled().await;
    let path = dir.path();
    for prefix in ["commit", "bulk"] {
        let newest = segments(path, prefix).pop().unwrap();
        let content = fs::read(&newest).unwrap();
        // A first record that was not durable leaves this state. The log continues in the segment.
        fs::write(&newest, &content[..80]).unwrap();
        let store = open(path, false).unwrap();
        assert!(store.recovery.missing.is_empty() && newest.exists());
        put(&store, 200, Placement::Commit).await;
        put(&store, 201, Placement::Bulk).await;
        drop(store);
        assert!(fs::metadata(&newest).unwrap().len() > 80);
        // The header was durable before the manifest named the segment.
        fs::write(&newest, "").unwrap();
        assert!(matches!(open(path, false), Err(OpenError::Missing(..))));
        fs::write(&newest, content).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_gives_up_what_is_missing() {
    let dir = filled().await;
    let path = dir.path();
    fs::remove_file(&segments(path, "bulk")[0]).unwrap();
    let repaired = open(path, true).unwrap();
    repaired.set_damaged_aside().unwrap();
    drop(repaired);
    assert!(open(path, false).is_err(), "a repair that did not end gives nothing up");
    open(path, true).unwrap().end_repair().unwrap();
    let store = open(path, false).unwrap();
    assert!(store.verify().unwrap().is_empty());
    assert!(store.blocks.get(&block(100).cid()).await.unwrap().is_none());
    assert!(store.blocks.get(&block(109).cid()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_compaction_and_repairs_remove_is_not_missed() {
    let dir = filled().await;
    let path = dir.path();
    let store = open(path, false).unwrap();
    let cut = store.blocks.advance_epoch();
    let before = segments(path, "").len();
    let mut from = Some(fula_core::block::Position::default());
    while let Some(position) = from {
        from = store.blocks.sweep(position, cut, cut).await.unwrap().next;
    }
    assert!(store.rewrite(&|| 1, true, &|| {}).unwrap() > 0);
    assert!(segments(path, "").len() < before);
    drop(store);
    // A log of an earlier build has no manifest, and gets one.
    open(path, false).unwrap();
    fs::remove_file(path.join("log/manifest")).unwrap();
    let store = open(path, false).unwrap();
    put(&store, 1, Placement::Commit).await;
    drop(store);
    let last = segments(path, "commit").pop().unwrap();
    // A damaged manifest does not prevent serving either.
    fs::write(path.join("log/manifest"), "no manifest").unwrap();
    open(path, false).unwrap();
    fs::remove_file(last).unwrap();
    assert!(matches!(open(path, false), Err(OpenError::Missing(..))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_build_removed_is_not_missed() {
    let dir = filled().await;
    let path = dir.path();
    let manifest = fs::read(path.join("log/manifest")).unwrap();
    let before = segments(path, "");
    let store = open(path, false).unwrap();
    for n in 10..20 {
        put(&store, n, Placement::Commit).await;
    }
    let cut = store.blocks.advance_epoch();
    store.blocks.mark(&[block(19).cid()], cut, Kept::Now);
    fula_core::block::sweep_all(&*store.blocks, cut, cut).await.unwrap();
    assert!(store.rewrite(&|| 1, true, &|| {}).unwrap() > 0);
    drop(store);
    // An earlier build, which does not keep the manifest, leaves this state.
    fs::write(path.join("log/manifest"), manifest).unwrap();
    let store = open(path, false).unwrap();
    assert!(store.recovery.forgotten.len() > 3 && store.recovery.missing.is_empty());
    assert!(store.blocks.get(&block(19).cid()).await.unwrap().is_some());
    drop(store);
    let after = segments(path, "");
    assert!(after.iter().all(|segment| !before[..3].contains(segment)), "{after:?}");
    // From now on a missing segment is reported, and so is an emptied one.
    assert!(open(path, false).unwrap().recovery.forgotten.is_empty());
    fs::remove_file(segments(path, "commit").pop().unwrap()).unwrap();
    let refused = open(path, false).unwrap_err().to_string();
    assert!(refused.contains("an earlier build of fula has run"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_says_what_is_lost_and_how_to_go_on() {
    for (prefix, lost, command) in [
        ("bulk", "content of objects over 1 MiB", "run `fula fsck --repair` to"),
        ("commit", "root pointers", "`fula fsck --repair --roots keep`"),
    ] {
        let dir = filled().await;
        fs::remove_file(&segments(dir.path(), prefix)[0]).unwrap();
        let refused = open(dir.path(), false).unwrap_err().to_string();
        assert!(refused.contains(lost) && refused.contains(command), "{refused}");
        open(dir.path(), true).unwrap().give_up_missing().unwrap();
        open(dir.path(), false).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_only_read_stays_as_it_is() {
    let dir = filled().await;
    let path = dir.path();
    // The ends of both streams are torn.
    for prefix in ["commit", "bulk"] {
        let last = segments(path, prefix).pop().unwrap();
        let mut content = fs::read(&last).unwrap();
        content.extend([1; 333]);
        fs::write(&last, content).unwrap();
    }
    let contents = || -> BTreeMap<PathBuf, Vec<u8>> {
        let files = fs::read_dir(path.join("log")).unwrap().map(|file| file.unwrap().path());
        files.map(|file| (file.clone(), fs::read(&file).unwrap())).collect()
    };
    // An earlier build leaves this state.
    fs::remove_file(path.join("log/manifest")).unwrap();
    let before = contents();
    let store = LocalStore::open_read_only(path, Arc::new(|| 1)).unwrap();
    assert_eq!(store.recovery.truncated.len(), 2);
    for n in (0..10).chain(100..110) {
        assert!(store.blocks.get(&block(n).cid()).await.unwrap().is_some(), "block {n}");
    }
    let refused = store.metadata.write(Table::Keys, "k", 0, Some("v".into())).await;
    assert!(refused.is_err());
    assert!(matches!(open(path, false), Err(OpenError::InUse(_))));
    drop(store);
    assert_eq!(contents(), before);
    let busy = open(path, false).unwrap();
    assert!(matches!(LocalStore::open_read_only(path, Arc::new(|| 1)), Err(OpenError::InUse(_))));
    drop(busy);
    assert!(LocalStore::open_read_only(&path.join("none"), Arc::new(|| 1)).is_err());
}
