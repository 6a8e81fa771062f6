//! Applies lifecycle rules: one master at a time, bucket after bucket, in small commits (docs/adr/0048).
//!
//! A record in the metadata store says which master works and where it is. It only keeps masters from doing
//! the same work: each commit is compared with the state of its bucket, so two that work do no harm.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fula_core::{BucketAddress, BucketName, OwnerId, StoreError, metadata::Table, root::TimeMs};
use fula_service::{LifecycleCursor, error::chain, limits::PAGE_MAX};
use serde::{Deserialize, Serialize};

use crate::{
    node::Node,
    turn::{self, Holder, millis},
};

/// Name of the record.
const NAME: &str = "lifecycle";

/// Time without an update after which another master takes the work over.
const TAKEN_OVER_AFTER: Duration = Duration::from_secs(30);

/// Interval between two updates of the record while a master works.
const TOUCH_EVERY: Duration = Duration::from_secs(5);

/// Longest interval between two looks at whether work is due.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Pause between two commits while requests are in flight.
const REST: Duration = Duration::from_millis(20);

/// Number of times that a page is tried before the bucket is left for the next pass.
const TRIES: u32 = 5;

/// The record of the work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    /// The master that works, by its writer id.
    #[serde(flatten)]
    holder: Holder,
    /// End of the last pass over all buckets, by the arbiter's clock; 0 before the first.
    ended_ms: TimeMs,
    /// Bucket at which the pass is; `None` before the first.
    bucket: Option<(String, String)>,
    /// Place in that bucket; `None` once it is done.
    place: Option<LifecycleCursor>,
}

impl Record {
    fn address(&self) -> Option<BucketAddress> {
        let (owner, name) = self.bucket.as_ref()?;
        let owner: OwnerId = owner.parse().ok()?;
        Some(BucketAddress::new(owner, BucketName::parse_stored(name).ok()?))
    }

    fn set_bucket(&mut self, address: &BucketAddress) {
        self.bucket = Some((address.owner.to_string(), address.name.as_str().to_owned()));
        self.place = Some(LifecycleCursor::default());
    }
}

impl turn::Record for Record {
    fn holder(&self) -> &Holder {
        &self.holder
    }

    fn holder_mut(&mut self) -> &mut Holder {
        &mut self.holder
    }
}

/// The turn of this master.
struct Turn<'a> {
    node: &'a Node,
    held: turn::Turn<'a, Record>,
    touched: Instant,
}

impl<'a> Turn<'a> {
    /// Begins a pass, or goes on with one that another master has left, if one is due.
    async fn begin(node: &'a Node, every: Duration) -> Result<Option<Self>, String> {
        let arbiter = node.service.arbiter();
        let now = arbiter.now().await.map_err(|error| chain(&error))?;
        let (metadata, own) = (node.metadata.as_ref(), arbiter.writer().to_string());
        let begun = async {
            let mut turn = turn::Turn::<Record>::read(metadata, (Table::Modes, NAME), own).await?;
            let is_due = now.saturating_sub(turn.record.ended_ms) >= millis(every);
            let is_begun = is_due && turn.is_free(now, TAKEN_OVER_AFTER) && turn.take(now).await?;
            Ok(is_begun.then_some(Self { node, held: turn, touched: Instant::now() }))
        };
        begun.await.map_err(|error: StoreError| chain(&error))
    }

    /// Writes the record. Returns false if another master has written it.
    async fn touch(&mut self) -> Result<bool, String> {
        let now = self.node.service.arbiter().now().await.map_err(|error| chain(&error))?;
        self.touched = Instant::now();
        self.held.take(now).await.map_err(|error| chain(&error))
    }

    /// Works until all buckets are done. Returns the number of what has ended, or `None` if another master has
    /// taken the work over.
    async fn run(&mut self) -> Result<Option<u64>, String> {
        let mut ended = 0;
        // A bucket that was left in the middle is finished first.
        if let Some(address) =
            self.held.record.address().filter(|_| self.held.record.place.is_some())
        {
            match self.bucket(&address).await? {
                Some(more) => ended += more,
                None => return Ok(None),
            }
        }
        loop {
            let after = self.held.record.address();
            let rows = self.node.service.arbiter().scan_buckets(after.as_ref(), PAGE_MAX).await;
            let rows = rows.map_err(|error| chain(&error))?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                self.held.record.set_bucket(&row.address);
                // A root that was collected meanwhile was replaced: the bucket is looked at.
                if !self.node.service.may_end(&row).await.unwrap_or(true) {
                    self.held.record.place = None;
                    continue;
                }
                match self.bucket(&row.address).await? {
                    Some(more) => ended += more,
                    None => return Ok(None),
                }
                self.held.record.place = None;
            }
        }
        let arbiter = self.node.service.arbiter();
        self.held.record.ended_ms = arbiter.now().await.map_err(|error| chain(&error))?;
        (self.held.record.bucket, self.held.record.place) = (None, None);
        self.held.give_back().await.map_err(|error| chain(&error))?;
        Ok(Some(ended))
    }

    /// Applies the rules of a bucket. Returns `None` if another master has taken the work over. A bucket that
    /// cannot be read or written is left for the next pass.
    async fn bucket(&mut self, address: &BucketAddress) -> Result<Option<u64>, String> {
        let (mut ended, mut tries) = (0, 0);
        while let Some(place) = self.held.record.place.clone() {
            if self.touched.elapsed() >= TOUCH_EVERY && !self.touch().await? {
                return Ok(None);
            }
            match self.node.service.expire_page(address, place).await {
                Ok(page) => {
                    metrics::counter!("fula_lifecycle_ended_total").increment(page.ended);
                    ended += page.ended;
                    tries = 0;
                    self.held.record.place = page.next;
                }
                Err(error) => {
                    tries += 1;
                    if tries == TRIES {
                        let (bucket, error) = (address.name.as_str(), chain(&error));
                        tracing::warn!(
                            bucket,
                            error,
                            "lifecycle rules of a bucket are not applied; trying again in the next pass"
                        );
                        return Ok(Some(ended));
                    }
                    tokio::time::sleep(REST * 10 * tries).await;
                }
            }
            if self.node.service.is_busy() {
                tokio::time::sleep(REST).await;
            }
        }
        Ok(Some(ended))
    }
}

/// Applies the rules of all buckets at an interval, for as long as the gateway runs; zero turns that off.
pub(crate) async fn tend(node: Arc<Node>, every: Duration) {
    if every.is_zero() {
        return;
    }
    let mut was_well = true;
    loop {
        tokio::time::sleep(every.min(LOOK_EVERY)).await;
        let worked = match Turn::begin(&node, every).await {
            Ok(Some(mut turn)) => turn.run().await,
            Ok(None) => continue,
            Err(error) => Err(error),
        };
        let is_well = worked.is_ok();
        match worked {
            Ok(Some(0)) => {}
            Ok(Some(ended)) => tracing::info!(ended, "objects have expired by lifecycle rules"),
            Ok(None) => tracing::info!("another master applies the lifecycle rules"),
            Err(error) if was_well => {
                tracing::warn!(error, "lifecycle rules are not applied; trying again");
            }
            Err(_) => {}
        }
        was_well = is_well;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_tells_where_the_work_goes_on() {
        let address =
            BucketAddress::new(OwnerId::of_user("key:a"), BucketName::parse("bucket").unwrap());
        let mut record = Record::default();
        assert_eq!(record.address(), None);
        record.set_bucket(&address);
        let text = serde_json::to_vec(&record).unwrap();
        let found: Record = serde_json::from_slice(&text).unwrap();
        assert_eq!((found.address(), found.place.is_some()), (Some(address), true));
        assert_eq!(serde_json::from_slice::<Record>(b"{}").unwrap(), Record::default());
    }
}
