//! What a master needs to fetch pins, and how what a pin has is read.

use std::{collections::VecDeque, ops::Range};

use bytes::{Bytes, BytesMut};
use fula_core::{
    Cid, OwnerId, StoreError, bucket::ObjectRecord, content, foreign::ForeignCid, tree::Cursor,
};
use futures::{Stream, StreamExt, TryStreamExt, stream};

use super::{
    access::{PinAction, owner_of},
    intake::{DagIntake, read_index},
    requests::{unchanged, written},
    state::{PinState, PinStatus, key_of, record_of},
};
use crate::{
    caller::Caller,
    commit::{Change, Source},
    error::ServiceError,
    service::{Freshness, Service},
};

/// A pin as it is stored. A change of it applies to this state alone.
#[derive(Clone, Debug)]
pub struct StoredPin {
    /// Its state.
    pub state: PinState,
    record: ObjectRecord,
}

impl StoredPin {
    /// Returns a text that is another one after each change of the pin.
    pub fn tag(&self) -> String {
        self.record.etag.to_string()
    }

    /// Returns the bytes that its content takes of the quota.
    pub fn size(&self) -> u64 {
        self.record.size
    }

    /// Returns address and length of the content, if there is any.
    fn content(&self) -> Option<(Cid, u64)> {
        let cid = self.record.content.filter(|_| self.state.index_bytes > 0)?;
        Some((cid, self.record.size))
    }
}

/// The blocks of a pin: the CID and the length of each, and where its bytes begin in the content.
#[derive(Clone, Debug, Default)]
pub struct PinBlocks(Vec<(ForeignCid, Range<u64>)>);

impl PinBlocks {
    /// Returns the blocks in order, with their ranges of the content.
    pub fn iter(&self) -> impl Iterator<Item = (ForeignCid, Range<u64>)> + '_ {
        self.0.iter().cloned()
    }
}

impl Service {
    /// Returns the pins of an owner that wait or are being fetched.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn waiting_pins(&self, owner: OwnerId) -> Result<Vec<StoredPin>, ServiceError> {
        let caller = Caller::default();
        let head = self.pins_of(&caller, owner, Freshness::Newest).await?;
        let Some(head) = head else { return Ok(Vec::new()) };
        let mut cursor = Cursor::new(self.arbiter().nodes(), &head.root.objects);
        cursor.seek(&[]).await?;
        let mut found = Vec::new();
        while let Some(entry) = cursor.next().await? {
            let (record, state) = self.pin_of(&entry).await?;
            if matches!(state.status, PinStatus::Queued | PinStatus::Pinning) {
                found.push(stored(record, state));
            }
        }
        Ok(found)
    }

    /// Returns a pin of an owner, if it is there.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub async fn stored_pin(
        &self,
        owner: OwnerId,
        id: &str,
    ) -> Result<Option<StoredPin>, ServiceError> {
        let caller = Caller::default();
        let head = self.pins_of(&caller, owner, Freshness::Newest).await?;
        let Some(head) = head else { return Ok(None) };
        match self.found_pin(&head, id).await {
            Ok((record, state)) => Ok(Some(stored(record, state))),
            Err(ServiceError::NoSuchKey) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives a pin another state. Returns `None` if it is gone, or was changed since it was read.
    ///
    /// # Errors
    /// [`ServiceError::Busy`]: it may have been changed. [`ServiceError::Unavailable`].
    pub async fn change_pin(
        &self,
        owner: OwnerId,
        pin: &StoredPin,
        state: PinState,
    ) -> Result<Option<StoredPin>, ServiceError> {
        let caller = Caller::default();
        caller.pins.begin_write(self.arbiter().pins());
        self.write_pin(&caller, owner, pin, state, None).await
    }

    /// Gives a pin its content, and the status pinned. Returns `None` if it is gone, or was changed since.
    ///
    /// # Errors
    /// [`ServiceError::OwnerQuotaExceeded`], and those of [`Self::change_pin`].
    pub async fn finish_pin(
        &self,
        owner: OwnerId,
        pin: &StoredPin,
        intake: DagIntake,
    ) -> Result<Option<StoredPin>, ServiceError> {
        let dag = intake.finish().await?;
        let caller = Caller::default();
        caller.pins.begin_write(self.arbiter().pins());
        caller.pins.pin_blocks(dag.kept);
        let state = PinState {
            status: PinStatus::Pinned,
            blocks: dag.totals.blocks,
            bytes: dag.totals.bytes,
            index_bytes: dag.index_bytes,
            by: String::new(),
            error: String::new(),
            ..pin.state.clone()
        };
        self.write_pin(&caller, owner, pin, state, Some(dag.content)).await
    }

    async fn write_pin(
        &self,
        caller: &Caller,
        owner: OwnerId,
        pin: &StoredPin,
        state: PinState,
        new_content: Option<(Cid, u64)>,
    ) -> Result<Option<StoredPin>, ServiceError> {
        self.arbiter().guard().require_disk()?;
        let head = self.pins_of(caller, owner, Freshness::Newest).await?;
        let Some(head) = head else { return Ok(None) };
        if new_content.is_none() {
            // The newest root links the content, if the pin is unchanged in it. A collection may have raised the
            // generation of the row since the pin was read.
            caller.pins.note_source(head.row.pointer.generation);
        }
        let content = new_content.or_else(|| pin.content());
        let key = key_of(&state.id).ok_or_else(|| ServiceError::bug("a pin has no key"))?;
        let (record, blocks) = record_of(&state, content)?;
        let (conditions, source) = (unchanged(&pin.record), Source::Record(Box::new(record)));
        let change = Change::Write { key, source, conditions, blocks };
        match self.change(caller, &head, change, None).await {
            Ok(answer) => Ok(Some(stored(written(answer)?, state))),
            Err(ServiceError::NoSuchKey | ServiceError::PreconditionFailed(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the blocks that a pin has, which may be those of the pin that it replaces.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Damaged`].
    pub async fn pin_blocks(&self, pin: &StoredPin) -> Result<PinBlocks, ServiceError> {
        let Some((_, size)) = pin.content() else { return Ok(PinBlocks::default()) };
        let end = size.saturating_sub(pin.state.index_bytes);
        let index = read_all(self.content_of_pin(pin, end..size)).await?;
        let mut at = 0_u64;
        let place = |(cid, len)| {
            let range = at..at.saturating_add(u64::from(len));
            at = range.end;
            (cid, range)
        };
        Ok(PinBlocks(read_index(&index)?.into_iter().map(place).collect()))
    }

    /// Reads a range of the content of a pin. The caller holds the state that the pin was read from.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`], [`ServiceError::Damaged`].
    pub async fn read_pin(
        &self,
        pin: &StoredPin,
        range: Range<u64>,
    ) -> Result<Bytes, ServiceError> {
        read_all(self.content_of_pin(pin, range)).await
    }

    fn content_of_pin(
        &self,
        pin: &StoredPin,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, StoreError>> + Send + use<> {
        let blocks = self.arbiter().nodes().blocks();
        let (cid, size) = pin.content().unwrap_or((Cid::of(fula_core::Codec::Raw, &[]), 0));
        let range = range.start.min(size)..range.end.min(size);
        content::stream(std::sync::Arc::clone(blocks), cid, size, range)
    }

    /// Returns what a pin of the caller has as a CAR file, in pieces. The file has one root, and its blocks are those
    /// that were verified when they were fetched.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchKey`]: there is no such pin, or it is not pinned yet. [`ServiceError::AccessDenied`].
    pub async fn pin_file(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, StoreError>> + Send + use<>, ServiceError> {
        let owner = owner_of(caller.identity.as_ref(), PinAction::Read)?;
        let head = self.pins_of(caller, owner, Freshness::MayBeStale).await?;
        let head = head.ok_or(ServiceError::NoSuchKey)?;
        let (record, state) = self.found_pin(&head, id).await?;
        if state.status != PinStatus::Pinned {
            return Err(ServiceError::NoSuchKey);
        }
        let pin = stored(record, state);
        let blocks = self.pin_blocks(&pin).await?;
        let end = blocks.0.last().map_or(0, |(_, range)| range.end);
        // The body is read with the memory budget of bodies, and its blocks are kept meanwhile.
        let record = ObjectRecord { size: pin.record.size, ..pin.record.clone() };
        let content = self.read(caller, &record, 0..end).await?;
        let header = car_header(&pin.state.root()?);
        let file = CarFile { sections: blocks.0.into(), content, rest: Bytes::new(), left: 0 };
        let file = stream::try_unfold(file, |mut file| async move {
            Ok(file.next().await?.map(|piece| (piece, file)))
        });
        Ok(stream::iter([Ok(header)]).chain(file))
    }
}

fn stored(record: ObjectRecord, state: PinState) -> StoredPin {
    StoredPin { state, record }
}

async fn read_all(
    content: impl Stream<Item = Result<Bytes, StoreError>> + Send,
) -> Result<Bytes, ServiceError> {
    let mut all = BytesMut::new();
    futures::pin_mut!(content);
    while let Some(piece) = content.try_next().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

/// The content of a pin while it is cut into sections of a CAR file.
struct CarFile<S> {
    sections: VecDeque<(ForeignCid, Range<u64>)>,
    content: S,
    /// Bytes that were read and belong to this block or to later ones.
    rest: Bytes,
    /// Bytes of the current block that are still to come.
    left: u64,
}

impl<S: Stream<Item = Result<Bytes, StoreError>> + Unpin> CarFile<S> {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.left == 0 {
            let Some((cid, range)) = self.sections.pop_front() else { return Ok(None) };
            self.left = range.end - range.start;
            let inline = cid.inline().unwrap_or_default();
            let cid = cid.to_bytes();
            let mut head = Vec::with_capacity(cid.len() + inline.len() + 4);
            varint(self.left + (cid.len() + inline.len()) as u64, &mut head);
            head.extend(&cid);
            head.extend(inline);
            return Ok(Some(head.into()));
        }
        if self.rest.is_empty() {
            let cut = StoreError::Malformed { what: "pin", why: "its content ends too early" };
            self.rest = self.content.try_next().await?.ok_or(cut)?;
        }
        let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.rest.len());
        self.left -= len as u64;
        Ok(Some(self.rest.split_to(len)))
    }
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Returns the header of a CAR file: `{"roots": [CID], "version": 1}` in dag-cbor.
fn car_header(root: &ForeignCid) -> Bytes {
    let cid = root.to_bytes();
    let mut header = b"\xa2\x65roots\x81\xd8\x2a\x58".to_vec();
    header.push(u8::try_from(cid.len() + 1).unwrap_or(u8::MAX));
    header.push(0);
    header.extend(&cid);
    header.extend(b"\x67version\x01");
    let mut out = Vec::new();
    varint(header.len() as u64, &mut out);
    out.extend(header);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_a_file_is_what_readers_expect() {
        let cid = Cid::of(fula_core::Codec::Raw, b"x");
        let mut reader = fula_core::car::CarReader::default();
        reader.push(&car_header(&cid.to_string().parse().unwrap()));
        assert!(reader.next_block().unwrap().is_none());
        assert_eq!(reader.roots(), Some(&[cid][..]));
    }
}
