//! Listing objects. One request reads one root.

use fula_core::{
    BucketName, OwnerId,
    bucket::{ListQuery, Listed, ObjectRecord, list_page},
    tree::after_prefix,
};

use crate::{
    auth::access::Action,
    caller::Caller,
    error::ServiceError,
    limits::PAGE_MAX,
    service::{Part, Service},
};

/// The objects to list, and how many.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// Lists only keys that start with this.
    pub prefix: String,
    /// Keys that contain this after the prefix are listed as one common prefix. Empty for no delimiter.
    pub delimiter: String,
    /// Lists only keys and common prefixes after this one.
    pub after: Option<String>,
    /// Largest number of lines, at most [`PAGE_MAX`].
    pub limit: usize,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListingLine {
    /// An object.
    Object(String, Box<ObjectRecord>),
    /// A common prefix, including the delimiter.
    Prefix(String),
}

impl ListingLine {
    /// Returns the key or the common prefix.
    pub fn name(&self) -> &str {
        match self {
            Self::Object(name, _) | Self::Prefix(name) => name,
        }
    }
}

/// A page of a listing, which is a snapshot of one root.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Owner of the bucket.
    pub owner: OwnerId,
    /// Whether access control lists count, so that objects may have other owners.
    pub has_owners: bool,
    /// Lines in order of name.
    pub lines: Vec<ListingLine>,
    /// Whether more lines follow.
    pub truncated: bool,
}

impl Service {
    /// Returns a page of the objects of a bucket.
    ///
    /// # Errors
    /// [`ServiceError::NoSuchBucket`].
    pub async fn list_objects(
        &self,
        caller: &Caller,
        bucket: &BucketName,
        request: &ListRequest,
    ) -> Result<Listing, ServiceError> {
        let part = Part::Prefix(&request.prefix);
        let head = self.resolve(caller, bucket, Action::ListObjects, part).await?;
        let access = self.access_of(caller, &head.root, Action::ListObjects).await?;
        let (owner, has_owners) = (head.row.address.owner, access.acls().is_some());
        let query = ListQuery {
            prefix: &request.prefix,
            delimiter: &request.delimiter,
            after: request.after.as_deref(),
            limit: request.limit.min(PAGE_MAX),
        };
        // Nothing can follow a name that is beyond every key with the prefix.
        let beyond = after_prefix(request.prefix.as_bytes());
        if let (Some(after), Some(beyond)) = (&request.after, beyond)
            && after.as_bytes() >= beyond.as_ref()
        {
            return Ok(Listing { owner, has_owners, lines: Vec::new(), truncated: false });
        }
        let page = list_page(self.arbiter().nodes(), &head.root.objects, &query).await?;
        let line = |item| match item {
            Listed::Key(key, entry) => {
                let record = ObjectRecord::decode(&entry.value, entry.weight)?;
                Ok(ListingLine::Object(key, Box::new(record)))
            }
            Listed::Prefix(prefix) => Ok(ListingLine::Prefix(prefix)),
        };
        let lines = page.items.into_iter().map(line).collect::<Result<_, ServiceError>>()?;
        Ok(Listing { owner, has_owners, lines, truncated: page.truncated })
    }
}
