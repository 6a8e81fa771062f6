//! Keeps buckets pinned on IPFS (docs/adr/0047).
//!
//! What is to be done is derived at each look: a target whose last pinned root of an opted-in bucket is not the
//! bucket's current root is behind. Nothing is queued, so nothing can be lost, and no write waits for a target.
//!
//! # Invariants
//! - Only current roots are pinned, and each is kept from the collector while it is sent.
//! - At most one change of the pin of a bucket is under way at a target. [`PinConfig::interval`] lies between two of
//!   them, and between a write and the first of them.
//! - A master works on a bucket only while the bucket's record names it. Two that do so do no harm.

pub(crate) mod http;
mod kubo;
mod record;
mod remote;
mod view;
mod work;

use std::{collections::HashMap, sync::Arc, time::Duration};

use fula_core::{
    BucketAddress, Cid, StoreError,
    block::require,
    bucket::{BucketRoot, settings},
    root::{RootRow, TimeMs},
};
use fula_service::{BucketCar, error::chain};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

use self::{
    http::Client,
    kubo::Kubo,
    record::Record,
    remote::{Cluster, PinningService},
};
use crate::{
    config::{PinConfig, PinTarget, TargetKind},
    gauges::f64_of,
    node::Node,
};

/// Time between two looks, and the part of the time that looks take at most.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOK_SHARE: u32 = 10;

/// Number of pins that change at a time.
const JOBS_MAX: usize = 4;

/// Pause after the first failure. It doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_mins(1);

/// Time without a write of the record of a bucket that is behind, after which another master takes it over.
const TAKEN_OVER_AFTER: Duration = Duration::from_mins(1);

/// Time between two writes of the record of a bucket that stays behind.
const TOUCH_EVERY: Duration = Duration::from_secs(15);

/// Number of rows that are read at a time.
const PAGE: usize = 512;

/// The tag with which an owner opts in, and its value.
const TAG: (&str, &str) = ("fula-pin", "on");

/// A target as this process uses it.
#[derive(Clone, Debug)]
enum Target {
    Kubo(Kubo),
    Cluster(Cluster),
    Psa(PinningService),
}

impl Target {
    fn new(target: &PinTarget) -> Result<Self, String> {
        let client = Client::new(&target.endpoint, target.token.as_ref())?;
        Ok(match target.kind {
            TargetKind::Kubo => Self::Kubo(Kubo(client)),
            TargetKind::Cluster => Self::Cluster(Cluster(client)),
            TargetKind::Psa => Self::Psa(PinningService(client)),
        })
    }
}

/// What this process knows of one target of one bucket.
#[derive(Debug, Default)]
struct Progress {
    is_busy: bool,
    /// Whether the last change was made by this process and has succeeded. Otherwise the target may pin more than
    /// its record says.
    is_settled: bool,
    failures: u32,
    error: Option<String>,
    /// Time at which it was noticed that the target is behind.
    behind_since: Option<Instant>,
    /// Time before which nothing is tried.
    not_before: Option<Instant>,
}

/// What this process knows of one bucket.
#[derive(Debug)]
struct Bucket {
    record: Record,
    /// Version of the record.
    version: u64,
    written: Option<Instant>,
    /// The current root, if the bucket is to be pinned.
    current: Option<Current>,
    targets: Vec<Progress>,
    writing: Arc<tokio::sync::Mutex<()>>,
}

/// The current root of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Current {
    root: Cid,
    version: u64,
    objects: u64,
}

impl Bucket {
    fn new(record: Record, version: u64, targets: usize) -> Self {
        Self {
            record,
            version,
            written: None,
            current: None,
            targets: (0..targets).map(|_| Progress::default()).collect(),
            writing: Arc::default(),
        }
    }
}

/// Whether a bucket is to be pinned, and the root by which that was found out.
#[derive(Clone, Copy, Debug)]
struct Opted {
    root: Cid,
    settings: Option<Cid>,
    is_in: bool,
    objects: u64,
}

/// Pins buckets for as long as the gateway runs.
pub(crate) struct Pinner {
    node: Arc<Node>,
    config: PinConfig,
    /// Targets with their names in records.
    targets: Vec<(String, Target)>,
    /// Their names in metrics.
    labels: Vec<String>,
    /// Name of this master in records.
    own: String,
    buckets: Mutex<HashMap<BucketAddress, Bucket>>,
    opted: tokio::sync::Mutex<HashMap<BucketAddress, Opted>>,
    jobs: Arc<Semaphore>,
    /// Held during a look.
    looking: tokio::sync::Mutex<()>,
    /// Notified when something may have changed that a look would find.
    wake: Notify,
}

impl std::fmt::Debug for Pinner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pinner").field("config", &self.config).finish_non_exhaustive()
    }
}

/// One change of a pin.
struct Job<'a> {
    node: &'a Node,
    bucket: &'a BucketAddress,
    current: Current,
    /// Whether the target may pin older roots under the name of the bucket.
    is_doubtful: bool,
    sent_blocks: metrics::Counter,
    sent_bytes: metrics::Counter,
}

impl Job<'_> {
    /// Returns the name of the pin.
    fn name(&self) -> String {
        self.bucket.to_string()
    }

    fn objects(&self) -> u64 {
        self.current.objects
    }

    /// Returns the current root as a CAR file without what an older root has.
    async fn car(&self, older: Option<Cid>) -> Result<BucketCar, String> {
        let car = self.node.service.pin_car(self.bucket, older).await;
        car.map_err(|error| chain(&error))
    }

    fn random(&self) -> [u8; 16] {
        self.node.service.draw()
    }
}

impl Pinner {
    /// Makes a pinner. Returns `None` if there are no targets.
    ///
    /// # Errors
    /// Why HTTP cannot be used.
    pub(crate) fn new(node: &Arc<Node>, config: PinConfig) -> Result<Option<Arc<Self>>, String> {
        if config.targets.is_empty() {
            return Ok(None);
        }
        let targets = config.targets.iter().map(|target| Ok((target.name(), Target::new(target)?)));
        let targets = targets.collect::<Result<Vec<_>, String>>()?;
        let own = node.recovery.as_ref().map_or("alone", |recovery| recovery.name()).to_owned();
        Ok(Some(Arc::new(Self {
            node: Arc::clone(node),
            labels: labels(&config.targets),
            config,
            targets,
            own,
            buckets: Mutex::default(),
            opted: tokio::sync::Mutex::default(),
            jobs: Arc::new(Semaphore::new(JOBS_MAX)),
            looking: tokio::sync::Mutex::default(),
            wake: Notify::new(),
        })))
    }

    /// Pins for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut was_well = true;
        let mut is_loaded = false;
        loop {
            let began = Instant::now();
            let looked = async {
                if !is_loaded {
                    self.load().await?;
                    is_loaded = true;
                }
                self.look().await
            };
            let looked = looked.await;
            if let Err(error) = &looked
                && was_well
            {
                tracing::warn!(error, "cannot look for buckets to pin; it is tried again");
            }
            was_well = looked.is_ok();
            self.measure();
            let pause = LOOK_EVERY.max(began.elapsed() * LOOK_SHARE);
            let _woken = tokio::time::timeout(pause, self.wake.notified()).await;
        }
    }

    /// Reads the records, so that buckets that have opted out or were deleted meanwhile are found.
    async fn load(&self) -> Result<(), String> {
        let all = record::all(self.node.metadata.as_ref()).await.map_err(|error| chain(&error))?;
        let mut buckets = self.buckets.lock();
        for (bucket, record, version) in all {
            let new = Bucket::new(record, version, self.targets.len());
            buckets.entry(bucket).or_insert(new);
        }
        Ok(())
    }

    /// Finds out what is behind, and begins to work on it. What was written before the call is taken into account.
    async fn look(self: &Arc<Self>) -> Result<(), String> {
        let _one_at_a_time = self.looking.lock().await;
        let wanted = self.wanted().await?;
        for (bucket, current) in &wanted {
            if current.is_some() && !self.buckets.lock().contains_key(bucket) {
                let read = record::read(self.node.metadata.as_ref(), bucket).await;
                let (record, version) = read.map_err(|error| chain(&error))?;
                let new = Bucket::new(record, version, self.targets.len());
                self.buckets.lock().insert(bucket.clone(), new);
            }
        }
        let all: Vec<BucketAddress> = self.buckets.lock().keys().cloned().collect();
        for bucket in all {
            match wanted.get(&bucket) {
                // Its root cannot be read now: whether it is to be pinned is not known.
                Some(None) => {}
                Some(current) => self.tend(&bucket, *current).await?,
                None => self.tend(&bucket, None).await?,
            }
        }
        Ok(())
    }

    /// Returns the buckets that are to be pinned. A bucket whose root cannot be read has no current root.
    async fn wanted(&self) -> Result<HashMap<BucketAddress, Option<Current>>, String> {
        let mut wanted = HashMap::new();
        let mut opted = self.opted.lock().await;
        let (mut seen, mut after) = (HashMap::new(), None);
        loop {
            let page = self.node.service.arbiter().scan_buckets(after.as_ref(), PAGE).await;
            let page = page.map_err(|error| chain(&error))?;
            let Some(last) = page.last() else { break };
            after = Some(last.address.clone());
            let is_shown = |row: &RootRow| row.deleted.is_none() && !row.address.name.is_hidden();
            for row in page.into_iter().filter(is_shown) {
                let (root, version) = (row.pointer.root, row.pointer.version);
                match self.opted(&row, opted.get(&row.address).copied()).await {
                    Ok(found) => {
                        if found.is_in {
                            let current = Current { root, version, objects: found.objects };
                            wanted.insert(row.address.clone(), Some(current));
                        }
                        seen.insert(row.address, found);
                    }
                    Err(error) => {
                        tracing::debug!(bucket = %row.address, error = chain(&error), "cannot look at a bucket");
                        wanted.insert(row.address, None);
                    }
                }
            }
        }
        *opted = seen;
        Ok(wanted)
    }

    /// Returns whether a bucket is to be pinned. `known` is what was found at the last look.
    async fn opted(&self, row: &RootRow, known: Option<Opted>) -> Result<Opted, StoreError> {
        let cid = row.pointer.root;
        if let Some(known) = known.filter(|known| known.root == cid) {
            return Ok(known);
        }
        let is_named = self.config.buckets.names(&row.address);
        if !is_named && !self.config.buckets.tagged {
            return Ok(Opted { root: cid, settings: None, is_in: false, objects: 0 });
        }
        let blocks = self.node.nodes.blocks().as_ref();
        let root = BucketRoot::from_block(&require(blocks, &cid).await?)?;
        let objects = root.objects.count.saturating_add(root.versions.count);
        let is_in = match (root.settings, known) {
            _ if is_named => true,
            (None, _) => false,
            (settings, Some(known)) if known.settings == settings => known.is_in,
            (settings, _) => {
                let tags = settings::read_map(blocks, settings.as_ref(), "tagging").await?;
                tags.is_some_and(|tags| tags.get(TAG.0).is_some_and(|value| value == TAG.1))
            }
        };
        Ok(Opted { root: cid, settings: root.settings, is_in, objects })
    }

    /// Sets the metrics.
    fn measure(&self) {
        let (now, buckets) = (Instant::now(), self.buckets.lock());
        let mut opted = 0_u64;
        let mut behind: Vec<(u64, Duration, u64)> = vec![<_>::default(); self.targets.len()];
        for bucket in buckets.values() {
            opted += u64::from(bucket.current.is_some());
            for (n, progress) in bucket.targets.iter().enumerate() {
                let Some(since) = progress.behind_since else { continue };
                let pinned = bucket.record.targets.get(&self.targets[n].0);
                let versions = bucket.current.map_or(0, |current| {
                    current.version.saturating_sub(pinned.map_or(0, |pinned| pinned.version))
                });
                let (count, lag, most) = &mut behind[n];
                *count += 1;
                *lag = (*lag).max(now - since);
                *most = (*most).max(versions);
            }
        }
        metrics::gauge!("fula_pins_buckets").set(f64_of(opted));
        for (label, (count, lag, versions)) in self.labels.iter().zip(behind) {
            metrics::gauge!("fula_pins_behind", "target" => label.clone()).set(f64_of(count));
            metrics::gauge!("fula_pins_lag_seconds", "target" => label.clone())
                .set(lag.as_secs_f64());
            metrics::gauge!("fula_pins_lag_versions", "target" => label.clone())
                .set(f64_of(versions));
        }
    }

    /// Returns the arbiter's time.
    async fn now(&self) -> Result<TimeMs, String> {
        self.node.service.arbiter().now().await.map_err(|error| chain(&error))
    }

    /// Looks again at once.
    fn look_soon(&self) {
        self.wake.notify_one();
    }
}

/// Returns the names of targets in metrics: their kinds, with a number from the second one of a kind on.
fn labels(targets: &[PinTarget]) -> Vec<String> {
    let mut counts = HashMap::new();
    let label = |target: &PinTarget| {
        let name = target.name();
        let kind = name.split_once(':').map_or("", |(kind, _)| kind).to_owned();
        let count: &mut u32 = counts.entry(kind.clone()).or_default();
        *count += 1;
        if *count == 1 { kind } else { format!("{kind}-{count}") }
    };
    targets.iter().map(label).collect()
}

/// Returns the pause after a number of failures.
fn pause_after(failures: u32) -> Duration {
    PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(PAUSE_MAX)
}
