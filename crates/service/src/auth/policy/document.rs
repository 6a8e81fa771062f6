//! The JSON of a policy, and what AWS refuses when one is put.
//!
//! What is stored is read with the same parser and without the checks: an older build may have accepted it.

use std::collections::HashSet;

use fula_core::BucketName;
use serde_json::{Map, Value};

use super::{
    Effect, POLICY_BYTES_MAX,
    actions::{ActionSet, Kind},
    condition::{Condition, Fault},
    keys::{Keys, Known, known},
    principal::Principals,
    template::{Reading, Template},
};
use crate::error::ServiceError;

/// What resources of S3 begin with.
pub(super) const ARN: &str = "arn:aws:s3:::";

/// A list of names, and whether the statement is about everything else.
#[derive(Clone, Debug)]
pub(super) struct Named<T> {
    pub(super) list: Vec<T>,
    pub(super) is_negated: bool,
}

/// A statement as it was written.
#[derive(Clone, Debug)]
pub(super) struct Written {
    sid: Option<String>,
    pub(super) effect: Effect,
    pub(super) principals: Principals,
    actions: Named<String>,
    resources: Named<String>,
    /// Operator, key, values.
    pub(super) conditions: Vec<(String, String, Vec<String>)>,
}

/// A policy as it was written.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// Whether it is of the version that has variables.
    has_variables: bool,
    pub(super) statements: Vec<Written>,
}

fn malformed(why: impl Into<String>) -> ServiceError {
    ServiceError::MalformedPolicy(why.into())
}

/// Returns one text, or a list of texts.
fn texts(value: &Value) -> Result<Vec<String>, ServiceError> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        _ => None,
    };
    let found = match value {
        Value::Array(list) => list.iter().map(text).collect::<Option<Vec<_>>>(),
        one => text(one).map(|one| vec![one]),
    };
    found.filter(|found| !found.is_empty()).ok_or_else(syntax)
}

/// Returns the values of a condition, which may also be numbers and truth values.
fn condition_values(value: &Value) -> Result<Vec<String>, ServiceError> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    };
    let found = match value {
        Value::Array(list) => list.iter().map(text).collect::<Option<Vec<_>>>(),
        one => text(one).map(|one| vec![one]),
    };
    found.ok_or_else(syntax)
}

fn syntax() -> ServiceError {
    malformed("Policies must be valid JSON and the first byte must be '{'")
}

/// Returns one of two fields, of which exactly one must be there, and whether it is the second.
fn either<'a>(
    fields: &'a Map<String, Value>,
    name: &str,
    negated: &str,
) -> Result<(&'a Value, bool), ServiceError> {
    match (fields.get(name), fields.get(negated)) {
        (Some(value), None) => Ok((value, false)),
        (None, Some(value)) => Ok((value, true)),
        (None, None) => Err(malformed(format!("Missing required field {name}"))),
        (Some(_), Some(_)) => Err(malformed(format!("Statement has both {name} and {negated}"))),
    }
}

fn check_fields(fields: &Map<String, Value>, known: &[&str]) -> Result<(), ServiceError> {
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(malformed(format!("Unknown field {name}"))),
        None => Ok(()),
    }
}

impl Document {
    /// Parses the text of a policy.
    ///
    /// # Errors
    /// [`ServiceError::MalformedPolicy`].
    pub(super) fn parse(text: &str) -> Result<Self, ServiceError> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(malformed(
                "Normalized policy document exceeds the maximum allowed size of 20480 bytes",
            ));
        }
        let value: Value = serde_json::from_str(text)
            .map_err(|_| malformed("This policy contains invalid Json"))?;
        let fields = value.as_object().ok_or_else(syntax)?;
        check_fields(fields, &["Version", "Id", "Statement"])?;
        let version = fields.get("Version").map(|version| version.as_str().unwrap_or_default());
        if !matches!(version, None | Some("2012-10-17" | "2008-10-17")) {
            return Err(malformed("The policy must contain a valid version string"));
        }
        let statements = match fields.get("Statement") {
            None => return Err(malformed("Missing required field Statement")),
            Some(Value::Array(list)) => list.iter().map(Written::parse).collect(),
            Some(one) => Written::parse(one).map(|one| vec![one]),
        };
        Ok(Self { has_variables: version == Some("2012-10-17"), statements: statements? })
    }

    /// Refuses what AWS refuses when the policy of `bucket` is put.
    ///
    /// # Errors
    /// [`ServiceError::MalformedPolicy`]; [`ServiceError::NotImplemented`] for a condition that could not be
    /// enforced.
    pub(super) fn check(&self, bucket: &BucketName) -> Result<(), ServiceError> {
        if self.statements.is_empty() {
            return Err(malformed("Could not parse the policy: Statement is empty!"));
        }
        let mut sids = HashSet::new();
        for statement in &self.statements {
            if statement.sid.as_ref().is_some_and(|sid| !sids.insert(sid)) {
                return Err(malformed("Statement IDs (SID) in a single policy must be unique."));
            }
            statement.check(bucket)?;
        }
        Ok(())
    }

    /// Returns how texts of the policy are read.
    pub(super) fn reading(&self) -> Reading {
        Reading { has_wildcards: true, has_variables: self.has_variables }
    }
}

impl Written {
    fn parse(value: &Value) -> Result<Self, ServiceError> {
        let fields = value.as_object().ok_or_else(syntax)?;
        let known = [
            "Sid",
            "Effect",
            "Principal",
            "NotPrincipal",
            "Action",
            "NotAction",
            "Resource",
            "NotResource",
            "Condition",
        ];
        check_fields(fields, &known)?;
        let sid = match fields.get("Sid") {
            None => None,
            Some(Value::String(sid)) => Some(sid.clone()),
            Some(_) => return Err(syntax()),
        };
        let effect = match fields.get("Effect") {
            None => return Err(malformed("Missing required field Effect")),
            Some(effect) if effect == "Allow" => Effect::Allow,
            Some(effect) if effect == "Deny" => Effect::Deny,
            Some(effect) => return Err(malformed(format!("Invalid effect: {effect}"))),
        };
        let (principal, excludes) = either(fields, "Principal", "NotPrincipal")?;
        let principals =
            Principals::parse(principal).ok_or_else(|| malformed("Invalid principal in policy"))?;
        let principals = if excludes { principals.except() } else { principals };
        let (actions, is_negated) = either(fields, "Action", "NotAction")?;
        let actions = Named { list: texts(actions)?, is_negated };
        let (resources, is_negated) = either(fields, "Resource", "NotResource")?;
        let resources = Named { list: texts(resources)?, is_negated };
        let mut conditions = Vec::new();
        if let Some(operators) = fields.get("Condition") {
            for (operator, keys) in operators.as_object().ok_or_else(syntax)? {
                for (key, values) in keys.as_object().ok_or_else(syntax)? {
                    conditions.push((operator.clone(), key.clone(), condition_values(values)?));
                }
            }
        }
        Ok(Self { sid, effect, principals, actions, resources, conditions })
    }

    fn check(&self, bucket: &BucketName) -> Result<(), ServiceError> {
        let mut actions = ActionSet::default();
        for pattern in &self.actions.list {
            let named = ActionSet::matching(pattern);
            if named.is_empty() {
                return Err(malformed("Policy has invalid action"));
            }
            actions = actions.or(named);
        }
        let (mut bucket_named, mut objects_named) = (false, false);
        for resource in &self.resources.list {
            let Some((is_bucket, are_objects)) = reach(resource, bucket) else {
                return Err(malformed("Policy has invalid resource"));
            };
            bucket_named |= is_bucket;
            objects_named |= are_objects;
        }
        let applies = |set: ActionSet| {
            (bucket_named && set.has_kind(Kind::Bucket))
                || (objects_named && set.has_kind(Kind::Object))
        };
        let fits = if self.resources.is_negated {
            true
        } else if self.actions.is_negated {
            applies(actions.not())
        } else {
            self.actions.list.iter().all(|pattern| applies(ActionSet::matching(pattern)))
        };
        if !fits {
            return Err(malformed("Action does not apply to any resource(s) in statement"));
        }
        for (_, key, _) in &self.conditions {
            match known(key) {
                Known::Offered => {}
                Known::NotOffered => {
                    return Err(ServiceError::NotImplemented(
                        "A bucket policy with one of its condition keys, which could not be enforced here,",
                    ));
                }
                Known::Unknown => return Err(malformed("Policy has an invalid condition key")),
            }
        }
        Ok(())
    }

    /// Returns the actions that the statement is about.
    pub(super) fn action_set(&self) -> ActionSet {
        let sets = self.actions.list.iter().map(|pattern| ActionSet::matching(pattern));
        let named = sets.fold(ActionSet::default(), ActionSet::or);
        if self.actions.is_negated { named.not() } else { named }
    }

    /// Returns the resources that the statement is about, without what all begin with.
    pub(super) fn resource_set(&self, reading: Reading, keys: &mut Keys) -> Named<Template> {
        let read = |text: &String| {
            let text = if text == "*" { text } else { text.strip_prefix(ARN)? };
            Some(Template::new(text, reading, keys))
        };
        // What begins otherwise is nothing that this bucket has.
        let list = self.resources.list.iter().filter_map(read).collect();
        Named { list, is_negated: self.resources.is_negated }
    }

    /// Returns the comparisons of the statement.
    pub(super) fn condition_set(
        &self,
        reading: Reading,
        keys: &mut Keys,
    ) -> Result<Vec<Condition>, ServiceError> {
        let read = |(operator, key, values): &(String, String, Vec<String>)| {
            let read = Condition::new(operator, key, values, reading.has_variables, keys);
            read.map_err(|fault| match fault {
                Fault::Operator => malformed(format!("Invalid Condition type : {operator}")),
                Fault::Value(value) => {
                    malformed(format!("Invalid value {value:?} for the condition type {operator}"))
                }
            })
        };
        self.conditions.iter().map(read).collect()
    }
}

/// Returns whether a resource can be the bucket, and whether it can be an object in it; `None` for a resource
/// that is neither.
fn reach(resource: &str, bucket: &BucketName) -> Option<(bool, bool)> {
    if resource == "*" {
        return Some((true, true));
    }
    let path = resource.strip_prefix(ARN)?;
    let fixed = path.find(['*', '?', '$']).unwrap_or(path.len());
    let name = bucket.as_str();
    match path[..fixed].split_once('/') {
        Some((named, key)) => {
            (named == name).then_some((key.is_empty() && fixed == path.len(), true))
        }
        None if fixed == path.len() => (path == name).then_some((true, false)),
        // The name of the bucket may go on in the part with wildcards.
        None => name.starts_with(&path[..fixed]).then_some((true, true)),
    }
}
