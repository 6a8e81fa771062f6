//! Ranges of bytes in the form that S3 supports: one range, or the whole object.

use http::HeaderMap;

/// One range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ByteRange {
    /// The bytes from this one to the end.
    From(u64),
    /// The bytes from the first to the last, including both.
    Between(u64, u64),
    /// The last bytes, as many as this number.
    Last(u64),
}

/// Parses a number of any length. One that is too large becomes the largest.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

impl ByteRange {
    /// Parses a `Range` header. Returns `None`, which means the whole object, for a header that is missing,
    /// is malformed, or names several ranges.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(http::header::RANGE).iter();
        let (value, None) = (all.next()?, all.next()) else { return None };
        Self::parse(value.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
        match (number(first), number(last)) {
            (Some(first), Some(last)) => (first <= last).then_some(Self::Between(first, last)),
            (Some(first), None) => last.is_empty().then_some(Self::From(first)),
            (None, Some(length)) => first.is_empty().then_some(Self::Last(length)),
            (None, None) => None,
        }
    }

    /// Returns the range in an object of this size; `None` when it is empty.
    pub(crate) fn within(self, size: u64) -> Option<std::ops::Range<u64>> {
        let range = match self {
            Self::From(first) => first..size,
            Self::Between(first, last) => first..last.saturating_add(1).min(size),
            Self::Last(length) => size.saturating_sub(length)..size,
        };
        (range.start < range.end).then_some(range)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header::RANGE};

    use super::*;

    /// The expected result for a header.
    #[derive(Debug, PartialEq, Eq)]
    enum Asked {
        Whole,
        Nothing,
        Bytes(u64, u64),
    }

    fn within(text: &'static str, size: u64) -> Asked {
        let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static(text))]);
        match ByteRange::of(&headers).map(|range| range.within(size)) {
            None => Asked::Whole,
            Some(None) => Asked::Nothing,
            Some(Some(range)) => Asked::Bytes(range.start, range.end),
        }
    }

    #[test]
    fn one_range_is_read_and_clamped() {
        for (text, (start, end)) in [
            ("bytes=0-0", (0, 1)),
            ("bytes=5-", (5, 10)),
            ("bytes=-3", (7, 10)),
            ("bytes=-30", (0, 10)),
            ("bytes=2-18446744073709551615", (2, 10)),
            ("bytes=2-9223372036854775808", (2, 10)),
            ("bytes=2-99999999999999999999999999", (2, 10)),
            ("bytes=-99999999999999999999999999", (0, 10)),
        ] {
            assert_eq!(within(text, 10), Asked::Bytes(start, end), "{text}");
        }
        for none in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999999999-"] {
            assert_eq!(within(none, 10), Asked::Nothing, "{none}");
        }
        assert_eq!(within("bytes=0-", 0), Asked::Nothing);
        assert_eq!(within("bytes=-1", 0), Asked::Nothing);
    }

    #[test]
    fn anything_else_is_the_whole_object() {
        for odd in [
            "bytes=,",
            "bytes=abc",
            "bytes=1-0",
            "bytes=0-1,3-4",
            "bytes=-",
            "bytes=a-b",
            "lines=1-2",
            "x",
            "",
            "bytes=+1-2",
            "bytes=1 - 2",
        ] {
            assert_eq!(within(odd, 10), Asked::Whole, "{odd}");
        }
        let mut twice = HeaderMap::new();
        twice.append(RANGE, HeaderValue::from_static("bytes=0-1"));
        twice.append(RANGE, HeaderValue::from_static("bytes=3-4"));
        assert_eq!(ByteRange::of(&twice), None);
    }
}
