//! What conditions of policies ask of a request: where it comes from, its headers and its parameters.

use std::{net::IpAddr, sync::Arc};

use fula_service::{RequestKeys, policy::Values};
use http::{HeaderName, HeaderValue, Uri, header};
use s3s::S3Request;

use crate::request::{Peer, SecureTransport, query_value};

/// The facts about a request that conditions ask for. They are read when a policy asks.
struct Sent {
    address: Option<IpAddr>,
    is_secure: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
    uri: Uri,
}

fn is_asked_for(name: &HeaderName) -> bool {
    let others = [header::REFERER, header::USER_AGENT, header::IF_MATCH, header::IF_NONE_MATCH];
    name.as_str().starts_with("x-amz-") || others.contains(name)
}

impl Sent {
    fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().find(|(own, _)| own.as_str() == name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    fn tags(&self) -> Option<Vec<(String, String)>> {
        let text = self.header("x-amz-tagging")?;
        Some(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }
}

impl Values for Sent {
    fn values(&self, key: &str) -> Option<Vec<String>> {
        let one = match key {
            "aws:sourceip" => self.address.map(|address| address.to_canonical().to_string()),
            "aws:securetransport" => Some(self.is_secure.to_string()),
            "aws:referer" => self.header("referer"),
            "aws:useragent" => self.header("user-agent"),
            "s3:prefix" | "s3:delimiter" | "s3:max-keys" => query_value(&self.uri, &key[3..]),
            "s3:if-match" | "s3:if-none-match" => self.header(&key[3..]),
            "s3:requestobjecttagkeys" => {
                return Some(self.tags()?.into_iter().map(|(key, _)| key).collect());
            }
            key => match key.strip_prefix("s3:requestobjecttag/") {
                Some(tag) => self.tags()?.into_iter().find(|(own, _)| own == tag).map(|(_, v)| v),
                None => key
                    .strip_prefix("s3:")
                    .filter(|name| name.starts_with("x-amz-"))
                    .and_then(|name| self.header(name)),
            },
        };
        one.map(|one| vec![one])
    }
}

/// Returns what conditions may ask of a request.
pub(super) fn keys_of<T>(request: &S3Request<T>) -> RequestKeys {
    let headers = request.headers.iter().filter(|(name, _)| is_asked_for(name));
    let sent = Sent {
        address: request.extensions.get::<Peer>().map(|peer| peer.address),
        is_secure: request.extensions.get::<SecureTransport>().is_some(),
        headers: headers.map(|(name, value)| (name.clone(), value.clone())).collect(),
        uri: request.uri.clone(),
    };
    RequestKeys(Some(Arc::new(sent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_headers_and_parameters() {
        let header = |name: &'static str, value: &'static str| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let sent = Sent {
            address: Some("::ffff:192.0.2.7".parse().unwrap()),
            is_secure: true,
            headers: vec![
                header("x-amz-acl", "private"),
                header("referer", "https://a.test/"),
                header("if-none-match", "*"),
                header("x-amz-tagging", "a=1&b=x%20y"),
            ],
            uri: "/bucket?prefix=in%2F&max-keys=5".parse().unwrap(),
        };
        for (key, expected) in [
            ("aws:sourceip", Some(vec!["192.0.2.7"])),
            ("aws:securetransport", Some(vec!["true"])),
            ("aws:referer", Some(vec!["https://a.test/"])),
            ("aws:useragent", None),
            ("s3:prefix", Some(vec!["in/"])),
            ("s3:max-keys", Some(vec!["5"])),
            ("s3:delimiter", None),
            ("s3:x-amz-acl", Some(vec!["private"])),
            ("s3:x-amz-storage-class", None),
            ("s3:if-none-match", Some(vec!["*"])),
            ("s3:requestobjecttag/b", Some(vec!["x y"])),
            ("s3:requestobjecttag/c", None),
            ("s3:requestobjecttagkeys", Some(vec!["a", "b"])),
            ("s3:locationconstraint", None),
        ] {
            let expected = expected.map(|all| all.into_iter().map(ToOwned::to_owned).collect());
            assert_eq!(sent.values(key), expected, "{key}");
        }
    }
}
