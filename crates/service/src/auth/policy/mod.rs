//! Bucket policies: what an owner allows others, and what it forbids everyone (docs/adr/0046).
//!
//! [`Policy::decide`] is a pure function of the policy and the request. It takes no time that depends on
//! anything but these: a policy has at most 20 KiB, and each of its patterns is compared in linear time.

mod actions;
mod condition;
mod document;
mod keys;
mod pattern;
mod principal;
mod status;
mod template;
#[cfg(test)]
mod tests;
pub(crate) mod time;

use fula_core::{BucketName, OwnerId};

pub use self::{actions::ActionId, keys::Values};
use self::{
    actions::ActionSet,
    condition::Condition,
    document::{Document, Named},
    keys::{Keys, Lookup},
    principal::Principals,
    template::Template,
};
use crate::error::ServiceError;

/// Longest policy in bytes, as on AWS.
pub const POLICY_BYTES_MAX: usize = 20 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Allow,
    Deny,
}

/// A policy that is ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    statements: Vec<Statement>,
    /// Condition keys that it names.
    keys: Keys,
}

#[derive(Clone, Debug)]
struct Statement {
    effect: Effect,
    principals: Principals,
    actions: ActionSet,
    resources: Named<Template>,
    conditions: Vec<Condition>,
}

/// A request that a policy decides about.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Owner id of the caller; `None` is anonymous.
    pub who: Option<OwnerId>,
    /// Whether statements that name the caller allow it anything. A credential with scopes that do not cover
    /// the request has only what everyone has.
    pub as_named: bool,
    /// The action.
    pub action: ActionId,
    /// The bucket, or the bucket, a slash and the key.
    pub resource: &'a str,
}

/// What a policy says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A statement forbids it, whatever others say.
    Denied,
    /// A statement allows it, and none forbids it.
    Allowed,
    /// No statement is about it.
    Unsaid,
}

impl Policy {
    /// Reads a policy that is stored.
    ///
    /// # Errors
    /// [`ServiceError::MalformedPolicy`].
    pub fn parse(text: &str) -> Result<Self, ServiceError> {
        Self::of(&Document::parse(text)?)
    }

    /// Reads a policy that is to be put, and refuses what AWS refuses then.
    ///
    /// # Errors
    /// [`ServiceError::MalformedPolicy`]; [`ServiceError::NotImplemented`] for conditions that cannot be
    /// enforced.
    pub fn check(text: &str, bucket: &BucketName) -> Result<Self, ServiceError> {
        let document = Document::parse(text)?;
        document.check(bucket)?;
        Self::of(&document)
    }

    fn of(document: &Document) -> Result<Self, ServiceError> {
        let (mut keys, reading) = (Keys::default(), document.reading());
        let mut statements = Vec::with_capacity(document.statements.len());
        for written in &document.statements {
            statements.push(Statement {
                effect: written.effect,
                principals: written.principals.clone(),
                actions: written.action_set(),
                resources: written.resource_set(reading, &mut keys),
                conditions: written.condition_set(reading, &mut keys)?,
            });
        }
        Ok(Self { statements, keys })
    }

    /// Decides about a request. `values` has what conditions ask of it.
    pub fn decide(&self, asked: &Asked<'_>, values: &dyn Values) -> Decision {
        let lookup = self.keys.look_up(values);
        let mut decision = Decision::Unsaid;
        for statement in &self.statements {
            let is_known = statement.effect == Effect::Allow && decision == Decision::Allowed;
            if is_known || !statement.applies(asked, &lookup) {
                continue;
            }
            match statement.effect {
                Effect::Deny => return Decision::Denied,
                Effect::Allow => decision = Decision::Allowed,
            }
        }
        decision
    }

    /// Returns whether any statement allows a caller anything, under whatever conditions.
    pub fn mentions(&self, who: Option<OwnerId>) -> bool {
        let allows = |statement: &Statement| {
            statement.effect == Effect::Allow && statement.principals.include(who)
        };
        self.statements.iter().any(allows)
    }

    /// Returns whether a condition or a variable needs a tag of the object that exists.
    pub fn needs_tags(&self) -> bool {
        self.keys.iter().any(|key| key.starts_with(EXISTING_TAG))
    }
}

/// What the keys for tags of the object that exists begin with.
pub(crate) const EXISTING_TAG: &str = "s3:existingobjecttag/";

impl Statement {
    fn applies(&self, asked: &Asked<'_>, lookup: &Lookup<'_>) -> bool {
        self.actions.has(asked.action)
            && self.principals.include(asked.who)
            && (asked.as_named || self.effect == Effect::Deny || self.principals.are_unnamed())
            && self.covers(asked.resource, lookup)
            && self.conditions.iter().all(|condition| condition.holds(lookup))
    }

    fn covers(&self, resource: &str, lookup: &Lookup<'_>) -> bool {
        let is_named = self.resources.list.iter().any(|own| own.matches(resource, lookup));
        is_named != self.resources.is_negated
    }
}
