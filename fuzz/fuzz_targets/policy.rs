//! Parses any text as a bucket policy. What it allows must be stated in it, and nothing is allowed where
//! everything is forbidden.
#![no_main]

use fula_gateway::fuzzing::{Action, BucketName, Decision, Policy, PolicyRequest};
use libfuzzer_sys::fuzz_target;

const BUCKET: &str = "bucket";

const SAMPLES: [&str; 3] = [
    r#"{"Version":"2012-10-17","Statement":[{"Sid":"s","Effect":"Allow","Principal":{"AWS":["*"]},
        "Action":["s3:GetObject"],"Resource":["arn:aws:s3:::bucket/k*","arn:aws:s3:::bucket/l"]}]}"#,
    r#"{"Statement":{"Effect":"Allow","Principal":"*","Action":["s3:ListBucket","s3:GetBucketLocation"],
        "Resource":"arn:aws:s3:::bucket"}}"#,
    r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","NotPrincipal":{"CanonicalUser":"f41f214011f79ff767b399d24e0e75af"},
        "NotAction":"s3:Get*","NotResource":"arn:aws:s3:::bucket/${aws:username}/*","Condition":{
        "ForAnyValue:StringLikeIfExists":{"s3:prefix":["a*","?"]},"IpAddress":{"aws:SourceIp":"192.0.2.0/24"},
        "DateLessThan":{"aws:CurrentTime":"2026-11-30T00:00:00Z"},"NumericEquals":{"s3:max-keys":5}}}}"#,
];

fuzz_target!(|data: &[u8]| {
    let data = fula_fuzz::input(data, &SAMPLES.map(Vec::from));
    let Ok(text) = std::str::from_utf8(&data) else { return };
    let name = BucketName::parse(BUCKET).expect("a good name");
    let checked = Policy::check(text, &name);
    let Ok(policy) = Policy::parse(text) else {
        assert!(checked.is_err());
        return;
    };
    let values = |key: &str| match key {
        "aws:sourceip" => Some(vec!["192.0.2.7".to_owned()]),
        "s3:prefix" => Some(vec!["a".to_owned(), "*".to_owned()]),
        _ => None,
    };
    for action in Action::all() {
        for resource in [BUCKET, "bucket/k", "bucket/", "bucket/a/b"] {
            let asked = PolicyRequest { who: None, as_named: true, action: action.id(), resource };
            let decision = policy.decide(&asked, &values);
            assert_eq!(policy.decide(&asked, &values), decision);
            if decision == Decision::Allowed {
                assert!(text.contains("Allow") && policy.mentions(None) && policy.allows_unnamed());
            }
            assert!(decision != Decision::Denied || text.contains("Deny"));
        }
    }
    assert!(!policy.is_public() || policy.allows_unnamed());
});
