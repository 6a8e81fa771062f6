//! The scrub: reads every block of the block store in the background, and reports those that are damaged.
//!
//! A pass goes through the store from its first position to its last. Its position is a record in the
//! metadata store, so a pass continues after a restart. Masters that share a block store share the record:
//! one of them reads ([`turn`]), and another one takes over when the record was not updated for
//! [`TAKEN_OVER_AFTER`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fula_core::{
    BlockStore, Cid, MetadataStore, StoreError, block::Position, metadata::Table, root::TimeMs,
};
use fula_service::{ServiceError, error::chain};
use serde::{Deserialize, Serialize};

use crate::{
    gauges::f64_of,
    node::Node,
    turn::{self, Holder, millis},
};

/// Name of the record.
const NAME: &str = "scrub";

/// Lowest rate at which a pass reads, in bytes a second.
const RATE_MIN: u64 = 4 << 20;

/// Bytes that are read between two pauses.
const PACED_BYTES: u64 = 1 << 20;

/// Longest wait before the record is read again.
const LOOK_EVERY: Duration = Duration::from_mins(10);

/// Wait after the start: a gateway has other things to do first.
const BEGIN_AFTER: Duration = Duration::from_mins(1);

/// Wait after a failure.
const RETRY_AFTER: Duration = Duration::from_mins(1);

/// Interval between two updates of the record during a pass.
const TOUCH_EVERY: Duration = Duration::from_mins(1);

/// Time without an update after which another master takes over a pass.
const TAKEN_OVER_AFTER: Duration = Duration::from_mins(10);

/// Most damaged blocks that the record names.
const NAMED_MAX: usize = 100;

/// A pass through the block store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pass {
    /// Time of its start, in milliseconds since 1970 by the arbiter's clock.
    pub(crate) begun_ms: TimeMs,
    /// Time of its end by the same clock; 0 while it runs.
    pub(crate) ended_ms: TimeMs,
    /// Number of intact blocks that it has read.
    pub(crate) blocks: u64,
    /// Bytes of these blocks.
    pub(crate) bytes: u64,
    /// Number of damaged blocks that it has found.
    pub(crate) damaged: u64,
    /// CIDs of the first damaged blocks.
    pub(crate) named: Vec<String>,
}

/// The record of the scrub in the metadata store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Progress {
    /// The last pass that ended.
    pub(crate) last: Option<Pass>,
    /// The pass that runs.
    pub(crate) current: Option<Pass>,
    /// The position that is read next.
    position: u64,
    /// The master that reads, by its writer id.
    #[serde(flatten, with = "reader")]
    holder: Holder,
}

impl turn::Record for Progress {
    fn holder(&self) -> &Holder {
        &self.holder
    }

    fn holder_mut(&mut self) -> &mut Holder {
        &mut self.holder
    }
}

/// The holder under the name that it has in this record.
mod reader {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Holder, TimeMs};

    #[derive(Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Reader {
        reader: String,
        touched_ms: TimeMs,
    }

    pub(super) fn serialize<S: Serializer>(holder: &Holder, to: S) -> Result<S::Ok, S::Error> {
        let Holder { by, touched_ms } = holder.clone();
        Reader { reader: by, touched_ms }.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Holder, D::Error> {
        let Reader { reader, touched_ms } = Reader::deserialize(from)?;
        Ok(Holder { by: reader, touched_ms })
    }
}

type Turn<'a> = turn::Turn<'a, Progress>;

/// Reads the record.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn progress(metadata: &dyn MetadataStore) -> Result<Progress, StoreError> {
    Ok(turn::parse(metadata.read(Table::Modes, NAME).await?).1)
}

/// Forgets the damaged blocks that passes have found, after a check found no problem. The master that reads loses
/// its turn by this, and goes on with the record as it is then. If a master writes the record at the same moment,
/// the next check does it.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn forget_damage(metadata: &dyn MetadataStore) -> Result<(), StoreError> {
    let (version, mut progress) = turn::parse::<Progress>(metadata.read(Table::Modes, NAME).await?);
    let passes = [&mut progress.last, &mut progress.current];
    let mut has_damage = false;
    for pass in passes.into_iter().flatten() {
        has_damage |= pass.damaged > 0;
        (pass.damaged, pass.named) = (0, Vec::new());
    }
    if has_damage {
        publish(&progress);
        progress.holder.by.clear();
        let value = Bytes::from(serde_json::to_vec(&progress).unwrap_or_default());
        metadata.write(Table::Modes, NAME, version, Some(value)).await?;
    }
    Ok(())
}

/// Scrubs for as long as the gateway runs. `period` is the time in which every block is read once; zero turns
/// the scrub off.
pub(crate) async fn run(node: Arc<Node>, period: Duration) {
    if period.is_zero() {
        return;
    }
    let arbiter = node.service.arbiter();
    let scrub = Scrub {
        blocks: node.nodes.blocks().as_ref(),
        metadata: node.metadata.as_ref(),
        reader: arbiter.writer().to_string(),
        period,
    };
    let mut was_well = true;
    tokio::time::sleep(BEGIN_AFTER).await;
    loop {
        let step = async { scrub.step(arbiter.now().await?).await.map_err(ServiceError::from) };
        let wait = match step.await {
            Ok(wait) => {
                was_well = true;
                wait
            }
            Err(error) => {
                if std::mem::take(&mut was_well) {
                    tracing::warn!(error = chain(&error), "the scrub failed; it is tried again");
                }
                RETRY_AFTER
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// One reader of a block store.
struct Scrub<'a> {
    blocks: &'a dyn BlockStore,
    metadata: &'a dyn MetadataStore,
    reader: String,
    period: Duration,
}

impl Scrub<'_> {
    /// Reads the blocks of one position, if no other master does. Returns the wait before the next step.
    async fn step(&self, now: TimeMs) -> Result<Duration, StoreError> {
        let at = (Table::Modes, NAME);
        let mut turn = Turn::read(self.metadata, at, self.reader.clone()).await?;
        publish(&turn.record);
        if turn.record.current.is_some() && !turn.is_free(now, TAKEN_OVER_AFTER) {
            return Ok(TOUCH_EVERY);
        }
        let progress = &mut turn.record;
        if progress.current.is_none() {
            let due = progress.last.as_ref().map_or(0, |last| last.begun_ms + millis(self.period));
            if now < due {
                return Ok(LOOK_EVERY.min(Duration::from_millis(due - now)));
            }
            progress.position = 0;
            progress.current = Some(Pass { begun_ms: now, ..Pass::default() });
        }
        // The record names the reader before any block is read, so that the other masters wait.
        if !turn.take(now).await? {
            return Ok(TOUCH_EVERY);
        }
        let listed = self.blocks.list(Position(turn.record.position)).await?;
        let cids = listed.blocks.into_iter().map(|(cid, _)| cid);
        let Some(now) = self.read_all(cids, &mut turn, now).await? else {
            return Ok(TOUCH_EVERY);
        };
        let progress = &mut turn.record;
        if let Some(Position(next)) = listed.next {
            progress.position = next;
            publish(progress);
            turn.take(now).await?;
        } else {
            if let Some(mut pass) = progress.current.take() {
                pass.ended_ms = now;
                let (blocks, damaged) = (pass.blocks, pass.damaged);
                tracing::info!(blocks, damaged, "every block of the block store was read");
                progress.last = Some(pass);
            }
            publish(progress);
            turn.give_back().await?;
        }
        Ok(Duration::ZERO)
    }

    /// Reads blocks, and records those that are damaged. Returns the time at the end, or `None` if another master
    /// is the reader now.
    async fn read_all(
        &self,
        cids: impl Iterator<Item = Cid>,
        turn: &mut Turn<'_>,
        now: TimeMs,
    ) -> Result<Option<TimeMs>, StoreError> {
        let rate = self.rate(&turn.record);
        let (begun, mut touched, mut read, mut paced) = (Instant::now(), Instant::now(), 0, 0);
        for cid in cids {
            let pass = turn.record.current.get_or_insert_default();
            match self.blocks.get(&cid).await {
                Ok(Some(block)) => {
                    let bytes = block.bytes().len() as u64;
                    (pass.blocks, pass.bytes, read) =
                        (pass.blocks + 1, pass.bytes + bytes, read + bytes);
                    metrics::counter!("fula_scrub_blocks_total").increment(1);
                }
                // It was collected since it was listed.
                Ok(None) => {}
                Err(StoreError::Damaged { cid }) => pass.note(&cid),
                Err(error) => return Err(error),
            }
            if read - paced >= PACED_BYTES {
                paced = read;
                let due = Duration::from_secs_f64(f64_of(read) / f64_of(rate));
                tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
            }
            if touched.elapsed() >= TOUCH_EVERY {
                touched = Instant::now();
                if !turn.take(now + millis(begun.elapsed())).await? {
                    return Ok(None);
                }
            }
        }
        Ok(Some(now + millis(begun.elapsed())))
    }

    /// Returns the rate in bytes a second. At this rate, a pass over as many bytes as the last one had ends
    /// in four fifths of the period.
    fn rate(&self, progress: &Progress) -> u64 {
        let bytes = progress.last.as_ref().map_or(0, |last| last.bytes);
        (bytes + bytes / 4).checked_div(self.period.as_secs()).unwrap_or_default().max(RATE_MIN)
    }
}

impl Pass {
    fn note(&mut self, cid: &Cid) {
        tracing::error!(%cid, "the scrub found a damaged block: run `fula fsck` to see which objects need it");
        self.damaged += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(cid.to_string());
        }
    }
}

/// Sets the metrics of the scrub.
fn publish(progress: &Progress) {
    let passes = [&progress.last, &progress.current];
    let damaged = passes.into_iter().flatten().map(|pass| pass.damaged).max().unwrap_or_default();
    metrics::gauge!("fula_scrub_damaged_blocks").set(f64_of(damaged));
    let ended = progress.last.as_ref().map_or(0, |last| last.ended_ms);
    metrics::gauge!("fula_scrub_ended_timestamp_seconds").set(f64_of(ended) / 1000.0);
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use fula_core::{
        Block, Codec,
        block::{Listed, Placement, SyncMark},
        in_memory::{MemoryBlocks, MemoryMetadata},
    };

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    /// A store that lists one block a position, and in which one block may be damaged.
    #[derive(Debug, Default)]
    struct Steps {
        inner: MemoryBlocks,
        all: Vec<Cid>,
        damaged: Option<Cid>,
    }

    impl Steps {
        async fn new(count: u8) -> Self {
            let inner = MemoryBlocks::default();
            let blocks: Vec<_> = (0..count).map(|n| Block::new(Codec::Raw, vec![n; 10])).collect();
            inner.put(&blocks, Placement::Commit).await.unwrap();
            Self { inner, all: blocks.iter().map(Block::cid).collect(), damaged: None }
        }
    }

    #[async_trait]
    impl BlockStore for Steps {
        async fn put(&self, blocks: &[Block], to: Placement) -> Result<SyncMark, StoreError> {
            self.inner.put(blocks, to).await
        }

        async fn sync(&self, mark: SyncMark) -> Result<(), StoreError> {
            self.inner.sync(mark).await
        }

        async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
            if self.damaged == Some(*cid) {
                return Err(StoreError::Damaged { cid: *cid });
            }
            self.inner.get(cid).await
        }

        async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
            self.inner.size(cid).await
        }

        async fn list(&self, Position(from): Position) -> Result<Listed, StoreError> {
            let blocks = self.all.get(usize::try_from(from).unwrap()).map(|cid| (*cid, 10));
            let next = (from + 1 < self.all.len() as u64).then_some(Position(from + 1));
            Ok(Listed { blocks: blocks.into_iter().collect(), next })
        }
    }

    fn scrub<'a>(blocks: &'a Steps, metadata: &'a MemoryMetadata, reader: &str) -> Scrub<'a> {
        Scrub { blocks, metadata, reader: reader.to_owned(), period: DAY }
    }

    #[tokio::test]
    async fn a_pass_reads_every_block_goes_on_after_a_restart_and_begins_again_after_the_period() {
        let mut blocks = Steps::new(5).await;
        let metadata = MemoryMetadata::default();
        for n in 0..3 {
            scrub(&blocks, &metadata, "before").step(1000 + n).await.unwrap();
        }
        // Another process waits, because the first one may still run.
        let later = scrub(&blocks, &metadata, "after");
        later.step(2000).await.unwrap();
        assert_eq!(progress(&metadata).await.unwrap().current.unwrap().blocks, 3);
        let now = 2001 + millis(TAKEN_OVER_AFTER);
        for n in 0..2 {
            later.step(now + n).await.unwrap();
        }
        let done = progress(&metadata).await.unwrap();
        let last = done.last.unwrap();
        assert_eq!((last.begun_ms, last.blocks, last.bytes, last.damaged), (1000, 5, 50, 0));
        assert_eq!(done.current, None);
        // The next pass is due a day after this one began.
        assert!(later.step(now + 10).await.unwrap() > Duration::ZERO);
        assert_eq!(progress(&metadata).await.unwrap().current, None);
        blocks.damaged = Some(blocks.all[1]);
        let again = scrub(&blocks, &metadata, "after");
        for n in 0..5 {
            again.step(1000 + millis(DAY) + n).await.unwrap();
        }
        let last = progress(&metadata).await.unwrap().last.unwrap();
        assert_eq!((last.blocks, last.damaged), (4, 1));
        assert_eq!(last.named, [blocks.all[1].to_string()]);
    }

    #[tokio::test]
    async fn of_two_readers_one_reads() {
        let blocks = Steps::new(4).await;
        let metadata = MemoryMetadata::default();
        let (one, other) = (scrub(&blocks, &metadata, "one"), scrub(&blocks, &metadata, "other"));
        one.step(1000).await.unwrap();
        for n in 0..10 {
            assert_eq!(other.step(1001 + n).await.unwrap(), TOUCH_EVERY);
        }
        for n in 0..3 {
            one.step(1020 + n).await.unwrap();
        }
        assert_eq!(progress(&metadata).await.unwrap().last.unwrap().blocks, 4);
    }

    #[tokio::test]
    async fn damage_that_is_forgotten_during_a_step_stays_forgotten() {
        let (mut blocks, metadata) = (Steps::new(3).await, MemoryMetadata::default());
        blocks.damaged = Some(blocks.all[0]);
        let one = scrub(&blocks, &metadata, "one");
        one.step(1000).await.unwrap();
        let mut turn = Turn::read(&metadata, (Table::Modes, NAME), "one".to_owned()).await.unwrap();
        assert!(turn.take(1001).await.unwrap());
        forget_damage(&metadata).await.unwrap();
        assert!(!turn.take(1002).await.unwrap(), "what the step knows of damage is not written");
        for n in 0..2 {
            one.step(1003 + n).await.unwrap();
        }
        let last = progress(&metadata).await.unwrap().last.unwrap();
        assert_eq!((last.blocks, last.damaged), (2, 0));
    }

    #[tokio::test]
    async fn a_pass_that_has_ended_leaves_its_turn_to_all() {
        let (blocks, metadata) = (Steps::new(1).await, MemoryMetadata::default());
        scrub(&blocks, &metadata, "one").step(1000).await.unwrap();
        let record: Turn<'_> =
            Turn::read(&metadata, (Table::Modes, NAME), "other".to_owned()).await.unwrap();
        assert!(record.is_free(1001, TAKEN_OVER_AFTER) && record.record.last.is_some());
    }

    /// Earlier builds take part: the record keeps its form.
    #[test]
    fn the_record_has_the_form_that_earlier_builds_read_and_write() {
        let pass = r#"{"begun_ms":1,"ended_ms":0,"blocks":2,"bytes":3,"damaged":0,"named":[]}"#;
        let text = format!(
            r#"{{"last":null,"current":{pass},"position":4,"reader":"one","touched_ms":5}}"#
        );
        let read: Progress = serde_json::from_str(&text).unwrap();
        assert_eq!(read.holder, Holder { by: "one".to_owned(), touched_ms: 5 });
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }

    #[tokio::test]
    async fn a_large_store_is_read_as_fast_as_the_period_wants_it() {
        let (blocks, metadata) = (Steps::new(1).await, MemoryMetadata::default());
        let scrub = scrub(&blocks, &metadata, "one");
        let last = |bytes| Progress {
            last: Some(Pass { bytes, ..Pass::default() }),
            ..Progress::default()
        };
        assert_eq!(scrub.rate(&Progress::default()), RATE_MIN);
        assert_eq!(scrub.rate(&last(1 << 30)), RATE_MIN);
        let terabyte = 1 << 40;
        assert_eq!(scrub.rate(&last(terabyte)), (terabyte + terabyte / 4) / DAY.as_secs());
    }
}
