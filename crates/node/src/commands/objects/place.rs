//! The grammar of places: `./dir`, `-`, and `s3://bucket/key`.

use std::{fmt, path::PathBuf};

use fula_client::{Error, Result};

/// A place that a command reads from or writes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) enum Place {
    /// Standard input or output.
    Standard,
    /// A file or folder.
    Local(PathBuf),
    /// An object, a prefix, or a bucket, whose key is empty.
    Remote(Remote),
}

/// A place in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) struct Remote {
    pub(in crate::commands) bucket: String,
    pub(in crate::commands) key: String,
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, printable(&self.key))
    }
}

impl Place {
    /// Parses what was typed.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a scheme that is not known, and for `s3://` without a bucket.
    pub(in crate::commands) fn parse(text: &str) -> Result<Self> {
        if text == "-" {
            return Ok(Self::Standard);
        }
        if text.is_empty() {
            return Err(Error::Invalid(
                "an empty text is no place; write . for this folder".to_owned(),
            ));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::Local(text.into()));
        };
        match scheme {
            "s3" => {
                let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(Error::Invalid(format!(
                        "{text} names no bucket: write s3://bucket/key"
                    )));
                }
                Ok(Self::Remote(Remote { bucket: bucket.to_owned(), key: key.to_owned() }))
            }
            "file" => Ok(Self::Local(rest.into())),
            _ => Err(Error::Invalid(format!(
                "{scheme}:// is not known: a place is a path, - or s3://bucket/key"
            ))),
        }
    }

    /// Parses a place in a bucket.
    ///
    /// # Errors
    /// [`Error::Invalid`] for any other place.
    pub(in crate::commands) fn remote(text: &str) -> Result<Remote> {
        match Self::parse(text)? {
            Self::Remote(remote) => Ok(remote),
            Self::Standard | Self::Local(_) => {
                Err(Error::Invalid(format!("{text} is not in a bucket: write s3://bucket/key")))
            }
        }
    }

    /// Parses the place of one object.
    ///
    /// # Errors
    /// [`Error::Invalid`] for any other place.
    pub(in crate::commands) fn object(text: &str) -> Result<Remote> {
        let remote = Self::remote(text)?;
        if remote.key.is_empty() {
            return Err(Error::Invalid(format!("{text} names a bucket: write s3://bucket/key")));
        }
        Ok(remote)
    }
}

/// Returns a prefix that ends where a part of a key ends: with `/`, or empty.
pub(in crate::commands) fn folder(key: &str) -> String {
    if key.is_empty() || key.ends_with('/') { key.to_owned() } else { format!("{key}/") }
}

/// Returns a name for a terminal: characters that could control it are written as escapes.
pub(in crate::commands) fn printable(name: &str) -> String {
    let is_unsafe = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !name.contains(is_unsafe) {
        return name.to_owned();
    }
    name.chars()
        .map(|c| if is_unsafe(c) { c.escape_unicode().to_string() } else { c.to_string() })
        .collect()
}

/// Returns a number of bytes in words.
pub(in crate::commands) fn human(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() / 10) as usize;
    #[expect(clippy::cast_precision_loss, reason = "one digit behind the point is shown")]
    let value = bytes as f64 / (1_u64 << (10 * power)) as f64;
    format!("{value:.1} {}", units[power - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_paths_pipes_and_objects() {
        let remote = |bucket: &str, key: &str| {
            Ok(Place::Remote(Remote { bucket: bucket.to_owned(), key: key.to_owned() }))
        };
        for (text, expected) in [
            ("-", Ok(Place::Standard)),
            ("./a:b", Ok(Place::Local("./a:b".into()))),
            ("file:///a", Ok(Place::Local("/a".into()))),
            ("s3://b", remote("b", "")),
            ("s3://b/", remote("b", "")),
            ("s3://b//a/../c", remote("b", "/a/../c")),
            ("s3://", Err(())),
            ("s4://b/k", Err(())),
            ("", Err(())),
        ] {
            assert_eq!(Place::parse(text).map_err(|_| ()), expected, "{text}");
        }
        assert!(Place::object("s3://b").is_err() && Place::remote("a").is_err());
        assert_eq!([folder(""), folder("a"), folder("a/")], ["", "a/", "a/"]);
    }

    #[test]
    fn names_cannot_control_a_terminal() {
        assert_eq!(printable("a\u{1b}[2Jé\n"), "a\\u{1b}[2Jé\\u{a}");
        assert_eq!(["900 B", "1.0 KiB", "1.5 MiB"], [human(900), human(1024), human(3 << 19)]);
    }
}
