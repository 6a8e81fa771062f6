//! Bech32 (BIP 173) without a limit of length, as age writes its recipients and identities.

use zeroize::Zeroizing;

use crate::{SealError, text::regroup};

const BECH32: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
/// Characters of the checksum of Bech32.
const CHECKSUM: usize = 6;

/// Writes bytes in Bech32 (BIP 173) without a limit of length, as age does.
pub(crate) fn bech32(prefix: &str, bytes: &[u8]) -> String {
    let mut digits = regroup(bytes.iter().copied(), 8, 5, true).unwrap_or_default();
    let sum = checksum(prefix, digits.iter().copied().chain([0; CHECKSUM])) ^ 1;
    digits.extend((0..CHECKSUM).rev().map(|at| low_five(sum >> (5 * at))));
    let digits = digits.iter().map(|digit| char::from(BECH32[usize::from(*digit)]));
    prefix.chars().chain(['1']).chain(digits).collect()
}

/// Reads Bech32 of a known prefix in small or in capital letters. The text may hold a secret.
pub(crate) fn read_bech32(
    what: &'static str,
    prefix: &str,
    text: &str,
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let malformed = |why| SealError::Malformed { what, why };
    let is_mixed = text.bytes().any(|byte| byte.is_ascii_lowercase())
        && text.bytes().any(|byte| byte.is_ascii_uppercase());
    if is_mixed {
        return Err(malformed("it mixes small and capital letters"));
    }
    let text = Zeroizing::new(text.to_ascii_lowercase());
    let digits = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('1'));
    let digits = digits.ok_or(malformed("it begins differently"))?;
    let digits: Option<Vec<u8>> = digits
        .bytes()
        .map(|byte| BECH32.iter().position(|other| *other == byte))
        .map(|digit| digit.and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = Zeroizing::new(digits.ok_or(malformed("it has a character of no Bech32"))?);
    if digits.len() < CHECKSUM || checksum(prefix, digits.iter().copied()) != 1 {
        return Err(malformed("its checksum is wrong: a character was mistyped"));
    }
    let digits = digits[..digits.len() - CHECKSUM].iter().copied();
    let bytes = regroup(digits, 5, 8, false).ok_or(malformed("bits are left over"))?;
    Ok(Zeroizing::new(bytes))
}

fn low_five(value: u32) -> u8 {
    (value & 31).to_le_bytes()[0]
}

/// Returns the checksum of BIP 173 over the prefix and the digits.
fn checksum(prefix: &str, digits: impl Iterator<Item = u8>) -> u32 {
    const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    let high = prefix.bytes().map(|byte| byte >> 5);
    let low = prefix.bytes().map(|byte| byte & 31);
    high.chain([0]).chain(low).chain(digits).fold(1, |sum, digit| {
        let shifted = (sum & 0x1ff_ffff) << 5 ^ u32::from(digit);
        let taps = GENERATOR.iter().enumerate().filter(|(bit, _)| (sum >> 25) >> bit & 1 == 1);
        taps.fold(shifted, |sum, (_, tap)| sum ^ tap)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bech32_reads_what_it_writes_and_finds_every_typing_error() {
        for bytes in [&[][..], &[0], &[7; 32], &[0xa5; 1216]] {
            let text = bech32("age1pq", bytes);
            assert_eq!(read_bech32("it", "age1pq", &text).unwrap().as_slice(), bytes);
            assert!(read_bech32("it", "age1pq", &text.to_ascii_uppercase()).is_ok());
            for at in 0..text.len().min(80) {
                let mut wrong = text.clone().into_bytes();
                wrong[at] = if wrong[at] == b'q' { b'p' } else { b'q' };
                let wrong = String::from_utf8(wrong).unwrap();
                assert!(read_bech32("it", "age1pq", &wrong).is_err(), "{at}");
            }
        }
        // BIP 173: valid strings.
        assert!(read_bech32("it", "a", "A12UEL5L").unwrap().is_empty());
        let all = "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw";
        assert_eq!(
            hex::encode(read_bech32("it", "abcdef", all).unwrap()),
            "00443214c74254b635cf84653a56d7c675be77df"
        );
        for wrong in ["", "a", "a1", "a12uel5m", "A12uEL5L", "b12uel5l", "a12uel5b"] {
            assert!(read_bech32("it", "a", wrong).is_err(), "{wrong}");
        }
    }
}
