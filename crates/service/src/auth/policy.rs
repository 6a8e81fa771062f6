//! Bucket policies, with which an owner makes parts of a bucket public.
//!
//! Of the policy language of AWS, this supports statements that allow everyone `s3:GetObject` on objects by
//! prefix, and `s3:ListBucket`. A policy with anything else is refused when it is put, because it could not
//! be enforced.

use fula_core::BucketName;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    auth::{access::Target, action::Action},
    error::ServiceError,
};

/// Longest policy in bytes, as on AWS.
pub const POLICY_BYTES_MAX: usize = 20 << 10;

/// The part of a bucket that anyone may read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicRead {
    objects: Vec<Pattern>,
    lists: bool,
}

/// The keys that a resource covers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Key(String),
    Prefix(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Document {
    version: Option<String>,
    #[serde(rename = "Id")]
    _id: Option<String>,
    statement: Many<Statement>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Many<T> {
    One(T),
    List(Vec<T>),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Statement {
    #[serde(rename = "Sid")]
    _sid: Option<String>,
    effect: String,
    principal: Value,
    action: Many<String>,
    resource: Many<String>,
}

impl<T> Many<T> {
    fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::List(list) => list,
        }
    }
}

fn malformed(why: &str) -> ServiceError {
    ServiceError::MalformedPolicy(why.to_owned())
}

fn not_offered() -> ServiceError {
    ServiceError::NotImplemented(
        "A bucket policy that does anything but allow everyone s3:GetObject and s3:ListBucket",
    )
}

impl PublicRead {
    /// Parses the policy of `bucket`.
    ///
    /// # Errors
    /// [`ServiceError::MalformedPolicy`]; [`ServiceError::NotImplemented`] for features that are not
    /// supported.
    pub fn parse(text: &str, bucket: &BucketName) -> Result<Self, ServiceError> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(malformed("The policy is longer than 20 KiB."));
        }
        let value: Value = serde_json::from_str(text)
            .map_err(|_| malformed("This policy contains invalid Json"))?;
        if value.get("Statement").is_none() {
            return Err(malformed("Missing required field Statement"));
        }
        let document: Document = serde_json::from_value(value).map_err(|_| not_offered())?;
        let version = document.version.as_deref();
        if !matches!(version, None | Some("2012-10-17" | "2008-10-17")) {
            return Err(malformed(
                "The policy must contain a valid version string: 2012-10-17 or 2008-10-17.",
            ));
        }
        let mut public = Self::default();
        for statement in document.statement.as_slice() {
            public.add(statement, bucket)?;
        }
        Ok(public)
    }

    fn add(&mut self, statement: &Statement, bucket: &BucketName) -> Result<(), ServiceError> {
        if statement.effect != "Allow" || !is_everyone(&statement.principal) {
            return Err(not_offered());
        }
        for action in statement.action.as_slice() {
            match action.as_str() {
                "s3:GetObject" => self.add_objects(statement.resource.as_slice(), bucket)?,
                "s3:ListBucket" => {
                    let bucket_arn = format!("arn:aws:s3:::{bucket}");
                    if !statement.resource.as_slice().contains(&bucket_arn) {
                        return Err(malformed(
                            "Action does not apply to any resource(s) in statement: s3:ListBucket is about the bucket itself.",
                        ));
                    }
                    self.lists = true;
                }
                // The location of a bucket is public wherever its listing is.
                "s3:GetBucketLocation" => {}
                _ => return Err(not_offered()),
            }
        }
        Ok(())
    }

    fn add_objects(
        &mut self,
        resources: &[String],
        bucket: &BucketName,
    ) -> Result<(), ServiceError> {
        let below = format!("arn:aws:s3:::{bucket}/");
        let mut is_about_objects = false;
        for resource in resources {
            if resource.strip_suffix('/').unwrap_or(resource) == below.trim_end_matches('/') {
                continue;
            }
            let Some(key) = resource.strip_prefix(&below) else {
                return Err(malformed(&format!(
                    "Policy has invalid resource: {resource:?}. The objects of this bucket are {below}*, and it \
                     has no other resources."
                )));
            };
            is_about_objects = true;
            let (key, is_prefix) = key.strip_suffix('*').map_or((key, false), |key| (key, true));
            if key.contains(['*', '?', '$']) {
                return Err(not_offered());
            }
            let key = key.to_owned();
            self.objects.push(if is_prefix { Pattern::Prefix(key) } else { Pattern::Key(key) });
        }
        if is_about_objects {
            Ok(())
        } else {
            Err(malformed(
                "Action does not apply to any resource(s) in statement: s3:GetObject is about objects.",
            ))
        }
    }

    /// Returns whether nothing is public.
    pub fn is_nothing(&self) -> bool {
        self.objects.is_empty() && !self.lists
    }

    /// Returns whether anyone may do this.
    pub fn allows(&self, action: Action, target: Target<'_>) -> bool {
        match (action, target) {
            (Action::GetObject, Target::Object(_, key)) => {
                self.objects.iter().any(|pattern| match pattern {
                    Pattern::Key(own) => own == key,
                    Pattern::Prefix(prefix) => key.starts_with(prefix.as_str()),
                })
            }
            (Action::ListObjects | Action::HeadBucket, _) => self.lists,
            _ => false,
        }
    }
}

/// Returns whether a principal is everyone: `"*"`, `{"AWS": "*"}` or `{"AWS": ["*"]}`.
fn is_everyone(principal: &Value) -> bool {
    let is_star = |value: &Value| value == "*" || *value == serde_json::json!(["*"]);
    let named = principal.as_object().filter(|named| named.len() == 1);
    *principal == "*" || named.is_some_and(|named| named.get("AWS").is_some_and(is_star))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bucket() -> BucketName {
        BucketName::parse("bucket").unwrap()
    }

    fn parse(statement: Value) -> Result<PublicRead, String> {
        let text = json!({"Version": "2012-10-17", "Statement": statement}).to_string();
        PublicRead::parse(&text, &bucket()).map_err(|error| match error {
            ServiceError::NotImplemented(_) => "not offered".to_owned(),
            other => other.to_string(),
        })
    }

    fn allow(principal: Value, action: Value, resource: Value) -> Value {
        json!({"Effect": "Allow", "Principal": principal, "Action": action, "Resource": resource})
    }

    #[test]
    fn reads_are_made_public_by_key_and_prefix() {
        let resources = json!(["arn:aws:s3:::bucket/in/*", "arn:aws:s3:::bucket/one"]);
        let public = parse(allow(json!("*"), json!(["s3:GetObject"]), resources)).unwrap();
        let reads = |key| public.allows(Action::GetObject, Target::Object("bucket", key));
        assert!(reads("in/") && reads("in/deep/k") && reads("one"));
        assert!(!reads("in") && !reads("one/more") && !reads("on") && !reads("other"));
        assert!(!public.allows(Action::PutObject, Target::Object("bucket", "one")));
        assert!(!public.allows(Action::ListObjects, Target::Prefix("bucket", "in/")));
        assert!(!public.is_nothing());
    }

    #[test]
    fn the_policies_of_tools_are_understood() {
        // The client of MinIO writes this for "anonymous download".
        let everyone = json!({"AWS": ["*"]});
        let bucket = json!(["arn:aws:s3:::bucket"]);
        let list = json!(["s3:GetBucketLocation", "s3:ListBucket"]);
        let objects = json!(["arn:aws:s3:::bucket/*"]);
        let public = parse(json!([
            allow(everyone.clone(), list, bucket),
            allow(everyone, json!(["s3:GetObject"]), objects),
        ]));
        let public = public.unwrap();
        assert!(public.allows(Action::ListObjects, Target::Prefix("bucket", "")));
        assert!(public.allows(Action::HeadBucket, Target::Anything("bucket")));
        assert!(public.allows(Action::GetObject, Target::Object("bucket", "k")));
        assert!(!public.allows(Action::GetPolicy, Target::Bucket("bucket")));
    }

    #[test]
    fn what_cannot_be_enforced_is_refused() {
        let (everyone, get) = (json!("*"), json!("s3:GetObject"));
        let all = json!("arn:aws:s3:::bucket/*");
        let mut conditional = allow(everyone.clone(), get.clone(), all.clone());
        conditional["Condition"] = json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}});
        let mut deny = allow(everyone.clone(), get.clone(), all.clone());
        deny["Effect"] = json!("Deny");
        for statement in [
            conditional,
            deny,
            allow(json!({"AWS": "arn:aws:iam::123456789012:root"}), get.clone(), all.clone()),
            allow(json!({"AWS": "*", "Service": "x"}), get.clone(), all.clone()),
            allow(everyone.clone(), json!("s3:*"), all.clone()),
            allow(everyone.clone(), json!("s3:PutObject"), all.clone()),
            allow(everyone.clone(), get.clone(), json!("arn:aws:s3:::bucket/*/x")),
            allow(everyone.clone(), get.clone(), json!("arn:aws:s3:::bucket/a?")),
            allow(everyone.clone(), get.clone(), json!("arn:aws:s3:::bucket/${aws:username}/*")),
        ] {
            assert_eq!(parse(statement.clone()), Err("not offered".to_owned()), "{statement}");
        }
        for statement in [
            allow(everyone.clone(), get.clone(), json!("arn:aws:s3:::other/*")),
            allow(everyone.clone(), get, json!("arn:aws:s3:::bucket")),
            allow(everyone, json!("s3:ListBucket"), all),
        ] {
            assert!(parse(statement.clone()).unwrap_err().contains("policy"), "{statement}");
        }
        for text in ["", "{}", "[]", "{\"Statement\": "] {
            assert!(PublicRead::parse(text, &bucket()).is_err());
        }
        assert!(parse(json!([])).unwrap().is_nothing());
    }
}
