//! Values of condition keys in a request: what the client sent, who it is, and what the bucket knows.

use fula_core::{
    OwnerId,
    bucket::{TextMap, VersionId},
    root::TimeMs,
};

use super::policy::{EXISTING_TAG, Values, time};
use crate::caller::Caller;

/// What the keys for tags of the request begin with.
const REQUEST_TAG: &str = "s3:requestobjecttag/";

/// The values of one request.
pub(crate) struct RequestValues<'a> {
    pub(crate) caller: &'a Caller,
    /// Owner of the bucket.
    pub(crate) owner: OwnerId,
    /// Time of the arbiter, if it is known.
    pub(crate) time: Option<TimeMs>,
    /// Version that the request names.
    pub(crate) version: Option<VersionId>,
    /// Tags of the object as it is.
    pub(crate) tags: Option<TextMap>,
}

impl RequestValues<'_> {
    /// Returns the value of a key that is about the caller or the bucket.
    fn own(&self, key: &str) -> Option<String> {
        let identity = self.caller.identity.as_ref();
        let ms = || i64::try_from(self.time?).ok();
        match key {
            "aws:username" => identity.map(|who| who.user.clone()),
            "aws:userid" | "aws:principalaccount" => identity.map(|who| who.owner.to_string()),
            "aws:principalarn" => identity.map(|who| format!("arn:aws:iam::{}:root", who.owner)),
            "aws:principaltype" => {
                Some(if identity.is_some() { "Account" } else { "Anonymous" }.to_owned())
            }
            "aws:principalisawsservice" | "aws:viaawsservice" => Some("false".to_owned()),
            "aws:resourceaccount" | "s3:resourceaccount" => Some(self.owner.to_string()),
            "aws:currenttime" => ms().map(time::format),
            "aws:epochtime" => ms().map(|ms| (ms / 1000).to_string()),
            "s3:versionid" => self.version.map(|version| version.to_string()),
            _ => None,
        }
    }
}

impl Values for RequestValues<'_> {
    fn values(&self, key: &str) -> Option<Vec<String>> {
        if let Some(tag) = key.strip_prefix(EXISTING_TAG) {
            return Some(vec![self.tags.as_ref()?.get(tag)?.clone()]);
        }
        if let Some(tags) = &self.caller.request_tags {
            if let Some(tag) = key.strip_prefix(REQUEST_TAG) {
                return Some(vec![tags.get(tag)?.clone()]);
            }
            if key == "s3:requestobjecttagkeys" {
                return Some(tags.keys().cloned().collect());
            }
        }
        self.own(key).map(|value| vec![value]).or_else(|| self.caller.keys.0.as_ref()?.values(key))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fula_identity::Identity;

    use super::*;
    use crate::caller::RequestKeys;

    #[test]
    fn keys_have_the_values_of_the_request() {
        let tags = |key: &str| TextMap::from([(key.to_owned(), "v".to_owned())]);
        let sent = |key: &str| (key == "s3:prefix").then(|| vec!["in/".to_owned()]);
        let caller = Caller {
            keys: RequestKeys(Some(Arc::new(sent))),
            request_tags: Some(Arc::new(tags("new"))),
            ..Caller::of(Identity::of_user("key:alice"))
        };
        let id = OwnerId::of_user("key:alice").to_string();
        let values = RequestValues {
            caller: &caller,
            owner: OwnerId::of_user("key:bob"),
            time: Some(1_796_000_000_999),
            version: Some(VersionId::Null),
            tags: Some(tags("old")),
        };
        for (key, expected) in [
            ("aws:username", Some("key:alice")),
            ("aws:userid", Some(id.as_str())),
            ("aws:principalarn", Some(&*format!("arn:aws:iam::{id}:root"))),
            ("aws:epochtime", Some("1796000000")),
            ("aws:currenttime", Some("2026-11-30T00:53:20Z")),
            ("s3:versionid", Some("null")),
            ("s3:existingobjecttag/old", Some("v")),
            ("s3:existingobjecttag/new", None),
            ("s3:requestobjecttag/new", Some("v")),
            ("s3:requestobjecttag/old", None),
            ("s3:requestobjecttagkeys", Some("new")),
            ("s3:prefix", Some("in/")),
            ("s3:delimiter", None),
            ("aws:sourcevpc", None),
        ] {
            let found = values.values(key);
            assert_eq!(
                found.as_deref().and_then(<[_]>::first).map(String::as_str),
                expected,
                "{key}"
            );
        }
    }
}
