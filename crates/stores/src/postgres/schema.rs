//! The tables of a shared arbiter. They are created and extended in place, never rewritten.

use sqlx::Row;

use super::{PostgresError, grants, sessions::Connections, statement::Statement};

/// Statements that bring any earlier state up to date. Each may run repeatedly.
///
/// `bucket_roots` begins with the columns of an earlier implementation; every other column is added.
const MIGRATIONS: [&str; 13] = [
    "CREATE TABLE IF NOT EXISTS bucket_roots (
        owner_id TEXT NOT NULL, bucket TEXT NOT NULL, root_cid TEXT NOT NULL,
        version BIGINT NOT NULL DEFAULT 1, updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
        PRIMARY KEY (owner_id, bucket))",
    "ALTER TABLE bucket_roots
        ADD COLUMN IF NOT EXISTS generation BIGINT NOT NULL DEFAULT 0,
        ADD COLUMN IF NOT EXISTS global_name TEXT,
        ADD COLUMN IF NOT EXISTS bucket_id TEXT,
        ADD COLUMN IF NOT EXISTS created_ms BIGINT,
        ADD COLUMN IF NOT EXISTS deleted_ms BIGINT,
        ADD COLUMN IF NOT EXISTS claim TEXT",
    "CREATE UNIQUE INDEX IF NOT EXISTS bucket_roots_global_name ON bucket_roots (global_name)",
    LIVE,
    "CREATE TABLE IF NOT EXISTS fula_directory (
        kind TEXT NOT NULL, name TEXT NOT NULL, version BIGINT NOT NULL, value BYTEA,
        PRIMARY KEY (kind, name))",
    "CREATE TABLE IF NOT EXISTS fula_arbiter (
        id INT PRIMARY KEY, name TEXT NOT NULL, counter BIGINT NOT NULL)",
    "INSERT INTO fula_arbiter (id, name, counter)
        VALUES (1, md5(random()::TEXT || clock_timestamp()::TEXT), 0) ON CONFLICT (id) DO NOTHING",
    "CREATE TABLE IF NOT EXISTS fula_pack_list (
        id INT PRIMARY KEY, last BIGINT NOT NULL, manifest_version BIGINT NOT NULL, manifest BYTEA)",
    "INSERT INTO fula_pack_list (id, last, manifest_version) VALUES (1, 0, 0)
        ON CONFLICT (id) DO NOTHING",
    "CREATE TABLE IF NOT EXISTS fula_packs (
        seq BIGINT PRIMARY KEY, pack TEXT NOT NULL, generation BIGINT NOT NULL, bytes BIGINT NOT NULL,
        blocks BYTEA NOT NULL)",
    "ALTER TABLE fula_pack_list ADD COLUMN IF NOT EXISTS min_generation BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE fula_arbiter ADD COLUMN IF NOT EXISTS generation BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE fula_arbiter ADD COLUMN IF NOT EXISTS version_floor BIGINT NOT NULL DEFAULT 0",
];

/// Creates an index of the live buckets of an owner. Without it, counting them reads deleted ones too.
const LIVE: &str = "CREATE INDEX IF NOT EXISTS bucket_roots_live ON bucket_roots (owner_id)
    WHERE deleted_ms IS NULL";

/// Creates that index in the tables of an earlier version, if the role may.
pub(super) async fn index_live(connections: &Connections) {
    let there = "SELECT to_regclass('bucket_roots_live') IS NOT NULL AS there";
    let found = connections.fetch(&Statement::new(there)).await;
    if found.is_ok_and(|rows| rows.first().is_some_and(is_true)) {
        return;
    }
    if let Err(error) = run(connections, LIVE).await {
        tracing::info!(%error, "the index of live buckets is missing: run `fula migrate`");
    }
}

/// Defines the mark as Postgres itself knows it: the flushed position of its log.
const MARK_OF_POSTGRES: &str = "CREATE OR REPLACE VIEW fula_mark AS SELECT
    (SELECT system_identifier FROM pg_control_system())::TEXT || '/'
        || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8) AS arbiter,
    (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::BIGINT AS position,
    (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT AS now_ms";

/// Defines the mark for engines without such a log: a counter that every master raises.
const MARK_OF_COUNTER: &str = "CREATE OR REPLACE VIEW fula_mark AS SELECT
    'counter/' || name AS arbiter, counter AS position,
    (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT AS now_ms
    FROM fula_arbiter WHERE id = 1";

/// Defines a function that waits in the server until a row is beyond a version. A master that lets others
/// go first need not poll then. Each statement of a volatile function sees what was committed before it. An
/// engine without such functions is polled.
const WAIT: &str = "CREATE OR REPLACE FUNCTION fula_wait_root(
        the_owner TEXT, the_bucket TEXT, beyond BIGINT, patience_ms INT)
    RETURNS TABLE (arbiter TEXT, \"position\" BIGINT, now_ms BIGINT, owner_id TEXT, bucket TEXT,
        root_cid TEXT, version BIGINT, generation BIGINT, bucket_id TEXT, created_ms BIGINT,
        deleted_ms BIGINT, global_name TEXT, claim TEXT)
    LANGUAGE plpgsql VOLATILE AS $$
    #variable_conflict use_column
    DECLARE deadline TIMESTAMPTZ := clock_timestamp() + patience_ms * interval '1 millisecond';
    BEGIN
        LOOP
            PERFORM 1 FROM bucket_roots AS r
                WHERE r.owner_id = the_owner AND r.bucket = the_bucket AND r.version > beyond;
            EXIT WHEN FOUND OR clock_timestamp() >= deadline;
            PERFORM pg_sleep(0.0005);
        END LOOP;
        RETURN QUERY SELECT m.arbiter, m.position, m.now_ms, r.owner_id, r.bucket, r.root_cid,
            r.version, r.generation, r.bucket_id, r.created_ms, r.deleted_ms, r.global_name, r.claim
            FROM fula_mark AS m LEFT JOIN bucket_roots AS r
            ON r.owner_id = the_owner AND r.bucket = the_bucket;
    END $$";

/// Returns whether the server can wait for a row. Defines the function if the role may.
///
/// Where sessions are shared nothing waits: a wait could keep a swap from getting a session.
pub(super) async fn can_wait(connections: &Connections) -> bool {
    if has_wait(connections).await {
        return true;
    }
    match run(connections, WAIT).await {
        Ok(()) => true,
        Err(error) => {
            tracing::info!(%error, "the arbiter cannot wait for rows: it is polled");
            false
        }
    }
}

/// Returns whether a row can be waited for in the server.
pub(super) async fn has_wait(connections: &Connections) -> bool {
    let there =
        "SELECT coalesce(has_function_privilege(to_regproc('fula_wait_root'), 'EXECUTE'), false)
        AS there";
    let found = connections.fetch(&Statement::new(there)).await;
    found.is_ok_and(|rows| rows.first().is_some_and(is_true))
}

/// Returns why tables that [`probe`] looked for are missing.
pub(super) async fn explain_missing(connections: &Connections) -> PostgresError {
    let there = "SELECT to_regclass('fula_directory') IS NOT NULL AS there";
    match connections.fetch(&Statement::new(there)).await {
        Ok(rows) if rows.first().is_some_and(is_true) => PostgresError::OldTables,
        Ok(_) => PostgresError::NeverUsed,
        Err(error) => PostgresError::Connect(error),
    }
}

fn is_true(row: &sqlx::postgres::PgRow) -> bool {
    row.try_get("there").unwrap_or(false)
}

/// Uses everything that the statements rely on. It fails where something is missing.
const PROBE: &str = "SELECT (SELECT count(*) FROM (SELECT generation, global_name, bucket_id,
    created_ms, deleted_ms, claim FROM bucket_roots LIMIT 1) AS roots), (SELECT count(*)
    FROM (SELECT kind, name, version, value FROM fula_directory LIMIT 1) AS directory),
    (SELECT count(*) FROM (SELECT last, manifest_version, manifest, min_generation
    FROM fula_pack_list LIMIT 1) AS list),
    (SELECT count(*) FROM (SELECT seq, pack, generation, bytes, blocks FROM fula_packs LIMIT 1) AS packs),
    (SELECT generation FROM fula_arbiter WHERE id = 1),
    (SELECT version_floor FROM fula_arbiter WHERE id = 1), (SELECT arbiter FROM fula_mark) AS arbiter";

/// Number of attempts of a statement when several masters migrate at the same moment.
const TRIES: usize = 10;

/// The source of an arbiter's mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkSource {
    /// The write-ahead log of Postgres.
    Log,
    /// A counter that masters raise every second.
    Counter,
}

/// Brings the tables up to date. Returns the source of the mark.
pub(super) async fn migrate(
    connections: &Connections,
    wanted: Option<MarkSource>,
) -> Result<MarkSource, PostgresError> {
    for statement in MIGRATIONS {
        run(connections, statement).await?;
    }
    if wanted != Some(MarkSource::Counter) {
        let made = run(connections, MARK_OF_POSTGRES).await;
        let read = Statement::new("SELECT position FROM fula_mark");
        if made.is_ok() && connections.fetch(&read).await.is_ok() {
            return Ok(MarkSource::Log);
        }
        run(connections, "DROP VIEW IF EXISTS fula_mark").await?;
    }
    run(connections, MARK_OF_COUNTER).await?;
    Ok(MarkSource::Counter)
}

async fn run(connections: &Connections, statement: &'static str) -> Result<(), PostgresError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match connections.change(statement).await {
            Ok(()) => return Ok(()),
            // Postgres reports a collision when two sessions create the same thing.
            Err(error) if is_collision(&error) && tries < TRIES => {
                tokio::time::sleep(std::time::Duration::from_millis(20 << tries.min(5))).await;
            }
            Err(error) if grants::is_refused(&error) => {
                return Err(grants::explain(connections, error).await);
            }
            Err(error) => return Err(PostgresError::Migrate(error)),
        }
    }
}

fn is_collision(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let collisions = ["23505", "42P07", "42710", "42723", "XX000", "40001", "42701"];
    code.is_some_and(|code| collisions.contains(&code.as_ref()))
}

/// Returns the source of the mark, or `None` when tables must be migrated first.
pub(super) async fn probe(connections: &Connections) -> Result<Option<MarkSource>, PostgresError> {
    match connections.fetch(&Statement::new(PROBE)).await {
        Ok(rows) => {
            let row = rows.first().ok_or(PostgresError::Connect(sqlx::Error::RowNotFound))?;
            let arbiter: String = row.try_get("arbiter").map_err(PostgresError::Connect)?;
            let counter = arbiter.starts_with("counter/");
            Ok(Some(if counter { MarkSource::Counter } else { MarkSource::Log }))
        }
        // This is an undefined table or column.
        Err(sqlx::Error::Database(error))
            if error.code().is_some_and(|code| ["42P01", "42703"].contains(&code.as_ref())) =>
        {
            Ok(None)
        }
        Err(error) if grants::is_refused(&error) => Err(grants::explain(connections, error).await),
        Err(error) => Err(PostgresError::Connect(error)),
    }
}
