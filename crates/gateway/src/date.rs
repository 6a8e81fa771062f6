//! Times on the wire.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use s3s::dto::{Timestamp, TimestampFormat};

/// Returns a time in milliseconds since 1970 as `s3s` has it.
pub(crate) fn timestamp(time_ms: u64) -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_millis(time_ms))
}

/// Returns the milliseconds since 1970 of a timestamp; 0 for earlier ones.
pub(crate) fn millis(timestamp: Timestamp) -> u64 {
    let time: time::OffsetDateTime = timestamp.into();
    let since = SystemTime::from(time).duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns a timestamp as an HTTP date.
pub(crate) fn http_date(timestamp: Timestamp) -> Option<HeaderValue> {
    let mut text = Vec::new();
    timestamp.format(TimestampFormat::HttpDate, &mut text).ok()?;
    HeaderValue::from_bytes(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_http_dates() {
        let date = http_date(timestamp(784_111_777_000)).unwrap();
        assert_eq!(date, "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
