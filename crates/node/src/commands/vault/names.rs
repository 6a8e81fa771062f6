//! Names of files in vaults, which are in the form NFC of Unicode.
//!
//! macOS may write `é` as `e` and an accent (NFD), other systems write one character (NFC). The key of a file is a hash
//! of its path, so the two would be different files. Every name is normalised once, where it enters a vault or is typed.
//! Decision: docs/adr/0066.

use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Returns a name in NFC.
pub(super) fn normal(name: &str) -> String {
    if is_nfc(name) { name.to_owned() } else { name.nfc().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_name_become_one() {
        assert_eq!([normal("cafe\u{301}/a"), normal("caf\u{e9}")], ["caf\u{e9}/a", "caf\u{e9}"]);
        // Hangul, and a character that has another one for its normal form.
        assert_eq!([normal("\u{1112}\u{1161}"), normal("\u{212b}")], ["\u{d558}", "\u{c5}"]);
    }
}
