//! Directory records in the table `fula_directory`.

use async_trait::async_trait;
use bytes::Bytes;
use fula_core::{
    Directory, StoreError,
    directory::{Entry, NAME_BYTES_MAX, Table, VALUE_BYTES_MAX, WriteOutcome},
};
use sqlx::{PgPool, Row, postgres::PgRow};

use super::{ANSWER, abandon, malformed, read, unavailable};

const READ: &str = "SELECT name, version, value FROM fula_directory WHERE kind = $1 AND name = $2";

const LIST: &str = "SELECT name, version, value FROM fula_directory
    WHERE kind = $1 AND convert_to(name, 'UTF8') > convert_to($2, 'UTF8') AND value IS NOT NULL
    ORDER BY convert_to(name, 'UTF8') LIMIT $3";

const FIRST: &str = "INSERT INTO fula_directory (kind, name, version, value)
    VALUES ($1, $2, $4, $3) ON CONFLICT (kind, name) DO NOTHING";

const NEXT: &str = "UPDATE fula_directory SET value = $3, version = $4
    WHERE kind = $1 AND name = $2 AND version = $4 - 1";

/// A directory that several masters share.
#[derive(Clone, Debug)]
pub struct PostgresDirectory {
    reads: PgPool,
    writes: PgPool,
}

impl PostgresDirectory {
    pub(super) fn new(reads: PgPool, writes: PgPool) -> Self {
        Self { reads, writes }
    }
}

fn entry(row: &PgRow) -> Result<(String, Entry), StoreError> {
    let wrong = |_| malformed("a column of the directory is missing");
    let name = row.try_get("name").map_err(wrong)?;
    let version: i64 = row.try_get("version").map_err(wrong)?;
    let value: Option<Vec<u8>> = row.try_get("value").map_err(wrong)?;
    let version = u64::try_from(version).map_err(|_| malformed("negative version"))?;
    Ok((name, Entry { version, value: value.map(Bytes::from) }))
}

#[async_trait]
impl Directory for PostgresDirectory {
    async fn read(&self, table: Table, name: &str) -> Result<Option<Entry>, StoreError> {
        let rows = read(&self.reads, "read", || sqlx::query(READ).bind(table.name()).bind(name));
        Ok(rows.await?.first().map(entry).transpose()?.map(|(_, entry)| entry))
    }

    async fn write(
        &self,
        table: Table,
        name: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<WriteOutcome, StoreError> {
        let limits =
            [(name.len(), NAME_BYTES_MAX), (value.as_ref().map_or(0, Bytes::len), VALUE_BYTES_MAX)];
        for (len, max) in limits {
            if len > max {
                return Err(StoreError::TooLarge { len, max });
            }
        }
        let next = i64::try_from(expected + 1).map_err(|_| malformed("version out of range"))?;
        let mut connection =
            self.writes.acquire().await.map_err(|error| unavailable("write", error))?;
        let query = sqlx::query(if expected == 0 { FIRST } else { NEXT })
            .bind(table.name())
            .bind(name)
            .bind(value.as_deref())
            .bind(next);
        let done = match tokio::time::timeout(ANSWER, query.execute(&mut *connection)).await {
            Ok(done) => done.map_err(|error| unavailable("write", error))?,
            Err(late) => {
                abandon(connection);
                return Err(unavailable("write", late));
            }
        };
        if done.rows_affected() == 1 {
            return Ok(WriteOutcome::Done(expected + 1));
        }
        drop(connection);
        Ok(WriteOutcome::Conflict(self.read(table, name).await?))
    }

    async fn list(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Entry)>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let after = after.unwrap_or_default();
        let rows = read(&self.reads, "list", || {
            sqlx::query(LIST).bind(table.name()).bind(after).bind(limit)
        });
        rows.await?.iter().map(entry).collect()
    }
}
