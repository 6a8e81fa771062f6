//! Admission of mappings, before they are queued, and the pins that follow a commit.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use fula_core::{
    Block, BucketName, Cid, Codec, ObjectKey, OwnerId,
    block::{Placement, SyncMark, require},
    bucket::{ETag, ObjectKind, ObjectRecord},
    content::FileNode,
};
use fula_ingest::{
    SignerId,
    mapping::{Leaves, Offered, Place, Placed, Proved, Refusal, leaves},
    receipt::SizedCid,
};
use futures::future::join_all;
use tokio::time::timeout;

use super::{MappedBlocks, Mapping, blocks::fetch, holders::Holders, pins::Delivery};
use crate::{
    auth::access::{Action, Target, Verb},
    caller::Caller,
    commit::{Change, Source, content_of},
    error::ServiceError,
    objects::{
        condition::WriteConditions,
        object::{CopySourceRequest, ObjectFacts},
        record::bare_record,
    },
    pins::PinnedBlocks,
    service::Service,
};

/// Longest time for which nodes are asked whether a block is there.
const PRESENCE: Duration = Duration::from_secs(5);

/// Largest number of blocks that are named to a node at a time.
const ASKED_MAX: usize = 1024;

/// Content that storage nodes hold.
#[derive(Clone, Debug)]
pub struct MapRequest {
    /// Address of the content: a raw block, or the root of a `UnixFS` file.
    pub cid: Cid,
    /// Length of the content in bytes.
    pub size: u64,
    /// Inner nodes of the file.
    pub nodes: Vec<Block>,
    /// Receipts, with the blocks that each is about.
    pub receipts: Vec<Offered>,
    /// An object that the caller may read, and that has some of the leaves.
    pub source: Option<CopySourceRequest>,
    /// Headers and metadata of the object.
    pub facts: ObjectFacts,
}

/// A mapping that was admitted.
pub(crate) struct Admitted {
    pub(crate) record: ObjectRecord,
    /// Inner nodes, holders and attached maps, which are stored with the commit.
    pub(crate) blocks: Vec<Block>,
    pub(crate) delivery: Delivery,
}

impl From<Refusal> for ServiceError {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::Malformed(_) | Refusal::Size { .. } | Refusal::TooManyNodes => {
                Self::InvalidRequest(text)
            }
            Refusal::Receipt(_) | Refusal::OtherOwner | Refusal::OtherBlocks => {
                Self::NotProved(text)
            }
            Refusal::UnknownDisk(_)
            | Refusal::OtherDisk(_)
            | Refusal::EndsSoon(_)
            | Refusal::Absent(_) => Self::NotHeld(text),
        }
    }
}

impl Service {
    /// Lets this service read mapped objects, and map objects if `mapping` says so.
    #[must_use]
    pub fn with_mapping(mut self, mapping: Mapping) -> Self {
        self.mapping = Some(mapping);
        self
    }

    /// Returns whether mappings are accepted.
    pub fn accepts_mappings(&self) -> bool {
        self.mapping.as_ref().is_some_and(|mapping| mapping.accepts)
    }

    /// Maps a key to content that storage nodes hold.
    ///
    /// # Errors
    /// [`ServiceError::InvalidRequest`]: mappings are off, or the content is malformed or of another length.
    /// [`ServiceError::NotProved`]: a receipt is not for the caller. [`ServiceError::NotHeld`]: send the
    /// blocks again, or the content itself. And the errors of a put.
    pub async fn map_object(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        key: ObjectKey,
        request: &MapRequest,
        conditions: WriteConditions,
    ) -> Result<ObjectRecord, ServiceError> {
        let target = self.resolve_for_write(caller, bucket, Action::PutObject, &key).await?;
        self.may_compare(caller, &target.head, &key, &conditions).await?;
        self.refuse_mapping(caller, &target.head.root, request.facts.encrypt).await?;
        let acl = self.acl_of_write(caller, &target.head, request.facts.acl.as_ref()).await?;
        let admitted = self.admit_mapping(caller, request).await;
        // Most clients number no calls, and then nothing has to be recognised.
        let idempotency_key = if caller.invocation.is_some() {
            let made_of = [fingerprint_of(request)?, conditions.to_bytes()];
            caller.idempotency_key("map", key.as_str(), &[&made_of[0], &made_of[1]])
        } else {
            None
        };
        let (source, blocks, delivery) = match admitted {
            Ok(Admitted { record, blocks, delivery }) => {
                let record = ObjectRecord { acl, ..record };
                (Source::Record(Box::new(record)), blocks, Some(delivery))
            }
            // The first attempt may have been carried out. Only the commit can tell.
            Err(error) if caller.is_retry() => (Source::Refused(error), Vec::new(), None),
            Err(error) => return Err(error),
        };
        let change = Change::Write { key, source, conditions, blocks };
        let record = self.write(caller, &target, change, idempotency_key).await?;
        self.deliver(delivery);
        Ok(record)
    }

    /// Decides whether the caller may map to this content, and makes the record.
    pub(crate) async fn admit_mapping(
        &self,
        caller: &Caller,
        request: &MapRequest,
    ) -> Result<Admitted, ServiceError> {
        let mapping = self.mapping.as_ref().filter(|mapping| mapping.accepts);
        let mapping = mapping.ok_or_else(|| {
            let text = "mappings are off here: let the operator set FULA_REMOTE_CID_PUT=on";
            ServiceError::InvalidRequest(text.to_owned())
        })?;
        let owner = caller.identity.as_ref().ok_or(ServiceError::AccessDenied)?.owner;
        let leaves = leaves(request.cid, request.size, &request.nodes)?;
        let mut proved = Proved::by(owner);
        let now = self.arbiter().now().await?;
        for offered in &request.receipts {
            prove_by_receipt(mapping, offered, now, &mut proved).await?;
        }
        if let Some(source) = &request.source {
            self.prove_by_object(caller, source, &mut proved).await?;
        }
        let missing: Vec<Cid> = proved.missing(&leaves).into_iter().map(|(cid, _)| *cid).collect();
        if !missing.is_empty() {
            check_may_ask(caller)?;
            ask_nodes(mapping, owner, now, &missing, &mut proved).await;
        }
        let mut placed = proved.admit(&leaves)?;
        if mapping.copies {
            self.copy_leaves(caller, mapping, &mut placed).await?;
        }
        let holders = Holders::of(placed)?;
        let (maps, mut blocks) = request.facts.clone().attach()?;
        blocks.extend(request.nodes.iter().cloned());
        let holders_block = holders.to_block();
        let record = ObjectRecord {
            kind: ObjectKind::Mapped,
            size: request.size,
            etag: ETag::Cid(request.cid),
            content: Some(request.cid),
            parts: Some(holders_block.cid()),
            ..bare_record(maps, None)
        };
        blocks.push(holders_block);
        let nodes: BTreeSet<SignerId> =
            holders.places().flat_map(|place| &place.nodes).copied().collect();
        let held = nodes.into_iter().map(|node| (node, proved.held_by(node, &leaves)));
        let nodes = held.filter(|(_, cids)| !cids.is_empty()).collect();
        Ok(Admitted { record, blocks, delivery: Delivery { owner, nodes } })
    }

    /// Adds the leaves of an object that the caller may read.
    async fn prove_by_object(
        &self,
        caller: &Caller,
        source: &CopySourceRequest,
        proved: &mut Proved,
    ) -> Result<(), ServiceError> {
        let CopySourceRequest { owner, bucket, key, version, conditions } = source;
        let head = self.resolve_source(caller, *owner, bucket, key, *version).await?;
        let found = self.found(&head, key, *version);
        let record = self.before_write(caller, "block store", found).await?;
        caller.pins.note_source(head.row.pointer.generation);
        conditions.judge_source(&record)?;
        if record.sse.is_some() {
            let text = "The object that a mapping names as its source is encrypted, so none of its blocks can \
                        be mapped.";
            return Err(ServiceError::InvalidRequest(text.to_owned()));
        }
        let blocks = self.arbiter().nodes().blocks().as_ref();
        let (mut stack, mut seen) = (vec![(content_of(&record)?, record.size)], HashSet::new());
        let mut found = Leaves::new();
        while let Some((cid, size)) = stack.pop() {
            if !seen.insert(cid) {
                continue;
            }
            if cid.codec() == Codec::Raw {
                found.push((cid, u32::try_from(size).unwrap_or(u32::MAX)));
                continue;
            }
            let node = FileNode::from_block(&require(blocks, &cid).await?)?;
            stack.extend(node.links.iter().map(|link| (link.cid, link.size)));
        }
        let (ObjectKind::Mapped, Some(link)) = (record.kind, record.parts) else {
            let owner = head.row.address.owner;
            proved.readable(Place { is_own: true, owner, nodes: BTreeSet::new() }, &found);
            return Ok(());
        };
        let holders = Holders::from_block(&require(blocks, &link).await?)?;
        for place in holders.places() {
            let is_here = |(cid, _): &&SizedCid| holders.place_of(cid) == Some(place);
            let leaves: Leaves = found.iter().filter(is_here).copied().collect();
            proved.readable(place.clone(), &leaves);
        }
        Ok(())
    }

    /// Fetches the leaves that only nodes have into the block store of the masters, and makes them durable.
    async fn copy_leaves(
        &self,
        caller: &Caller,
        mapping: &Mapping,
        placed: &mut [Placed],
    ) -> Result<(), ServiceError> {
        let own = self.arbiter().nodes().blocks();
        let mut kept = PinnedBlocks::new(self.arbiter().pins());
        kept.add(placed.iter().flat_map(|placed| &placed.leaves).map(|(cid, _)| *cid));
        caller.pins.pin_blocks(kept);
        let mut mark = SyncMark::default();
        for Placed { place, leaves } in placed {
            for (cid, _) in leaves.iter() {
                // What the block store has from elsewhere is no proof that the nodes have it.
                let known = if place.is_own { own.get(cid).await? } else { None };
                let block = match known {
                    Some(block) => block,
                    None => fetch(mapping.nodes.as_ref(), place, cid).await?.ok_or_else(|| {
                        ServiceError::NotHeld(format!("no node has block {cid} any more"))
                    })?,
                };
                // One that is there already is put again, which renews it for the collector.
                mark = mark.and(own.put(&[block], Placement::Bulk).await?);
            }
            place.is_own = true;
        }
        Ok(own.sync(mark).await?)
    }

    /// Asks the nodes for pins, in the background. What fails is logged: the node asks by itself before it
    /// deletes anything.
    pub(crate) fn deliver(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        let Some(mapping) = &self.mapping else { return };
        for delivery in deliveries {
            self.pin_queue.add(&mapping.nodes, delivery);
        }
    }

    /// Returns the blocks of a record: those of storage nodes, too, if it is mapped.
    pub(crate) fn blocks_of(&self, record: &ObjectRecord) -> Arc<dyn fula_core::BlockStore> {
        let own = Arc::clone(self.arbiter().nodes().blocks());
        match (&self.mapping, record.kind) {
            (Some(mapping), ObjectKind::Mapped) => {
                Arc::new(MappedBlocks::new(own, Arc::clone(&mapping.nodes), record.parts))
            }
            _ => own,
        }
    }
}

/// Adds what a receipt proves. If the disk of its node is not known, or another one, the node is asked for it: it
/// may have been replaced since it was heard of.
async fn prove_by_receipt(
    mapping: &Mapping,
    offered: &Offered,
    now: u64,
    proved: &mut Proved,
) -> Result<(), Refusal> {
    let known = |id| mapping.nodes.known(id);
    match proved.receipt(offered, now, known) {
        Err(Refusal::UnknownDisk(node) | Refusal::OtherDisk(node)) => {
            if timeout(PRESENCE, mapping.nodes.meet(node)).await.is_err() {
                tracing::debug!(%node, "a storage node does not say which disk it has");
            }
            proved.receipt(offered, now, known)
        }
        done => done,
    }
}

/// Refuses to ask nodes about all blocks of an owner for a credential that may not read all of them.
fn check_may_ask(caller: &Caller) -> Result<(), ServiceError> {
    let grant = caller.identity.as_ref().map(|identity| &identity.grant);
    if grant.is_some_and(|grant| grant.allows(Verb::Read, Target::Account)) {
        return Ok(());
    }
    let text = "this credential may not read all of the account, so a mapping needs the receipts of its \
                blocks (x-fula-receipt)";
    Err(ServiceError::NotProved(text.to_owned()))
}

/// Asks every node which of the blocks the owner holds, once and at the same time. A node that does not answer
/// in time has none of them.
async fn ask_nodes(
    mapping: &Mapping,
    owner: OwnerId,
    now: u64,
    missing: &[Cid],
    proved: &mut Proved,
) {
    let ask = |node| async move {
        let mut found = Vec::new();
        for cids in missing.chunks(ASKED_MAX) {
            match mapping.nodes.have(node, owner, cids).await {
                Ok(offered) => found.extend(offered),
                Err(away) => {
                    tracing::warn!(node = away.name, why = away.why, "a storage node is away");
                    break;
                }
            }
        }
        found
    };
    let asked = mapping.nodes.ids().into_iter().map(|node| timeout(PRESENCE, ask(node)));
    for offered in join_all(asked).await.into_iter().flatten().flatten() {
        // A receipt that ends too soon, or is of another disk, proves nothing.
        if let Err(why) = prove_by_receipt(mapping, &offered, now, proved).await {
            tracing::debug!(%why, "a storage node's answer proves nothing");
        }
    }
}

/// Returns what identifies a mapping for a retry.
pub(crate) fn fingerprint_of(request: &MapRequest) -> Result<Vec<u8>, ServiceError> {
    let (maps, _) = request.facts.clone().attach()?;
    let record = ObjectRecord {
        kind: ObjectKind::Mapped,
        size: request.size,
        etag: ETag::Cid(request.cid),
        ..bare_record(maps, None)
    };
    Ok(record.encode().to_vec())
}
