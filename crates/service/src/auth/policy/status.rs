//! Whether a policy makes a bucket public, by the rule of AWS ("The meaning of public").

use super::{
    Effect, Policy, Statement,
    actions::ActionId,
    condition::{Condition, Set, Test},
    keys::normal,
    template::Template,
};

/// Keys that restrict a statement to certain callers, if their values are fixed.
const RESTRICTING: &[&str] = &[
    "aws:principalorgid",
    "aws:principalorgpaths",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceip",
    "aws:sourceorgid",
    "aws:sourcevpc",
    "aws:sourcevpce",
    "aws:userid",
    "aws:username",
    "aws:principalarn",
    "aws:principalaccount",
    "s3:dataaccesspointaccount",
    "s3:dataaccesspointarn",
    "s3:x-amz-server-side-encryption-aws-kms-key-id",
];

impl Policy {
    /// Returns whether it is public: a statement allows everyone something, without a condition that
    /// restricts it to certain callers.
    pub fn is_public(&self) -> bool {
        self.statements.iter().any(|statement| {
            statement.allows_unnamed() && !statement.conditions.iter().any(|c| self.restricts(c))
        })
    }

    /// Returns whether a caller without a credential may be allowed anything, under whatever conditions.
    pub fn allows_unnamed(&self) -> bool {
        self.statements.iter().any(Statement::allows_unnamed)
    }

    /// Returns whether anyone may do this, from anywhere and at any time: a statement allows it to everyone without
    /// a condition, and none that could be about it forbids it, under whatever condition.
    pub fn allows_always(&self, action: ActionId, resource: &str) -> bool {
        let lookup = self.keys.look_up(&|_: &str| None);
        let mut is_allowed = false;
        let about = self.statements.iter().filter(|statement| {
            statement.actions.has(action) && statement.principals.include(None)
        });
        for statement in about {
            let has_variables = statement.has_variables();
            match statement.effect {
                Effect::Deny if has_variables || statement.covers(resource, &lookup) => {
                    return false;
                }
                Effect::Allow if statement.principals.are_unnamed() && !has_variables => {
                    is_allowed |=
                        statement.conditions.is_empty() && statement.covers(resource, &lookup);
                }
                Effect::Deny | Effect::Allow => {}
            }
        }
        is_allowed
    }

    fn restricts(&self, condition: &Condition) -> bool {
        let key = self.keys.iter().nth(condition.key).map(normal).unwrap_or_default();
        let is_strict = !condition.is_negated && !condition.if_exists && condition.set != Set::All;
        is_strict && RESTRICTING.contains(&key.as_str()) && is_fixed(&condition.test)
    }
}

impl Statement {
    fn allows_unnamed(&self) -> bool {
        self.effect == Effect::Allow && self.principals.are_unnamed()
    }

    fn has_variables(&self) -> bool {
        self.resources.list.iter().any(|own| matches!(own, Template::Variable(_)))
    }
}

/// Returns whether the values are certain ones: without wildcards, variables and wide ranges.
fn is_fixed(test: &Test) -> bool {
    match test {
        Test::Text(own) | Test::IgnoreCase(own) => own.iter().all(Template::is_one_text),
        Test::Arn(own) => own.iter().flatten().all(Template::is_one_text),
        Test::Address(own) => own.iter().all(|own| !own.is_wide()),
        Test::Number(..) | Test::Date(..) | Test::Bool(_) | Test::Binary(_) | Test::Null(_) => {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::action::Action;

    #[test]
    fn always_means_without_any_condition() {
        let allow = |more: &str| {
            format!(
                r#"{{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
                    "Resource": "arn:aws:s3:::b/pub/*" {more}}}"#
            )
        };
        let deny = |principal: &str, resource: &str, more: &str| {
            format!(
                r#"{{"Effect": "Deny", "Principal": {principal}, "Action": "s3:GetObject",
                    "Resource": "arn:aws:s3:::b/{resource}" {more}}}"#
            )
        };
        let address = r#", "Condition": {"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}"#;
        let owner = r#"{"AWS": "00000000000000000000000000000001"}"#;
        for (statements, expected) in [
            (vec![allow("")], true),
            (vec![allow(address)], false),
            (vec![allow(""), allow(address)], true),
            (vec![allow(""), deny(r#""*""#, "pub/key", "")], false),
            (vec![allow(""), deny(r#""*""#, "pub/key", address)], false),
            (vec![allow(""), deny(r#""*""#, "other/*", address)], true),
            (vec![allow(""), deny(r#""*""#, "${aws:username}/*", "")], false),
            (vec![allow(""), deny(owner, "*", "")], true),
            (vec![deny(r#""*""#, "other/*", "")], false),
        ] {
            let policy =
                format!(r#"{{"Version": "2012-10-17", "Statement": [{}]}}"#, statements.join(","));
            let policy = Policy::parse(&policy).unwrap();
            let found = policy.allows_always(Action::GetObject.id(), "b/pub/key");
            assert_eq!(found, expected, "{statements:?}");
            assert!(!policy.allows_always(Action::PutObject.id(), "b/pub/key"));
        }
    }
}
