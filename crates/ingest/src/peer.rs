//! Requests between masters and nodes. The sender signs method, path, time and the hash of the body, which is
//! in the header. So the receiver knows the sender before it reads anything of the body.

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
const SAID_MAX: usize = 192;

/// The first line of a request. It is signed with the hash of the body.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Method, in capitals.
    pub method: &'a str,
    /// Path and query, as in the first line of the request.
    pub target: &'a str,
}

/// The sender of a request whose signature was verified. Its body may still be on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The sender.
    pub id: SignerId,
    /// BLAKE3 hash of the body that it signed.
    body: [u8; 32],
}

impl Sender {
    /// Checks that the body is the one that was signed.
    ///
    /// # Errors
    /// [`InvalidDocument::Signature`] for any other body.
    pub fn sent(&self, body: &[u8]) -> Result<SignerId, InvalidDocument> {
        let is_signed = *blake3::hash(body).as_bytes() == self.body;
        if is_signed { Ok(self.id) } else { Err(InvalidDocument::Signature) }
    }
}

impl<'a> Line<'a> {
    /// Returns the first line of a request.
    pub fn of(method: &'a str, target: &'a str) -> Self {
        Self { method, target }
    }

    /// Signs a request with this body to the holder of the key `to`. Returns the value of [`HEADER`].
    pub fn sign(self, body: &[u8], key: &SigningKey, to: SignerId, now: TimeMs) -> String {
        let mut out = Writer::with_capacity(160);
        out.array(5).uint(1).bytes(&key.id().0).bytes(&to.0).uint(now);
        out.bytes(blake3::hash(body).as_bytes());
        let said = out.finish();
        let signature = Sealed::sign(key, PURPOSE, self.with(&said));
        // What both sides know of the request is signed, and not sent again.
        format!("{}.{}", hex::encode(&said), signature.signature_text())
    }

    fn with(self, said: &[u8]) -> Bytes {
        let mut out = Writer::with_capacity(256);
        out.array(3).bytes(said).text(self.method).text(self.target);
        out.finish()
    }

    /// Returns the sender of a request to `here`, whose key `key_of` knows. The body is not needed for this, so
    /// nothing is read of it for an unknown sender. Check it with [`Sender::sent`].
    ///
    /// # Errors
    /// [`InvalidDocument`] with the reason.
    pub fn verify(
        self,
        text: &str,
        key_of: impl FnOnce(SignerId) -> Option<PublicKey>,
        here: SignerId,
        now: TimeMs,
    ) -> Result<Sender, InvalidDocument> {
        let malformed = InvalidDocument::Malformed;
        let (said, signature) = text.split_once('.').ok_or(malformed("no signature"))?;
        if said.len() > SAID_MAX {
            return Err(malformed("it is too long"));
        }
        let said = Bytes::from(hex::decode(said).map_err(|_| malformed("no hex"))?);
        let mut reader = Reader::new(&said);
        reader.tuple(5)?;
        if reader.uint()? != 1 {
            return Err(malformed("it is of a newer version"));
        }
        let (id, to) = (SignerId(reader.array_of()?), SignerId(reader.array_of()?));
        let (time, body) = (reader.uint()?, reader.array_of()?);
        reader.end()?;
        let key = key_of(id).ok_or(InvalidDocument::NotForHere)?;
        Sealed::from_parts(self.with(&said), signature)?.verify(&key, PURPOSE)?;
        if time.abs_diff(now) > SKEW_MS {
            return Err(InvalidDocument::Time);
        }
        if to != here {
            return Err(InvalidDocument::NotForHere);
        }
        Ok(Sender { id, body })
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
        let line = Line::of("POST", "/v0/pin");
        let text = line.sign(b"body", &key, here, now);
        let read = |line: Line<'_>, to, now| {
            line.verify(&text, |id| (id == key.id()).then(|| key.public()), to, now)
        };
        let sender = read(line, here, now + SKEW_MS).unwrap();
        assert_eq!(sender.sent(b"body"), Ok(key.id()));
        for body in [&b"bodY"[..], b"", b"body2"] {
            assert_eq!(sender.sent(body), Err(InvalidDocument::Signature));
        }
        assert_eq!(read(line, here, now + SKEW_MS + 1), Err(InvalidDocument::Time));
        assert_eq!(read(line, SignerId([2; 8]), now), Err(InvalidDocument::NotForHere));
        for other in [Line::of("POST", "/v0/have"), Line::of("GET", "/v0/pin")] {
            assert_eq!(read(other, here, now), Err(InvalidDocument::Signature));
        }
        let unknown = line.verify(&text, |_| None, here, now);
        assert_eq!(unknown, Err(InvalidDocument::NotForHere));
        // The hash in the header cannot be exchanged for that of another body.
        let other = line.sign(b"bodY", &key, here, now);
        let mixed = [other.split_once('.').unwrap().0, text.split_once('.').unwrap().1].join(".");
        let read = line.verify(&mixed, |_| Some(key.public()), here, now);
        assert_eq!(read, Err(InvalidDocument::Signature));
        for broken in ["", ".", "zz.AAAA", "8401.AAAA", &"é".repeat(9)] {
            assert!(line.verify(broken, |_| Some(key.public()), here, now).is_err());
        }
    }
}
