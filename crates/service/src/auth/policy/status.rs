//! Whether a policy makes a bucket public, by the rule of AWS ("The meaning of public").

use super::{
    Effect, Policy, Statement,
    condition::{Condition, Set, Test},
    keys::normal,
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
}

/// Returns whether the values are certain ones: without wildcards, variables and wide ranges.
fn is_fixed(test: &Test) -> bool {
    match test {
        Test::Text(own) | Test::IgnoreCase(own) => own.iter().all(|own| own.is_one_text()),
        Test::Arn(own) => own.iter().flatten().all(|own| own.is_one_text()),
        Test::Address(own) => own.iter().all(|own| !own.is_wide()),
        Test::Number(..) | Test::Date(..) | Test::Bool(_) | Test::Binary(_) | Test::Null(_) => {
            false
        }
    }
}
