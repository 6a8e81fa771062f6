//! Tickets: a master's signed permission for one owner to send blocks to one node. A ticket stands for a bearer
//! token, which therefore never reaches a node that somebody else operates. It is good at no other node, and
//! reads no block, so that its node can do nothing with it elsewhere.

use bytes::Bytes;
use fula_core::{
    OwnerId,
    cbor::{Reader, Writer},
    root::TimeMs,
};

use crate::{
    document::{InvalidDocument, Sealed},
    key::{PublicKey, SignerId, SigningKey},
};

const PURPOSE: &str = "fula 2026 ticket";

/// What the text of a ticket begins with, where a bearer token could stand as well.
pub const PREFIX: &str = "fula-ticket.";

/// Longest life of a ticket in milliseconds.
pub const LIFE_MS: u64 = 3600 * 1000;

/// By how much the clocks of a master and a node may differ, in milliseconds.
pub const SKEW_MS: u64 = 60 * 1000;

/// A name of the credential that a ticket was given for. It reveals nothing, and is compared with the names of
/// revoked credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CredentialTag(pub [u8; 16]);

impl CredentialTag {
    /// Returns the tag of a token by its digest in hex, or of an access key by its id.
    pub fn of(name: &str) -> Self {
        let hash = blake3::derive_key("fula 2026 ticket credential", name.as_bytes());
        let mut tag = [0; 16];
        tag.copy_from_slice(&hash[..16]);
        Self(tag)
    }
}

/// The content of a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The masters that signed it.
    pub master: SignerId,
    /// The owner whose blocks may be sent.
    pub owner: OwnerId,
    /// Random, so that what was sent under one ticket can be counted.
    pub id: [u8; 16],
    /// Most bytes that may be sent under the ticket.
    pub bytes_max: u64,
    /// Time at which it was given, in milliseconds since 1970.
    pub issued: TimeMs,
    /// Time at which it ends, in milliseconds since 1970.
    pub expires: TimeMs,
    /// The node that it is for.
    pub node: SignerId,
    /// The credential that it was given for.
    pub credential: CredentialTag,
    /// Time at which that credential was issued, in seconds since 1970; 0 when it does not say.
    pub credential_issued: u64,
    /// Whether it may ask which blocks the owner holds: only if its credential may read all of them.
    pub may_ask: bool,
}

impl Ticket {
    /// Signs the ticket, and returns its text.
    pub fn sign(&self, key: &SigningKey) -> String {
        let mut out = Writer::with_capacity(192);
        out.array(12).uint(1).bytes(&self.master.0).bytes(&self.owner.0).bytes(&self.id);
        out.uint(self.bytes_max).uint(self.issued).uint(self.expires).bytes(&self.node.0);
        out.bytes(&self.credential.0).uint(self.credential_issued);
        out.uint(u64::from(self.may_ask)).map(0);
        format!("{PREFIX}{}", Sealed::sign(key, PURPOSE, out.finish()).to_text())
    }

    /// Reads a ticket that is valid at `now` on the node `here`. `key_of` returns the key of known masters.
    ///
    /// # Errors
    /// [`InvalidDocument`] with the reason.
    pub fn verify(
        text: &str,
        key_of: impl FnOnce(SignerId) -> Option<PublicKey>,
        here: SignerId,
        now: TimeMs,
    ) -> Result<Self, InvalidDocument> {
        let text =
            text.strip_prefix(PREFIX).ok_or(InvalidDocument::Malformed("it is no ticket"))?;
        let sealed = Sealed::parse(text)?;
        let ticket = Self::parse(&sealed.body)?;
        let key = key_of(ticket.master).ok_or(InvalidDocument::NotForHere)?;
        sealed.verify(&key, PURPOSE)?;
        let life = ticket.expires.checked_sub(ticket.issued);
        let is_timely = life.is_some_and(|life| life <= LIFE_MS)
            && ticket.issued <= now.saturating_add(SKEW_MS)
            && now < ticket.expires;
        if !is_timely {
            return Err(InvalidDocument::Time);
        }
        if ticket.node != here {
            return Err(InvalidDocument::NotForHere);
        }
        Ok(ticket)
    }

    fn parse(body: &Bytes) -> Result<Self, InvalidDocument> {
        let mut reader = Reader::new(body);
        reader.tuple(12)?;
        if reader.uint()? != 1 {
            return Err(InvalidDocument::Malformed("it is of a newer version"));
        }
        let (master, owner) = (SignerId(reader.array_of()?), OwnerId(reader.array_of()?));
        let id = reader.array_of()?;
        let (bytes_max, issued, expires) = (reader.uint()?, reader.uint()?, reader.uint()?);
        let node = SignerId(reader.array_of()?);
        let credential = CredentialTag(reader.array_of()?);
        let credential_issued = reader.uint()?;
        let may_ask = match reader.uint()? {
            flag @ 0..=1 => flag == 1,
            _ => return Err(InvalidDocument::Malformed("unknown flags")),
        };
        reader.raw()?;
        reader.end()?;
        Ok(Self {
            master,
            owner,
            id,
            bytes_max,
            issued,
            expires,
            node,
            credential,
            credential_issued,
            may_ask,
        })
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    const NOW: TimeMs = 1_700_000_000_000;

    #[test]
    fn a_ticket_is_for_its_node_and_its_hour() {
        let key = SigningKey::from_seed(&Zeroizing::new([7; 32]));
        let (here, elsewhere) = (SignerId([1; 8]), SignerId([2; 8]));
        let ticket = Ticket {
            master: key.id(),
            owner: OwnerId([4; 16]),
            id: [5; 16],
            bytes_max: 1 << 30,
            issued: NOW,
            expires: NOW + LIFE_MS,
            node: here,
            credential: CredentialTag::of("FULKEXAMPLE"),
            credential_issued: 1_600_000_000,
            may_ask: true,
        };
        let text = ticket.sign(&key);
        let read = |text: &str, node, now| {
            Ticket::verify(text, |id| (id == key.id()).then(|| key.public()), node, now)
        };
        assert_eq!(read(&text, here, NOW), Ok(ticket.clone()));
        assert_eq!(read(&text, elsewhere, NOW), Err(InvalidDocument::NotForHere));
        assert_eq!(read(&text, here, NOW + LIFE_MS), Err(InvalidDocument::Time));
        assert_eq!(read(&text, here, NOW - SKEW_MS - 1), Err(InvalidDocument::Time));
        assert!(read(&text[1..], here, NOW).is_err());
        let eternal = Ticket { expires: NOW + LIFE_MS + 1, ..ticket.clone() }.sign(&key);
        assert_eq!(read(&eternal, here, NOW), Err(InvalidDocument::Time));
        let backwards = Ticket { expires: NOW - 1, ..ticket.clone() }.sign(&key);
        assert_eq!(read(&backwards, here, NOW - 2), Err(InvalidDocument::Time));
        let other = SigningKey::from_seed(&Zeroizing::new([8; 32]));
        assert_eq!(read(&ticket.sign(&other), here, NOW), Err(InvalidDocument::Signature));
        let foreign = Ticket { master: other.id(), ..ticket }.sign(&other);
        assert_eq!(read(&foreign, here, NOW), Err(InvalidDocument::NotForHere));
    }
}
