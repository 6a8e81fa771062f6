//! Parses any text as a bucket policy. Everything public must be stated in it, and only reads may be
//! public.
#![no_main]

use fula_gateway::fuzzing::{Action, BucketName, PublicRead, Target};
use libfuzzer_sys::fuzz_target;

const BUCKET: &str = "bucket";

const SAMPLES: [&str; 2] = [
    r#"{"Version":"2012-10-17","Statement":[{"Sid":"s","Effect":"Allow","Principal":{"AWS":["*"]},
        "Action":["s3:GetObject"],"Resource":["arn:aws:s3:::bucket/k*","arn:aws:s3:::bucket/l"]}]}"#,
    r#"{"Statement":{"Effect":"Allow","Principal":"*","Action":["s3:ListBucket","s3:GetBucketLocation"],
        "Resource":"arn:aws:s3:::bucket"}}"#,
];

/// Returns all texts of a JSON value.
fn texts<'a>(value: &'a serde_json::Value, found: &mut Vec<&'a str>) {
    match value {
        serde_json::Value::String(text) => found.push(text),
        serde_json::Value::Array(all) => all.iter().for_each(|value| texts(value, found)),
        serde_json::Value::Object(all) => all.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

fuzz_target!(|data: &[u8]| {
    let data = fula_fuzz::input(data, &SAMPLES.map(Vec::from));
    let Ok(text) = std::str::from_utf8(&data) else { return };
    let Ok(public) = PublicRead::parse(text, &BucketName::parse(BUCKET).expect("a good name")) else { return };
    let value = serde_json::from_str(text).expect("it was read as JSON");
    let mut said = Vec::new();
    texts(&value, &mut said);
    let patterns = || said.iter().filter_map(|text| text.strip_prefix("arn:aws:s3:::bucket/"));
    // The texts of the resources, and some that are close to them.
    let near = patterns().flat_map(|pattern| {
        let key = pattern.trim_end_matches('*');
        [key.to_owned(), format!("{key}x"), key.chars().skip(1).collect()]
    });
    for key in near.chain(["k".to_owned(), String::new()]) {
        let is_named = patterns().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => key.starts_with(prefix),
            None => key == pattern,
        });
        let target = Target::Object(BUCKET, &key);
        for action in Action::ALL {
            let is_allowed = public.allows(action, target);
            match action {
                Action::GetObject => assert!(!is_allowed || is_named, "{key:?}"),
                Action::ListObjects | Action::HeadBucket => {
                    assert!(!is_allowed || said.contains(&"s3:ListBucket"));
                }
                _ => assert!(!is_allowed, "{action:?}"),
            }
            assert!(!is_allowed || !public.is_nothing());
        }
    }
    // For another bucket the same text must make nothing public.
    if let Ok(other) = PublicRead::parse(text, &BucketName::parse("other").expect("a good name")) {
        assert!(said.iter().any(|text| text.starts_with("arn:aws:s3:::other")) || other.is_nothing());
    }
});
