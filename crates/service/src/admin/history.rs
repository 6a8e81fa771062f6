//! The history of a bucket: its root blocks along `parent`, newest first.

use fula_core::{BlockStore, Cid, StoreError, WriterId, bucket::BucketRoot, root::TimeMs};

/// One commit of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Address of the root block.
    pub root: Cid,
    /// Bucket version.
    pub version: u64,
    /// Time of the commit, in milliseconds since 1970.
    pub time: TimeMs,
    /// Writer of the commit, if known.
    pub writer: Option<WriterId>,
    /// Number of objects after the commit.
    pub objects: u64,
    /// Sum of the sizes of these objects in bytes.
    pub bytes: u64,
    /// Whether the commit deleted the bucket.
    pub deleted: bool,
}

/// Returns up to `limit` commits, from `root` backwards. Ends where the root block of an earlier commit was
/// collected.
///
/// # Errors
/// [`StoreError::Missing`] when `root` itself is missing; [`StoreError`] of a root block that cannot be
/// read.
pub async fn log(
    blocks: &dyn BlockStore,
    root: Cid,
    limit: usize,
) -> Result<Vec<Commit>, StoreError> {
    let mut commits = Vec::new();
    let mut next = Some(root);
    while let Some(cid) = next {
        if commits.len() == limit {
            break;
        }
        let block = match blocks.get(&cid).await? {
            Some(block) => block,
            None if commits.is_empty() => return Err(StoreError::Missing { cid }),
            None => break,
        };
        let found = BucketRoot::from_block(&block)?;
        next = found.parent;
        let author = found.authors.iter().find(|author| author.version == found.version);
        commits.push(Commit {
            root: cid,
            version: found.version,
            time: found.time,
            writer: author.map(|author| author.writer),
            objects: found.objects.count,
            bytes: found.objects.bytes,
            deleted: found.deleted.is_some(),
        });
    }
    Ok(commits)
}
