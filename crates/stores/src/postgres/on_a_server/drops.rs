//! Drops of rows of deleted buckets (docs/adr/0067), beyond what the suite of the trait covers.

use fula_core::root::{DeletedRow, DropRound, DropTerms};

use super::*;

const DAY: u64 = 24 * 3600 * 1000;

/// An arbiter with one bucket that was deleted 40 days ago, and its server connection.
struct Aged {
    arbiter: PostgresArbiter,
    pool: sqlx::PgPool,
    row: DeletedRow,
}

fn named(name: &str) -> BucketAddress {
    BucketAddress::new(OwnerId([1; 16]), BucketName::parse(name).unwrap())
}

fn new(version: u64, deleted: Option<u64>) -> NewRoot {
    NewRoot {
        pointer: RootPointer { root: Cid::of(Codec::DagCbor, &[1]), version, generation: 0 },
        bucket_id: BucketId([2; 16]),
        created: 1,
        deleted,
        global_name: GlobalName::Keep,
        lease: None,
    }
}

impl Aged {
    async fn new() -> Self {
        let url = schema();
        let arbiter = PostgresArbiter::open(&url, true).await.unwrap();
        let pool = sqlx::PgPool::connect(&url).await.unwrap();
        let (address, tombstone) = (named("deleted"), new(7, Some(1)));
        arbiter.roots.cas_root(&address, None, &new(1, None)).await.unwrap();
        arbiter.roots.cas_root(&address, Some(new(1, None).pointer), &tombstone).await.unwrap();
        let age = "UPDATE bucket_roots SET updated_at = now() - interval '40 days'";
        sqlx::query(age).execute(&pool).await.unwrap();
        Self { arbiter, pool, row: DeletedRow { address, pointer: tombstone.pointer } }
    }

    async fn drop_it(&self, terms: &DropTerms) -> usize {
        self.arbiter.roots.drop_roots(vec![self.row.clone()], terms).await.unwrap().len()
    }

    async fn record(&self, table: Table, name: &str, version: u64, value: Option<&str>) {
        let value = value.map(|value| Bytes::from(value.to_owned()));
        self.arbiter.metadata.write(table, name, version, value).await.unwrap();
    }
}

#[tokio::test]
async fn the_age_of_a_row_is_that_of_its_last_swap_by_the_clock_of_the_server() {
    let aged = Aged::new().await;
    // The time that a master gave says nothing: it was in 1970.
    let terms = |days| DropTerms { age: days * DAY, round: None };
    assert_eq!(aged.drop_it(&terms(41)).await, 0);
    // A collection raises the generation of a row, which does not make it younger.
    let row = RootPointer { generation: 5, ..aged.row.pointer };
    aged.arbiter.roots.raise_generation(5).await.unwrap();
    assert_eq!(aged.drop_it(&terms(39)).await, 0, "the row is not as given");
    let aged = Aged { row: DeletedRow { pointer: row, ..aged.row.clone() }, ..aged };
    assert_eq!(aged.drop_it(&terms(39)).await, 1);
    assert_eq!(aged.arbiter.roots.version_floor().await.unwrap().value, 7);
}

#[tokio::test]
async fn a_row_is_dropped_once_every_other_master_has_the_round_and_no_fork_is_open() {
    let aged = Aged::new().await;
    let id = "00112233445566778899aabbccddeeff".to_owned();
    let round = Some(DropRound { id: id.clone(), master: "one".to_owned() });
    let terms = DropTerms { age: 30 * DAY, round };
    aged.record(Table::Masters, "one", 0, Some("{}")).await;
    aged.record(
        Table::Masters,
        "two",
        0,
        Some("{\"dropping\":\"ffeeddccbbaa99887766554433221100\"}"),
    )
    .await;
    assert_eq!(aged.drop_it(&terms).await, 0, "the second master has another round");
    aged.record(Table::Masters, "two", 1, Some(&format!("{{\"dropping\":\"{id}\"}}"))).await;
    aged.record(Table::Masters, "three", 0, Some("{}")).await;
    assert_eq!(aged.drop_it(&terms).await, 0, "a third master has joined");
    aged.record(Table::Masters, "three", 1, None).await;
    let fork = format!("fork/{}", aged.row.address);
    aged.record(Table::Recovery, &fork, 0, Some("[]")).await;
    assert_eq!(aged.drop_it(&terms).await, 0, "the bucket is forked");
    aged.record(Table::Recovery, &fork, 1, None).await;
    assert_eq!(aged.drop_it(&terms).await, 1);
}

#[tokio::test]
async fn creations_and_drops_that_race_use_no_version_twice() {
    let arbiter = arbiter().await;
    let roots = &arbiter.roots;
    let address = named("bucket");
    // Each round creates the bucket above the floor, deletes it, and drops it while it is created again.
    let (mut highest, mut lost) = (0, 0);
    for _ in 0..50 {
        let first = new(highest + 1, None);
        let created = roots.cas_root(&address, None, &first).await.unwrap().value;
        assert_eq!(created, CasOutcome::Won);
        let tombstone = new(highest + 2, Some(1));
        roots.cas_root(&address, Some(first.pointer), &tombstone).await.unwrap();
        let row = DeletedRow { address: address.clone(), pointer: tombstone.pointer };
        let (terms, again) = (DropTerms::default(), new(highest + 2, None));
        let (dropped, created) = tokio::join!(
            roots.drop_roots(vec![row], &terms),
            roots.cas_root(&address, None, &again),
        );
        assert_eq!(dropped.unwrap().len(), 1);
        // The version of the tombstone never comes again.
        match created.unwrap().value {
            // The row was there when the creation was refused, and may be gone since.
            CasOutcome::Conflict { .. } => lost += 1,
            CasOutcome::BelowFloor { floor } => assert_eq!(floor, highest + 2),
            other => panic!("{other:?}"),
        }
        highest += 2;
    }
    println!("{lost} creations met the tombstone");
}

#[tokio::test]
async fn masters_of_the_version_before_go_on_beside_one_that_has_migrated() {
    let aged = Aged::new().await;
    // This is how they write the first row of a name.
    let create = "WITH current AS (SELECT generation FROM fula_arbiter WHERE id = 1 FOR SHARE)
        INSERT INTO bucket_roots (owner_id, bucket, root_cid, version, generation)
        SELECT 'a', 'b', 'c', 1, 0 WHERE EXISTS (SELECT 1 FROM current WHERE generation <= 0)";
    let done = sqlx::query(create).execute(&aged.pool).await.unwrap();
    assert_eq!(done.rows_affected(), 1);
}

#[tokio::test]
async fn a_role_that_may_not_delete_rows_starts_and_drops_nothing() {
    let aged = Aged::new().await;
    let name: String = sqlx::query("SELECT current_schema()::TEXT AS name")
        .fetch_one(&aged.pool)
        .await
        .unwrap()
        .get("name");
    let role = format!("role_{name}");
    SERVER.execute(&format!("CREATE ROLE {role} LOGIN")).unwrap();
    for statement in grants::statements(&name, &role) {
        SERVER.execute(&statement).unwrap();
    }
    SERVER.execute(&format!("REVOKE DELETE ON {name}.bucket_roots FROM {role}")).unwrap();
    let url = format!(
        "postgres://{role}@127.0.0.1:{}/postgres?options[search_path]={name}",
        SERVER.port()
    );
    let roots = PostgresArbiter::open(&url, true).await.unwrap().roots;
    let refused = roots.drop_roots(vec![aged.row.clone()], &DropTerms::default()).await;
    assert!(format!("{:?}", refused.unwrap_err()).contains("permission denied"));
    SERVER.execute(&format!("GRANT DELETE ON {name}.bucket_roots TO {role}")).unwrap();
    let dropped = roots.drop_roots(vec![aged.row.clone()], &DropTerms::default()).await;
    assert_eq!(dropped.unwrap().len(), 1);
}
