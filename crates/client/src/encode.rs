//! Percent-encoding as Signature Version 4 wants it.

use std::fmt::Write;

/// Appends `text` to `out`, with every byte encoded but letters, digits, `-`, `.`, `_` and `~`, and those in
/// `also`.
fn encode_into(out: &mut String, text: &str, also: &[u8]) {
    for byte in text.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if is_plain || also.contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _written = write!(out, "%{byte:02X}");
        }
    }
}

/// Returns an object key as a path, without the leading slash. Slashes stay as they are.
pub fn path(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    encode_into(&mut out, key, b"/");
    out
}

/// Returns a query from its parameters, in order of name. A parameter without a value ends with `=`.
pub(crate) fn query(parameters: &[(&str, &str)]) -> String {
    let mut pairs: Vec<String> = parameters
        .iter()
        .map(|(name, value)| {
            let mut pair = String::new();
            encode_into(&mut pair, name, b"");
            pair.push('=');
            encode_into(&mut pair, value, b"");
            pair
        })
        .collect();
    pairs.sort_unstable();
    pairs.join("&")
}

/// Returns a text that was encoded for a listing (`encoding-type=url`), where a plus sign is a blank; `None`
/// if it is not UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let decoded = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, decoded) {
            (b'%', Some(decoded)) => {
                out.push(decoded);
                rest = &rest[2..];
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_slashes_and_dots() {
        assert_eq!(path("a/../b c+d%é"), "a/../b%20c%2Bd%25%C3%A9");
        assert_eq!(query(&[("b", "x/y"), ("a", "")]), "a=&b=x%2Fy");
    }

    #[test]
    fn names_of_listings_are_decoded() {
        assert_eq!(decode("a+b%2B%C3%A9%").as_deref(), Some("a b+é%"));
        assert_eq!(decode("%FF"), None);
    }
}
