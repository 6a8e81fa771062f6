//! Whose turn it is: which of the masters does a piece of work that one of them does at a time.
//!
//! A record in the metadata store names the master, and when it said so last. It only keeps masters from doing the
//! same work: no promise rests on it. A master that says nothing for a while is taken over.

use std::time::Duration;

use bytes::Bytes;
use fula_core::{
    MetadataStore, StoreError,
    metadata::{Entry, Table, WriteOutcome},
    root::TimeMs,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Number of times that a write is tried whose answer may have been lost.
const TRIES: usize = 2;

/// The part of a record that says whose turn it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Holder {
    /// Name of the master; empty while none has the turn.
    pub(crate) by: String,
    /// Time at which it last said so, by the arbiter's clock.
    pub(crate) touched_ms: TimeMs,
}

impl Holder {
    /// Returns whether the master `own` may take the turn: it has it, no master has it, or the one that has it has
    /// said nothing for longer than `silence`.
    pub(crate) fn is_free_for(&self, own: &str, now: TimeMs, silence: Duration) -> bool {
        let silent = now.saturating_sub(self.touched_ms);
        self.by.is_empty() || self.by == own || silent > millis(silence)
    }
}

/// A record that says whose turn it is, and how far the work is.
pub(crate) trait Record: Default + Serialize + DeserializeOwned + Send + Sync {
    /// Returns whose turn it is.
    fn holder(&self) -> &Holder;

    /// Returns the same, to be changed.
    fn holder_mut(&mut self) -> &mut Holder;
}

/// A record as one master knows it.
pub(crate) struct Turn<'a, R> {
    metadata: &'a dyn MetadataStore,
    table: Table,
    name: String,
    /// Name of this master.
    own: String,
    version: u64,
    /// Whether another master has taken the turn. Then this one writes nothing more.
    is_lost: bool,
    pub(crate) record: R,
}

impl<'a, R: Record> Turn<'a, R> {
    /// Reads a record.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn read(
        metadata: &'a dyn MetadataStore,
        (table, name): (Table, &str),
        own: String,
    ) -> Result<Self, StoreError> {
        let (version, record) = parse(metadata.read(table, name).await?);
        Ok(Self::known(metadata, (table, name), own, version, record))
    }

    /// Returns a record that was read before, at its version.
    pub(crate) fn known(
        metadata: &'a dyn MetadataStore,
        (table, name): (Table, &str),
        own: String,
        version: u64,
        record: R,
    ) -> Self {
        Self { metadata, table, name: name.to_owned(), own, version, is_lost: false, record }
    }

    /// Returns the version of the record.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Returns whether this master may take the turn.
    pub(crate) fn is_free(&self, now: TimeMs, silence: Duration) -> bool {
        self.record.holder().is_free_for(&self.own, now, silence)
    }

    /// Writes the record, by which this master has the turn. Returns false if another master has written it
    /// meanwhile; then `record` is what that one has written, and nothing more is written here.
    ///
    /// # Errors
    /// [`StoreError`]: it may be written all the same.
    pub(crate) async fn take(&mut self, now: TimeMs) -> Result<bool, StoreError> {
        self.record.holder_mut().by.clone_from(&self.own);
        self.record.holder_mut().touched_ms = now;
        self.write().await
    }

    /// Writes the record, by which no master has the turn. Returns the same as `take`.
    ///
    /// # Errors
    /// [`StoreError`]: it may be written all the same.
    pub(crate) async fn give_back(&mut self) -> Result<bool, StoreError> {
        self.record.holder_mut().by = String::new();
        self.write().await
    }

    async fn write(&mut self) -> Result<bool, StoreError> {
        if self.is_lost {
            return Ok(false);
        }
        let value = Bytes::from(serde_json::to_vec(&self.record).unwrap_or_default());
        for _ in 0..TRIES {
            let (table, value) = (self.table, Some(value.clone()));
            match self.metadata.write(table, &self.name, self.version, value).await? {
                WriteOutcome::Done(version) => {
                    self.version = version;
                    return Ok(true);
                }
                WriteOutcome::Conflict(entry) => {
                    let (version, found): (u64, R) = parse(entry);
                    self.version = version;
                    // The answer to an earlier write of this master may have been lost. Then it has the turn.
                    if found.holder().by != self.own {
                        (self.record, self.is_lost) = (found, true);
                        return Ok(false);
                    }
                }
            }
        }
        Ok(false)
    }
}

/// Returns the version and the content of a record. One of a later version of the program is as good as none.
pub(crate) fn parse<R: Record>(entry: Option<Entry>) -> (u64, R) {
    let Some(Entry { version, value }) = entry else { return (0, R::default()) };
    let record = value.and_then(|value| serde_json::from_slice(&value).ok());
    (version, record.unwrap_or_default())
}

/// Returns a time in milliseconds.
pub(crate) fn millis(time: Duration) -> TimeMs {
    TimeMs::try_from(time.as_millis()).unwrap_or(TimeMs::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;
    use fula_core::in_memory::MemoryMetadata;

    use super::*;

    const AT: (Table, &str) = (Table::Modes, "work");
    const SILENCE: Duration = Duration::from_secs(30);

    #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    struct Work {
        #[serde(flatten)]
        holder: Holder,
        done: u64,
    }

    impl Record for Work {
        fn holder(&self) -> &Holder {
            &self.holder
        }

        fn holder_mut(&mut self) -> &mut Holder {
            &mut self.holder
        }
    }

    /// A store that can lose the answer to a write.
    #[derive(Debug, Default)]
    struct Lossy {
        inner: MemoryMetadata,
        loses: AtomicBool,
    }

    #[async_trait]
    impl MetadataStore for Lossy {
        async fn read(&self, table: Table, key: &str) -> Result<Option<Entry>, StoreError> {
            self.inner.read(table, key).await
        }

        async fn write(
            &self,
            table: Table,
            key: &str,
            expected: u64,
            value: Option<Bytes>,
        ) -> Result<WriteOutcome, StoreError> {
            let written = self.inner.write(table, key, expected, value).await;
            if self.loses.swap(false, Ordering::Relaxed) {
                let source = "the answer was lost".into();
                return Err(StoreError::Unavailable { backend: "test", action: "write", source });
            }
            written
        }

        async fn list(
            &self,
            table: Table,
            after: Option<&str>,
            limit: usize,
        ) -> Result<Vec<(String, Entry)>, StoreError> {
            self.inner.list(table, after, limit).await
        }
    }

    /// Returns the turn of a master, if it may have it.
    async fn begin<'a>(store: &'a Lossy, own: &str, now: TimeMs) -> Option<Turn<'a, Work>> {
        let mut turn = Turn::<Work>::read(store, AT, own.to_owned()).await.unwrap();
        (turn.is_free(now, SILENCE) && turn.take(now).await.unwrap()).then_some(turn)
    }

    #[tokio::test]
    async fn one_master_has_the_turn_until_it_gives_it_back_or_is_silent() {
        let store = Lossy::default();
        let mut one = begin(&store, "one", 1000).await.unwrap();
        assert!(begin(&store, "two", 31_000).await.is_none());
        one.record.done = 1;
        assert!(one.take(20_000).await.unwrap());
        assert!(begin(&store, "two", 50_000).await.is_none());
        one.give_back().await.unwrap();
        let two = begin(&store, "two", 50_000).await.unwrap();
        assert_eq!(two.record.done, 1, "the work goes on where it was");
        // A silent master is taken over, and learns it with its next word.
        let three = begin(&store, "three", 80_001).await.unwrap();
        let mut two = two;
        assert!(!two.take(80_002).await.unwrap());
        assert_eq!((&two.record, two.version()), (&three.record, three.version()));
        assert!(!two.give_back().await.unwrap(), "it gives back nothing that another one has");
    }

    #[tokio::test]
    async fn a_lost_answer_loses_neither_the_turn_nor_the_record() {
        let store = Lossy::default();
        let mut one = begin(&store, "one", 1000).await.unwrap();
        store.loses.store(true, Ordering::Relaxed);
        one.record.done = 1;
        one.take(2000).await.unwrap_err();
        one.record.done = 2;
        assert!(one.take(3000).await.unwrap());
        let stored = Turn::<Work>::read(&store, AT, "two".to_owned()).await.unwrap();
        assert_eq!((stored.record.done, stored.record.holder.touched_ms), (2, 3000));
    }

    /// Three masters that begin, work, fall silent and lose answers in every order: of those that have spoken within
    /// the time of silence, one at most believes that it has the turn, and no work is counted twice.
    #[tokio::test]
    async fn no_two_masters_that_speak_believe_that_they_have_the_turn() {
        for seed in 0..300 {
            // xorshift: any sequence that differs from seed to seed will do.
            let mut state: u64 = 0x9e37_79b9_7f4a_7c15 ^ (seed + 1);
            let mut below = |bound: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % bound
            };
            let store = Lossy::default();
            let mut turns: [Option<(Turn<'_, Work>, TimeMs)>; 3] = [None, None, None];
            let (mut now, mut counted) = (1000, 0);
            for _ in 0..200 {
                now += below(12_000);
                let n = usize::try_from(below(3)).unwrap();
                store.loses.store(below(5) == 0, Ordering::Relaxed);
                let own = n.to_string();
                match turns[n].take() {
                    None => {
                        let mut turn = Turn::<Work>::read(&store, AT, own).await.unwrap();
                        if turn.is_free(now, SILENCE) && matches!(turn.take(now).await, Ok(true)) {
                            turns[n] = Some((turn, now));
                        }
                    }
                    Some((mut turn, _)) if below(4) == 0 => drop(turn.give_back().await),
                    Some((mut turn, spoke)) => {
                        turn.record.done += 1;
                        match turn.take(now).await {
                            Ok(true) => {
                                counted = counted.max(turn.record.done);
                                turns[n] = Some((turn, now));
                            }
                            Ok(false) => {}
                            // It does not know, and asks again.
                            Err(_) => {
                                turn.record.done -= 1;
                                turns[n] = Some((turn, spoke));
                            }
                        }
                    }
                }
                store.loses.store(false, Ordering::Relaxed);
                let speak =
                    turns.iter().flatten().filter(|(_, spoke)| now - spoke <= millis(SILENCE));
                assert!(speak.count() <= 1, "seed {seed}");
                let stored = Turn::<Work>::read(&store, AT, String::new()).await.unwrap();
                assert!(stored.record.done >= counted, "seed {seed}: work was forgotten");
            }
        }
    }
}
