//! The storage node of a data directory: its keys, its holds, and whether the directory is one of a node.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use fula_core::{MetadataStore, StoreError, metadata::Table};
use fula_ingest::{DiskId, NodeLimits, SigningKey, StorageNode};
use fula_service::{Keeper, auth::SealingKey};
use fula_stores::{LocalStore, local::system_clock};

use super::{Node, NodeError, Purpose, read_text};
use crate::{
    config::Backends,
    files::{self, FileError},
};

/// Record of what a data directory is for, if it is not that of a gateway.
const ROLE: &str = "role";

/// The role of the data directory of a storage node.
const STORAGE_NODE: &str = "storage-node";

/// Record of the public key of the storage node in a data directory. Receipts, and the records of objects that are
/// mapped to the node, name this key.
const NODE_KEY: &str = "storage-node-key";

/// The keys that are derived from the sealing key.
#[derive(Debug)]
pub(super) struct NodeKeys {
    /// Signs tickets and requests to storage nodes; all masters of an arbiter have it.
    master: Arc<SigningKey>,
    /// Signs receipts and requests to masters.
    node: Arc<SigningKey>,
}

impl NodeKeys {
    /// Returns the keys of the data directory of `records`. Its storage node keeps the key that it has, whichever
    /// line of the key file that is. A command that lacks the line does not act as the node, and goes on.
    ///
    /// # Errors
    /// [`NodeError::OtherNodeKey`] for a process that serves, if no line is that key and the node holds blocks. Under
    /// another key, masters would say that nobody needs them, and a collection would delete them.
    pub(super) async fn of(
        sealing: &SealingKey,
        records: &dyn MetadataStore,
        purpose: Purpose,
        file: impl FnOnce() -> PathBuf,
    ) -> Result<Self, NodeError> {
        let mut node = sealing.node_key();
        if let Some(known) = read_text(records, Table::Modes, NODE_KEY).await? {
            let same = sealing.node_keys().find(|key| key.public().to_string() == known);
            let serves = matches!(purpose, Purpose::Serve(_) | Purpose::Store);
            match same {
                Some(same) => node = same,
                None if serves && holds_blocks(records).await? => {
                    return Err(NodeError::OtherNodeKey(file()));
                }
                None => {}
            }
        }
        Ok(Self { master: Arc::new(sealing.ticket_key()), node: Arc::new(node) })
    }

    /// Records the key of the storage node in the data directory of `records`.
    async fn note(&self, records: &dyn MetadataStore) -> Result<(), StoreError> {
        let key = Bytes::from(self.node.public().to_string());
        let found = records.read(Table::Modes, NODE_KEY).await?;
        let version = found.as_ref().map_or(0, |entry| entry.version);
        if found.and_then(|entry| entry.value).as_ref() != Some(&key) {
            records.write(Table::Modes, NODE_KEY, version, Some(key)).await?;
        }
        Ok(())
    }
}

/// Returns whether a storage node holds any block.
async fn holds_blocks(records: &dyn MetadataStore) -> Result<bool, StoreError> {
    Ok(!records.list(Table::Holds, Some("hold-"), 1).await?.is_empty())
}

impl Node {
    /// Keeps what a storage node in this data directory holds from a command that collects. A process that
    /// serves opens the storage node itself.
    pub(super) async fn with_holds_kept(self, purpose: Purpose) -> Result<Self, NodeError> {
        let is_command = !matches!(purpose, Purpose::Serve(_) | Purpose::Store);
        if is_command && self.owns_blocks() && self.has_holds().await? {
            self.open_holds(NodeLimits::default()).await?;
        }
        Ok(self)
    }

    /// Returns whether a storage node in this data directory holds blocks.
    pub(crate) async fn has_holds(&self) -> Result<bool, StoreError> {
        Ok(!self.store.metadata.list(Table::Holds, None, 1).await?.is_empty())
    }

    /// Returns whether the data directory is that of a storage node.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn is_of_storage_node(&self) -> Result<bool, StoreError> {
        let role = read_text(self.store.metadata.as_ref(), Table::Modes, ROLE).await?;
        Ok(role.as_deref() == Some(STORAGE_NODE))
    }

    /// Returns the key with which the masters of this arbiter sign tickets and requests to storage nodes.
    pub(crate) fn master_key(&self) -> Arc<SigningKey> {
        Arc::clone(&self.keys.master)
    }

    /// Returns the key with which a storage node in this data directory signs.
    pub(crate) fn node_key(&self) -> Arc<SigningKey> {
        Arc::clone(&self.keys.node)
    }

    /// Opens the storage node of this data directory, which keeps its key from then on. The collector leaves alone
    /// what it holds.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn open_storage(&self, limits: NodeLimits) -> Result<StorageNode, StoreError> {
        self.keys.note(self.store.metadata.as_ref()).await?;
        self.open_holds(limits).await
    }

    async fn open_holds(&self, limits: NodeLimits) -> Result<StorageNode, StoreError> {
        let records = Arc::clone(&self.store.metadata) as Arc<dyn MetadataStore>;
        let (blocks, fresh) = (Arc::clone(self.nodes.blocks()), DiskId(self.service.draw()));
        let key = self.node_key();
        let opened = StorageNode::open(blocks, records, key, fresh, limits, system_clock()).await?;
        let holds = opened.clone();
        self.service.keep(Keeper(Arc::new(move || holds.kept())));
        Ok(opened)
    }
}

/// Refuses a directory of a master of a shared arbiter if no database is set, one with buckets of a single
/// master if one is, and a missing sealing key.
pub(super) async fn check_purpose_of(
    data_dir: &Path,
    store: &LocalStore,
    backends: &Backends,
    purpose: Purpose,
) -> Result<(), NodeError> {
    let has_any = async |table| -> Result<bool, StoreError> {
        Ok(!store.metadata.list(table, None, 1).await?.is_empty())
    };
    check_role(data_dir, store, purpose).await?;
    if backends.shared.is_some()
        && matches!(purpose, Purpose::Serve(_))
        && store.roots.counts().0 > 0
    {
        return Err(NodeError::OfSingleMaster(data_dir.to_owned()));
    }
    if backends.shared.is_none() && has_any(Table::Remembered).await? {
        return Err(NodeError::OfSharedArbiter(data_dir.to_owned()));
    }
    let is_sealed = has_any(Table::Keys).await? || has_any(Table::Sessions).await?;
    if is_sealed && backends.secrets_key_file.is_none() && !files::has_sealing_key(data_dir)? {
        return Err(NodeError::NoSealingKey(data_dir.to_owned()));
    }
    Ok(())
}

/// Refuses to serve S3 from the directory of a storage node, and the other way round.
async fn check_role(
    data_dir: &Path,
    store: &LocalStore,
    purpose: Purpose,
) -> Result<(), NodeError> {
    let role = read_text(store.metadata.as_ref(), Table::Modes, ROLE).await?;
    match (purpose, role.as_deref()) {
        (Purpose::Serve(_) | Purpose::MoveIn, Some(STORAGE_NODE)) => {
            return Err(NodeError::OfStorageNode(data_dir.to_owned()));
        }
        (Purpose::Store, Some(STORAGE_NODE)) => {}
        (Purpose::Store, _) if files::credentials_path(data_dir).exists() => {
            return Err(NodeError::OfGateway(data_dir.to_owned()));
        }
        (Purpose::Store, _) => {
            let value = Some(Bytes::from_static(STORAGE_NODE.as_bytes()));
            store.metadata.write(Table::Modes, ROLE, 0, value).await?;
        }
        _ => {}
    }
    Ok(())
}

/// Opens a data directory. Blocks the thread while the log is read back.
pub(super) fn open_store(
    data_dir: &Path,
    purpose: Purpose,
    despite_damage: bool,
) -> Result<LocalStore, NodeError> {
    let clock = system_clock();
    if purpose == Purpose::Read {
        let opened = tokio::task::block_in_place(|| LocalStore::open_read_only(data_dir, clock));
        return Ok(opened?);
    }
    let setting = FileError::of_setting("--data-dir (FULA_DATA_DIR)");
    if files::lacks_log(data_dir) {
        return Err(NodeError::LogLost(data_dir.to_owned()));
    }
    files::check_not_foreign(data_dir).map_err(&setting)?;
    files::check_own(data_dir).map_err(&setting)?;
    files::make_data_dir(data_dir).map_err(setting)?;
    Ok(tokio::task::block_in_place(|| LocalStore::open(data_dir, clock, despite_damage))?)
}
