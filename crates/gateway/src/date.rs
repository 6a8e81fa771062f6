//! Dates and times in requests and answers.

use std::time::{Duration, UNIX_EPOCH};

use fula_identity::Seconds;
use http::HeaderValue;
use s3s::dto::{Timestamp, TimestampFormat};
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

/// Converts a time in milliseconds since 1970 to a timestamp of `s3s`, in whole seconds as in AWS and in
/// HTTP headers.
pub(crate) fn timestamp(time_ms: u64) -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_secs(time_ms / 1000))
}

/// Appends a time in milliseconds since 1970 in the form of XML answers, in whole seconds, as in
/// `2026-01-31T23:59:59.000Z`. A time after the year 9999 is shown as the last of it.
pub(crate) fn push_iso(out: &mut String, time_ms: u64) {
    const LAST: u64 = 253_402_300_799;
    let seconds = i64::try_from((time_ms / 1000).min(LAST)).unwrap_or_default();
    let moment = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = moment.to_calendar_date();
    let (hour, minute, second) = moment.to_hms();
    let (century, year) = (year.unsigned_abs() / 100 % 100, year.unsigned_abs() % 100);
    // A page of a listing has a thousand of them; the general formatter takes a tenth of its time.
    let mut two = |number: u32, end: &str| {
        let digit = |digit: u32| char::from_digit(digit, 10).unwrap_or_default();
        out.push(digit(number / 10));
        out.push(digit(number % 10));
        out.push_str(end);
    };
    two(century, "");
    two(year, "-");
    two(u8::from(month).into(), "-");
    two(day.into(), "T");
    two(hour.into(), ":");
    two(minute.into(), ":");
    two(second.into(), ".000Z");
}

/// Returns a timestamp as an HTTP date.
pub(crate) fn http_date(timestamp: Timestamp) -> Option<HeaderValue> {
    let mut text = Vec::new();
    timestamp.format(TimestampFormat::HttpDate, &mut text).ok()?;
    HeaderValue::from_bytes(&text).ok()
}

/// Parses a time such as `20260131T235959Z` into seconds since 1970.
pub(crate) fn parse_basic(text: &str) -> Option<Seconds> {
    let is_form = text.len() == 16 && text.get(8..9) == Some("T") && text.ends_with('Z');
    if !is_form {
        return None;
    }
    let number = |range: std::ops::Range<usize>| {
        let digits = text.get(range)?;
        digits.bytes().all(|c| c.is_ascii_digit()).then(|| digits.parse::<u16>().ok())?
    };
    let small = |range| number(range).and_then(|number| u8::try_from(number).ok());
    let month = Month::try_from(small(4..6)?).ok()?;
    let date = Date::from_calendar_date(i32::from(number(0..4)?), month, small(6..8)?).ok()?;
    let time = Time::from_hms(small(9..11)?, small(11..13)?, small(13..15)?).ok()?;
    seconds(date, time, 0)
}

/// Parses a date in the forms of RFC 9110 5.6.7 (IMF-fixdate, RFC 850, asctime) and of mail, with a day of
/// one digit or a zone such as `UTC` or `-0000`. Returns seconds since 1970.
pub(crate) fn parse_http_date(text: &str) -> Option<Seconds> {
    let rest = text.split_once(',').map_or(text, |(_weekday, rest)| rest);
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    let (day, month, year, time, zone) = match words.as_slice() {
        [weekday, month, day, time, year] if weekday.len() == 3 => {
            (*day, *month, *year, *time, "GMT")
        }
        [day, month, year, time, zone] => (*day, *month, *year, *time, *zone),
        [date, time, zone] => {
            let mut parts = date.split('-');
            let parts = (parts.next()?, parts.next()?, parts.next()?, parts.next());
            let (day, month, year, None) = parts else { return None };
            (day, month, year, *time, *zone)
        }
        _ => return None,
    };
    let date = Date::from_calendar_date(year_of(year)?, month_of(month)?, digits(day, 1..=2)?);
    let mut parts = time.split(':').map(|part| digits(part, 2..=2));
    let (Some(hour), Some(minute), Some(second), None) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next())
    else {
        return None;
    };
    let time = Time::from_hms(hour, minute, second).ok()?;
    seconds(date.ok()?, time, offset_of(zone)?)
}

/// Returns a date and time in a zone that is `minutes_east` of Greenwich, in seconds since 1970.
fn seconds(date: Date, time: Time, minutes_east: i64) -> Option<Seconds> {
    let local = PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp();
    u64::try_from(local - minutes_east * 60).ok()
}

fn digits(text: &str, length: std::ops::RangeInclusive<usize>) -> Option<u8> {
    let is_number = length.contains(&text.len()) && text.bytes().all(|c| c.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

fn month_of(text: &str) -> Option<Month> {
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let index = MONTHS.iter().position(|month| text.eq_ignore_ascii_case(month))?;
    Month::try_from(u8::try_from(index + 1).ok()?).ok()
}

/// Parses a year of four digits, or of two, which from 70 on belong to the last century.
fn year_of(text: &str) -> Option<i32> {
    let is_number = text.bytes().all(|c| c.is_ascii_digit());
    let year: i32 = text.parse().ok().filter(|_| is_number)?;
    match text.len() {
        4 => Some(year),
        2 if year >= 70 => Some(1900 + year),
        2 => Some(2000 + year),
        _ => None,
    }
}

/// Parses a zone. Returns minutes east of Greenwich.
fn offset_of(zone: &str) -> Option<i64> {
    if ["GMT", "UTC", "UT", "Z"].iter().any(|name| zone.eq_ignore_ascii_case(name)) {
        return Some(0);
    }
    let (sign, rest) = match zone.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_at_checked(2)?;
    let (hours, minutes) = (digits(hours, 2..=2)?, digits(minutes, 2..=2)?);
    Some(sign * (i64::from(hours) * 60 + i64::from(minutes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_answers_are_in_whole_seconds() {
        let shown = |time_ms| {
            let mut out = String::from("<");
            push_iso(&mut out, time_ms);
            out
        };
        assert_eq!(shown(0), "<1970-01-01T00:00:00.000Z");
        assert_eq!(shown(1_769_903_999_999), "<2026-01-31T23:59:59.000Z");
        assert_eq!(shown(1_709_164_800_000), "<2024-02-29T00:00:00.000Z");
        assert_eq!(shown(253_402_300_799_999), "<9999-12-31T23:59:59.000Z");
        assert_eq!(shown(u64::MAX), "<9999-12-31T23:59:59.000Z");
    }

    #[test]
    fn dates_are_http_dates() {
        let date = http_date(timestamp(784_111_777_999)).unwrap();
        assert_eq!(date, "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn every_form_of_a_date_is_read() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 -0000",
            "Sun, 06 Nov 1994 09:49:37 +0100",
            "06 Nov 1994 08:49:37 GMT",
            "  Sun, 06 nov 1994 08:49:37 gmt ",
        ] {
            assert_eq!(parse_http_date(text), Some(784_111_777), "{text}");
        }
        assert_eq!(parse_http_date("Friday, 01-Jan-70 00:00:00 GMT"), Some(0));
        assert_eq!(parse_http_date("Friday, 31-Jan-26 23:59:59 GMT"), Some(1_769_903_999));
    }

    #[test]
    fn what_is_no_date_is_not_read() {
        for text in [
            "",
            "yesterday",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1994 08:49:37:00 GMT",
            "Sun, 06 Nov 1994 08:49:37 PDT",
            "Sun, 06 Nov 1994 08:49:37 +1é",
            "Sun, +6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 19945 08:49:37 GMT",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "a-b-c-d 08:49:37 GMT",
            "1994-11-06T08:49:37Z",
        ] {
            assert_eq!(parse_http_date(text), None, "{text}");
        }
    }

    #[test]
    fn the_basic_form_is_read() {
        assert_eq!(parse_basic("20260131T235959Z"), Some(1_769_903_999));
        for wrong in
            ["", "20260231T000000Z", "2026-01-31T23:59", "20260131T235959", "+0260131T235959Z"]
        {
            assert_eq!(parse_basic(wrong), None, "{wrong}");
        }
        assert_eq!(parse_basic("éééééééé"), None);
    }
}
