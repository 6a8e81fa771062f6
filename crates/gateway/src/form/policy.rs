//! The policy of a form: which fields it may have, until when.

use s3s::{S3Error, S3Result, dto, s3_error};
use serde_json::Value;

use super::Form;
use crate::xml::printable;

/// A policy that was signed.
pub(crate) struct Policy {
    /// Time at which it ends, in seconds since 1970.
    pub(crate) expires: u64,
    conditions: Vec<Condition>,
}

struct Condition {
    kind: Kind,
    /// The condition as it was written, for errors.
    text: String,
}

enum Kind {
    Equals(String, String),
    StartsWith(String, String),
    Length(u64, u64),
}

fn invalid(text: &str) -> S3Error {
    s3_error!(InvalidPolicyDocument, "Invalid Policy: {text}")
}

fn denied(text: &str) -> S3Error {
    s3_error!(AccessDenied, "Invalid according to Policy: {text}")
}

/// Returns the name of a field without its sign, in lower case.
fn field_name(text: &str) -> String {
    text.strip_prefix('$').unwrap_or(text).to_ascii_lowercase()
}

/// Returns whether the policy need not name a field.
fn is_exempt(name: &str) -> bool {
    matches!(name, "policy" | "x-amz-signature" | "file") || name.starts_with("x-ignore-")
}

impl Policy {
    /// Parses a policy.
    ///
    /// # Errors
    /// 400 `InvalidPolicyDocument` with the text of AWS.
    pub(crate) fn parse(json: &[u8]) -> S3Result<Self> {
        let document: Value = serde_json::from_slice(json).map_err(|_| invalid("Invalid JSON."))?;
        let expiration =
            document.get("expiration").ok_or_else(|| invalid("Policy missing expiration."))?;
        let wrong = || invalid("Invalid 'expiration' value.");
        let text = expiration.as_str().ok_or_else(wrong)?;
        let time =
            dto::Timestamp::parse(dto::TimestampFormat::DateTime, text).map_err(|_| wrong())?;
        let time = time::OffsetDateTime::from(time).unix_timestamp();
        let conditions =
            document.get("conditions").ok_or_else(|| invalid("Policy missing conditions."))?;
        let conditions =
            conditions.as_array().ok_or_else(|| invalid("Invalid 'conditions' value."))?;
        let conditions = conditions.iter().map(condition).collect::<S3Result<_>>()?;
        Ok(Self { expires: u64::try_from(time).unwrap_or(0), conditions })
    }

    /// Returns the smallest and largest length of the file, in bytes.
    pub(super) fn length(&self) -> (u64, u64) {
        let mut range = (0, u64::MAX);
        for condition in &self.conditions {
            if let Kind::Length(min, max) = condition.kind {
                range = (range.0.max(min), range.1.min(max));
            }
        }
        range
    }

    /// Holds a form to the policy.
    ///
    /// # Errors
    /// 403 `AccessDenied`: the policy has ended, a condition does not hold, or the form has a field that no
    /// condition is about.
    pub(super) fn check(&self, form: &Form, bucket: &str, now: u64) -> S3Result<()> {
        if self.expires <= now {
            return Err(denied("Policy expired."));
        }
        let value = |name: &str| match name {
            "bucket" => Some(bucket),
            name => form.field(name),
        };
        for condition in &self.conditions {
            let holds = match &condition.kind {
                Kind::Equals(name, wanted) => value(name) == Some(wanted.as_str()),
                Kind::StartsWith(name, start) if name == "content-type" => {
                    let types = value(name);
                    types.is_some_and(|types| {
                        types.split(',').all(|kind| kind.trim().starts_with(start))
                    })
                }
                Kind::StartsWith(name, start) => value(name).is_some_and(|v| v.starts_with(start)),
                // This is checked while the file arrives.
                Kind::Length(..) => true,
            };
            if !holds {
                let text = printable(&condition.text);
                return Err(denied(&format!("Policy Condition failed: {text}")));
            }
        }
        let is_named = |name: &str| {
            self.conditions.iter().any(|condition| match &condition.kind {
                Kind::Equals(named, _) | Kind::StartsWith(named, _) => named == name,
                Kind::Length(..) => false,
            })
        };
        let fields = form.fields().map(|(name, _)| name).chain(["bucket"]);
        let extra: Vec<_> = fields.filter(|name| !is_exempt(name) && !is_named(name)).collect();
        if extra.is_empty() {
            return Ok(());
        }
        Err(denied(&format!("Extra input fields: {}", printable(&extra.join(",")))))
    }
}

fn condition(value: &Value) -> S3Result<Condition> {
    let text = value.to_string();
    if let Some(object) = value.as_object() {
        let mut pairs = object.iter();
        return match (pairs.next(), pairs.next()) {
            (Some((name, Value::String(wanted))), None) => {
                let kind = Kind::Equals(name.to_ascii_lowercase(), wanted.clone());
                let text = format!("[\"eq\", \"${name}\", \"{wanted}\"]");
                Ok(Condition { kind, text })
            }
            _ => Err(invalid(
                "Invalid Simple-Condition: Simple-Conditions must have exactly one property specified.",
            )),
        };
    }
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let [operator, first, second] = items else {
        return Err(invalid("Invalid Condition: wrong number of arguments."));
    };
    let operator = operator.as_str().unwrap_or_default().to_ascii_lowercase();
    let kind = match (operator.as_str(), first, second) {
        ("eq", Value::String(name), Value::String(wanted)) => {
            Kind::Equals(field_name(name), wanted.clone())
        }
        ("starts-with", Value::String(name), Value::String(start)) => {
            Kind::StartsWith(field_name(name), start.clone())
        }
        ("content-length-range", first, second) => {
            let number = |value: &Value| {
                value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()))
            };
            match (number(first), number(second)) {
                (Some(min), Some(max)) => Kind::Length(min, max),
                _ => return Err(invalid("Invalid content-length-range.")),
            }
        }
        _ => return Err(invalid("Invalid Condition: unknown operation or arguments.")),
    };
    Ok(Condition { kind, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Policy, String> {
        Policy::parse(json.as_bytes())
            .map_err(|error| error.message().unwrap_or_default().to_owned())
    }

    const EXPIRES: &str = r#""expiration": "2030-01-01T00:00:00.000Z""#;

    #[test]
    fn a_policy_that_is_wrong_is_refused() {
        for (json, expected) in [
            ("{", "Invalid JSON."),
            ("{}", "Policy missing expiration."),
            (r#"{"EXPIRATION": "2030-01-01T00:00:00Z"}"#, "Policy missing expiration."),
            (r#"{"expiration": "soon"}"#, "Invalid 'expiration' value."),
            (&format!("{{{EXPIRES}}}"), "Policy missing conditions."),
            (&format!("{{{EXPIRES}, \"conditions\": [{{}}]}}"), "Invalid Simple-Condition"),
            (
                &format!("{{{EXPIRES}, \"conditions\": [[\"content-length-range\", 0]]}}"),
                "Invalid Condition",
            ),
            (
                &format!("{{{EXPIRES}, \"conditions\": [[\"content-length-range\", -1, 0]]}}"),
                "Invalid content-length-range.",
            ),
            (
                &format!("{{{EXPIRES}, \"conditions\": [[\"ends-with\", \"$key\", \"a\"]]}}"),
                "Invalid Condition",
            ),
        ] {
            let error = parse(json).err().unwrap_or_default();
            assert!(error.starts_with(&format!("Invalid Policy: {expected}")), "{json}: {error}");
        }
    }

    #[test]
    fn a_form_is_held_to_its_policy() {
        let policy = parse(&format!(
            r#"{{{EXPIRES}, "conditions": [{{"bucket": "b"}}, ["starts-with", "$key", "in/"],
                ["EQ", "$Acl", "private"], ["starts-with", "$Content-Type", "image/"],
                ["content-length-range", 1, 10], ["content-length-range", 2, "20"]]}}"#
        ))
        .unwrap();
        assert_eq!(policy.length(), (2, 10));
        let code = |bucket: &str, fields: &[(&str, &str)], now| {
            let mut all = vec![("key", "in/k"), ("acl", "private"), ("content-type", "image/png")];
            for (name, value) in fields {
                all.retain(|(found, _)| found != name);
                all.push((*name, *value));
            }
            let form = Form::of(&all);
            match policy.check(&form, bucket, now) {
                Ok(()) => "ok".to_owned(),
                Err(error) => error.message().unwrap_or_default().to_owned(),
            }
        };
        assert_eq!(code("b", &[], 0), "ok");
        assert_eq!(code("b", &[("x-ignore-a", "1"), ("policy", "p")], 0), "ok");
        assert_eq!(code("b", &[("content-type", "image/a, image/b")], 0), "ok");
        for (bucket, fields, now, expected) in [
            ("b", [].as_slice(), u64::MAX, "Policy expired."),
            ("c", &[], 0, "Policy Condition failed: [\"eq\", \"$bucket\", \"b\"]"),
            (
                "b",
                &[("key", "out")],
                0,
                "Policy Condition failed: [\"starts-with\",\"$key\",\"in/\"]",
            ),
            ("b", &[("acl", "public-read")], 0, "Policy Condition failed: "),
            ("b", &[("content-type", "image/a,text/b")], 0, "Policy Condition failed: "),
            ("b", &[("x-amz-meta-a", "1")], 0, "Extra input fields: x-amz-meta-a"),
        ] {
            let found = code(bucket, fields, now);
            assert!(
                found.starts_with(&format!("Invalid according to Policy: {expected}")),
                "{fields:?}: {found}"
            );
        }
    }
}
