//! Which line of the key file encrypts the secrets of access keys: the one that the arbiter names.

use std::path::PathBuf;

use bytes::Bytes;
use fula_core::{
    MetadataStore, StoreError,
    metadata::{Table, WriteOutcome},
};
use fula_service::auth::{Resealed, SealingKey};

use super::{Node, NodeError, read_text};

/// Record of the fingerprint of the sealing key; every shared arbiter in use has it (ADR 0038). An embedded arbiter
/// has it once the key was changed.
pub(super) const SEALING_KEY: &str = "secrets-key";

/// The reason why the sealing key was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResealError {
    /// The file has one line. Add the new key to it.
    #[error(
        "the key file has one line, which encrypts the access keys already: add a new key as its last line on every \
         master, restart them, and run this again"
    )]
    OneLine,
    /// Masters lack the line. Give it to them.
    #[error(
        "these masters do not have the last line of the key file, and could not read the access keys: {0}; add the line \
         there, and restart them, or remove those that are gone with fula masters forget"
    )]
    Lacking(String),
    /// Another process has changed the record.
    #[error("another command changes the key at the same time; run this again")]
    Busy,
    /// The arbiter does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The same.
    #[error(transparent)]
    Service(#[from] fula_service::ServiceError),
}

/// Encrypts with the line that an embedded arbiter names.
pub(super) async fn choose(
    metadata: &dyn MetadataStore,
    sealing: &SealingKey,
    file: impl FnOnce() -> PathBuf,
) -> Result<(), NodeError> {
    match read_text(metadata, Table::Modes, SEALING_KEY).await? {
        Some(theirs) if !sealing.use_line(&theirs) => Err(NodeError::OtherKey(file())),
        _ => Ok(()),
    }
}

impl Node {
    /// Encrypts the secrets of all access keys with the last line of the key file. Returns what became of them, and
    /// the number of other masters, which encrypt with the old line until they are started again.
    ///
    /// # Errors
    /// [`ResealError`].
    pub(crate) async fn reseal(&self) -> Result<(Resealed, usize), ResealError> {
        let keys = self.authenticator.keys();
        let last = keys.sealing_lines().pop().filter(|_| keys.sealing_lines().len() > 1);
        let last = last.ok_or(ResealError::OneLine)?;
        let mut others = 0;
        if let Some(recovery) = &self.recovery {
            let masters = recovery.list_masters().await?;
            let lacking = masters.iter().filter(|master| !master.info.secrets_keys.contains(&last));
            let lacking: Vec<&str> = lacking.map(|master| master.name.as_str()).collect();
            if !lacking.is_empty() {
                return Err(ResealError::Lacking(lacking.join(", ")));
            }
            others = masters.iter().filter(|master| !master.is_self).count();
        }
        let entry = self.metadata.read(Table::Modes, SEALING_KEY).await?;
        let version = entry.as_ref().map_or(0, |entry| entry.version);
        let value = Some(Bytes::copy_from_slice(last.as_bytes()));
        if entry.and_then(|entry| entry.value) != value {
            let written = self.metadata.write(Table::Modes, SEALING_KEY, version, value).await?;
            if matches!(written, WriteOutcome::Conflict(_)) {
                return Err(ResealError::Busy);
            }
        }
        keys.seal_with(&last);
        Ok((keys.reseal().await?, others))
    }
}
