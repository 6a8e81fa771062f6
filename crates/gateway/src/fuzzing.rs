//! Parsers of what strangers send, opened for the fuzz targets in `fuzz/`: they are private otherwise.
//!
//! Only builds with the feature `fuzzing` have this module, and the tests.

use std::borrow::Cow;

use http::{Method, Request};

use crate::{query, s3, sts::Asked};

pub use fula_service::{
    BatchAction, BatchChange,
    access::{Action, Target},
    policy::PublicRead,
};

/// Reads the body of a multi-key commit; `None` when it is refused.
pub fn commit(body: &[u8]) -> Option<Vec<BatchChange>> {
    s3::parse_commit(body).ok()
}

/// Finds the operation that a request asks for, and returns a text that tells operations apart.
///
/// # Errors
/// The code of the S3 error that the request is answered with, or nothing when it is no request.
pub fn operation(method: &Method, uri: &str, host_is_bucket: bool) -> Result<String, String> {
    let request = Request::builder().method(method).uri(uri).body(());
    let (parts, ()) = request.map_err(|_| String::new())?.into_parts();
    match query::route(&parts, host_is_bucket) {
        Ok(route) => Ok(format!("{route:?}")),
        Err(error) => Err(error.code().as_str().to_owned()),
    }
}

/// Returns the names of the parameters in a query, decoded.
pub fn parameters(query: &str) -> Vec<String> {
    form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name.into_owned()).collect()
}

/// Reads the form of a request for a session. Returns the parameters that it has, by name; `None` when
/// it is refused.
pub fn session_form(body: &[u8]) -> Option<Vec<(&'static str, String)>> {
    let Asked { action, version, role, token, session_name, life } =
        Asked::parse(None, body).ok()?;
    let all = [
        ("Action", action),
        ("Version", version),
        ("RoleArn", role),
        ("WebIdentityToken", token),
        ("RoleSessionName", session_name),
        ("DurationSeconds", life),
    ];
    Some(all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}

/// Returns the parameters in a form, decoded.
pub fn form(body: &[u8]) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    form_urlencoded::parse(body).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_of_a_session_is_there_once() {
        assert!(session_form(b"Action=a&DurationSeconds=900").is_some());
        for twice in ["Action=a&Action=a", "Action=a&DurationSeconds=&DurationSeconds=900"] {
            assert!(session_form(twice.as_bytes()).is_none(), "{twice}");
        }
    }
}
