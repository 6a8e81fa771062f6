//! Signature Version 4 in headers, for S3
//! (<https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>).

use std::{fmt, time::SystemTime};

use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// The value of `x-amz-content-sha256` for a body that the signature does not cover.
pub const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// The parts of a request that a signature covers.
#[derive(Clone, Copy, Debug)]
pub struct Signable<'a> {
    /// Method.
    pub method: &'a str,
    /// Value of the header `Host`.
    pub host: &'a str,
    /// Path, encoded as it is sent.
    pub path: &'a str,
    /// Query, encoded as it is sent, in order of name.
    pub query: &'a str,
    /// Headers, with names in lower case. The signature covers those that [`is_signed`] names.
    pub headers: &'a [(String, String)],
    /// SHA-256 of the body in hex, or [`UNSIGNED_PAYLOAD`].
    pub payload: &'a str,
    /// Time of the request.
    pub time: SystemTime,
}

/// Signs requests with one access key.
pub struct Signer {
    id: String,
    secret: Zeroizing<String>,
    session: Option<String>,
    region: String,
    /// The day, and the key that is derived for it.
    derived: Mutex<(String, Zeroizing<Vec<u8>>)>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.id)
    }
}

/// Returns whether signatures cover a header. Headers that proxies change or add are left out.
pub fn is_signed(name: &str) -> bool {
    let prefixes = ["x-amz-", "x-fula-", "if-"];
    prefixes.iter().any(|prefix| name.starts_with(prefix))
        || matches!(name, "content-type" | "content-md5" | "amz-sdk-invocation-id")
}

/// Returns the SHA-256 of a body in hex.
pub fn payload_hash(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

impl Signer {
    /// Returns a signer for an access key. `session` is the token of temporary keys.
    pub fn new(
        id: impl Into<String>,
        secret: Zeroizing<String>,
        session: Option<String>,
        region: impl Into<String>,
    ) -> Self {
        Self {
            id: id.into(),
            secret,
            session,
            region: region.into(),
            derived: Mutex::new((String::new(), Zeroizing::new(Vec::new()))),
        }
    }

    /// Returns the headers that a request needs in addition to its own: date, payload, token and signature.
    pub fn sign(&self, request: &Signable<'_>) -> Vec<(String, String)> {
        let stamp = stamp_of(request.time);
        let mut added = vec![
            ("x-amz-content-sha256".to_owned(), request.payload.to_owned()),
            ("x-amz-date".to_owned(), stamp.clone()),
        ];
        added.extend(
            self.session.iter().map(|token| ("x-amz-security-token".to_owned(), token.clone())),
        );
        let host = [("host".to_owned(), request.host.to_owned())];
        let own = request.headers.iter().filter(|(name, _)| is_signed(name));
        let mut covered: Vec<&(String, String)> = host.iter().chain(&added).chain(own).collect();
        covered.sort();
        let names: Vec<&str> = covered.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let mut lines = String::new();
        for (name, value) in covered {
            // White space at the ends does not count, and inside, any of it counts as one space.
            let words: Vec<&str> = value.split_ascii_whitespace().collect();
            lines.extend([name, ":", &words.join(" "), "\n"]);
        }
        let Signable { method, path, query, payload, .. } = request;
        let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{payload}");
        let (day, region) = (&stamp[..8], &self.region);
        let scope = format!("{day}/{region}/s3/aws4_request");
        let digest = hex::encode(Sha256::digest(canonical));
        let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}");
        let signature = hex::encode(mac(&self.key_of(day), &text));
        let id = &self.id;
        added.push((
            "authorization".to_owned(),
            format!(
                "AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"
            ),
        ));
        added
    }

    /// Returns the key for a day. It is derived once a day.
    fn key_of(&self, day: &str) -> Zeroizing<Vec<u8>> {
        let mut derived = self.derived.lock();
        if derived.0 != day {
            let start = Zeroizing::new(format!("AWS4{}", *self.secret).into_bytes());
            let parts = [day, &self.region, "s3", "aws4_request"];
            let key = parts.iter().fold(start, |key, part| mac(&key, part));
            *derived = (day.to_owned(), key);
        }
        derived.1.clone()
    }
}

fn stamp_of(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let ((year, month, day), (hour, minute, second)) = (time.to_calendar_date(), time.to_hms());
    format!("{year:04}{:02}{day:02}T{hour:02}{minute:02}{second:02}Z", u8::from(month))
}

fn mac(key: &[u8], text: &str) -> Zeroizing<Vec<u8>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    mac.update(text.as_bytes());
    Zeroizing::new(mac.finalize().into_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    /// The example of AWS's documentation for a GET of an object.
    #[test]
    fn the_example_of_the_specification_gives_its_signature() {
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned();
        let signer = Signer::new("AKIAIOSFODNN7EXAMPLE", Zeroizing::new(secret), None, "us-east-1");
        let payload = payload_hash(b"");
        // The list of buckets' lifecycle: headers are only those that are always signed.
        let request = Signable {
            method: "GET",
            host: "examplebucket.s3.amazonaws.com",
            path: "/",
            query: "lifecycle=",
            headers: &[],
            payload: &payload,
            time: UNIX_EPOCH + Duration::from_hours(380_376),
        };
        let headers = signer.sign(&request);
        let (_, authorization) = headers.last().unwrap();
        let expected = "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543";
        assert!(authorization.ends_with(expected), "{authorization}");
        assert!(authorization.contains("SignedHeaders=host;x-amz-content-sha256;x-amz-date,"));
    }
}
