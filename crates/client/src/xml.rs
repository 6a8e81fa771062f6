//! Bodies in XML.

use serde::{Deserialize, de::DeserializeOwned};

use crate::error::{Error, Result};

/// An error of S3.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct S3Error {
    pub(crate) code: String,
    pub(crate) message: String,
}

/// Reads the body of an error. Proxies answer with something else; then the fields are empty.
pub(crate) fn error(body: &[u8]) -> S3Error {
    let text = std::str::from_utf8(body).unwrap_or_default();
    if !is_error(body) {
        return S3Error::default();
    }
    quick_xml::de::from_str(text).unwrap_or_default()
}

/// Returns whether a body is an error. Completions and copies answer 200 before they are done.
pub(crate) fn is_error(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(&body[..body.len().min(512)]);
    let start = text.trim_start();
    let start = match start.strip_prefix("<?xml") {
        Some(rest) => rest.split_once("?>").map_or("", |(_, rest)| rest).trim_start(),
        None => start,
    };
    start.starts_with("<Error>") || start.starts_with("<Error ")
}

/// Reads an answer.
///
/// # Errors
/// [`Error::Http`] if it is not what the operation answers with.
pub(crate) fn read<T: DeserializeOwned>(what: &str, status: u16, body: &[u8]) -> Result<T> {
    let text = std::str::from_utf8(body).unwrap_or_default();
    quick_xml::de::from_str(text).map_err(|error| Error::Http {
        what: what.to_owned(),
        status,
        code: "InvalidAnswer".to_owned(),
        why: format!("the answer is not the XML of S3: {error}"),
    })
}

/// Returns a text as the content of an element; `None` if XML 1.0 cannot carry it.
pub(crate) fn text(text: &str) -> Option<String> {
    let is_carried =
        |c| !matches!(c, '\0'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
    text.chars().all(is_carried).then(|| quick_xml::escape::escape(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_from_answers() {
        let body =
            b"<?xml version=\"1.0\"?>\n<Error><Code>A</Code><Message>b &amp; c</Message></Error>";
        assert!(is_error(body));
        assert_eq!((&*error(body).code, &*error(body).message), ("A", "b & c"));
        assert!(!is_error(b"<?xml version=\"1.0\"?><ErrorResult/>") && !is_error(b""));
        assert_eq!(error(b"<html>").code, "");
    }

    #[test]
    fn what_xml_cannot_carry_is_found() {
        assert_eq!(text("a<&b\t").as_deref(), Some("a&lt;&amp;b\t"));
        assert_eq!(text("a\u{1}"), None);
    }
}
