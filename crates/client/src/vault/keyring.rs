//! Changes of the keyring, and reading it again.

use std::sync::Arc;

use fula_seal::{
    SealError,
    keyring::{Checkpoint, Draft, Member, Trust},
    signature::DeviceId,
    slot::{Slot, SlotId},
};

use http::Method;

use super::{ATTEMPTS, Current, Vault, entropy::System, read_keyring};
use crate::{
    error::{Error, Result},
    put::PutOptions,
    request::{Request, header},
};

impl Vault {
    /// Reads the keyring again. It must follow the one that is in use.
    ///
    /// # Errors
    /// [`Error::Sealed`]: the identity has no slot any more, or the server shows another history.
    pub async fn refresh(&self) -> Result<()> {
        let (sealed, etag) = read_keyring(&self.0.place).await?;
        let current = self.current();
        let trust = Trust { fingerprint: None, seen: Some(current.keyring.sealed()) };
        let keyring = sealed.open(&self.0.identity, &trust)?;
        self.take(Current { keyring, etag })
    }

    fn take(&self, next: Current) -> Result<()> {
        let mut current = self.0.current.write();
        // Another task may have read a newer one meanwhile.
        if next.keyring.generation() >= current.keyring.generation() {
            self.0.state.lock().remember_keyring(next.keyring.sealed())?;
            *current = Arc::new(next);
        }
        Ok(())
    }

    /// Changes the keyring in one step: `change` gets the next generation. If another device changed it first, the
    /// keyring is read again, and `change` is called again.
    ///
    /// # Errors
    /// [`Error::Sealed`] with [`SealError::NotAdmin`], or the error of `change`; [`Error::Changed`] if others
    /// change it all the time.
    pub async fn change_keyring(
        &self,
        change: impl Fn(
            &mut Draft<'_>,
            &mut dyn fula_seal::Entropy,
        ) -> std::result::Result<(), SealError>
        + Send,
    ) -> Result<()> {
        for attempt in 1.. {
            let current = self.current();
            let next = {
                let mut draft = current.keyring.edit(self.0.identity.signing_key())?;
                change(&mut draft, &mut System)?;
                draft.seal(&mut System)?
            };
            let options =
                PutOptions { if_match: Some(current.etag.clone()), ..PutOptions::default() };
            let bytes = next.sealed().as_bytes().to_vec();
            match self.0.place.bucket.put(&self.0.place.keyring(), bytes, options).await {
                Ok(put) => {
                    return self.take(Current { keyring: next, etag: put.version.etag });
                }
                Err(Error::Changed { .. }) if attempt < ATTEMPTS => {
                    self.yield_to_others(attempt).await;
                    self.refresh().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes everyone with a label: their slots and their keys. The vault gets a new key and a new epoch.
    ///
    /// # Errors
    /// [`Error::Invalid`] if nobody has the label, and as for [`Vault::change_keyring`].
    pub async fn remove_member(&self, label: &str) -> Result<()> {
        let (slots, members) = self.of_label(label);
        if slots.is_empty() && members.is_empty() {
            return Err(Error::Invalid(format!("nobody in the vault has the label {label:?}")));
        }
        self.change_keyring(|draft, entropy| draft.remove(&slots, &members, entropy)).await
    }

    fn of_label(&self, label: &str) -> (Vec<SlotId>, Vec<DeviceId>) {
        let current = self.current();
        let slots = current.keyring.slots().filter(|(_, of)| *of == label);
        let slots = slots.map(|(slot, _)| slot.id()).collect();
        let members = current.keyring.members();
        let members = members.filter(|(member, of)| *of == label && member.until.is_none());
        (slots, members.map(|(member, _)| member.id()).collect())
    }

    /// Returns the slots and their labels.
    pub fn slots(&self) -> Vec<(Slot, String)> {
        let current = self.current();
        current.keyring.slots().map(|(slot, label)| (slot.clone(), label.to_owned())).collect()
    }

    /// Returns the members and their labels, also those that left.
    pub fn members(&self) -> Vec<(Member, String)> {
        let current = self.current();
        let members = current.keyring.members();
        members.map(|(member, label)| (member.clone(), label.to_owned())).collect()
    }

    /// Returns the state of the vault, for comparing it with another client by another way than the server.
    ///
    /// # Errors
    /// [`Error::Unsupported`] from servers other than Fula; [`Error::Sealed`] if the keyring or the bucket went back.
    pub async fn checkpoint(&self) -> Result<Checkpoint> {
        self.refresh().await?;
        let place = &self.0.place;
        let request = Request::of_bucket(Method::GET, place.bucket.name())
            .query("fula-proof", "")
            .query("max-keys", "1")
            .query("prefix", &*place.prefix);
        let answer = place.bucket.client().send(&request).await?;
        let value = |name: &str| header(&answer.headers, name);
        let version = value("x-fula-version").and_then(|text| text.parse().ok());
        let root = value("x-ipfs-roots").and_then(|text| text.parse().ok());
        let unsupported = || Error::Unsupported("checkpoints need GET ?fula-proof".to_owned());
        let (version, root) = version.zip(root).ok_or_else(unsupported)?;
        self.see_bucket(version)?;
        self.settle().await?;
        Ok(Checkpoint::of(&self.current().keyring, version, root))
    }

    /// Compares the version of the bucket with the highest one that this client saw, and remembers it.
    pub(super) fn see_bucket(&self, found: u64) -> Result<()> {
        let mut state = self.0.state.lock();
        let seen = state.version();
        if found < seen {
            return Err(SealError::RolledBack { what: "the bucket", seen, found }.into());
        }
        state.remember_version(found)
    }
}
