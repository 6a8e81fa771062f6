//! Rows of `bucket_roots` as they are read.

use std::str::FromStr;

use fula_core::{
    BucketAddress, BucketId, BucketName, Cid, OwnerId, RootPointer, StoreError, WriterId,
    root::{RootRow, Stamped},
};
use sqlx::{Row, postgres::PgRow};

use super::{malformed, stamp};

/// Reads the rows of an answer. Each contains the mark.
pub(super) fn rows_of(rows: &[PgRow]) -> Result<Stamped<Vec<RootRow>>, StoreError> {
    let first = rows.first().ok_or(malformed("the arbiter has no mark"))?;
    let value = rows.iter().map(row_of).collect::<Result<Vec<_>, _>>()?;
    stamp(first, value.into_iter().flatten().collect())
}

/// Reads one row. Returns `None` where the join found none.
fn row_of(row: &PgRow) -> Result<Option<RootRow>, StoreError> {
    let text = |column: &'static str| -> Result<Option<String>, StoreError> {
        row.try_get(column).map_err(|_| malformed("a column is missing"))
    };
    let number = |column: &'static str| -> Result<Option<u64>, StoreError> {
        let number: Option<i64> =
            row.try_get(column).map_err(|_| malformed("a column is missing"))?;
        number.map(u64::try_from).transpose().map_err(|_| malformed("a number is negative"))
    };
    let Some(owner) = text("owner_id")? else { return Ok(None) };
    let foreign = || malformed("it is not one of ours: bucket_id or created_ms is missing");
    let id = text("bucket_id")?.ok_or_else(foreign)?;
    let name = text("bucket")?.unwrap_or_default();
    let root = text("root_cid")?.unwrap_or_default();
    Ok(Some(RootRow {
        address: BucketAddress {
            owner: OwnerId::from_str(&owner).map_err(|_| malformed("bad owner_id"))?,
            name: BucketName::parse_stored(&name).map_err(|_| malformed("bad bucket name"))?,
        },
        pointer: RootPointer {
            root: Cid::from_str(&root).map_err(|_| malformed("bad root_cid"))?,
            version: number("version")?.unwrap_or_default(),
            generation: number("generation")?.unwrap_or_default(),
        },
        bucket_id: BucketId::from_str(&id).map_err(|_| malformed("bad bucket_id"))?,
        created: number("created_ms")?.ok_or_else(foreign)?,
        deleted: number("deleted_ms")?,
        global_name: text("global_name")?.is_some(),
        // A value that is not a writer id claims nothing.
        claim: text("claim")?.and_then(|claim| WriterId::from_str(&claim).ok()),
    }))
}
