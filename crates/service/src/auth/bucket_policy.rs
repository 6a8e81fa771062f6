//! The policy of a bucket, as its root holds it.

use fula_core::{
    BlockStore,
    block::require,
    bucket::{BucketRoot, Settings},
    cbor::Reader,
};

use super::policy::PublicRead;
use crate::error::ServiceError;

/// Name of the setting that holds the policy: a text, in a block of its own.
pub(crate) const POLICY: &str = "policy";

/// Returns what anyone may read of the bucket that a root describes.
pub(crate) async fn public(
    blocks: &dyn BlockStore,
    root: &BucketRoot,
) -> Result<PublicRead, ServiceError> {
    match policy_text(blocks, root).await? {
        Some(text) => PublicRead::parse(&text, &root.name),
        None => Ok(PublicRead::default()),
    }
}

/// Returns whether anyone may read anything of the bucket that a root describes.
///
/// # Errors
/// [`ServiceError::Unavailable`] while its policy cannot be read.
pub(crate) async fn is_public(
    blocks: &dyn BlockStore,
    root: &BucketRoot,
) -> Result<bool, ServiceError> {
    Ok(!public(blocks, root).await?.is_nothing())
}

pub(crate) async fn policy_text(
    blocks: &dyn BlockStore,
    root: &BucketRoot,
) -> Result<Option<String>, ServiceError> {
    let Some(cid) = &root.settings else { return Ok(None) };
    let settings = Settings::from_block(&require(blocks, cid).await?)?;
    let Some(cid) = settings.blocks.get(POLICY) else { return Ok(None) };
    let block = require(blocks, cid).await?;
    let text = Reader::new(block.bytes()).text().map(ToOwned::to_owned);
    Ok(Some(text.map_err(|invalid| invalid.of("policy"))?))
}
