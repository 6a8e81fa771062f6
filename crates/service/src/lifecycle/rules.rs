//! Lifecycle rules: what they are about, and when what they name ends. Pure functions.

use fula_core::{
    bucket::{ObjectKind, ObjectRecord, TextMap},
    root::TimeMs,
};
use serde::{Deserialize, Serialize};

use crate::error::ServiceError;

const DAY_MS: TimeMs = 86_400_000;

/// The rules of a bucket, in the form in which they are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lifecycle {
    /// The rules, in the order in which they were put.
    pub rules: Vec<Rule>,
}

/// A rule. What it does not name ends never.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Rule {
    /// Name of the rule.
    pub id: String,
    /// Whether it has effect.
    pub enabled: bool,
    /// What it is about.
    pub filter: Filter,
    /// The form in which the filter was put.
    pub form: FilterForm,
    /// When current objects end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration: Option<Expiration>,
    /// When versions end that are no longer current.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noncurrent: Option<Noncurrent>,
    /// Number of days after which uploads in progress end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort_days: Option<u32>,
}

/// The form of a filter in XML, which comes back as it was put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FilterForm {
    /// `<Filter/>`
    #[default]
    Empty,
    /// One condition in `<Filter>`.
    One,
    /// Several conditions in `<Filter><And>`.
    And,
    /// `<Prefix>` of the rule itself.
    Prefix,
}

/// The objects that a rule is about: all conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Filter {
    /// What keys begin with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Tags that objects have.
    #[serde(skip_serializing_if = "TextMap::is_empty")]
    pub tags: TextMap,
    /// Size in bytes that objects exceed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub larger_than: Option<u64>,
    /// Size in bytes that objects stay below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smaller_than: Option<u64>,
}

/// When current objects end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Expiration {
    /// Number of days after they were written.
    Days(u32),
    /// From this time on, in milliseconds since 1970.
    Date(TimeMs),
    /// Delete markers without other versions end, and nothing else (`true`), or not (`false`).
    Markers(bool),
}

/// When versions end that are no longer current.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Noncurrent {
    /// Number of days after the next version was written.
    pub days: u32,
    /// Number of the newest of them that are kept.
    #[serde(default)]
    pub keep: u32,
}

/// A version of an object, as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Version<'a> {
    /// Key of the object.
    pub key: &'a str,
    /// Record of the version.
    pub record: &'a ObjectRecord,
    /// Tags of the version.
    pub tags: &'a TextMap,
    /// Place of the version.
    pub place: Place,
}

/// The place of a version among those of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the newest one. `alone`: there is no other.
    Newest {
        /// Whether the key has no other version.
        alone: bool,
    },
    /// There is a newer one.
    Older {
        /// Time at which the next newer version was written.
        since: TimeMs,
        /// Number of newer versions that are not the newest.
        newer: u32,
    },
}

/// Returns the midnight (UTC) that follows a number of days after a time, as AWS counts.
fn days_after(time: TimeMs, days: u32) -> TimeMs {
    (time + TimeMs::from(days) * DAY_MS).div_ceil(DAY_MS) * DAY_MS
}

impl Filter {
    /// Returns whether it is about an object.
    fn fits(&self, key: &str, size: u64, tags: &TextMap) -> bool {
        self.fits_key(key)
            && self.larger_than.is_none_or(|bound| size > bound)
            && self.smaller_than.is_none_or(|bound| size < bound)
            && self.tags.iter().all(|(key, value)| tags.get(key) == Some(value))
    }

    fn fits_key(&self, key: &str) -> bool {
        self.prefix.as_ref().is_none_or(|prefix| key.starts_with(prefix.as_str()))
    }
}

impl Rule {
    /// Returns the time at which a version ends by this rule.
    fn end(&self, version: Version<'_>) -> Option<TimeMs> {
        let Version { key, record, tags, place } = version;
        if !self.enabled {
            return None;
        }
        let is_marker = record.kind == ObjectKind::DeleteMarker;
        match place {
            // A marker has neither size nor tags.
            Place::Newest { alone } if is_marker => {
                let is_about = self.filter.fits_key(key) && self.filter.tags.is_empty();
                match self.expiration.filter(|_| alone && is_about)? {
                    Expiration::Days(days) => Some(days_after(record.time, days)),
                    Expiration::Date(date) => Some(date),
                    Expiration::Markers(ends) => ends.then_some(record.time),
                }
            }
            Place::Newest { .. } => {
                match self.expiration.filter(|_| self.filter.fits(key, record.size, tags))? {
                    Expiration::Days(days) => Some(days_after(record.time, days)),
                    Expiration::Date(date) => Some(date),
                    Expiration::Markers(_) => None,
                }
            }
            Place::Older { since, newer } => {
                let is_about = if is_marker {
                    self.filter.fits_key(key) && self.filter.tags.is_empty()
                } else {
                    self.filter.fits(key, record.size, tags)
                };
                let Noncurrent { days, keep } = self.noncurrent.filter(|_| is_about)?;
                (newer >= keep).then(|| days_after(since, days))
            }
        }
    }
}

impl Lifecycle {
    /// Parses the rules that a bucket stores.
    ///
    /// # Errors
    /// [`ServiceError::Internal`] for a text that is none: a newer build may have stored it.
    pub fn parse(text: &str) -> Result<Self, ServiceError> {
        serde_json::from_str(text)
            .map_err(|error| ServiceError::bug(format!("lifecycle rules cannot be read: {error}")))
    }

    /// Returns the rules as they are stored.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Returns the first end of a version, and the rule that ends it.
    pub fn end(&self, version: Version<'_>) -> Option<(TimeMs, &str)> {
        let ends =
            self.rules.iter().filter_map(|rule| Some((rule.end(version)?, rule.id.as_str())));
        ends.min_by_key(|(time, _)| *time)
    }

    /// Returns the first end of an upload in progress.
    pub fn upload_end(&self, key: &str, initiated: TimeMs) -> Option<TimeMs> {
        let applies = |rule: &&Rule| rule.enabled && rule.filter.fits_key(key);
        let ends = self.rules.iter().filter(applies).filter_map(|rule| rule.abort_days);
        ends.map(|days| days_after(initiated, days)).min()
    }

    /// Returns whether any rule has effect.
    pub fn has_effect(&self) -> bool {
        self.rules.iter().any(|rule| rule.enabled)
    }

    /// Returns whether the rules are about tags.
    pub fn needs_tags(&self) -> bool {
        self.rules.iter().any(|rule| rule.enabled && !rule.filter.tags.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::record::{Maps, bare_record};

    fn record(time: TimeMs, size: u64) -> ObjectRecord {
        ObjectRecord { time, size, ..bare_record(Maps::default(), None) }
    }

    fn marker(time: TimeMs) -> ObjectRecord {
        ObjectRecord { kind: ObjectKind::DeleteMarker, ..record(time, 0) }
    }

    fn rule(expiration: Option<Expiration>) -> Rule {
        Rule { id: "r".to_owned(), enabled: true, expiration, ..Rule::default() }
    }

    fn end_of(rule: &Rule, record: &ObjectRecord, place: Place) -> Option<TimeMs> {
        let tags = TextMap::from([("t".to_owned(), "1".to_owned())]);
        rule.end(Version { key: "in/k", record, tags: &tags, place })
    }

    const NEWEST: Place = Place::Newest { alone: true };

    #[test]
    fn days_end_at_midnight() {
        let rule = rule(Some(Expiration::Days(1)));
        for (time, expected) in
            [(0, DAY_MS), (1, 2 * DAY_MS), (DAY_MS, 2 * DAY_MS), (DAY_MS + 5, 3 * DAY_MS)]
        {
            assert_eq!(end_of(&rule, &record(time, 1), NEWEST), Some(expected), "{time}");
        }
    }

    #[test]
    fn what_each_rule_ends() {
        let (object, marker) = (record(0, 5), marker(0));
        let older = |newer| Place::Older { since: 0, newer };
        let with_others = Place::Newest { alone: false };
        let days = rule(Some(Expiration::Days(1)));
        let date = rule(Some(Expiration::Date(7)));
        let markers = rule(Some(Expiration::Markers(true)));
        let noncurrent = Rule { noncurrent: Some(Noncurrent { days: 1, keep: 2 }), ..rule(None) };
        let off = Rule { enabled: false, ..days.clone() };
        for (rule, record, place, expected) in [
            (&days, &object, NEWEST, Some(DAY_MS)),
            (&days, &object, with_others, Some(DAY_MS)),
            (&days, &object, older(5), None),
            (&days, &marker, NEWEST, Some(DAY_MS)),
            (&days, &marker, with_others, None),
            (&date, &object, NEWEST, Some(7)),
            (&markers, &object, NEWEST, None),
            (&markers, &marker, NEWEST, Some(0)),
            (&markers, &marker, with_others, None),
            (&noncurrent, &object, NEWEST, None),
            (&noncurrent, &object, older(1), None),
            (&noncurrent, &object, older(2), Some(DAY_MS)),
            (&noncurrent, &marker, older(2), Some(DAY_MS)),
            (&off, &object, NEWEST, None),
        ] {
            assert_eq!(end_of(rule, record, place), expected, "{rule:?} {place:?}");
        }
    }

    #[test]
    fn filters_hold_together() {
        let filter = |filter: Filter| {
            let rule = Rule { filter, ..rule(Some(Expiration::Date(1))) };
            end_of(&rule, &record(0, 5), NEWEST).is_some()
        };
        let tag = |value: &str| TextMap::from([("t".to_owned(), value.to_owned())]);
        let prefix = |text: &str| Some(text.to_owned());
        assert!(filter(Filter::default()));
        assert!(filter(Filter { prefix: prefix("in/"), tags: tag("1"), ..Filter::default() }));
        assert!(!filter(Filter { prefix: prefix("out/"), ..Filter::default() }));
        assert!(!filter(Filter { prefix: prefix("in/"), tags: tag("2"), ..Filter::default() }));
        assert!(filter(Filter {
            larger_than: Some(4),
            smaller_than: Some(6),
            ..Filter::default()
        }));
        assert!(!filter(Filter { larger_than: Some(5), ..Filter::default() }));
        assert!(!filter(Filter { smaller_than: Some(5), ..Filter::default() }));
    }

    #[test]
    fn the_first_end_counts_and_rules_come_back() {
        let lifecycle = Lifecycle {
            rules: vec![
                Rule { id: "late".to_owned(), ..rule(Some(Expiration::Days(9))) },
                Rule {
                    id: "soon".to_owned(),
                    abort_days: Some(1),
                    ..rule(Some(Expiration::Days(2)))
                },
            ],
        };
        let (object, tags) = (record(0, 1), TextMap::new());
        let version = Version { key: "k", record: &object, tags: &tags, place: NEWEST };
        assert_eq!(lifecycle.end(version), Some((2 * DAY_MS, "soon")));
        assert_eq!(lifecycle.upload_end("k", 0), Some(DAY_MS));
        assert_eq!(Lifecycle::parse(&lifecycle.to_text()).unwrap(), lifecycle);
        assert!(Lifecycle::parse(r#"{"rules": [{"colour": 1}]}"#).is_err());
    }
}
