//! Bytes as text: base32 of keys, base64url of metadata values.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::SealError;

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Writes bytes in base32 (RFC 4648) with small letters. Takes multiples of 5 bytes, so there is no padding.
pub(crate) fn base32(bytes: &[u8]) -> String {
    debug_assert!(bytes.len().is_multiple_of(5));
    regroup(bytes.iter().copied(), 8, 5, true)
        .into_iter()
        .flatten()
        .map(|digit| char::from(BASE32[usize::from(digit)]))
        .collect()
}

/// Reads base32 of exactly `N` bytes, as [`base32`] writes it, in small or in capital letters.
pub(crate) fn read_base32<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.bytes().map(|byte| {
        let at = BASE32.iter().position(|digit| *digit == byte.to_ascii_lowercase())?;
        u8::try_from(at).ok()
    });
    let digits: Vec<u8> = digits.collect::<Option<_>>()?;
    regroup(digits.into_iter(), 5, 8, false)?.try_into().ok()
}

/// Writes bytes in base64url without padding.
pub(crate) fn base64url(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads base64url without padding, of at most `max` bytes.
pub(crate) fn read_base64url(
    what: &'static str,
    text: &str,
    max: usize,
) -> Result<Vec<u8>, SealError> {
    SealError::limit(what, text.len(), max.div_ceil(3) * 4)?;
    BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| SealError::Malformed { what, why: "it is no base64url" })
}

/// Cuts groups of `from` bits into groups of `to` bits. Without `fill`, bits that are left over must be zero
/// and fewer than `from`.
pub(crate) fn regroup(
    groups: impl Iterator<Item = u8>,
    from: u32,
    to: u32,
    fill: bool,
) -> Option<Vec<u8>> {
    let (mut out, mut held, mut bits) = (Vec::with_capacity(groups.size_hint().0 * 2), 0_u32, 0);
    for group in groups {
        held = (held << from | u32::from(group)) & 0xfff;
        bits += from;
        while bits >= to {
            bits -= to;
            out.push((held >> bits & ((1 << to) - 1)).to_le_bytes()[0]);
        }
    }
    let left = held & ((1 << bits) - 1);
    if fill && bits > 0 {
        out.push((left << (to - bits)).to_le_bytes()[0]);
    } else if !fill && (bits >= from || left != 0) {
        return None;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_matches_rfc_4648() {
        assert_eq!(base32(b"fooba"), "mzxw6ytb");
        assert_eq!(base32(&[0xff; 20]), "7".repeat(32));
        assert_eq!(read_base32(&"7".repeat(32)), Some([0xff; 20]));
        assert_eq!(read_base32("MZXW6YTB"), Some(*b"fooba"));
        for wrong in ["", "mzxw6ytb1", "mzxw6yt!", "mzxw6ytbm"] {
            assert_eq!(read_base32::<5>(wrong), None, "{wrong}");
        }
    }
}
