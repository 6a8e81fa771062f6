//! A block that cannot be read, and stops collections.

use fula_service::{ServiceError, error::chain};

/// Returns why a collection, or a look at what it would do, came to no end. It names a block that cannot be read:
/// without it, nobody knows what the blocks below it are needed for.
pub(crate) fn why(error: &ServiceError) -> String {
    let what = chain(error);
    match error.unreadable_block() {
        Some(_) => format!(
            "{what}, so what it links is not known and nothing may be deleted; run fula fsck, which names what needs it"
        ),
        None => what,
    }
}
