use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use fula_core::{
    StoreError, WriterId,
    in_memory::{MemoryBlocks, MemoryMetadata, MemoryRoots},
    metadata::WriteOutcome,
    tree::Nodes,
};
use fula_identity::{Policy, eip712::Claims, wallet::WalletKey, wallet_token};

use super::*;
use crate::{
    arbiter::RollbackGuard,
    auth::{AuthError, Authenticator, KeyRing, Revocations, Revoked, SealingKey, Signed},
    limits::Limits,
};

/// Returns a master with its own disk on an arbiter's metadata.
async fn master(log: &Arc<MemoryMetadata>, disk: &Arc<MemoryMetadata>) -> Authenticator {
    master_on(Arc::clone(log) as _, disk).await
}

async fn master_on(metadata: Arc<dyn MetadataStore>, disk: &Arc<MemoryMetadata>) -> Authenticator {
    master_at(metadata, disk, &Arc::new(AtomicU64::new(1000))).await
}

/// Returns a master whose clock shows `now`, in seconds since 1970.
async fn master_at(
    metadata: Arc<dyn MetadataStore>,
    disk: &Arc<MemoryMetadata>,
    now: &Arc<AtomicU64>,
) -> Authenticator {
    let now = Arc::clone(now);
    let disk: Arc<dyn MetadataStore> = Arc::clone(disk) as _;
    let nodes = Arc::new(Nodes::new(Arc::new(MemoryBlocks::default()), 1 << 20));
    let (guard, writer) = (RollbackGuard::new(None, true), WriterId([1; 16]));
    let roots = Arc::new(MemoryRoots::default());
    let arbiter = Arbiter::new(nodes, roots, writer, &Limits::default(), guard);
    let sealing = SealingKey::parse(&"5a".repeat(32)).unwrap();
    let fresh = Duration::from_secs(2);
    let keys = KeyRing::new(Arc::clone(&metadata), sealing, crate::system_random(), fresh);
    let keys = keys.remembered_on(Arc::clone(&disk), arbiter);
    let revocations = Revocations::open(metadata, Some(disk)).await.unwrap();
    let master =
        Authenticator::new(keys, revocations, Arc::new(move || now.load(Ordering::SeqCst) * 1000));
    master.set_policy(Policy { eip712: true, v1: true, ..Policy::default() });
    master
}

fn is_doubtful<T>(found: &Result<T, AuthError>) -> bool {
    matches!(found, Err(AuthError::Service(ServiceError::Regressed(_))))
}

#[tokio::test]
async fn what_a_restored_arbiter_lacks_is_in_doubt_and_written_again() {
    let log = Arc::new(MemoryMetadata::default());
    let disks = [(); 2].map(|()| Arc::new(MemoryMetadata::default()));
    let [one, two] = [master(&log, &disks[0]).await, master(&log, &disks[1]).await];
    let (early, _) = one.keys().create("early", 1).await.unwrap();
    two.look_at_keys().await.unwrap();
    let backup = log.backup();
    let (late, secret) = one.keys().create("late", 2).await.unwrap();
    let (revoked, _) = one.keys().create("revoked", 2).await.unwrap();
    let (deleted, _) = one.keys().create("deleted", 2).await.unwrap();
    one.keys().revoke(&deleted.id, None).await.unwrap();
    two.look_at_keys().await.unwrap();
    one.revoke(Revoked::Key(revoked.id.clone())).await.unwrap();
    log.restore(backup);
    // The key works on the master that made it, on one that only copied it, and after a restart.
    for master in [&one, &two, &master(&log, &disks[1]).await] {
        assert!(is_doubtful(&master.secret_of(&late.id, None).await));
        let unknown = master.secret_of(&deleted.id, None).await;
        assert!(is_doubtful(&unknown) || matches!(unknown, Err(AuthError::UnknownKey)));
        assert!(matches!(master.secret_of("FULANOBODY", None).await, Err(AuthError::UnknownKey)));
    }
    two.revocations().look().await.unwrap();
    one.revocations().look().await.unwrap();
    two.revocations().look().await.unwrap();
    two.look_at_keys().await.unwrap();
    let again = master(&log, &Arc::default()).await;
    for master in [&one, &two, &again] {
        assert_eq!(master.secret_of(&late.id, None).await.unwrap().expose(), secret.expose());
        master.secret_of(&early.id, None).await.unwrap();
    }
    one.look_at_keys().await.unwrap();
    let listed = one.keys().list(None).await.unwrap();
    assert!(listed.iter().all(|key| key.id != revoked.id), "a revoked key is back");
}

#[tokio::test]
async fn pages_of_keys_are_compared_in_turns() {
    let log = Arc::new(MemoryMetadata::default());
    let one = master(&log, &Arc::default()).await;
    one.keys().set_keys_max(usize::MAX);
    let backup = log.backup();
    for n in 0..2 * PAGE + 3 {
        one.keys().create(&format!("user{}", n % 7), 1).await.unwrap();
    }
    let two = master(&log, &Arc::default()).await;
    for _ in 0..3 {
        two.look_at_keys().await.unwrap();
    }
    log.restore(backup);
    for _ in 0..3 {
        two.look_at_keys().await.unwrap();
    }
    assert_eq!(two.keys().list(None).await.unwrap().len(), 2 * PAGE + 3);
}

/// Returns a secret that an operator chose.
fn chosen(text: &str) -> crate::auth::Secret {
    crate::auth::Secret::new(text.to_owned())
}

#[tokio::test]
async fn a_secret_that_may_change_never_comes_back_from_memory() {
    let log = Arc::new(MemoryMetadata::default());
    let disks = [(); 3].map(|()| Arc::new(MemoryMetadata::default()));
    let backup = log.backup();
    let id = "AKIDEXAMPLE";
    for disk in &disks {
        let master = master(&log, disk).await;
        for secret in ["secret-one", "secret-two", "secret-that-leaks"] {
            master.keys().import("me", id, &chosen(secret), 1).await.unwrap();
            master.look_at_keys().await.unwrap();
        }
    }
    // The third master is away while the key gets another secret in an arbiter that counts from 1 again.
    log.restore(backup.clone());
    let [one, two] = [master(&log, &disks[0]).await, master(&log, &disks[1]).await];
    one.look_at_keys().await.unwrap();
    one.keys().import("me", id, &chosen("secret-of-now"), 2).await.unwrap();
    let three = master(&log, &disks[2]).await;
    for master in [&three, &one, &two, &three] {
        master.look_at_keys().await.unwrap();
        assert_eq!(master.secret_of(id, None).await.unwrap().expose(), "secret-of-now");
    }
    // The key is not restored where the arbiter lost it: no master can tell which secret is the newest.
    log.restore(backup);
    for disk in &disks {
        let master = master(&log, disk).await;
        master.look_at_keys().await.unwrap();
        assert!(matches!(master.secret_of(id, None).await, Err(AuthError::UnknownKey)));
    }
}

#[tokio::test]
async fn what_the_arbiter_has_is_never_written_over() {
    let log = Arc::new(MemoryMetadata::default());
    let one = master(&log, &Arc::default()).await;
    let backup = log.backup();
    let (info, _) = one.keys().create("early", 1).await.unwrap();
    let other = log.read(Table::Keys, &info.id).await.unwrap().unwrap().value;
    // The arbiter's record may be another one of the key, garbage, or a deletion.
    for record in [other, Some("garbage".into()), None] {
        log.restore(backup.clone());
        log.write(Table::Keys, &info.id, 0, record.clone()).await.unwrap();
        let lost = one.keys().memory().unwrap().known(&info.id).await.unwrap().unwrap();
        one.keys().memory().unwrap().write_back(&info.id, lost.record).await.unwrap();
        one.look_at_keys().await.unwrap();
        let found = log.read(Table::Keys, &info.id).await.unwrap().unwrap();
        assert_eq!((found.version, found.value), (1, record));
    }
}

#[tokio::test]
async fn who_comes_second_with_a_lost_key_forgets_nothing() {
    let log = Arc::new(MemoryMetadata::default());
    let disks = [(); 2].map(|()| Arc::new(MemoryMetadata::default()));
    let [one, two] = [master(&log, &disks[0]).await, master(&log, &disks[1]).await];
    let backup = log.backup();
    let (info, _) = one.keys().create("alice", 1).await.unwrap();
    two.look_at_keys().await.unwrap();
    log.restore(backup.clone());
    for master in [&one, &two] {
        let memory = master.keys().memory().unwrap();
        let lost = memory.known(&info.id).await.unwrap().unwrap();
        memory.write_back(&info.id, lost.record).await.unwrap();
    }
    log.restore(backup);
    two.look_at_keys().await.unwrap();
    assert!(two.secret_of(&info.id, None).await.is_ok(), "the second has forgotten it");
}

#[tokio::test(start_paused = true)]
async fn a_lost_key_that_is_asked_for_comes_back_at_once_and_no_page_waits() {
    let log = Arc::new(MemoryMetadata::default());
    let one = master(&log, &Arc::default()).await;
    one.keys().set_keys_max(usize::MAX);
    let backup = log.backup();
    let mut ids = BTreeSet::new();
    for n in 0..3 * PAGE {
        ids.insert(one.keys().create(&format!("user{}", n % 7), 1).await.unwrap().0.id);
    }
    log.restore(backup.clone());
    let keeper = one.clone();
    let kept = tokio::spawn(async move { keeper.keep_keys().await });
    // The first look, which is at the first page, is over.
    tokio::time::sleep(LOOK / 2).await;
    let last = ids.last().unwrap();
    assert!(is_doubtful(&one.secret_of(last, None).await));
    tokio::time::sleep(LOOK / 10).await;
    assert!(one.secret_of(last, None).await.is_ok(), "it waits for its page");
    // Requests come more often than pages are compared.
    log.restore(backup);
    for _ in 0..50 {
        one.keys().records().forget(Table::Keys, last);
        let _ = one.secret_of(last, None).await;
        log.write(Table::Keys, last, 1, None).await.unwrap();
        tokio::time::sleep(LOOK / 10).await;
    }
    let back = one.keys().list(None).await.unwrap().len();
    assert!(back >= 3 * PAGE - 1, "{back} keys are back");
    kept.abort();
}

#[tokio::test]
async fn a_record_that_cannot_be_used_is_passed_over() {
    let log = Arc::new(MemoryMetadata::default());
    let disk = Arc::new(MemoryMetadata::default());
    let one = master(&log, &disk).await;
    let backup = log.backup();
    let mut ids = BTreeSet::new();
    for _ in 0..3 {
        ids.insert(one.keys().create("alice", 1).await.unwrap().0.id);
    }
    // Keys that the master had before it shared an arbiter are not among the remembered ones.
    disk.write(Table::Keys, ids.last().unwrap(), 0, Some("{}".into())).await.unwrap();
    let damaged = ids.first().unwrap();
    disk.write(Table::RememberedKeys, damaged, 1, Some("garbage".into())).await.unwrap();
    log.restore(backup);
    one.look_at_keys().await.unwrap();
    assert!(matches!(one.secret_of(damaged, None).await, Err(AuthError::UnknownKey)));
    for id in ids.iter().skip(1) {
        assert!(one.secret_of(id, None).await.is_ok());
    }
    // Garbage in the arbiter does not replace a copy either.
    let last = ids.last().unwrap();
    log.write(Table::Keys, last, 1, Some("garbage".into())).await.unwrap();
    one.look_at_keys().await.unwrap();
    assert!(one.keys().memory().unwrap().known(last).await.unwrap().is_some());
}

#[tokio::test]
async fn a_key_that_fails_ends_the_look_and_the_next_goes_on_after_it() {
    let log = Arc::new(MemoryMetadata::default());
    let disk = Arc::new(MemoryMetadata::default());
    let one = master(&log, &disk).await;
    let backup = log.backup();
    let mut ids = BTreeSet::new();
    for _ in 0..3 {
        ids.insert(one.keys().create("alice", 1).await.unwrap().0.id);
    }
    log.restore(backup);
    let failing = ids.first().unwrap().clone();
    let failing: Arc<dyn MetadataStore> = Arc::new(Failing { log: Arc::clone(&log), failing });
    let two = master_on(failing, &disk).await;
    two.look_at_keys().await.unwrap();
    two.look_at_keys().await.unwrap();
    for id in ids.iter().skip(1) {
        assert!(two.secret_of(id, None).await.is_ok());
    }
}

/// A store of records, one of which cannot be written.
#[derive(Debug)]
struct Failing {
    log: Arc<MemoryMetadata>,
    failing: String,
}

#[async_trait]
impl MetadataStore for Failing {
    async fn read(&self, table: Table, name: &str) -> Result<Option<Entry>, StoreError> {
        self.log.read(table, name).await
    }

    async fn write(
        &self,
        table: Table,
        name: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<WriteOutcome, StoreError> {
        if name == self.failing {
            let source = "failing".into();
            return Err(StoreError::Unavailable { backend: "test", action: "write", source });
        }
        self.log.write(table, name, expected, value).await
    }

    async fn list(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Entry)>, StoreError> {
        self.log.list(table, after, limit).await
    }
}

#[tokio::test]
async fn a_session_that_the_arbiter_lost_is_found_by_its_token() {
    let (log, now) = (Arc::new(MemoryMetadata::default()), Arc::new(AtomicU64::new(1000)));
    let disks = [(); 3].map(|()| Arc::new(MemoryMetadata::default()));
    let start = async |disk: usize| {
        let master = master_at(Arc::clone(&log) as _, &disks[disk], &now).await;
        master.look_at_keys().await.unwrap();
        master
    };
    let [one, two] = [start(0).await, start(1).await];
    let backup = log.backup();
    now.fetch_add(10, Ordering::SeqCst);
    let key = WalletKey::new(&[3; 32]).unwrap();
    let claims = Claims { wallet: key.address(), iat: 1000, exp: 80_000, v2: None };
    let verified = one.inspect(&wallet_token::mint(&key, &claims)).unwrap();
    let kept = one.begin_session(&verified, 900).await.unwrap();
    let revoked = one.begin_session(&verified, 900).await.unwrap();
    one.revoke(Revoked::Key(revoked.id.clone())).await.unwrap();
    two.revocations().look().await.unwrap();
    now.fetch_add(10, Ordering::SeqCst);
    log.restore(backup);

    let signed = |access_key, token| Signed {
        access_key,
        session_token: Some(token),
        url_expires: None,
        is_private: false,
    };
    let (id, token) = (kept.id.as_str(), kept.token.expose());
    // This one was not there when the session began, so the session may have been revoked.
    let late = start(2).await;
    assert!(matches!(late.secret_of(id, Some(token)).await, Err(AuthError::UnknownKey)));
    assert!(matches!(two.secret_of(id, None).await, Err(AuthError::UnknownKey)));
    for wrong in ["x", &token[1..], &token[..token.len() - 2], revoked.token.expose()] {
        assert!(matches!(one.secret_of(id, Some(wrong)).await, Err(AuthError::UnknownKey)));
    }
    let [one, two] = [start(0).await, start(1).await];
    for master in [&two, &one] {
        let secret = master.secret_of(id, Some(token)).await.unwrap();
        assert_eq!(secret.expose(), kept.secret.expose());
        assert_eq!(master.admit(signed(id, token)).await.unwrap().identity, verified.identity);
        let refused = master.admit(signed(&revoked.id, revoked.token.expose())).await;
        assert!(matches!(refused, Err(AuthError::Revoked)), "{refused:?}");
    }
    // It is in the arbiter again, so every master accepts it, and it counts.
    start(2).await.admit(signed(id, token)).await.unwrap();
    now.store(1010 + 900, Ordering::SeqCst);
    assert!(matches!(two.admit(signed(id, token)).await, Err(AuthError::SessionExpired)));
    // It is found in a slot that another session has taken, too.
    now.store(1020, Ordering::SeqCst);
    let slot = &id[4..22];
    let record = log.read(Table::Sessions, slot).await.unwrap().unwrap();
    let other = String::from_utf8(record.value.unwrap().to_vec()).unwrap().replace("FULT", "FULU");
    log.write(Table::Sessions, slot, record.version, Some(other.clone().into())).await.unwrap();
    start(1).await.admit(signed(id, token)).await.unwrap();
    let record = log.read(Table::Sessions, slot).await.unwrap().unwrap();
    assert_eq!(record.value.unwrap(), other, "the other session keeps the slot");
}
