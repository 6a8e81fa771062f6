//! `fula cp`, `sync`, `ls`, `cat`, `put`, `rm`, `mv`, `du` and `stat`, on objects or in vaults.

use std::process::ExitCode;

use super::{
    objects, vault,
    vault::{is_link, is_vault},
};
use crate::cli::{CatArgs, CopyArgs, DuArgs, LsArgs, PutArgs, RmArgs, StatArgs, SyncArgs};

/// Copies files and objects.
pub(crate) async fn copy(args: CopyArgs) -> ExitCode {
    if is_vault(&args.source) || is_vault(&args.target) || is_link(&args.source) {
        return Box::pin(vault::copy(args)).await;
    }
    objects::copy(args).await
}

/// Moves files and objects.
pub(crate) async fn rename(args: CopyArgs) -> ExitCode {
    if is_vault(&args.source) || is_vault(&args.target) || is_link(&args.source) {
        return Box::pin(vault::rename(args)).await;
    }
    objects::rename(args).await
}

/// Makes the target like the source.
pub(crate) async fn sync(args: SyncArgs) -> ExitCode {
    if is_vault(&args.source) || is_vault(&args.target) {
        return Box::pin(vault::sync(args)).await;
    }
    Box::pin(objects::sync(args)).await
}

/// Lists buckets, objects, or files of a vault.
pub(crate) async fn ls(args: LsArgs) -> ExitCode {
    if args.place.as_deref().is_some_and(is_vault) {
        return Box::pin(vault::ls(args)).await;
    }
    objects::ls(args).await
}

/// Shows how much there is below a prefix.
pub(crate) async fn du(args: DuArgs) -> ExitCode {
    if is_vault(&args.place) {
        return Box::pin(vault::du(args)).await;
    }
    objects::du(args).await
}

/// Shows what is known of an object or a file.
pub(crate) async fn stat(args: StatArgs) -> ExitCode {
    if is_vault(&args.object) {
        return Box::pin(vault::stat(args)).await;
    }
    objects::stat(args).await
}

/// Writes an object or a file to standard output.
pub(crate) async fn cat(args: CatArgs) -> ExitCode {
    if is_vault(&args.object) || is_link(&args.object) {
        return Box::pin(vault::cat(args)).await;
    }
    objects::cat(args).await
}

/// Writes an object or a file of a vault.
pub(crate) async fn put(args: PutArgs) -> ExitCode {
    if is_vault(&args.object) {
        return Box::pin(vault::put(args)).await;
    }
    objects::put(args).await
}

/// Deletes objects or files of a vault.
pub(crate) async fn rm(args: RmArgs) -> ExitCode {
    if is_vault(&args.object) {
        return Box::pin(vault::rm(args)).await;
    }
    objects::rm(args).await
}
