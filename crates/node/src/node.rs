//! Putting the pieces together: the stores that the settings name, and the service on them.

use std::{
    path::{Path, PathBuf},
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
    LocalStore, ObjectStoreError, Objects, OpenError, PackedBlocks, PostgresArbiter, PostgresError,
    RecordDirectory, local::system_clock,
};

use crate::{
    config::{Backends, SharedArbiter},
    files::{self, FileError},
    state::{Account, Running},
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
    /// Name the database, or begin with another directory.
    #[error(
        "the data directory {0} belongs to a master of a shared arbiter, whose buckets it does not hold; \
         set FULA_DATABASE_URL, or choose another --data-dir"
    )]
    OfSharedArbiter(PathBuf),
    /// Restore the key from a backup.
    #[error(
        "{0} holds access keys, and secrets.key, under which they are sealed, is missing; copy it back \
         from a backup, or name its file with FULA_SECRETS_KEY_FILE"
    )]
    NoSealingKey(PathBuf),
    /// Wait for the restore, or start a gateway.
    #[error(
        "the arbiter lacks the record of the key that its secrets are sealed under: its tables are being \
         restored, or no gateway was ever started on it; wait until the restore has ended, or start a \
         gateway, and run the command again"
    )]
    NobodyDecided,
    /// Use the key that the other masters use.
    #[error(
        "{0} is not the key that this arbiter's secrets are sealed under; copy the key file of \
         another master"
    )]
    OtherKey(PathBuf),
    /// Use the blocks that the other masters use.
    #[error(
        "the blocks that FULA_BLOCKS names are not those that this arbiter's masters have used; it must \
         lead every master, at every start, to the same store (to move one, copy it with its object fula-store)"
    )]
    OtherBlocks,
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

/// What a data directory is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A master: it decides what nobody has decided yet, and recoveries wait for it.
    Serve(NamePolicy),
    /// A command: it takes what the masters agreed on, and never decides: it may run while the arbiter's
    /// tables are being restored. It makes no tables and no directory for blocks.
    Administer,
    /// A command that moves a single master into a shared arbiter: into an empty one it brings the sealing
    /// key and the blocks, and takes the rest as other commands do.
    MoveIn,
    /// A command that changes nothing in the data directory of a single master.
    Read,
}

/// An open data directory with everything that works on it.
#[derive(Debug)]
pub(crate) struct Node {
    /// The data directory: all state, or what this master keeps for itself.
    pub(crate) store: LocalStore,
    pub(crate) nodes: Arc<Nodes>,
    /// What the masters agreed on, and their keys.
    pub(crate) metadata: Arc<dyn MetadataStore>,
    pub(crate) authenticator: Authenticator,
    pub(crate) service: Service,
    /// What watches a shared arbiter for going back in time.
    pub(crate) recovery: Option<Recovery>,
    /// What bucket names are unique within.
    pub(crate) names: NamePolicy,
    /// Where everything is kept.
    pub(crate) backends: Backends,
    /// What is known of collections.
    pub(crate) collections: Account,
    /// What the gateway says that runs on it; nothing where a command opened it.
    pub(crate) running: OnceLock<Running>,
    owns_blocks: bool,
}

impl Node {
    /// Opens the stores. Blocks the thread while the log is read back.
    pub(crate) async fn open(
        backends: &Backends,
        limits: Limits,
        purpose: Purpose,
        despite_damage: bool,
    ) -> Result<Self, NodeError> {
        let random: Random = system_random();
        let data_dir = &backends.data_dir;
        let store = open_store(data_dir, purpose, despite_damage)?;
        check_purpose_of(data_dir, &store, backends).await?;
        let sealing = files::sealing_key(data_dir, backends.secrets_key_file.as_deref(), &random)?;
        let only_looks = matches!(purpose, Purpose::Administer | Purpose::Read);
        let mut objects = match &backends.blocks_url {
            Some(url) if !only_looks => Some(Objects::open(url)?),
            _ => None,
        };
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
        if let Some(shared) = &backends.shared {
            let opened = open_shared(backends, shared, &sealing, purpose).await?;
            (roots, metadata, names) = (opened.roots, opened.metadata, opened.names);
            packs = Some(opened.packs);
            is_watched = opened.compares;
        }
        // A command makes no directory for blocks, and says first if the arbiter was never used.
        if let (Some(url), true) = (&backends.blocks_url, only_looks) {
            objects = Some(Objects::open_existing(url)?);
        }
        if backends.shared.is_some() {
            fresh_for = KEYS_FRESH_FOR;
            guard = if is_watched {
                RollbackGuard::open(Some(Arc::clone(&memory))).await?
            } else {
                RollbackGuard::new(None, false)
            };
        }
        let owns_blocks = backends.shared.is_none() && objects.is_none();
        let blocks: Arc<dyn BlockStore> = match objects {
            Some(objects) => {
                let name = same_blocks(&objects, metadata.as_ref(), purpose, &random).await?;
                let packs = match packs {
                    Some(packs) => packs,
                    None => Arc::new(RecordDirectory::open(Arc::clone(&memory)).await?),
                };
                let random = Arc::clone(&random);
                let fresh_id = Arc::new(move || fresh_id(&random));
                Arc::new(PackedBlocks::open(objects, &name, packs, fresh_id).await?)
            }
            None => Arc::clone(&store.blocks) as _,
        };
        let nodes = Arc::new(Nodes::new(blocks, limits.cache_bytes));
        let writer = WriterId(fresh_id(&random));
        let arbiter = Arbiter::new(Arc::clone(&nodes), roots, writer, &limits, guard);
        let mut keys = KeyRing::new(Arc::clone(&metadata), sealing, Arc::clone(&random), fresh_for);
        // What a master that shares its arbiter read once, it keeps on its own disk as well.
        let disk = backends.shared.is_some().then(|| Arc::clone(&memory));
        if let Some(disk) = &disk {
            keys = keys.remembered_on(Arc::clone(disk), arbiter.clone());
        }
        let revocations = Revocations::open(Arc::clone(&metadata), disk).await?;
        let clock: Clock = if is_watched {
            let clock = CredentialClock::new(arbiter.clone(), system_clock());
            Arc::new(move || clock.now())
        } else {
            system_clock()
        };
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
        let service = Service::new(arbiter, limits, random, names);
        let (backends, collections) = (backends.clone(), Account::default());
        let running = OnceLock::new();
        Ok(Self {
            store,
            nodes,
            metadata,
            authenticator,
            service,
            recovery,
            names,
            backends,
            collections,
            running,
            owns_blocks,
        })
    }

    /// Returns whether nobody else puts blocks into the store, or needs those in it: then what this
    /// master's pointers do not lead to is garbage.
    pub(crate) fn owns_blocks(&self) -> bool {
        self.owns_blocks
    }

    /// Returns the arbiter.
    pub(crate) fn roots(&self) -> &Arc<dyn RootPointerStore> {
        self.service.arbiter().unchecked()
    }
}

/// Returns the name of this machine; empty if it has none.
pub(crate) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// Returns where this is, for a person: the host, and the master if it is one of several.
fn place(recovery: Option<&Recovery>, purpose: Purpose) -> String {
    match recovery {
        Some(recovery) if matches!(purpose, Purpose::Serve(_)) => {
            format!("{}/{}", host_name(), recovery.name())
        }
        _ => host_name(),
    }
}

/// Opens a data directory. Blocks the thread while the log is read back.
fn open_store(
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
    files::make_data_dir(data_dir).map_err(setting)?;
    Ok(tokio::task::block_in_place(|| LocalStore::open(data_dir, clock, despite_damage))?)
}

/// Refuses a data directory that was used differently: with a shared arbiter, or with a sealing key that
/// is gone.
async fn check_purpose_of(
    data_dir: &Path,
    store: &LocalStore,
    backends: &Backends,
) -> Result<(), NodeError> {
    let has_any = async |table| -> Result<bool, StoreError> {
        Ok(!store.metadata.list(table, None, 1).await?.is_empty())
    };
    if backends.shared.is_none() && has_any(Table::Remembered).await? {
        return Err(NodeError::OfSharedArbiter(data_dir.to_owned()));
    }
    let is_sealed = has_any(Table::Keys).await? || has_any(Table::Sessions).await?;
    if is_sealed && backends.secrets_key_file.is_none() && !files::has_sealing_key(data_dir)? {
        return Err(NodeError::NoSealingKey(data_dir.to_owned()));
    }
    Ok(())
}

/// Returns 16 random bytes.
fn fresh_id(random: &Random) -> [u8; 16] {
    let mut id = [0; 16];
    random(&mut id);
    id
}

/// A shared arbiter, and what its masters agreed on.
struct OpenedArbiter {
    roots: Arc<dyn RootPointerStore>,
    metadata: Arc<dyn MetadataStore>,
    packs: Arc<dyn PackDirectory>,
    compares: bool,
    names: NamePolicy,
}

/// Record of whether swaps compare, `on` or `off`.
const CAS: &str = "bucket-root-cas";

/// Record of what bucket names are unique within, `owner` or `global`.
const NAMES: &str = "bucket-names";

/// Record of the fingerprint of the sealing key; every arbiter in use has it (ADR 0038).
const SEALING_KEY: &str = "secrets-key";

/// Record of which block store the blocks are in.
const BLOCKS: &str = "blocks";

/// Opens a shared arbiter, and refuses to disagree with its other masters.
async fn open_shared(
    backends: &Backends,
    shared: &SharedArbiter,
    sealing: &SealingKey,
    purpose: Purpose,
) -> Result<OpenedArbiter, NodeError> {
    let open = async |compares| match purpose {
        Purpose::Serve(_) | Purpose::MoveIn => {
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
        Some(theirs) if theirs == fingerprint => {}
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
        Purpose::Administer | Purpose::MoveIn | Purpose::Read => {
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

/// Refuses an arbiter that holds something and lacks the record that every arbiter in use has: its tables are
/// being restored.
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

/// Returns the name of a block store, and refuses blocks that are not those of the other masters, or of the
/// starts before: what one of them publishes, each must be able to read.
async fn same_blocks(
    objects: &Objects,
    metadata: &dyn MetadataStore,
    purpose: Purpose,
    random: &Random,
) -> Result<String, NodeError> {
    let ours = match purpose {
        Purpose::Serve(_) | Purpose::MoveIn => {
            objects.identify(&hex::encode(fresh_id(random))).await?
        }
        // No master ever had this name, and a store without a name has no packs.
        Purpose::Administer | Purpose::Read => objects.name().await?.unwrap_or_default(),
    };
    // A command goes on where no master has said it yet.
    let theirs = agreed(metadata, BLOCKS, purpose, &ours).await?;
    let is_same = theirs.is_none_or(|theirs| theirs == ours);
    if is_same { Ok(ours) } else { Err(NodeError::OtherBlocks) }
}

/// Returns what the masters agreed on, or `None` where nobody has decided yet: then a gateway that starts
/// decides, and a command does not.
async fn agreed(
    metadata: &dyn MetadataStore,
    mode: &str,
    purpose: Purpose,
    ours: &str,
) -> Result<Option<String>, StoreError> {
    match purpose {
        Purpose::Serve(_) | Purpose::MoveIn => agree(metadata, mode, ours).await.map(Some),
        Purpose::Administer | Purpose::Read => read_text(metadata, Table::Modes, mode).await,
    }
}

/// Returns what the masters agreed on; the first to ask decides.
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

#[cfg(test)]
mod tests {
    use fula_core::in_memory::{MemoryMetadata, MemoryRoots};

    use super::*;

    #[tokio::test]
    async fn commands_take_what_masters_agreed_on_and_decide_nothing() {
        let metadata = MemoryMetadata::default();
        let serve = Purpose::Serve(NamePolicy::PerOwner);
        for mode in [SEALING_KEY, BLOCKS] {
            for command in [Purpose::Administer, Purpose::Read] {
                assert_eq!(agreed(&metadata, mode, command, "theirs").await.unwrap(), None);
                // Also a deletion would be a row that a restore stumbles over.
                assert_eq!(metadata.read(Table::Modes, mode).await.unwrap(), None);
            }
            for purpose in [serve, Purpose::Administer, Purpose::Read, Purpose::MoveIn] {
                let found = agreed(&metadata, mode, purpose, "ours").await.unwrap();
                assert_eq!(found.as_deref(), Some("ours"));
            }
            let found = agreed(&metadata, mode, Purpose::Administer, "others").await.unwrap();
            assert_eq!(found.as_deref(), Some("ours"));
        }
    }

    #[tokio::test]
    async fn nothing_moves_into_an_arbiter_that_is_being_restored() {
        let (roots, metadata) = (MemoryRoots::default(), MemoryMetadata::default());
        check_whole(&roots, &metadata).await.unwrap();
        metadata.write(Table::Masters, "one", 0, Some("{}".into())).await.unwrap();
        let refused = check_whole(&roots, &metadata).await.unwrap_err();
        assert!(matches!(refused, NodeError::NobodyDecided), "{refused}");
        metadata.write(Table::Modes, SEALING_KEY, 0, Some("00".into())).await.unwrap();
        check_whole(&roots, &metadata).await.unwrap();
    }
}
