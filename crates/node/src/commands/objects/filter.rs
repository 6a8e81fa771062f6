//! Patterns of paths.

use crate::cli::FilterArgs;

/// Which paths are taken.
#[derive(Clone, Debug, Default)]
pub(in crate::commands) struct Filter {
    exclude: Vec<Pattern>,
    include: Vec<Pattern>,
}

impl Filter {
    pub(in crate::commands) fn new(args: &FilterArgs) -> Self {
        let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::new(text)).collect();
        Self { exclude: patterns(&args.exclude), include: patterns(&args.include) }
    }

    /// Returns whether a path is taken, which is relative to the place that a command works on.
    pub(in crate::commands) fn takes(&self, path: &str) -> bool {
        if self.include.iter().any(|pattern| pattern.matches(path)) {
            return true;
        }
        let is_excluded = self.exclude.iter().any(|pattern| pattern.matches(path));
        !is_excluded && (self.include.is_empty() || !self.exclude.is_empty())
    }
}

/// A part of a pattern.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Token {
    One(char),
    /// `?`: any character but `/`.
    Any,
    /// `*`: any number of characters but `/`.
    Star,
    /// `**`: any number of characters.
    Stars,
}

#[derive(Clone, Debug)]
struct Pattern {
    tokens: Vec<Token>,
    /// Compared with the last part of a path alone.
    is_name: bool,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let is_name = !text.contains('/');
        let (mut tokens, mut characters) =
            (Vec::new(), text.trim_start_matches('/').chars().peekable());
        while let Some(c) = characters.next() {
            tokens.push(match c {
                '*' if characters.next_if_eq(&'*').is_some() => Token::Stars,
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => Token::One(characters.next().unwrap_or('\\')),
                c => Token::One(c),
            });
        }
        Self { tokens, is_name }
    }

    fn matches(&self, path: &str) -> bool {
        let text = if self.is_name { path.rsplit('/').next().unwrap_or(path) } else { path };
        // Which tokens may come next. The time is at most tokens times characters.
        let mut next = vec![false; self.tokens.len() + 1];
        next[0] = true;
        self.skip_stars(&mut next);
        for c in text.chars() {
            let mut after = vec![false; next.len()];
            for (n, token) in self.tokens.iter().enumerate().filter(|(n, _)| next[*n]) {
                match token {
                    Token::One(wanted) => after[n + 1] |= *wanted == c,
                    Token::Any => after[n + 1] |= c != '/',
                    Token::Star => after[n] |= c != '/',
                    Token::Stars => after[n] = true,
                }
            }
            next = after;
            self.skip_stars(&mut next);
        }
        next[self.tokens.len()]
    }

    /// Stars may stand for nothing.
    fn skip_stars(&self, next: &mut [bool]) {
        for (n, token) in self.tokens.iter().enumerate() {
            if next[n] && matches!(token, Token::Star | Token::Stars) {
                next[n + 1] = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_or_whole_paths() {
        for (pattern, path, expected) in [
            ("*.txt", "a/b.txt", true),
            ("*.txt", "b.txt/a", false),
            ("a/*", "a/b", true),
            ("a/*", "a/b/c", false),
            ("a/**", "a/b/c", true),
            ("**/c", "a/b/c", true),
            ("/b", "a/b", false),
            ("/b", "b", true),
            ("?", "é", true),
            ("a?c/d", "a/c/d", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("*", "anything/at/all", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("", "a", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(path), expected, "{pattern} {path}");
        }
        // A pattern that makes naive matchers slow.
        assert!(!Pattern::new(&"a*".repeat(30)).matches(&"b".repeat(10_000)));
    }

    #[test]
    fn includes_go_before_excludes() {
        let filter = |exclude: &[&str], include: &[&str]| {
            let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            Filter::new(&FilterArgs { exclude: texts(exclude), include: texts(include) })
        };
        assert!(filter(&[], &[]).takes("a"));
        assert!(!filter(&["*.tmp"], &[]).takes("x/a.tmp") && filter(&["*.tmp"], &[]).takes("a"));
        assert!(filter(&[], &["*.txt"]).takes("a.txt") && !filter(&[], &["*.txt"]).takes("a"));
        let both = filter(&["*"], &["*.txt"]);
        assert!(both.takes("a.txt") && !both.takes("a"));
    }
}
