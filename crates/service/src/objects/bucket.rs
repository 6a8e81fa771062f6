//! Operations on buckets: create, delete, look up, list, policies.

use fula_core::{
    Block, BucketAddress, BucketId, BucketName, OwnerId,
    bucket::{TextMap, settings},
    root::TimeMs,
    tree::Salt,
};

use crate::{
    arbiter::Head,
    auth::access::{Action, Holder, Setting, Target, authorize},
    auth::acl::{AclRequest, BUCKET_ACL, OWNERSHIP, Ownership, bucket_acl_text},
    auth::bucket_policy::{BucketAccess, CORS, Openness, POLICY, cors_text, policy_text},
    auth::policy::Policy,
    auth::public_access::{PUBLIC_ACCESS, PublicAccessBlock},
    caller::Caller,
    commit::{Change, CommitRequest, LOCATION, TAGGING},
    error::ServiceError,
    limits::{Limits, PAGE_MAX},
    names::NamePolicy,
    service::{Freshness, Part, Service},
};

/// Facts about a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketInfo {
    /// Name of the bucket.
    pub name: BucketName,
    /// Time at which it was created, in milliseconds since 1970.
    pub created: TimeMs,
    /// Exact number of objects.
    pub objects: u64,
    /// Exact sum of their sizes in bytes.
    pub bytes: u64,
}

/// The settings that a new bucket begins with.
#[derive(Clone, Debug, Default)]
pub struct FirstSettings<'a> {
    /// Region that the client asked for. It is stored and has no effect.
    pub location: Option<&'a str>,
    /// Tags of the bucket.
    pub tags: TextMap,
    /// Who owns its objects, and whether access control lists count.
    pub ownership: Ownership,
    /// Access control list of the bucket.
    pub acl: Option<AclRequest>,
}

impl FirstSettings<'_> {
    /// Returns the block of each setting, by name.
    fn blocks(&self, owner: OwnerId) -> Result<Vec<(&'static str, Block)>, ServiceError> {
        let acl = bucket_acl_text(self.ownership, owner, self.acl.as_ref())?;
        let texts = [
            (LOCATION, self.location),
            (OWNERSHIP, self.ownership.to_text()),
            (BUCKET_ACL, acl.as_deref()),
        ];
        let texts = texts.into_iter().filter_map(|(name, text)| Some((name, text?)));
        let mut blocks: Vec<_> =
            texts.map(|(name, text)| (name, settings::text_block(text))).collect();
        if !self.tags.is_empty() {
            blocks.push((TAGGING, settings::map_block(&self.tags)));
        }
        Ok(blocks)
    }
}

/// A page of the caller's buckets.
#[derive(Clone, Debug, Default)]
pub struct BucketPage {
    /// Names and creation times, in order of name.
    pub buckets: Vec<(BucketName, TimeMs)>,
    /// Name after which the next page begins; `None` on the last page.
    pub next: Option<BucketName>,
}

impl Service {
    /// Creates a bucket of the caller. `location` is the region that the client asked for. It is stored and
    /// has no effect.
    ///
    /// # Errors
    /// [`ServiceError::BucketAlreadyOwned`], [`ServiceError::BucketNameTaken`],
    /// [`ServiceError::TooManyBuckets`].
    pub async fn create_bucket(
        &self,
        caller: &Caller,
        name: &BucketName,
        location: Option<&str>,
    ) -> Result<(), ServiceError> {
        let first = FirstSettings { location, ..FirstSettings::default() };
        self.create_bucket_with(caller, name, &first).await
    }

    /// Creates a bucket with settings.
    ///
    /// # Errors
    /// Those of [`Self::create_bucket`]; [`ServiceError::BucketAclInUse`] for a list that lets others in, where
    /// lists do not count; [`ServiceError::TooManyPublicBuckets`] where they do.
    pub async fn create_bucket_with(
        &self,
        caller: &Caller,
        name: &BucketName,
        first: &FirstSettings<'_>,
    ) -> Result<(), ServiceError> {
        let identity = caller.identity.as_ref().ok_or(ServiceError::AccessDenied)?;
        let nothing = BucketAccess::default();
        let own = Holder { owner: identity.owner, access: &nothing, object: None };
        let target = Target::Bucket(name.as_str());
        authorize(Some(identity), Action::CreateBucket, target, Some(own), &|_: &str| None)?;
        let settings = first.blocks(identity.owner)?;
        let parts = settings.iter().flat_map(|(name, block)| [name.as_bytes(), block.bytes()]);
        let made_of: Vec<&[u8]> = std::iter::once(name.as_str().as_bytes()).chain(parts).collect();
        let idempotency_key = caller.idempotency_key("create-bucket", "", &made_of);
        let has_acls = first.ownership != Ownership::Enforced;
        let change = Change::CreateBucket {
            id: BucketId(self.random()),
            salt: Salt(self.random()),
            settings,
            global_name: self.names.at_creation(has_acls),
            content: None,
        };
        let request = CommitRequest::of(caller, None, idempotency_key, change);
        let address = BucketAddress::new(identity.owner, name.clone());
        if has_acls && self.names == NamePolicy::PerOwner {
            self.before_write(caller, "arbiter", self.check_names(&address)).await?;
        }
        self.before_write(caller, "arbiter", self.check_buckets(&address)).await?;
        self.submit(caller, &address, request).await.map(drop)
    }

    /// Takes over how many buckets and public buckets one owner may have, and how large a bucket may be. Who has
    /// more keeps it.
    pub fn set_bucket_limits(&self, limits: &Limits) {
        self.committer.bucket_limits().set(limits);
    }

    /// Checks that an owner may create a bucket. If the bucket exists already, the creation is left to
    /// decide. Requests at the same moment may together exceed the limit.
    async fn check_buckets(&self, address: &BucketAddress) -> Result<(), ServiceError> {
        let max = self.committer.bucket_limits().buckets();
        let has_room = self.arbiter().count_buckets(address.owner).await?.buckets < max;
        if has_room || self.arbiter().current(address).await?.is_some() {
            return Ok(());
        }
        Err(ServiceError::TooManyBuckets(max))
    }

    /// Deletes an empty bucket.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::BucketNotEmpty`].
    pub async fn delete_bucket(
        &self,
        caller: &Caller,
        name: &BucketName,
    ) -> Result<(), ServiceError> {
        let idempotency_key =
            caller.idempotency_key("delete-bucket", "", &[name.as_str().as_bytes()]);
        let found = self.resolve(caller, name, Action::DeleteBucket, Part::Whole).await;
        let request = |bucket| {
            let change = Change::DeleteBucket;
            CommitRequest::of(caller, bucket, idempotency_key.clone(), change)
        };
        match (found, self.own_of(caller, caller.bucket_owner)) {
            (Ok(head), _) => {
                let request = request(Some(head.root.id));
                self.submit(caller, head.address(), request).await.map(drop)
            }
            // The first attempt of this request may have deleted the bucket.
            (Err(ServiceError::NoSuchBucket), Some(own)) if caller.is_retry() => {
                let address = BucketAddress::new(own, name.clone());
                self.submit(caller, &address, request(None)).await.map(drop)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Returns facts about a bucket.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`].
    pub async fn bucket(
        &self,
        caller: &Caller,
        name: &BucketName,
    ) -> Result<BucketInfo, ServiceError> {
        let head = self.resolve(caller, name, Action::HeadBucket, Part::Anything).await?;
        Ok(BucketInfo {
            name: head.root.name.clone(),
            created: head.root.created,
            objects: head.root.objects.count,
            bytes: head.root.objects.bytes,
        })
    }

    /// Returns the location that was asked for when the bucket was created.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`].
    pub async fn location(
        &self,
        caller: &Caller,
        name: &BucketName,
    ) -> Result<Option<String>, ServiceError> {
        let head = self.resolve(caller, name, Action::GetLocation, Part::Anything).await?;
        let blocks = self.arbiter().nodes().blocks().as_ref();
        Ok(settings::read_text(blocks, head.root.settings.as_ref(), LOCATION).await?)
    }

    /// Returns the policy of a bucket as it was put.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchPolicy`].
    pub async fn policy(&self, caller: &Caller, name: &BucketName) -> Result<String, ServiceError> {
        let head = self.resolve(caller, name, Action::GetPolicy, Part::Whole).await?;
        let blocks = self.arbiter().nodes().blocks().as_ref();
        policy_text(blocks, &head.root).await?.ok_or(ServiceError::NoSuchPolicy)
    }

    /// Returns whether the policy of a bucket makes it public, by the rule of AWS.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchPolicy`].
    pub async fn policy_status(
        &self,
        caller: &Caller,
        name: &BucketName,
    ) -> Result<bool, ServiceError> {
        let head = self.resolve(caller, name, Action::GetPolicyStatus, Part::Whole).await?;
        let blocks = self.arbiter().nodes().blocks().as_ref();
        let text = policy_text(blocks, &head.root).await?.ok_or(ServiceError::NoSuchPolicy)?;
        Ok(Policy::parse(&text)?.is_public())
    }

    /// Sets or removes the policy of a bucket. The bucket claims or releases its global name accordingly.
    /// If something of the bucket is public then, returns whether it holds the name: another public bucket
    /// may have it. Returns `None` if nothing is public, or the arbiter does not answer.
    ///
    /// # Errors
    /// [`ServiceError::MalformedPolicy`]; [`ServiceError::NotImplemented`] for a policy that cannot be
    /// enforced; [`ServiceError::TooManyPublicBuckets`].
    pub async fn set_policy(
        &self,
        caller: &Caller,
        name: &BucketName,
        text: Option<&str>,
    ) -> Result<Option<bool>, ServiceError> {
        let action = if text.is_some() { Action::PutPolicy } else { Action::DeletePolicy };
        let head = self.resolve(caller, name, action, Part::Whole).await?;
        if let Some(text) = text {
            Policy::check(text, name)?;
        }
        let mut open = self.openness(&head).await?;
        open.policy = text.map(ToOwned::to_owned);
        open.check_policy()?;
        let is_public = self.check_reach(caller, &head, &open).await?;
        let value = text.map(settings::text_block);
        let idempotency_key =
            caller.idempotency_key("policy", "", &[text.unwrap_or_default().as_bytes()]);
        let change = Change::Set { name: POLICY, value, names: Some(self.names) };
        self.change(caller, &head, change, idempotency_key).await?;
        if !is_public {
            return Ok(None);
        }
        // The policy is set, whatever comes of this read.
        let row = self.arbiter().bucket_row(head.address()).await.ok().flatten();
        let holds_name = row.map(|row| row.global_name);
        if holds_name == Some(false) {
            let owner = head.address().owner;
            tracing::warn!(bucket = %name, %owner, "a bucket is public, and another one holds its global name");
        }
        Ok(holds_name)
    }

    /// Returns the public access block of a bucket.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn public_access(
        &self,
        caller: &Caller,
        name: &BucketName,
    ) -> Result<Option<PublicAccessBlock>, ServiceError> {
        let head = self
            .resolve(caller, name, Action::GetSetting(Setting::PublicAccess), Part::Whole)
            .await?;
        PublicAccessBlock::of_root(self.arbiter().nodes().blocks().as_ref(), &head.root).await
    }

    /// Sets or removes the public access block of a bucket. The bucket claims or releases its global name
    /// accordingly.
    ///
    /// # Errors
    /// [`ServiceError::TooManyPublicBuckets`].
    pub async fn set_public_access(
        &self,
        caller: &Caller,
        name: &BucketName,
        block: Option<PublicAccessBlock>,
    ) -> Result<(), ServiceError> {
        let head = self
            .resolve(caller, name, Action::PutSetting(Setting::PublicAccess), Part::Whole)
            .await?;
        let open = Openness { block, ..self.openness(&head).await? };
        self.check_reach(caller, &head, &open).await?;
        let value = block.map(|block| settings::map_block(&block.to_map()));
        let made_of = value.as_ref().map_or(&[][..], |block| block.bytes());
        let idempotency_key = caller.idempotency_key("public-access", "", &[made_of]);
        let change = Change::Set { name: PUBLIC_ACCESS, value, names: Some(self.names) };
        self.change(caller, &head, change, idempotency_key).await.map(drop)
    }

    /// Sets or removes the rules for other origins. The bucket claims or releases its global name
    /// accordingly, because a preflight names neither caller nor owner.
    ///
    /// # Errors
    /// [`ServiceError::TooManyPublicBuckets`].
    pub async fn set_cors(
        &self,
        caller: &Caller,
        name: &BucketName,
        text: Option<&str>,
    ) -> Result<(), ServiceError> {
        let head =
            self.resolve(caller, name, Action::PutSetting(Setting::Cors), Part::Whole).await?;
        let open = Openness { has_cors: text.is_some(), ..self.openness(&head).await? };
        self.check_reach(caller, &head, &open).await?;
        let value = text.map(settings::text_block);
        let idempotency_key =
            caller.idempotency_key("cors", "", &[text.unwrap_or_default().as_bytes()]);
        let change = Change::Set { name: CORS, value, names: Some(self.names) };
        self.change(caller, &head, change, idempotency_key).await.map(drop)
    }

    /// Returns the rules of a bucket for other origins.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`], [`ServiceError::AccessDenied`].
    pub async fn cors(
        &self,
        caller: &Caller,
        name: &BucketName,
    ) -> Result<Option<String>, ServiceError> {
        let head =
            self.resolve(caller, name, Action::GetSetting(Setting::Cors), Part::Whole).await?;
        cors_text(self.arbiter().nodes().blocks().as_ref(), &head.root).await
    }

    /// Returns the rules of the bucket that a name means to a caller, whatever the caller may do.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`].
    pub async fn cors_of_anyone(
        &self,
        caller: &Caller,
        name: &BucketName,
    ) -> Result<Option<String>, ServiceError> {
        let found = self.find(caller, caller.bucket_owner, name, Freshness::MayBeStale).await?;
        let head = found.ok_or(ServiceError::NoSuchBucket)?;
        cors_text(self.arbiter().nodes().blocks().as_ref(), &head.root).await
    }

    /// Returns the settings that decide who reaches a bucket by its bare name.
    pub(crate) async fn openness(&self, head: &Head) -> Result<Openness, ServiceError> {
        Openness::of_root(self.arbiter().nodes().blocks().as_ref(), &head.root).await
    }

    /// Returns whether anyone will reach the bucket, and checks that its owner may have one more such bucket.
    /// What the commit decides counts, if settings change at the same moment.
    pub(crate) async fn check_reach(
        &self,
        caller: &Caller,
        head: &Head,
        open: &Openness,
    ) -> Result<bool, ServiceError> {
        let is_reached = open.is_reached();
        if is_reached && self.names == NamePolicy::PerOwner {
            self.before_write(caller, "arbiter", self.check_names(head.address())).await?;
        }
        Ok(is_reached)
    }

    /// Checks that a bucket may be made public: it holds its global name already, or its owner may claim
    /// one more. Requests at the same moment may together exceed the limit.
    async fn check_names(&self, address: &BucketAddress) -> Result<(), ServiceError> {
        let max = self.committer.bucket_limits().public_buckets();
        if self.arbiter().count_buckets(address.owner).await?.global_names < max {
            return Ok(());
        }
        // The row is read again, because the name in a cached head may be outdated.
        match self.arbiter().bucket_row(address).await? {
            Some(row) if row.global_name => Ok(()),
            _ => Err(ServiceError::TooManyPublicBuckets(max)),
        }
    }

    /// Returns a page of the caller's buckets whose name starts with `prefix` and is after `after`. For a
    /// credential with scopes, these are the buckets that the scopes cover.
    ///
    /// # Errors
    /// [`ServiceError::AccessDenied`] for anonymous callers.
    pub async fn buckets(
        &self,
        caller: &Caller,
        prefix: &str,
        after: Option<BucketName>,
        limit: usize,
    ) -> Result<BucketPage, ServiceError> {
        let identity = caller.identity.as_ref().ok_or(ServiceError::AccessDenied)?;
        let mut after = after;
        let mut page = BucketPage::default();
        loop {
            let rows =
                self.arbiter().list_buckets(identity.owner, after.as_ref(), PAGE_MAX).await?;
            let Some(last) = rows.last() else { return Ok(page) };
            after = Some(last.address.name.clone());
            let live = rows
                .iter()
                .filter(|row| {
                    row.deleted.is_none()
                        && !row.address.name.is_hidden()
                        && row.address.name.as_str().starts_with(prefix)
                })
                .filter(|row| {
                    let target = Target::Anything(row.address.name.as_str());
                    identity.grant.allows(Action::HeadBucket.verb(), target)
                });
            for row in live {
                if page.buckets.len() == limit {
                    page.next = page.buckets.last().map(|(name, _)| name.clone());
                    return Ok(page);
                }
                page.buckets.push((row.address.name.clone(), row.created));
            }
        }
    }
}
