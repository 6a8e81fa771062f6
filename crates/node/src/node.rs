//! Putting the pieces together: the stores that the settings name, and the service on them.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use fula_core::{
    BlockStore, Directory, RootPointerStore, StoreError, WriterId,
    directory::{Table, WriteOutcome},
    tree::Nodes,
};
use fula_service::{
    Committer, Limits, NamePolicy, Random, Recovery, Service, ServiceError, Witness,
    keys::{KeyRing, SealingKey},
    system_random,
};
use fula_stores::{
    LocalStore, ObjectBlocks, ObjectStoreError, OpenError, PostgresArbiter, PostgresError,
    local::system_clock,
};

use crate::{
    config::{Backends, SharedArbiter},
    files::{self, FileError},
};

/// How long a key's record may be outdated on a master that did not change it.
const KEYS_FRESH_FOR: Duration = Duration::from_secs(2);

/// Stores that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// Of the log.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Of another file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Of the shared arbiter.
    #[error(transparent)]
    Arbiter(#[from] PostgresError),
    /// Of shared blocks.
    #[error(transparent)]
    Blocks(#[from] ObjectStoreError),
    /// The arbiter does not answer.
    #[error("cannot read what the masters agreed on")]
    Modes(#[from] StoreError),
    /// What this master remembers cannot be read, or the arbiter does not answer.
    #[error("cannot find out how far the arbiter had come")]
    Memory(#[from] ServiceError),
    /// Use the key that the other masters use.
    #[error(
        "{0} is not the key that this arbiter's secrets are sealed under; copy the key file of \
         another master"
    )]
    OtherKey(PathBuf),
    /// Use the setting that the other masters use.
    #[error("this arbiter is used with {name}={theirs}, and here it is {ours}; they must agree")]
    Disagree {
        /// Of the setting.
        name: &'static str,
        /// What the arbiter keeps.
        theirs: String,
        /// What is set here.
        ours: &'static str,
    },
}

/// An open data directory with everything that works on it.
#[derive(Debug)]
pub(crate) struct Node {
    /// The data directory: all state, or what this master keeps for itself.
    pub(crate) store: LocalStore,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) keys: KeyRing,
    pub(crate) service: Service,
    /// What watches a shared arbiter for going back in time.
    pub(crate) recovery: Option<Recovery>,
}

impl Node {
    /// Opens the stores. Blocks the thread while the log is read back.
    pub(crate) async fn open(
        backends: &Backends,
        limits: Limits,
        names: NamePolicy,
        despite_damage: bool,
    ) -> Result<Self, NodeError> {
        let random: Random = system_random();
        let data_dir = &backends.data_dir;
        files::make_data_dir(data_dir)?;
        let store = tokio::task::block_in_place(|| {
            LocalStore::open(data_dir, system_clock(), despite_damage)
        })?;
        let sealing = files::sealing_key(data_dir, backends.secrets_key_file.as_deref(), &random)?;
        let blocks: Arc<dyn BlockStore> = match &backends.blocks_url {
            Some(url) => Arc::new(ObjectBlocks::open(url)?),
            None => Arc::clone(&store.blocks) as _,
        };
        let mut roots: Arc<dyn RootPointerStore> = Arc::clone(&store.roots) as _;
        let mut directory: Arc<dyn Directory> = Arc::clone(&store.directory) as _;
        let mut fresh_for = Duration::ZERO;
        let memory: Arc<dyn Directory> = Arc::clone(&store.directory) as _;
        let mut witness = Witness::new(None, true);
        if let Some(shared) = &backends.shared {
            (roots, directory) = open_shared(backends, shared, &sealing, names).await?;
            fresh_for = KEYS_FRESH_FOR;
            witness = if shared.compares {
                Witness::open(Some(Arc::clone(&memory))).await?
            } else {
                Witness::new(None, false)
            };
        }
        let keys = KeyRing::new(Arc::clone(&directory), sealing, Arc::clone(&random), fresh_for);
        let nodes = Arc::new(Nodes::new(blocks, limits.cache_bytes));
        let mut writer = [0; 16];
        random(&mut writer);
        let committer =
            Committer::new(Arc::clone(&nodes), roots, WriterId(writer), limits, witness);
        let recovery = match &backends.shared {
            Some(shared) if shared.compares && backends.is_master => {
                let committer = committer.clone();
                Some(Recovery::open(committer, directory, memory.as_ref(), &random).await?)
            }
            _ => None,
        };
        let service = Service::new(committer, random, names);
        Ok(Self { store, nodes, keys, service, recovery })
    }

    /// Returns the arbiter.
    pub(crate) fn roots(&self) -> &Arc<dyn RootPointerStore> {
        self.service.committer().roots()
    }
}

/// Opens a shared arbiter, and refuses to disagree with its other masters.
async fn open_shared(
    backends: &Backends,
    shared: &SharedArbiter,
    sealing: &SealingKey,
    names: NamePolicy,
) -> Result<(Arc<dyn RootPointerStore>, Arc<dyn Directory>), NodeError> {
    let arbiter = PostgresArbiter::open(&shared.database_url, shared.compares).await?;
    let directory: Arc<dyn Directory> = arbiter.directory;
    let fingerprint = sealing.fingerprint();
    if agree(directory.as_ref(), "secrets-key", &fingerprint).await? != fingerprint {
        let file = backends.secrets_key_file.clone();
        return Err(NodeError::OtherKey(file.unwrap_or_default()));
    }
    let cas = if shared.compares { "on" } else { "off" };
    let names = match names {
        NamePolicy::PerOwner => "owner",
        NamePolicy::Global => "global",
    };
    for (name, mode, ours) in [
        ("FULA_BUCKET_ROOT_CAS", "bucket-root-cas", cas),
        ("FULA_BUCKET_NAMES", "bucket-names", names),
    ] {
        let theirs = agree(directory.as_ref(), mode, ours).await?;
        if theirs != ours {
            return Err(NodeError::Disagree { name, theirs, ours });
        }
    }
    if !shared.compares {
        tracing::warn!("FULA_BUCKET_ROOT_CAS is off: masters overwrite each other's updates");
    }
    Ok((arbiter.roots, directory))
}

/// Returns what the masters agreed on; the first to ask decides.
async fn agree(directory: &dyn Directory, mode: &str, ours: &str) -> Result<String, StoreError> {
    let value = Some(Bytes::copy_from_slice(ours.as_bytes()));
    let current = match directory.write(Table::Modes, mode, 0, value).await? {
        WriteOutcome::Done(_) => return Ok(ours.to_owned()),
        WriteOutcome::Conflict(current) => current.and_then(|entry| entry.value),
    };
    Ok(String::from_utf8_lossy(&current.unwrap_or_default()).into_owned())
}
