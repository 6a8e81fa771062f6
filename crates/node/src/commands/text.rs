//! Formats values of answers for people.

use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Returns a text, or a dash if it is empty or not a text.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or("-")
}

/// Returns a number as text, which a width applies to, or a dash if it is none.
pub(super) fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// Returns a number with what it counts: "1 problem", "2 problems".
pub(super) fn counted(value: &Value, one: &str) -> String {
    let many = if value.as_u64() == Some(1) { "" } else { "s" };
    format!("{} {one}{many}", number(value))
}

/// Formats a time in milliseconds since 1970, to the second, as RFC 3339.
pub(super) fn when(value: &Value) -> String {
    let millis = i128::from(value.as_u64().unwrap_or(0));
    let time = OffsetDateTime::from_unix_timestamp_nanos(millis * 1_000_000).ok();
    let time = time.and_then(|time| time.replace_millisecond(0).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| "-".to_owned())
}

/// Formats an age in milliseconds, in its two largest units.
pub(super) fn ago(value: &Value) -> String {
    let Some(millis) = value.as_u64() else { return "never seen".to_owned() };
    let age = humantime::format_duration(std::time::Duration::from_secs(millis / 1000)).to_string();
    // More units would not help.
    format!("{} ago", age.split(' ').take(2).collect::<Vec<_>>().join(" "))
}

/// Formats a number of bytes with a unit and at most four digits.
#[expect(clippy::cast_precision_loss, reason = "it is rounded anyway")]
pub(super) fn bytes(value: &Value) -> String {
    let Some(bytes) = value.as_u64() else { return "-".to_owned() };
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1000.0 && unit + 1 < units.len() {
        (amount, unit) = (amount / 1024.0, unit + 1);
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{amount:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_short() {
        let value = json!([0, 999, 1023, 1 << 20, 160_u64 << 20, 5_u64 << 40, null]);
        let shown: Vec<String> = (0..7).map(|n| bytes(&value[n])).collect();
        assert_eq!(shown, ["0 B", "999 B", "1.0 KiB", "1.0 MiB", "160.0 MiB", "5.0 TiB", "-"]);
        let value = json!([4_200, 3_661_000, null]);
        let shown: Vec<String> = (0..3).map(|n| ago(&value[n])).collect();
        assert_eq!(shown, ["4s ago", "1h 1m ago", "never seen"]);
        assert_eq!(format!("{:>4}|{:>2}", number(&json!(12)), number(&json!(null))), "  12| -");
        let shown = [0, 1, 2].map(|count| counted(&json!(count), "block"));
        assert_eq!(shown, ["0 blocks", "1 block", "2 blocks"]);
        assert_eq!(when(&json!(1_764_424_800_123_u64)), "2025-11-29T14:00:00Z");
    }
}
