//! Signed documents: strict dag-cbor, then an Ed25519 signature. As text they are base64url without padding.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use fula_core::cbor::Invalid;

use crate::key::{PublicKey, SIGNATURE_BYTES, SigningKey};

/// Largest document in bytes, with its signature.
const DOCUMENT_BYTES_MAX: usize = 4096;

/// A document that is malformed or not signed by the key that it should be signed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDocument {
    /// The bytes are no document of this kind.
    #[error("it is malformed: {0}")]
    Malformed(&'static str),
    /// The signature is not that of the key.
    #[error("its signature is wrong")]
    Signature,
    /// Its time is over, or too far in the future.
    #[error("its time is over")]
    Time,
    /// It is for other nodes or masters.
    #[error("it is for another node")]
    NotForHere,
}

impl From<Invalid> for InvalidDocument {
    fn from(invalid: Invalid) -> Self {
        Self::Malformed(invalid.0)
    }
}

/// A document in two parts: what is signed, and the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) body: Bytes,
    signature: Bytes,
}

impl Sealed {
    /// Signs a body.
    pub(crate) fn sign(key: &SigningKey, purpose: &str, body: Bytes) -> Self {
        let signature = Bytes::copy_from_slice(&key.sign(purpose, &body));
        Self { body, signature }
    }

    /// Returns the text of the document.
    pub(crate) fn to_text(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode([self.body.as_ref(), self.signature.as_ref()].concat())
    }

    /// Returns the text of the signature alone.
    pub(crate) fn signature_text(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(&self.signature)
    }

    /// Joins a body that is known and the text of a signature. Verifies nothing.
    pub(crate) fn from_parts(body: Bytes, signature: &str) -> Result<Self, InvalidDocument> {
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature);
        let signature = signature.map_err(|_| InvalidDocument::Malformed("it is no base64url"))?;
        Ok(Self { body, signature: signature.into() })
    }

    /// Splits a text. Verifies nothing.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidDocument> {
        if text.len() > DOCUMENT_BYTES_MAX * 4 / 3 {
            return Err(InvalidDocument::Malformed("it is too long"));
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text);
        let mut body =
            Bytes::from(bytes.map_err(|_| InvalidDocument::Malformed("it is no base64url"))?);
        let end = body.len().checked_sub(SIGNATURE_BYTES);
        let end = end.ok_or(InvalidDocument::Malformed("it is cut off"))?;
        let signature = body.split_off(end);
        Ok(Self { body, signature })
    }

    /// Checks the signature.
    pub(crate) fn verify(&self, key: &PublicKey, purpose: &str) -> Result<(), InvalidDocument> {
        let is_signed = key.verifies(purpose, &self.body, &self.signature);
        if is_signed { Ok(()) } else { Err(InvalidDocument::Signature) }
    }
}
