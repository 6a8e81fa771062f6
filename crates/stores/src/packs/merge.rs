//! Merges sorted records of where blocks lie: of several, the newest of each block counts.

use fula_core::StoreError;

use super::{
    place::Located,
    run::{Attempts, Failed, Records, Run, RunWriter},
};
use crate::objects::Objects;

/// The records of several sources in the order of their tags. Of several records of a tag, only that of the
/// newest source is returned.
pub(super) struct Merged<'a> {
    newest: std::iter::Copied<std::slice::Iter<'a, Located>>,
    runs: Vec<Records<'a>>,
    /// The next record of each source, the newest source first.
    heads: Vec<Option<Located>>,
}

impl<'a> Merged<'a> {
    /// Merges `newest`, sorted by tag, with runs, the newest of them first.
    pub(super) async fn new(
        objects: &'a Objects,
        newest: &'a [Located],
        runs: &[Run],
    ) -> Result<Self, StoreError> {
        let mut newest = newest.iter().copied();
        let mut runs: Vec<_> = runs.iter().map(|run| Records::new(objects, *run)).collect();
        let mut heads = vec![newest.next()];
        for run in &mut runs {
            heads.push(run.next().await?);
        }
        Ok(Self { newest, runs, heads })
    }

    /// Returns the next record.
    pub(super) async fn next(&mut self) -> Result<Option<Located>, StoreError> {
        let Some(tag) = self.heads.iter().flatten().map(|head| head.tag).min() else {
            return Ok(None);
        };
        let mut found = None;
        for (n, head) in self.heads.iter_mut().enumerate() {
            while let Some(record) = head.filter(|record| record.tag == tag) {
                found = found.or(Some(record));
                *head = match n.checked_sub(1) {
                    None => self.newest.next(),
                    Some(n) => self.runs[n].next().await?,
                };
            }
        }
        Ok(found)
    }
}

/// Writes a run of `newest`, sorted by tag, and of older runs, the newest of them first. Of several records
/// of a tag, the newest stays.
///
/// # Errors
/// [`StoreError`]; part of an object may be left that no manifest names.
pub(super) async fn merge(
    objects: &Objects,
    newest: &[Located],
    older: &[Run],
    mut fresh_id: impl FnMut() -> [u8; 16],
) -> Result<Run, StoreError> {
    let records = newest.len() as u64 + older.iter().map(|run| run.records).sum::<u64>();
    let mut attempts = Attempts::new(objects, records);
    loop {
        let mut out = attempts.begin(fresh_id());
        let filled = fill(&mut out, objects, newest, older).await;
        if let Some(run) = attempts.end(out, filled).await? {
            return Ok(run);
        }
    }
}

async fn fill(
    out: &mut RunWriter,
    objects: &Objects,
    newest: &[Located],
    older: &[Run],
) -> Result<(), Failed> {
    let mut merged = Merged::new(objects, newest, older).await?;
    while let Some(record) = merged.next().await? {
        out.push(&record).await?;
    }
    Ok(())
}
