//! Metadata records in the table `fula_directory`.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use fula_core::{
    MetadataStore, StoreError,
    metadata::{Entry, NAME_BYTES_MAX, Table, VALUE_BYTES_MAX, WriteOutcome},
};
use sqlx::{Row, postgres::PgRow};

use super::{
    ANSWER, PostgresError, malformed,
    sessions::{Connections, abandon},
    statement::{Statement, durable},
    unavailable,
};

/// Tests whether the record exists that every arbiter in use has: the fingerprint of the sealing key. If it
/// existed before and is missing now, the tables were emptied, as a restore does before it fills them.
macro_rules! in_use {
    () => {
        "EXISTS (SELECT 1 FROM fula_directory WHERE kind = 'modes' AND name = 'secrets-key')"
    };
}

/// Reads records. Values are sent as hex digits, which do not depend on settings of the session. One row
/// always comes.
const READ: &str = concat!(
    "SELECT in_use, name, version, encode(value, 'hex') AS value FROM (SELECT ",
    in_use!(),
    " AS in_use) AS arbiter LEFT JOIN fula_directory ON kind = $1 AND name = $2"
);

const LIST: &str = concat!(
    "SELECT in_use, name, version, encode(value, 'hex') AS value FROM (SELECT ",
    in_use!(),
    " AS in_use) AS arbiter LEFT JOIN (SELECT * FROM fula_directory
    WHERE kind = $1 AND convert_to(name, 'UTF8') > convert_to($2, 'UTF8') AND value IS NOT NULL
    ORDER BY convert_to(name, 'UTF8') LIMIT $3) AS found ON true"
);

/// Writes the first version of a record. With 1 for `$5` it writes nothing into tables that were emptied.
const FIRST: &str = concat!(
    "WITH written AS (
    INSERT INTO fula_directory (kind, name, version, value) SELECT $1, $2, 1, $3 WHERE ",
    durable!("$4"),
    " AND ($5 = 0 OR ",
    in_use!(),
    ") ON CONFLICT (kind, name) DO NOTHING RETURNING 1)
    SELECT (SELECT count(*) FROM written) AS written, ",
    durable!("$4"),
    " AS is_durable"
);

const NEXT: &str = concat!(
    "WITH written AS (
    UPDATE fula_directory SET value = $3, version = $5
    WHERE kind = $1 AND name = $2 AND version = $5 - 1 AND ",
    durable!("$4"),
    " RETURNING 1)
    SELECT (SELECT count(*) FROM written) AS written, ",
    durable!("$4"),
    " AS is_durable"
);

/// The reason why tables that were emptied are not read.
const EMPTIED: &str = "the arbiter's tables were emptied: a restore may be under way";

/// A metadata store that several masters share.
#[derive(Clone, Debug)]
pub struct PostgresMetadata {
    reads: Connections,
    writes: Connections,
    /// Whether the arbiter was ever found in use. Then its tables are never taken for those of a new one.
    was_in_use: Arc<AtomicBool>,
}

impl PostgresMetadata {
    pub(super) fn new(reads: Connections, writes: Connections) -> Self {
        Self { reads, writes, was_in_use: Arc::default() }
    }

    /// Returns the records in the rows of a read, unless the tables were emptied in the meantime.
    fn entries(
        &self,
        action: &'static str,
        rows: &[PgRow],
    ) -> Result<Vec<(String, Entry)>, StoreError> {
        let wrong = |_| malformed("a column of the directory is missing");
        for row in rows {
            if row.try_get("in_use").map_err(wrong)? {
                self.was_in_use.store(true, Ordering::Relaxed);
            } else if self.was_in_use.load(Ordering::Relaxed) {
                return Err(unavailable(action, EMPTIED));
            }
        }
        let is_there = |row: &&PgRow| {
            row.try_get::<Option<String>, _>("name").is_ok_and(|name| name.is_some())
        };
        rows.iter().filter(is_there).map(entry).collect()
    }
}

fn entry(row: &PgRow) -> Result<(String, Entry), StoreError> {
    let wrong = |_| malformed("a column of the directory is missing");
    let name = row.try_get("name").map_err(wrong)?;
    let version: i64 = row.try_get("version").map_err(wrong)?;
    let value: Option<String> = row.try_get("value").map_err(wrong)?;
    let value = value.map(hex::decode).transpose();
    let value = value.map_err(|_| malformed("a value is not in hex digits"))?;
    let version = u64::try_from(version).map_err(|_| malformed("negative version"))?;
    Ok((name, Entry { version, value: value.map(Bytes::from) }))
}

#[async_trait]
impl MetadataStore for PostgresMetadata {
    async fn read(&self, table: Table, name: &str) -> Result<Option<Entry>, StoreError> {
        let statement = Statement::new(READ).text(table.name()).text(name);
        let rows = self.reads.read("read", &statement).await?;
        Ok(self.entries("read", &rows)?.into_iter().next().map(|(_, entry)| entry))
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
        let statement = Statement::new(if expected == 0 { FIRST } else { NEXT })
            .text(table.name())
            .text(name)
            .bytes(value.as_deref())
            .text(self.writes.server.commit);
        let guarded = i64::from(self.was_in_use.load(Ordering::Relaxed));
        let statement = statement.number(if expected == 0 { guarded } else { next });
        let sent = statement.fetch(&mut connection, self.writes.settings());
        let rows = match tokio::time::timeout(ANSWER, sent).await {
            Ok(rows) => rows.map_err(|error| {
                self.writes.server.notice(&error);
                unavailable("write", error)
            })?,
            Err(late) => {
                abandon(connection);
                return Err(unavailable("write", late));
            }
        };
        drop(connection);
        let row = rows.first().ok_or_else(|| malformed("a write was not answered"))?;
        let wrong = |_| malformed("a write was not answered");
        let written: i64 = row.try_get("written").map_err(wrong)?;
        if !row.try_get::<bool, _>("is_durable").map_err(wrong)? {
            return Err(unavailable("write", PostgresError::SettingsNotKept));
        }
        if written == 1 {
            return Ok(WriteOutcome::Done(expected + 1));
        }
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
        let statement = Statement::new(LIST).text(table.name()).text(after).number(limit);
        let rows = self.reads.read("list", &statement).await?;
        let mut found = self.entries("list", &rows)?;
        // The join need not keep the order.
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }
}
