//! Bounds of the service and of the wire, as the settings say.

use fula_gateway::WireLimits;
use fula_service::Limits;

use super::{ConfigError, FileSettings, duration, length, size, span};
use crate::cli::{GatewayArgs, Switch};

/// Returns the bounds of the service.
pub(super) fn of_service(
    args: &mut GatewayArgs,
    file: &mut FileSettings,
) -> Result<Limits, ConfigError> {
    let defaults = Limits::default();
    Ok(Limits {
        commit_deadline: match args.commit_deadline.take().or(file.commit_deadline.take()) {
            Some(text) => duration("--commit-deadline", text)?,
            None => defaults.commit_deadline,
        },
        retention: match args.retention.take().or(file.retention.take()) {
            Some(text) => span("--retention", text)?,
            None => defaults.retention,
        },
        body_bytes: match args.body_bytes.take().or(file.body_bytes.take()) {
            Some(text) => usize::try_from(size("--body-bytes", text)?).unwrap_or(usize::MAX),
            None => defaults.body_bytes,
        },
        cache_bytes: match args.cache_bytes.take().or(file.cache_bytes.take()) {
            Some(text) => size("--cache-bytes", text)?,
            None => defaults.cache_bytes,
        },
        queue_bytes_max: match args.queue_bytes.take().or(file.queue_bytes.take()) {
            Some(text) => length("--queue-bytes", text)?,
            None => defaults.queue_bytes_max,
        },
        stale_reads: args.stale_reads.take().or(file.stale_reads.take()) == Some(Switch::On),
        buckets_per_owner: number(
            "--buckets-per-owner",
            args.buckets.buckets_per_owner.or(file.buckets_per_owner),
            defaults.buckets_per_owner,
        )?,
        public_buckets_per_owner: number(
            "--public-buckets-per-owner",
            args.buckets.public_buckets_per_owner.or(file.public_buckets_per_owner),
            defaults.public_buckets_per_owner,
        )?,
        ..defaults
    })
}

/// Returns the bounds of the wire.
pub(super) fn of_wire(
    args: &mut GatewayArgs,
    file: &mut FileSettings,
) -> Result<WireLimits, ConfigError> {
    let defaults = WireLimits::default();
    Ok(WireLimits {
        xml_bytes_max: match args.xml_bytes.take().or(file.xml_bytes.take()) {
            Some(text) => length("--xml-bytes", text)?,
            None => defaults.xml_bytes_max,
        },
        header_timeout: match args.header_timeout.take().or(file.header_timeout.take()) {
            Some(text) => duration("--header-timeout", text)?,
            None => defaults.header_timeout,
        },
        body_idle_timeout: match args.body_idle_timeout.take().or(file.body_idle_timeout.take()) {
            Some(text) => duration("--body-idle-timeout", text)?,
            None => defaults.body_idle_timeout,
        },
        body_bytes_per_second_min: match args.body_pace.take().or(file.body_pace.take()) {
            Some(text) => size("--body-pace", text)?,
            None => defaults.body_bytes_per_second_min,
        },
        ..defaults
    })
}

/// Returns a limit that is at least 1.
fn number(name: &'static str, said: Option<u64>, default: u64) -> Result<u64, ConfigError> {
    if said == Some(0) { Err(at_least_one(name)) } else { Ok(said.unwrap_or(default)) }
}

pub(super) fn at_least_one(name: &'static str) -> ConfigError {
    ConfigError::Value { name, value: "0".to_owned(), expected: "it is a number from 1 on" }
}
