//! Bucket names in host names (virtual-host style).

use s3s::{
    S3Result,
    host::{S3Host, VirtualHost},
};

/// The reason why a setting is not a domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDomain {
    /// The setting contains a port. Leave it out.
    #[error(
        "FULA_DOMAIN is {0:?}; host names are compared without their port, so leave it out: {1}"
    )]
    Port(String, String),
    /// The setting is not a domain name.
    #[error("FULA_DOMAIN is {0:?}; it is a domain name alone, e.g. s3.example.com")]
    Form(String),
}

/// The domain whose subdomains are bucket names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain(String);

/// Returns a host name in the form for comparison: in lower case, without a dot at its end.
fn comparable(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Returns a host without its port.
fn without_port(host: &str) -> &str {
    let split = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|c| c.is_ascii_digit()));
    split.map_or(host, |(host, _)| host)
}

impl Domain {
    /// Parses a domain name.
    ///
    /// # Errors
    /// [`InvalidDomain`] with the reason.
    pub fn parse(text: &str) -> Result<Self, InvalidDomain> {
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
        };
        let is_name = |name: &str| comparable(name).split('.').all(is_label);
        let host = without_port(text);
        if host != text && is_name(host) {
            return Err(InvalidDomain::Port(text.to_owned(), comparable(host)));
        }
        if !is_name(text) {
            return Err(InvalidDomain::Form(text.to_owned()));
        }
        Ok(Self(comparable(text)))
    }

    /// Returns the bucket that a `Host` header names. Returns `None` for the domain itself and for every
    /// other host, where the path names the bucket.
    pub(crate) fn bucket_of(&self, host: &str) -> Option<String> {
        let host = comparable(without_port(host));
        let bucket = host.strip_suffix(&self.0)?.strip_suffix('.')?;
        Some(bucket.to_owned()).filter(|bucket| !bucket.is_empty())
    }
}

/// Lets `s3s` find the same bucket.
impl S3Host for Domain {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let found = VirtualHost::new(self.0.as_str());
        Ok(match self.bucket_of(host) {
            Some(bucket) => found.with_bucket(bucket),
            None => found,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_without_case_port_and_dot() {
        for domain in ["s3.test", "S3.Test", "s3.test.", "S3.TEST."] {
            let domain = Domain::parse(domain).unwrap();
            for host in
                ["b.s3.test", "B.S3.Test:9000", "b.s3.test.", "b.s3.test.:443", "b.s3.test:"]
            {
                assert_eq!(domain.bucket_of(host).as_deref(), Some("b"), "{host}");
                let found = domain.parse_host_header(host).unwrap();
                assert_eq!(found.bucket(), Some("b"), "{host}");
            }
            let dotted = domain.bucket_of("a.b.s3.test");
            assert_eq!(dotted.as_deref(), Some("a.b"));
            for host in [
                "s3.test",
                "s3.test.",
                ".s3.test",
                "xs3.test",
                "b.s3.test..",
                "b.s3.test:http",
                "b.s3.test.evil.example",
                "localhost",
                "127.0.0.1:9000",
                "[::1]:9000",
                "",
                ":",
            ] {
                assert_eq!(domain.bucket_of(host), None, "{host}");
                assert_eq!(domain.parse_host_header(host).unwrap().bucket(), None, "{host}");
            }
        }
    }

    #[test]
    fn a_domain_is_a_name_alone() {
        let port = Domain::parse("S3.example.com:9000").unwrap_err();
        assert_eq!(
            port,
            InvalidDomain::Port("S3.example.com:9000".into(), "s3.example.com".into())
        );
        assert!(port.to_string().ends_with(": s3.example.com"), "{port}");
        for wrong in
            ["", ".", "a..b", "https://s3.test", "s3.test/x", "s3_test", "*.s3.test", ":80"]
        {
            assert_eq!(Domain::parse(wrong), Err(InvalidDomain::Form(wrong.into())), "{wrong}");
        }
    }
}
