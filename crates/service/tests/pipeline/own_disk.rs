//! Tests of a master whose own disk cannot be written: it acknowledges nothing that it would not remember
//! (docs/adr/0032).

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use fula_core::{
    MetadataStore, StoreError,
    in_memory::MemoryMetadata,
    metadata::{Entry, Table, WriteOutcome},
};
use fula_service::{Applied, Invocation};
use parking_lot::Mutex;

use super::{
    regression::{Federation, Member, address, is_refused},
    *,
};

/// The way in which a disk refuses writes.
#[derive(Clone, Copy, Debug)]
enum Failure {
    Full,
    /// An error, as of a read-only directory or a failing disk.
    Error,
}

/// The local state of a master, on a disk that fails on demand.
#[derive(Debug, Default)]
struct Disk {
    kept: MemoryMetadata,
    failure: Mutex<Option<Failure>>,
    refused: AtomicU64,
}

impl Disk {
    fn set(&self, failure: Option<Failure>) {
        *self.failure.lock() = failure;
    }
}

#[async_trait]
impl MetadataStore for Disk {
    async fn read(&self, table: Table, name: &str) -> Result<Option<Entry>, StoreError> {
        self.kept.read(table, name).await
    }

    async fn write(
        &self,
        table: Table,
        name: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<WriteOutcome, StoreError> {
        let failure = *self.failure.lock();
        let Some(failure) = failure else {
            return self.kept.write(table, name, expected, value).await;
        };
        self.refused.fetch_add(1, Ordering::SeqCst);
        Err(match failure {
            Failure::Full => StoreError::Full { backend: "test" },
            Failure::Error => {
                let source = "read-only file system".into();
                StoreError::Unavailable { backend: "test", action: "write", source }
            }
        })
    }

    async fn list(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Entry)>, StoreError> {
        self.kept.list(table, after, limit).await
    }
}

async fn join(federation: &Federation, writer: u8, disk: &Arc<Disk>) -> Member {
    federation.join(writer, &(Arc::clone(disk) as Arc<dyn MetadataStore>)).await
}

fn is_unknown<T>(result: &Result<T, ServiceError>) -> bool {
    matches!(result, Err(ServiceError::Busy(Applied::Unknown)))
}

fn is_of(failure: Failure, error: &ServiceError) -> bool {
    match failure {
        Failure::Full => matches!(error, ServiceError::Full),
        Failure::Error => {
            matches!(error, ServiceError::Unavailable(text) if text.to_string().contains("data directory"))
        }
    }
}

async fn put_as(
    member: &Member,
    caller: &Caller,
    key: &str,
    body: &[u8],
) -> Result<ObjectRecord, ServiceError> {
    let body: BodyStream = Box::pin(futures::stream::iter([Ok(Bytes::copy_from_slice(body))]));
    member.master.put_as(caller, key, body, WriteConditions::default()).await
}

/// The first commit that meets the failure may stand, so its outcome is unknown. Later ones are refused
/// before anything is sent, until the disk can be written again.
#[tokio::test]
async fn no_write_is_acknowledged_that_would_not_be_remembered() {
    for failure in [Failure::Full, Failure::Error] {
        let (federation, disk) = (Federation::new(), Arc::new(Disk::default()));
        let one = join(&federation, 1, &disk).await;
        one.master.create().await;
        one.master.put("before", b"1").await.unwrap();
        let backup = federation.roots.backup();
        disk.set(Some(failure));
        let first = one.master.put("first", b"2").await;
        assert!(is_unknown(&first), "{first:?}");
        let swaps = federation.roots.swaps.load(Ordering::SeqCst);
        for n in 0..20 {
            let refused = one.master.put(&format!("later-{n}"), b"3").await.unwrap_err();
            assert!(is_of(failure, &refused), "{refused:?}");
        }
        let refused = one.master.delete("before").await.unwrap_err();
        assert!(is_of(failure, &refused), "{refused:?}");
        assert_eq!(federation.roots.swaps.load(Ordering::SeqCst), swaps, "a swap was sent");
        assert!(one.master.service.arbiter().guard().disk_failure().is_some());
        // Reads continue. No client was told that this value is stored.
        assert_eq!(one.master.get("first").await.unwrap(), b"2");

        // The master is killed and the arbiter restored. What was acknowledged is there.
        drop(one);
        federation.roots.restore(backup);
        let one = join(&federation, 3, &disk).await;
        assert!(one.master.put("more", b"4").await.is_err(), "the disk still fails");
        disk.set(None);
        for _ in 0..3 {
            one.recovery.tick().await.unwrap();
        }
        assert_eq!(one.master.get("before").await.unwrap(), b"1");
        one.master.put("more", b"4").await.unwrap();
    }
}

#[tokio::test]
async fn a_disk_that_works_again_is_noticed_without_a_restart() {
    let (federation, disk) = (Federation::new(), Arc::new(Disk::default()));
    let one = join(&federation, 1, &disk).await;
    one.master.create().await;
    disk.set(Some(Failure::Full));
    assert!(is_unknown(&one.master.put("k", b"v").await));
    assert!(one.recovery.tick().await.is_err(), "it did not try");
    assert!(one.master.put("k", b"v").await.is_err());
    disk.set(None);
    let refused = disk.refused.load(Ordering::SeqCst);
    one.recovery.tick().await.unwrap();
    let guard = one.master.service.arbiter().guard();
    assert!(guard.disk_failure().is_none());
    let backup = federation.roots.backup();
    one.master.put("k", b"v2").await.unwrap();
    assert_eq!(disk.refused.load(Ordering::SeqCst), refused);
    // Both the commit whose outcome was unknown and the one after it are remembered.
    drop(one);
    federation.roots.restore(backup);
    let one = join(&federation, 3, &disk).await;
    assert!(is_refused(&one.master.get("k").await));
    for _ in 0..3 {
        one.recovery.tick().await.unwrap();
    }
    assert_eq!(one.master.get("k").await.unwrap(), b"v2");
}

/// A retry is answered from the bucket itself. That is a success like any other, so the master remembers
/// the state before it answers.
#[tokio::test]
async fn a_retry_on_another_master_is_acknowledged_once_that_one_remembers() {
    let federation = Federation::new();
    let disks = [(); 2].map(|()| Arc::new(Disk::default()));
    let one = join(&federation, 1, &disks[0]).await;
    let two = join(&federation, 2, &disks[1]).await;
    one.master.create().await;
    let attempt = |n| Caller {
        invocation: Invocation::new("i", n),
        ..Caller::of(Identity::of_user("key:test"))
    };
    disks[0].set(Some(Failure::Full));
    assert!(is_unknown(&put_as(&one, &attempt(1), "k", b"v").await));
    disks[1].set(Some(Failure::Full));
    assert!(is_unknown(&put_as(&two, &attempt(2), "k", b"v").await));
    disks[1].set(None);
    two.recovery.tick().await.unwrap();
    let swaps = federation.roots.swaps.load(Ordering::SeqCst);
    put_as(&two, &attempt(3), "k", b"v").await.unwrap();
    assert_eq!(federation.roots.swaps.load(Ordering::SeqCst), swaps, "it was carried out twice");
    let memory: Arc<dyn MetadataStore> = Arc::clone(&disks[1]) as _;
    let reopened = RollbackGuard::open(Some(memory)).await.unwrap();
    let known = reopened.known(&address(&two)).unwrap();
    assert_eq!(known.pointer.version, two.master.version().await);
}

/// The same without a look in between: answering alone stores the state.
#[tokio::test]
async fn what_a_retry_is_told_is_on_the_disk_at_once() {
    let federation = Federation::new();
    let disks = [(); 2].map(|()| Arc::new(Disk::default()));
    let one = join(&federation, 1, &disks[0]).await;
    let two = join(&federation, 2, &disks[1]).await;
    one.master.create().await;
    let attempt = |n| Caller {
        invocation: Invocation::new("i", n),
        ..Caller::of(Identity::of_user("key:test"))
    };
    put_as(&one, &attempt(1), "k", b"v").await.unwrap();
    put_as(&two, &attempt(2), "k", b"v").await.unwrap();
    let memory: Arc<dyn MetadataStore> = Arc::clone(&disks[1]) as _;
    let reopened = RollbackGuard::open(Some(memory)).await.unwrap();
    let known = reopened.known(&address(&two)).unwrap();
    assert_eq!(known.pointer.version, one.master.version().await);
}

/// States of other masters are stored each second. If that fails, writes are refused before any commit of
/// this master fails.
#[tokio::test]
async fn a_look_that_cannot_be_kept_refuses_writes_before_they_are_sent() {
    let federation = Federation::new();
    let disks = [(); 2].map(|()| Arc::new(Disk::default()));
    let one = join(&federation, 1, &disks[0]).await;
    let two = join(&federation, 2, &disks[1]).await;
    one.master.create().await;
    disks[1].set(Some(Failure::Error));
    assert_eq!(two.master.version().await, 1);
    assert!(two.recovery.tick().await.is_err());
    let swaps = federation.roots.swaps.load(Ordering::SeqCst);
    let refused = two.master.put("k", b"v").await.unwrap_err();
    assert!(is_of(Failure::Error, &refused), "{refused:?}");
    assert_eq!(federation.roots.swaps.load(Ordering::SeqCst), swaps);
}

/// A master whose disk fails still takes part in a recovery, although it cannot record the other masters.
#[tokio::test]
async fn a_disk_that_fails_keeps_no_recovery_waiting() {
    let federation = Federation::new();
    let disks = [(); 2].map(|()| Arc::new(Disk::default()));
    let one = join(&federation, 1, &disks[0]).await;
    one.master.create().await;
    let backup = federation.roots.backup();
    disks[0].set(Some(Failure::Full));
    let two = join(&federation, 2, &disks[1]).await;
    two.master.put("k", b"v").await.unwrap();
    federation.roots.restore(backup);
    assert!(is_refused(&two.master.get("k").await));
    for member in [&two, &one, &two, &one, &two] {
        drop(member.recovery.tick().await);
    }
    assert_eq!(two.master.get("k").await.unwrap(), b"v");
    assert!(matches!(one.master.put("more", b"x").await, Err(ServiceError::Full)));
}
