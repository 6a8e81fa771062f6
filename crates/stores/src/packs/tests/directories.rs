//! Directories of packs that fail or change.

use super::*;

/// A directory that does not answer.
#[derive(Debug)]
pub(super) struct Away;

fn away<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable { backend: "test", action: "answer", source: "away".into() })
}

#[async_trait]
impl PackDirectory for Away {
    async fn add(&self, _: &PackEntry) -> Result<Added, StoreError> {
        away()
    }

    async fn read(&self, _: u64, _: usize) -> Result<fula_core::packs::DirectoryPage, StoreError> {
        away()
    }

    async fn replace_manifest(&self, _: u64, _: Bytes, _: u64, _: u64) -> Result<bool, StoreError> {
        away()
    }
}

/// A directory that becomes another one.
#[derive(Debug)]
pub(super) struct Switch(parking_lot::Mutex<Arc<dyn PackDirectory>>);

impl Switch {
    pub(super) fn new(first: Arc<dyn PackDirectory>) -> Self {
        Self(parking_lot::Mutex::new(first))
    }

    pub(super) fn to(&self, next: Arc<dyn PackDirectory>) {
        *self.0.lock() = next;
    }

    fn now(&self) -> Arc<dyn PackDirectory> {
        Arc::clone(&self.0.lock())
    }
}

#[async_trait]
impl PackDirectory for Switch {
    async fn add(&self, pack: &PackEntry) -> Result<Added, StoreError> {
        self.now().add(pack).await
    }

    async fn read(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<fula_core::packs::DirectoryPage, StoreError> {
        self.now().read(after, limit).await
    }

    async fn replace_manifest(
        &self,
        expected: u64,
        manifest: Bytes,
        through: u64,
        min_generation: u64,
    ) -> Result<bool, StoreError> {
        self.now().replace_manifest(expected, manifest, through, min_generation).await
    }
}
