//! Signed requests of a client: signature version 4 of a GET without a body.

use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::files;

const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// An access key.
pub(super) struct Key {
    pub(super) id: String,
    pub(super) secret: Zeroizing<String>,
}

impl Key {
    /// Reads the section `default` of a credentials file.
    ///
    /// # Errors
    /// What is wrong with the file, in words for the user.
    pub(super) fn read(file: &Path) -> Result<Self, String> {
        let text = files::read_secret(file).map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&text);
        let (mut is_default, mut id, mut secret) = (true, None, None);
        for line in text.lines().map(str::trim) {
            if let Some(section) = line.strip_prefix('[') {
                is_default = section.trim_end_matches(']').trim() == "default";
            }
            let Some((name, value)) = line.split_once('=').filter(|_| is_default) else { continue };
            match name.trim() {
                "aws_access_key_id" => id = Some(value.trim().to_owned()),
                "aws_secret_access_key" => secret = Some(Zeroizing::new(value.trim().to_owned())),
                _ => {}
            }
        }
        let missing = || format!("{} has no access key in its section default", file.display());
        Ok(Self { id: id.ok_or_else(missing)?, secret: secret.ok_or_else(missing)? })
    }
}

/// Encodes a text for a path or a query, as signatures need it.
pub(super) fn encode(text: &str, is_path: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if is_plain || (is_path && byte == b'/') {
            out.push(char::from(byte));
        } else {
            out.extend(['%', hex_digit(byte >> 4), hex_digit(byte & 15)]);
        }
    }
    out
}

/// Returns the digit of a number below 16.
fn hex_digit(number: u8) -> char {
    char::from_digit(u32::from(number), 16).unwrap_or_default().to_ascii_uppercase()
}

fn mac(key: &[u8], text: &str) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

/// Returns the headers that sign a GET of `path` with `query`, which are encoded, on `host` at a time.
pub(super) fn headers(
    key: &Key,
    region: &str,
    host: &str,
    path: &str,
    query: &str,
    now: OffsetDateTime,
) -> Vec<(&'static str, String)> {
    let day = format!("{:04}{:02}{:02}", now.year(), u8::from(now.month()), now.day());
    let stamp = format!("{day}T{:02}{:02}{:02}Z", now.hour(), now.minute(), now.second());
    let canonical = format!(
        "GET\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{UNSIGNED}\nx-amz-date:{stamp}\n\n\
         host;x-amz-content-sha256;x-amz-date\n{UNSIGNED}"
    );
    let scope = format!("{day}/{region}/s3/aws4_request");
    let hash = hex::encode(Sha256::digest(canonical.as_bytes()));
    let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hash}");
    let secret = Zeroizing::new(format!("AWS4{}", key.secret.as_str()));
    let mut signing = mac(secret.as_bytes(), &day);
    for part in [region, "s3", "aws4_request"] {
        signing = mac(&signing, part);
    }
    let signature = hex::encode(mac(&signing, &text));
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders=host;x-amz-content-sha256;x-amz-date, \
         Signature={signature}",
        key.id
    );
    vec![
        ("x-amz-date", stamp.clone()),
        ("x-amz-content-sha256", UNSIGNED.to_owned()),
        ("authorization", authorization),
    ]
}
