//! Fetches what users pin with the Pinning Service API (docs/adr/0056).
//!
//! What is to be done is derived at each look from the pins of all owners. Nothing is queued, so nothing can be lost:
//! a pin that a killed master was fetching is found by the next one.
//!
//! # Invariants
//! - A master fetches a pin only while the pin names it. The pin is the lease. It is written every
//!   [`TOUCH_EVERY`] meanwhile, and another master takes it over when it has stayed the same for
//!   [`TAKEN_OVER_AFTER`] by that master's own clock.
//! - A change of a pin applies to the state that it was made from. So a pin that was removed or taken over
//!   meanwhile is left alone, and what was fetched for it is garbage.

mod fetch;
mod source;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fula_core::{Cid, OwnerId, root::RootRow};
use fula_gateway::psa::PinFetcher;
use fula_service::{PinState, PinStatus, Service, StoredPin, error::chain};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, interval_at},
};

use self::{
    fetch::{Bounds, Failure, Fetch},
    source::Source,
};
use crate::{config::PsaConfig, gauges::f64_of, node::Node};

/// Time between two looks, and the ratio of the pause behind a look to its length.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOK_SHARE: u32 = 10;

/// Pause after the first failure. It doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_mins(5);

/// Time between two writes of a pin that is being fetched.
const TOUCH_EVERY: Duration = Duration::from_secs(15);

/// Time for which a pin must stay the same before another master takes it over.
const TAKEN_OVER_AFTER: Duration = Duration::from_mins(1);

/// Time between two questions for the addresses of the kubo, while they are known and while they are not.
const ASK_EVERY: Duration = Duration::from_mins(1);
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Number of rows that are read at a time.
const PAGE: usize = 512;

/// The pins of one owner that wait or are being fetched.
#[derive(Debug, Default)]
struct Waiting {
    /// The root by which that was found out.
    root: Option<Cid>,
    pins: Vec<StoredPin>,
    /// Tag of each pin, and the time at which it was seen first.
    since: HashMap<String, (String, Instant)>,
}

/// Fetches pins for as long as the process runs.
#[derive(Debug)]
pub(crate) struct Fetcher {
    service: Service,
    config: PsaConfig,
    sources: Vec<Source>,
    /// Name of this master in pins.
    own: String,
    waiting: tokio::sync::Mutex<HashMap<OwnerId, Waiting>>,
    /// Pins that this process fetches, and their owners.
    running: Mutex<HashMap<String, OwnerId>>,
    fetches: Arc<Semaphore>,
    delegates: Mutex<Vec<String>>,
    wake: Notify,
}

impl PinFetcher for Fetcher {
    fn delegates(&self) -> Vec<String> {
        if self.config.delegates.is_empty() {
            self.delegates.lock().clone()
        } else {
            self.config.delegates.clone()
        }
    }

    fn wake(&self) {
        self.wake.notify_one();
    }
}

impl Fetcher {
    /// Makes a fetcher.
    ///
    /// # Errors
    /// Why HTTP cannot be used.
    pub(crate) fn new(node: &Node, config: PsaConfig) -> Result<Arc<Self>, String> {
        let sources = config.sources.iter().map(Source::new).collect::<Result<_, String>>()?;
        let own = node.recovery.as_ref().map_or("alone", |recovery| recovery.name()).to_owned();
        Ok(Arc::new(Self {
            service: node.service.clone(),
            sources,
            own,
            waiting: tokio::sync::Mutex::default(),
            running: Mutex::default(),
            fetches: Arc::new(Semaphore::new(config.fetches)),
            delegates: Mutex::default(),
            wake: Notify::new(),
            config,
        }))
    }

    /// Begins to fetch, and to ask the kubo for its addresses.
    pub(crate) fn start(self: &Arc<Self>) {
        tokio::spawn(Arc::clone(self).run());
        tokio::spawn(Arc::clone(self).ask_for_addresses());
    }

    async fn run(self: Arc<Self>) {
        let mut was_well = true;
        loop {
            let began = Instant::now();
            let looked = self.look().await;
            if let Err(error) = &looked
                && was_well
            {
                tracing::warn!(error, "cannot look for pins to fetch; it is tried again");
            }
            was_well = looked.is_ok();
            // However often it is woken, it does not look all the time.
            tokio::time::sleep(began.elapsed() * LOOK_SHARE).await;
            let _woken = tokio::time::timeout(LOOK_EVERY, self.wake.notified()).await;
        }
    }

    async fn ask_for_addresses(self: Arc<Self>) {
        loop {
            for source in &self.sources {
                match source.addresses().await {
                    Ok(Some(found)) if !found.is_empty() => {
                        *self.delegates.lock() = found;
                        break;
                    }
                    Ok(_) => {}
                    Err(error) => tracing::debug!(error, "a kubo does not tell its addresses"),
                }
            }
            let is_known = !self.delegates().is_empty();
            tokio::time::sleep(if is_known { ASK_EVERY } else { ASK_AGAIN }).await;
        }
    }

    /// Finds out what waits, and begins to fetch it.
    async fn look(self: &Arc<Self>) -> Result<(), String> {
        let mut waiting = self.waiting.lock().await;
        self.read_changed(&mut waiting).await?;
        let count: usize = waiting.values().map(|owner| owner.pins.len()).sum();
        metrics::gauge!("fula_psa_waiting").set(f64_of(count as u64));
        if count == 0 || self.fetches.available_permits() == 0 {
            return Ok(());
        }
        let now = self.service.arbiter().now().await.map_err(|error| chain(&error))?;
        let mut due = Vec::new();
        for (owner, found) in waiting.iter() {
            for pin in &found.pins {
                if self.is_due(found, pin, now) {
                    due.push((*owner, pin.clone()));
                }
            }
        }
        let busy: Vec<OwnerId> = self.running.lock().values().copied().collect();
        let mut busy = busy.into_iter().fold(HashMap::<_, usize>::new(), |mut busy, owner| {
            *busy.entry(owner).or_default() += 1;
            busy
        });
        due.sort_by_key(|(_, pin)| pin.state.created_ms);
        let each_max = self.config.fetches.div_ceil(2);
        while let Some(next) = next_of(due.iter().map(|(owner, _)| *owner), &busy, each_max) {
            let Ok(turn) = Arc::clone(&self.fetches).try_acquire_owned() else { break };
            let (owner, pin) = due.remove(next);
            *busy.entry(owner).or_default() += 1;
            self.running.lock().insert(pin.state.id.clone(), owner);
            let fetcher = Arc::clone(self);
            tokio::spawn(async move {
                let id = pin.state.id.clone();
                fetcher.tend(owner, pin).await;
                fetcher.running.lock().remove(&id);
                drop(turn);
                fetcher.wake.notify_one();
            });
        }
        Ok(())
    }

    /// Reads again what waits of owners whose pins have changed.
    async fn read_changed(&self, waiting: &mut HashMap<OwnerId, Waiting>) -> Result<(), String> {
        let (mut after, mut seen) = (None, HashSet::new());
        loop {
            let page = self.service.arbiter().scan_buckets(after.as_ref(), PAGE).await;
            let page = page.map_err(|error| chain(&error))?;
            let Some(last) = page.last() else { break };
            after = Some(last.address.clone());
            let has_pins = |row: &&RootRow| row.deleted.is_none() && row.address.name.is_hidden();
            for row in page.iter().filter(has_pins) {
                let (owner, root) = (row.address.owner, row.pointer.root);
                seen.insert(owner);
                let found = waiting.entry(owner).or_default();
                if found.root == Some(root) {
                    continue;
                }
                let pins = self.service.waiting_pins(owner).await;
                found.pins = pins.map_err(|error| chain(&error))?;
                found.root = Some(root);
                found.note_tags();
            }
        }
        waiting.retain(|owner, _| seen.contains(owner));
        Ok(())
    }

    /// Returns whether a pin is to be fetched by this master now.
    fn is_due(&self, owner: &Waiting, pin: &StoredPin, now: u64) -> bool {
        let state = &pin.state;
        if self.running.lock().contains_key(&state.id) {
            return false;
        }
        match state.status {
            PinStatus::Queued => state.not_before_ms <= now,
            // This process does not fetch it: it was killed while it did.
            PinStatus::Pinning if state.by == self.own => true,
            PinStatus::Pinning => {
                let since = owner.since.get(&state.id);
                since.is_some_and(|(_, since)| since.elapsed() >= TAKEN_OVER_AFTER)
            }
            PinStatus::Pinned | PinStatus::Failed => false,
        }
    }

    /// Takes a pin over, fetches it, and writes what came of it.
    async fn tend(&self, owner: OwnerId, pin: StoredPin) {
        let (id, cid) = (pin.state.id.clone(), pin.state.cid.clone());
        match self.attempt(owner, pin).await {
            Ok(Outcome::Pinned) => {
                metrics::counter!("fula_psa_fetches_total", "outcome" => "pinned").increment(1);
                tracing::info!(%owner, id, cid, "pinned");
            }
            Ok(Outcome::Failed(why)) => {
                metrics::counter!("fula_psa_fetches_total", "outcome" => "failed").increment(1);
                tracing::info!(%owner, id, cid, why, "a pin has failed");
            }
            Ok(Outcome::Later(why)) => {
                metrics::counter!("fula_psa_fetches_total", "outcome" => "retried").increment(1);
                tracing::debug!(%owner, id, cid, why, "a pin is tried again later");
            }
            Ok(Outcome::Gone) => tracing::debug!(%owner, id, "a pin was removed or taken over"),
            // The next look finds it as it is by then.
            Err(error) => tracing::debug!(%owner, id, error, "a pin cannot be written now"),
        }
    }

    async fn attempt(&self, owner: OwnerId, pin: StoredPin) -> Result<Outcome, String> {
        let now = self.now().await?;
        let state = PinState {
            status: PinStatus::Pinning,
            by: self.own.clone(),
            touched_ms: now,
            attempts: pin.state.attempts.saturating_add(1),
            blocks: 0,
            bytes: 0,
            ..pin.state.clone()
        };
        let Some(mut pin) = self.write(owner, &pin, state).await? else { return Ok(Outcome::Gone) };
        let began = pin.clone();
        let progress = [AtomicU64::new(0), AtomicU64::new(0)];
        let note = |blocks, bytes| {
            progress[0].store(blocks, Ordering::Relaxed);
            let before = progress[1].swap(bytes, Ordering::Relaxed);
            metrics::counter!("fula_psa_fetched_bytes_total").increment(bytes - before);
        };
        let bounds = self.bounds(owner, &began, now).await?;
        let (service, sources) = (&self.service, &self.sources[..]);
        let fetch = Fetch { service, sources, pin: &began, bounds, progress: &note };
        let fetching = fetch.run();
        tokio::pin!(fetching);
        let mut touches = interval_at(Instant::now() + TOUCH_EVERY, TOUCH_EVERY);
        let fetched = loop {
            tokio::select! {
                done = &mut fetching => break done,
                _ = touches.tick() => {
                    let [blocks, bytes] = [0, 1].map(|n| progress[n].load(Ordering::Relaxed));
                    match self.touch(owner, &pin, blocks, bytes).await? {
                        Some(touched) => pin = touched,
                        None => return Ok(Outcome::Gone),
                    }
                }
            }
        };
        let failure = match fetched {
            Ok(intake) => match self.service.finish_pin(owner, &pin, intake).await {
                Ok(Some(_)) => return Ok(Outcome::Pinned),
                Ok(None) => return Ok(Outcome::Gone),
                Err(error) => Failure::from(error),
            },
            Err(failure) => failure,
        };
        self.give_up(owner, &pin, failure).await
    }

    /// Returns the bounds of an attempt. What a replaced pin has makes room for the new one.
    async fn bounds(&self, owner: OwnerId, pin: &StoredPin, now: u64) -> Result<Bounds, String> {
        let room = self.service.pin_room(owner).await.map_err(|error| chain(&error))?;
        let age = Duration::from_millis(now.saturating_sub(pin.state.created_ms));
        Ok(Bounds {
            bytes_max: self.config.bytes_max,
            blocks_max: self.config.blocks_max,
            room: room.saturating_add(pin.size()),
            deadline: Instant::now() + self.config.time_max.saturating_sub(age),
        })
    }

    /// Writes that the pin is still being fetched, and how far it is. Returns `None` if it is not this master's any
    /// more.
    async fn touch(
        &self,
        owner: OwnerId,
        pin: &StoredPin,
        blocks: u64,
        bytes: u64,
    ) -> Result<Option<StoredPin>, String> {
        // While the arbiter is away, the fetch goes on. Nobody else can take the pin over meanwhile.
        let Ok(touched_ms) = self.now().await else { return Ok(Some(pin.clone())) };
        let state = PinState { touched_ms, blocks, bytes, ..pin.state.clone() };
        if let Ok(touched) = self.write(owner, pin, state).await {
            return Ok(touched);
        }
        // It may have been written all the same.
        let found = self.service.stored_pin(owner, &pin.state.id).await;
        let found = found.map_err(|error| chain(&error))?;
        let is_same = |found: &StoredPin| {
            (&found.state.by, found.state.attempts) == (&pin.state.by, pin.state.attempts)
        };
        Ok(found.filter(is_same))
    }

    /// Writes that an attempt has failed.
    async fn give_up(
        &self,
        owner: OwnerId,
        pin: &StoredPin,
        failure: Failure,
    ) -> Result<Outcome, String> {
        let now = self.now().await?;
        let pause = pause_after(pin.state.attempts);
        let ends = pin.state.created_ms.saturating_add(millis(self.config.time_max));
        let not_before_ms = now.saturating_add(millis(pause));
        let (status, why) = match failure {
            Failure::ForGood(why) => (PinStatus::Failed, why),
            Failure::ForNow(why) if not_before_ms >= ends => (PinStatus::Failed, why),
            Failure::ForNow(why) => (PinStatus::Queued, why),
        };
        let (by, error) = (String::new(), why.clone());
        let state = PinState { status, by, error, not_before_ms, ..pin.state.clone() };
        Ok(match self.write(owner, pin, state).await? {
            None => Outcome::Gone,
            Some(_) if status == PinStatus::Failed => Outcome::Failed(why),
            Some(_) => Outcome::Later(why),
        })
    }

    async fn write(
        &self,
        owner: OwnerId,
        pin: &StoredPin,
        state: PinState,
    ) -> Result<Option<StoredPin>, String> {
        let written = self.service.change_pin(owner, pin, state).await;
        written.map_err(|error| chain(&error))
    }

    /// Returns the arbiter's time.
    async fn now(&self) -> Result<u64, String> {
        self.service.arbiter().now().await.map_err(|error| chain(&error))
    }
}

/// What came of an attempt.
enum Outcome {
    Pinned,
    Failed(String),
    Later(String),
    /// The pin was removed or taken over.
    Gone,
}

impl Waiting {
    /// Notes since when each pin has been as it is.
    fn note_tags(&mut self) {
        let mut since = HashMap::new();
        for pin in &self.pins {
            let tag = pin.tag();
            let seen = match self.since.remove(&pin.state.id) {
                Some((before, seen)) if before == tag => seen,
                _ => Instant::now(),
            };
            since.insert(pin.state.id.clone(), (tag, seen));
        }
        self.since = since;
    }
}

/// Returns which of the pins that wait is next, by their owners: the first of the owner with the fewest fetches. None
/// is, if that owner has `each_max` already. So no owner holds up another.
fn next_of(
    owners: impl Iterator<Item = OwnerId>,
    busy: &HashMap<OwnerId, usize>,
    each_max: usize,
) -> Option<usize> {
    let fetches = owners.map(|owner| busy.get(&owner).copied().unwrap_or_default());
    let (next, fetches) = fetches.enumerate().min_by_key(|(_, fetches)| *fetches)?;
    (fetches < each_max).then_some(next)
}

/// Returns the pause after a number of attempts.
fn pause_after(attempts: u32) -> Duration {
    PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(PAUSE_MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_take_turns_and_none_has_more_than_its_share() {
        let [one, two, three] = ["key:1", "key:2", "key:3"].map(OwnerId::of_user);
        let next = |waiting: &[OwnerId], busy: &[(OwnerId, usize)]| {
            next_of(waiting.iter().copied(), &busy.iter().copied().collect(), 2)
        };
        assert_eq!(next(&[], &[]), None);
        assert_eq!(next(&[one, one, two], &[]), Some(0));
        assert_eq!(next(&[one, one, two], &[(one, 1)]), Some(2));
        assert_eq!(next(&[one, two, three], &[(one, 2), (two, 1), (three, 1)]), Some(1));
        assert_eq!(next(&[one, two], &[(one, 2), (two, 2)]), None);
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        let pauses = [1, 2, 3, 9, 10, 50].map(|n| pause_after(n).as_secs());
        assert_eq!(pauses, [1, 2, 4, 256, 300, 300]);
    }
}
