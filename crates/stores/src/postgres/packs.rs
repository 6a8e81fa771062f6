//! The list of packs in the tables `fula_packs` and `fula_pack_list`.

use async_trait::async_trait;
use bytes::Bytes;
use fula_core::{
    PackDirectory, StoreError,
    in_memory::check_index,
    packs::{Added, DirectoryPage, PackEntry, PackId},
};
use sqlx::{Row, postgres::PgRow};

use super::{
    ANSWER, PostgresError, malformed,
    sessions::{Connections, abandon},
    statement::{Statement, durable},
    unavailable,
};

/// Adds an entry. The row of the counter is locked until the entry is visible, so entries become visible in
/// the order of their numbers. This commit does not wait for the disk, so that the lock is short; [`KEEP`] does.
const ADD: &str = "WITH counted AS (
    UPDATE fula_pack_list SET last = last + 1
    WHERE id = 1 AND min_generation <= $2 AND set_config('synchronous_commit', 'off', true) = 'off' RETURNING last),
    added AS (INSERT INTO fula_packs (seq, pack, generation, bytes, blocks)
    SELECT last, $1, $2, $3, $4 FROM counted RETURNING seq)
    SELECT seq FROM added";

/// Makes an entry durable, and says whether it is there: a crash of the server may have taken it away since it
/// was added. It changes nothing but has to write, because only a transaction that writes waits for the disk.
const KEEP: &str = concat!(
    "WITH kept AS (UPDATE fula_packs SET bytes = bytes WHERE seq = $1 AND pack = $2 AND ",
    durable!("$3"),
    " RETURNING 1)
    SELECT (SELECT count(*) FROM kept) AS kept, ",
    durable!("$3"),
    " AS is_durable"
);

/// Times an entry is added again that is gone before it was durable, or was merged meanwhile.
const TRIES: usize = 4;

/// Entries after a number, with the manifest in each row. One row always comes.
const READ: &str = "SELECT last, manifest_version, min_generation, encode(manifest, 'hex') AS manifest, seq, pack,
    generation, bytes, encode(blocks, 'hex') AS blocks
    FROM fula_pack_list LEFT JOIN (SELECT * FROM fula_packs WHERE seq > $1 ORDER BY seq LIMIT $2) AS packs
    ON true WHERE id = 1";

const REPLACE: &str = concat!(
    "WITH replaced AS (
    UPDATE fula_pack_list SET manifest = $2, manifest_version = manifest_version + 1,
        min_generation = greatest(min_generation, $5)
    WHERE id = 1 AND manifest_version = $1 AND ",
    durable!("$4"),
    " RETURNING 1),
    removed AS (DELETE FROM fula_packs WHERE seq <= $3 AND EXISTS (SELECT 1 FROM replaced))
    SELECT (SELECT count(*) FROM replaced) AS replaced, ",
    durable!("$4"),
    " AS is_durable"
);

/// Why nothing is read from tables that were emptied.
const EMPTIED: &str = "the list of packs was emptied: a restore may be under way";

/// A list of packs that several masters share.
#[derive(Clone, Debug)]
pub struct PostgresPacks {
    reads: Connections,
    /// Of its own: entries that wait for a synchronous replica keep neither reads nor swaps from theirs.
    writes: Connections,
}

impl PostgresPacks {
    pub(super) fn new(reads: Connections, writes: Connections) -> Self {
        Self { reads, writes }
    }

    /// Sends a statement that writes, and returns its row.
    async fn write(
        &self,
        action: &'static str,
        statement: &Statement,
    ) -> Result<Option<PgRow>, StoreError> {
        let failed = |error| unavailable(action, error);
        let mut connection = self.writes.acquire().await.map_err(failed)?;
        let sent = statement.fetch(&mut connection, self.writes.settings());
        match tokio::time::timeout(ANSWER, sent).await {
            Ok(rows) => {
                let rows = rows.map_err(|error| {
                    self.writes.server.notice(&error);
                    unavailable(action, error)
                })?;
                Ok(rows.into_iter().next())
            }
            Err(late) => {
                abandon(connection);
                Err(unavailable(action, late))
            }
        }
    }

    /// Sends a statement with a condition that it is durable; returns whether it changed a row.
    async fn write_durably(
        &self,
        action: &'static str,
        statement: Statement,
        changed: &'static str,
    ) -> Result<bool, StoreError> {
        self.send_durably(action, &statement.text(self.writes.server.commit), changed).await
    }

    /// Does the same with a statement that is complete.
    async fn send_durably(
        &self,
        action: &'static str,
        statement: &Statement,
        changed: &'static str,
    ) -> Result<bool, StoreError> {
        let unanswered = || malformed("a write was not answered");
        let row = self.write(action, statement).await?.ok_or_else(unanswered)?;
        if !row.try_get::<bool, _>("is_durable").map_err(|_| unanswered())? {
            return Err(unavailable(action, PostgresError::SettingsNotKept));
        }
        Ok(number(&row, changed)? == 1)
    }
}

pub(super) fn signed(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| malformed("a number is out of range"))
}

fn number(row: &PgRow, column: &str) -> Result<u64, StoreError> {
    let number: i64 =
        row.try_get(column).map_err(|_| malformed("a column of the list of packs is missing"))?;
    u64::try_from(number).map_err(|_| malformed("a number is negative"))
}

fn bytes(row: &PgRow, column: &str) -> Result<Bytes, StoreError> {
    let text: Option<String> =
        row.try_get(column).map_err(|_| malformed("a column of the list of packs is missing"))?;
    let bytes = hex::decode(text.unwrap_or_default());
    Ok(bytes.map_err(|_| malformed("a value is not in hex digits"))?.into())
}

/// Reads one entry; `None` where the join found none.
fn entry(row: &PgRow) -> Result<Option<(u64, PackEntry)>, StoreError> {
    let id: Option<String> =
        row.try_get("pack").map_err(|_| malformed("a column of the list of packs is missing"))?;
    let Some(id) = id else { return Ok(None) };
    let mut pack = [0; 16];
    hex::decode_to_slice(id, &mut pack).map_err(|_| malformed("the name of a pack is none"))?;
    let entry = PackEntry {
        id: PackId(pack),
        generation: number(row, "generation")?,
        bytes: number(row, "bytes")?,
        index: bytes(row, "blocks")?,
    };
    Ok(Some((number(row, "seq")?, entry)))
}

#[async_trait]
impl PackDirectory for PostgresPacks {
    async fn add(&self, pack: &PackEntry) -> Result<Added, StoreError> {
        check_index(&pack.index)?;
        let add = Statement::new(ADD)
            .text(pack.id.to_string())
            .number(signed(pack.generation)?)
            .number(signed(pack.bytes)?)
            .bytes(Some(&pack.index));
        for _ in 0..TRIES {
            let Some(row) = self.write("add_pack", &add).await? else {
                let min_generation = self.read(u64::MAX >> 1, 0).await?.min_generation;
                if pack.generation < min_generation {
                    return Ok(Added::BelowGeneration(min_generation));
                }
                return Err(unavailable("add_pack", EMPTIED));
            };
            let seq = number(&row, "seq")?;
            let keep = Statement::new(KEEP).number(signed(seq)?).text(pack.id.to_string());
            if self.write_durably("add_pack", keep, "kept").await? {
                return Ok(Added::At(seq));
            }
        }
        Err(unavailable("add_pack", "the entry was removed again and again"))
    }

    async fn read(&self, after: u64, limit: usize) -> Result<DirectoryPage, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let statement = Statement::new(READ).number(signed(after)?).number(limit);
        let rows = self.reads.read("read_packs", &statement).await?;
        let first = rows.first().ok_or_else(|| unavailable("read_packs", EMPTIED))?;
        let entries = rows.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
        let mut entries: Vec<_> = entries.into_iter().flatten().collect();
        // The join need not keep the order.
        entries.sort_unstable_by_key(|(seq, _)| *seq);
        Ok(DirectoryPage {
            manifest_version: number(first, "manifest_version")?,
            manifest: bytes(first, "manifest")?,
            min_generation: number(first, "min_generation")?,
            last: number(first, "last")?,
            entries,
        })
    }

    async fn replace_manifest(
        &self,
        expected: u64,
        manifest: Bytes,
        through: u64,
        min_generation: u64,
    ) -> Result<bool, StoreError> {
        check_index(&manifest)?;
        let replace = Statement::new(REPLACE)
            .number(signed(expected)?)
            .bytes(Some(&manifest))
            .number(signed(through)?)
            .text(self.writes.server.commit)
            .number(signed(min_generation)?);
        self.send_durably("replace_manifest", &replace, "replaced").await
    }
}
