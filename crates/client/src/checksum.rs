//! CRC-64/NVME, the checksum that S3 keeps of every object.

use base64::{Engine, prelude::BASE64_STANDARD};
use crc_fast::{CrcAlgorithm, Digest};

/// Header of the checksum.
pub(crate) const HEADER: &str = "x-amz-checksum-crc64nvme";

/// A CRC-64/NVME over bytes that come in pieces.
#[derive(Clone, Debug)]
pub struct Crc(Digest);

impl Default for Crc {
    fn default() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc64Nvme))
    }
}

impl Crc {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the value.
    pub fn value(&self) -> u64 {
        self.0.finalize()
    }

    /// Returns the value in base64, as S3 writes it.
    pub fn text(&self) -> String {
        text(self.value())
    }
}

/// Returns a value in base64.
pub(crate) fn text(value: u64) -> String {
    BASE64_STANDARD.encode(value.to_be_bytes())
}

/// Reads a value in base64.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let bytes = BASE64_STANDARD.decode(text).ok()?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// Returns the checksum of bytes.
pub(crate) fn of(bytes: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes)
}

/// Returns the checksum of two texts one after another.
pub(crate) fn combine(first: u64, second: u64, second_len: u64) -> u64 {
    crc_fast::checksum_combine(CrcAlgorithm::Crc64Nvme, first, second, second_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue_is_computed() {
        assert_eq!(of(b"123456789"), 0xae8b_1486_0a79_9888);
        assert_eq!(combine(of(b"1234"), of(b"56789"), 5), of(b"123456789"));
        let mut crc = Crc::default();
        crc.update(b"1234");
        crc.update(b"56789");
        assert_eq!(crc.text(), text(of(b"123456789")));
        assert_eq!(parse(&crc.text()), Some(crc.value()));
        assert_eq!(parse("AAAA"), None);
    }
}
