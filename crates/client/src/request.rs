//! A request as operations describe it, before it is signed, and a whole answer.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use crate::{
    encode,
    error::{Error, Result},
    send::Meter,
};

/// A request. Host, signature and the headers of retries are added when it is sent.
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) method: Method,
    /// Path, encoded.
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    /// Bucket, or bucket and key, for errors.
    pub(crate) what: String,
    /// Counts what was sent of the body, for all attempts together.
    pub(crate) meter: Option<Meter>,
}

impl Request {
    /// Returns a request about a path of the gateway, such as `/fula/capabilities`.
    pub fn of_path(method: Method, path: &str) -> Self {
        Self {
            method,
            path: path.to_owned(),
            query: Vec::new(),
            headers: Vec::new(),
            body: Bytes::new(),
            what: path.to_owned(),
            meter: None,
        }
    }

    /// Returns a request about a bucket.
    pub fn of_bucket(method: Method, bucket: &str) -> Self {
        Self {
            what: bucket.to_owned(),
            ..Self::of_path(method, &format!("/{}", encode::path(bucket)))
        }
    }

    /// Returns a request about an object.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a key that no object can have.
    pub fn of_object(method: Method, bucket: &str, key: &str) -> Result<Self> {
        if key.is_empty() || key.len() > 1024 {
            return Err(Error::Invalid(format!(
                "a key has 1 to 1024 bytes of UTF-8, and this one has {}",
                key.len()
            )));
        }
        let path = format!("/{}/{}", encode::path(bucket), encode::path(key));
        Ok(Self { what: format!("{bucket}/{key}"), ..Self::of_path(method, &path) })
    }

    /// Adds a parameter of the query.
    #[must_use]
    pub fn query(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    /// Adds a header, in lower case.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Adds a header if there is a value.
    #[must_use]
    pub(crate) fn maybe(self, name: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.header(name, value),
            None => self,
        }
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Counts on `meter` what is sent of the body.
    #[must_use]
    pub(crate) fn metered(mut self, meter: Option<Meter>) -> Self {
        self.meter = meter;
        self
    }

    /// Returns whether the request asks for an object that is new.
    pub(crate) fn is_creation(&self) -> bool {
        self.headers.iter().any(|(name, value)| name == "if-none-match" && value == "*")
    }

    pub(crate) fn encoded_query(&self) -> String {
        let pairs: Vec<(&str, &str)> =
            self.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        encode::query(&pairs)
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status, which is a success.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// Returns a header as text.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
