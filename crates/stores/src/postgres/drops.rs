//! Drops rows of buckets that were deleted long ago, and keeps the version floor (docs/adr/0067).

use fula_core::{
    RootPointer, StoreError,
    root::{CasOutcome, DeletedRow, DropTerms, Stamped},
};
use sqlx::Row;

use super::{
    ANSWER, PostgresError, malformed,
    packs::signed,
    sessions::{Connections, abandon},
    stamp,
    statement::{Statement, durable},
    unavailable,
};

/// Reads the version floor.
const FLOOR: &str = "SELECT arbiter, position, now_ms,
    (SELECT version_floor FROM fula_arbiter WHERE id = 1) AS version_floor FROM fula_mark";

/// Drops rows, and raises the version floor to the highest of their versions. The row with the floor is locked
/// before the first row is dropped, as it is before a first row of a name is written. The age of a row is compared
/// by the clock of the server alone: it wrote `updated_at`, and nothing changes a tombstone later.
///
/// With a round, every other master must have it in its record, and rows of forked buckets stay.
const DROP: &str = concat!(
    "WITH arbiter AS (SELECT id FROM fula_arbiter WHERE id = 1 FOR UPDATE),
    dropped AS (DELETE FROM bucket_roots
    WHERE (owner_id, bucket, root_cid, version::TEXT, generation::TEXT) IN (SELECT * FROM
            unnest($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::TEXT[], $5::TEXT[]))
        AND deleted_ms IS NOT NULL AND EXISTS (SELECT 1 FROM arbiter)
        AND ($6 = 0 OR updated_at <= now() - $6 * interval '1 millisecond')
        AND ($7 = '' OR NOT EXISTS (SELECT 1 FROM fula_directory AS master
            WHERE master.kind = 'masters' AND master.value IS NOT NULL AND master.name <> $8
            AND position($7 in convert_from(master.value, 'UTF8')) = 0))
        AND ($7 = '' OR NOT EXISTS (SELECT 1 FROM fula_directory AS fork
            WHERE fork.kind = 'recovery' AND fork.value IS NOT NULL
            AND fork.name = 'fork/' || bucket_roots.owner_id || '/' || bucket_roots.bucket))
        AND ",
    durable!("$9"),
    " RETURNING owner_id, bucket, version),
    raised AS (UPDATE fula_arbiter
        SET version_floor = greatest(version_floor, (SELECT max(version) FROM dropped))
        WHERE id = 1 AND EXISTS (SELECT 1 FROM dropped) RETURNING 1)
    SELECT (SELECT count(*) FROM raised) AS raised, owner_id, bucket, ",
    durable!("$9"),
    " AS is_durable FROM (SELECT 1) AS one LEFT JOIN dropped ON true"
);

/// Returns the version floor.
pub(super) async fn floor(reads: &Connections) -> Result<Stamped<u64>, StoreError> {
    let rows = reads.read("version_floor", &Statement::new(FLOOR)).await?;
    let row = rows.first().ok_or(malformed("the arbiter has no mark"))?;
    let floor: Option<i64> =
        row.try_get("version_floor").map_err(|_| malformed("a column is missing"))?;
    let floor = floor.ok_or(malformed("the arbiter has no version floor"))?;
    stamp(row, u64::try_from(floor).map_err(|_| malformed("a number is negative"))?)
}

/// Returns why the first row of a name was refused that is still missing.
pub(super) async fn refusal(
    reads: &Connections,
    new: &RootPointer,
) -> Result<CasOutcome, StoreError> {
    let floor = floor(reads).await?.value;
    let is_below = new.version <= floor;
    Ok(if is_below { CasOutcome::BelowFloor { floor } } else { CasOutcome::BelowGeneration })
}

/// Drops those of `rows` that are as given and within `terms`, and returns them.
pub(super) async fn run(
    swaps: &Connections,
    rows: Vec<DeletedRow>,
    terms: &DropTerms,
) -> Result<Vec<DeletedRow>, StoreError> {
    const ACTION: &str = "drop_roots";
    let failed = |error| unavailable(ACTION, error);
    let column = |of: fn(&DeletedRow) -> String| rows.iter().map(of).collect::<Vec<_>>();
    let round = terms.round.as_ref();
    let statement = Statement::new(DROP)
        .texts(column(|row| row.address.owner.to_string()))
        .texts(column(|row| row.address.name.to_string()))
        .texts(column(|row| row.pointer.root.to_string()))
        .texts(column(|row| row.pointer.version.to_string()))
        .texts(column(|row| row.pointer.generation.to_string()))
        .number(signed(terms.age)?)
        .text(round.map_or("", |round| &round.id))
        .text(round.map_or("", |round| &round.master))
        .text(swaps.server.commit);
    let mut connection = swaps.acquire().await.map_err(failed)?;
    let sent = statement.fetch(&mut connection, swaps.settings());
    let Ok(answered) = tokio::time::timeout(ANSWER, sent).await else {
        abandon(connection);
        return Err(unavailable(ACTION, "no answer in time"));
    };
    let answered = answered.map_err(failed)?;
    let missing = |_| malformed("a column is missing");
    let mut dropped = std::collections::BTreeSet::new();
    for row in &answered {
        if !row.try_get::<bool, _>("is_durable").map_err(missing)? {
            return Err(unavailable(ACTION, PostgresError::SettingsNotKept));
        }
        let text = |column| row.try_get::<Option<String>, _>(column).map_err(missing);
        dropped.extend(text("owner_id")?.zip(text("bucket")?));
    }
    let is_dropped = |row: &DeletedRow| {
        dropped.contains(&(row.address.owner.to_string(), row.address.name.to_string()))
    };
    Ok(rows.into_iter().filter(is_dropped).collect())
}
