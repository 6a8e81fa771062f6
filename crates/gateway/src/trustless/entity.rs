//! The parameter `entity-bytes`: which bytes of a file a client wants the blocks of.

use std::ops::Range;

/// One end of a range: an offset from the beginning, or a negative one from the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offset {
    FromStart(u64),
    FromEnd(u64),
}

impl Offset {
    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
            return None;
        }
        let number = digits.parse().ok()?;
        Some(if text.starts_with('-') { Self::FromEnd(number) } else { Self::FromStart(number) })
    }

    /// Returns the offset in a file of this size; `None` before its beginning.
    fn within(self, size: u64) -> Option<u64> {
        match self {
            Self::FromStart(offset) => Some(offset),
            Self::FromEnd(offset) => size.checked_sub(offset),
        }
    }
}

/// The bytes that a client wants. Both ends are included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntityBytes {
    from: Offset,
    /// `None` for the end of the file.
    to: Option<Offset>,
}

/// What `entity-bytes` means in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// These bytes.
    Bytes(Range<u64>),
    /// No byte: the root block alone explains why.
    Nothing,
    /// Bytes that all lie outside of the file.
    Outside,
}

impl EntityBytes {
    /// Parses `FROM:TO`. `None` if it is malformed, or ends before it begins.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (from, to) = text.split_once(':')?;
        let from = Offset::parse(from)?;
        let to = if to == "*" { None } else { Some(Offset::parse(to)?) };
        let is_backwards = match (from, to) {
            (Offset::FromStart(from), Some(Offset::FromStart(to))) => from > to,
            (Offset::FromEnd(from), Some(Offset::FromEnd(to))) => from < to,
            _ => false,
        };
        (!is_backwards).then_some(Self { from, to })
    }

    /// Returns what is meant in a file of this size.
    pub(super) fn within(self, size: u64) -> Wanted {
        // What lies before the beginning is left out.
        let from = self.from.within(size).unwrap_or(0);
        let end = match self.to {
            None => Some(size),
            Some(to) => to.within(size).map(|to| to.saturating_add(1).min(size)),
        };
        match end {
            _ if size > 0 && from >= size => Wanted::Outside,
            Some(end) if from < end => Wanted::Bytes(from..end),
            _ => Wanted::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_count_from_either_side() {
        for (text, expected) in [
            ("0:*", Wanted::Bytes(0..10)),
            ("0:0", Wanted::Bytes(0..1)),
            ("3:5", Wanted::Bytes(3..6)),
            ("3:99", Wanted::Bytes(3..10)),
            ("-3:*", Wanted::Bytes(7..10)),
            ("-99:*", Wanted::Bytes(0..10)),
            ("-99:-3", Wanted::Bytes(0..8)),
            ("2:-3", Wanted::Bytes(2..8)),
            ("-3:-3", Wanted::Bytes(7..8)),
            ("8:-5", Wanted::Nothing),
            ("0:-99", Wanted::Nothing),
            ("10:*", Wanted::Outside),
            ("18446744073709551615:*", Wanted::Outside),
            ("0:18446744073709551615", Wanted::Bytes(0..10)),
        ] {
            assert_eq!(EntityBytes::parse(text).unwrap().within(10), expected, "{text}");
        }
        assert_eq!(EntityBytes::parse("0:*").unwrap().within(0), Wanted::Nothing);
        for text in
            ["", "1", ":", "1:", ":1", "*:1", "x:1", "5:1", "-1:-5", "+1:2", "1:2:3", "--1:*"]
        {
            assert_eq!(EntityBytes::parse(text), None, "{text}");
        }
    }
}
