//! Buckets: create, delete, look up, list.

use fula_core::{
    Block, BucketId, BucketName, Codec,
    block::require,
    bucket::Settings,
    cbor::{Reader, Writer},
    root::{GlobalName, TimeMs},
    tree::Salt,
};

use crate::{
    Part, Service,
    access::{Action, Holder, Target, authorize},
    caller::Caller,
    commit::{Ask, Change, Head},
    error::ServiceError,
    limits::PAGE_MAX,
    policy::PublicRead,
};

/// Name of the setting that holds the policy: a text, in a block of its own.
const POLICY: &str = "policy";

/// What bucket names are unique within (`FULA_BUCKET_NAMES`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NamePolicy {
    /// Each owner's own buckets.
    #[default]
    PerOwner,
    /// All buckets of the arbiter, as on AWS.
    Global,
}

/// What there is to say about a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketInfo {
    /// Its name.
    pub name: String,
    /// When it was created, milliseconds since 1970.
    pub created: TimeMs,
    /// Number of objects; exact.
    pub objects: u64,
    /// Sum of their sizes; exact.
    pub bytes: u64,
}

/// A page of the caller's buckets.
#[derive(Clone, Debug, Default)]
pub struct BucketPage {
    /// Names and creation times, in order of name.
    pub buckets: Vec<(String, TimeMs)>,
    /// Name to go on after, when there are more.
    pub next: Option<String>,
}

impl Service {
    /// Creates a bucket of the caller's.
    ///
    /// # Errors
    /// [`ServiceError::BucketAlreadyOwned`], [`ServiceError::BucketNameTaken`].
    pub async fn create_bucket(&self, caller: &Caller, name: &str) -> Result<(), ServiceError> {
        let identity = caller.identity.as_ref().ok_or(ServiceError::AccessDenied)?;
        let nothing = PublicRead::default();
        let own = Holder { owner: identity.owner, public: &nothing };
        let target = Target::Bucket(name);
        authorize(Some(identity), Action::CreateBucket, target, Some(own))?;
        let name = BucketName::parse(name)
            .map_err(|error| ServiceError::InvalidArgument(error.to_string()))?;
        let change = Change::CreateBucket {
            id: BucketId(self.random()),
            salt: Salt(self.random()),
            global_name: match self.names {
                NamePolicy::PerOwner => GlobalName::ClaimIfFree,
                NamePolicy::Global => GlobalName::Require,
            },
        };
        let print = caller.print("create-bucket", "", &[name.as_str().as_bytes()]);
        let ask = Ask::of(caller, None, print, change);
        self.submit(caller, &(identity.owner, name), ask).await.map(drop)
    }

    /// Deletes an empty bucket.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::BucketNotEmpty`].
    pub async fn delete_bucket(&self, caller: &Caller, name: &str) -> Result<(), ServiceError> {
        let print = caller.print("delete-bucket", "", &[name.as_bytes()]);
        let found = self.resolve(caller, name, Action::DeleteBucket, Part::Whole).await;
        let ask = |bucket| {
            let change = Change::DeleteBucket;
            Ask::of(caller, bucket, print.clone(), change)
        };
        match (found, &caller.identity) {
            (Ok(head), _) => {
                let ask = ask(Some(head.root.id));
                self.submit(caller, &head.address(), ask).await.map(drop)
            }
            // It may be the first attempt of this very request that deleted it.
            (Err(ServiceError::NoSuchBucket), Some(identity)) if caller.is_retry() => {
                let name = BucketName::parse(name).map_err(|_| ServiceError::NoSuchBucket)?;
                let address = (identity.owner, name);
                self.submit(caller, &address, ask(None)).await.map(drop)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Returns facts about a bucket.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`].
    pub async fn bucket(&self, caller: &Caller, name: &str) -> Result<BucketInfo, ServiceError> {
        let head = self.resolve(caller, name, Action::HeadBucket, Part::Anything).await?;
        Ok(BucketInfo {
            name: head.root.name.to_string(),
            created: head.root.created,
            objects: head.root.objects.count,
            bytes: head.root.objects.bytes,
        })
    }

    /// Returns the policy of a bucket as it was put.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchPolicy`].
    pub async fn policy(&self, caller: &Caller, name: &str) -> Result<String, ServiceError> {
        let head = self.resolve(caller, name, Action::GetPolicy, Part::Whole).await?;
        self.policy_text(&head).await?.ok_or(ServiceError::NoSuchPolicy)
    }

    /// Sets the policy of a bucket, or removes it.
    ///
    /// # Errors
    /// [`ServiceError::MalformedPolicy`]; [`ServiceError::NotImplemented`] for one that cannot be
    /// enforced.
    pub async fn set_policy(
        &self,
        caller: &Caller,
        name: &str,
        text: Option<&str>,
    ) -> Result<(), ServiceError> {
        let head = self.resolve(caller, name, Action::PutPolicy, Part::Whole).await?;
        if let Some(text) = text {
            PublicRead::parse(text, name)?;
        }
        let value = text.map(|text| {
            let mut out = Writer::with_capacity(text.len() + 8);
            out.text(text);
            Block::new(Codec::DagCbor, out.finish())
        });
        let print = caller.print("policy", "", &[text.unwrap_or_default().as_bytes()]);
        let change = Change::Set { name: POLICY, value };
        self.change(caller, &head, change, print).await.map(drop)
    }

    /// Returns what anyone may read of a bucket.
    pub(crate) async fn public(&self, head: &Head) -> Result<PublicRead, ServiceError> {
        match self.policy_text(head).await? {
            Some(text) => PublicRead::parse(&text, head.row.bucket.as_str()),
            None => Ok(PublicRead::default()),
        }
    }

    async fn policy_text(&self, head: &Head) -> Result<Option<String>, ServiceError> {
        let blocks = self.committer.nodes().blocks().as_ref();
        let Some(cid) = &head.root.settings else { return Ok(None) };
        let settings = Settings::from_block(&require(blocks, cid).await?)?;
        let Some(cid) = settings.blocks.get(POLICY) else { return Ok(None) };
        let block = require(blocks, cid).await?;
        let text = Reader::new(block.bytes()).text().map(ToOwned::to_owned);
        Ok(Some(text.map_err(|invalid| invalid.of("policy"))?))
    }

    /// Returns a page of the caller's buckets whose name starts with `prefix`, after `after`; of a
    /// credential with scopes, those that it reaches.
    ///
    /// # Errors
    /// [`ServiceError::AccessDenied`] for the anonymous.
    pub async fn buckets(
        &self,
        caller: &Caller,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<BucketPage, ServiceError> {
        let identity = caller.identity.as_ref().ok_or(ServiceError::AccessDenied)?;
        let mut after = match after {
            Some(after) => Some(BucketName::parse(after).map_err(|_| {
                ServiceError::InvalidArgument("the continuation token is not one of ours".into())
            })?),
            None => None,
        };
        let mut page = BucketPage::default();
        loop {
            let rows =
                self.committer.list_buckets(identity.owner, after.as_ref(), PAGE_MAX).await?;
            let Some(last) = rows.last() else { return Ok(page) };
            after = Some(last.bucket.clone());
            let live = rows
                .iter()
                .filter(|row| row.deleted.is_none() && row.bucket.as_str().starts_with(prefix))
                .filter(|row| {
                    let target = Target::Anything(row.bucket.as_str());
                    identity.grant.allows(Action::HeadBucket.verb(), target)
                });
            for row in live {
                if page.buckets.len() == limit {
                    page.next = page.buckets.last().map(|(name, _)| name.clone());
                    return Ok(page);
                }
                page.buckets.push((row.bucket.to_string(), row.created));
            }
        }
    }
}
