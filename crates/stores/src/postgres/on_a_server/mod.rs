//! Tests that start a Postgres server: the suites of the storage traits, and the servers that are refused.
//!
//! They need the programs of Postgres and `PgBouncer`, which a Rust toolchain does not contain. So `make
//! check` leaves out all tests with this module in their path, and `make servers` runs them.

mod drops;
mod poolers;

use std::sync::{
    LazyLock,
    atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use fula_core::{
    BucketAddress, BucketId, BucketName, Cid, Codec, MetadataStore, OwnerId, PackDirectory,
    RootPointer, RootPointerStore, WriterId, conformance_suite,
    metadata::Table,
    packs::{Added, PackEntry, PackId},
    root::{CasOutcome, GlobalName, LeaseId, NewRoot},
};
use fula_testkit::postgres::Postgres;

use super::*;

static SERVER: LazyLock<Postgres> = LazyLock::new(|| Postgres::start(&[]).unwrap());
static SCHEMAS: AtomicU32 = AtomicU32::new(0);

/// Returns the URL of an empty schema.
fn schema() -> String {
    let name = format!("s{}", SCHEMAS.fetch_add(1, Ordering::Relaxed));
    SERVER.execute(&format!("CREATE SCHEMA {name}")).unwrap();
    format!("{}?options[search_path]={name}", SERVER.url())
}

async fn arbiter() -> PostgresArbiter {
    PostgresArbiter::open(&schema(), true).await.unwrap()
}

mod roots {
    use super::*;
    conformance_suite!(root_store, async { arbiter().await.roots });
}

mod roots_with_a_counter {
    use super::*;

    async fn counting() -> PostgresArbiter {
        let url = schema();
        let server = sessions::wait_for(&url).await.unwrap();
        let connections = |session| Connections::new(&url, session, &server).unwrap();
        let (reads, writes) = (connections(Session::Read), connections(Session::Swap));
        let source = schema::migrate(&writes, Some(MarkSource::Counter)).await.unwrap();
        // This arbiter is polled, as where the server cannot wait.
        tokio::spawn(raise_counter(writes.clone()));
        PostgresArbiter::on([reads.clone(), writes, reads], true, source, false)
    }

    conformance_suite!(root_store, async { counting().await.roots });
}

mod metadata {
    use super::*;
    conformance_suite!(metadata, async { arbiter().await.metadata });
}

mod packs {
    use super::*;
    conformance_suite!(pack_directory, async { arbiter().await.packs });
}

#[tokio::test]
async fn a_pack_that_was_listed_is_listed_after_a_crash() {
    // The log of the server is written late: what does not wait for it is lost.
    let mut server = Postgres::start(&["wal_writer_delay=10s"]).unwrap();
    let packs = PostgresArbiter::open(&server.url(), true).await.unwrap().packs;
    let pack =
        PackEntry { id: PackId([7; 16]), generation: 0, bytes: 100, index: vec![1; 24].into() };
    assert_eq!(packs.add(&pack).await.unwrap(), Added::At(1));
    server.crash(true).unwrap();
    server.launch().unwrap();
    let packs = PostgresArbiter::open(&server.url(), true).await.unwrap().packs;
    assert_eq!(packs.read(0, 10).await.unwrap().entries, [(1, pack)]);
}

#[tokio::test]
async fn the_first_writes_after_a_restart_of_the_server_are_carried_out() {
    let mut server = Postgres::start(&[]).unwrap();
    let arbiter = PostgresArbiter::open(&server.url(), true).await.unwrap();
    let swap = async |name: &str, version: u64| {
        let bucket = BucketAddress::new(OwnerId([1; 16]), BucketName::parse(name).unwrap());
        let pointer =
            |version| RootPointer { root: Cid::of(Codec::DagCbor, &[1]), version, generation: 0 };
        let new = NewRoot {
            pointer: pointer(version),
            bucket_id: BucketId([2; 16]),
            created: 1,
            deleted: None,
            global_name: GlobalName::Keep,
            lease: None,
        };
        let expected = (version > 1).then(|| pointer(version - 1));
        arbiter.roots.cas_root(&bucket, expected, &new).await.map(|done| done.value)
    };
    let write = async |version| {
        let value = Some(bytes::Bytes::from_static(b"x"));
        arbiter.metadata.write(fula_core::metadata::Table::Modes, "name", version, value).await
    };
    let pack =
        |n| PackEntry { id: PackId([n; 16]), generation: 0, bytes: 1, index: vec![1; 24].into() };
    // Several connections of each kind are open.
    let (one, two, three) = tokio::join!(swap("one", 1), swap("two", 1), swap("three", 1));
    for outcome in [one, two, three] {
        assert_eq!(outcome.unwrap(), CasOutcome::Won);
    }
    write(0).await.unwrap();
    arbiter.packs.add(&pack(1)).await.unwrap();
    server.crash(true).unwrap();
    server.launch().unwrap();
    // As every request does before it writes.
    arbiter.roots.get_roots(&[]).await.unwrap();
    let (one, two, three) = tokio::join!(swap("one", 2), swap("two", 2), swap("three", 2));
    for outcome in [one, two, three] {
        assert_eq!(outcome.unwrap(), CasOutcome::Won);
    }
    write(1).await.unwrap();
    arbiter.packs.add(&pack(2)).await.unwrap();
}

#[tokio::test]
async fn a_wait_hears_of_a_swap_at_once() {
    let roots = arbiter().await.roots;
    let name = BucketName::parse("bucket").unwrap();
    let bucket = BucketAddress::new(OwnerId([1; 16]), name);
    let new = NewRoot {
        pointer: RootPointer { root: Cid::of(Codec::DagCbor, &[1]), version: 1, generation: 0 },
        bucket_id: BucketId([2; 16]),
        created: 1,
        deleted: None,
        global_name: GlobalName::Keep,
        lease: None,
    };
    let patience = std::time::Duration::from_secs(30);
    let waiting = roots.wait_root(&bucket, 0, patience);
    let swapping = async {
        // The wait has begun by now, or will find the row there.
        roots.get_roots(&[]).await.unwrap();
        roots.cas_root(&bucket, None, &new).await.unwrap()
    };
    let started = tokio::time::Instant::now();
    let (found, _) = tokio::join!(waiting, swapping);
    assert_eq!(found.unwrap().value.unwrap().pointer, new.pointer);
    assert!(started.elapsed() < patience, "it waited to the end");
}

#[tokio::test]
async fn a_swap_that_relies_on_a_lease_wins_as_long_as_the_arbiter_has_it() {
    let arbiter = arbiter().await;
    let (roots, metadata) = (&arbiter.roots, &arbiter.metadata);
    let bucket = BucketAddress::new(OwnerId([1; 16]), BucketName::parse("bucket").unwrap());
    let lease = LeaseId { master: "one".to_owned(), id: "00112233445566778899aabbccddeeff".into() };
    let new = |version, lease| NewRoot {
        pointer: RootPointer { root: Cid::of(Codec::DagCbor, &[1]), version, generation: 0 },
        bucket_id: BucketId([2; 16]),
        created: 1,
        deleted: None,
        global_name: GlobalName::Keep,
        lease,
    };
    let swap = async |expected: u64, lease: Option<&LeaseId>| {
        let new = new(expected + 1, lease.cloned());
        let expected = RootPointer { version: expected, ..new.pointer };
        roots.cas_root(&bucket, Some(expected), &new).await.unwrap().value
    };
    roots.cas_root(&bucket, None, &new(1, None)).await.unwrap();
    assert_eq!(swap(1, Some(&lease)).await, CasOutcome::LeaseBroken);
    let record = format!("{{\"host\":\"h\",\"lease\":{{\"id\":\"{}\"}}}}", lease.id);
    let record = Some(Bytes::from(record));
    metadata.write(Table::Masters, "one", 0, record).await.unwrap();
    assert_eq!(swap(1, Some(&lease)).await, CasOutcome::Won);
    let other = LeaseId { master: "other".to_owned(), ..lease.clone() };
    assert_eq!(swap(2, Some(&other)).await, CasOutcome::LeaseBroken);
    metadata.write(Table::Masters, "one", 1, Some("{}".into())).await.unwrap();
    assert_eq!(swap(2, Some(&lease)).await, CasOutcome::LeaseBroken);
    metadata.write(Table::Masters, "one", 2, None).await.unwrap();
    assert_eq!(swap(2, Some(&lease)).await, CasOutcome::LeaseBroken);
    assert_eq!(swap(2, None).await, CasOutcome::Won);
}

#[tokio::test]
async fn a_claim_is_seen_until_the_next_swap() {
    let roots = arbiter().await.roots;
    let name = BucketName::parse("bucket").unwrap();
    let bucket = BucketAddress::new(OwnerId([1; 16]), name);
    let new = |version| NewRoot {
        pointer: RootPointer { root: Cid::of(Codec::DagCbor, &[1]), version, generation: 0 },
        bucket_id: BucketId([2; 16]),
        created: 1,
        deleted: None,
        global_name: GlobalName::Keep,
        lease: None,
    };
    let names = [bucket.clone()];
    let claim = async || roots.get_roots(&names).await.unwrap().value.remove(0).unwrap().claim;
    roots.cas_root(&bucket, None, &new(1)).await.unwrap();
    roots.post_claim(&bucket, WriterId([3; 16])).await.unwrap();
    assert_eq!(claim().await, Some(WriterId([3; 16])));
    // A claim does not change what a swap compares.
    let swapped = roots.cas_root(&bucket, Some(new(1).pointer), &new(2)).await;
    assert_eq!(swapped.unwrap().value, CasOutcome::Won);
    assert_eq!(claim().await, None);
}

#[tokio::test]
async fn masters_that_start_together_migrate_together() {
    let url = schema();
    let opened = (0..4).map(|_| PostgresArbiter::open(&url, true));
    for opened in futures::future::join_all(opened).await {
        assert_eq!(opened.unwrap().mark_source, MarkSource::Log);
    }
    PostgresArbiter::migrate(&url, &[]).await.unwrap();
}

#[tokio::test]
async fn the_table_of_an_earlier_implementation_is_extended_in_place() {
    let url = schema();
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    for statement in [
        "CREATE TABLE bucket_roots (owner_id TEXT, bucket TEXT, root_cid TEXT NOT NULL,
            version BIGINT NOT NULL DEFAULT 1, updated_at TIMESTAMPTZ,
            PRIMARY KEY (owner_id, bucket))",
        "INSERT INTO bucket_roots (owner_id, bucket, root_cid) VALUES ('a', 'b', 'c')",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    PostgresArbiter::open(&url, true).await.unwrap();
    let row = sqlx::query("SELECT root_cid, generation FROM bucket_roots").fetch_one(&pool);
    let row = row.await.unwrap();
    assert_eq!(row.get::<String, _>("root_cid"), "c");
    assert_eq!(row.get::<i64, _>("generation"), 0);
}

#[tokio::test]
async fn the_index_of_live_rows_is_added_to_the_tables_of_an_earlier_version() {
    let url = schema();
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    let is_there = async || {
        let found = sqlx::query("SELECT to_regclass('bucket_roots_live') IS NOT NULL AS there");
        found.fetch_one(&pool).await.unwrap().get::<bool, _>("there")
    };
    PostgresArbiter::open(&url, true).await.unwrap();
    assert!(is_there().await);
    sqlx::query("DROP INDEX bucket_roots_live").execute(&pool).await.unwrap();
    assert!(!is_there().await);
    PostgresArbiter::open(&url, true).await.unwrap();
    assert!(is_there().await);
}

#[tokio::test]
async fn names_are_claimed_and_released_where_swaps_do_not_compare() {
    let roots = PostgresArbiter::open(&schema(), false).await.unwrap().roots;
    let (one, two) = (OwnerId([1; 16]), OwnerId([2; 16]));
    let bucket = BucketName::parse("bucket").unwrap();
    let mut version = 0;
    let address = |owner| BucketAddress::new(owner, bucket.clone());
    for (owner, global_name, holder) in [
        (one, GlobalName::Keep, None),
        (one, GlobalName::ClaimIfFree, Some(one)),
        (one, GlobalName::Keep, Some(one)),
        (two, GlobalName::ClaimIfFree, Some(one)),
        (one, GlobalName::Release, None),
        (two, GlobalName::Keep, None),
        (two, GlobalName::ClaimIfFree, Some(two)),
    ] {
        version += 1;
        let new = NewRoot {
            pointer: RootPointer { root: Cid::of(Codec::DagCbor, &[1]), version, generation: 0 },
            bucket_id: BucketId([2; 16]),
            created: 1,
            deleted: None,
            global_name,
            lease: None,
        };
        let swapped = roots.cas_root(&address(owner), None, &new).await.unwrap().value;
        assert_eq!(swapped, CasOutcome::Won);
        let found = roots.find_bucket(&bucket).await.unwrap().value;
        assert_eq!(found.map(|row| row.address.owner), holder, "version {version}");
    }
}

#[tokio::test]
async fn a_server_that_would_lose_writes_is_refused() {
    let server = Postgres::start(&["fsync=off"]).unwrap();
    let refused = PostgresArbiter::open(&server.url(), true).await.unwrap_err();
    assert!(matches!(refused, PostgresError::NotDurable("fsync")), "{refused}");
}

#[tokio::test]
async fn what_waiting_cannot_mend_is_refused_at_once() {
    let wrong = format!("{}_absent", SERVER.url());
    let refused = PostgresArbiter::open(&wrong, true).await.unwrap_err();
    assert!(matches!(refused, PostgresError::Connect(_)), "{refused}");
    let read_only = format!("{}?options[default_transaction_read_only]=on", SERVER.url());
    let refused = PostgresArbiter::open(&read_only, true).await.unwrap_err();
    assert!(matches!(refused, PostgresError::ReadOnly), "{refused}");
    let refused = PostgresArbiter::open("mysql://secret@x", true).await.unwrap_err();
    assert!(!refused.to_string().contains("secret"), "{refused}");
}
