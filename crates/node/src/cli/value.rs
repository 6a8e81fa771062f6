//! Values of options: times, sizes and switches.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use fula_identity::{Address, Scope, wallet::SIGNATURE_BYTES, wallet_token::LIFE_MAX};
use fula_service::limits::RetainedMax;
use parse_size::ByteSuffix;

/// A span of time as it is typed and printed, e.g. `10s`, `1h` or `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub(crate) Duration);

/// The text is no span of time.
#[derive(Debug, thiserror::Error)]
#[error("a time is a number and ms, s, m, h or d, e.g. 10s")]
pub(crate) struct InvalidTime;

impl FromStr for Time {
    type Err = InvalidTime;

    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        humantime::parse_duration(text).map(Self).map_err(|_| InvalidTime)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// Parses a time that is longer than zero.
pub(crate) fn above_zero(text: &str) -> Result<Time, InvalidTime> {
    text.parse().and_then(|time: Time| if time.0.is_zero() { Err(InvalidTime) } else { Ok(time) })
}

/// A number of bytes as it is typed and printed, e.g. `64M`; the units are powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

/// The text is no number of bytes.
#[derive(Debug, thiserror::Error)]
#[error("a size is a number of bytes, or a number and K, M or G, e.g. 64M")]
pub(crate) struct InvalidSize;

impl Size {
    /// Returns the number of bytes, as far as this machine can address them.
    pub(crate) fn length(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Size {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let config = parse_size::Config::new().with_binary().with_byte_suffix(ByteSuffix::Allow);
        config.parse_size(text).map(Self).map_err(|_| InvalidSize)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "G"), (20, "M"), (10, "K")];
        let fitting =
            units.iter().find(|(shift, _)| self.0 > 0 && self.0.is_multiple_of(1 << shift));
        let (shift, unit) = fitting.copied().unwrap_or((0, ""));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

/// Parses a bound on what is kept for the retention.
pub(crate) fn retained_max(text: &str) -> Result<RetainedMax, &'static str> {
    const EXPECTED: &str =
        "expected a size such as 20G, a share of what is in use such as 50%, or off";
    if text == "off" {
        return Ok(RetainedMax::Unlimited);
    }
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.parse().ok().filter(|percent| *percent <= 10_000);
        return percent.map(RetainedMax::Percent).ok_or(EXPECTED);
    }
    text.parse::<Size>().map(|size| RetainedMax::Bytes(size.0)).map_err(|_| EXPECTED)
}

/// Parses an address to listen on: an IP address and a port, `localhost:9000`, or `:9000` for every
/// IPv4 interface.
pub(crate) fn listen_address(text: &str) -> Result<SocketAddr, &'static str> {
    let named = text.rsplit_once(':').and_then(|(host, port)| {
        let ip = match host {
            "" => Ipv4Addr::UNSPECIFIED,
            "localhost" => Ipv4Addr::LOCALHOST,
            _ => return None,
        };
        Some(SocketAddr::new(IpAddr::V4(ip), port.parse().ok()?))
    });
    let invalid = "an address is IP:PORT, localhost:PORT, or :PORT for every IPv4 interface";
    named.or_else(|| text.parse().ok()).ok_or(invalid)
}

/// Parses what is on or off.
pub(crate) fn switch(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err("it is on or off"),
    }
}

/// A time before which credentials were issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IssuedBefore {
    /// The time at which the request is carried out.
    Now,
    /// Seconds since 1970.
    Seconds(u64),
}

impl FromStr for IssuedBefore {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "now" => Ok(Self::Now),
            text => text.parse().map(Self::Seconds).map_err(|_| "it is seconds since 1970, or now"),
        }
    }
}

/// A bucket, and one of its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BucketVersion {
    pub(crate) bucket: String,
    /// The version; the current one if there is none.
    pub(crate) version: Option<u64>,
}

impl FromStr for BucketVersion {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let Some((bucket, version)) = text.split_once('@') else {
            return Ok(Self { bucket: text.to_owned(), version: None });
        };
        let version = version.parse().map_err(|_| "after @ stands a version, which is a number")?;
        Ok(Self { bucket: bucket.to_owned(), version: Some(version) })
    }
}

/// Parses the address of a wallet.
pub(crate) fn wallet(text: &str) -> Result<Address, &'static str> {
    Address::parse(text).ok_or("a wallet is 0x and 40 hex digits")
}

/// Parses the life of a token.
pub(crate) fn life(text: &str) -> Result<Time, String> {
    let time = above_zero(text).map_err(|error| error.to_string())?;
    let is_valid = (1..=LIFE_MAX).contains(&time.0.as_secs());
    if is_valid { Ok(time) } else { Err("a token lives from 1s to 24h".to_owned()) }
}

/// Parses the scope of a token, which stays as it was typed.
pub(crate) fn scope(text: &str) -> Result<String, String> {
    text.parse::<Scope>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Parses the signature of a wallet.
pub(crate) fn signature(text: &str) -> Result<[u8; SIGNATURE_BYTES], &'static str> {
    let mut bytes = [0; SIGNATURE_BYTES];
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let decoded = hex::decode_to_slice(digits, &mut bytes);
    decoded.map(|()| bytes).map_err(|_| "a signature is 0x and 130 hex digits")
}

/// Returns what parses a number that is at least 1.
pub(crate) fn from_one() -> clap::builder::RangedU64ValueParser {
    clap::builder::RangedU64ValueParser::new().range(1..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on_may_name_the_machine_or_no_host() {
        for (text, expected) in [
            ("127.0.0.1:9000", "127.0.0.1:9000"),
            ("[::1]:9000", "[::1]:9000"),
            ("localhost:9000", "127.0.0.1:9000"),
            (":9000", "0.0.0.0:9000"),
        ] {
            assert_eq!(listen_address(text).unwrap().to_string(), expected);
        }
        for text in ["", "9000", "localhost", "localhost:", ":", ":70000", "example.org:9000"] {
            assert!(listen_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_read_and_printed() {
        for (text, millis, printed) in [
            ("10s", 10_000, "10s"),
            ("250ms", 250, "250ms"),
            ("90m", 5_400_000, "1h 30m"),
            ("1h 30m", 5_400_000, "1h 30m"),
            ("0s", 0, "0s"),
        ] {
            let time: Time = text.parse().unwrap();
            assert_eq!(
                (time.0, time.to_string().as_str()),
                (Duration::from_millis(millis), printed)
            );
        }
        for wrong in ["", "ten", "10", "10 s later", "-1s", "99999999999999999999h"] {
            assert!(wrong.parse::<Time>().is_err(), "{wrong}");
        }
        assert!(above_zero("0s").is_err() && above_zero("1ms").is_ok());
    }

    #[test]
    fn units_of_sizes_are_powers_of_1024() {
        for (text, bytes, printed) in [
            ("64M", 64 << 20, "64M"),
            ("64MiB", 64 << 20, "64M"),
            ("1024K", 1 << 20, "1M"),
            ("2G", 2 << 30, "2G"),
            ("1000", 1000, "1000"),
            ("0", 0, "0"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, printed), "{text}");
        }
        for wrong in ["", "M", "-1", "64X", "1e40", "20000000000G"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn switches_take_the_usual_words() {
        for (word, meaning) in [("on", true), ("YES", true), ("true", true), ("1", true)] {
            assert_eq!(switch(word), Ok(meaning));
        }
        for word in ["off", "No", "false", "0"] {
            assert_eq!(switch(word), Ok(false));
        }
        assert!(switch("").is_err() && switch("2").is_err());
    }
}
