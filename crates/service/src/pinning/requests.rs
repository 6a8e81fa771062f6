//! What owners ask: to add, list, replace and remove pins.

use std::{collections::BTreeMap, sync::Arc};

use fula_core::{
    BucketAddress, BucketId, BucketName, ObjectKey, OwnerId,
    bucket::ObjectRecord,
    foreign::ForeignCid,
    root::GlobalName,
    tree::{Cursor, Entry, Salt},
};

use super::{
    access::{PinAction, owner_of},
    query::{PinPage, PinQuery},
    state::{PinState, id_of, key_of, key_of_time, record_of, state_of},
};
use crate::{
    arbiter::Head,
    caller::Caller,
    commit::{Answer, Change, CommitRequest, KeyToDelete, Source, Step, StepKind, Steps},
    error::{Applied, ConditionName, ServiceError},
    objects::condition::{Tags, WriteConditions},
    service::{Freshness, Service},
};

/// Number of times that a new pin is given a later time, because another one has its time.
const TIMES_MAX: u64 = 256;

/// Number of times that a pin is replaced again because its fetch has changed it meanwhile.
const TRIES: usize = 16;

/// A pin that is asked for.
#[derive(Clone, Debug)]
pub struct NewPin {
    /// The CID as the client wrote it.
    pub cid: String,
    /// The same, parsed.
    pub root: ForeignCid,
    /// Name.
    pub name: Option<String>,
    /// Addresses of peers that have the data.
    pub origins: Vec<String>,
    /// Metadata.
    pub meta: BTreeMap<String, String>,
    /// Addresses that the client may send the data to.
    pub delegates: Vec<String>,
}

/// Returns the bucket that holds the pins of an owner.
pub(super) fn bucket_of(owner: OwnerId) -> BucketAddress {
    BucketAddress::new(owner, BucketName::pins())
}

/// Returns the condition that an object is as it was read.
pub(super) fn unchanged(record: &ObjectRecord) -> WriteConditions {
    let tags = Tags::Of(vec![record.etag.to_string()]);
    WriteConditions { if_match: Some(tags), if_none_match: None }
}

impl Service {
    /// Adds a pin of the caller, who may have `pins_max` of them. With `instead_of`, it takes the place of the pin
    /// with this id, and keeps what that one has until its own content is here.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchKey`]: there is no such pin to replace. [`ServiceError::TooManyPins`];
    /// [`ServiceError::OwnerQuotaExceeded`]: the quota is used up. [`ServiceError::AccessDenied`].
    pub async fn add_pin(
        &self,
        caller: &Caller,
        new: NewPin,
        instead_of: Option<&str>,
        pins_max: u64,
    ) -> Result<PinState, ServiceError> {
        let owner = owner_of(caller.identity.as_ref(), PinAction::Change)?;
        caller.pins.begin_write(self.arbiter().pins());
        self.arbiter().guard().require_disk()?;
        for _ in 0..TRIES {
            let head = self.own_pins(caller, owner).await?;
            let replaced = match instead_of {
                Some(id) => Some(self.found_pin(&head, id).await?),
                None => None,
            };
            if replaced.is_some() {
                // The new pin links what the old one has.
                caller.pins.note_source(head.row.pointer.generation);
            } else {
                self.check_new(owner, &head, pins_max).await?;
            }
            if let Some(added) = self.write_new(caller, &head, &new, replaced.as_ref()).await? {
                return Ok(added);
            }
        }
        Err(ServiceError::Busy(Applied::None))
    }

    /// Checks that an owner may have one more pin. Requests at the same moment may together exceed the limit.
    async fn check_new(
        &self,
        owner: OwnerId,
        head: &Head,
        pins_max: u64,
    ) -> Result<(), ServiceError> {
        if head.root.objects.count >= pins_max {
            return Err(ServiceError::TooManyPins(pins_max));
        }
        if self.pin_room(owner).await? == 0 {
            let max = self.committer.bucket_limits().owner_bytes();
            return Err(ServiceError::OwnerQuotaExceeded(max));
        }
        Ok(())
    }

    /// Writes a new pin. Returns `None` if the one that it replaces has changed since it was read.
    async fn write_new(
        &self,
        caller: &Caller,
        head: &Arc<Head>,
        new: &NewPin,
        replaced: Option<&(ObjectRecord, PinState)>,
    ) -> Result<Option<PinState>, ServiceError> {
        let first = self.first_free_time(head).await?;
        for created_ms in first..first + TIMES_MAX {
            let mut state = PinState {
                id: id_of(created_ms, self.random()),
                created_ms,
                cid: new.cid.clone(),
                name: new.name.clone(),
                origins: new.origins.clone(),
                meta: new.meta.clone(),
                delegates: new.delegates.clone(),
                ..PinState::default()
            };
            let change = new_pin(&mut state, replaced)?;
            let error = match self.change(caller, head, change, None).await {
                Ok(_) => return Ok(Some(state)),
                Err(ServiceError::InCommit { error, .. }) => *error,
                Err(error) => error,
            };
            match error {
                // Another pin has this time.
                ServiceError::PreconditionFailed(ConditionName::IfNoneMatch) => {}
                ServiceError::PreconditionFailed(ConditionName::IfMatch) => return Ok(None),
                error => return Err(error),
            }
        }
        Err(ServiceError::Busy(Applied::None))
    }

    /// Returns a pin of the caller.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchKey`], [`ServiceError::AccessDenied`].
    pub async fn pin(&self, caller: &Caller, id: &str) -> Result<PinState, ServiceError> {
        let owner = owner_of(caller.identity.as_ref(), PinAction::Read)?;
        let head = self.pins_of(caller, owner, Freshness::MayBeStale).await?;
        let head = head.ok_or(ServiceError::NoSuchKey)?;
        self.found_pin(&head, id).await.map(|(_, state)| state)
    }

    /// Removes a pin of the caller. What only it had is collected.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchKey`], [`ServiceError::AccessDenied`].
    pub async fn remove_pin(&self, caller: &Caller, id: &str) -> Result<(), ServiceError> {
        let owner = owner_of(caller.identity.as_ref(), PinAction::Change)?;
        caller.pins.begin_write(self.arbiter().pins());
        let head = self.pins_of(caller, owner, Freshness::Newest).await?;
        let head = head.ok_or(ServiceError::NoSuchKey)?;
        self.found_pin(&head, id).await?;
        let key = key_of(id).ok_or(ServiceError::NoSuchKey)?;
        // No other pin ever gets this key while this one has it, so whatever state it is in by now may go.
        let conditions = WriteConditions { if_match: Some(Tags::Any), if_none_match: None };
        let change = Change::Delete(KeyToDelete { key, version: None, conditions });
        self.change(caller, &head, change, None).await.map(drop)
    }

    /// Returns the caller's pins that fit a query.
    ///
    /// # Errors
    /// [`ServiceError::AccessDenied`].
    pub async fn list_pins(
        &self,
        caller: &Caller,
        query: &PinQuery,
    ) -> Result<PinPage, ServiceError> {
        let owner = owner_of(caller.identity.as_ref(), PinAction::Read)?;
        let mut page = PinPage::default();
        let Some(head) = self.pins_of(caller, owner, Freshness::MayBeStale).await? else {
            return Ok(page);
        };
        let first = match query.before {
            Some(0) => return Ok(page),
            Some(before) => key_of_time(before - 1),
            None => String::new(),
        };
        let mut cursor = Cursor::new(self.arbiter().nodes(), &head.root.objects);
        cursor.seek(first.as_bytes()).await?;
        while let Some(entry) = cursor.next().await? {
            let (_, pin) = self.pin_of(&entry).await?;
            if query.after.is_some_and(|after| pin.created_ms <= after) {
                break;
            }
            if query.fits(&pin) {
                page.count += 1;
                if page.pins.len() < query.limit {
                    page.pins.push(pin);
                }
            }
        }
        Ok(page)
    }

    /// Returns the bytes that an owner may still store; the largest number if there is no quota.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn pin_room(&self, owner: OwnerId) -> Result<u64, ServiceError> {
        self.committer.owner_room(owner).await
    }

    /// Returns the state of the bucket with an owner's pins, if there is one.
    pub(super) async fn pins_of(
        &self,
        caller: &Caller,
        owner: OwnerId,
        freshness: Freshness,
    ) -> Result<Option<Arc<Head>>, ServiceError> {
        self.note_read(caller);
        let head = self.state(caller, &bucket_of(owner), freshness).await?;
        if let Some(head) = &head {
            caller.pins.pin_head(head);
        }
        Ok(head)
    }

    /// Does the same for a new pin, for which the bucket is made if there is none.
    async fn own_pins(&self, caller: &Caller, owner: OwnerId) -> Result<Arc<Head>, ServiceError> {
        if let Some(head) = self.pins_of(caller, owner, Freshness::Newest).await? {
            return Ok(head);
        }
        let change = Change::CreateBucket {
            id: BucketId(self.random()),
            salt: Salt(self.random()),
            settings: Vec::new(),
            // Every owner may have one, whatever names of buckets are unique among.
            global_name: GlobalName::Keep,
            content: None,
        };
        let request = CommitRequest::of(caller, None, None, change);
        match self.submit(caller, &bucket_of(owner), request).await {
            Ok(_) | Err(ServiceError::BucketAlreadyOwned) => {}
            Err(error) => return Err(error),
        }
        let made = self.pins_of(caller, owner, Freshness::Newest).await?;
        made.ok_or(ServiceError::Busy(Applied::None))
    }

    /// Returns the pin with an id, with its record.
    pub(super) async fn found_pin(
        &self,
        head: &Head,
        id: &str,
    ) -> Result<(ObjectRecord, PinState), ServiceError> {
        let key = key_of(id).ok_or(ServiceError::NoSuchKey)?;
        let record = self.record(head, &key).await?.ok_or(ServiceError::NoSuchKey)?;
        let state = state_of(&self.attached(&record.metadata).await?)?;
        if state.id == id { Ok((record, state)) } else { Err(ServiceError::NoSuchKey) }
    }

    /// Reads a pin from an entry of the tree.
    pub(super) async fn pin_of(
        &self,
        entry: &Entry,
    ) -> Result<(ObjectRecord, PinState), ServiceError> {
        let record = ObjectRecord::decode(&entry.value, entry.weight)?;
        let state = state_of(&self.attached(&record.metadata).await?)?;
        Ok((record, state))
    }

    /// Returns the time for a new pin: now, or the first millisecond that is later than the newest pin.
    async fn first_free_time(&self, head: &Head) -> Result<u64, ServiceError> {
        let now = self.arbiter().now().await?;
        let mut cursor = Cursor::new(self.arbiter().nodes(), &head.root.objects);
        cursor.seek(&[]).await?;
        let newest = match cursor.next().await? {
            Some(entry) => self.pin_of(&entry).await?.1.created_ms,
            None => 0,
        };
        Ok(now.max(newest + 1))
    }
}

/// Returns the change that adds a pin, in place of another one if that is given.
fn new_pin(
    state: &mut PinState,
    replaced: Option<&(ObjectRecord, PinState)>,
) -> Result<Change, ServiceError> {
    let nothing = WriteConditions { if_match: None, if_none_match: Some(Tags::Any) };
    let key = |id: &str| key_of(id).ok_or_else(|| ServiceError::bug("the id of a pin has no key"));
    let Some((old, before)) = replaced else {
        let (record, blocks) = record_of(state, None)?;
        let (key, source) = (key(&state.id)?, Source::Record(Box::new(record)));
        return Ok(Change::Write { key, source, conditions: nothing, blocks });
    };
    state.index_bytes = before.index_bytes;
    let content = old.content.filter(|_| before.index_bytes > 0).map(|cid| (cid, old.size));
    let (record, blocks) = record_of(state, content)?;
    let step = |key: ObjectKey, conditions, kind| Step { key, conditions, kind };
    let write = StepKind::Write { record: Box::new(record), blocks };
    let all = vec![
        step(key(&before.id)?, unchanged(old), StepKind::Delete),
        step(key(&state.id)?, nothing, write),
    ];
    Ok(Change::Commit(Steps { all, each: false }))
}

/// Takes the record out of the answer to a change.
pub(super) fn written(answer: Answer) -> Result<ObjectRecord, ServiceError> {
    match answer {
        Answer::Object(record) => Ok(*record),
        other => Err(ServiceError::bug(format!("a pin answered {other:?}"))),
    }
}
