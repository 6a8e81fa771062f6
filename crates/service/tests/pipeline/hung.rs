//! A block store that hangs while a write reads what it needs: the write is refused within its deadline.

use std::time::Duration;

use fula_service::{
    BatchAction, BatchChange, CompletePart, CompleteRequest, CreateUploadRequest, PutPartRequest,
};
use tokio::time::{Instant, timeout};

use super::{
    slow::{OTHER, World, caller, whole},
    *,
};

/// What is asked of the bucket.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Create,
    Part,
    Complete,
    Commit,
}

struct Upload {
    world: World,
    id: String,
    part: CompletePart,
}

impl Upload {
    /// Begins an upload with one part, in a world whose next read of a block hangs.
    async fn in_a_world_that_hangs() -> Self {
        let world = World::new(None, None).await;
        let id = create(&world).await.unwrap();
        let etag = put_part(&world, &id).await.unwrap();
        world.blocks.gets.close();
        Self { world, id, part: CompletePart { number: 1, etag, checksum: None } }
    }

    async fn ask(&self, ask: Ask) -> Result<(), ServiceError> {
        let (service, bucket) = (&self.world.service, bucket_name(OTHER));
        let parts = vec![self.part.clone()];
        match ask {
            Ask::Create => create(&self.world).await.map(drop),
            Ask::Part => put_part(&self.world, &self.id).await.map(drop),
            Ask::Complete => {
                let request = CompleteRequest {
                    key: object_key("k"),
                    id: self.id.clone(),
                    parts,
                    conditions: WriteConditions::default(),
                    checksum: None,
                    size: None,
                };
                service.complete_upload(&caller(), &bucket, &request).await.map(drop)
            }
            Ask::Commit => {
                let change = BatchChange {
                    key: object_key("k"),
                    conditions: WriteConditions::default(),
                    action: BatchAction::Complete { id: self.id.clone(), parts, replace: None },
                };
                service.commit(&caller(), &bucket, &[change]).await.map(drop)
            }
        }
    }
}

async fn create(world: &World) -> Result<String, ServiceError> {
    let facts = ObjectFacts::default();
    let request = CreateUploadRequest { key: object_key("k"), facts, checksum: None };
    let begun = world.service.create_upload(&caller(), &bucket_name(OTHER), request).await;
    begun.map(|id| id.to_string())
}

async fn put_part(world: &World, id: &str) -> Result<String, ServiceError> {
    let put = PutPartRequest {
        key: object_key("k"),
        id: id.to_owned(),
        number: 1,
        body: whole(vec![7; 100]),
        body_facts: body_facts(),
    };
    let taken = world.service.put_part(&caller(), &bucket_name(OTHER), put).await;
    taken.map(|part| part.etag().to_string())
}

#[tokio::test(start_paused = true)]
async fn a_write_that_reads_from_a_store_that_hangs_ends_within_its_deadline() {
    let deadline = fula_service::Limits::default().commit_deadline + Duration::from_secs(1);
    for ask in [Ask::Create, Ask::Part, Ask::Complete, Ask::Commit] {
        let upload = Upload::in_a_world_that_hangs().await;
        let begun = Instant::now();
        let answer = timeout(Duration::from_mins(2), upload.ask(ask)).await;
        let refused = answer.unwrap_or_else(|_| panic!("{ask:?} waits for ever"));
        let error = refused.expect_err("it cannot read what it needs");
        let error = match error {
            ServiceError::InCommit { error, .. } => *error,
            error => error,
        };
        assert!(matches!(error, ServiceError::Unavailable(_)), "{ask:?}: {error}");
        assert!(begun.elapsed() <= deadline, "{ask:?}: {:?}", begun.elapsed());
        // Once the store is back, the same works.
        upload.world.blocks.gets.open();
        upload.ask(ask).await.unwrap();
    }
}
