//! What policies mean, case by case, and which are refused.

use super::*;

fn policy(statement: Value) -> Policy {
    let text = json!({"Version": "2012-10-17", "Statement": statement}).to_string();
    Policy::parse(&text).unwrap()
}

fn allow(action: Value, resource: Value, condition: Value) -> Value {
    json!({"Effect": "Allow", "Principal": "*", "Action": action, "Resource": resource,
           "Condition": condition})
}

/// Whether anyone may get `in/k` under a condition, for a request with these values.
fn gets(condition: Value, values: &[(&str, &[&str])]) -> bool {
    let policy = policy(allow(json!("s3:GetObject"), json!("arn:aws:s3:::bucket/*"), condition));
    decide(&policy, None, "s3:GetObject", "bucket/in/k", &context(values)) == Decision::Allowed
}

#[test]
fn a_deny_wins() {
    let both = policy(json!([
        {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "*"},
        {"Effect": "Deny", "NotPrincipal": {"AWS": alice().to_string()}, "NotAction": "s3:Get*",
         "NotResource": "arn:aws:s3:::bucket/open/*"},
    ]));
    let none = Context::new();
    for (who, action, resource, expected) in [
        (Some(alice()), "s3:PutObject", "bucket/k", Decision::Allowed),
        (Some(bob()), "s3:PutObject", "bucket/k", Decision::Denied),
        (None, "s3:PutObject", "bucket/k", Decision::Denied),
        (None, "s3:GetObject", "bucket/k", Decision::Allowed),
        (None, "s3:PutObject", "bucket/open/k", Decision::Allowed),
        (None, "s3:ListBucket", "bucket", Decision::Denied),
    ] {
        assert_eq!(
            decide(&both, who, action, resource, &none),
            expected,
            "{who:?} {action} {resource}"
        );
    }
}

#[test]
fn a_credential_with_scopes_is_not_named() {
    let named = policy(json!([
        {"Effect": "Allow", "Principal": {"AWS": alice().to_string()}, "Action": "s3:GetObject", "Resource": "*"},
        {"Effect": "Deny", "Principal": {"AWS": alice().to_string()}, "Action": "s3:PutObject", "Resource": "*"},
    ]));
    let ask = |as_named, action| {
        let action = ActionId::find(action).unwrap();
        let asked = Asked { who: Some(alice()), as_named, action, resource: "bucket/k" };
        named.decide(&asked, &|_: &str| None)
    };
    assert_eq!(ask(true, "s3:GetObject"), Decision::Allowed);
    assert_eq!(ask(false, "s3:GetObject"), Decision::Unsaid);
    assert_eq!(ask(false, "s3:PutObject"), Decision::Denied);
}

#[test]
fn variables_stand_for_values_of_the_request() {
    let home = policy(allow(
        json!("s3:GetObject"),
        json!("arn:aws:s3:::bucket/home/${aws:username}/*"),
        json!({}),
    ));
    let ask = |who: &[(&str, &[&str])], resource| {
        decide(&home, None, "s3:GetObject", resource, &context(who)) == Decision::Allowed
    };
    let alice: &[(&str, &[&str])] = &[("aws:username", &["alice"])];
    assert!(ask(alice, "bucket/home/alice/k"));
    assert!(!ask(alice, "bucket/home/bob/k"));
    assert!(!ask(&[], "bucket/home/alice/k") && !ask(&[], "bucket/home//k"));
    // What a client sends is no pattern.
    assert!(!ask(&[("aws:username", &["*"])], "bucket/home/bob/k"));
    assert!(ask(&[("aws:username", &["*"])], "bucket/home/*/k"));
    // An older version has no variables.
    let text = json!({"Version": "2008-10-17", "Statement": allow(json!("s3:GetObject"),
        json!("arn:aws:s3:::bucket/${aws:username}"), json!({}))});
    let old = Policy::parse(&text.to_string()).unwrap();
    let found = decide(&old, None, "s3:GetObject", "bucket/${aws:username}", &context(alice));
    assert_eq!(found, Decision::Allowed);
}

#[test]
fn conditions_compare_values() {
    let one = |key: &'static str, value: &'static str| -> Vec<(&'static str, Vec<&'static str>)> {
        vec![(key, vec![value])]
    };
    for (condition, values, expected) in [
        (json!({"StringEquals": {"s3:prefix": ["a", "b"]}}), one("s3:prefix", "b"), true),
        (json!({"StringEquals": {"s3:prefix": "a*"}}), one("s3:prefix", "ab"), false),
        (
            json!({"StringLike": {"aws:Referer": "https://*.example.com/*"}}),
            one("aws:referer", "https://a.example.com/x"),
            true,
        ),
        (
            json!({"StringNotLike": {"aws:Referer": "https://*.example.com/*"}}),
            one("aws:referer", "https://a.example.com/x"),
            false,
        ),
        (
            json!({"StringEqualsIgnoreCase": {"aws:username": "ALICE"}}),
            one("aws:username", "alice"),
            true,
        ),
        (json!({"NumericLessThanEquals": {"s3:max-keys": 10}}), one("s3:max-keys", "10"), true),
        (json!({"NumericLessThan": {"s3:max-keys": "10"}}), one("s3:max-keys", "10"), false),
        (
            json!({"DateGreaterThan": {"aws:CurrentTime": "2026-11-30T00:00:00Z"}}),
            one("aws:currenttime", "2026-11-30T00:00:01Z"),
            true,
        ),
        (
            json!({"NumericGreaterThan": {"aws:EpochTime": "1795996800"}}),
            one("aws:epochtime", "1795996800"),
            false,
        ),
        (
            json!({"Bool": {"aws:SecureTransport": false}}),
            one("aws:securetransport", "false"),
            true,
        ),
        (
            json!({"IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "192.0.2.7"]}}),
            one("aws:sourceip", "192.0.2.7"),
            true,
        ),
        (
            json!({"NotIpAddress": {"aws:SourceIp": "192.0.2.0/24"}}),
            one("aws:sourceip", "192.0.2.7"),
            false,
        ),
        (
            json!({"IpAddress": {"aws:SourceIp": "2001:db8::/32"}}),
            one("aws:sourceip", "2001:db8:1::1"),
            true,
        ),
        (
            json!({"IpAddress": {"aws:SourceIp": "0.0.0.0/0"}}),
            one("aws:sourceip", "::ffff:192.0.2.7"),
            true,
        ),
        (
            json!({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:root"}}),
            one("aws:principalarn", "arn:aws:iam::a:root"),
            true,
        ),
        (json!({"BinaryEquals": {"aws:username": "YQ=="}}), one("aws:username", "YQ=="), true),
        (json!({"Null": {"s3:x-amz-acl": true}}), one("s3:prefix", ""), true),
        (json!({"Null": {"s3:prefix": "true"}}), one("s3:prefix", ""), false),
        (
            json!({"StringEquals": {"s3:ExistingObjectTag/Team": "a"}}),
            one("s3:existingobjecttag/Team", "a"),
            true,
        ),
        (
            json!({"StringEquals": {"s3:ExistingObjectTag/team": "a"}}),
            one("s3:existingobjecttag/Team", "a"),
            false,
        ),
        // All operators and all keys must hold.
        (
            json!({"StringEquals": {"s3:prefix": "a", "s3:delimiter": "/"}}),
            one("s3:prefix", "a"),
            false,
        ),
        (
            json!({"StringEquals": {"s3:prefix": "a"}, "Bool": {"aws:SecureTransport": "true"}}),
            one("s3:prefix", "a"),
            false,
        ),
        // No value can be one of none.
        (json!({"StringEquals": {"s3:prefix": []}}), one("s3:prefix", "a"), false),
        (json!({"StringNotEquals": {"s3:prefix": []}}), one("s3:prefix", "a"), true),
    ] {
        let values: Vec<(&str, &[&str])> =
            values.iter().map(|(key, values)| (*key, values.as_slice())).collect();
        assert_eq!(gets(condition.clone(), &values), expected, "{condition} {values:?}");
    }
}

#[test]
fn a_key_that_is_missing_satisfies_negations_and_if_exists() {
    for (operator, absent, other, same) in [
        ("StringEquals", false, false, true),
        ("StringNotEquals", true, true, false),
        ("StringEqualsIfExists", true, false, true),
        ("StringNotEqualsIfExists", true, true, false),
        ("ForAllValues:StringEquals", true, false, true),
        ("ForAnyValue:StringEquals", false, false, true),
        ("ForAllValues:StringNotEquals", true, true, false),
        ("ForAnyValue:StringNotEquals", false, true, false),
        ("ForAnyValue:StringEqualsIfExists", false, false, true),
    ] {
        let condition = json!({operator: {"aws:Referer": "a"}});
        let found = [
            gets(condition.clone(), &[]),
            gets(condition.clone(), &[("aws:referer", &["b"])]),
            gets(condition, &[("aws:referer", &["a"])]),
        ];
        assert_eq!(found, [absent, other, same], "{operator}");
    }
}

#[test]
fn sets_of_values_are_compared_as_sets() {
    let keys: &[(&str, &[&str])] = &[("s3:requestobjecttagkeys", &["a", "b"])];
    let ask = |operator: &str, own: Value| {
        gets(json!({operator: {"s3:RequestObjectTagKeys": own}}), keys)
    };
    assert!(ask("ForAllValues:StringEquals", json!(["a", "b", "c"])));
    assert!(!ask("ForAllValues:StringEquals", json!(["a"])));
    assert!(ask("ForAnyValue:StringEquals", json!(["a"])));
    assert!(!ask("ForAnyValue:StringEquals", json!(["c"])));
    assert!(ask("ForAnyValue:StringNotEquals", json!(["a"])));
    assert!(!ask("ForAllValues:StringNotEquals", json!(["a"])));
}

#[test]
fn what_is_public() {
    let status = |condition: Value, principal: Value| {
        let statement = json!({"Effect": "Allow", "Principal": principal, "Action": "s3:GetObject",
            "Resource": "arn:aws:s3:::bucket/*", "Condition": condition});
        let policy = policy(statement);
        (policy.is_public(), policy.allows_unnamed())
    };
    for (condition, expected) in [
        (json!({}), true),
        (json!({"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}), false),
        (json!({"IpAddress": {"aws:SourceIp": "0.0.0.0/1"}}), true),
        (json!({"IpAddressIfExists": {"aws:SourceIp": "192.0.2.0/24"}}), true),
        (json!({"NotIpAddress": {"aws:SourceIp": "192.0.2.0/24"}}), true),
        (json!({"StringLike": {"aws:SourceVpc": "vpc-*"}}), true),
        (json!({"StringEquals": {"aws:SourceVpc": "vpc-1"}}), false),
        (json!({"StringLike": {"aws:Referer": "https://a/*"}}), true),
        (json!({"Bool": {"aws:SecureTransport": "true"}}), true),
    ] {
        assert_eq!(status(condition.clone(), json!("*")), (expected, true), "{condition}");
    }
    assert_eq!(status(json!({}), json!({"AWS": alice().to_string()})), (false, false));
    let denied =
        policy(json!({"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "*"}));
    assert!(!denied.is_public() && !denied.allows_unnamed() && !denied.mentions(Some(alice())));
}

/// Policies that builds before this one accepted keep their meaning.
#[test]
fn older_policies_keep_their_meaning() {
    let everyone = json!({"AWS": ["*"]});
    let old = json!({"Version": "2012-10-17", "Id": "x", "Statement": [
        {"Sid": "a", "Effect": "Allow", "Principal": everyone, "Action": ["s3:GetBucketLocation", "s3:ListBucket"],
         "Resource": ["arn:aws:s3:::bucket", "arn:aws:s3:::other/*"]},
        {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
         "Resource": ["arn:aws:s3:::bucket/in/*", "arn:aws:s3:::bucket/one", "arn:aws:s3:::bucket/"]},
    ]});
    let policy = Policy::parse(&old.to_string()).unwrap();
    let none = Context::new();
    let ask =
        |action, resource| decide(&policy, None, action, resource, &none) == Decision::Allowed;
    assert!(
        ask("s3:ListBucket", "bucket")
            && ask("s3:GetObject", "bucket/in/")
            && ask("s3:GetObject", "bucket/one")
    );
    assert!(!ask("s3:GetObject", "bucket/in") && !ask("s3:GetObject", "bucket/one/more"));
    assert!(!ask("s3:PutObject", "bucket/one") && !ask("s3:GetObjectTagging", "bucket/one"));
    assert!(policy.is_public());
    let empty = Policy::parse(r#"{"Version": "2012-10-17", "Statement": []}"#).unwrap();
    assert!(!empty.is_public() && !empty.mentions(None));
    assert!(Policy::parse(r#"{"Statement": {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::bucket/*"}}"#).unwrap().is_public());
}

#[test]
fn malformed_policies_are_refused_as_on_aws() {
    let name = BucketName::parse(BUCKET).unwrap();
    let refused = |text: &str| match Policy::check(text, &name) {
        Ok(_) => "ok".to_owned(),
        Err(ServiceError::MalformedPolicy(why)) => why,
        Err(ServiceError::NotImplemented(_)) => "not offered".to_owned(),
        Err(other) => panic!("{other}"),
    };
    let good = json!({"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::bucket/*"});
    let with = |name: &str, value: Value| {
        let mut statement = good.clone();
        statement[name] = value;
        refused(&json!({"Version": "2012-10-17", "Statement": [statement]}).to_string())
    };
    let without = |name: &str| {
        let mut statement = good.clone();
        statement.as_object_mut().unwrap().remove(name);
        refused(&json!({"Version": "2012-10-17", "Statement": [statement]}).to_string())
    };
    let condition = |operator: &str, key: &str, value: Value| {
        with("Condition", json!({operator: {key: value}}))
    };
    let does_not_apply = "Action does not apply to any resource(s) in statement";
    for (found, expected) in [
        (with("Sid", json!("x")), "ok"),
        (refused("{"), "This policy contains invalid Json"),
        (refused("[]"), "Policies must be valid JSON and the first byte must be '{'"),
        (refused("{}"), "Missing required field Statement"),
        (refused(r#"{"Statement": []}"#), "Could not parse the policy: Statement is empty!"),
        (
            refused(r#"{"Version": "2013-01-01", "Statement": []}"#),
            "The policy must contain a valid version string",
        ),
        (refused(r#"{"Other": 1, "Statement": []}"#), "Unknown field Other"),
        (
            refused(&" ".repeat(POLICY_BYTES_MAX + 1)),
            "Normalized policy document exceeds the maximum allowed size of 20480 bytes",
        ),
        (without("Effect"), "Missing required field Effect"),
        (without("Principal"), "Missing required field Principal"),
        (without("Action"), "Missing required field Action"),
        (without("Resource"), "Missing required field Resource"),
        (with("NotAction", json!("s3:*")), "Statement has both Action and NotAction"),
        (with("Effect", json!("Maybe")), "Invalid effect: \"Maybe\""),
        (
            with("Principal", json!({"AWS": "arn:aws:iam::123456789012:root"})),
            "Invalid principal in policy",
        ),
        (with("Action", json!("s3:Fly")), "Policy has invalid action"),
        (with("Action", json!("iam:*")), "Policy has invalid action"),
        (with("Resource", json!("arn:aws:s3:::other/*")), "Policy has invalid resource"),
        (with("Resource", json!("arn:aws:s3:::bucketeer")), "Policy has invalid resource"),
        (with("Resource", json!("bucket/*")), "Policy has invalid resource"),
        (with("Resource", json!("arn:aws:s3:::buck*")), "ok"),
        (with("Resource", json!("arn:aws:s3:::bucket")), does_not_apply),
        (with("Action", json!(["s3:GetObject", "s3:ListBucket"])), does_not_apply),
        (with("Action", json!("s3:*")), "ok"),
        (condition("StringEquals", "s3:prefix", json!("a")), "ok"),
        (condition("StringIs", "s3:prefix", json!("a")), "Invalid Condition type : StringIs"),
        (
            condition("NullIfExists", "s3:prefix", json!("true")),
            "Invalid Condition type : NullIfExists",
        ),
        (condition("StringEquals", "s3:colour", json!("a")), "Policy has an invalid condition key"),
        (condition("NumericLessThan", "s3:signatureAge", json!(5)), "not offered"),
        (
            condition("IpAddress", "aws:SourceIp", json!("192.0.2.0/33")),
            "Invalid value \"192.0.2.0/33\" for the condition type IpAddress",
        ),
        (
            condition("NumericEquals", "s3:max-keys", json!("many")),
            "Invalid value \"many\" for the condition type NumericEquals",
        ),
        (
            condition("DateLessThan", "aws:CurrentTime", json!("soon")),
            "Invalid value \"soon\" for the condition type DateLessThan",
        ),
    ] {
        assert_eq!(found, expected);
    }
    let twice = json!({"Version": "2012-10-17", "Statement": [
        {"Sid": "a", "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::bucket/*"},
        {"Sid": "a", "Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::bucket/*"},
    ]});
    assert_eq!(
        refused(&twice.to_string()),
        "Statement IDs (SID) in a single policy must be unique."
    );
}
