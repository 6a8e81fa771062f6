//! Patterns with wildcards: `*` is any text, and `?` one character.
//!
//! Matching takes time that is linear in the text for each part of a pattern between two `*`: a part without
//! `?` is searched for as a text, and one with `?` with one bit for each of its characters.

use std::collections::HashMap;

/// A character of a pattern, or a wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// This character.
    Char(char),
    /// Any one character.
    One,
    /// Any text.
    Many,
}

/// Returns the tokens of a text in which `*` and `?` are wildcards.
pub(super) fn tokens(text: &str) -> impl Iterator<Item = Token> {
    text.chars().map(|c| match c {
        '*' => Token::Many,
        '?' => Token::One,
        c => Token::Char(c),
    })
}

/// A pattern that is ready to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    /// The parts between `*`. The first begins the text, and the last ends it.
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// Characters, and `None` for any one.
    Holes(Vec<Option<char>>),
}

impl Part {
    fn of(tokens: &[Token]) -> Self {
        let char_of = |token: &Token| match token {
            Token::Char(c) => Some(*c),
            Token::One | Token::Many => None,
        };
        let chars: Vec<_> = tokens.iter().map(char_of).collect();
        match chars.iter().copied().collect::<Option<String>>() {
            Some(text) => Self::Text(text),
            None => Self::Holes(chars),
        }
    }

    /// Returns what is left of a text that begins with this part.
    fn strip_start<'a>(&self, text: &'a str) -> Option<&'a str> {
        match self {
            Self::Text(own) => text.strip_prefix(own.as_str()),
            Self::Holes(own) => {
                let mut chars = text.chars();
                let fits = own
                    .iter()
                    .all(|own| chars.next().is_some_and(|c| own.is_none_or(|own| own == c)));
                fits.then_some(chars.as_str())
            }
        }
    }

    /// Returns what is left of a text that ends with this part.
    fn strip_end<'a>(&self, text: &'a str) -> Option<&'a str> {
        match self {
            Self::Text(own) => text.strip_suffix(own.as_str()),
            Self::Holes(own) => {
                let mut chars = text.chars();
                let fits = own
                    .iter()
                    .rev()
                    .all(|own| chars.next_back().is_some_and(|c| own.is_none_or(|own| own == c)));
                fits.then_some(chars.as_str())
            }
        }
    }

    /// Returns what follows the first place of this part in a text.
    fn after_first<'a>(&self, text: &'a str) -> Option<&'a str> {
        match self {
            Self::Text(own) => text.find(own.as_str()).map(|at| &text[at + own.len()..]),
            Self::Holes(own) => after_first_with_holes(own, text),
        }
    }
}

/// Searches with the bit-parallel algorithm of Baeza-Yates and Gonnet ("Shift-And"): bit `i` is set while the
/// last `i + 1` characters of the text fit the first `i + 1` of the part.
fn after_first_with_holes<'a>(own: &[Option<char>], text: &'a str) -> Option<&'a str> {
    // A character has at least one byte.
    if own.len() > text.len() {
        return None;
    }
    let words = own.len().div_ceil(64);
    let mut any = vec![0_u64; words];
    for at in (0..own.len()).filter(|at| own[*at].is_none()) {
        any[at / 64] |= 1 << (at % 64);
    }
    let mut masks: HashMap<char, Vec<u64>> = HashMap::new();
    for (at, c) in own.iter().enumerate() {
        if let Some(c) = c {
            masks.entry(*c).or_insert_with(|| any.clone())[at / 64] |= 1 << (at % 64);
        }
    }
    let last = own.len() - 1;
    let mut state = vec![0_u64; words];
    for (at, c) in text.char_indices() {
        let mask = masks.get(&c).unwrap_or(&any);
        let mut carried = 1;
        for (word, mask) in state.iter_mut().zip(mask) {
            let next = *word >> 63;
            *word = ((*word << 1) | carried) & mask;
            carried = next;
        }
        if state[last / 64] >> (last % 64) & 1 == 1 {
            return Some(&text[at + c.len_utf8()..]);
        }
    }
    None
}

impl Pattern {
    pub(super) fn new(tokens: &[Token]) -> Self {
        Self { parts: tokens.split(|token| *token == Token::Many).map(Part::of).collect() }
    }

    /// Returns whether it has no wildcards.
    pub(super) fn is_one_text(&self) -> bool {
        matches!(self.parts.as_slice(), [Part::Text(_)])
    }

    /// Returns whether the whole text fits.
    pub(super) fn matches(&self, text: &str) -> bool {
        let Some((first, rest)) = self.parts.split_first() else { return false };
        let Some(text) = first.strip_start(text) else { return false };
        let Some((last, middle)) = rest.split_last() else { return text.is_empty() };
        let Some(mut text) = last.strip_end(text) else { return false };
        for part in middle {
            match part.after_first(text) {
                Some(left) => text = left,
                None => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::new(&tokens(pattern).collect::<Vec<_>>()).matches(text)
    }

    /// What a pattern means, straight from its definition.
    fn naive(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, _) => text.is_empty(),
            (Some(('*', rest)), _) => {
                naive(rest, text)
                    || text.split_first().is_some_and(|(_, text)| naive(pattern, text))
            }
            (Some(('?', rest)), Some((_, text))) => naive(rest, text),
            (Some((own, rest)), Some((c, text))) => own == c && naive(rest, text),
            (Some(_), None) => false,
        }
    }

    #[test]
    fn patterns_match_whole_texts() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "any/thing", true),
            ("a*", "a", true),
            ("*a", "ba", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a?c", "abc", true),
            ("a?c", "aéc", true),
            ("a?c", "ac", false),
            ("*/?b?/*", "x/abc/y", true),
            ("*?a", "a", false),
            ("**", "", true),
            ("in/*.txt", "in/deep/k.txt", true),
            ("In/*", "in/k", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn long_texts_take_linear_time() {
        let text = "a".repeat(1024);
        let long = format!("*{}b*", "a?".repeat(500));
        let many = format!("{}b", "*a".repeat(9000));
        let began = std::time::Instant::now();
        for _ in 0..20 {
            assert!(!matches(&long, &text) && !matches(&many, &text));
        }
        // A search that begins anew at each character needs a thousand times as many steps.
        assert!(began.elapsed() < std::time::Duration::from_secs(2));
    }

    proptest! {
        #[test]
        fn a_pattern_means_what_its_definition_says(
            pattern in "[ab*?é]{0,10}",
            text in "[abé]{0,12}",
        ) {
            let (own, chars): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert_eq!(matches(&pattern, &text), naive(&own, &chars));
        }

        #[test]
        fn parts_longer_than_a_word_are_found(prefix in "[ab]{0,80}", hole in 0..90_usize) {
            let part: String = (0..90).map(|n| if n == hole { '?' } else if n % 7 == 0 { 'b' } else { 'a' }).collect();
            let text = prefix + &part.replace('?', "c");
            let pattern = format!("*{part}*");
            prop_assert!(matches(&pattern, &text));
            let (own, chars): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert!(naive(&own, &chars));
            prop_assert!(!matches(&pattern, &text[1..]) || naive(&own, &chars[1..]));
        }
    }
}
