//! Requests between masters and nodes. The sender signs method, path, body and time.

use bytes::Bytes;
use fula_core::{
    cbor::{Reader, Writer},
    root::TimeMs,
};

use crate::{
    document::{InvalidDocument, Sealed},
    key::{PublicKey, SignerId, SigningKey},
    ticket::SKEW_MS,
};

const PURPOSE: &str = "fula 2026 peer request";

/// Header that carries the signature.
pub const HEADER: &str = "x-fula-peer";

/// Longest first part of the header.
const SAID_MAX: usize = 128;

/// What of a request is signed.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// Method, in capitals.
    pub method: &'a str,
    /// Path and query, as in the first line of the request.
    pub target: &'a str,
    /// BLAKE3 hash of the body.
    pub body: [u8; 32],
}

impl<'a> Signed<'a> {
    /// Returns what is signed of a request with this body.
    pub fn of(method: &'a str, target: &'a str, body: &[u8]) -> Self {
        Self { method, target, body: *blake3::hash(body).as_bytes() }
    }

    /// Signs a request to the holder of the key `to`. Returns the value of [`HEADER`].
    pub fn sign(self, key: &SigningKey, to: SignerId, now: TimeMs) -> String {
        let mut out = Writer::with_capacity(128);
        out.array(4).uint(1).bytes(&key.id().0).bytes(&to.0).uint(now);
        let said = out.finish();
        let signature = Sealed::sign(key, PURPOSE, self.with(&said));
        // What both sides know of the request is signed, and not sent again.
        format!("{}.{}", hex::encode(&said), signature.signature_text())
    }

    fn with(self, said: &[u8]) -> Bytes {
        let mut out = Writer::with_capacity(256);
        out.array(4).bytes(said).text(self.method).text(self.target).bytes(&self.body);
        out.finish()
    }

    /// Returns the sender of a request to `here`, whose key `key_of` knows.
    ///
    /// # Errors
    /// [`InvalidDocument`] with the reason.
    pub fn verify(
        self,
        text: &str,
        key_of: impl FnOnce(SignerId) -> Option<PublicKey>,
        here: SignerId,
        now: TimeMs,
    ) -> Result<SignerId, InvalidDocument> {
        let malformed = InvalidDocument::Malformed;
        let (said, signature) = text.split_once('.').ok_or(malformed("no signature"))?;
        if said.len() > SAID_MAX {
            return Err(malformed("it is too long"));
        }
        let said = Bytes::from(hex::decode(said).map_err(|_| malformed("no hex"))?);
        let mut reader = Reader::new(&said);
        reader.tuple(4)?;
        if reader.uint()? != 1 {
            return Err(malformed("it is of a newer version"));
        }
        let (from, to) = (SignerId(reader.array_of()?), SignerId(reader.array_of()?));
        let time = reader.uint()?;
        reader.end()?;
        let key = key_of(from).ok_or(InvalidDocument::NotForHere)?;
        Sealed::from_parts(self.with(&said), signature)?.verify(&key, PURPOSE)?;
        if time.abs_diff(now) > SKEW_MS {
            return Err(InvalidDocument::Time);
        }
        if to != here {
            return Err(InvalidDocument::NotForHere);
        }
        Ok(from)
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    #[test]
    fn a_request_is_signed_for_one_receiver_and_time() {
        let key = SigningKey::from_seed(&Zeroizing::new([7; 32]));
        let (here, now) = (SignerId([1; 8]), 1_700_000_000_000);
        let signed = Signed::of("POST", "/v0/pin", b"body");
        let text = signed.sign(&key, here, now);
        let read = |signed: Signed<'_>, to, now| {
            signed.verify(&text, |id| (id == key.id()).then(|| key.public()), to, now)
        };
        assert_eq!(read(signed, here, now + SKEW_MS), Ok(key.id()));
        assert_eq!(read(signed, here, now + SKEW_MS + 1), Err(InvalidDocument::Time));
        assert_eq!(read(signed, SignerId([2; 8]), now), Err(InvalidDocument::NotForHere));
        for other in [
            Signed::of("POST", "/v0/pin", b"bodY"),
            Signed::of("POST", "/v0/have", b"body"),
            Signed::of("GET", "/v0/pin", b"body"),
        ] {
            assert_eq!(read(other, here, now), Err(InvalidDocument::Signature));
        }
        let unknown = signed.verify(&text, |_| None, here, now);
        assert_eq!(unknown, Err(InvalidDocument::NotForHere));
        for broken in ["", ".", "zz.AAAA", "8401.AAAA", &"é".repeat(9)] {
            assert!(signed.verify(broken, |_| Some(key.public()), here, now).is_err());
        }
    }
}
