//! The masters that a storage node trusts, and whether it has heard of them lately. A node that does not know
//! the newest revocations accepts nothing.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fula_ingest::{PublicKey, SignerId, Ticket};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Longest time without an answer of any master of an arbiter, after which the node accepts nothing more.
pub const SILENCE_MAX: Duration = Duration::from_mins(5);

/// The masters that a node trusts, by the key that those of one arbiter share.
#[derive(Debug)]
pub struct Trust {
    keys: HashMap<SignerId, PublicKey>,
    /// Time at which the last successful question to the masters of each key began; `None` for masters that
    /// are this process itself.
    heard: Option<Mutex<HashMap<SignerId, Instant>>>,
}

impl Trust {
    /// Trusts the holders of `keys`. Nothing is accepted before each was heard of.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Arc<Self> {
        let keys = keys.into_iter().map(|key| (key.id(), key)).collect();
        Arc::new(Self { keys, heard: Some(Mutex::default()) })
    }

    /// Trusts the masters that this process is one of.
    pub fn own(key: PublicKey) -> Arc<Self> {
        Arc::new(Self { keys: HashMap::from([(key.id(), key)]), heard: None })
    }

    /// Returns the key of masters that are trusted.
    pub fn key_of(&self, id: SignerId) -> Option<PublicKey> {
        self.keys.get(&id).copied()
    }

    /// Records that a master answered a question that was sent at `asked`.
    pub fn note_heard(&self, id: SignerId, asked: Instant) {
        if let Some(heard) = &self.heard {
            heard.lock().insert(id, asked);
        }
    }

    /// Returns masters that have not answered for [`SILENCE_MAX`], if there are any.
    pub fn silent(&self) -> Option<SignerId> {
        let heard = self.heard.as_ref()?.lock();
        let is_silent =
            |id: &&SignerId| heard.get(id).is_none_or(|asked| asked.elapsed() > SILENCE_MAX);
        self.keys.keys().find(is_silent).copied()
    }
}

/// What was sent under each ticket.
#[derive(Debug, Default)]
pub(super) struct Tickets(Mutex<HashMap<[u8; 16], Used>>);

#[derive(Debug)]
struct Used {
    expires: u64,
    bytes: u64,
}

/// Number of tickets from which on those that have ended are removed.
const TIDY: usize = 1024;

impl Tickets {
    /// Counts bytes against a ticket. Returns whether they fit.
    pub(super) fn charge(&self, ticket: &Ticket, bytes: u64, now: u64) -> bool {
        let mut all = self.0.lock();
        if all.len() >= TIDY && !all.contains_key(&ticket.id) {
            all.retain(|_, used| used.expires > now);
        }
        let expires = ticket.expires;
        let used = all.entry(ticket.id).or_insert(Used { expires, bytes: 0 });
        match used.bytes.checked_add(bytes).filter(|sum| *sum <= ticket.bytes_max) {
            Some(sum) => {
                used.bytes = sum;
                true
            }
            None => false,
        }
    }

    /// Gives back bytes of a body that was not stored.
    pub(super) fn give_back(&self, ticket: &Ticket, bytes: u64) {
        if let Some(used) = self.0.lock().get_mut(&ticket.id) {
            used.bytes = used.bytes.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use fula_core::OwnerId;
    use fula_ingest::ticket::CredentialTag;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_of_any_arbiter_closes_the_node() {
        let (one, two) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let trust = Trust::new([one, two]);
        assert!(trust.silent().is_some());
        trust.note_heard(one.id(), Instant::now());
        assert_eq!(trust.silent(), Some(two.id()));
        trust.note_heard(two.id(), Instant::now());
        assert_eq!(trust.silent(), None);
        tokio::time::advance(SILENCE_MAX).await;
        assert_eq!(trust.silent(), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(trust.silent().is_some());
        trust.note_heard(one.id(), Instant::now());
        assert_eq!(trust.silent(), Some(two.id()));
        tokio::time::advance(2 * SILENCE_MAX).await;
        assert_eq!(Trust::own(one).silent(), None);
    }

    #[test]
    fn a_ticket_is_used_up() {
        let tickets = Tickets::default();
        let ticket = |n: u8| Ticket {
            master: SignerId([0; 8]),
            owner: OwnerId([0; 16]),
            id: [n; 16],
            bytes_max: 100,
            issued: 0,
            expires: 1000,
            node: SignerId([0; 8]),
            credential: CredentialTag([0; 16]),
            credential_issued: 0,
            may_ask: false,
        };
        assert!(tickets.charge(&ticket(1), 60, 0) && !tickets.charge(&ticket(1), 41, 0));
        assert!(!tickets.charge(&ticket(1), u64::MAX, 0));
        assert!(tickets.charge(&ticket(2), 100, 0));
        tickets.give_back(&ticket(1), 60);
        assert!(tickets.charge(&ticket(1), 100, 0));
    }
}
