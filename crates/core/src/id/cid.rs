//! Content addresses.

use std::{fmt, str::FromStr};

/// The format of the bytes that a [`Cid`] addresses (multicodec table).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Codec {
    /// Opaque bytes (0x55): object content up to one block, and leaves of larger content.
    Raw = 0x55,
    /// dag-pb (0x70): inner nodes of `UnixFS` files.
    DagPb = 0x70,
    /// dag-cbor (0x71): bucket roots, tree nodes, linked tables and maps.
    DagCbor = 0x71,
}

impl Codec {
    fn from_code(code: u64) -> Option<Self> {
        match code {
            0x55 => Some(Self::Raw),
            0x70 => Some(Self::DagPb),
            0x71 => Some(Self::DagCbor),
            _ => None,
        }
    }
}

/// Multihash code of BLAKE3 with its default length.
const BLAKE3_256: u8 = 0x1e;

/// A content address: a `CIDv1` with BLAKE3-256 and one of three codecs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cid {
    codec: Codec,
    digest: [u8; 32],
}

/// A CID that is malformed, or of a kind that this system does not use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a CIDv1 with BLAKE3-256 and codec raw, dag-pb or dag-cbor")]
pub struct InvalidCid;

impl Cid {
    /// Length of the binary form in bytes.
    pub const BYTES: usize = 36;

    /// Returns the address of `bytes` in the format `codec`. Hashes all of `bytes`.
    pub fn of(codec: Codec, bytes: &[u8]) -> Self {
        Self { codec, digest: *blake3::hash(bytes).as_bytes() }
    }

    /// Returns the address that has a digest which was computed elsewhere.
    pub fn from_digest(codec: Codec, digest: [u8; 32]) -> Self {
        Self { codec, digest }
    }

    /// Returns the format of the addressed bytes.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Returns the BLAKE3-256 digest.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Returns the binary form: version, codec, hash code, hash length, digest.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..4].copy_from_slice(&[1, self.codec as u8, BLAKE3_256, 32]);
        out[4..].copy_from_slice(&self.digest);
        out
    }

    /// Parses the binary form.
    ///
    /// # Errors
    /// [`InvalidCid`] for any other length, version, codec or hash.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidCid> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().map_err(|_| InvalidCid)?;
        let [1, codec, BLAKE3_256, 32, digest @ ..] = bytes else { return Err(InvalidCid) };
        let codec = Codec::from_code(u64::from(*codec)).ok_or(InvalidCid)?;
        Ok(Self { codec, digest: *digest })
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; TEXT_BYTES];
        text[0] = b'b';
        let (mut bits, mut count, mut at) = (0_u32, 0, 1);
        for byte in self.to_bytes() {
            (bits, count) = (bits << 8 | u32::from(byte), count + 8);
            while count >= 5 {
                count -= 5;
                text[at] = BASE32[(bits >> count) as usize & 31];
                at += 1;
            }
        }
        text[at] = BASE32[(bits << (5 - count)) as usize & 31];
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// Length of the text of a CID in bytes: the base, and 58 digits.
const TEXT_BYTES: usize = 59;

/// Digits of the base `b` of CIDs.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Decodes the text that every tool prints; `None` for any other, which may be a CID in another base.
fn decode(text: &str) -> Option<[u8; Cid::BYTES]> {
    let digits =
        text.as_bytes().strip_prefix(b"b").filter(|digits| digits.len() == TEXT_BYTES - 1)?;
    let (mut out, mut at, mut bits, mut count) = ([0; Cid::BYTES], 0, 0_u32, 0);
    for digit in digits {
        let value = match digit {
            b'a'..=b'z' => digit - b'a',
            b'2'..=b'7' => digit - b'2' + 26,
            _ => return None,
        };
        (bits, count) = (bits << 5 | u32::from(value), count + 5);
        if count >= 8 {
            count -= 8;
            let [.., byte] = (bits >> count).to_be_bytes();
            *out.get_mut(at)? = byte;
            at += 1;
        }
    }
    // The last digit has two bits of padding.
    (bits.trailing_zeros() >= 2).then_some(out)
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Cid {
    type Err = InvalidCid;

    fn from_str(text: &str) -> Result<Self, InvalidCid> {
        if let Some(bytes) = decode(text) {
            return Self::from_bytes(&bytes);
        }
        let inner = ::cid::Cid::from_str(text).map_err(|_| InvalidCid)?;
        Self::from_bytes(&inner.to_bytes())
    }
}

/// A CID of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnyCid {
    /// One that a block here can have.
    Known(Cid),
    /// Raw bytes that the CID itself contains.
    Identity {
        /// The CID in its standard text form.
        text: String,
        /// The CID in its binary form.
        binary: Vec<u8>,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A valid one that no block here has: another version, codec or hash function.
    Other,
}

impl FromStr for AnyCid {
    type Err = InvalidCid;

    /// Parses the text of a CID in any base.
    fn from_str(text: &str) -> Result<Self, InvalidCid> {
        let inner = ::cid::Cid::from_str(text).map_err(|_| InvalidCid)?;
        if let Ok(known) = Cid::from_bytes(&inner.to_bytes()) {
            return Ok(Self::Known(known));
        }
        if (inner.codec(), inner.hash().code()) == (Codec::Raw as u64, 0) {
            let (text, binary) = (inner.to_string(), inner.to_bytes());
            return Ok(Self::Identity { text, binary, bytes: inner.hash().digest().to_vec() });
        }
        Ok(Self::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cid_in_any_base_is_told_apart() {
        let cid = Cid::of(Codec::Raw, b"hello");
        let upper = cid.to_string().to_uppercase();
        let hex = format!("f{}", hex::encode(cid.to_bytes()));
        for text in [cid.to_string(), upper, hex] {
            assert_eq!(text.parse(), Ok(AnyCid::Known(cid)), "{text}");
        }
        for text in [
            "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
            "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",
        ] {
            assert_eq!(text.parse(), Ok(AnyCid::Other), "{text}");
        }
        let empty = AnyCid::Identity {
            text: "bafkqaaa".to_owned(),
            binary: vec![1, 0x55, 0, 0],
            bytes: Vec::new(),
        };
        assert_eq!("bafkqaaa".parse(), Ok(empty));
        for text in ["", "b", "nonsense", "bafkr4i", "../etc"] {
            assert_eq!(text.parse::<AnyCid>(), Err(InvalidCid), "{text}");
        }
    }

    #[test]
    fn cid_texts_are_those_of_the_reference() {
        for n in 0..200_u32 {
            for codec in [Codec::Raw, Codec::DagPb, Codec::DagCbor] {
                let cid = Cid::of(codec, &n.to_be_bytes());
                let reference =
                    ::cid::Cid::try_from(cid.to_bytes().as_slice()).unwrap().to_string();
                assert_eq!((cid.to_string(), reference.parse()), (reference.clone(), Ok(cid)));
                // Padding that is not zero, and digits that are none.
                for last in ["b", "1", "=", "é"] {
                    let other = format!("{}{last}", &reference[..58]);
                    let is_other = other.parse::<Cid>().is_ok_and(|other| other == cid);
                    assert!(!is_other || other == reference, "{other}");
                }
            }
        }
    }

    #[test]
    fn cid_text_and_bytes_round_trip() {
        for codec in [Codec::Raw, Codec::DagPb, Codec::DagCbor] {
            let cid = Cid::of(codec, b"hello");
            assert_eq!(cid.to_string().parse(), Ok(cid));
            assert_eq!(Cid::from_bytes(&cid.to_bytes()), Ok(cid));
        }
        // Every IPFS tool prints this text for these five bytes.
        assert_eq!(
            Cid::of(Codec::Raw, b"hello").to_string(),
            "bafkr4ihkr4ld3m4gqkjf4reryxsy2s5tkbxprqkow6fin2iiyvreuzzab4"
        );
    }

    #[test]
    fn foreign_cids_are_refused() {
        let mut bytes = Cid::of(Codec::Raw, b"x").to_bytes();
        assert_eq!(Cid::from_bytes(&bytes[..35]), Err(InvalidCid));
        bytes[2] = 0x12; // sha2-256
        assert_eq!(Cid::from_bytes(&bytes), Err(InvalidCid));
        assert_eq!(
            "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG".parse::<Cid>(),
            Err(InvalidCid)
        );
    }
}
