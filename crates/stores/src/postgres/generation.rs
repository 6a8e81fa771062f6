//! The generation of the arbiter and of its rows (docs/adr/0042).

use fula_core::{StoreError, root::Stamped};
use sqlx::{Row, postgres::PgRow};

use super::{
    ANSWER, PostgresError, malformed,
    packs::signed,
    sessions::{Connections, abandon},
    stamp,
    statement::{Statement, durable},
    unavailable,
};

/// Reads the generation of the arbiter.
const GENERATION: &str = "SELECT arbiter, position, now_ms,
    (SELECT generation FROM fula_arbiter WHERE id = 1) AS generation FROM fula_mark";

/// Raises the generation of the arbiter.
const RAISE: &str = concat!(
    "WITH raised AS (UPDATE fula_arbiter SET generation = greatest(generation, $1)
    WHERE id = 1 AND ",
    durable!("$2"),
    " RETURNING 1)
    SELECT arbiter, position, now_ms, (SELECT count(*) FROM raised) AS raised, NULL::TEXT AS owner_id, NULL::TEXT AS bucket FROM fula_mark"
);

/// Raises the generation of one page of rows, in the order of the primary key. Returns the last one of the page.
const RAISE_ROWS: &str = concat!(
    "WITH page AS (SELECT owner_id, bucket FROM bucket_roots WHERE (owner_id, bucket) > ($3, $4)
        ORDER BY owner_id, bucket LIMIT 500),
    raised AS (UPDATE bucket_roots AS r SET generation = $1 FROM page
        WHERE r.owner_id = page.owner_id AND r.bucket = page.bucket AND r.generation < $1 AND ",
    durable!("$2"),
    " RETURNING 1)
    SELECT arbiter, position, now_ms, (CASE WHEN ",
    durable!("$2"),
    " THEN 1 ELSE 0 END)::BIGINT AS raised, owner_id, bucket
    FROM fula_mark LEFT JOIN (SELECT owner_id, bucket FROM page
        ORDER BY owner_id DESC, bucket DESC LIMIT 1) AS last ON true"
);

/// Reason why nothing is read from tables that were emptied.
const NO_GENERATION: &str = "the arbiter's tables were emptied: a restore may be under way";

/// Returns the generation of the arbiter.
pub(super) async fn read(reads: &Connections) -> Result<Stamped<u64>, StoreError> {
    let rows = reads.read("generation", &Statement::new(GENERATION)).await?;
    let row = rows.first().ok_or(malformed("the arbiter has no mark"))?;
    let generation: Option<i64> =
        row.try_get("generation").map_err(|_| malformed("a column is missing"))?;
    let generation = generation.ok_or_else(|| unavailable("generation", NO_GENERATION))?;
    stamp(row, u64::try_from(generation).map_err(|_| malformed("a number is negative"))?)
}

/// Raises the generation of the arbiter, and then of every row that has a lower one.
pub(super) async fn raise(swaps: &Connections, generation: u64) -> Result<Stamped<()>, StoreError> {
    let (generation, commit) = (signed(generation)?, swaps.server.commit);
    let raise = Statement::new(RAISE).number(generation).text(commit);
    send(swaps, &raise).await?;
    let (mut owner, mut bucket) = (String::new(), String::new());
    loop {
        let page = Statement::new(RAISE_ROWS).number(generation).text(commit);
        let row = send(swaps, &page.text(owner).text(bucket)).await?;
        let text = |column| row.try_get::<Option<String>, _>(column);
        let last = text("owner_id").and_then(|owner| Ok(owner.zip(text("bucket")?)));
        match last.map_err(|_| malformed("a column is missing"))? {
            Some(last) => (owner, bucket) = last,
            None => return stamp(&row, ()),
        }
    }
}

/// Sends a statement that raises generations, and returns its row.
async fn send(swaps: &Connections, statement: &Statement) -> Result<PgRow, StoreError> {
    const ACTION: &str = "raise_generation";
    let failed = |error| unavailable(ACTION, error);
    let mut connection = swaps.acquire().await.map_err(failed)?;
    let sent = statement.fetch(&mut connection, swaps.settings());
    let Ok(rows) = tokio::time::timeout(ANSWER, sent).await else {
        abandon(connection);
        return Err(unavailable(ACTION, "no answer in time"));
    };
    let rows = rows.map_err(failed)?;
    let row = rows.into_iter().next().ok_or(malformed("the arbiter has no mark"))?;
    let raised: i64 = row.try_get("raised").map_err(|_| malformed("a column is missing"))?;
    if raised == 1 { Ok(row) } else { Err(unavailable(ACTION, PostgresError::SettingsNotKept)) }
}
