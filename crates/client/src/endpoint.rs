//! The address of a gateway.

use std::{fmt, net::IpAddr};

use http::Uri;

use crate::error::{Error, Result};

/// The address of a gateway: scheme, host and port.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    is_tls: bool,
    /// Host and port as the header `Host` has them.
    authority: String,
    is_loopback: bool,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_tls { "https" } else { "http" }, self.authority)
    }
}

impl Endpoint {
    /// Parses a URL. Plain HTTP is allowed to this machine only, unless `allow_http`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for anything but `http(s)://host[:port]`, and for plain HTTP to another machine.
    pub fn parse(url: &str, allow_http: bool) -> Result<Self> {
        let wrong =
            |why: &str| Error::Invalid(format!("the endpoint {}: {why}", without_secret(url)));
        let form = "write it as https://host or https://host:port";
        let uri: Uri = url.trim_end_matches('/').parse().map_err(|_| wrong(form))?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong(form)),
        };
        let authority = uri.authority().ok_or_else(|| wrong(form))?;
        if authority.as_str().contains('@')
            || !matches!(uri.path(), "" | "/")
            || uri.query().is_some()
        {
            return Err(wrong(form));
        }
        let host = authority.host().trim_matches(['[', ']']);
        let address = host.parse::<IpAddr>();
        let is_loopback = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        if !is_tls && !is_loopback && !allow_http {
            return Err(wrong(
                "plain HTTP shows every byte to the network; use https://, or allow plain HTTP explicitly",
            ));
        }
        // Clients leave the standard port out of the header, and signatures cover the header.
        let standard = if is_tls { 443 } else { 80 };
        let authority = match authority.port_u16() {
            Some(port) if port == standard => authority.host().to_ascii_lowercase(),
            _ => authority.as_str().to_ascii_lowercase(),
        };
        Ok(Self { is_tls, authority, is_loopback })
    }

    /// Returns host and port, as the header `Host` has them.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns whether connections are encrypted.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Returns whether somebody on the network could change a request on its way.
    pub(crate) fn is_exposed(&self) -> bool {
        !self.is_tls && !self.is_loopback
    }
}

/// Returns a URL without what stands in front of the host.
fn without_secret(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 < at => {
            format!("{}…{}", &url[..scheme + 3], &url[at..])
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_stays_on_this_machine() {
        for allowed in
            ["http://127.0.0.1:9000", "http://[::1]:9000/", "http://localhost", "https://a.example"]
        {
            assert!(Endpoint::parse(allowed, false).is_ok(), "{allowed}");
        }
        let error = Endpoint::parse("http://10.0.0.1:9000", false).unwrap_err().to_string();
        assert!(error.contains("https://"), "{error}");
        assert!(Endpoint::parse("http://10.0.0.1:9000", true).unwrap().is_exposed());
        // A name that begins like a loopback address is another machine.
        assert!(Endpoint::parse("http://127.0.0.1.example", false).is_err());
        assert!(Endpoint::parse("http://localhost.example", false).is_err());
    }

    #[test]
    fn anything_but_an_address_is_refused_without_its_secret() {
        for wrong in ["a.example", "ftp://a", "https://a/b", "https://a?x=y", "https://"] {
            assert!(Endpoint::parse(wrong, true).is_err(), "{wrong}");
        }
        let error = Endpoint::parse("https://user:secret@a.example", true).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        assert_eq!(
            Endpoint::parse("https://A.example:443", true).unwrap().authority(),
            "a.example"
        );
    }
}
