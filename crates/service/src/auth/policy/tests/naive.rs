//! A second implementation of decisions, which reads the JSON of the policy for each, and shares nothing with
//! the first one.

use std::net::IpAddr;

use fula_core::OwnerId;
use serde_json::Value;

use super::{Context, Decision};

fn list(value: &Value) -> Vec<String> {
    match value {
        Value::Array(all) => all.iter().flat_map(list).collect(),
        Value::String(text) => vec![text.clone()],
        other => vec![other.to_string()],
    }
}

/// A character of a pattern: itself, `?`, or `*`.
#[derive(Clone, Copy, PartialEq)]
enum Symbol {
    Just(char),
    One,
    Many,
}

fn matches(pattern: &[Symbol], text: &[char]) -> bool {
    match (pattern, text) {
        ([], text) => text.is_empty(),
        ([Symbol::Many, rest @ ..], text) => {
            (0..=text.len()).any(|skipped| matches(rest, &text[skipped..]))
        }
        ([Symbol::One, rest @ ..], [_, text @ ..]) => matches(rest, text),
        ([Symbol::Just(own), rest @ ..], [c, text @ ..]) => own == c && matches(rest, text),
        _ => false,
    }
}

/// Replaces variables; `None` if one has no value.
fn symbols(text: &str, has_variables: bool, context: &Context) -> Option<Vec<Symbol>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if has_variables && rest.starts_with("${") && rest.contains('}') {
            let end = rest.find('}').unwrap();
            let inner = &rest[2..end];
            rest = &rest[end + 1..];
            let value = match inner {
                "*" | "?" | "$" => inner.to_owned(),
                inner => {
                    let mut halves = inner.splitn(2, ',');
                    let key = halves.next().unwrap().trim().to_lowercase();
                    let default = halves.next().map(|text| text.trim().replace('\'', ""));
                    match context.get(&key) {
                        Some(values) if values.len() == 1 => values[0].clone(),
                        _ => default?,
                    }
                }
            };
            out.extend(value.chars().map(Symbol::Just));
            continue;
        }
        rest = &rest[c.len_utf8()..];
        out.push(match c {
            '*' => Symbol::Many,
            '?' => Symbol::One,
            c => Symbol::Just(c),
        });
    }
    Some(out)
}

fn like(pattern: &str, text: &str, has_variables: bool, context: &Context) -> bool {
    let pattern = symbols(pattern, has_variables, context);
    pattern.is_some_and(|pattern| matches(&pattern, &text.chars().collect::<Vec<_>>()))
}

fn equals(own: &str, text: &str, has_variables: bool, context: &Context, lower: bool) -> bool {
    let plain = |symbol: Symbol| match symbol {
        Symbol::Just(c) => c,
        Symbol::One => '?',
        Symbol::Many => '*',
    };
    let own = symbols(own, has_variables, context);
    let own: Option<String> = own.map(|own| own.into_iter().map(plain).collect());
    own.is_some_and(
        |own| if lower { own.to_lowercase() == text.to_lowercase() } else { own == text },
    )
}

fn includes(principal: &Value, who: Option<OwnerId>) -> bool {
    if principal == "*" {
        return true;
    }
    for (kind, named) in principal.as_object().unwrap() {
        for text in list(named) {
            let is_everyone = kind == "AWS" && text == "*";
            let is_who = who.is_some_and(|who| {
                let id = who.to_string();
                let names = [id.clone(), format!("arn:aws:iam::{id}:root")];
                (kind == "AWS" || kind == "CanonicalUser") && names.contains(&text)
            });
            if is_everyone || is_who {
                return true;
            }
        }
    }
    false
}

fn bits(address: IpAddr) -> Vec<bool> {
    let octets = match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    octets.iter().flat_map(|byte| (0..8).rev().map(move |n| byte >> n & 1 == 1)).collect()
}

fn is_within(address: &str, network: &str) -> bool {
    let (base, length) = network.split_once('/').unwrap_or((network, ""));
    let (address, base) = (bits(address.parse().unwrap()), bits(base.parse().unwrap()));
    let length = length.parse().unwrap_or(base.len());
    address.len() == base.len() && address[..length] == base[..length]
}

/// Returns the seconds since 1970 of the few times that the tests have.
fn seconds(text: &str) -> i64 {
    match text {
        "2025-01-01T00:00:00Z" => 1_735_689_600,
        "2026-01-01" => 1_767_225_600,
        "2026-11-30T00:00:00Z" | "1795996800" => 1_795_996_800,
        other => panic!("{other}"),
    }
}

fn compare<T: PartialOrd>(name: &str, value: T, own: T) -> bool {
    match name {
        "Equals" => value == own,
        "LessThan" => value < own,
        "LessThanEquals" => value <= own,
        "GreaterThan" => value > own,
        "GreaterThanEquals" => value >= own,
        other => panic!("{other}"),
    }
}

/// Compares one value of the request with one of the policy, by an operator without `Not`.
fn fits(name: &str, value: &str, own: &str, has_variables: bool, context: &Context) -> bool {
    if let Some(name) = name.strip_prefix("Numeric") {
        return value.parse::<f64>().is_ok_and(|value| compare(name, value, own.parse().unwrap()));
    }
    if let Some(name) = name.strip_prefix("Date") {
        return compare(name, seconds(value), seconds(own));
    }
    match name {
        "StringEquals" => equals(own, value, has_variables, context, false),
        "StringEqualsIgnoreCase" => equals(own, value, has_variables, context, true),
        "StringLike" => like(own, value, has_variables, context),
        "Bool" => value == own,
        "IpAddress" => is_within(value, own),
        "ArnEquals" | "ArnLike" => {
            let (own, value): (Vec<_>, Vec<_>) =
                (own.splitn(6, ':').collect(), value.splitn(6, ':').collect());
            own.len() == value.len()
                && (0..own.len()).all(|part| like(own[part], value[part], has_variables, context))
        }
        other => panic!("{other}"),
    }
}

fn holds(
    operator: &str,
    key: &str,
    own: &[String],
    has_variables: bool,
    context: &Context,
) -> bool {
    let key = match key.split_once('/') {
        Some((kind, tag)) => format!("{}/{tag}", kind.to_lowercase()),
        None => key.to_lowercase(),
    };
    let values = context.get(&key).filter(|values| !values.is_empty());
    if operator == "Null" {
        return own.contains(&values.is_none().to_string());
    }
    let (set, name) = operator.split_once(':').unwrap_or(("", operator));
    let if_exists = name.ends_with("IfExists");
    let name = name.trim_end_matches("IfExists");
    let is_negated = name.contains("Not");
    let name = name.replace("Not", "");
    let Some(values) = values else {
        return match set {
            "ForAllValues" => true,
            "ForAnyValue" => false,
            _ => if_exists || is_negated,
        };
    };
    let one = |value: &String| {
        let any = own.iter().any(|own| fits(&name, value, own, has_variables, context));
        any != is_negated
    };
    match set {
        "ForAllValues" => values.iter().all(one),
        "ForAnyValue" => values.iter().any(one),
        _ if is_negated => values.iter().all(one),
        _ => values.iter().any(one),
    }
}

/// Returns the value of one of two fields, and whether it is the negated one.
fn field<'a>(statement: &'a Value, name: &str) -> (&'a Value, bool) {
    match statement.get(name) {
        Some(value) => (value, false),
        None => (&statement[format!("Not{name}")], true),
    }
}

/// Decides about a request by a policy.
pub(super) fn decide(
    policy: &Value,
    who: Option<OwnerId>,
    action: &str,
    resource: &str,
    context: &Context,
) -> Decision {
    let has_variables = policy["Version"] == "2012-10-17";
    let arn = format!("arn:aws:s3:::{resource}");
    let applies = |statement: &&Value| {
        let (principal, negated) = field(statement, "Principal");
        if includes(principal, who) == negated {
            return false;
        }
        let (actions, negated) = field(statement, "Action");
        let (lower, none) = (action.to_lowercase(), Context::new());
        if list(actions).iter().any(|own| like(&own.to_lowercase(), &lower, false, &none))
            == negated
        {
            return false;
        }
        let (resources, negated) = field(statement, "Resource");
        if list(resources).iter().any(|own| like(own, &arn, has_variables, context)) == negated {
            return false;
        }
        let operators = statement["Condition"].as_object().unwrap();
        operators.iter().all(|(operator, keys)| {
            let keys = keys.as_object().unwrap();
            keys.iter().all(|(key, own)| holds(operator, key, &list(own), has_variables, context))
        })
    };
    let statements = policy["Statement"].as_array().unwrap();
    let effects: Vec<&Value> =
        statements.iter().filter(applies).map(|statement| &statement["Effect"]).collect();
    if effects.iter().any(|effect| *effect == "Deny") {
        Decision::Denied
    } else if effects.is_empty() {
        Decision::Unsaid
    } else {
        Decision::Allowed
    }
}
