//! Root pointers in the table `bucket_roots`.

use std::time::Duration;

use async_trait::async_trait;
use fula_core::{
    BucketAddress, BucketName, OwnerId, RootPointer, RootPointerStore, StoreError, WriterId,
    error::SwapError,
    root::{CasOutcome, DeletedRow, DropTerms, GlobalName, NewRoot, RootCounts, RootRow, Stamped},
};
use sqlx::{Row, pool::PoolConnection, postgres::PgRow};

use super::{
    ANSWER, PostgresError, SWAP_KEPT, drops, generation, malformed,
    rows::rows_of,
    sessions::{Connections, abandon, into_sqlx},
    stamp,
    statement::{Statement, durable},
    unavailable,
};

/// Reads rows by owner and name. One row of nulls carries the mark when there are none.
const GET: &str = "SELECT arbiter, position, now_ms, roots.* FROM fula_mark LEFT JOIN (
    SELECT owner_id, bucket, root_cid, version, generation, bucket_id, created_ms, deleted_ms,
        global_name, claim
    FROM bucket_roots
    WHERE (owner_id, bucket) IN (SELECT * FROM unnest($1::TEXT[], $2::TEXT[]))) AS roots ON true";

/// Lists rows of one owner after a name, in byte order whatever the collation of the database.
const LIST: &str = "SELECT arbiter, position, now_ms, roots.* FROM fula_mark LEFT JOIN (
    SELECT owner_id, bucket, root_cid, version, generation, bucket_id, created_ms, deleted_ms,
        global_name, claim
    FROM bucket_roots
    WHERE owner_id = $1 AND convert_to(bucket, 'UTF8') > convert_to($2, 'UTF8')
    ORDER BY convert_to(bucket, 'UTF8') LIMIT $3) AS roots ON true";

/// Lists rows of all owners after an address.
const SCAN: &str = "SELECT arbiter, position, now_ms, roots.* FROM fula_mark LEFT JOIN (
    SELECT owner_id, bucket, root_cid, version, generation, bucket_id, created_ms, deleted_ms,
        global_name, claim
    FROM bucket_roots
    WHERE convert_to(owner_id, 'UTF8') > convert_to($1, 'UTF8')
        OR owner_id = $1 AND convert_to(bucket, 'UTF8') > convert_to($2, 'UTF8')
    ORDER BY convert_to(owner_id, 'UTF8'), convert_to(bucket, 'UTF8') LIMIT $3) AS roots ON true";

const FIND: &str = "SELECT arbiter, position, now_ms, roots.* FROM fula_mark LEFT JOIN (
    SELECT owner_id, bucket, root_cid, version, generation, bucket_id, created_ms, deleted_ms,
        global_name, claim
    FROM bucket_roots WHERE global_name = $1) AS roots ON true";

/// Counts the live rows of one owner, and those of them that hold their global name.
const COUNT: &str = "SELECT arbiter, position, now_ms, buckets, global_names FROM fula_mark, (
    SELECT count(*) AS buckets, count(global_name) AS global_names
    FROM bucket_roots WHERE owner_id = $1 AND deleted_ms IS NULL) AS counted";

/// The part of a swap that both forms share, up to the condition on durability.
macro_rules! swap {
    () => {
        "UPDATE bucket_roots SET root_cid = $3, version = $4, generation = $5, bucket_id = $6,
        created_ms = $7, deleted_ms = $8, updated_at = now(), claim = NULL,
        global_name = CASE $9
            WHEN 'keep' THEN global_name WHEN 'release' THEN NULL WHEN 'require' THEN bucket
            ELSE CASE WHEN EXISTS (SELECT 1 FROM bucket_roots AS other
                WHERE other.global_name = $2 AND other.owner_id <> $1) THEN NULL ELSE bucket END
            END
    WHERE owner_id = $1 AND bucket = $2 AND root_cid = $11 AND version = $12 AND generation = $13"
    };
}

/// Replaces a row that is still as expected.
const SWAP: &str = concat!(
    "WITH swapped AS (
    ",
    swap!(),
    " AND ",
    durable!("$10"),
    " RETURNING 1)
    SELECT arbiter, position, now_ms, (SELECT count(*) FROM swapped) AS swapped, ",
    durable!("$10"),
    " AS is_durable FROM fula_mark"
);

/// Does the same for a new root that relies on a lease of its master. The record with the lease is locked
/// until the swap is visible, so a collector that takes the lease away sees the new root afterwards.
const SWAP_WITH_LEASE: &str = concat!(
    "WITH lease AS (SELECT 1 FROM fula_directory WHERE kind = 'masters' AND name = $14
        AND position($15 in convert_from(value, 'UTF8')) > 0 FOR SHARE),
    swapped AS (
    ",
    swap!(),
    " AND EXISTS (SELECT 1 FROM lease) AND ",
    durable!("$10"),
    " RETURNING 1)
    SELECT arbiter, position, now_ms, (SELECT count(*) FROM swapped) AS swapped, ",
    durable!("$10"),
    " AS is_durable FROM fula_mark"
);

/// Writes the first row of a name, unless its generation is below that of the arbiter or its version is not
/// above the version floor. The row of both is locked until the new row is visible, so who raises one of them
/// sees the new row afterwards.
const CREATE: &str = concat!(
    "WITH current AS (SELECT generation, version_floor FROM fula_arbiter WHERE id = 1 FOR SHARE),
    swapped AS (
    INSERT INTO bucket_roots (owner_id, bucket, root_cid, version, generation, bucket_id,
        created_ms, deleted_ms, global_name)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, CASE $9
        WHEN 'keep' THEN NULL WHEN 'release' THEN NULL WHEN 'require' THEN $2
        ELSE CASE WHEN EXISTS (SELECT 1 FROM bucket_roots AS other WHERE other.global_name = $2)
            THEN NULL ELSE $2 END
        END
    WHERE EXISTS (SELECT 1 FROM current
        WHERE current.generation <= $5 AND current.version_floor < $4) AND ",
    durable!("$10"),
    " ON CONFLICT (owner_id, bucket) DO NOTHING RETURNING 1)
    SELECT arbiter, position, now_ms, (SELECT count(*) FROM swapped) AS swapped, ",
    durable!("$10"),
    " AS is_durable FROM fula_mark"
);

/// Replaces a row without comparing it.
const OVERWRITE: &str = concat!(
    "WITH swapped AS (
    INSERT INTO bucket_roots (owner_id, bucket, root_cid, version, generation, bucket_id,
        created_ms, deleted_ms, global_name)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, CASE $9
        WHEN 'keep' THEN NULL WHEN 'release' THEN NULL WHEN 'require' THEN $2
        ELSE CASE WHEN EXISTS (SELECT 1 FROM bucket_roots AS other
            WHERE other.global_name = $2 AND other.owner_id <> $1) THEN NULL ELSE $2 END
        END
    WHERE ",
    durable!("$10"),
    " ON CONFLICT (owner_id, bucket) DO UPDATE SET root_cid = excluded.root_cid,
        version = excluded.version, generation = excluded.generation,
        bucket_id = excluded.bucket_id, created_ms = excluded.created_ms,
        deleted_ms = excluded.deleted_ms, updated_at = now(),
        global_name = CASE WHEN $9 = 'keep' THEN bucket_roots.global_name
            ELSE excluded.global_name END
    RETURNING 1)
    SELECT arbiter, position, now_ms, (SELECT count(*) FROM swapped) AS swapped, ",
    durable!("$10"),
    " AS is_durable FROM fula_mark"
);

/// Reads one row, once it is beyond a version.
const WAIT: &str = "SELECT * FROM fula_wait_root($1, $2, $3, $4::INT)";

/// Asks to go first. A claim is only advice, so this transaction alone does not wait for the disk.
const CLAIM: &str = "UPDATE bucket_roots SET claim = $3 WHERE owner_id = $1 AND bucket = $2
    AND set_config('synchronous_commit', 'off', true) = 'off'";

/// Number of times that a swap is sent again after the server reported that it was not applied.
const TRIES: usize = 8;

/// Root pointers that several masters share.
#[derive(Clone, Debug)]
pub struct PostgresRoots {
    reads: Connections,
    swaps: Connections,
    /// Whether a swap compares the row that it replaces.
    compares: bool,
    /// Whether the server can wait for a row.
    can_wait: bool,
}

/// A swap as it is sent.
#[derive(Clone, Debug)]
struct Swap {
    bucket: BucketAddress,
    expected: Option<RootPointer>,
    new: NewRoot,
    compares: bool,
    /// Required value of `synchronous_commit`.
    commit: &'static str,
}

/// The answer of the server to a swap.
enum Sent {
    Applied(Stamped<()>),
    Refused,
    NameTaken,
    /// The swap was certainly not applied, and another attempt may succeed.
    Again(sqlx::Error),
    NotApplied(sqlx::Error),
    Unknown(StoreError),
}

impl PostgresRoots {
    pub(super) fn new(
        reads: Connections,
        swaps: Connections,
        compares: bool,
        can_wait: bool,
    ) -> Self {
        Self { reads, swaps, compares, can_wait }
    }

    async fn get(
        &self,
        names: &[BucketAddress],
    ) -> Result<Stamped<Vec<Option<RootRow>>>, StoreError> {
        let (owners, buckets): (Vec<String>, Vec<String>) =
            names.iter().map(|bucket| (bucket.owner.to_string(), bucket.name.to_string())).unzip();
        let statement = Statement::new(GET).texts(owners).texts(buckets);
        let found = rows_of(&self.reads.read("get_roots", &statement).await?)?;
        let value = names
            .iter()
            .map(|bucket| found.value.iter().find(|row| row.address == *bucket).cloned());
        Ok(Stamped { value: value.collect(), time: found.time, mark: found.mark })
    }

    /// Sends a swap. It is not cancelled when the caller goes away or stops waiting.
    async fn send(&self, swap: &Swap) -> Sent {
        let connection = match self.swaps.acquire().await {
            Ok(connection) => connection,
            Err(error) => return Sent::NotApplied(error),
        };
        let sent = tokio::spawn(run(connection, swap.clone(), self.swaps.settings()));
        match tokio::time::timeout(ANSWER, sent).await {
            Ok(Ok(Sent::Again(error))) => {
                self.swaps.server.notice(&error);
                Sent::Again(error)
            }
            Ok(Ok(sent)) => sent,
            Ok(Err(stopped)) => Sent::Unknown(unavailable("cas_root", stopped)),
            Err(late) => Sent::Unknown(unavailable("cas_root", late)),
        }
    }
}

async fn run(
    mut connection: PoolConnection<sqlx::Postgres>,
    swap: Swap,
    settings: Option<&'static str>,
) -> Sent {
    let sent = swap.statement();
    match tokio::time::timeout(SWAP_KEPT, sent.fetch(&mut connection, settings)).await {
        Ok(Ok(rows)) => match rows.first() {
            Some(row) => answer_of(row),
            None => Sent::Unknown(malformed("a swap was not answered")),
        },
        Ok(Err(error)) => swap.judge(error),
        Err(late) => {
            abandon(connection);
            Sent::Unknown(unavailable("cas_root", late))
        }
    }
}

/// Reads the outcome of a swap. A swap that could not be durable was not carried out.
fn answer_of(row: &PgRow) -> Sent {
    let swapped: Result<i64, _> = row.try_get("swapped");
    let is_durable: Result<bool, _> = row.try_get("is_durable");
    match (stamp(row, ()), swapped, is_durable) {
        (Ok(stamped), Ok(1), Ok(true)) => Sent::Applied(stamped),
        (_, Ok(0), Ok(true)) => Sent::Refused,
        (_, Ok(0), Ok(false)) => Sent::NotApplied(into_sqlx(PostgresError::SettingsNotKept)),
        (Err(error), ..) => Sent::Unknown(error),
        (_, Err(error), _) | (.., Err(error)) => Sent::Unknown(unavailable("cas_root", error)),
        (_, Ok(_), Ok(_)) => Sent::Unknown(unavailable("cas_root", PostgresError::SettingsNotKept)),
    }
}

impl Swap {
    fn statement(&self) -> Statement {
        let statement = match self.expected {
            _ if !self.compares => OVERWRITE,
            Some(_) if self.new.lease.is_some() => SWAP_WITH_LEASE,
            Some(_) => SWAP,
            None => CREATE,
        };
        let global_name = match self.new.global_name {
            GlobalName::Keep => "keep",
            GlobalName::ClaimIfFree => "claim",
            GlobalName::Require => "require",
            GlobalName::Release => "release",
        };
        let pointer = &self.new.pointer;
        let statement = Statement::new(statement)
            .text(self.bucket.owner.to_string())
            .text(self.bucket.name.as_str())
            .text(pointer.root.to_string())
            .number(signed(pointer.version))
            .number(signed(pointer.generation))
            .text(self.new.bucket_id.to_string())
            .number(signed(self.new.created))
            .number(self.new.deleted.map(signed))
            .text(global_name)
            .text(self.commit);
        let statement = match self.expected {
            Some(old) if self.compares => statement
                .text(old.root.to_string())
                .number(signed(old.version))
                .number(signed(old.generation)),
            _ => return statement,
        };
        match &self.new.lease {
            Some(lease) => statement.text(lease.master.clone()).text(lease.id.clone()),
            None => statement,
        }
    }

    /// Determines what an error of the server proves. Only an error from before the commit proves anything.
    fn judge(&self, error: sqlx::Error) -> Sent {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        match code.as_deref() {
            // Another owner holds the global name. This is final if the name was required; otherwise the
            // next attempt sees it.
            Some("23505") if self.new.global_name == GlobalName::Require => Sent::NameTaken,
            // Serialization failure, deadlock, or lock timeout; or the session is not the one in which the
            // statement was prepared.
            Some("23505" | "40001" | "40P01" | "55P03" | "26000" | "42P05") => Sent::Again(error),
            // Read-only, starting up, too many connections; wrong SQL or no permission.
            Some("25006" | "57P03" | "53300") => Sent::NotApplied(error),
            Some(code) if code.starts_with("42") || code.starts_with("23") => {
                Sent::NotApplied(error)
            }
            _ => Sent::Unknown(unavailable("cas_root", error)),
        }
    }
}

/// Converts a number to a signed one. Versions, generations and times stay far below the limit.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[async_trait]
impl RootPointerStore for PostgresRoots {
    async fn get_roots(
        &self,
        names: &[BucketAddress],
    ) -> Result<Stamped<Vec<Option<RootRow>>>, StoreError> {
        self.get(names).await
    }

    async fn cas_root(
        &self,
        bucket: &BucketAddress,
        expected: Option<RootPointer>,
        new: &NewRoot,
    ) -> Result<Stamped<CasOutcome>, SwapError> {
        let swap = Swap {
            bucket: bucket.clone(),
            expected,
            new: new.clone(),
            compares: self.compares,
            commit: self.swaps.server.commit,
        };
        let mut tries = 0;
        let outcome = loop {
            tries += 1;
            match self.send(&swap).await {
                Sent::Applied(Stamped { time, mark, .. }) => {
                    return Ok(Stamped { value: CasOutcome::Won, time, mark });
                }
                Sent::Refused => break None,
                Sent::NameTaken => break Some(CasOutcome::NameTaken),
                Sent::Again(_) if tries < TRIES => {
                    tokio::time::sleep(Duration::from_millis(5 << tries)).await;
                }
                Sent::Again(error) | Sent::NotApplied(error) => {
                    return Err(SwapError::NotSent(unavailable("cas_root", error)));
                }
                Sent::Unknown(error) => return Err(SwapError::Unknown(error)),
            }
        };
        // This is a separate statement, begun after the swap was refused, so it sees the winner.
        let current = self.get(std::slice::from_ref(bucket)).await.map_err(SwapError::NotSent)?;
        let Stamped { mut value, time, mark } = current;
        let current = value.pop().flatten();
        let is_as_expected = current.as_ref().map(|row| row.pointer) == expected;
        let value = match (outcome, current) {
            (Some(outcome), _) => outcome,
            // A row that is as expected was refused for another reason.
            (None, Some(_)) if is_as_expected => CasOutcome::LeaseBroken,
            (None, None) if is_as_expected => {
                drops::refusal(&self.reads, &new.pointer).await.map_err(SwapError::NotSent)?
            }
            (None, current) => CasOutcome::Conflict { current },
        };
        Ok(Stamped { value, time, mark })
    }

    fn can_drop_roots(&self) -> bool {
        self.compares
    }

    async fn drop_roots(
        &self,
        rows: Vec<DeletedRow>,
        terms: &DropTerms,
    ) -> Result<Vec<DeletedRow>, StoreError> {
        if self.compares { drops::run(&self.swaps, rows, terms).await } else { Ok(Vec::new()) }
    }

    async fn version_floor(&self) -> Result<Stamped<u64>, StoreError> {
        drops::floor(&self.reads).await
    }

    async fn generation(&self) -> Result<Stamped<u64>, StoreError> {
        generation::read(&self.reads).await
    }

    async fn raise_generation(&self, generation: u64) -> Result<Stamped<()>, StoreError> {
        generation::raise(&self.swaps, generation).await
    }

    async fn wait_root(
        &self,
        bucket: &BucketAddress,
        beyond: u64,
        patience: Duration,
    ) -> Result<Stamped<Option<RootRow>>, StoreError> {
        let found = if self.can_wait && !self.reads.server.is_shared() {
            let beyond = i64::try_from(beyond).map_err(|_| malformed("version out of range"))?;
            let patience = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
            let statement = Statement::new(WAIT)
                .text(bucket.owner.to_string())
                .text(bucket.name.as_str())
                .number(beyond)
                .number(i64::from(patience));
            rows_of(&self.reads.read("wait_root", &statement).await?)?
        } else {
            let found = self.get(std::slice::from_ref(bucket)).await?;
            let value = found.value.into_iter().flatten().collect();
            Stamped { value, time: found.time, mark: found.mark }
        };
        let value = found.value.into_iter().next();
        Ok(Stamped { value, time: found.time, mark: found.mark })
    }

    async fn post_claim(&self, bucket: &BucketAddress, writer: WriterId) -> Result<(), StoreError> {
        let statement = Statement::new(CLAIM)
            .text(bucket.owner.to_string())
            .text(bucket.name.as_str())
            .text(writer.to_string());
        self.reads.read("post_claim", &statement).await.map(drop)
    }

    async fn list_roots(
        &self,
        owner: OwnerId,
        after: Option<&BucketName>,
        limit: usize,
    ) -> Result<Stamped<Vec<RootRow>>, StoreError> {
        let after = after.map(BucketName::as_str).unwrap_or_default();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let statement = Statement::new(LIST).text(owner.to_string()).text(after).number(limit);
        let mut found = rows_of(&self.reads.read("list_roots", &statement).await?)?;
        // The join need not keep the order.
        found.value.sort_by(|a, b| a.address.cmp(&b.address));
        Ok(found)
    }

    async fn scan_roots(
        &self,
        after: Option<&BucketAddress>,
        limit: usize,
    ) -> Result<Stamped<Vec<RootRow>>, StoreError> {
        let (owner, bucket) = after
            .map(|bucket| (bucket.owner.to_string(), bucket.name.as_str()))
            .unwrap_or_default();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let statement = Statement::new(SCAN).text(owner).text(bucket).number(limit);
        let mut found = rows_of(&self.reads.read("scan_roots", &statement).await?)?;
        found.value.sort_by(|a, b| a.address.cmp(&b.address));
        Ok(found)
    }

    async fn count_roots(&self, owner: OwnerId) -> Result<Stamped<RootCounts>, StoreError> {
        let statement = Statement::new(COUNT).text(owner.to_string());
        let rows = self.reads.read("count_roots", &statement).await?;
        let row = rows.first().ok_or(malformed("the arbiter has no mark"))?;
        let count = |column| {
            let count: Result<i64, _> = row.try_get(column);
            let count = count.map_err(|_| malformed("a column is missing"))?;
            u64::try_from(count).map_err(|_| malformed("a number is negative"))
        };
        let (buckets, global_names) = (count("buckets")?, count("global_names")?);
        stamp(row, RootCounts { buckets, global_names })
    }

    async fn find_bucket(
        &self,
        bucket: &BucketName,
    ) -> Result<Stamped<Option<RootRow>>, StoreError> {
        let statement = Statement::new(FIND).text(bucket.as_str());
        let rows = self.reads.read("find_bucket", &statement).await?;
        let Stamped { mut value, time, mark } = rows_of(&rows)?;
        Ok(Stamped { value: value.pop(), time, mark })
    }
}
