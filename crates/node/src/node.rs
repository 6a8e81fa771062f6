//! Opens the stores that the settings name, and builds the service on them. Refuses combinations that would
//! damage data: other blocks, another sealing key, or settings that differ from those of the other masters.

mod blocks;
mod sealing;
mod storage;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use fula_core::{
    BlockStore, MetadataStore, PackDirectory, RootPointerStore, StoreError, WriterId,
    metadata::{Table, WriteOutcome},
    tree::Nodes,
};
use fula_service::{
    Arbiter, Limits, NamePolicy, Random, Recovery, RollbackGuard, Service, ServiceError,
    auth::{Authenticator, Clock, CredentialClock, KeyRing, Revocations, SealingKey},
    system_random,
};
use fula_stores::{
    LocalStore, ObjectStoreError, OpenError, PackedBlocks, PostgresArbiter, PostgresError,
    RecordDirectory, local::system_clock,
};

use self::{sealing::SEALING_KEY, storage::NodeKeys};
use crate::{
    config::{Backends, SharedArbiter},
    files::{self, FileError},
    gc::retention::Retention,
    ingest::MasterLinks,
    state::{Account, Pins, Running},
};

/// Time for which the record of an access key may be outdated on a master that did not change it.
const KEYS_FRESH_FOR: Duration = Duration::from_secs(2);

/// Stores that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// The log cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Another file of the data directory cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The shared arbiter cannot be used.
    #[error(transparent)]
    Arbiter(#[from] PostgresError),
    /// The block store outside the data directory cannot be used.
    #[error(transparent)]
    Blocks(#[from] ObjectStoreError),
    /// The metadata store, which holds the common settings of the masters, does not answer.
    #[error("cannot read the settings that the masters agreed on")]
    Modes(#[from] StoreError),
    /// The state that this master keeps of the arbiter cannot be read, or the arbiter does not answer.
    #[error("cannot read the last known state of the arbiter")]
    Memory(#[from] ServiceError),
    /// The directory is that of a master of a shared arbiter. Name the database, or choose another one.
    #[error(
        "the data directory {0} belongs to a master of a shared arbiter, whose buckets it does not hold; \
         set FULA_DATABASE_URL, or choose another --data-dir"
    )]
    OfSharedArbiter(PathBuf),
    /// The directory holds the buckets of a single master. Import them, or choose another one.
    #[error(
        "the data directory {0} holds the buckets of a single master, which a shared arbiter would not show; \
         copy them with fula roots import, and start this master with an empty --data-dir"
    )]
    OfSingleMaster(PathBuf),
    /// The directory is that of a storage node. Choose another one.
    #[error("the data directory {0} belongs to a storage node; choose another --data-dir")]
    OfStorageNode(PathBuf),
    /// The directory is that of a gateway. Choose another one.
    #[error("the data directory {0} belongs to a gateway; choose another --data-dir")]
    OfGateway(PathBuf),
    /// The file of the sealing key is missing. Restore it from a backup.
    #[error(
        "{0} holds access keys, and secrets.key, which encrypts them, is missing; copy it back \
         from a backup, or name its file with FULA_SECRETS_KEY_FILE"
    )]
    NoSealingKey(PathBuf),
    /// The arbiter has no record of the sealing key. Wait for the restore, or start a gateway.
    #[error(
        "the arbiter lacks the record of the key that encrypts its secrets: its tables are being \
         restored, or no gateway was ever started on it; wait until the restore has ended, or start a \
         gateway, and run the command again"
    )]
    NobodyDecided,
    /// The sealing key differs from that of the other masters. Use theirs.
    #[error(
        "no line of {0} is the key that encrypts this arbiter's secrets; put the line back, or copy the key file of \
         another master"
    )]
    OtherKey(PathBuf),
    /// No line of the key file is the key of the storage node in the data directory. Put the line back.
    #[error(
        "no line of {0} is the key of the storage node in this data directory, and it holds blocks: masters know them \
         under that key, and under another one they would be deleted; put the line back from a copy of the file, or \
         start with an empty data directory, and send the blocks again"
    )]
    OtherNodeKey(PathBuf),
    /// The log of a directory that was used before is gone. Mount or restore it.
    #[error(
        "{0} was used before, and its log is gone: there is a file credentials and no segment in log/; mount or \
         restore the log, or remove the file credentials to begin with an empty gateway"
    )]
    LogLost(PathBuf),
    /// The block store differs from that of the other masters. Use theirs.
    #[error(
        "FULA_BLOCKS names other blocks than those that this arbiter's masters have used, or no blocks; check \
         that its file system is mounted, and name the same store on every master and at every start (to move \
         a store, copy all of it, with its object fula-store)"
    )]
    OtherBlocks,
    /// A setting differs from that of the other masters. Use theirs.
    #[error("this arbiter is used with {name}={theirs}, and here it is {ours}; they must agree")]
    Disagree {
        /// The name of the setting.
        name: &'static str,
        /// Its value at the other masters, which the arbiter keeps.
        theirs: String,
        /// Its value here.
        ours: &'static str,
    },
}

/// The purpose for which a data directory is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A master. It decides common settings that no master has decided yet, and recoveries wait for it.
    Serve(NamePolicy),
    /// A command. It takes the settings that the masters agreed on, and decides none, because it may run
    /// while the arbiter's tables are being restored. It makes no tables and no directory for blocks.
    Administer,
    /// A command that moves a single master into a shared arbiter. It decides the sealing key and the block
    /// store if the arbiter is empty. It takes the other settings as other commands do.
    MoveIn,
    /// A command that changes nothing in the data directory of a single master.
    Read,
    /// A storage node.
    Store,
}

/// An open data directory, with its stores and the service on them.
#[derive(Debug)]
pub(crate) struct Node {
    /// The store in the data directory. It holds all state, or with a shared arbiter this master's own state.
    pub(crate) store: LocalStore,
    pub(crate) nodes: Arc<Nodes>,
    /// The store of access keys, revocations and the common settings of the masters.
    pub(crate) metadata: Arc<dyn MetadataStore>,
    pub(crate) authenticator: Authenticator,
    pub(crate) service: Service,
    /// The recovery of a shared arbiter that went back in time.
    pub(crate) recovery: Option<Recovery>,
    /// The scope in which bucket names are unique.
    pub(crate) names: NamePolicy,
    /// The places of all stores.
    pub(crate) backends: Backends,
    /// The outcome of collections.
    pub(crate) collections: Account,
    /// How long they keep replaced and deleted content.
    pub(crate) retention: Retention,
    /// The state of the gateway that runs on this node; unset if a command opened it.
    pub(crate) running: OnceLock<Running>,
    /// What pins buckets; unset unless a gateway runs on this node and has targets.
    pub(crate) pins: OnceLock<Arc<dyn Pins>>,
    /// The masters of a storage node; unset unless one runs on this node.
    pub(crate) masters: OnceLock<Arc<MasterLinks>>,
    /// The service with its storage nodes; unset if a command opened the node.
    pub(crate) with_nodes: OnceLock<Service>,
    owns_blocks: bool,
    keys: NodeKeys,
    /// The blocks in packs, where they are not in the data directory.
    packs: Option<Arc<PackedBlocks>>,
}

/// Opens the block store that is named by a URL. Without a shared arbiter, the directory of packs lies in
/// `memory`.
async fn open_packed(
    backends: &Backends,
    url: &str,
    (metadata, memory): (&dyn MetadataStore, &Arc<dyn MetadataStore>),
    packs: Option<Arc<dyn PackDirectory>>,
    purpose: Purpose,
    random: &Random,
) -> Result<Arc<PackedBlocks>, NodeError> {
    let credentials = &backends.blocks_credentials;
    let (objects, name) = blocks::open(url, credentials, metadata, purpose, random).await?;
    let packs = match packs {
        Some(packs) => packs,
        None => Arc::new(RecordDirectory::open(Arc::clone(memory)).await?),
    };
    let random = Arc::clone(random);
    let packed = PackedBlocks::open(objects, &name, packs, Arc::new(move || fresh_id(&random)));
    let packed = packed.await?;
    packed.use_scratch(backends.data_dir.clone());
    Ok(Arc::new(packed))
}

impl Node {
    /// Opens the stores, and builds the service on them. Blocks the thread while the log is read back.
    pub(crate) async fn open(
        backends: &Backends,
        limits: Limits,
        purpose: Purpose,
        despite_damage: bool,
    ) -> Result<Self, NodeError> {
        let random: Random = system_random();
        let data_dir = &backends.data_dir;
        let store = storage::open_store(data_dir, purpose, despite_damage)?;
        storage::check_purpose_of(data_dir, &store, backends, purpose).await?;
        let sealing = files::sealing_key(data_dir, backends.secrets_key_file.as_deref(), &random)?;
        let master_keys = sealing.master_keys();
        let key_file = || {
            let named = backends.secrets_key_file.clone();
            named.unwrap_or_else(|| files::own_sealing_key(data_dir))
        };
        let own = store.metadata.as_ref();
        let keys_of_node = NodeKeys::of(&sealing, own, purpose, key_file).await?;
        let mut roots: Arc<dyn RootPointerStore> = Arc::clone(&store.roots) as _;
        let mut metadata: Arc<dyn MetadataStore> = Arc::clone(&store.metadata) as _;
        let mut fresh_for = Duration::ZERO;
        let memory: Arc<dyn MetadataStore> = Arc::clone(&store.metadata) as _;
        let mut guard = RollbackGuard::new(None, true);
        let mut names = NamePolicy::PerOwner;
        if let Purpose::Serve(ours) = purpose {
            names = ours;
        }
        let mut is_watched = false;
        let mut packs: Option<Arc<dyn PackDirectory>> = None;
        if backends.shared.is_none() {
            sealing::choose(store.metadata.as_ref(), &sealing, key_file).await?;
        }
        if let Some(shared) = &backends.shared {
            let opened = open_shared(backends, shared, &sealing, purpose).await?;
            (roots, metadata, names) = (opened.roots, opened.metadata, opened.names);
            packs = Some(opened.packs);
            is_watched = opened.compares;
        }
        if backends.shared.is_some() {
            fresh_for = KEYS_FRESH_FOR;
            guard = if is_watched {
                RollbackGuard::open(Some(Arc::clone(&memory))).await?
            } else {
                RollbackGuard::new(None, false)
            };
        }
        let owns_blocks = backends.shared.is_none() && backends.blocks_url.is_none();
        let packed = match &backends.blocks_url {
            Some(url) => {
                let metadata = (metadata.as_ref(), &memory);
                Some(open_packed(backends, url, metadata, packs, purpose, &random).await?)
            }
            None => None,
        };
        let blocks: Arc<dyn BlockStore> = match &packed {
            Some(packed) => Arc::clone(packed) as _,
            None => Arc::clone(&store.blocks) as _,
        };
        let nodes = Arc::new(Nodes::new(blocks, limits.cache_bytes));
        let writer = WriterId(fresh_id(&random));
        let arbiter = Arbiter::new(Arc::clone(&nodes), roots, writer, &limits, guard);
        let mut keys = KeyRing::new(Arc::clone(&metadata), sealing, Arc::clone(&random), fresh_for);
        // A master of a shared arbiter keeps copies of the records that it has read on its own disk.
        let disk = backends.shared.is_some().then(|| Arc::clone(&memory));
        if let Some(disk) = &disk {
            keys = keys.remembered_on(Arc::clone(disk), arbiter.clone());
        }
        let revocations = Revocations::open(Arc::clone(&metadata), disk).await?;
        let clock = credential_clock(&arbiter, is_watched);
        let authenticator = Authenticator::new(keys, revocations, clock);
        let recovery = if is_watched {
            let is_master = matches!(purpose, Purpose::Serve(_));
            let arbiter = arbiter.clone();
            let metadata = Arc::clone(&metadata);
            Some(Recovery::open(arbiter, metadata, memory, &random, names, is_master).await?)
        } else {
            None
        };
        if matches!(purpose, Purpose::Serve(_) | Purpose::Administer) {
            authenticator.keys().set_made_on(place(recovery.as_ref(), purpose));
        }
        if backends.shared.is_none() {
            arbiter.lease_to_itself();
        }
        let service = Service::new(arbiter, limits, random, names).with_master_keys(master_keys);
        let opened = Self {
            retention: Retention::of(service.committer().limits()),
            store,
            nodes,
            metadata,
            authenticator,
            service,
            recovery,
            names,
            backends: backends.clone(),
            collections: Account::default(),
            running: OnceLock::new(),
            pins: OnceLock::new(),
            masters: OnceLock::new(),
            with_nodes: OnceLock::new(),
            owns_blocks,
            packs: packed,
            keys: keys_of_node,
        };
        opened.with_holds_kept(purpose).await
    }

    /// Returns whether this master alone writes and needs the blocks of the store. Then every block that its
    /// root pointers do not lead to is garbage.
    pub(crate) fn owns_blocks(&self) -> bool {
        self.owns_blocks
    }

    /// Returns the blocks that may be collected by generation: those in packs, unless swaps do not compare.
    pub(crate) fn collectable_packs(&self) -> Option<&Arc<PackedBlocks>> {
        let compares = self.backends.shared.is_none() || self.recovery.is_some();
        self.packs.as_ref().filter(|_| compares)
    }

    /// Returns the root pointers of the arbiter, without the checks against a rollback.
    pub(crate) fn roots(&self) -> &Arc<dyn RootPointerStore> {
        self.service.arbiter().unchecked()
    }
}

/// Returns the clock by which credentials are checked: the arbiter's if other masters share it.
fn credential_clock(arbiter: &Arbiter, is_watched: bool) -> Clock {
    if !is_watched {
        return system_clock();
    }
    let clock = CredentialClock::new(arbiter.clone(), system_clock());
    Arc::new(move || clock.now())
}

/// Returns the name of this machine; empty if it has none.
pub(crate) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// Returns the name of this process in lists: the host, and the name of the master if it is one of several.
fn place(recovery: Option<&Recovery>, purpose: Purpose) -> String {
    match recovery {
        Some(recovery) if matches!(purpose, Purpose::Serve(_)) => {
            format!("{}/{}", host_name(), recovery.name())
        }
        _ => host_name(),
    }
}

/// Returns 16 random bytes.
fn fresh_id(random: &Random) -> [u8; 16] {
    let mut id = [0; 16];
    random(&mut id);
    id
}

/// A shared arbiter, and the settings that its masters agreed on.
struct OpenedArbiter {
    roots: Arc<dyn RootPointerStore>,
    metadata: Arc<dyn MetadataStore>,
    packs: Arc<dyn PackDirectory>,
    compares: bool,
    names: NamePolicy,
}

/// Record of whether swaps compare, `on` or `off`.
const CAS: &str = "bucket-root-cas";

/// Record of the scope in which bucket names are unique, `owner` or `global`.
const NAMES: &str = "bucket-names";

/// Record of the name of the block store.
const BLOCKS: &str = "blocks";

/// Opens a shared arbiter, and refuses settings that differ from those of its other masters.
async fn open_shared(
    backends: &Backends,
    shared: &SharedArbiter,
    sealing: &SealingKey,
    purpose: Purpose,
) -> Result<OpenedArbiter, NodeError> {
    let open = async |compares| match purpose {
        Purpose::Serve(_) | Purpose::MoveIn | Purpose::Store => {
            PostgresArbiter::open(&shared.database_url, compares).await
        }
        Purpose::Administer | Purpose::Read => {
            PostgresArbiter::open_existing(&shared.database_url, compares).await
        }
    };
    let mut arbiter = open(shared.compares).await?;
    let metadata: Arc<dyn MetadataStore> = Arc::clone(&arbiter.metadata) as _;
    if purpose == Purpose::MoveIn {
        check_whole(arbiter.roots.as_ref(), metadata.as_ref()).await?;
    }
    let fingerprint = sealing.fingerprint();
    match agreed(metadata.as_ref(), SEALING_KEY, purpose, &fingerprint).await? {
        Some(theirs) if sealing.use_line(&theirs) => {}
        Some(_) => {
            let file = backends.secrets_key_file.clone();
            return Err(NodeError::OtherKey(file.unwrap_or_default()));
        }
        None => return Err(NodeError::NobodyDecided),
    }
    let (compares, names) = match purpose {
        Purpose::Serve(names) => {
            let cas = if shared.compares { "on" } else { "off" };
            for (name, mode, ours) in
                [("FULA_BUCKET_ROOT_CAS", CAS, cas), ("FULA_BUCKET_NAMES", NAMES, names.as_str())]
            {
                let theirs = agree(metadata.as_ref(), mode, ours).await?;
                if theirs != ours {
                    return Err(NodeError::Disagree { name, theirs, ours });
                }
            }
            (shared.compares, names)
        }
        Purpose::Administer | Purpose::MoveIn | Purpose::Read | Purpose::Store => {
            let mode = async |mode| read_text(metadata.as_ref(), Table::Modes, mode).await;
            let compares = mode(CAS).await?.as_deref() != Some("off");
            let is_global = mode(NAMES).await?.as_deref() == Some("global");
            (compares, if is_global { NamePolicy::Global } else { NamePolicy::PerOwner })
        }
    };
    if !compares {
        tracing::warn!("FULA_BUCKET_ROOT_CAS is off: masters overwrite each other's updates");
        if shared.compares {
            arbiter = open(false).await?;
        }
    }
    Ok(OpenedArbiter { roots: arbiter.roots, metadata, packs: arbiter.packs, compares, names })
}

/// Refuses an arbiter that is not empty and lacks the record of the sealing key, which every arbiter in use
/// has: its tables are being restored.
async fn check_whole(
    roots: &dyn RootPointerStore,
    metadata: &dyn MetadataStore,
) -> Result<(), NodeError> {
    let mut is_empty = roots.scan_roots(None, 1).await?.value.is_empty();
    for table in [Table::Keys, Table::Sessions, Table::Revocations, Table::Masters] {
        is_empty &= metadata.list(table, None, 1).await?.is_empty();
    }
    if !is_empty && read_text(metadata, Table::Modes, SEALING_KEY).await?.is_none() {
        return Err(NodeError::NobodyDecided);
    }
    Ok(())
}

/// Returns the value of a common setting. If no master has decided it yet, a gateway that starts decides it,
/// and a command gets `None`.
async fn agreed(
    metadata: &dyn MetadataStore,
    mode: &str,
    purpose: Purpose,
    ours: &str,
) -> Result<Option<String>, StoreError> {
    match purpose {
        Purpose::Serve(_) | Purpose::MoveIn | Purpose::Store => {
            agree(metadata, mode, ours).await.map(Some)
        }
        Purpose::Administer | Purpose::Read => read_text(metadata, Table::Modes, mode).await,
    }
}

/// Returns the value of a common setting. The first master that calls this decides it.
async fn agree(metadata: &dyn MetadataStore, mode: &str, ours: &str) -> Result<String, StoreError> {
    let value = Some(Bytes::copy_from_slice(ours.as_bytes()));
    match metadata.write(Table::Modes, mode, 0, value).await? {
        WriteOutcome::Done(_) => Ok(ours.to_owned()),
        WriteOutcome::Conflict(_) => {
            Ok(read_text(metadata, Table::Modes, mode).await?.unwrap_or_default())
        }
    }
}

async fn read_text(
    metadata: &dyn MetadataStore,
    table: Table,
    name: &str,
) -> Result<Option<String>, StoreError> {
    let value = metadata.read(table, name).await?.and_then(|entry| entry.value);
    Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
}
