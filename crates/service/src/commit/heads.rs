//! What is known of the arbiter: the newest head of each bucket, and what is believed of its answers.

use std::sync::Arc;

use fula_core::{
    StoreError,
    block::require,
    bucket::BucketRoot,
    root::{RootRow, Stamped, TimeMs},
};

use super::Inner;
use crate::arbiter::{BucketAddress, Head};
use crate::{arbiter::Asked, arbiter::Heard, error::ServiceError};

impl Inner {
    /// Asks the arbiter something that is about no bucket in particular.
    pub(super) async fn believed<T>(
        &self,
        asked: impl Future<Output = Result<Stamped<T>, StoreError>>,
    ) -> Result<T, ServiceError> {
        let floor = self.guard.floor();
        let stamped = asked.await?;
        self.guard.check_answer(&floor, &stamped.mark)?;
        Ok(stamped.value)
    }

    /// Reads the pointer, begun after the call, and the root behind it.
    pub(super) async fn newest(
        &self,
        bucket: &BucketAddress,
    ) -> Result<Option<Arc<Head>>, ServiceError> {
        let _look = self.pin_registry.begin_read();
        let Heard { stamped, asked } = self.reader.read(bucket).await?;
        self.clock.hear(&stamped);
        self.adopt_row(bucket, stamped.value, &asked).await
    }

    /// Returns the head of a row, unless the row is of the past; `asked` is what was known when
    /// it was asked for.
    pub(super) async fn adopt_row(
        &self,
        bucket: &BucketAddress,
        row: Option<RootRow>,
        asked: &Asked,
    ) -> Result<Option<Arc<Head>>, ServiceError> {
        self.guard.check_row(bucket, asked, row.as_ref())?;
        let Some(row) = row else {
            // Whoever read it before it was dropped may have noted it afterwards.
            self.heads.remove(bucket);
            return Ok(None);
        };
        self.note_priority_claim(bucket, &row);
        self.load(bucket, row, asked).await.map(Some)
    }

    /// Returns the head of a row, from memory when it is known.
    async fn load(
        &self,
        bucket: &BucketAddress,
        row: RootRow,
        asked: &Asked,
    ) -> Result<Arc<Head>, ServiceError> {
        if let Some(head) = self.heads.get(bucket)
            && head.row.pointer == row.pointer
        {
            return Ok(head);
        }
        let block = require(self.nodes.blocks().as_ref(), &row.pointer.root).await?;
        let root = BucketRoot::from_block(&block)?;
        let agree = root.owner == row.owner
            && root.name == row.bucket
            && root.version == row.pointer.version
            && root.id == row.bucket_id;
        if !agree {
            let why = "root block and pointer disagree";
            return Err(StoreError::Malformed { what: "bucket root", why }.into());
        }
        self.guard.check_root(bucket, asked, &row.pointer, &root)?;
        let head = Arc::new(Head { row, root });
        self.pin_registry.register_head(&head);
        self.guard.learn(bucket, &head, asked);
        self.adopt(bucket, Arc::clone(&head));
        Ok(head)
    }

    /// Remembers a head unless a newer one is known.
    pub(super) fn adopt(&self, bucket: &BucketAddress, head: Arc<Head>) {
        let known = self.heads.get(bucket);
        if known.is_none_or(|known| known.row.pointer.version < head.row.pointer.version) {
            self.heads.insert(bucket.clone(), head);
        }
    }

    pub(super) async fn now(&self) -> Result<TimeMs, ServiceError> {
        if let Some(now) = self.clock.now() {
            return Ok(now);
        }
        let stamped = self.roots.get_roots(&[]).await?;
        self.clock.hear(&stamped);
        Ok(stamped.time)
    }
}
