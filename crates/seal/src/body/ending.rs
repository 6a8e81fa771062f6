//! The trailer of a body: which segments count, the path and the metadata.

use crate::{
    Entropy, FileId, SealError, VaultKeys, aead,
    body::{
        Layout, Metadata,
        footer::{FOOTER_BYTES, Footer, TRAILER_BYTES_MAX},
    },
    key::FileKeys,
    name::Anchor,
};

const WHAT: &str = "the trailer of the file";

/// What the trailer of a body says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The segments.
    pub layout: Layout,
    /// The path and the metadata at the time of the upload.
    pub metadata: Metadata,
}

impl Trailer {
    /// Opens the trailer of a body. `body_bytes` is the length of the whole body.
    ///
    /// With an `anchor` from the name of the object, the trailer must be the one of that name. Without it, a
    /// server could show the body of another file or of an older version: only recovery reads so.
    ///
    /// # Errors
    /// - [`SealError::Misplaced`]: the body is not the one that the name belongs to.
    /// - [`SealError::Damaged`]: it was altered, or another vault sealed it.
    /// - [`SealError::Truncated`]: segments are missing.
    /// - [`SealError::UnknownEpoch`], [`SealError::Malformed`].
    pub fn open(
        keys: &VaultKeys,
        footer: &Footer,
        sealed: &[u8],
        body_bytes: u64,
        anchor: Option<&Anchor>,
    ) -> Result<Self, SealError> {
        if anchor.is_some_and(|anchor| !anchor.is_of(footer, sealed)) {
            return Err(SealError::Misplaced { what: WHAT });
        }
        let range = footer.trailer_range(body_bytes)?;
        if range.end - range.start != sealed.len() as u64 {
            return Err(SealError::Truncated { what: WHAT });
        }
        let (layout, metadata) = split(sealed)?;
        let (keys, footer) = (keys.file(footer.epoch, footer.file)?, footer.to_bytes());
        let layout = Layout::decode(aead::open(WHAT, &keys.trailer, &[&footer], layout)?)?;
        let metadata = aead::open(WHAT, &keys.metadata, &[&footer], metadata)?;
        let metadata = Metadata::decode(metadata)?;
        if layout.sealed_bytes() != range.start {
            return Err(SealError::Truncated { what: "the content" });
        }
        if anchor.is_some_and(|anchor| !anchor.is_first(&layout.segments()[0])) {
            return Err(SealError::Misplaced { what: WHAT });
        }
        Ok(Self { layout, metadata })
    }
}

/// Splits a trailer into its two texts.
fn split(sealed: &[u8]) -> Result<(&[u8], &[u8]), SealError> {
    let truncated = SealError::Truncated { what: WHAT };
    let (len, rest) = sealed.split_first_chunk().ok_or(truncated)?;
    let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| truncated)?;
    rest.split_at_checked(len).ok_or(truncated)
}

/// The end of a body, sealed.
#[derive(Clone, Debug)]
pub struct Ending {
    /// The trailer and the footer: what follows the last segment.
    pub bytes: Vec<u8>,
    /// What the name of the object says about the body.
    pub anchor: Anchor,
}

impl Ending {
    /// Seals the trailer of a file.
    pub(crate) fn seal(
        keys: &FileKeys,
        (epoch, file): (u32, FileId),
        layout: &Layout,
        metadata: &Metadata,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, SealError> {
        let (first, metadata) = (layout.segments()[0], metadata.encode()?);
        let encoded = layout.encode();
        let layout_bytes = encoded.len() + aead::OVERHEAD_BYTES;
        let len = 4 + layout_bytes + metadata.len() + aead::OVERHEAD_BYTES;
        SealError::limit("a trailer (bytes)", len, TRAILER_BYTES_MAX)?;
        let footer = Footer { trailer_bytes: low_u32(len), epoch, file };
        let authenticated = footer.to_bytes();
        let mut bytes = Vec::with_capacity(len + FOOTER_BYTES);
        bytes.extend(low_u32(layout_bytes).to_be_bytes());
        bytes.extend(aead::seal(&keys.trailer, &[&authenticated], &encoded, entropy)?);
        bytes.extend(aead::seal(&keys.metadata, &[&authenticated], &metadata, entropy)?);
        let anchor = Anchor::new(&footer, &bytes, &first);
        bytes.extend(authenticated);
        Ok(Self { bytes, anchor })
    }
}

/// Returns a length that was compared with a limit.
fn low_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
