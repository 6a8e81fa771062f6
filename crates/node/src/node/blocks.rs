//! The shared block store that a setting names, and whether it is the one that was used before.

use fula_core::{MetadataStore, metadata::Table};
use fula_service::Random;
use fula_stores::Objects;

use crate::config::BlocksCredentials;

use super::{BLOCKS, NodeError, Purpose, agree, fresh_id, read_text};

/// Opens a block store and returns its name. Refuses a store that is not that of the other masters and of
/// earlier starts, because every master must be able to read the blocks of each published root.
pub(super) async fn open(
    url: &str,
    credentials: &BlocksCredentials,
    metadata: &dyn MetadataStore,
    purpose: Purpose,
    random: &Random,
) -> Result<(Objects, String), NodeError> {
    let theirs = read_text(metadata, Table::Modes, BLOCKS).await?;
    let may_begin = matches!(purpose, Purpose::Serve(_) | Purpose::MoveIn);
    if theirs.is_none() && may_begin {
        let objects = Objects::open_with(url, credentials.variables())?;
        let ours = objects.identify(&hex::encode(fresh_id(random))).await?;
        let theirs = agree(metadata, BLOCKS, &ours).await?;
        return if theirs == ours { Ok((objects, ours)) } else { Err(NodeError::OtherBlocks) };
    }
    // A store that was used before is never begun again: where nothing is found, it is not mounted. Commands
    // begin none; a store without a name has no packs.
    let objects = Objects::open_existing(url, credentials.variables())?;
    let ours = objects.name().await?.unwrap_or_default();
    let is_same = theirs.is_none_or(|theirs| theirs == ours);
    if is_same { Ok((objects, ours)) } else { Err(NodeError::OtherBlocks) }
}
