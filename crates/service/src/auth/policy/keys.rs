//! Condition keys: which a policy names, and their values in a request.

use std::cell::OnceCell;

/// The source of the values of condition keys.
///
/// Names are in lower case, but for what follows a `/`: the key of a tag. A key that the request does not have
/// gives `None`.
pub trait Values {
    /// Returns the values of a key in the request.
    fn values(&self, key: &str) -> Option<Vec<String>>;
}

impl<F: Fn(&str) -> Option<Vec<String>>> Values for F {
    fn values(&self, key: &str) -> Option<Vec<String>> {
        self(key)
    }
}

/// Returns the name of a condition key in its one spelling.
pub(super) fn normal(name: &str) -> String {
    match name.split_once('/') {
        Some((kind, tag)) => format!("{}/{tag}", kind.to_ascii_lowercase()),
        None => name.to_ascii_lowercase(),
    }
}

/// The keys that a policy names, once each.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys(Vec<String>);

impl Keys {
    /// Adds a key, and returns its number.
    pub(super) fn add(&mut self, name: &str) -> usize {
        let name = normal(name);
        let found = self.0.iter().position(|own| *own == name);
        found.unwrap_or_else(|| {
            self.0.push(name);
            self.0.len() - 1
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Begins to look up the keys in a request. Each is looked up once, when it is needed.
    pub(super) fn look_up<'a>(&'a self, values: &'a dyn Values) -> Lookup<'a> {
        let found = self.0.iter().map(|_| OnceCell::new()).collect();
        Lookup { keys: self, values, found }
    }
}

/// The keys of a policy in one request.
pub(super) struct Lookup<'a> {
    keys: &'a Keys,
    values: &'a dyn Values,
    found: Vec<OnceCell<Option<Vec<String>>>>,
}

impl Lookup<'_> {
    /// Returns the values of a key by its number. A key without any value is one that is not there.
    pub(super) fn get(&self, key: usize) -> Option<&[String]> {
        let found = self.found[key].get_or_init(|| self.values.values(&self.keys.0[key]));
        found.as_deref().filter(|values| !values.is_empty())
    }
}

/// What can be said of a condition key when a policy is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Requests may have it.
    Offered,
    /// AWS has it. A policy with it could not be enforced here.
    NotOffered,
    /// There is no such key.
    Unknown,
}

/// Keys of every service of AWS. What no request here can have, such as a network of AWS, is absent.
const GLOBAL: &[&str] = &[
    "aws:calledvia",
    "aws:calledviafirst",
    "aws:calledvialast",
    "aws:currenttime",
    "aws:ec2instancesourceprivateipv4",
    "aws:ec2instancesourcevpc",
    "aws:epochtime",
    "aws:federatedprovider",
    "aws:multifactorauthage",
    "aws:multifactorauthpresent",
    "aws:principalaccount",
    "aws:principalarn",
    "aws:principalisawsservice",
    "aws:principalorgid",
    "aws:principalorgpaths",
    "aws:principalservicename",
    "aws:principalservicenameslist",
    "aws:principaltype",
    "aws:referer",
    "aws:resourceaccount",
    "aws:resourceorgid",
    "aws:resourceorgpaths",
    "aws:securetransport",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceip",
    "aws:sourceorgid",
    "aws:sourceorgpaths",
    "aws:sourcevpc",
    "aws:sourcevpcarn",
    "aws:sourcevpce",
    "aws:useragent",
    "aws:userid",
    "aws:username",
    "aws:viaawsservice",
    "aws:vpceaccount",
    "aws:vpceorgid",
    "aws:vpceorgpaths",
    "aws:vpcsourceip",
];

/// Keys of S3.
const OWN: &[&str] = &[
    "s3:accessgrantsinstancearn",
    "s3:accesspointnetworkorigin",
    "s3:dataaccesspointaccount",
    "s3:dataaccesspointarn",
    "s3:delimiter",
    "s3:if-match",
    "s3:if-none-match",
    "s3:max-keys",
    "s3:prefix",
    "s3:requestobjecttagkeys",
    "s3:resourceaccount",
    "s3:versionid",
    "s3:x-amz-acl",
    "s3:x-amz-content-sha256",
    "s3:x-amz-copy-source",
    "s3:x-amz-grant-full-control",
    "s3:x-amz-grant-read",
    "s3:x-amz-grant-read-acp",
    "s3:x-amz-grant-write",
    "s3:x-amz-grant-write-acp",
    "s3:x-amz-metadata-directive",
    "s3:x-amz-object-ownership",
    "s3:x-amz-server-side-encryption",
    "s3:x-amz-server-side-encryption-aws-kms-key-id",
    "s3:x-amz-server-side-encryption-customer-algorithm",
    "s3:x-amz-storage-class",
    "s3:x-amz-website-redirect-location",
];

const NOT_OFFERED: &[&str] = &[
    "aws:requestedregion",
    "aws:tokenissuetime",
    "s3:authtype",
    "s3:inventoryaccessibleoptionalfields",
    "s3:isreplicationpauserequest",
    "s3:jobsuspendedcause",
    "s3:locationconstraint",
    "s3:object-lock-legal-hold",
    "s3:object-lock-mode",
    "s3:object-lock-remaining-retention-days",
    "s3:object-lock-retain-until-date",
    "s3:objectcreationoperation",
    "s3:signatureage",
    "s3:signatureversion",
    "s3:tlsversion",
];

/// Returns what is known of a key.
pub(super) fn known(name: &str) -> Known {
    let name = normal(name);
    if let Some((kind, tag)) = name.split_once('/') {
        let kinds = ["s3:existingobjecttag", "s3:requestobjecttag", "aws:principaltag"];
        return match (kinds.contains(&kind), kind) {
            (true, _) if !tag.is_empty() => Known::Offered,
            (_, "aws:requesttag" | "aws:resourcetag" | "s3:buckettag") => Known::NotOffered,
            _ => Known::Unknown,
        };
    }
    let is_in = |list: &[&str]| list.binary_search(&name.as_str()).is_ok();
    if is_in(GLOBAL) || is_in(OWN) {
        Known::Offered
    } else if is_in(NOT_OFFERED) {
        Known::NotOffered
    } else {
        Known::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_in_any_spelling() {
        for list in [GLOBAL, OWN, NOT_OFFERED] {
            assert!(list.is_sorted());
        }
        for (name, expected) in [
            ("aws:SourceIp", Known::Offered),
            ("AWS:SOURCEIP", Known::Offered),
            ("s3:prefix", Known::Offered),
            ("s3:ExistingObjectTag/Team", Known::Offered),
            ("s3:ExistingObjectTag/", Known::Unknown),
            ("s3:signatureAge", Known::NotOffered),
            ("s3:colour", Known::Unknown),
            ("iam:PassedToService", Known::Unknown),
        ] {
            assert_eq!(known(name), expected, "{name}");
        }
        assert_eq!(normal("S3:ExistingObjectTag/Team"), "s3:existingobjecttag/Team");
    }
}
