//! Checks of headers and bodies that `s3s` does not make: it parses XML without comparing the body with the
//! digests in its headers.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use fula_core::bucket::ChecksumAlgorithm as Algorithm;
use fula_service::{ServiceError, body::digests_of};
use http::{HeaderMap, header, request::Parts};
use s3s::{S3Result, s3_error};

use crate::{
    digest::{Digests, trailer},
    error::{not_implemented, payload_mismatch, s3_error as to_s3},
    form::is_form,
    payload::announced_hash,
    query::Kind,
    request::is_chunked,
    signature::chunks::Trailers,
};

/// Refuses forms for anything but a new object. `s3s` would read their file before the sender is
/// authenticated.
pub(crate) fn check_form(parts: &Parts) -> S3Result<()> {
    if is_form(parts) { Err(not_implemented("A form with a query")) } else { Ok(()) }
}

/// Refuses a host with bytes beyond ASCII. A host name has none, and different readers would interpret them
/// differently.
pub(crate) fn check_host(parts: &Parts) -> S3Result<()> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    if hosts.all(|host| host.as_bytes().is_ascii()) {
        return Ok(());
    }
    Err(s3_error!(InvalidArgument, "The Host header has bytes beyond ASCII."))
}

/// Refuses an object or a part of unknown length.
pub(crate) fn check_length(parts: &Parts) -> S3Result<()> {
    let headers = &parts.headers;
    let is_known = headers.contains_key(header::CONTENT_LENGTH)
        || headers.contains_key("x-amz-decoded-content-length")
        || headers.contains_key("x-amz-copy-source");
    if is_known { Ok(()) } else { Err(s3_error!(MissingContentLength)) }
}

/// Refuses chunks around a buffered body, and XML of unknown length.
pub(crate) fn check_framing(headers: &HeaderMap, kind: Kind) -> S3Result<()> {
    let is_unknown = headers.contains_key(header::TRANSFER_ENCODING)
        && !headers.contains_key(header::CONTENT_LENGTH);
    if is_unknown && kind != Kind::Commit {
        return Err(s3_error!(MissingContentLength));
    }
    let length = headers.get("x-amz-decoded-content-length");
    if is_chunked(headers) && length.is_none_or(|length| length.as_bytes() != b"0") {
        return Err(not_implemented("An aws-chunked body of anything but an object or a part"));
    }
    Ok(())
}

/// Checks a whole body against the hash in `x-amz-content-sha256`, which a signature covers.
pub(crate) fn check_hash(headers: &HeaderMap, body: &Bytes) -> S3Result<()> {
    let expected = announced_hash(headers)?;
    let differs = expected.is_some_and(|expected| expected != sha256(body));
    if differs { Err(payload_mismatch()) } else { Ok(()) }
}

/// Checks a whole body against the digests in its headers and trailers.
pub(crate) fn check_whole(
    headers: &HeaderMap,
    body: &Bytes,
    kind: Kind,
    trailers: Option<&Trailers>,
) -> S3Result<()> {
    check_hash(headers, body)?;
    // `s3s` would skip the text in a CDATA section, and read another key. In JSON it is ordinary text.
    if kind != Kind::Commit && body.windows(9).any(|window| window == b"<![CDATA[") {
        return Err(s3_error!(MalformedXML, "CDATA sections are not accepted."));
    }
    if kind == Kind::Completion {
        return check_md5(headers, body);
    }
    check_md5(headers, body)?;
    let digests = Digests::of(headers)?;
    if let Some((algorithm, expected)) = &digests.checksum {
        check_checksum(body, *algorithm, expected)?;
    }
    if let (Some(algorithm), Some(trailers)) = (digests.trailer, trailers) {
        let expected = trailer(algorithm, Some(trailers.clone()))().map_err(to_s3)?;
        check_checksum(body, algorithm, &expected.unwrap_or_default())?;
    }
    Ok(())
}

fn check_checksum(body: &Bytes, algorithm: Algorithm, expected: &Bytes) -> S3Result<()> {
    let (_, checksums) = digests_of(body, algorithm);
    let is_right = checksums.first().is_some_and(|ours| ours.value == *expected);
    if is_right { Ok(()) } else { Err(to_s3(ServiceError::BadDigest("checksum"))) }
}

fn check_md5(headers: &HeaderMap, body: &Bytes) -> S3Result<()> {
    let Some(value) = headers.get("content-md5") else { return Ok(()) };
    let expected = BASE64_STANDARD.decode(value.as_bytes()).unwrap_or_default();
    if expected.len() != 16 {
        return Err(to_s3(ServiceError::InvalidDigest("Content-MD5")));
    }
    let (md5, _) = digests_of(body, Algorithm::Crc32);
    if md5 == *expected { Ok(()) } else { Err(to_s3(ServiceError::BadDigest("Content-MD5"))) }
}

fn sha256(body: &Bytes) -> Vec<u8> {
    let (_, checksums) = digests_of(body, Algorithm::Sha256);
    checksums.first().map(|checksum| checksum.value.to_vec()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn xml_is_checked_against_every_digest_named() {
        let body = Bytes::from_static(b"<Delete/>");
        let check = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
            check_whole(&headers, &body, Kind::Document, None)
                .map_err(|error| error.code().as_str().to_owned())
        };
        assert_eq!(check("content-md5", "AAAA").unwrap_err(), "InvalidDigest");
        assert_eq!(
            check("content-md5", &BASE64_STANDARD.encode([0; 16])).unwrap_err(),
            "BadDigest"
        );
        assert_eq!(check("x-amz-checksum-crc32", "AAAAAA==").unwrap_err(), "BadDigest");
        assert_eq!(
            check("x-amz-content-sha256", &"0".repeat(64)).unwrap_err(),
            "XAmzContentSHA256Mismatch"
        );
        assert_eq!(check("x-amz-content-sha256", "UNSIGNED-PAYLOAD"), Ok(()));
        assert_eq!(check("x-amz-content-sha256", &"0".repeat(63)).unwrap_err(), "InvalidArgument");
        let (md5, checksums) = digests_of(&body, Algorithm::Crc32);
        assert_eq!(check("content-md5", &BASE64_STANDARD.encode(md5)), Ok(()));
        let value = BASE64_STANDARD.encode(&checksums[0].value);
        assert_eq!(check("x-amz-checksum-crc32", &value), Ok(()));
        for cdata in ["<Key><![CDATA[a]]></Key>", "{<Key><![CDATA[a]]></Key>"] {
            let check = |kind| check_whole(&HeaderMap::new(), &Bytes::from(cdata), kind, None);
            assert!(check(Kind::Document).is_err() && check(Kind::Completion).is_err(), "{cdata}");
            assert!(check(Kind::Commit).is_ok());
        }
    }

    #[test]
    fn a_host_is_ascii() {
        let check = |host: &[u8]| {
            let mut request = http::Request::new(());
            request.headers_mut().insert(header::HOST, HeaderValue::from_bytes(host).unwrap());
            check_host(&request.into_parts().0)
        };
        assert!(check(b"localhost:9000").is_ok());
        for other in ["bücket.localhost".as_bytes(), b"b\xfccket.localhost"] {
            assert_eq!(check(other).unwrap_err().code().as_str(), "InvalidArgument");
        }
    }
}
