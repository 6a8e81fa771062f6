//! Blocks in an object store that several masters share: a directory, or an S3 bucket.
//!
//! One object a block, named by its address, written whole and durable before `put` returns, so
//! that `sync` has nothing left to do. Decision: docs/adr/0007.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use fula_core::{
    Block, BlockStore, Cid, Codec, KeyedLocks, StoreError,
    block::{BLOCK_BYTES_MAX, Epoch, Listed, Placement, Position, Swept, SyncMark},
};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{
    ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    local::LocalFileSystem,
    path::Path,
    prefix::PrefixStore,
};
use parking_lot::{Mutex, MutexGuard};
use reqwest::Url;

/// Time after which a store counts as hung that has not read, found or deleted an object.
const ANSWER: Duration = Duration::from_secs(10);

/// The same for writing one: up to [`CONCURRENCY`] share what the network carries. Commits and uploads have
/// deadlines of their own.
const WRITTEN: Duration = Duration::from_mins(1);

/// How long a request to an S3 server is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Objects written or read at a time by one call.
const CONCURRENCY: usize = 16;

/// Object that holds the store's own name.
const NAME: &str = "fula-store";

/// Locks that keep a put and a deletion of the same block apart.
const STRIPES: usize = 256;

/// An object store that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ObjectStoreError {
    /// Mend the setting.
    #[error(
        "FULA_BLOCKS names no place for blocks; it is `local`, or a URL: file:///directory or \
         s3://bucket/prefix (credentials of S3 are given in the usual AWS_ variables)"
    )]
    Url,
    /// Mount the file system, mend the setting, or start a gateway, which makes the directory.
    #[error(
        "the directory {0} of FULA_BLOCKS does not exist; check the setting and that its file system is \
         mounted (a gateway makes the directory when it starts)"
    )]
    NoDirectory(std::path::PathBuf),
    /// The directory cannot be used.
    #[error("the directory of FULA_BLOCKS cannot be used")]
    Directory(#[source] io::Error),
    /// Mend the endpoint; it is not repeated here, it may hold a password.
    #[error(
        "{0} is not an endpoint that can be used; it is an http or https URL without user, password, \
         query and fragment (credentials are given in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
    )]
    Endpoint(&'static str),
    /// The store's own settings are wrong or missing.
    #[error("the object store of FULA_BLOCKS cannot be used")]
    Store(#[source] object_store::Error),
}

/// Which puts are newer than a cut.
#[derive(Debug, Default)]
struct Epochs {
    now: Epoch,
    /// When each block was last put, for those put since an epoch was first advanced.
    put: HashMap<Cid, Epoch>,
    /// The collection each block was last marked in.
    marked: HashMap<Cid, Epoch>,
}

/// Blocks as objects.
pub struct ObjectBlocks {
    store: Arc<dyn ObjectStore>,
    /// Whether the blocks are files below a directory, which may be of a file system that is unmounted.
    is_directory: bool,
    /// Whether the store has its name ([`Self::identify`]).
    is_named: AtomicBool,
    epochs: Mutex<Epochs>,
    /// Held shared by puts, exclusively by a deletion.
    locks: KeyedLocks<tokio::sync::RwLock<()>>,
}

impl fmt::Debug for ObjectBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectBlocks({})", self.store)
    }
}

impl ObjectBlocks {
    /// Opens the store that `url` names. S3 is set up by the usual `AWS_` variables.
    ///
    /// # Errors
    /// [`ObjectStoreError`].
    pub fn open(url: &str) -> Result<Self, ObjectStoreError> {
        Self::open_or_make(url, true)
    }

    /// Opens the store that `url` names without making its directory, for a command that only looks.
    ///
    /// # Errors
    /// [`ObjectStoreError`].
    pub fn open_existing(url: &str) -> Result<Self, ObjectStoreError> {
        Self::open_or_make(url, false)
    }

    fn open_or_make(url: &str, makes_directory: bool) -> Result<Self, ObjectStoreError> {
        // The URL is not repeated: one that was mistyped may hold a password.
        let wrong = || ObjectStoreError::Url;
        let is_directory = url.starts_with("file:");
        let store: Arc<dyn ObjectStore> = if let Some(dir) = url.strip_prefix("file:") {
            let dir = dir.strip_prefix("//").unwrap_or(dir);
            if !dir.starts_with('/') {
                return Err(wrong());
            }
            if makes_directory {
                std::fs::create_dir_all(dir).map_err(ObjectStoreError::Directory)?;
            } else if !std::path::Path::new(dir).exists() {
                return Err(ObjectStoreError::NoDirectory(dir.into()));
            }
            crate::warn_if_open(std::path::Path::new(dir));
            let files = LocalFileSystem::new_with_prefix(dir).map_err(ObjectStoreError::Store)?;
            Arc::new(files.with_fsync(true))
        } else if let Some(rest) = url.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if !is_bucket_name(bucket) {
                return Err(wrong());
            }
            let retry = RetryConfig { retry_timeout: RETRY, ..RetryConfig::default() };
            let builder = AmazonS3Builder::from_env()
                .with_bucket_name(bucket)
                .with_allow_http(true)
                .with_retry(retry);
            check_endpoints(&builder)?;
            let s3 = builder.build().map_err(ObjectStoreError::Store)?;
            Arc::new(PrefixStore::new(s3, prefix))
        } else {
            return Err(wrong());
        };
        Ok(Self { is_directory, ..Self::on(store) })
    }

    fn on(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            is_directory: false,
            is_named: AtomicBool::new(false),
            epochs: Mutex::default(),
            locks: KeyedLocks::new(STRIPES),
        }
    }

    /// Refuses a directory that has lost the store's name: its file system is not mounted, and what is put
    /// there would be hidden as soon as it is.
    async fn check_mounted(&self) -> Result<(), StoreError> {
        if !self.is_directory || !self.is_named.load(Ordering::Relaxed) {
            return Ok(());
        }
        match within(ANSWER, "head", self.store.head(&Path::from(NAME))).await? {
            Ok(_) => Ok(()),
            Err(object_store::Error::NotFound { .. }) => {
                let text = "the directory that FULA_BLOCKS names has no file fula-store any more: is its \
                            file system mounted?";
                let source = text.into();
                Err(StoreError::Unavailable { backend: "block store", action: "use", source })
            }
            Err(error) => Err(failed("head", error)),
        }
    }

    /// Returns what tells this store from any other: `fresh`, unless it was named before.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], also for an S3 server without conditional writes.
    pub async fn identify(&self, fresh: &str) -> Result<String, StoreError> {
        let name = Path::from(NAME);
        let payload = PutPayload::from(fresh.to_owned());
        let put = self.store.put_opts(&name, payload, PutMode::Create.into());
        let put = within(ANSWER, "put", put).await?;
        match put {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(failed("put", error)),
        }
        self.is_named.store(true, Ordering::Relaxed);
        if put.is_ok() {
            return Ok(fresh.to_owned());
        }
        let there = object_store::Error::NotFound { path: NAME.to_owned(), source: NAME.into() };
        self.name().await?.ok_or_else(|| failed("get", there))
    }

    /// Returns what tells this store from any other, or `None` for one that was never used. Writes nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn name(&self) -> Result<Option<String>, StoreError> {
        let name = Path::from(NAME);
        let read = async { self.store.get(&name).await?.bytes().await };
        match within(ANSWER, "get", read).await? {
            Ok(bytes) => {
                self.is_named.store(true, Ordering::Relaxed);
                Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed("get", error)),
        }
    }

    fn epochs(&self) -> MutexGuard<'_, Epochs> {
        self.epochs.lock()
    }

    async fn put_one(&self, block: &Block) -> Result<(), StoreError> {
        let cid = block.cid();
        let _held = self.locks.of(&cid).read().await;
        {
            let mut epochs = self.epochs();
            let now = epochs.now;
            if now > Epoch(0) {
                epochs.put.insert(cid, now);
            }
        }
        let payload = PutPayload::from_bytes(block.bytes().clone());
        let put = within(WRITTEN, "put", self.store.put(&path(&cid), payload)).await?;
        put.map(drop).map_err(|error| failed("put", error))
    }

    async fn delete_if(
        &self,
        cid: &Cid,
        cut: Epoch,
        put_before: Epoch,
    ) -> Result<bool, StoreError> {
        let _held = self.locks.of(cid).write().await;
        let (put, marked) = {
            let epochs = self.epochs();
            (epochs.put.get(cid).copied(), epochs.marked.get(cid).copied())
        };
        if marked == Some(cut) || put.unwrap_or_default() >= put_before {
            return Ok(false);
        }
        let deleted = within(ANSWER, "delete", self.store.delete(&path(cid))).await?;
        deleted.map_err(|error| failed("delete", error))?;
        self.epochs().put.remove(cid);
        Ok(true)
    }
}

/// The codecs that blocks are listed by.
const CODECS: [Codec; 3] = [Codec::Raw, Codec::DagPb, Codec::DagCbor];

/// Returns where a block lies.
fn path(cid: &Cid) -> Path {
    let digest = hex::encode(cid.digest());
    Path::from(format!("blocks/{:02x}/{}/{}", cid.codec() as u8, &digest[..2], &digest[2..]))
}

/// Reads an address back from where a block lies.
fn cid_at(codec: Codec, shard: u8, path: &Path) -> Option<Cid> {
    let mut digest = [shard; 32];
    hex::decode_to_slice(path.filename()?, &mut digest[1..]).ok()?;
    Some(Cid::from_digest(codec, digest))
}

/// Waits for a call as long as a store may take that does not hang.
async fn within<T>(
    time: Duration,
    action: &'static str,
    call: impl Future<Output = object_store::Result<T>>,
) -> Result<object_store::Result<T>, StoreError> {
    tokio::time::timeout(time, call).await.map_err(|_| {
        let source = format!("no answer within {} s", time.as_secs()).into();
        StoreError::Unavailable { backend: "object store", action, source }
    })
}

fn failed(action: &'static str, error: object_store::Error) -> StoreError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = source {
        let full = cause.downcast_ref::<io::Error>().is_some_and(|error| {
            [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded].contains(&error.kind())
        });
        if full {
            return StoreError::Full { backend: "object store" };
        }
        source = cause.source();
    }
    StoreError::Unavailable { backend: "object store", action, source: error.into() }
}

#[async_trait]
impl BlockStore for ObjectBlocks {
    async fn put(&self, blocks: &[Block], _: Placement) -> Result<SyncMark, StoreError> {
        if let Some(block) = blocks.iter().find(|block| block.bytes().len() > BLOCK_BYTES_MAX) {
            let len = block.bytes().len();
            return Err(StoreError::TooLarge { len, max: BLOCK_BYTES_MAX });
        }
        self.check_mounted().await?;
        let puts: Vec<_> = blocks.iter().map(|block| self.put_one(block)).collect();
        stream::iter(puts).buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
        Ok(SyncMark::default())
    }

    async fn sync(&self, _: SyncMark) -> Result<(), StoreError> {
        Ok(())
    }

    async fn get(&self, cid: &Cid) -> Result<Option<Block>, StoreError> {
        let path = path(cid);
        let found = match within(ANSWER, "get", self.store.get(&path)).await? {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            found => found.map_err(|error| failed("get", error))?,
        };
        // What is larger than a block is not one; it need not be read to know.
        if found.meta.size > BLOCK_BYTES_MAX as u64 {
            return Err(StoreError::Damaged { cid: *cid });
        }
        let bytes = within(ANSWER, "get", found.bytes()).await?;
        let bytes = bytes.map_err(|error| failed("get", error))?;
        Block::verify(*cid, bytes).map(Some)
    }

    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        match within(ANSWER, "size", self.store.head(&path(cid))).await? {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => self.check_mounted().await.map(|()| None),
            Err(error) => Err(failed("size", error)),
        }
    }

    fn advance_epoch(&self) -> Epoch {
        let mut epochs = self.epochs();
        epochs.now.0 += 1;
        epochs.now
    }

    fn mark(&self, cids: &[Cid], cut: Epoch) -> Vec<Cid> {
        let mut epochs = self.epochs();
        let fresh = cids.iter().filter(|cid| epochs.marked.insert(**cid, cut) != Some(cut));
        fresh.copied().collect()
    }

    async fn sweep(
        &self,
        from: Position,
        cut: Epoch,
        put_before: Epoch,
    ) -> Result<Swept, StoreError> {
        let Listed { blocks, next } = self.list(from).await?;
        let mut swept = Swept { next, ..Swept::default() };
        for (cid, bytes) in blocks {
            if self.delete_if(&cid, cut, put_before).await? {
                swept.deleted += 1;
                swept.bytes += bytes;
            }
        }
        Ok(swept)
    }

    /// A position is that of a codec among them, and the first byte of a digest behind it.
    async fn list(&self, Position(from): Position) -> Result<Listed, StoreError> {
        let [.., codec, shard] = from.to_be_bytes();
        let Some(codec) = CODECS.get(usize::from(codec)).copied() else {
            return Ok(Listed::default());
        };
        let prefix = Path::from(format!("blocks/{:02x}/{shard:02x}", codec as u8));
        let mut found = self.store.list(Some(&prefix));
        let mut blocks = Vec::new();
        // A store that hangs in the middle of a listing counts as hung, too.
        while let Some(meta) = within(ANSWER, "list", found.try_next())
            .await?
            .map_err(|error| failed("list", error))?
        {
            blocks.extend(cid_at(codec, shard, &meta.location).map(|cid| (cid, meta.size)));
        }
        let next = (from + 1) >> 8 < CODECS.len() as u64;
        let next = next.then_some(Position(from + 1));
        Ok(Listed { blocks, next })
    }
}

/// Returns whether a text can name a bucket; credentials in front of one cannot.
fn is_bucket_name(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    !text.is_empty() && text.chars().all(is_allowed)
}

/// Checks the URLs of servers that were set by `AWS_` variables: errors of the store repeat them with
/// all that is in them, and one that is malformed makes a request panic.
fn check_endpoints(builder: &AmazonS3Builder) -> Result<(), ObjectStoreError> {
    for (key, name) in [
        (AmazonS3ConfigKey::Endpoint, "AWS_ENDPOINT"),
        (AmazonS3ConfigKey::S3Endpoint, "AWS_ENDPOINT_URL_S3"),
        (AmazonS3ConfigKey::StsEndpoint, "AWS_ENDPOINT_URL_STS"),
        (AmazonS3ConfigKey::MetadataEndpoint, "AWS_METADATA_ENDPOINT"),
    ] {
        if builder.get_config_value(&key).is_some_and(|text| !is_endpoint(&text)) {
            return Err(ObjectStoreError::Endpoint(name));
        }
    }
    Ok(())
}

/// Returns whether a text is the URL of a server, and no part of it can be a password.
fn is_endpoint(text: &str) -> bool {
    let is_url = Url::parse(text).is_ok_and(|url| ["http", "https"].contains(&url.scheme()));
    is_url && text.contains("://") && !text.contains(['@', '?', '#'])
}

#[cfg(test)]
mod tests {
    use fula_core::conformance_suite;
    use object_store::{
        memory::InMemory,
        throttle::{ThrottleConfig, ThrottledStore},
    };
    use tempfile::TempDir;

    use super::*;

    /// A store with its directory, which goes with it.
    struct Temp(ObjectBlocks, TempDir);

    impl std::ops::Deref for Temp {
        type Target = ObjectBlocks;

        fn deref(&self) -> &ObjectBlocks {
            &self.0
        }
    }

    fn files() -> Temp {
        let dir = tempfile::tempdir().unwrap();
        Temp(ObjectBlocks::open(&format!("file://{}", dir.path().display())).unwrap(), dir)
    }

    mod on_files {
        use super::*;
        conformance_suite!(block_store, async { files() });
    }

    mod in_memory {
        use super::*;
        conformance_suite!(block_store, async {
            Arc::new(ObjectBlocks::on(Arc::new(InMemory::new())))
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_of_a_store_that_hangs_is_given_up() {
        let hour = Duration::from_hours(1);
        let config = ThrottleConfig { wait_list_per_call: hour, ..ThrottleConfig::default() };
        let store = ObjectBlocks::on(Arc::new(ThrottledStore::new(InMemory::new(), config)));
        let begun = tokio::time::Instant::now();
        let refused = store.list(Position(0)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Unavailable { action: "list", .. }), "{refused}");
        assert!(begun.elapsed() <= ANSWER + Duration::from_secs(1));
    }

    #[tokio::test]
    async fn what_was_changed_on_disk_is_not_returned() {
        let store = files();
        let block = Block::new(Codec::Raw, "as it was");
        store.put(std::slice::from_ref(&block), Placement::Bulk).await.unwrap();
        let place = store.1.path().join(path(&block.cid()).as_ref());
        for bytes in [b"as it is!".to_vec(), vec![0; BLOCK_BYTES_MAX + 1]] {
            std::fs::write(&place, bytes).unwrap();
            let read = store.get(&block.cid()).await;
            assert!(matches!(read, Err(StoreError::Damaged { .. })), "{read:?}");
        }
        // Putting it again mends it.
        store.put(std::slice::from_ref(&block), Placement::Bulk).await.unwrap();
        assert_eq!(store.get(&block.cid()).await.unwrap().as_ref(), Some(&block));
    }

    #[tokio::test]
    async fn nothing_is_put_into_a_directory_that_is_not_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let (mounted, away) = (dir.path().join("mounted"), dir.path().join("away"));
        let url = format!("file://{}", mounted.display());
        let store = ObjectBlocks::open(&url).unwrap();
        store.identify("name").await.unwrap();
        let block = Block::new(Codec::Raw, b"block".to_vec());
        let put = async || store.put(std::slice::from_ref(&block), Placement::Commit).await;
        put().await.unwrap();
        std::fs::rename(&mounted, &away).unwrap();
        for is_there in [false, true] {
            if is_there {
                std::fs::create_dir(&mounted).unwrap();
            }
            let refused = put().await.unwrap_err();
            assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused:?}");
            assert!(!mounted.join("blocks").exists(), "{is_there}");
        }
        std::fs::remove_dir(&mounted).unwrap();
        std::fs::rename(&away, &mounted).unwrap();
        put().await.unwrap();
    }

    #[test]
    fn urls_that_are_none_say_what_is_expected() {
        for url in ["peers", "file:relative", "s3://", "ftp://x"] {
            let refused = ObjectBlocks::open(url).unwrap_err().to_string();
            assert!(refused.contains("s3://bucket/prefix"), "{refused}");
        }
    }

    #[test]
    fn endpoints_that_may_show_a_password_are_refused() {
        use AmazonS3ConfigKey::{Endpoint, MetadataEndpoint, S3Endpoint, StsEndpoint};
        let check = |key, text: &str| {
            check_endpoints(&AmazonS3Builder::new().with_config(key, text))
                .map_err(|error| error.to_string())
        };
        for (key, name) in [
            (Endpoint, "AWS_ENDPOINT "),
            (S3Endpoint, "AWS_ENDPOINT_URL_S3 "),
            (StsEndpoint, "AWS_ENDPOINT_URL_STS "),
            (MetadataEndpoint, "AWS_METADATA_ENDPOINT "),
        ] {
            for wrong in [
                "http://user:hush@127.0.0.1:9000",
                "http://hush@127.0.0.1",
                "http://user:12/hush@127.0.0.1",
                "http://127.0.0.1:hush",
                "https://s3.example?hush",
                "https://s3.example#hush",
                "http:/hush/x",
                "hush:9000",
                "ftp://hush",
            ] {
                let refused = check(key, wrong).unwrap_err();
                assert!(refused.starts_with(name) && !refused.contains("hush"), "{refused}");
            }
            for good in ["http://127.0.0.1:9000", "https://s3.example/path/", "http://[::1]:80"] {
                assert_eq!(check(key, good), Ok(()), "{good}");
            }
        }
        assert!(check_endpoints(&AmazonS3Builder::new()).is_ok());
    }
}
