//! What requests of the Pinning Service API ask, checked against the bounds of its specification.

use std::collections::{BTreeMap, BTreeSet};

use fula_core::foreign::ForeignCid;
use fula_service::pinning::{NameMatch, NewPin, PinQuery, PinStatus};
use http::{HeaderMap, header};
use serde::Deserialize;
use time::{Date, Month, PrimitiveDateTime, Time, UtcOffset};

use super::answer::Refused;

/// Longest name of a pin, in characters.
const NAME_MAX: usize = 255;

/// Most addresses of one pin, and the longest one in bytes.
const ORIGINS_MAX: usize = 20;
const ORIGIN_BYTES_MAX: usize = 512;

/// Most entries of metadata, and the length of all together in bytes. Every listing reads them.
const META_MAX: usize = 1000;
const META_BYTES_MAX: usize = 8 << 10;

/// Most CIDs of a query.
const CIDS_MAX: usize = 10;

/// Number of pins in a page: the default, and the largest.
const PAGE: usize = 10;
const PAGE_MAX: usize = 1000;

/// The body of a request to add a pin. Other fields are left alone.
#[derive(Debug, Deserialize)]
struct Body {
    cid: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    origins: Option<Vec<String>>,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
}

/// Checks that a body says that it is JSON, or says nothing.
///
/// # Errors
/// [`Refused`] for another type.
pub(super) fn check_type(headers: &HeaderMap) -> Result<(), Refused> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let is_json = kind.to_str().is_ok_and(|kind| {
        kind.split(';')
            .next()
            .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    });
    if is_json { Ok(()) } else { Err(Refused::bad_request("the body is application/json")) }
}

fn cid_of(text: &str) -> Result<ForeignCid, Refused> {
    let bad = || Refused::bad_request(&format!("{:?} is no CID", shortened(text)));
    text.parse().map_err(|_| bad())
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Reads a request to add a pin.
///
/// # Errors
/// [`Refused`], with what is wrong.
pub(super) fn pin_of(body: &[u8]) -> Result<NewPin, Refused> {
    let bad = |text: &str| Err(Refused::bad_request(text));
    let parsed: Body = match serde_json::from_slice(body) {
        Ok(parsed) => parsed,
        Err(error) => return bad(&format!("the body is no pin object: {error}")),
    };
    let root = cid_of(&parsed.cid)?;
    if let Err(error) = root.check_supported() {
        return bad(&error.to_string());
    }
    if parsed.name.as_ref().is_some_and(|name| name.chars().count() > NAME_MAX) {
        return bad("the name is longer than 255 characters");
    }
    let origins = parsed.origins.unwrap_or_default();
    let is_address = |origin: &String| {
        let peer = origin.rsplit_once("/p2p/").map_or("", |(_, peer)| peer);
        origin.len() <= ORIGIN_BYTES_MAX
            && origin.starts_with('/')
            && !peer.is_empty()
            && peer.bytes().all(|c| c.is_ascii_alphanumeric())
    };
    if origins.len() > ORIGINS_MAX || !origins.iter().all(is_address) {
        return bad("origins are at most 20 multiaddrs, and each ends with /p2p/PEER");
    }
    if origins.iter().collect::<BTreeSet<_>>().len() != origins.len() {
        return bad("every origin stands there once");
    }
    let meta = parsed.meta.unwrap_or_default();
    let meta_bytes: usize = meta.iter().map(|(key, value)| key.len() + value.len()).sum();
    if meta.len() > META_MAX || meta_bytes > META_BYTES_MAX {
        return bad("the metadata has at most 1000 entries and 8 KiB");
    }
    let (cid, name) = (parsed.cid, parsed.name);
    Ok(NewPin { cid, root, name, origins, meta, delegates: Vec::new() })
}

/// Reads the query of a listing. Unknown parameters are left alone.
///
/// # Errors
/// [`Refused`], with what is wrong.
pub(super) fn query_of(text: &str) -> Result<PinQuery, Refused> {
    let mut query = PinQuery { limit: PAGE, ..PinQuery::default() };
    let mut how = None;
    let mut seen = BTreeSet::new();
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        let is_known = matches!(
            &*name,
            "cid" | "name" | "match" | "status" | "before" | "after" | "limit" | "meta"
        );
        if is_known && !seen.insert(name.to_string()) {
            return Err(Refused::bad_request(&format!("{name} stands there twice")));
        }
        read_parameter(&mut query, &mut how, &name, &value)?;
    }
    if let Some(name) = &mut query.name {
        name.1 = how.unwrap_or_default();
    }
    // Without any filter, only what is pinned is listed.
    if query.statuses.is_empty() {
        query.statuses = vec![PinStatus::Pinned];
    }
    Ok(query)
}

fn read_parameter(
    query: &mut PinQuery,
    how: &mut Option<NameMatch>,
    name: &str,
    value: &str,
) -> Result<(), Refused> {
    let bad = |text: &str| Err(Refused::bad_request(text));
    match name {
        "cid" => {
            let cids: Result<Vec<_>, _> = value.split(',').map(cid_of).collect();
            query.cids = cids?;
            if query.cids.len() > CIDS_MAX {
                return bad("cid has at most 10 CIDs");
            }
        }
        "name" if value.chars().count() > NAME_MAX => {
            return bad("name is longer than 255 characters");
        }
        "name" => query.name = Some((value.to_owned(), NameMatch::Exact)),
        "match" => {
            *how = Some(match value {
                "exact" => NameMatch::Exact,
                "iexact" => NameMatch::IgnoringCase,
                "partial" => NameMatch::Part,
                "ipartial" => NameMatch::PartIgnoringCase,
                _ => return bad("match is exact, iexact, partial or ipartial"),
            });
        }
        "status" => {
            for item in value.split(',') {
                query.statuses.push(match item {
                    "queued" => PinStatus::Queued,
                    "pinning" => PinStatus::Pinning,
                    "pinned" => PinStatus::Pinned,
                    "failed" => PinStatus::Failed,
                    _ => return bad("status has queued, pinning, pinned and failed, with commas"),
                });
            }
        }
        "before" | "after" => {
            let text = "it is a time such as 2020-07-27T17:32:28.123Z";
            let Some((floor, is_exact)) = parse_time(value) else {
                return bad(&format!("{name}: {text}"));
            };
            if name == "before" {
                query.before = Some(if is_exact { floor } else { floor + 1 });
            } else {
                query.after = Some(floor);
            }
        }
        "limit" => match value.parse() {
            Ok(limit @ 1..=PAGE_MAX) => query.limit = limit,
            _ => return bad("limit is a number from 1 to 1000"),
        },
        "meta" => match serde_json::from_str(value) {
            Ok(meta) => query.meta = meta,
            Err(_) => return bad("meta is a JSON object whose values are texts"),
        },
        _ => {}
    }
    Ok(())
}

/// Parses a time of RFC 3339. Returns milliseconds since 1970, rounded down, and whether nothing was cut off.
fn parse_time(text: &str) -> Option<(u64, bool)> {
    let number = |range: std::ops::Range<usize>| -> Option<u16> {
        let digits = text.get(range)?;
        digits.bytes().all(|c| c.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let small = |range| number(range).and_then(|number| u8::try_from(number).ok());
    let is_at =
        |at: usize, marks: &[u8]| text.as_bytes().get(at).is_some_and(|c| marks.contains(c));
    let is_form =
        is_at(4, b"-") && is_at(7, b"-") && is_at(10, b"Tt ") && is_at(13, b":") && is_at(16, b":");
    if !is_form {
        return None;
    }
    let month = Month::try_from(small(5..7)?).ok()?;
    let date = Date::from_calendar_date(i32::from(number(0..4)?), month, small(8..10)?).ok()?;
    // A second that was inserted counts as the one before it.
    let time = Time::from_hms(small(11..13)?, small(14..16)?, small(17..19)?.min(59)).ok()?;
    let mut rest = text.get(19..)?;
    let (mut nanos, mut is_exact) = (0_u32, true);
    if let Some(fraction) = rest.strip_prefix('.') {
        let len = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if len == 0 {
            return None;
        }
        let digits: String = fraction[..len].chars().chain("000000000".chars()).take(9).collect();
        nanos = digits.parse().ok()?;
        is_exact =
            nanos.is_multiple_of(1_000_000) && fraction[..len].bytes().skip(9).all(|c| c == b'0');
        rest = &fraction[len..];
    }
    let offset = match rest.as_bytes() {
        b"Z" | b"z" => UtcOffset::UTC,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let part = |range: std::ops::Range<usize>| -> Option<i8> {
                let digits = rest.get(range)?;
                digits.bytes().all(|c| c.is_ascii_digit()).then(|| digits.parse().ok())?
            };
            let (hours, minutes) = (part(1..3)?, part(4..6)?);
            let sign = if *sign == b'-' { -1 } else { 1 };
            UtcOffset::from_hms(sign * hours, sign * minutes, 0).ok()?
        }
        _ => return None,
    };
    let seconds = PrimitiveDateTime::new(date, time).assume_offset(offset).unix_timestamp();
    let seconds = u64::try_from(seconds).ok()?;
    Some((seconds * 1000 + u64::from(nanos / 1_000_000), is_exact))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am";

    #[test]
    fn times_of_rfc_3339_are_read() {
        for (text, expected) in [
            ("2020-07-27T17:32:28Z", Some((1_595_871_148_000, true))),
            ("2020-07-27T17:32:28.007Z", Some((1_595_871_148_007, true))),
            ("2020-07-27T17:32:28.0071Z", Some((1_595_871_148_007, false))),
            ("2020-07-27T17:32:28.007000000Z", Some((1_595_871_148_007, true))),
            ("2020-07-27T19:32:28.1+02:00", Some((1_595_871_148_100, true))),
            ("2020-07-27T10:32:28-07:00", Some((1_595_871_148_000, true))),
            ("2020-07-27", None),
            ("2020-07-27T17:32:28", None),
            ("2020-07-27T17:32:28.Z", None),
            ("2020-13-27T17:32:28Z", None),
            ("2020-07-27T17:32:28+0200", None),
            ("2020-07-27T17:32:28+-2:00", None),
            ("1960-07-27T17:32:28Z", None),
            ("", None),
        ] {
            assert_eq!(parse_time(text), expected, "{text}");
        }
    }

    #[test]
    fn queries_are_read_and_bounded() {
        let found = query_of("").unwrap();
        assert_eq!((found.limit, &found.statuses[..]), (10, &[PinStatus::Pinned][..]));
        let text = format!(
            "cid={CID}&name=a%20b&match=ipartial&status=queued%2Cpinning&limit=1000&\
             before=2020-07-27T17:32:28.0071Z&after=2020-07-27T17:32:28.0071Z&meta=%7B%22k%22%3A%22v%22%7D&x=y"
        );
        let found = query_of(&text).unwrap();
        assert_eq!(found.name, Some(("a b".to_owned(), NameMatch::PartIgnoringCase)));
        assert_eq!(found.statuses, [PinStatus::Queued, PinStatus::Pinning]);
        assert_eq!((found.before, found.after), (Some(1_595_871_148_008), Some(1_595_871_148_007)));
        assert_eq!((found.cids.len(), found.limit, found.meta["k"].as_str()), (1, 1000, "v"));
        let eleven = [CID; 11].join(",");
        for bad in [
            "limit=0",
            "limit=1001",
            "limit=x",
            "match=bogus",
            "status=bogus",
            "status=",
            "before=x",
            "after=2020",
            "meta=%5B%5D",
            "meta=%7B%22k%22%3A1%7D",
            "cid=x",
            "cid=",
            &format!("cid={eleven}"),
            &format!("name={}", "n".repeat(256)),
            "limit=1&limit=2",
        ] {
            assert!(query_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pins_are_read_and_bounded() {
        let pin = |body: &str| pin_of(body.as_bytes());
        let plain = pin(&format!(r#"{{"cid":"{CID}","meta":{{}},"later":1}}"#)).unwrap();
        assert_eq!((plain.cid.as_str(), plain.name, plain.origins.len()), (CID, None, 0));
        let full = pin(&format!(
            r#"{{"cid":"{CID}","name":"n","origins":["/ip4/1.2.3.4/tcp/1/p2p/QmX"],"meta":{{"a":"b"}}}}"#
        ));
        assert_eq!(full.unwrap().meta["a"], "b");
        let with = |rest: &str| format!(r#"{{"cid":"{CID}",{rest}}}"#);
        let origins = vec![r#""/ip4/1.2.3.4/tcp/1/p2p/Q""#; 21].join(",");
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"cid":5}"#,
            r#"{"cid":"x"}"#,
            // A codec that links in a way which is not read here.
            r#"{"cid":"baguqeerasords4njcts6vs7qvdjfcvgnume4hqohf65zsfguprqphs3icwea"}"#,
            &with(&format!(r#""name":"{}""#, "n".repeat(256))),
            &with(r#""name":5"#),
            &with(r#""meta":{"a":1}"#),
            &with(&format!(r#""meta":{{"a":"{}"}}"#, "x".repeat(9000))),
            &with(r#""origins":["/ip4/1.2.3.4/tcp/1"]"#),
            &with(r#""origins":["http://x/p2p/Q"]"#),
            &with(r#""origins":["/ip4/1.2.3.4/tcp/1/p2p/Q","/ip4/1.2.3.4/tcp/1/p2p/Q"]"#),
            &with(&format!(r#""origins":[{origins}]"#)),
        ] {
            assert!(pin(bad).is_err(), "{bad}");
        }
    }
}
