//! Texts with wildcards and policy variables (`${aws:username}`).
//!
//! A variable stands for the value of a key of the request. If the request has no such value, and the variable
//! no default (`${key, 'default'}`), the text matches nothing. `${*}`, `${?}` and `${$}` are these characters
//! themselves. Only policies of the version 2012-10-17 have variables.

use super::{
    keys::{Keys, Lookup},
    pattern::{Pattern, Token, tokens},
};

/// A text with wildcards, variables, or both.
#[derive(Clone, Debug)]
pub(super) enum Template {
    Fixed(Pattern),
    Variable(Vec<Piece>),
}

/// A piece of a text with variables.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    Tokens(Vec<Token>),
    /// The value of a key, or else a default.
    Value {
        key: usize,
        default: Option<String>,
    },
}

/// The way in which a text is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// Whether `*` and `?` are wildcards.
    pub(super) has_wildcards: bool,
    /// Whether the policy has variables.
    pub(super) has_variables: bool,
}

fn push(pieces: &mut Vec<Piece>, more: impl IntoIterator<Item = Token>) {
    if let Some(Piece::Tokens(last)) = pieces.last_mut() {
        last.extend(more);
    } else {
        pieces.push(Piece::Tokens(more.into_iter().collect()));
    }
}

impl Template {
    /// Reads a text. The keys of its variables are added to `keys`.
    pub(super) fn new(text: &str, reading: Reading, keys: &mut Keys) -> Self {
        let plain = |pieces: &mut Vec<Piece>, text: &str| {
            if reading.has_wildcards {
                push(pieces, tokens(text));
            } else {
                push(pieces, text.chars().map(Token::Char));
            }
        };
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some(at) = rest.find("${").filter(|_| reading.has_variables) {
            let Some(length) = rest[at..].find('}') else { break };
            plain(&mut pieces, &rest[..at]);
            let inner = &rest[at + 2..at + length];
            match inner {
                "*" | "?" | "$" => push(&mut pieces, inner.chars().map(Token::Char)),
                inner => {
                    let (key, default) = match inner.split_once(',') {
                        Some((key, default)) => {
                            (key, Some(default.trim().trim_matches('\'').to_owned()))
                        }
                        None => (inner, None),
                    };
                    pieces.push(Piece::Value { key: keys.add(key.trim()), default });
                }
            }
            rest = &rest[at + length + 1..];
        }
        plain(&mut pieces, rest);
        match pieces.as_slice() {
            [Piece::Tokens(tokens)] => Self::Fixed(Pattern::new(tokens)),
            _ => Self::Variable(pieces),
        }
    }

    /// Returns whether the whole text fits.
    pub(super) fn matches(&self, text: &str, lookup: &Lookup<'_>) -> bool {
        match self {
            Self::Fixed(pattern) => pattern.matches(text),
            Self::Variable(pieces) => {
                expand(pieces, lookup).is_some_and(|tokens| Pattern::new(&tokens).matches(text))
            }
        }
    }

    /// Returns the text without wildcards; `None` if a variable has no value.
    pub(super) fn text(&self, lookup: &Lookup<'_>) -> Option<String> {
        let Self::Variable(pieces) = self else { return None };
        let char_of = |token: Token| match token {
            Token::Char(c) => c,
            Token::One => '?',
            Token::Many => '*',
        };
        Some(expand(pieces, lookup)?.into_iter().map(char_of).collect())
    }

    pub(super) fn is_fixed(&self) -> bool {
        matches!(self, Self::Fixed(_))
    }

    /// Returns whether it is one text, without wildcards and variables.
    pub(super) fn is_one_text(&self) -> bool {
        matches!(self, Self::Fixed(pattern) if pattern.is_one_text())
    }
}

fn expand(pieces: &[Piece], lookup: &Lookup<'_>) -> Option<Vec<Token>> {
    let mut out = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Tokens(tokens) => out.extend_from_slice(tokens),
            Piece::Value { key, default } => {
                let value = match lookup.get(*key) {
                    Some([one]) => one,
                    _ => default.as_ref()?,
                };
                // What a client sends is no wildcard.
                out.extend(value.chars().map(Token::Char));
            }
        }
    }
    Some(out)
}
