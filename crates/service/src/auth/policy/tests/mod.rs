//! The table of policies, and their decisions against a second, naive implementation.

mod naive;
mod table;

use std::collections::BTreeMap;

use fula_core::{BucketName, OwnerId};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

const BUCKET: &str = "bucket";

/// Values of condition keys, by their names in lower case.
type Context = BTreeMap<String, Vec<String>>;

fn context(pairs: &[(&str, &[&str])]) -> Context {
    let owned = |(key, values): &(&str, &[&str])| {
        ((*key).to_owned(), values.iter().map(|value| (*value).to_owned()).collect())
    };
    pairs.iter().map(owned).collect()
}

fn alice() -> OwnerId {
    OwnerId::of_user("key:alice")
}

fn bob() -> OwnerId {
    OwnerId::of_user("0x00112233445566778899aabbccddeeff00112233")
}

fn decide(
    policy: &Policy,
    who: Option<OwnerId>,
    action: &str,
    resource: &str,
    context: &Context,
) -> Decision {
    let values = |key: &str| context.get(key).cloned();
    let action = ActionId::find(action).unwrap();
    policy.decide(&Asked { who, as_named: true, action, resource }, &values)
}

fn one_of(texts: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(texts).prop_map(ToOwned::to_owned)
}

const ACTIONS: &[&str] = &[
    "s3:GetObject",
    "s3:PutObject",
    "s3:ListBucket",
    "s3:Get*",
    "s3:*",
    "s3:?etObject",
    "s3:PUTOBJECT",
];

const RESOURCES: &[&str] = &[
    "arn:aws:s3:::bucket",
    "arn:aws:s3:::bucket/*",
    "arn:aws:s3:::bucket/in/*",
    "arn:aws:s3:::bucket/?/k",
    "arn:aws:s3:::*",
    "arn:aws:s3:::bucket/${aws:username}/*",
    "arn:aws:s3:::bucket/${aws:referer, 'in'}/k",
    "arn:aws:s3:::bucket/${*}",
    "arn:aws:s3:::other/*",
    "*",
];

const KEYS: &[&str] = &["aws:username", "AWS:Referer", "s3:ExistingObjectTag/Team", "s3:max-keys"];

const TEXTS: &[&str] = &["in", "in*", "?n", "5", "10", "a/${aws:username}", "${s3:max-keys}", ""];

const NUMBERS: &[&str] = &["0", "5", "10", "-3"];

const DATES: &[&str] = &["2026-01-01", "2026-11-30T00:00:00Z", "1795996800"];

const NETWORKS: &[&str] =
    &["192.0.2.0/24", "192.0.2.7", "10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0"];

const ARNS: &[&str] = &["arn:aws:iam::*:root", "arn:aws:iam::a:*", "arn:*:iam::?:root", "*"];

/// Returns an operator with its values, for one of the keys.
fn comparison() -> impl Strategy<Value = (String, String, Vec<String>)> {
    let texts = prop::sample::select(
        [
            "StringEquals",
            "StringNotEquals",
            "StringLike",
            "StringNotLike",
            "StringEqualsIgnoreCase",
            "StringNotEqualsIgnoreCase",
        ]
        .as_slice(),
    );
    let numbers = prop::sample::select(
        [
            "NumericEquals",
            "NumericNotEquals",
            "NumericLessThan",
            "NumericLessThanEquals",
            "NumericGreaterThan",
            "NumericGreaterThanEquals",
        ]
        .as_slice(),
    );
    let dates = prop::sample::select(
        ["DateEquals", "DateNotEquals", "DateLessThan", "DateGreaterThanEquals"].as_slice(),
    );
    let values = |of: &'static [&'static str]| prop::collection::vec(one_of(of), 0..3);
    let base = prop_oneof![
        4 => (texts, one_of(KEYS), values(TEXTS)),
        2 => (numbers, one_of(KEYS), values(NUMBERS)),
        1 => (dates, one_of(&["aws:CurrentTime"]), values(DATES)),
        1 => (prop::sample::select(["IpAddress", "NotIpAddress"].as_slice()), one_of(&["aws:SourceIp"]), values(NETWORKS)),
        1 => (prop::sample::select(["ArnEquals", "ArnLike", "ArnNotLike"].as_slice()), one_of(&["aws:PrincipalArn"]), values(ARNS)),
        1 => (Just("Bool"), one_of(&["aws:SecureTransport"]), values(&["true", "false"])),
    ];
    let set = prop::sample::select(["", "", "ForAllValues:", "ForAnyValue:"].as_slice());
    let suffix = prop::sample::select(["", "", "IfExists"].as_slice());
    let compared = (base, set, suffix).prop_map(|((name, key, values), set, suffix)| {
        (format!("{set}{name}{suffix}"), key, values)
    });
    let null = (one_of(KEYS), values(&["true", "false"]))
        .prop_map(|(key, values)| ("Null".to_owned(), key, values));
    prop_oneof![8 => compared, 1 => null]
}

fn principal() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!("*")),
        Just(json!({"AWS": ["*"]})),
        Just(json!({"AWS": alice().to_string()})),
        Just(json!({"CanonicalUser": bob().to_string()})),
        Just(
            json!({"AWS": [format!("arn:aws:iam::{}:root", alice()), "arn:aws:iam:::user/key:carol"]})
        ),
        Just(json!({"Service": "logging.s3.amazonaws.com"})),
    ]
}

fn statement() -> impl Strategy<Value = Value> {
    let list = |of: &'static [&'static str]| prop::collection::vec(one_of(of), 1..3);
    (
        any::<bool>(),
        (principal(), prop::bool::weighted(0.2)),
        (list(ACTIONS), prop::bool::weighted(0.2)),
        (list(RESOURCES), prop::bool::weighted(0.2)),
        prop::collection::vec(comparison(), 0..3),
    )
        .prop_map(|(allows, principal, action, resource, comparisons)| {
            let mut fields = Map::new();
            let mut set = |name: &str, value: Value, is_negated: bool| {
                let name = if is_negated { format!("Not{name}") } else { name.to_owned() };
                fields.insert(name, value);
            };
            set("Effect", json!(if allows { "Allow" } else { "Deny" }), false);
            set("Principal", principal.0, principal.1);
            set("Action", json!(action.0), action.1);
            set("Resource", json!(resource.0), resource.1);
            let mut condition = Map::new();
            for (operator, key, values) in comparisons {
                let keys = condition.entry(operator).or_insert_with(|| json!({}));
                keys[&key] = json!(values);
            }
            set("Condition", Value::Object(condition), false);
            Value::Object(fields)
        })
}

fn request_context() -> impl Strategy<Value = Context> {
    let values =
        |of: &'static [&'static str]| prop::option::of(prop::collection::vec(one_of(of), 0..3));
    let texts = || values(&["in", "IN", "inn", "5", "a/in", "x*", ""]);
    (
        (texts(), texts(), texts(), values(&["5", "10", "7.5", "x"])),
        values(&["2026-11-30T00:00:00Z", "2025-01-01T00:00:00Z"]),
        values(&["192.0.2.7", "10.1.2.3", "2001:db8::1", "::ffff:192.0.2.9"]),
        values(&["arn:aws:iam::a:root", "arn:aws:iam::b:user/u"]),
        values(&["true", "false"]),
    )
        .prop_map(|((username, referer, tag, most), time, address, arn, secure)| {
            let pairs = [
                ("aws:username", username),
                ("aws:referer", referer),
                ("s3:existingobjecttag/Team", tag),
                ("s3:max-keys", most),
                ("aws:currenttime", time),
                ("aws:sourceip", address),
                ("aws:principalarn", arn),
                ("aws:securetransport", secure),
            ];
            let found =
                |(key, values): (&str, Option<Vec<String>>)| Some((key.to_owned(), values?));
            pairs.into_iter().filter_map(found).collect()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn a_decision_is_that_of_the_naive_implementation(
        statements in prop::collection::vec(statement(), 0..4),
        version in prop::sample::select(["2012-10-17", "2008-10-17"].as_slice()),
        who in prop_oneof![Just(None), Just(Some(alice())), Just(Some(bob()))],
        action in one_of(&["s3:GetObject", "s3:PutObject", "s3:ListBucket", "s3:GetObjectAcl"]),
        key in one_of(&["", "k", "in/k", "in/deep/k", "a/k", "*", "in"]),
        context in request_context(),
    ) {
        let document = json!({"Version": version, "Statement": statements});
        let policy = Policy::parse(&document.to_string()).unwrap();
        let resource = if key.is_empty() { BUCKET.to_owned() } else { format!("{BUCKET}/{key}") };
        let decided = decide(&policy, who, &action, &resource, &context);
        let expected = naive::decide(&document, who, &action, &resource, &context);
        prop_assert_eq!(decided, expected, "{}", document);
    }

    #[test]
    fn no_text_breaks_the_parser(text in "\\PC{0,60}") {
        drop(Policy::parse(&text));
        let name = BucketName::parse(BUCKET).unwrap();
        let policy = json!({"Statement": {"Effect": "Allow", "Principal": {"AWS": text}, "Action": text,
            "Resource": text, "Condition": {text.as_str(): {text.as_str(): text}}}});
        drop(Policy::check(&policy.to_string(), &name));
    }
}
