//! Putting the pieces together: the stores of a data directory, and the service on them.

use std::{path::Path, sync::Arc};

use fula_core::{BlockStore, Directory, RootPointerStore, WriterId, tree::Nodes};
use fula_service::{Committer, Limits, NamePolicy, Random, Service, keys::KeyRing, system_random};
use fula_stores::{LocalStore, OpenError, local::system_clock};

use crate::files::{self, FileError};

/// A data directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// Of the log.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Of another file.
    #[error(transparent)]
    File(#[from] FileError),
}

/// An open data directory with everything that works on it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) store: LocalStore,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) keys: KeyRing,
    pub(crate) service: Service,
}

impl Node {
    /// Opens `data_dir`. Blocks the thread while the log is read back.
    pub(crate) fn open(
        data_dir: &Path,
        secrets_key_file: Option<&Path>,
        limits: Limits,
        names: NamePolicy,
        despite_damage: bool,
    ) -> Result<Self, NodeError> {
        let random: Random = system_random();
        files::make_data_dir(data_dir)?;
        let store = LocalStore::open(data_dir, system_clock(), despite_damage)?;
        let sealing = files::sealing_key(data_dir, secrets_key_file, &random)?;
        let directory: Arc<dyn Directory> = Arc::clone(&store.directory) as _;
        let keys = KeyRing::new(directory, sealing, Arc::clone(&random));
        let blocks: Arc<dyn BlockStore> = Arc::clone(&store.blocks) as _;
        let roots: Arc<dyn RootPointerStore> = Arc::clone(&store.roots) as _;
        let nodes = Arc::new(Nodes::new(blocks, limits.cache_bytes));
        let mut writer = [0; 16];
        random(&mut writer);
        let committer = Committer::new(Arc::clone(&nodes), roots, WriterId(writer), limits);
        let service = Service::new(committer, random, names);
        Ok(Self { store, nodes, keys, service })
    }
}
