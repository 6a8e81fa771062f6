//! Tests of dropping the rows of deleted buckets: power cuts, failing calls, and races with swaps.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use fula_core::{
    BucketAddress, BucketId, RootPointer, RootPointerStore,
    root::{CasOutcome, DeletedRow, DropTerms, GlobalName, NewRoot},
};
use tokio::sync::watch;

use super::*;

impl Case {
    /// Deletes a live bucket.
    pub(super) async fn end_bucket(&mut self) -> bool {
        let bucket = format!("bucket{}", self.below(3));
        let may = self.model.roots.get(&bucket).map_or(&[][..], |may| may);
        match may {
            [Some(pointer)] if !self.model.tombstones.contains(pointer) => {
                self.swap_in(bucket, true).await
            }
            _ => true,
        }
    }

    /// Drops the rows of deleted buckets. It requests the same for live buckets, which must be refused.
    pub(super) async fn drop_deleted(&mut self) -> bool {
        let certain = self.model.roots.iter().filter_map(|(bucket, may)| match may[..] {
            [Some(pointer)] => Some(DeletedRow { address: address(OWNER, bucket), pointer }),
            _ => None,
        });
        let rows: Vec<DeletedRow> = certain.collect();
        let is_deleted = |row: &&DeletedRow| self.model.tombstones.contains(&row.pointer);
        let deleted: Vec<DeletedRow> = rows.iter().filter(is_deleted).cloned().collect();
        let dropped = self.store.roots.drop_roots(rows, &DropTerms::default()).await;
        if let Ok(dropped) = &dropped {
            let names = |rows: &[DeletedRow]| -> BTreeSet<String> {
                rows.iter().map(|row| row.address.name.to_string()).collect()
            };
            assert_eq!(names(dropped), names(&deleted));
        }
        for row in deleted {
            let may = self.model.roots.get_mut(row.address.name.as_str()).unwrap();
            if dropped.is_ok() {
                *may = vec![None];
                self.model.floor = self.model.floor.max(row.pointer.version);
            } else {
                may.push(None);
            }
        }
        dropped.is_ok()
    }

    /// Makes live and deleted buckets whose earlier rows lie in sealed segments, some of which were
    /// compacted.
    async fn make_and_delete(&mut self) {
        for n in 0..40 {
            assert!(self.swap_in(format!("live{n}"), false).await);
            assert!(self.swap_in(format!("gone{n}"), false).await);
        }
        self.store.seal(0).unwrap();
        for n in 0..40 {
            assert!(self.swap_in(format!("gone{n}"), true).await);
            assert!(n % 3 > 0 || self.swap_in(format!("live{n}"), false).await);
        }
        self.store.seal(0).unwrap();
    }

    fn count(&self, prefix: &str) -> usize {
        let there =
            self.model.roots.iter().filter(|(bucket, may)| {
                bucket.starts_with(prefix) && may.iter().all(Option::is_some)
            });
        there.count()
    }
}

/// Power is cut at every call of a drop and of the compaction after it.
#[test]
fn a_drop_is_whole_or_did_not_begin_whenever_the_power_is_cut() {
    let (mut whole, mut not_begun) = (0, 0);
    for after in 0.. {
        let is_over = block_on(async {
            let mut case = Case::new(after);
            case.make_and_delete().await;
            let before = case.disk.calls();
            case.disk.fail(after, Fault::Io, true);
            let is_done = case.drop_deleted().await && case.store.compact(1, &|| {}).is_ok();
            let calls = case.disk.calls() - before;
            case.crash().await;
            let left = case.count("gone");
            assert!(left == 0 || left == 40, "{left} of the dropped rows are there");
            assert_eq!(case.count("live"), 40);
            whole += u32::from(left == 0);
            not_begun += u32::from(left == 40);
            // The remaining rows are dropped now, and nothing comes back at the next power cut.
            assert!(case.drop_deleted().await);
            while case.store.compact(1, &|| {}).unwrap() > 0 {}
            case.crash().await;
            assert_eq!((case.count("gone"), case.count("live")), (0, 40));
            assert!(case.store.roots.floor() >= 2);
            is_done && after >= calls
        });
        if is_over {
            break;
        }
    }
    assert!(whole > 3 && not_begun > 3, "{whole} were whole, and {not_begun} had not begun");
}

/// The space of dropped rows is freed, and the rows are still gone after a restart.
#[test]
fn the_space_of_dropped_rows_comes_back() {
    block_on(async {
        let mut case = Case::new(1);
        for n in 0..10 {
            assert!(case.swap_in(format!("live{n}"), false).await);
        }
        case.delete().await;
        let empty = case.store.sizes().unwrap().1;
        for n in 0..200 {
            assert!(case.swap_in(format!("gone{n}"), false).await);
            assert!(case.swap_in(format!("gone{n}"), true).await);
        }
        assert_eq!(case.store.roots.counts(), (10, 200));
        assert!(case.drop_deleted().await);
        assert_eq!(case.store.roots.counts(), (10, 0));
        // No row leads to these blocks any more.
        case.model.blocks.retain(|_, block| block.bytes().len() < 8);
        case.delete().await;
        let live = case.store.sizes().unwrap().1;
        assert!(live <= empty + 200, "{live} bytes are in use, and {empty} were");
        case.restart().await;
        assert_eq!(case.store.roots.counts(), (10, 0));
        assert_eq!(case.store.roots.floor(), 2);
    });
}

/// Writers that make and delete buckets of their own while the rows of those are dropped.
struct Race {
    store: LocalStore,
    is_over: AtomicBool,
    /// Number of rows that were dropped, of rows that were kept because they had changed, and of swaps
    /// below the version floor.
    dropped: AtomicU64,
    kept: AtomicU64,
    below: AtomicU64,
    /// Number of drops that have ended.
    drops: watch::Sender<u64>,
    /// Notified after every change.
    changed: watch::Sender<()>,
}

impl Race {
    const RACES: u64 = 20;

    fn counts(&self) -> [u64; 3] {
        [&self.dropped, &self.kept, &self.below].map(|count| count.load(Ordering::Relaxed))
    }

    fn is_won(&self) -> bool {
        self.counts().iter().all(|count| *count >= Self::RACES)
    }

    /// Makes a bucket and deletes it, over and over until the race ends. Returns its last pointer. Half of
    /// the writers wait after every other deletion until a drop has seen it. The others never wait, so a
    /// change always follows.
    async fn write(&self, writer: u64) -> (BucketAddress, Option<RootPointer>) {
        let bucket = address(OWNER, &format!("bucket{writer}"));
        let (mut expected, mut floor, mut won) = (None::<RootPointer>, 0, Vec::new());
        let mut drops = self.drops.subscribe();
        while !self.is_over.load(Ordering::Relaxed) {
            let next = drops.borrow_and_update().saturating_add(2);
            self.changed.send_replace(());
            if writer.is_multiple_of(2) && won.len() % 4 == 2 {
                drop(drops.wait_for(|ended| *ended >= next).await);
            }
            let version = expected.map_or(floor, |old| old.version.max(floor)) + 1;
            let root =
                Block::new(Codec::Raw, [writer.to_be_bytes(), version.to_be_bytes()].concat());
            let pointer = RootPointer { root: root.cid(), version, generation: 0 };
            let new = NewRoot {
                pointer,
                bucket_id: BucketId([1; 16]),
                created: 1,
                deleted: (won.len() % 2 == 1).then_some(1),
                global_name: GlobalName::Keep,
                lease: None,
            };
            match self.store.roots.cas_root(&bucket, expected, &new).await.unwrap().value {
                CasOutcome::Won => {
                    won.push(version);
                    expected = Some(pointer);
                }
                CasOutcome::BelowFloor { floor: found } => {
                    assert!(expected.is_none() && found >= version);
                    self.below.fetch_add(1, Ordering::Relaxed);
                    floor = found;
                }
                // Only the row of a tombstone may be gone.
                CasOutcome::Conflict { current: None } if won.len() % 2 == 0 => expected = None,
                other => panic!("{other:?}"),
            }
        }
        assert!(won.is_sorted_by(|one, next| one < next), "a version was there twice");
        (bucket, expected)
    }

    /// Drops the rows of deleted buckets after `changes` more changes. Rows that changed in the meantime
    /// stay.
    async fn drop_after(&self, changes: u64, changed: &mut watch::Receiver<()>) {
        changed.changed().await.unwrap();
        let rows = self.store.roots.scan_roots(None, 100).await.unwrap().value;
        let deleted = rows.into_iter().filter(|row| row.deleted.is_some());
        let deleted: Vec<_> =
            deleted.map(|row| DeletedRow { address: row.address, pointer: row.pointer }).collect();
        for _ in 0..changes {
            changed.changed().await.unwrap();
        }
        let asked = deleted.len();
        let gone = self.store.roots.drop_roots(deleted, &DropTerms::default()).await.unwrap().len();
        self.dropped.fetch_add(gone as u64, Ordering::Relaxed);
        self.kept.fetch_add((asked - gone) as u64, Ordering::Relaxed);
        self.drops.send_modify(|ended| *ended += 1);
    }
}

/// One bucket is made and deleted repeatedly while its row is dropped and the log is compacted. Every swap
/// that won is there, and no version is used twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn drops_and_swaps_race_and_lose_nothing() {
    const SEGMENT: u64 = 16 << 10;
    let dir = tempfile::tempdir().unwrap();
    let open = || LocalStore::open_with(dir.path(), system_clock(), false, Some(SEGMENT)).unwrap();
    let (changed, mut changes) = watch::channel(());
    let race = Arc::new(Race {
        store: open(),
        is_over: AtomicBool::new(false),
        dropped: AtomicU64::new(0),
        kept: AtomicU64::new(0),
        below: AtomicU64::new(0),
        drops: watch::Sender::new(0),
        changed,
    });
    let writer = |writer| {
        let race = Arc::clone(&race);
        tokio::spawn(async move { race.write(writer).await })
    };
    let writers: Vec<_> = (0..8).map(writer).collect();
    let compact = || {
        let race = Arc::clone(&race);
        tokio::task::spawn_blocking(move || {
            race.store.compact(10, &|| {}).unwrap();
            race.store.seal(30).unwrap();
        })
    };
    let mut compacting = compact();
    for round in 0..10_000 {
        if race.is_won() {
            break;
        }
        race.drop_after(round % 2 * 8, &mut changes).await;
        // Compaction runs beside every eighth drop only: all the time it would keep the writers from the
        // log.
        if round % 8 == 0 && compacting.is_finished() {
            compacting = compact();
        }
    }
    race.is_over.store(true, Ordering::Relaxed);
    race.drops.send_replace(u64::MAX);
    let mut last = Vec::new();
    for writer in writers {
        last.push(writer.await.unwrap());
    }
    compacting.await.unwrap();
    assert!(race.is_won(), "{:?}", race.counts());
    let floor = race.store.roots.floor();
    let rows = race.store.roots.scan_roots(None, 100).await.unwrap().value;
    drop(race);
    let store = open();
    assert!(store.recovery.damaged.is_empty() && store.roots.floor() == floor);
    let again = store.roots.scan_roots(None, 100).await.unwrap().value;
    assert_eq!(again, rows);
    for (bucket, expected) in last {
        let found = store.roots.get_roots(&[bucket]).await.unwrap().value.pop().unwrap();
        // The last drop may have come after the last swap.
        assert!(found.is_none() || found.map(|row| row.pointer) == expected);
    }
}
