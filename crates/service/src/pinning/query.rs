//! Which pins a listing has.

use std::collections::BTreeMap;

use fula_core::{foreign::ForeignCid, root::TimeMs};

use super::state::{PinState, PinStatus};

/// How a name is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameMatch {
    /// All of it is the same.
    #[default]
    Exact,
    /// All of it is the same, but for upper and lower case.
    IgnoringCase,
    /// It is part of the name of the pin.
    Part,
    /// It is part of the name, but for upper and lower case.
    PartIgnoringCase,
}

/// What a listing asks for. Empty lists and maps exclude nothing.
#[derive(Clone, Debug, Default)]
pub struct PinQuery {
    /// Pins of one of these CIDs.
    pub cids: Vec<ForeignCid>,
    /// Pins with this name.
    pub name: Option<(String, NameMatch)>,
    /// Pins with one of these statuses.
    pub statuses: Vec<PinStatus>,
    /// Pins that were made before this time in milliseconds since 1970.
    pub before: Option<TimeMs>,
    /// Pins that were made after this time.
    pub after: Option<TimeMs>,
    /// Largest number of pins in the page.
    pub limit: usize,
    /// Pins that have all of these in their metadata.
    pub meta: BTreeMap<String, String>,
}

/// A page of a listing, the newest first.
#[derive(Clone, Debug, Default)]
pub struct PinPage {
    /// Number of pins that fit the query, in this page and after it.
    pub count: u64,
    /// The first of them.
    pub pins: Vec<PinState>,
}

impl PinQuery {
    /// Returns whether a pin fits, whatever its time.
    pub(super) fn fits(&self, pin: &PinState) -> bool {
        (self.statuses.is_empty() || self.statuses.contains(&pin.status))
            && self.name.as_ref().is_none_or(|(name, how)| how.fits(name, pin.name.as_deref()))
            && self.meta.iter().all(|(key, value)| pin.meta.get(key) == Some(value))
            && (self.cids.is_empty() || pin.root().is_ok_and(|cid| self.cids.contains(&cid)))
    }
}

impl NameMatch {
    fn fits(self, asked: &str, name: Option<&str>) -> bool {
        let Some(name) = name else { return false };
        match self {
            Self::Exact => name == asked,
            Self::IgnoringCase => name.to_lowercase() == asked.to_lowercase(),
            Self::Part => name.contains(asked),
            Self::PartIgnoringCase => name.to_lowercase().contains(&asked.to_lowercase()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_filter_excludes() {
        let pin = PinState {
            cid: "bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am".to_owned(),
            name: Some("Holiday.JPG".to_owned()),
            meta: [("app".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into(),
            status: PinStatus::Pinned,
            ..PinState::default()
        };
        let fits = |query: PinQuery| query.fits(&pin);
        assert!(fits(PinQuery::default()));
        let statuses = |status| PinQuery { statuses: vec![status], ..PinQuery::default() };
        assert!(fits(statuses(PinStatus::Pinned)) && !fits(statuses(PinStatus::Queued)));
        let meta = |value: &str| PinQuery {
            meta: [("app".to_owned(), value.to_owned())].into(),
            ..PinQuery::default()
        };
        assert!(fits(meta("1")) && !fits(meta("2")));
        // The same CID in another base is the same.
        let upper: ForeignCid = pin.cid.to_uppercase().parse().unwrap();
        let other: ForeignCid = "QmZULkCELmmk5XNfCgTnCyFgAVxBRBXyDHGGMVoLFLiXEN".parse().unwrap();
        assert!(fits(PinQuery { cids: vec![other, upper], ..PinQuery::default() }));
        assert!(!fits(PinQuery { cids: vec![other], ..PinQuery::default() }));
        for (how, asked, expected) in [
            (NameMatch::Exact, "Holiday.JPG", true),
            (NameMatch::Exact, "holiday.jpg", false),
            (NameMatch::Exact, "Holiday", false),
            (NameMatch::IgnoringCase, "holiday.jpg", true),
            (NameMatch::IgnoringCase, "holiday", false),
            (NameMatch::Part, "lid", true),
            (NameMatch::Part, "LID", false),
            (NameMatch::PartIgnoringCase, "LIDAY.j", true),
            (NameMatch::PartIgnoringCase, "x", false),
        ] {
            let query = PinQuery { name: Some((asked.to_owned(), how)), ..PinQuery::default() };
            assert_eq!(fits(query), expected, "{how:?} {asked}");
        }
        let nameless = PinState { name: None, ..pin.clone() };
        let query =
            PinQuery { name: Some((String::new(), NameMatch::Part)), ..PinQuery::default() };
        assert!(!query.fits(&nameless));
    }
}
