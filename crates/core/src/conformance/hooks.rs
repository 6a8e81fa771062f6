//! A test double of [`RootPointerStore`]: an arbiter in memory whose calls can be delayed, refused,
//! counted or replaced.

use std::fmt;

use async_trait::async_trait;

use crate::{
    error::{StoreError, SwapError},
    id::{BucketAddress, BucketName, OwnerId},
    in_memory::MemoryRoots,
    root::{
        CasOutcome, DeletedRow, DropTerms, NewRoot, RootCounts, RootPointer, RootPointerStore,
        RootRow, Stamped,
    },
};

/// The calls of a [`RootPointerStore`] that read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootRead {
    /// [`RootPointerStore::get_roots`], and so [`RootPointerStore::wait_root`].
    Get,
    /// [`RootPointerStore::list_roots`].
    List,
    /// [`RootPointerStore::scan_roots`].
    Scan,
    /// [`RootPointerStore::count_roots`].
    Count,
    /// [`RootPointerStore::find_bucket`].
    Find,
    /// [`RootPointerStore::generation`].
    Generation,
    /// [`RootPointerStore::version_floor`].
    Floor,
}

/// Hooks into an arbiter in memory. A type with this trait is a [`RootPointerStore`] too: it passes
/// every call to [`Self::inner`], except where a hook replaces it.
#[async_trait]
pub trait RootHooks: fmt::Debug + Send + Sync + 'static {
    /// Returns the inner arbiter.
    fn inner(&self) -> &MemoryRoots;

    /// Runs before a read reaches the arbiter.
    ///
    /// # Errors
    /// The error that the read returns instead of an answer.
    async fn before(&self, read: RootRead) -> Result<(), StoreError> {
        let _ = read;
        Ok(())
    }

    /// Runs after the arbiter has answered a read, and before the answer is returned.
    async fn after(&self, read: RootRead) {
        let _ = read;
    }

    /// Replaces [`RootPointerStore::get_roots`].
    ///
    /// # Errors
    /// The errors of the replaced method.
    async fn get(
        &self,
        buckets: &[BucketAddress],
    ) -> Result<Stamped<Vec<Option<RootRow>>>, StoreError> {
        self.inner().get_roots(buckets).await
    }

    /// Replaces [`RootPointerStore::cas_root`].
    ///
    /// # Errors
    /// The errors of the replaced method.
    async fn swap(
        &self,
        bucket: &BucketAddress,
        expected: Option<RootPointer>,
        new: &NewRoot,
    ) -> Result<Stamped<CasOutcome>, SwapError> {
        self.inner().cas_root(bucket, expected, new).await
    }

    /// Replaces [`RootPointerStore::raise_generation`].
    ///
    /// # Errors
    /// The errors of the replaced method.
    async fn raise(&self, generation: u64) -> Result<Stamped<()>, StoreError> {
        self.inner().raise_generation(generation).await
    }

    /// Replaces [`RootPointerStore::count_roots`].
    ///
    /// # Errors
    /// The errors of the replaced method.
    async fn count(&self, owner: OwnerId) -> Result<Stamped<RootCounts>, StoreError> {
        self.inner().count_roots(owner).await
    }

    /// Replaces [`RootPointerStore::can_drop_roots`].
    fn can_drop(&self) -> bool {
        true
    }

    /// Replaces [`RootPointerStore::drop_roots`].
    ///
    /// # Errors
    /// The errors of the replaced method.
    async fn drop_rows(
        &self,
        rows: Vec<DeletedRow>,
        terms: &DropTerms,
    ) -> Result<Vec<DeletedRow>, StoreError> {
        self.inner().drop_roots(rows, terms).await
    }
}

#[async_trait]
impl<H: RootHooks> RootPointerStore for H {
    async fn get_roots(
        &self,
        buckets: &[BucketAddress],
    ) -> Result<Stamped<Vec<Option<RootRow>>>, StoreError> {
        self.before(RootRead::Get).await?;
        let answer = self.get(buckets).await;
        self.after(RootRead::Get).await;
        answer
    }

    async fn cas_root(
        &self,
        bucket: &BucketAddress,
        expected: Option<RootPointer>,
        new: &NewRoot,
    ) -> Result<Stamped<CasOutcome>, SwapError> {
        self.swap(bucket, expected, new).await
    }

    async fn generation(&self) -> Result<Stamped<u64>, StoreError> {
        self.before(RootRead::Generation).await?;
        let answer = self.inner().generation().await;
        self.after(RootRead::Generation).await;
        answer
    }

    async fn raise_generation(&self, generation: u64) -> Result<Stamped<()>, StoreError> {
        self.raise(generation).await
    }

    fn can_drop_roots(&self) -> bool {
        self.can_drop()
    }

    async fn drop_roots(
        &self,
        rows: Vec<DeletedRow>,
        terms: &DropTerms,
    ) -> Result<Vec<DeletedRow>, StoreError> {
        self.drop_rows(rows, terms).await
    }

    async fn version_floor(&self) -> Result<Stamped<u64>, StoreError> {
        self.before(RootRead::Floor).await?;
        let answer = self.inner().version_floor().await;
        self.after(RootRead::Floor).await;
        answer
    }

    async fn list_roots(
        &self,
        owner: OwnerId,
        after: Option<&BucketName>,
        limit: usize,
    ) -> Result<Stamped<Vec<RootRow>>, StoreError> {
        self.before(RootRead::List).await?;
        let answer = self.inner().list_roots(owner, after, limit).await;
        self.after(RootRead::List).await;
        answer
    }

    async fn scan_roots(
        &self,
        after: Option<&BucketAddress>,
        limit: usize,
    ) -> Result<Stamped<Vec<RootRow>>, StoreError> {
        self.before(RootRead::Scan).await?;
        let answer = self.inner().scan_roots(after, limit).await;
        self.after(RootRead::Scan).await;
        answer
    }

    async fn count_roots(&self, owner: OwnerId) -> Result<Stamped<RootCounts>, StoreError> {
        self.before(RootRead::Count).await?;
        let answer = self.count(owner).await;
        self.after(RootRead::Count).await;
        answer
    }

    async fn find_bucket(&self, name: &BucketName) -> Result<Stamped<Option<RootRow>>, StoreError> {
        self.before(RootRead::Find).await?;
        let answer = self.inner().find_bucket(name).await;
        self.after(RootRead::Find).await;
        answer
    }
}
