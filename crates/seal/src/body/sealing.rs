//! Sealing the content of a file.

use crate::{
    Entropy, FileId, SealError, VaultKeys,
    body::{Ending, Layout, Metadata, Segment},
    cobblestone::Message,
    draw,
    key::FileKeys,
};

/// Returns the context that the keys of a segment are bound to.
pub(crate) fn context(file: &FileId, ordinal: u64) -> [u8; 51] {
    let mut out = [0; 51];
    out[..11].copy_from_slice(b"fula seal 1");
    out[11..43].copy_from_slice(&file.0);
    out[43..].copy_from_slice(&ordinal.to_be_bytes());
    out
}

/// Seals one upload of a file, under a file id of its own.
///
/// Segments may be sealed in any order and on several threads. A segment that is sealed again gets another
/// salt; the layout says which attempt counts, and readers refuse every other one.
#[derive(Debug)]
pub struct FileSealer {
    epoch: u32,
    file: FileId,
    keys: FileKeys,
}

impl FileSealer {
    /// Begins a file in the newest epoch.
    ///
    /// # Errors
    /// [`SealError::NoEntropy`].
    pub fn new(keys: &VaultKeys, entropy: &mut dyn Entropy) -> Result<Self, SealError> {
        let (epoch, file) = (keys.epoch(), FileId(draw(entropy)?));
        Ok(Self { epoch, file, keys: keys.file(epoch, file)? })
    }

    /// Returns the random name of the upload.
    pub fn file(&self) -> FileId {
        self.file
    }

    /// Seals a segment: all of a part of the content, and the padding after it if it is the last. Returns what
    /// the layout lists, and the bytes to send.
    ///
    /// # Errors
    /// [`SealError::NoEntropy`].
    pub fn seal_segment(
        &self,
        ordinal: u64,
        plaintext: &[u8],
        entropy: &mut dyn Entropy,
    ) -> Result<(Segment, Vec<u8>), SealError> {
        let salt = draw(entropy)?;
        let context = context(&self.file, ordinal);
        let message = Message::derive(self.keys.segment.expose(), &salt, &[&context]);
        let (bytes, commitment) = (plaintext.len() as u64, message.commitment());
        let segment = Segment { ordinal, bytes, salt, commitment };
        Ok((segment, message.seal(&salt, plaintext)))
    }

    /// Seals the end of the body.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] for much metadata, and [`SealError::NoEntropy`].
    pub fn finish(
        &self,
        layout: &Layout,
        metadata: &Metadata,
        entropy: &mut dyn Entropy,
    ) -> Result<Ending, SealError> {
        Ending::seal(&self.keys, (self.epoch, self.file), layout, metadata, entropy)
    }
}
