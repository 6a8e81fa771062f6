//! Digests of object content: MD5 for the `ETag`, and the checksums of S3.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest as CrcDigest};
use fula_core::bucket::{Checksum, ChecksumAlgorithm};
use md5::{Digest, Md5};

/// A checksum that is being computed.
enum Running {
    Crc(CrcDigest),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
    Xxhash64(xxhash_rust::xxh64::Xxh64),
    /// The state is large, and the same for both lengths.
    Xxhash3(Box<xxhash_rust::xxh3::Xxh3>),
}

impl Running {
    fn new(algorithm: ChecksumAlgorithm) -> Self {
        match algorithm {
            ChecksumAlgorithm::Sha1 => Self::Sha1(sha1::Sha1::new()),
            ChecksumAlgorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            ChecksumAlgorithm::Sha512 => Self::Sha512(sha2::Sha512::new()),
            ChecksumAlgorithm::Xxhash64 => Self::Xxhash64(xxhash_rust::xxh64::Xxh64::new(0)),
            ChecksumAlgorithm::Xxhash3 | ChecksumAlgorithm::Xxhash128 => {
                Self::Xxhash3(Box::new(xxhash_rust::xxh3::Xxh3::new()))
            }
            crc => Self::Crc(CrcDigest::new(crc_algorithm(crc).expect("the others are CRCs"))),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc(crc) => crc.update(bytes),
            Self::Sha1(sha) => sha.update(bytes),
            Self::Sha256(sha) => sha.update(bytes),
            Self::Sha512(sha) => sha.update(bytes),
            Self::Xxhash64(hash) => hash.update(bytes),
            Self::Xxhash3(hash) => hash.update(bytes),
        }
    }

    fn finish(self, len: usize) -> Bytes {
        match self {
            Self::Crc(crc) => crc_bytes(crc.finalize(), len),
            Self::Sha1(sha) => sha.finalize().to_vec().into(),
            Self::Sha256(sha) => sha.finalize().to_vec().into(),
            Self::Sha512(sha) => sha.finalize().to_vec().into(),
            Self::Xxhash64(hash) => Bytes::copy_from_slice(&hash.digest().to_be_bytes()),
            Self::Xxhash3(hash) if len == 8 => Bytes::copy_from_slice(&hash.digest().to_be_bytes()),
            Self::Xxhash3(hash) => Bytes::copy_from_slice(&hash.digest128().to_be_bytes()),
        }
    }
}

fn crc_algorithm(algorithm: ChecksumAlgorithm) -> Option<CrcAlgorithm> {
    match algorithm {
        ChecksumAlgorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
        ChecksumAlgorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
        ChecksumAlgorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
        ChecksumAlgorithm::Sha1
        | ChecksumAlgorithm::Sha256
        | ChecksumAlgorithm::Sha512
        | ChecksumAlgorithm::Xxhash64
        | ChecksumAlgorithm::Xxhash3
        | ChecksumAlgorithm::Xxhash128 => None,
    }
}

fn crc_bytes(value: u64, len: usize) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes()[8 - len..])
}

/// MD5 and checksums of one stream of bytes.
pub(crate) struct Digests {
    md5: Md5,
    running: Vec<(ChecksumAlgorithm, Running)>,
}

impl std::fmt::Debug for Digests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Digests").finish_non_exhaustive()
    }
}

impl Digests {
    /// Starts with no bytes. An algorithm that is named twice is computed once.
    pub(crate) fn new(algorithms: impl IntoIterator<Item = ChecksumAlgorithm>) -> Self {
        let mut running: Vec<(ChecksumAlgorithm, Running)> = Vec::with_capacity(2);
        for algorithm in algorithms {
            if running.iter().all(|(other, _)| *other != algorithm) {
                running.push((algorithm, Running::new(algorithm)));
            }
        }
        Self { md5: Md5::new(), running }
    }

    /// Adds bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        for (_, running) in &mut self.running {
            running.update(bytes);
        }
    }

    /// Returns the MD5 and the checksums of all bytes added, in the order in which they were named.
    pub(crate) fn finish(self) -> ([u8; 16], Vec<Checksum>) {
        let finish = |(algorithm, running): (ChecksumAlgorithm, Running)| Checksum {
            algorithm,
            composite_parts: 0,
            value: running.finish(algorithm.value_len()),
        };
        (self.md5.finalize().into(), self.running.into_iter().map(finish).collect())
    }
}

/// Returns the MD5 of the concatenated `parts`, which is the first half of a multipart `ETag`.
pub(crate) fn md5_of(parts: &[[u8; 16]]) -> [u8; 16] {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    md5.finalize().into()
}

/// Returns the checksum over the checksums of the parts.
pub(crate) fn composite(algorithm: ChecksumAlgorithm, parts: &[Bytes]) -> Checksum {
    let mut running = Running::new(algorithm);
    for part in parts {
        running.update(part);
    }
    Checksum {
        algorithm,
        composite_parts: u32::try_from(parts.len()).unwrap_or(u32::MAX),
        value: running.finish(algorithm.value_len()),
    }
}

/// Returns the checksum of the joined content, computed from the checksums and lengths of the parts; `None`
/// for an algorithm that does not allow that.
pub(crate) fn joined(algorithm: ChecksumAlgorithm, parts: &[(Bytes, u64)]) -> Option<Checksum> {
    let crc = crc_algorithm(algorithm)?;
    let number = |bytes: &Bytes| bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    let (first, rest) = parts.split_first()?;
    let value = rest.iter().fold(number(&first.0), |value, (part, len)| {
        crc_fast::checksum_combine(crc, value, number(part), *len)
    });
    let value = crc_bytes(value, algorithm.value_len());
    Some(Checksum { algorithm, composite_parts: 0, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checksums of "123456789" from the catalogues of the algorithms, RFC 3174 and FIPS 180-4;
    /// those of XXH from the AWS CRT.
    const CHECK: [(ChecksumAlgorithm, &str); 9] = [
        (ChecksumAlgorithm::Crc32, "cbf43926"),
        (ChecksumAlgorithm::Crc32c, "e3069283"),
        (ChecksumAlgorithm::Crc64Nvme, "ae8b14860a799888"),
        (ChecksumAlgorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
        (
            ChecksumAlgorithm::Sha256,
            "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
        ),
        (
            ChecksumAlgorithm::Sha512,
            "d9e6762dd1c8eaf6d61b3c6192fc408d4d6d5f1176d0c29169bc24e71c3f274a\
             d27fcd5811b313d681f7e55ec02d73d499c95455b6b5bb503acf574fba8ffe85",
        ),
        (ChecksumAlgorithm::Xxhash64, "8cb841db40e6ae83"),
        (ChecksumAlgorithm::Xxhash3, "72dcb18b67a17dff"),
        (ChecksumAlgorithm::Xxhash128, "33119477ede5dcd5e9716427681d5860"),
    ];

    #[test]
    fn check_values_come_out() {
        for (algorithm, expected) in CHECK {
            let mut digests = Digests::new([algorithm, ChecksumAlgorithm::Crc32, algorithm]);
            digests.update(b"12345");
            digests.update(b"6789");
            let (md5, checksums) = digests.finish();
            assert_eq!(hex::encode(md5), "25f9e794323b453885f5181f1b624d0b");
            assert_eq!(hex::encode(&checksums[0].value), expected, "{algorithm:?}");
            let both = 1 + usize::from(algorithm != ChecksumAlgorithm::Crc32);
            assert_eq!(checksums.len(), both);
        }
    }

    #[test]
    fn joined_parts_have_the_checksum_of_the_whole() {
        for (algorithm, expected) in &CHECK[..3] {
            let part = |bytes: &[u8]| {
                let mut digests = Digests::new([*algorithm]);
                digests.update(bytes);
                (digests.finish().1.remove(0).value, bytes.len() as u64)
            };
            let whole = joined(*algorithm, &[part(b"1234"), part(b""), part(b"56789")]).unwrap();
            assert_eq!(hex::encode(whole.value), *expected);
        }
        assert_eq!(joined(ChecksumAlgorithm::Sha1, &[(Bytes::new(), 0)]), None);
    }
}
