//! Conditions: an operator, a key of the request, and the values that it is compared with.

use std::net::IpAddr;

use base64::{Engine, prelude::BASE64_STANDARD};

use super::{
    keys::{Keys, Lookup},
    template::{Reading, Template},
    time,
};

/// One comparison of a `Condition` block.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub(super) key: usize,
    pub(super) test: Test,
    /// Whether the operator is one with `Not`.
    pub(super) is_negated: bool,
    /// Whether it also holds for requests without the key (`…IfExists`).
    pub(super) if_exists: bool,
    pub(super) set: Set,
}

/// The way in which several values of a request are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    /// The key has one value.
    Single,
    /// `ForAllValues:`
    All,
    /// `ForAnyValue:`
    Any,
}

/// An operator, without its negation, with the values of the policy.
#[derive(Clone, Debug)]
pub(super) enum Test {
    /// The texts of `StringEquals` and `StringLike`.
    Text(Vec<Template>),
    /// Texts in lower case.
    IgnoreCase(Vec<Template>),
    Number(Order, Vec<f64>),
    /// Times in milliseconds since 1970.
    Date(Order, Vec<i64>),
    Bool(Vec<bool>),
    Binary(Vec<Vec<u8>>),
    Address(Vec<Network>),
    /// The six parts of each name.
    Arn(Vec<Vec<Template>>),
    /// Whether the key must be missing.
    Null(Vec<bool>),
}

/// How numbers and times are compared: the value of the request with that of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    fn holds<T: PartialOrd>(self, value: &T, own: &T) -> bool {
        match self {
            Self::Equal => value == own,
            Self::Less => value < own,
            Self::LessOrEqual => value <= own,
            Self::Greater => value > own,
            Self::GreaterOrEqual => value >= own,
        }
    }
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) address: IpAddr,
    /// Number of leading bits that count.
    pub(super) bits: u8,
}

impl Network {
    /// Parses an address, or a range in the form of CIDR.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Self { address, bits })
    }

    fn contains(self, address: IpAddr) -> bool {
        let same = |a: u128, b: u128, width: u8| {
            let shift = u32::from(width - self.bits);
            a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                same(u128::from(own.to_bits()), u128::from(other.to_bits()), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => same(own.to_bits(), other.to_bits(), 128),
            _ => false,
        }
    }

    /// Returns whether AWS counts a range as one that lets everyone in: it is wider than /8, or /32 for IPv6.
    pub(super) fn is_wide(self) -> bool {
        self.bits < if self.address.is_ipv4() { 8 } else { 32 }
    }
}

/// Returns the parts of the name of a resource or user.
fn parts(arn: &str) -> Vec<&str> {
    arn.splitn(6, ':').collect()
}

/// The error for an operator that does not exist, or for a value that it cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Operator,
    Value(String),
}

/// Separates an operator from its prefix and suffix.
fn parse_operator(text: &str) -> (Set, &str, bool) {
    let (set, name) = match text.split_once(':') {
        Some((set, name)) if set.eq_ignore_ascii_case("ForAllValues") => (Set::All, name),
        Some((set, name)) if set.eq_ignore_ascii_case("ForAnyValue") => (Set::Any, name),
        _ => (Set::Single, text),
    };
    let suffix = name
        .len()
        .checked_sub("IfExists".len())
        .filter(|at| name.get(*at..).is_some_and(|suffix| suffix.eq_ignore_ascii_case("IfExists")));
    suffix.map_or((set, name, false), |at| (set, &name[..at], true))
}

impl Condition {
    /// Reads a comparison.
    pub(super) fn new(
        operator: &str,
        key: &str,
        values: &[String],
        has_variables: bool,
        keys: &mut Keys,
    ) -> Result<Self, Fault> {
        let (set, name, if_exists) = parse_operator(operator);
        let name = name.to_ascii_lowercase();
        let (name, is_negated) = match name.as_str() {
            "stringnotequals" => ("stringequals", true),
            "stringnotequalsignorecase" => ("stringequalsignorecase", true),
            "stringnotlike" => ("stringlike", true),
            "numericnotequals" => ("numericequals", true),
            "datenotequals" => ("dateequals", true),
            "notipaddress" => ("ipaddress", true),
            "arnnotequals" => ("arnequals", true),
            "arnnotlike" => ("arnlike", true),
            name => (name, false),
        };
        let test = Test::new(name, values, has_variables, keys)?;
        if matches!(test, Test::Null(_)) && (if_exists || set != Set::Single) {
            return Err(Fault::Operator);
        }
        Ok(Self { key: keys.add(key), test, is_negated, if_exists, set })
    }

    /// Returns whether it holds for a request.
    pub(super) fn holds(&self, lookup: &Lookup<'_>) -> bool {
        let found = lookup.get(self.key);
        if let Test::Null(own) = &self.test {
            return own.contains(&found.is_none());
        }
        let fits = |value: &String| self.test.fits(value, lookup) != self.is_negated;
        match (self.set, found) {
            (Set::Single, None) => self.if_exists || self.is_negated,
            (Set::Single, Some(values)) if !self.is_negated => values.iter().any(fits),
            (Set::All, None) => true,
            (Set::Single | Set::All, Some(values)) => values.iter().all(fits),
            (Set::Any, None) => false,
            (Set::Any, Some(values)) => values.iter().any(fits),
        }
    }
}

fn each<T>(values: &[String], parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, Fault> {
    let parse = |value: &String| parse(value).ok_or_else(|| Fault::Value(value.clone()));
    values.iter().map(parse).collect()
}

fn number(text: &str) -> Option<f64> {
    // The parser knows words, too.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    text.parse().ok().filter(|number: &f64| is_number && number.is_finite())
}

fn truth(text: &str) -> Option<bool> {
    match text {
        text if text.eq_ignore_ascii_case("true") => Some(true),
        text if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

fn order(name: &str) -> Option<Order> {
    Some(match name {
        "equals" => Order::Equal,
        "lessthan" => Order::Less,
        "lessthanequals" => Order::LessOrEqual,
        "greaterthan" => Order::Greater,
        "greaterthanequals" => Order::GreaterOrEqual,
        _ => return None,
    })
}

impl Test {
    fn new(
        name: &str,
        values: &[String],
        has_variables: bool,
        keys: &mut Keys,
    ) -> Result<Self, Fault> {
        let mut templates = |has_wildcards, is_lower: bool| {
            let reading = Reading { has_wildcards, has_variables };
            let lower = |text: &String| if is_lower { text.to_lowercase() } else { text.clone() };
            values.iter().map(|text| Template::new(&lower(text), reading, keys)).collect()
        };
        if let Some(order) = name.strip_prefix("numeric").and_then(order) {
            return Ok(Self::Number(order, each(values, number)?));
        }
        if let Some(order) = name.strip_prefix("date").and_then(order) {
            return Ok(Self::Date(order, each(values, time::parse)?));
        }
        Ok(match name {
            "stringequals" => Self::Text(templates(false, false)),
            "stringequalsignorecase" => Self::IgnoreCase(templates(false, true)),
            "stringlike" => Self::Text(templates(true, false)),
            "bool" => Self::Bool(each(values, truth)?),
            "null" => Self::Null(each(values, truth)?),
            "binaryequals" => Self::Binary(each(values, |text| BASE64_STANDARD.decode(text).ok())?),
            "ipaddress" => Self::Address(each(values, Network::parse)?),
            "arnequals" | "arnlike" => {
                let reading = Reading { has_wildcards: true, has_variables };
                let mut arn = |text: &String| -> Vec<_> {
                    parts(text).iter().map(|part| Template::new(part, reading, keys)).collect()
                };
                Self::Arn(values.iter().map(&mut arn).collect())
            }
            _ => return Err(Fault::Operator),
        })
    }

    /// Returns whether a value of the request fits any value of the policy.
    fn fits(&self, value: &str, lookup: &Lookup<'_>) -> bool {
        match self {
            Self::Text(own) => own.iter().any(|own| own.matches(value, lookup)),
            Self::IgnoreCase(own) => {
                let value = value.to_lowercase();
                own.iter().any(|own| match own.text(lookup) {
                    Some(text) => text.to_lowercase() == value,
                    None => own.is_fixed() && own.matches(&value, lookup),
                })
            }
            Self::Number(order, own) => {
                number(value).is_some_and(|value| own.iter().any(|own| order.holds(&value, own)))
            }
            Self::Date(order, own) => time::parse(value)
                .is_some_and(|value| own.iter().any(|own| order.holds(&value, own))),
            Self::Bool(own) => truth(value).is_some_and(|value| own.contains(&value)),
            Self::Binary(own) => own.iter().any(|own| BASE64_STANDARD.encode(own) == value),
            Self::Address(own) => {
                let address: Option<IpAddr> = value.parse().ok();
                address.is_some_and(|address| own.iter().any(|own| own.contains(address)))
            }
            Self::Arn(own) => {
                let value = parts(value);
                let fits = |(own, value): (&Template, &&str)| own.matches(value, lookup);
                own.iter().any(|own| own.len() == value.len() && own.iter().zip(&value).all(fits))
            }
            Self::Null(_) => false,
        }
    }
}
