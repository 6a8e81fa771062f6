//! Tests of Postgres behind poolers: the suites, and that a swap is durable whatever the settings of the
//! session that it reaches.

use std::{
    net::SocketAddr,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

use fula_core::{
    BucketAddress, BucketId, BucketName, Cid, Codec, OwnerId, RootPointer, RootPointerStore,
    conformance_suite,
    root::{CasOutcome, GlobalName, NewRoot},
};
use fula_testkit::{multiplexer::Multiplexer, pgbouncer::PgBouncer, postgres::Postgres};
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

use crate::postgres::*;

static SERVER: LazyLock<Postgres> = LazyLock::new(|| Postgres::start(&[]).unwrap());
static POOLER: LazyLock<PgBouncer> =
    LazyLock::new(|| PgBouncer::start(SERVER.port(), "transaction", 4).unwrap());
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// Returns `url` with a new, empty database.
fn empty(url: &str) -> String {
    let name = format!("d{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    SERVER.execute(&format!("CREATE DATABASE {name}")).unwrap();
    format!("{}/{name}", url.strip_suffix("/postgres").unwrap())
}

async fn multiplexer(sessions: usize) -> Multiplexer {
    Multiplexer::open(SocketAddr::from(([127, 0, 0, 1], SERVER.port())), sessions).await.unwrap()
}

mod behind_pgbouncer {
    use super::*;

    async fn arbiter() -> PostgresArbiter {
        PostgresArbiter::open(&empty(&POOLER.url()), true).await.unwrap()
    }

    conformance_suite!(root_store, async { arbiter().await.roots });
}

mod behind_a_multiplexer {
    use super::*;

    async fn arbiter() -> PostgresArbiter {
        let multiplexer = multiplexer(2).await;
        PostgresArbiter::open(&empty(&multiplexer.url()), true).await.unwrap()
    }

    mod roots {
        use super::*;
        conformance_suite!(root_store, async { arbiter().await.roots });
    }

    mod metadata {
        use super::*;
        conformance_suite!(metadata, async { arbiter().await.metadata });
    }

    mod packs {
        use super::*;
        conformance_suite!(pack_directory, async { arbiter().await.packs });
    }
}

fn pointer(version: u64) -> RootPointer {
    let root = Cid::of(Codec::DagCbor, &version.to_be_bytes());
    RootPointer { root, version, generation: 0 }
}

fn address(name: &str) -> BucketAddress {
    BucketAddress::new(OwnerId([1; 16]), BucketName::parse(name).unwrap())
}

async fn swap(arbiter: &PostgresArbiter, bucket: &BucketAddress, version: u64) -> bool {
    let expected = version.checked_sub(1).filter(|before| *before > 0).map(pointer);
    let new = NewRoot {
        pointer: pointer(version),
        bucket_id: BucketId([1; 16]),
        created: 1,
        deleted: None,
        global_name: GlobalName::Keep,
        lease: None,
    };
    let swapped = arbiter.roots.cas_root(bucket, expected, &new).await;
    swapped.is_ok_and(|stamped| stamped.value == CasOutcome::Won)
}

/// Leaves settings of an earlier version's reads in as many sessions as there are.
async fn spoil(connections: &mut [PgConnection]) {
    for connection in connections {
        let left = "SET synchronous_commit = 'off'; SET statement_timeout = '5s'";
        sqlx::raw_sql(left).execute(connection).await.unwrap();
    }
}

/// Records the settings under which rows are written, in the transaction that writes them.
const NOTES: &str = "CREATE TABLE seen (kind TEXT, synced TEXT, timeout TEXT);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO seen VALUES (TG_TABLE_NAME, current_setting('synchronous_commit'),
            current_setting('statement_timeout'));
        RETURN NULL; END $$;
    CREATE TABLE plain (n INT);
    CREATE TRIGGER note AFTER INSERT OR UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION note();
    CREATE TRIGGER note AFTER INSERT OR UPDATE ON bucket_roots FOR EACH ROW EXECUTE FUNCTION note()";

#[tokio::test]
async fn a_swap_is_durable_whatever_others_left_in_the_session() {
    let multiplexer = multiplexer(2).await;
    let url = empty(&multiplexer.url());
    let arbiter = PostgresArbiter::open(&url, true).await.unwrap();
    let options: PgConnectOptions = url.parse().unwrap();
    let options = options.extra_float_digits(None);
    let mut others = [options.connect().await.unwrap(), options.connect().await.unwrap()];
    sqlx::raw_sql(NOTES).execute(&mut others[0]).await.unwrap();
    let bucket = address("bucket");
    for version in 1..=50 {
        // Each statement is a transaction of its own, and the sessions take turns.
        spoil(&mut others).await;
        assert!(swap(&arbiter, &bucket, version).await);
        sqlx::raw_sql("INSERT INTO plain VALUES (1)").execute(&mut others[0]).await.unwrap();
    }
    let mut count = async |kind: &str, synced: &str, timeout: &str| {
        let asked = format!(
            "SELECT count(*) AS n FROM seen WHERE kind = '{kind}' AND synced = '{synced}' AND \
             timeout = '{timeout}'"
        );
        let text = sqlx::AssertSqlSafe(asked);
        let row = sqlx::raw_sql(text).fetch_one(&mut others[0]).await.unwrap();
        row.try_get::<i64, _>("n").unwrap()
    };
    // A statement that relies on the settings of its session runs under those of another client.
    assert_eq!(count("plain", "off", "5s").await, 50);
    assert_eq!(count("bucket_roots", "on", "0").await, 50);
    for other in others {
        other.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_pooler_that_leaves_sessions_to_their_clients_is_like_none() {
    let pooler = PgBouncer::start(SERVER.port(), "session", 20).unwrap();
    let arbiter = PostgresArbiter::open(&empty(&pooler.url()), true).await.unwrap();
    assert!(swap(&arbiter, &address("bucket"), 1).await);
}

#[expect(clippy::disallowed_methods, reason = "how long a test runs is no configuration")]
fn rounds() -> u64 {
    std::env::var("FULA_POOLER_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// Postgres and the pooler are killed under load. Only the disk of the server holds the commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_swap_is_lost_when_pooler_and_server_are_killed() {
    const WRITERS: usize = 8;
    let mut server = Postgres::start(&["wal_writer_delay=10s"]).unwrap();
    let mut pooler = PgBouncer::start(server.port(), "transaction", 4).unwrap();
    let (mut acknowledged, mut lost) = (0, 0);
    let mut newest = [0_u64; WRITERS];
    let bucket = |n: usize| address(&format!("bucket-{n}"));
    for _ in 0..rounds() {
        let arbiter = PostgresArbiter::open(&pooler.url(), true).await.unwrap();
        let (send, mut receive) = tokio::sync::mpsc::unbounded_channel();
        let writers: Vec<_> = (0..WRITERS)
            .map(|n| {
                let (arbiter, send, mut version) = (arbiter.clone(), send.clone(), newest[n]);
                tokio::spawn(async move {
                    while swap(&arbiter, &bucket(n), version + 1).await {
                        version += 1;
                        send.send((n, version)).expect("the test listens");
                    }
                })
            })
            .collect();
        drop(send);
        for _ in 0..200 {
            let (n, version) =
                receive.recv().await.expect("writers go on until the server is killed");
            newest[n] = version;
        }
        server.crash(false).unwrap();
        pooler.kill().unwrap();
        while let Some((n, version)) = receive.recv().await {
            newest[n] = version;
        }
        for writer in writers {
            writer.await.unwrap();
        }
        server.launch().unwrap();
        pooler.launch().unwrap();
        let arbiter = PostgresArbiter::open(&pooler.url(), true).await.unwrap();
        for (n, version) in newest.iter_mut().enumerate() {
            let found = arbiter.roots.get_roots(&[bucket(n)]).await.unwrap().value.pop().flatten();
            let found = found.map_or(0, |row| row.pointer.version);
            acknowledged += *version;
            lost += version.saturating_sub(found);
            // A swap without an answer may have been applied.
            *version = found;
        }
    }
    println!(
        "{} rounds, up to version {acknowledged} in sum, {lost} acknowledged swaps lost",
        rounds()
    );
    assert_eq!(lost, 0);
}
