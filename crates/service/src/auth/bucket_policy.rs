//! Reads the policy of a bucket from its root.

use fula_core::{
    BlockStore,
    bucket::{BucketRoot, settings},
};

use super::policy::PublicRead;
use crate::error::ServiceError;

/// Name of the setting that holds the policy, as text in a block of its own.
pub(crate) const POLICY: &str = "policy";

/// Name of the setting that holds the rules for other origins, as text in a block of its own.
pub(crate) const CORS: &str = "cors";

/// Returns the public part of the bucket that a root describes.
pub(crate) async fn public(
    blocks: &dyn BlockStore,
    root: &BucketRoot,
) -> Result<PublicRead, ServiceError> {
    match policy_text(blocks, root).await? {
        Some(text) => PublicRead::parse(&text, &root.name),
        None => Ok(PublicRead::default()),
    }
}

/// Returns whether anyone reaches the bucket that a root describes by its bare name: any part of it is
/// public, or it has rules for other origins, which preflights without credentials ask for.
///
/// # Errors
/// [`ServiceError::Unavailable`] while its policy cannot be read.
pub(crate) async fn is_public(
    blocks: &dyn BlockStore,
    root: &BucketRoot,
) -> Result<bool, ServiceError> {
    Ok(!public(blocks, root).await?.is_nothing() || cors_text(blocks, root).await?.is_some())
}

/// Returns the rules for other origins, as the gateway stored them.
pub(crate) async fn cors_text(
    blocks: &dyn BlockStore,
    root: &BucketRoot,
) -> Result<Option<String>, ServiceError> {
    Ok(settings::read_text(blocks, root.settings.as_ref(), CORS).await?)
}

pub(crate) async fn policy_text(
    blocks: &dyn BlockStore,
    root: &BucketRoot,
) -> Result<Option<String>, ServiceError> {
    Ok(settings::read_text(blocks, root.settings.as_ref(), POLICY).await?)
}
