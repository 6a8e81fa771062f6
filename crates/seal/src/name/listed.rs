//! What a listing shows of a file.

use fula_core::cbor::{Invalid, Reader, Writer};

use crate::{
    Entropy, SUITE, SealError, SealedKey, VaultKeys, VaultPath, aead,
    body::metadata::{
        read_optional_text, read_optional_uint, write_optional_text, write_optional_uint,
    },
    name::{
        Anchor, DIGEST_BYTES, Kept,
        anchor::{digest, signed},
    },
    signature::{DeviceId, PublicKey, SigningKey},
    text,
};

const PURPOSE: &str = "fula 2026 name";
const WHAT: &str = "the name";
/// Lengths that the plaintext of a name is padded to. With the last one, both metadata values have less than
/// the 2 048 bytes that S3 allows.
const PADDED_BYTES: [usize; 8] = [128, 192, 256, 384, 512, 768, 1024, 1264];
/// Longest `ETag` in bytes.
const ETAG_BYTES_MAX: usize = 48;
const COMMITMENT_BYTES: usize = 16;
/// Bytes before the sealed text: the epoch and the commitment.
const HEAD_BYTES: usize = 4 + COMMITMENT_BYTES;

/// What a listing shows of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Path of the file.
    pub path: VaultPath,
    /// Size of the content in bytes.
    pub size: u64,
    /// Time of the last change of the file, in nanoseconds since 1970.
    pub modified: Option<u64>,
    /// `ETag` of the content, as S3 writes it without quotes; at most 48 bytes.
    pub etag: Option<String>,
    /// A number that grows with every change of the path: higher than the highest that the writer saw, and at least
    /// the milliseconds since 1970. A client that sees it go back was shown an older version. The time keeps it
    /// growing where a file was deleted by a device that the writer knows nothing of.
    pub clock: u64,
}

/// A name, sealed: the two metadata values of an object, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// S3 key without the prefix of the vault.
    pub key: SealedKey,
    /// Value of `fula-n`.
    pub listed: String,
    /// Value of `fula-k`.
    pub kept: String,
}

/// A name that was opened. Who wrote it is not verified before [`Opened::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What it shows.
    pub name: Name,
    /// Device that claims to have written it.
    pub device: DeviceId,
    /// Epoch in which it was sealed.
    pub epoch: u32,
    key: SealedKey,
    digest: [u8; DIGEST_BYTES],
    /// BLAKE3 of the padded plaintext, which is signed.
    hash: [u8; 32],
}

impl Name {
    /// Seals a name in the newest epoch, and signs it for the body of `anchor`.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] for a long `ETag`, and [`SealError::NoEntropy`].
    pub fn seal(
        &self,
        keys: &VaultKeys,
        anchor: &Anchor,
        device: &SigningKey,
        entropy: &mut dyn Entropy,
    ) -> Result<Sealed, SealError> {
        let (key, epoch) = (keys.sealed_key(&self.path), keys.epoch());
        let signed = signed(anchor, device.id());
        let padded = self.encode(device.id(), digest(&signed))?;
        let aad: [&[u8]; 3] = [&keys.vault().0, key.as_bytes(), &[SUITE]];
        let secret = keys.listing(epoch, "name", key.as_bytes())?;
        let commitment = keys.listing(epoch, "commit", key.as_bytes())?;
        let sealed = aead::seal(&secret, &aad, &padded, entropy)?;
        let head = [&epoch.to_be_bytes()[..], &commitment.expose()[..COMMITMENT_BYTES]].concat();
        let hash = *blake3::hash(&padded).as_bytes();
        let parts: [&[u8]; 4] = [&keys.vault().0, key.as_bytes(), &signed, &hash];
        let signature = device.sign(PURPOSE, &parts);
        let kept = Kept { anchor: *anchor, device: device.id(), signature };
        Ok(Sealed { key, listed: text::base64url(&[head, sealed].concat()), kept: kept.to_text() })
    }

    fn encode(&self, device: DeviceId, digest: [u8; DIGEST_BYTES]) -> Result<Vec<u8>, SealError> {
        let etag_bytes = self.etag.as_ref().map_or(0, String::len);
        SealError::limit("an ETag (bytes)", etag_bytes, ETAG_BYTES_MAX)?;
        let mut out = Writer::with_capacity(PADDED_BYTES[2]);
        out.array(8).bytes(self.path.as_bytes()).uint(self.size);
        write_optional_uint(&mut out, self.modified);
        write_optional_text(&mut out, self.etag.as_deref());
        out.uint(self.clock).bytes(&device.0).bytes(&digest).uint(0);
        let mut encoded = out.written().to_vec();
        let padded = PADDED_BYTES.iter().find(|padded| **padded >= encoded.len());
        encoded.resize(*padded.expect("path and ETag are short"), 0);
        Ok(encoded)
    }

    fn decode(padded: Vec<u8>) -> Result<(Self, DeviceId, [u8; DIGEST_BYTES]), SealError> {
        let (padded, malformed) = (padded.into(), SealError::in_cbor(WHAT));
        let mut reader = Reader::new(&padded);
        reader.tuple(8).map_err(&malformed)?;
        let path = VaultPath::new(reader.byte_slice().map_err(&malformed)?)?;
        let fields = Self::read(&mut reader).map_err(&malformed)?;
        if padded[reader.position()..].iter().any(|byte| *byte != 0) {
            return Err(SealError::Malformed { what: WHAT, why: "its padding is not zero" });
        }
        let (size, modified, etag, clock, device, digest) = fields;
        Ok((Self { path, size, modified, etag, clock }, device, digest))
    }

    /// Reads the fields after the path.
    fn read(reader: &mut Reader<'_>) -> Result<Fields, Invalid> {
        let (size, modified) = (reader.uint()?, read_optional_uint(reader)?);
        let (etag, clock) = (read_optional_text(reader)?, reader.uint()?);
        let (device, digest) = (DeviceId(reader.array_of()?), reader.array_of()?);
        match reader.uint()? {
            0 => Ok((size, modified, etag, clock, device, digest)),
            _ => Err(Invalid("unknown flags")),
        }
    }
}

/// Size, time, `ETag`, clock, device, and digest of the record of the body.
type Fields = (u64, Option<u64>, Option<String>, u64, DeviceId, [u8; DIGEST_BYTES]);

impl Opened {
    /// Opens the value of `fula-n` of the object with this key.
    ///
    /// # Errors
    /// - [`SealError::Misplaced`]: the name of another object or of another vault.
    /// - [`SealError::Damaged`]: it was altered.
    /// - [`SealError::UnknownEpoch`], [`SealError::Malformed`].
    pub fn open(keys: &VaultKeys, key: SealedKey, listed: &str) -> Result<Self, SealError> {
        let max = HEAD_BYTES + aead::OVERHEAD_BYTES + PADDED_BYTES[PADDED_BYTES.len() - 1];
        let bytes = text::read_base64url(WHAT, listed, max)?;
        let (head, sealed) =
            bytes.split_at_checked(HEAD_BYTES).ok_or(SealError::Truncated { what: WHAT })?;
        let epoch = u32::from_be_bytes([0, 1, 2, 3].map(|at| head[at]));
        let commitment = keys.listing(epoch, "commit", key.as_bytes())?;
        if head[4..] != commitment.expose()[..COMMITMENT_BYTES] {
            return Err(SealError::Misplaced { what: WHAT });
        }
        let aad: [&[u8]; 3] = [&keys.vault().0, key.as_bytes(), &[SUITE]];
        let secret = keys.listing(epoch, "name", key.as_bytes())?;
        let padded = aead::open(WHAT, &secret, &aad, sealed)?;
        let hash = *blake3::hash(&padded).as_bytes();
        let (name, device, digest) = Name::decode(padded)?;
        if keys.sealed_key(&name.path) != key {
            return Err(SealError::Misplaced { what: WHAT });
        }
        Ok(Self { name, device, epoch, key, digest, hash })
    }

    /// Checks that a writer of the vault wrote the name, for the body of `kept`. `key_of` returns the key of a
    /// device if it may write in the epoch of the name.
    ///
    /// # Errors
    /// - [`SealError::Misplaced`]: `kept` belongs to another name or another version.
    /// - [`SealError::NotSigned`]: no writer signed it.
    pub fn verify(
        &self,
        keys: &VaultKeys,
        kept: &Kept,
        key_of: impl FnOnce(DeviceId, u32) -> Option<PublicKey>,
    ) -> Result<Anchor, SealError> {
        let signed = kept.signed();
        if digest(&signed) != self.digest || kept.device != self.device {
            return Err(SealError::Misplaced { what: "the record of the body" });
        }
        let parts: [&[u8]; 4] = [&keys.vault().0, self.key.as_bytes(), &signed, &self.hash];
        let is_signed = key_of(self.device, self.epoch)
            .is_some_and(|public| public.verifies(PURPOSE, &parts, &kept.signature));
        if is_signed { Ok(kept.anchor) } else { Err(SealError::NotSigned { what: WHAT }) }
    }

    /// Compares the clock with the highest one that this client saw for the path.
    ///
    /// # Errors
    /// [`SealError::Replayed`]: the server shows an older version.
    pub fn check_clock(&self, seen: u64) -> Result<(), SealError> {
        let found = self.name.clock;
        if found >= seen { Ok(()) } else { Err(SealError::Replayed { what: WHAT, seen, found }) }
    }
}
