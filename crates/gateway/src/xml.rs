//! Text in XML answers.

/// Returns whether XML 1.0 can carry a character.
pub(crate) fn is_printable(c: char) -> bool {
    !matches!(c, '\u{0}'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}

/// Returns a text in a form for an answer: characters that XML cannot carry are replaced. A text from a
/// client must not make its answer fail.
pub(crate) fn printable(text: &str) -> String {
    // Nearly every name is printable, and a listing has a thousand of them.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.to_owned();
    }
    text.chars().map(|c| if is_printable(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_cannot_carry_is_replaced() {
        assert_eq!(printable("a\tb\u{e9}\u{1F600}<"), "a\tb\u{e9}\u{1F600}<");
        assert_eq!(printable("a\u{1}b\u{0}\u{ffff}"), "a\u{fffd}b\u{fffd}\u{fffd}");
    }
}
