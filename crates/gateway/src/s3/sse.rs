//! The headers of server-side encryption: which ask for it, which are refused, and what answers say.

use fula_core::bucket::ObjectRecord;
use http::{HeaderMap, HeaderName, HeaderValue};
use s3s::{S3Result, s3_error};

use crate::error::{not_implemented, with_argument};

/// Header that asks for encryption, and answers that an object is encrypted.
const ENCRYPTION: HeaderName = HeaderName::from_static("x-amz-server-side-encryption");

const BUCKET_KEY: &str = "x-amz-server-side-encryption-bucket-key-enabled";

/// Beginning of the headers of encryption under keys of clients.
const CUSTOMER: &str = "x-amz-server-side-encryption-customer-";

/// Beginning of the same headers about the source of a copy.
const SOURCE: &str = "x-amz-copy-source-server-side-encryption-";

/// Headers of encryption under keys of AWS KMS.
const KMS: [&str; 2] =
    ["x-amz-server-side-encryption-aws-kms-key-id", "x-amz-server-side-encryption-context"];

/// The algorithm of SSE-S3, as S3 names it.
pub(super) const AES256: &str = "AES256";

fn first(headers: &HeaderMap, is_it: impl Fn(&str) -> bool) -> Option<&HeaderName> {
    headers.keys().find(|name| is_it(name.as_str()))
}

/// Returns whether the headers of a write ask for encryption.
///
/// # Errors
/// 400 `InvalidArgument` for headers that contradict each other, as on AWS; 501 for keys of clients or KMS.
pub(super) fn asked(headers: &HeaderMap) -> S3Result<bool> {
    let method = headers.get(&ENCRYPTION);
    if let Some(customer) = first(headers, |name| name.starts_with(CUSTOMER)) {
        if let Some(method) = method {
            let error = s3_error!(
                InvalidArgument,
                "Server Side Encryption with Customer provided key is incompatible with the encryption \
                 method specified"
            );
            return Err(with_argument(error, ENCRYPTION.as_str(), method));
        }
        return Err(not_implemented(&format!("The header {customer}")));
    }
    if let Some(source) = first(headers, |name| name.starts_with(SOURCE)) {
        return Err(not_implemented(&format!("The header {source}")));
    }
    if let Some(method) = method {
        match method.as_bytes() {
            b"AES256" => {}
            b"aws:kms" | b"aws:kms:dsse" | b"aws:fsx" => {
                return Err(not_implemented(&format!("The header {ENCRYPTION} with keys of KMS")));
            }
            _ => {
                let text = "The encryption method specified is not supported";
                let error = s3_error!(InvalidArgument, "{text}");
                return Err(with_argument(error, ENCRYPTION.as_str(), method));
            }
        }
    }
    refuse_kms(headers)?;
    Ok(method.is_some())
}

/// Refuses headers of KMS in a request that does not ask for its keys.
fn refuse_kms(headers: &HeaderMap) -> S3Result<()> {
    if let Some((name, value)) = KMS.iter().find_map(|name| Some((name, headers.get(*name)?))) {
        let error = s3_error!(
            InvalidArgument,
            "Server Side Encryption with AWS KMS managed key requires HTTP header \
             x-amz-server-side-encryption : aws:kms"
        );
        return Err(with_argument(error, name, value));
    }
    match headers.get(BUCKET_KEY) {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"false") => {
            Err(not_implemented(&format!("The header {BUCKET_KEY}")))
        }
        _ => Ok(()),
    }
}

/// Refuses headers of encryption on an operation that has none.
pub(super) fn refuse(headers: &HeaderMap) -> S3Result<()> {
    if let Some(value) = headers.get(&ENCRYPTION) {
        let error = s3_error!(
            InvalidArgument,
            "x-amz-server-side-encryption header is not supported for this operation."
        );
        return Err(with_argument(error, ENCRYPTION.as_str(), value));
    }
    let other = |name: &str| name.starts_with(ENCRYPTION.as_str()) || name.starts_with(SOURCE);
    match first(headers, other) {
        Some(name) => Err(not_implemented(&format!("The header {name}"))),
        None => Ok(()),
    }
}

/// Refuses headers of encryption on a read. No object is encrypted under a key of a client.
pub(super) fn refuse_on_read(headers: &HeaderMap) -> S3Result<()> {
    if first(headers, |name| name.starts_with(CUSTOMER)).is_some() {
        let text = "The encryption parameters are not applicable to this object.";
        return Err(s3_error!(InvalidRequest, "{text}"));
    }
    refuse(headers)
}

/// Tells in an answer whether an object is encrypted.
pub(super) fn set(headers: &mut HeaderMap, is_encrypted: bool) {
    if is_encrypted {
        headers.insert(ENCRYPTION, HeaderValue::from_static(AES256));
    }
}

/// Does so for the object of a record.
pub(super) fn set_of(headers: &mut HeaderMap, record: &ObjectRecord) {
    set(headers, record.sse.is_some());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn headers_ask_for_encryption_or_are_refused() {
        const S: &str = "x-amz-server-side-encryption";
        const C: &str = "x-amz-server-side-encryption-customer-algorithm";
        assert!(!asked(&headers(&[])).unwrap());
        assert!(asked(&headers(&[(S, "AES256")])).unwrap());
        assert!(asked(&headers(&[(S, "AES256"), (BUCKET_KEY, "false")])).unwrap());
        for (sent, code) in [
            (vec![(S, "aes256")], "InvalidArgument"),
            (vec![(S, "")], "InvalidArgument"),
            (vec![(S, "aes:kms")], "InvalidArgument"),
            (vec![(S, "aws:kms")], "NotImplemented"),
            (vec![(S, "AES256"), (KMS[0], "k")], "InvalidArgument"),
            (vec![(KMS[1], "k")], "InvalidArgument"),
            (vec![(S, "AES256"), (C, "AES256")], "InvalidArgument"),
            (vec![(C, "AES256")], "NotImplemented"),
            (
                vec![("x-amz-copy-source-server-side-encryption-customer-key", "k")],
                "NotImplemented",
            ),
            (vec![(S, "AES256"), (BUCKET_KEY, "true")], "NotImplemented"),
        ] {
            let refused = asked(&headers(&sent)).unwrap_err();
            assert_eq!(refused.code().as_str(), code, "{sent:?}");
        }
        let code = |fault: S3Result<()>| fault.unwrap_err().code().as_str().to_owned();
        assert_eq!(code(refuse(&headers(&[(S, "AES256")]))), "InvalidArgument");
        assert_eq!(code(refuse(&headers(&[(C, "AES256")]))), "NotImplemented");
        assert_eq!(code(refuse_on_read(&headers(&[(C, "AES256")]))), "InvalidRequest");
        assert!(refuse_on_read(&headers(&[("x-amz-meta-a", "b")])).is_ok());
    }
}
