//! The facts about a request that the layers of the gateway exchange in its extensions.

use std::{net::IpAddr, sync::OnceLock};

use bytes::Bytes;
use fula_core::id::OwnerId;
use fula_service::Identity;
use http::{HeaderMap, HeaderValue, Uri, header};

/// The client side of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Address of the client.
    pub address: IpAddr,
    /// Whether the connection is encrypted.
    pub is_tls: bool,
}

impl Peer {
    /// Returns whether nobody can read the connection: it uses TLS, or comes from the same machine.
    pub(crate) fn is_private(self) -> bool {
        self.is_tls || self.address.to_canonical().is_loopback()
    }
}

/// Marks a request that nobody on its way could read: it came over TLS, here or at a proxy in front.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SecureTransport;

/// The id of a request, for the log.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

/// The name of the S3 operation of a request, and who asks for it. Each is set once it is known.
#[derive(Debug, Default)]
pub(crate) struct Operation {
    name: OnceLock<String>,
    asker: OnceLock<Asker>,
}

/// The user and the owner id that a request acts for. An upload ticket names no user.
#[derive(Debug)]
pub(crate) struct Asker {
    pub(crate) user: String,
    pub(crate) owner: OwnerId,
}

impl Operation {
    pub(crate) fn set(&self, name: String) {
        // A request is one operation, so the first name stays.
        drop(self.name.set(name));
    }

    pub(crate) fn name(&self) -> &str {
        self.name.get().map_or("none", String::as_str)
    }

    /// Notes the identity that was authenticated.
    pub(crate) fn asked_by(&self, identity: &Identity) {
        let asker = Asker { user: identity.display(), owner: identity.owner };
        drop(self.asker.set(asker));
    }

    /// Notes the owner that an upload ticket names.
    pub(crate) fn asked_for(&self, owner: OwnerId) {
        drop(self.asker.set(Asker { user: String::new(), owner }));
    }

    /// Returns for whom the request acts, unless it is anonymous or was refused before that was known.
    pub(crate) fn asker(&self) -> Option<&Asker> {
        self.asker.get()
    }
}

/// The status of an answer, where it differs from that of `s3s`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswerStatus(pub(crate) http::StatusCode);

/// The body of an answer that takes the place of the one of `s3s`: a page of a listing has a thousand lines, and
/// `s3s` takes longer to write them than all other work of the request.
#[derive(Clone, Debug)]
pub(crate) struct AnswerBody(pub(crate) Bytes);

/// The bucket that the host of a request names.
#[derive(Clone, Debug)]
pub(crate) struct HostBucket(pub(crate) String);

/// Returns the decoded value of a query parameter. The case of the name does not matter.
pub(crate) fn query_value(uri: &Uri, name: &str) -> Option<String> {
    let query = uri.query().unwrap_or_default();
    let mut found = form_urlencoded::parse(query.as_bytes());
    found.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.into_owned())
}

/// Returns whether a request announces a body in chunks.
pub(crate) fn is_chunked(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    text("x-amz-content-sha256").is_some_and(|hash| hash.starts_with("STREAMING-"))
        || text(header::CONTENT_ENCODING.as_str()).is_some_and(|c| c.contains("aws-chunked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tls_or_this_machine_is_private() {
        let is_private = |address: &str, is_tls| {
            Peer { address: address.parse().expect("an address"), is_tls }.is_private()
        };
        for loopback in ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"] {
            assert!(is_private(loopback, false), "{loopback}");
        }
        for other in ["192.0.2.1", "10.0.0.1", "::ffff:192.0.2.1", "2001:db8::1", "fd00::2"] {
            assert!(!is_private(other, false) && is_private(other, true), "{other}");
        }
    }
}
