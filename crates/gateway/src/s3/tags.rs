//! Tags: the limits of AWS, and how headers and XML have them.

use fula_core::bucket::TextMap;
use http::{HeaderMap, HeaderValue, StatusCode};
use s3s::{S3Error, S3Result, dto::*, s3_error};

use crate::error::{custom, not_implemented, with_argument};

const HEADER: &str = "x-amz-tagging";

/// Largest number of tags of an object.
pub(super) const OBJECT_TAGS_MAX: usize = 10;

/// Largest number of tags of a bucket.
pub(super) const BUCKET_TAGS_MAX: usize = 50;

/// Longest key of a tag, in UTF-16 code units, as AWS counts.
const KEY_MAX: usize = 128;

/// Longest value of a tag, in UTF-16 code units.
const VALUE_MAX: usize = 256;

fn is_allowed(c: char) -> bool {
    c.is_alphanumeric() || (c.is_whitespace() && !c.is_control()) || "_.:/=+-@".contains(c)
}

fn is_text(text: &str, length_max: usize) -> bool {
    text.encode_utf16().count() <= length_max && text.chars().all(is_allowed)
}

/// Checks tags against the limits of AWS.
///
/// # Errors
/// 400 `InvalidTag` for a key or a value that is not allowed, and for a key that occurs twice; 400
/// `BadRequest` for too many tags.
fn checked(tags: Vec<(String, String)>, most: usize) -> S3Result<TextMap> {
    if tags.len() > most {
        let text = match most {
            OBJECT_TAGS_MAX => format!("Object tags cannot be greater than {most}"),
            _ => format!("Bucket tag count cannot be greater than {most}"),
        };
        return Err(custom("BadRequest", StatusCode::BAD_REQUEST, text));
    }
    let mut map = TextMap::new();
    for (key, value) in tags {
        if key.is_empty() || !is_text(&key, KEY_MAX) {
            return Err(s3_error!(InvalidTag, "The TagKey you have provided is invalid"));
        }
        if !is_text(&value, VALUE_MAX) {
            return Err(s3_error!(InvalidTag, "The TagValue you have provided is invalid"));
        }
        if key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:")) {
            let text = "System tags cannot be added/updated by requester";
            return Err(s3_error!(InvalidTag, "{text}"));
        }
        if map.insert(key, value).is_some() {
            return Err(s3_error!(InvalidTag, "Cannot provide multiple Tags with the same key"));
        }
    }
    Ok(map)
}

/// Returns the tags in the XML of a request.
pub(super) fn of_set(tags: &[Tag], most: usize) -> S3Result<TextMap> {
    let pair = |tag: &Tag| match (&tag.key, &tag.value) {
        (Some(key), Some(value)) => Ok((key.clone(), value.clone())),
        _ => Err(s3_error!(MalformedXML)),
    };
    checked(tags.iter().map(pair).collect::<S3Result<_>>()?, most)
}

pub(super) fn to_set(tags: TextMap) -> TagSet {
    tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) }).collect()
}

/// Returns the tags of a new bucket.
pub(super) fn of_new_bucket(tags: Option<&TagSet>) -> S3Result<TextMap> {
    of_set(tags.map(Vec::as_slice).unwrap_or_default(), BUCKET_TAGS_MAX)
}

/// Returns the tags of a new object, which a header names (`a=1&b=2`).
///
/// # Errors
/// 400 `InvalidArgument` for a header of another form; those of [`checked`].
pub(super) fn in_header(headers: &HeaderMap) -> S3Result<TextMap> {
    let Some(value) = headers.get(HEADER) else { return Ok(TextMap::new()) };
    let malformed = || -> S3Error {
        let text = "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query \
                    parameters without tag name duplicates.";
        with_argument(s3_error!(InvalidArgument, "{text}"), HEADER, value)
    };
    let text = value.to_str().map_err(|_| malformed())?;
    let tags: Vec<(String, String)> =
        form_urlencoded::parse(text.as_bytes()).into_owned().collect();
    let has_twice = |index: usize| tags[..index].iter().any(|(key, _)| *key == tags[index].0);
    if tags.len() <= OBJECT_TAGS_MAX && (0..tags.len()).any(has_twice) {
        return Err(malformed());
    }
    checked(tags, OBJECT_TAGS_MAX)
}

/// Returns the new tags of a copy; `None` to keep those of the source.
pub(super) fn of_copy(headers: &HeaderMap) -> S3Result<Option<TextMap>> {
    match headers.get("x-amz-tagging-directive").map(HeaderValue::as_bytes) {
        None | Some(b"COPY") => Ok(None),
        Some(b"REPLACE") => in_header(headers).map(Some),
        Some(_) => Err(s3_error!(InvalidArgument, "Unknown tagging directive.")),
    }
}

/// Refuses tags on an operation that makes no object.
pub(super) fn refuse(headers: &HeaderMap) -> S3Result<()> {
    let is_there = headers.contains_key(HEADER);
    if is_there {
        Err(not_implemented("The header x-amz-tagging on this operation"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: &str) -> Result<Vec<(String, String)>, String> {
        let value = HeaderValue::from_str(value).unwrap();
        let tags = in_header(&HeaderMap::from_iter([(HEADER.parse().unwrap(), value)]));
        tags.map(|tags| tags.into_iter().collect())
            .map_err(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn a_header_has_the_form_of_a_query() {
        let pairs = |pairs: &[(&str, &str)]| {
            let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            Ok(pairs.iter().map(pair).collect::<Vec<_>>())
        };
        assert_eq!(header(""), pairs(&[]));
        assert_eq!(header("b=2&a=x%20y%3D"), pairs(&[("a", "x y="), ("b", "2")]));
        assert_eq!(header("a"), pairs(&[("a", "")]));
        assert_eq!(header("gr%C3%BCn=%2B"), pairs(&[("grün", "+")]));
        assert_eq!(header("a=1&a=2").unwrap_err(), "InvalidArgument");
        assert_eq!(header("=1").unwrap_err(), "InvalidTag");
        assert_eq!(header("a=%3B").unwrap_err(), "InvalidTag");
        assert_eq!(header("aws:a=1").unwrap_err(), "InvalidTag");
        assert_eq!(header("AWS%3Aa=1").unwrap_err(), "InvalidTag");
        let many: Vec<_> = (0..11).map(|n| format!("k{n}=v")).collect();
        assert_eq!(header(&many[..10].join("&")).unwrap().len(), 10);
        assert_eq!(header(&many.join("&")).unwrap_err(), "BadRequest");
    }

    #[test]
    fn tags_have_limits() {
        let code = |key: &str, value: &str| match checked(vec![(key.into(), value.into())], 50) {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.message().unwrap_or_default().to_owned(),
        };
        assert_eq!(code(&"k".repeat(128), &"v".repeat(256)), "ok");
        assert_eq!(code(&"é".repeat(128), &"é".repeat(256)), "ok");
        assert_eq!(code(&"k".repeat(129), ""), "The TagKey you have provided is invalid");
        assert_eq!(code("k", &"v".repeat(257)), "The TagValue you have provided is invalid");
        for bad in ["a\tb", "a\nb", "a;b", "a&b", "<", "\u{1F600}"] {
            assert_eq!(code(bad, ""), "The TagKey you have provided is invalid", "{bad:?}");
        }
        let bucket: Vec<_> = (0..51).map(|n| (format!("k{n}"), String::new())).collect();
        assert_eq!(checked(bucket[..50].to_vec(), BUCKET_TAGS_MAX).unwrap().len(), 50);
        let error = checked(bucket, BUCKET_TAGS_MAX).unwrap_err();
        assert_eq!(error.message(), Some("Bucket tag count cannot be greater than 50"));
    }
}
