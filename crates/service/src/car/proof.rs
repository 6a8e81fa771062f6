//! Proofs for readers: the blocks from a root to an object, to a page of a listing, or to the place where a key
//! would be. A reader that knows the root needs no trust in the server.

use std::sync::Arc;

use bytes::BytesMut;
use fula_core::{
    Block, BucketName, Cid, ObjectKey, StoreError,
    block::require,
    bucket::{BucketRoot, ObjectRecord},
    car,
    tree::{Node, after_prefix},
};
use futures::{StreamExt, stream};

use super::{
    export::{BucketCar, CAR_MEMORY, bytes_of, paced},
    walk::Walk,
};
use crate::{
    arbiter::Head,
    auth::access::Action,
    caller::Caller,
    error::ServiceError,
    limits::PAGE_MAX,
    pins::PinnedBlocks,
    service::{Part, Service},
};

/// Number of older roots among which the root of a proof is looked for.
const ROOTS_MAX: usize = 1000;

/// What is to be proved.
#[derive(Clone, Debug)]
pub enum ProofOf {
    /// An object with its content, or that there is none of this key.
    Object(ObjectKey),
    /// The keys of a page of a listing, and that there are no others between them.
    Page {
        /// Prefix of the keys.
        prefix: String,
        /// The page begins after this key.
        after: Option<String>,
        /// Number of keys, at most [`PAGE_MAX`].
        limit: usize,
    },
}

impl Service {
    /// Returns a CAR file with the blocks that prove something about a bucket, under its current root or under
    /// `root`. Nodes show keys beside those that are asked for, so the caller must have the right to read the
    /// bucket as a whole.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`]; [`ServiceError::InvalidArgument`] for a
    /// root that is not known. [`ServiceError::Unavailable`], [`ServiceError::Damaged`].
    pub async fn proof(
        &self,
        caller: &Caller,
        name: &BucketName,
        root: Option<Cid>,
        of: &ProofOf,
    ) -> Result<BucketCar, ServiceError> {
        let head = self.resolve(caller, name, Action::ReadProof, Part::Whole).await?;
        // A policy may forbid the owner what is asked for.
        let (action, part) = match of {
            ProofOf::Object(key) => (Action::GetObject, Part::Key(key)),
            ProofOf::Page { prefix, .. } => (Action::ListObjects, Part::Prefix(prefix)),
        };
        self.resolve(caller, name, action, part).await?;
        let permit = self.body_budget.take(CAR_MEMORY, caller.closer.as_ref()).await?;
        let (cid, root) = self.root_named(&head, root).await?;
        let mut pinned = PinnedBlocks::of_read(
            self.arbiter().pins(),
            root.time.min(self.arbiter().now().await?),
        );
        pinned.add([cid]);
        let store = Arc::clone(self.arbiter().nodes().blocks());
        let mut path = vec![require(store.as_ref(), &cid).await?];
        let content = match of {
            ProofOf::Object(key) => self.path_to(&root, key, &mut path).await?,
            ProofOf::Page { prefix, after, limit } => {
                self.page_of(&root, prefix, after.as_deref(), *limit, &mut path).await?;
                None
            }
        };
        let mut begin = BytesMut::from(car::header(&[cid]));
        for block in &path {
            car::put_section(&mut begin, &block.cid(), block.bytes());
        }
        let blocks = Arc::default();
        let begin = stream::iter([Ok(begin.freeze())]);
        let kept = (pinned, Arc::clone(&head));
        let bytes = match content {
            Some(content) => {
                let walk = Walk::with_repeats(store, content);
                begin.chain(bytes_of(walk, BytesMut::new(), Arc::clone(&blocks), kept)).boxed()
            }
            None => begin.boxed(),
        };
        let bytes = paced(bytes, permit);
        let (bucket, version) = (head.address().clone(), root.version);
        Ok(BucketCar { bucket, root: cid, version, blocks, left_out: Arc::default(), bytes })
    }

    /// Finds a root of a bucket by its address.
    async fn root_named(
        &self,
        head: &Head,
        wanted: Option<Cid>,
    ) -> Result<(Cid, BucketRoot), ServiceError> {
        let blocks = self.arbiter().nodes().blocks();
        let (mut cid, mut root) = (head.row.pointer.root, head.root.clone());
        for _ in 0..ROOTS_MAX {
            if wanted.is_none_or(|wanted| wanted == cid) {
                return Ok((cid, root));
            }
            let Some(parent) = root.parent else { break };
            let Some(block) = blocks.get(&parent).await? else { break };
            (cid, root) = (parent, BucketRoot::from_block(&block)?);
        }
        let text = format!("the root is none of the last ones of bucket {}", head.address().name);
        Err(ServiceError::InvalidArgument(text))
    }

    /// Adds the nodes on the way to a key. Returns the content of its object, if there is one.
    async fn path_to(
        &self,
        root: &BucketRoot,
        key: &ObjectKey,
        path: &mut Vec<Block>,
    ) -> Result<Option<Cid>, StoreError> {
        let mut next = root.objects.root;
        while let Some(cid) = next {
            let block = require(self.arbiter().nodes().blocks().as_ref(), &cid).await?;
            let node = Node::decode(block.bytes())?;
            path.push(block);
            let found = node.find(key.as_bytes());
            if node.level() == 0 {
                let Ok(index) = found else { return Ok(None) };
                let entry = node.entry(index);
                return Ok(ObjectRecord::decode(&entry.value, entry.weight)?.content);
            }
            let index = found.unwrap_or_else(|after| after);
            next = (index < node.len()).then(|| node.child(index));
        }
        Ok(None)
    }

    /// Adds the nodes that have the keys of a page, and the key after it.
    async fn page_of(
        &self,
        root: &BucketRoot,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        path: &mut Vec<Block>,
    ) -> Result<(), StoreError> {
        let begin = after.unwrap_or_default().max(prefix).as_bytes();
        let end = after_prefix(prefix.as_bytes());
        let mut left = limit.min(PAGE_MAX) + 2;
        let mut stack: Vec<Cid> = root.objects.root.into_iter().collect();
        while let Some(cid) = stack.pop() {
            let block = require(self.arbiter().nodes().blocks().as_ref(), &cid).await?;
            let node = Node::decode(block.bytes())?;
            path.push(block);
            let first = node.find(begin).unwrap_or_else(|after| after);
            if node.level() > 0 {
                stack.extend((first..node.len()).rev().map(|index| node.child(index)));
                continue;
            }
            let is_past = end.as_ref().is_some_and(|end| node.last_key() >= &end[..]);
            left = left.saturating_sub(node.len() - first);
            if is_past || left == 0 {
                return Ok(());
            }
        }
        Ok(())
    }
}
