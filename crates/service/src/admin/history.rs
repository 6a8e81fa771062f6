//! The history of a bucket: its root blocks, newest first, along `parent`.

use fula_core::{BlockStore, Cid, StoreError, WriterId, bucket::BucketRoot, root::TimeMs};

/// One commit of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Address of its root block.
    pub root: Cid,
    /// Its version.
    pub version: u64,
    /// When it was committed, milliseconds since 1970.
    pub time: TimeMs,
    /// Who committed it, when that is known.
    pub writer: Option<WriterId>,
    /// Number of objects after it.
    pub objects: u64,
    /// Sum of their sizes.
    pub bytes: u64,
    /// Whether it deleted the bucket.
    pub deleted: bool,
}

/// Returns up to `limit` commits from `root` backwards; ends where the root block of an earlier one is gone.
///
/// # Errors
/// [`StoreError::Missing`] when `root` itself is gone; [`StoreError`] of a root block that cannot be
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
