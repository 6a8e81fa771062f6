//! The two forms of dates in answers of S3, and the present time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::{Date, Month, OffsetDateTime, Time};

/// Returns the time of day.
pub(crate) fn now() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "signatures and metadata carry the time of day")]
    SystemTime::now()
}

fn at(date: (i32, u8, u8), time: (u8, u8, u8), nanos: u32) -> Option<SystemTime> {
    let date = Date::from_calendar_date(date.0, Month::try_from(date.1).ok()?, date.2).ok()?;
    let time = Time::from_hms_nano(time.0, time.1, time.2, nanos).ok()?;
    let nanos = OffsetDateTime::new_utc(date, time).unix_timestamp_nanos();
    Some(UNIX_EPOCH + Duration::from_nanos(u64::try_from(nanos).ok()?))
}

fn clock(text: &str) -> Option<(u8, u8, u8)> {
    let mut parts = text.split(':').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

/// Parses a date as HTTP headers have it: `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(crate) fn http(text: &str) -> Option<SystemTime> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut words = text.split(' ').skip(1);
    let day = words.next()?.parse().ok()?;
    let month = words.next().filter(|month| month.len() == 3)?;
    let month = u8::try_from(MONTHS.find(month)? / 3 + 1).ok()?;
    let year = words.next()?.parse().ok()?;
    at((year, month, day), clock(words.next()?)?, 0)
}

/// Parses a date as listings have it: `2026-11-30T08:49:37.123Z`.
pub(crate) fn iso(text: &str) -> Option<SystemTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut parts = date.split('-');
    let year = parts.next()?.parse().ok()?;
    let (month, day) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let digits = fraction.get(..9).unwrap_or(fraction);
    let scale = 10_u32.pow(9 - u32::try_from(digits.len()).ok()?);
    at((year, month, day), clock(time)?, digits.parse::<u32>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let second = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(http("Sun, 06 Nov 1994 08:49:37 GMT"), Some(second));
        assert_eq!(iso("1994-11-06T08:49:37Z"), Some(second));
        assert_eq!(iso("1994-11-06T08:49:37.250Z"), Some(second + Duration::from_millis(250)));
        for wrong in ["", "Sun, 06 Foo 1994 08:49:37 GMT", "1994-13-06T08:49:37Z", "1994-11-06"] {
            assert_eq!(http(wrong).or(iso(wrong)), None, "{wrong}");
        }
    }
}
