//! Digests of bodies: MD5 and checksums in headers and trailers.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use fula_core::bucket::ChecksumAlgorithm as Algorithm;
use fula_service::{ServiceError, body::Trailer};
use http::{HeaderMap, HeaderValue};
use s3s::{S3Error, S3Result, dto::ChecksumAlgorithm, s3_error};

use crate::{
    error,
    signature::{chunks::Trailers, shown},
};

/// Returns the algorithm of a name such as `CRC32C`, in upper or lower case.
pub(crate) fn algorithm(name: &str) -> Option<Algorithm> {
    match name.to_ascii_uppercase().as_str() {
        "CRC32" => Some(Algorithm::Crc32),
        "CRC32C" => Some(Algorithm::Crc32c),
        "CRC64NVME" => Some(Algorithm::Crc64Nvme),
        "SHA1" => Some(Algorithm::Sha1),
        "SHA256" => Some(Algorithm::Sha256),
        "SHA512" => Some(Algorithm::Sha512),
        "XXHASH64" => Some(Algorithm::Xxhash64),
        "XXHASH3" => Some(Algorithm::Xxhash3),
        "XXHASH128" => Some(Algorithm::Xxhash128),
        _ => None,
    }
}

/// Parses the algorithm that a request asks for.
///
/// # Errors
/// 400 `InvalidRequest` for an algorithm that is not supported.
pub(crate) fn asked_algorithm(name: Option<&ChecksumAlgorithm>) -> S3Result<Option<Algorithm>> {
    let Some(name) = name.map(ChecksumAlgorithm::as_str) else { return Ok(None) };
    algorithm(name).ok_or_else(|| not_offered(name)).map(Some)
}

fn not_offered(name: &str) -> S3Error {
    let name = shown(name);
    s3_error!(
        InvalidRequest,
        "{name} is not offered: the checksum algorithms are CRC32, CRC32C, CRC64NVME, SHA1, SHA256, SHA512, \
         XXHASH64, XXHASH3 and XXHASH128."
    )
}

/// Returns the name of an algorithm in capitals.
pub(crate) fn algorithm_name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Crc32 => "CRC32",
        Algorithm::Crc32c => "CRC32C",
        Algorithm::Crc64Nvme => "CRC64NVME",
        Algorithm::Sha1 => "SHA1",
        Algorithm::Sha256 => "SHA256",
        Algorithm::Sha512 => "SHA512",
        Algorithm::Xxhash64 => "XXHASH64",
        Algorithm::Xxhash3 => "XXHASH3",
        Algorithm::Xxhash128 => "XXHASH128",
    }
}

fn header_name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Crc32 => "x-amz-checksum-crc32",
        Algorithm::Crc32c => "x-amz-checksum-crc32c",
        Algorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
        Algorithm::Sha1 => "x-amz-checksum-sha1",
        Algorithm::Sha256 => "x-amz-checksum-sha256",
        Algorithm::Sha512 => "x-amz-checksum-sha512",
        Algorithm::Xxhash64 => "x-amz-checksum-xxhash64",
        Algorithm::Xxhash3 => "x-amz-checksum-xxhash3",
        Algorithm::Xxhash128 => "x-amz-checksum-xxhash128",
    }
}

/// Returns the algorithm of a checksum header or trailer.
fn algorithm_of_header(name: &str) -> Option<Algorithm> {
    Algorithm::ALL.into_iter().find(|algorithm| header_name(*algorithm) == name)
}

/// Decodes the base64 of a checksum.
pub(crate) fn decode_checksum(algorithm: Algorithm, text: &[u8]) -> Result<Bytes, ServiceError> {
    let value = BASE64_STANDARD.decode(text.trim_ascii()).ok();
    value
        .filter(|value| value.len() == algorithm.value_len())
        .map(Bytes::from)
        .ok_or(ServiceError::InvalidDigest(header_name(algorithm)))
}

/// The digests of a body that the headers of its request announce.
#[derive(Default)]
pub(crate) struct Digests {
    pub(crate) md5: Option<[u8; 16]>,
    pub(crate) checksum: Option<(Algorithm, Bytes)>,
    pub(crate) trailer: Option<Algorithm>,
    /// Algorithm named by `x-amz-sdk-checksum-algorithm`.
    pub(crate) named: Option<Algorithm>,
}

impl Digests {
    pub(crate) fn of(headers: &HeaderMap) -> S3Result<Self> {
        let mut digests = Self::default();
        if let Some(value) = headers.get("content-md5") {
            let md5 = BASE64_STANDARD.decode(value.as_bytes()).ok();
            let md5 = md5.and_then(|md5| md5.try_into().ok());
            let md5 = md5.ok_or(ServiceError::InvalidDigest("Content-MD5"));
            digests.md5 = Some(md5.map_err(error::s3_error)?);
        }
        for (name, value) in headers {
            if !name.as_str().starts_with("x-amz-checksum-") || is_checksum_setting(name.as_str()) {
                continue;
            }
            let Some(algorithm) = algorithm_of_header(name.as_str()) else {
                return Err(not_offered(name.as_str()));
            };
            if digests.checksum.is_some() {
                return Err(several());
            }
            let value = decode_checksum(algorithm, value.as_bytes()).map_err(error::s3_error)?;
            digests.checksum = Some((algorithm, value));
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(names) = text("x-amz-trailer") {
            digests.trailer = checksum_among(names)?;
        }
        if let Some(name) = text("x-amz-sdk-checksum-algorithm") {
            let found = algorithm(name);
            if found.is_none() {
                return Err(not_offered(name));
            }
            digests.named = found;
            let sent = digests.checksum.as_ref().map(|(algorithm, _)| *algorithm);
            if sent.or(digests.trailer).is_some_and(|sent| Some(sent) != found) {
                let text = "Value for x-amz-sdk-checksum-algorithm header is invalid.";
                return Err(s3_error!(InvalidRequest, "{text}"));
            }
        }
        Ok(digests)
    }

    /// Returns the algorithm whose checksum was sent or named.
    pub(crate) fn algorithm(&self) -> Option<Algorithm> {
        let sent = self.checksum.as_ref().map(|(algorithm, _)| *algorithm);
        sent.or(self.trailer).or(self.named)
    }
}

/// Returns the algorithm of the checksum among the names of trailers.
fn checksum_among(names: &str) -> S3Result<Option<Algorithm>> {
    let mut found = None;
    for name in names.split(',').map(|name| name.trim().to_ascii_lowercase()) {
        if !name.starts_with("x-amz-checksum-") {
            continue;
        }
        let algorithm = algorithm_of_header(&name).ok_or_else(|| not_offered(&name))?;
        if found.replace(algorithm).is_some() {
            return Err(several());
        }
    }
    Ok(found)
}

fn several() -> S3Error {
    let text =
        "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.";
    s3_error!(InvalidRequest, "{text}")
}

/// Returns whether a header begins like a checksum but carries none.
fn is_checksum_setting(name: &str) -> bool {
    ["x-amz-checksum-algorithm", "x-amz-checksum-type", "x-amz-checksum-mode"].contains(&name)
}

/// Returns a reader of the checksum that follows the body.
pub(crate) fn trailer(algorithm: Algorithm, trailers: Option<Trailers>) -> Trailer {
    Box::new(move || {
        let value = trailers.and_then(|trailers| trailers.get(header_name(algorithm)));
        match value {
            Some(value) => decode_checksum(algorithm, value.as_bytes()).map(Some),
            None => Err(ServiceError::InvalidRequest(format!(
                "The trailer {} was announced, and is missing.",
                header_name(algorithm)
            ))),
        }
    })
}

/// Decodes a SHA-256 in hex; `None` for anything else.
pub(crate) fn hex_digest(value: &HeaderValue) -> Option<Vec<u8>> {
    hex::decode(value.as_bytes()).ok().filter(|digest| digest.len() == 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_checksum_is_found_among_the_trailers() {
        let trailer = |names: &'static str| {
            let header = ("x-amz-trailer", HeaderValue::from_static(names));
            let headers = [header].map(|(name, value)| (name.parse().unwrap(), value));
            let digests = Digests::of(&HeaderMap::from_iter(headers));
            digests.map(|digests| digests.trailer).map_err(|error| error.code().as_str().to_owned())
        };
        for names in [
            "x-amz-checksum-crc32",
            "x-amz-note,X-Amz-Checksum-CRC32",
            " x-amz-checksum-crc32 , x-amz-note",
        ] {
            assert_eq!(trailer(names), Ok(Some(Algorithm::Crc32)), "{names}");
        }
        assert_eq!(trailer("x-amz-note"), Ok(None));
        for names in [
            "x-amz-checksum-crc32,x-amz-checksum-sha1",
            "x-amz-checksum-crc32,x-amz-checksum-crc32",
            "x-amz-note,x-amz-checksum-md5",
        ] {
            assert_eq!(trailer(names), Err("InvalidRequest".to_owned()), "{names}");
        }
    }
}
