//! XML answers: texts in a form that XML can carry, and a writer of documents.

use std::fmt::{self, Write as _};

/// Namespace of the answers of S3.
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

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

/// Returns a text that was escaped for the content of an element. Characters that XML cannot carry are replaced.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_escaped(&mut out, text);
    out
}

fn push_escaped(out: &mut String, text: &str) {
    let mut from = 0;
    for (at, c) in text.char_indices() {
        let instead = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '"' => "&quot;",
            // A parser reads a bare one as a line feed (XML 1.0, section 2.11).
            '\r' => "&#13;",
            c if is_printable(c) => continue,
            _ => "\u{fffd}",
        };
        out.push_str(&text[from..at]);
        out.push_str(instead);
        from = at + c.len_utf8();
    }
    out.push_str(&text[from..]);
}

/// Writes a document, element by element.
#[derive(Debug)]
pub(crate) struct Writer {
    text: String,
    root: &'static str,
}

impl Writer {
    /// Begins a document with a root element in the namespace of S3, and room for so many bytes.
    pub(crate) fn new(root: &'static str, capacity: usize) -> Self {
        let mut text = String::with_capacity(capacity);
        text.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>");
        let mut writer = Self { text, root };
        writer.shown(format_args!("<{root} xmlns=\"{NAMESPACE}\">"));
        writer
    }

    pub(crate) fn start(&mut self, name: &'static str) {
        self.text.push('<');
        self.text.push_str(name);
        self.text.push('>');
    }

    pub(crate) fn end(&mut self, name: &'static str) {
        self.text.push_str("</");
        self.text.push_str(name);
        self.text.push('>');
    }

    /// Writes an element with a text, which is escaped.
    pub(crate) fn element(&mut self, name: &'static str, text: &str) {
        self.element_with(name, |out| push_escaped(out, text));
    }

    /// Writes an element whose content is appended by `write`, and has nothing to escape.
    pub(crate) fn element_with(&mut self, name: &'static str, write: impl FnOnce(&mut String)) {
        self.start(name);
        write(&mut self.text);
        self.end(name);
    }

    /// Writes an element with a number, or another value whose form has nothing to escape.
    pub(crate) fn value(&mut self, name: &'static str, value: impl fmt::Display) {
        self.start(name);
        self.shown(value);
        self.end(name);
    }

    fn shown(&mut self, value: impl fmt::Display) {
        // Writing to a string does not fail.
        let _ = write!(self.text, "{value}");
    }

    /// Writes elements that were written before.
    pub(crate) fn fragment(&mut self, xml: &str) {
        self.text.push_str(xml);
    }

    /// Ends the root element, and returns the document.
    pub(crate) fn finish(mut self) -> String {
        self.end(self.root);
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_cannot_carry_is_replaced() {
        assert_eq!(printable("a\tb\u{e9}\u{1F600}<"), "a\tb\u{e9}\u{1F600}<");
        assert_eq!(printable("a\u{1}b\u{0}\u{ffff}"), "a\u{fffd}b\u{fffd}\u{fffd}");
        assert_eq!(escape("a\tb\u{e9}\u{1F600}<&>\""), "a\tb\u{e9}\u{1F600}&lt;&amp;&gt;&quot;");
        assert_eq!(escape("\u{1}a\r\nb\u{ffff}"), "\u{fffd}a&#13;\nb\u{fffd}");
    }

    #[test]
    fn a_document_has_one_root_and_escaped_texts() {
        let mut xml = Writer::new("Root", 0);
        xml.start("Line");
        xml.element("Key", "<&");
        xml.value("Size", 7);
        xml.element_with("Class", |out| out.push_str("any"));
        xml.end("Line");
        xml.fragment("<Owner/>");
        assert_eq!(
            xml.finish(),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <Root xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <Line><Key>&lt;&amp;</Key><Size>7</Size><Class>any</Class></Line><Owner/></Root>"
        );
    }
}
