//! The trailer of a body: which segments count, the path and the metadata.

use crate::{
    BodyKey, Entropy, FileId, SealError, VaultId, VaultKeys, aead,
    body::{
        ContentHasher, Layout, Metadata,
        footer::{FOOTER_BYTES, Footer, TRAILER_BYTES_MAX},
        proof,
    },
    key::FileKeys,
    name::Anchor,
    signature::SigningKey,
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

impl Layout {
    /// Opens the layout of a body that a link leads to. The path and the metadata stay closed: their key is another
    /// one. `body_bytes` is the length of the whole body.
    ///
    /// # Errors
    /// [`SealError::Misplaced`]: the link leads to another body. [`SealError::Damaged`], [`SealError::Truncated`],
    /// [`SealError::Malformed`].
    pub fn open_shared(
        key: &BodyKey,
        footer: &Footer,
        sealed: &[u8],
        body_bytes: u64,
    ) -> Result<Self, SealError> {
        let ((_, trailer), range) = (key.of_body(footer.file)?, footer.trailer_range(body_bytes)?);
        if range.end - range.start != sealed.len() as u64 {
            return Err(SealError::Truncated { what: WHAT });
        }
        let (layout, _) = split(sealed)?;
        let layout = aead::open(WHAT, &trailer, &[&footer.to_bytes()], layout)?;
        let layout = Self::decode(layout)?;
        if layout.sealed_bytes() != range.start {
            return Err(SealError::Truncated { what: "the content" });
        }
        Ok(layout)
    }
}

/// Splits a trailer into its two texts.
fn split(sealed: &[u8]) -> Result<(&[u8], &[u8]), SealError> {
    let truncated = SealError::Truncated { what: WHAT };
    let (len, rest) = sealed.split_first_chunk().ok_or(truncated)?;
    let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| truncated)?;
    rest.split_at_checked(len).ok_or(truncated)
}

/// The end of a body without a proof, sealed. Early builds wrote such bodies, and readers still take them.
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
        of: (u32, FileId),
        layout: &Layout,
        metadata: &Metadata,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, SealError> {
        let (mut bytes, footer) = seal(keys, of, (layout, 0), metadata, entropy)?;
        let anchor = Anchor::new(&footer, &bytes, &layout.segments()[0]);
        bytes.extend(footer.to_bytes());
        Ok(Self { bytes, anchor })
    }
}

/// Seals the trailer of a file with a proof of so many hashes. Returns it, and the footer.
fn seal(
    keys: &FileKeys,
    (epoch, file): (u32, FileId),
    (layout, hashes): (&Layout, u16),
    metadata: &Metadata,
    entropy: &mut dyn Entropy,
) -> Result<(Vec<u8>, Footer), SealError> {
    let (encoded, metadata) = (layout.encode(), metadata.encode()?);
    let layout_bytes = encoded.len() + aead::OVERHEAD_BYTES;
    let len = 4 + layout_bytes + metadata.len() + aead::OVERHEAD_BYTES;
    SealError::limit("a trailer (bytes)", len, TRAILER_BYTES_MAX)?;
    let footer = Footer { trailer_bytes: low_u32(len), epoch, hashes, file };
    let authenticated = footer.to_bytes();
    let mut bytes = Vec::with_capacity(len + FOOTER_BYTES);
    bytes.extend(low_u32(layout_bytes).to_be_bytes());
    bytes.extend(aead::seal(&keys.trailer, &[&authenticated], &encoded, entropy)?);
    bytes.extend(aead::seal(&keys.metadata, &[&authenticated], &metadata, entropy)?);
    Ok((bytes, footer))
}

/// The end of a body, sealed before its content. It takes the sealed content while that is sent, and signs it.
#[derive(Clone)]
pub struct EndingSigner {
    vault: VaultId,
    trailer: Vec<u8>,
    footer: Footer,
    content: ContentHasher,
    /// What the name of the object says about the body.
    pub anchor: Anchor,
}

impl EndingSigner {
    pub(crate) fn seal(
        vault: VaultId,
        keys: &FileKeys,
        of: (u32, FileId),
        layout: &Layout,
        metadata: &Metadata,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, SealError> {
        let content = ContentHasher::new(layout);
        // A layout has at most 10 000 segments.
        let hashes = u16::try_from(layout.hashed().len()).unwrap_or(u16::MAX);
        let (trailer, footer) = seal(keys, of, (layout, hashes), metadata, entropy)?;
        let anchor = Anchor::new(&footer, &trailer, &layout.segments()[0]);
        Ok(Self { vault, trailer, footer, content, anchor })
    }

    /// Returns the length of the end in bytes.
    pub fn sealed_bytes(&self) -> usize {
        self.trailer.len() + self.footer.proof_bytes() + FOOTER_BYTES
    }

    /// Takes the next sealed bytes of the content, in order and in pieces of any size.
    pub fn update(&mut self, sealed: &[u8]) {
        self.content.update(sealed);
    }

    /// Takes the hash of a segment in place of its sealed bytes, where an upload goes on after an interruption.
    pub fn known(&mut self, hash: [u8; 32]) {
        self.content.known(hash);
    }

    /// Returns the hash of a segment; `None` if it was not sealed yet, or has no content.
    pub fn hash(&self, segment: usize) -> Option<[u8; 32]> {
        self.content.hash(segment)
    }

    /// Returns the end of the body: trailer, proof and footer.
    ///
    /// # Errors
    /// [`SealError::Truncated`]: it did not get all of the content.
    pub fn sign(self, device: &SigningKey) -> Result<Vec<u8>, SealError> {
        let Self { vault, trailer, footer, content, .. } = self;
        let proof = proof::sign(vault, (&footer, &trailer), &content, device)?;
        Ok([trailer, proof, footer.to_bytes().to_vec()].concat())
    }
}

impl std::fmt::Debug for EndingSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndingSigner").field("footer", &self.footer).finish_non_exhaustive()
    }
}

/// Returns a length that was compared with a limit.
fn low_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
