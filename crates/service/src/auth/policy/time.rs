//! Times in conditions: ISO 8601 in the forms of the W3C, and seconds since 1970.

const DAY_MS: i64 = 86_400_000;

/// Returns the number of days since 1970 of a date in the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) || !(1..=9999).contains(&year) {
        return None;
    }
    // Years begin in March, so that the leap day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_year = (153 * month + 2) / 5 + day - 1;
    Some(365 * year + year / 4 - year / 100 + year / 400 + of_year - 719_468)
}

/// Takes a number of exactly `length` digits.
fn take(text: &mut &str, length: usize) -> Option<i64> {
    let digits = text.get(..length)?;
    *text = &text[length..];
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn skip(text: &mut &str, what: char) -> Option<()> {
    *text = text.strip_prefix(what)?;
    Some(())
}

/// Parses a time. Returns milliseconds since 1970.
pub(super) fn parse(text: &str) -> Option<i64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) && text.len() > 4 {
        return text.parse::<i64>().ok()?.checked_mul(1000);
    }
    let mut rest = text;
    let year = take(&mut rest, 4)?;
    let (mut month, mut day) = (1, 1);
    if skip(&mut rest, '-').is_some() {
        month = take(&mut rest, 2)?;
        if skip(&mut rest, '-').is_some() {
            day = take(&mut rest, 2)?;
        }
    }
    let date = days(year, month, day)? * DAY_MS;
    if rest.is_empty() {
        return Some(date);
    }
    skip(&mut rest, 'T')?;
    let hour = take(&mut rest, 2)?;
    skip(&mut rest, ':')?;
    let minute = take(&mut rest, 2)?;
    let (mut second, mut milli) = (0, 0);
    if skip(&mut rest, ':').is_some() {
        second = take(&mut rest, 2)?;
        if skip(&mut rest, '.').is_some() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let fraction = format!("{:0<3.3}", &rest[..digits]);
            milli = fraction.parse().ok().filter(|_| digits > 0)?;
            rest = &rest[digits..];
        }
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let offset = match rest.as_bytes().first()? {
        b'Z' if rest.len() == 1 => 0,
        sign @ (b'+' | b'-') => {
            rest = &rest[1..];
            let hours = take(&mut rest, 2)?;
            skip(&mut rest, ':')?;
            let minutes = take(&mut rest, 2)?;
            let offset = (hours * 60 + minutes) * 60_000;
            rest.is_empty().then_some(if *sign == b'+' { offset } else { -offset })?
        }
        _ => return None,
    };
    Some(date + ((hour * 60 + minute) * 60 + second) * 1000 + milli - offset)
}

/// Returns a time in the form that policies have.
pub(crate) fn format(ms: i64) -> String {
    let (day, rest) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS) / 1000);
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read_in_every_form() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-02", Some(DAY_MS)),
            ("1971", Some(365 * DAY_MS)),
            ("2026-11-30T00:49:41Z", Some(1_795_999_781_000)),
            ("2026-11-30T00:49:41.25Z", Some(1_795_999_781_250)),
            ("2026-11-30T02:49+02:00", Some(1_795_999_740_000)),
            ("1795999781", Some(1_795_999_781_000)),
            ("2000-02-29", Some(951_782_400_000)),
            ("1900-02-29", None),
            ("2026-13-01", None),
            ("2026-11-30T00:49:41", None),
            ("2026-11-30T24:00:00Z", None),
            ("tomorrow", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_time_comes_back(seconds in -60_000_000_000_i64..200_000_000_000) {
            prop_assert_eq!(parse(&format(seconds * 1000)), Some(seconds * 1000));
        }
    }
}
