//! `fula ls`, `fula du` and `fula stat`.

use std::{collections::BTreeMap, process::ExitCode, time::SystemTime};

use fula_client::{Entry, Error, ListOptions, Result};
use futures::{StreamExt, pin_mut};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    connect, ended,
    place::{Place, Remote, human, printable},
};
use crate::{
    cli::{DuArgs, LsArgs, StatArgs},
    output::say,
};

/// Lists buckets, or objects.
pub(crate) async fn ls(args: LsArgs) -> ExitCode {
    let json = args.remote.json;
    ended(list(args).await, json)
}

/// Returns a time in UTC, with whole seconds.
pub(in crate::commands) fn time_text(time: Option<SystemTime>) -> String {
    let time = time.map(|time| {
        let time = OffsetDateTime::from(time);
        time.replace_nanosecond(0).unwrap_or(time)
    });
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| "-".to_owned())
}

/// Returns a number of bytes as a number, or in words.
pub(in crate::commands) fn size_text(size: u64, in_words: bool) -> String {
    if in_words { human(size) } else { size.to_string() }
}

async fn list(args: LsArgs) -> Result<ExitCode> {
    let place = args.place.as_deref().map(Place::remote).transpose()?;
    let client = connect(&args.remote)?;
    let Some(Remote { bucket, key }) = place else {
        for bucket in client.buckets().await? {
            let created = time_text(bucket.created);
            if args.remote.json {
                say!("{}", json!({"bucket": bucket.name, "created": created}));
            } else {
                say!("{created} {}", bucket.name);
            }
        }
        return Ok(ExitCode::SUCCESS);
    };
    let delimiter = (!args.recursive).then(|| "/".to_owned());
    let options = ListOptions { delimiter, ..ListOptions::default() };
    let entries = client.bucket(&bucket)?.list(&key, options);
    pin_mut!(entries);
    let (mut count, mut bytes, mut is_any) = (0_u64, 0_u64, false);
    while let Some(entry) = entries.next().await {
        let entry = entry?;
        is_any = true;
        if let Entry::Object { size, .. } = &entry {
            (count, bytes) = (count + 1, bytes + size);
        }
        show(&entry, &args);
    }
    if args.summarize && args.remote.json {
        say!("{}", json!({"objects": count, "bytes": bytes}));
    } else if args.summarize {
        say!("{count} objects, {}", size_text(bytes, args.human));
    }
    if !is_any && !key.is_empty() {
        return Err(Error::NotFound { what: format!("s3://{bucket}/{key}") });
    }
    Ok(ExitCode::SUCCESS)
}

fn show(entry: &Entry, args: &LsArgs) {
    match entry {
        Entry::Object { key, size, etag, modified } if args.remote.json => {
            let modified = time_text(*modified);
            say!("{}", json!({"key": key, "size": size, "etag": etag, "modified": modified}));
        }
        Entry::Object { key, size, modified, .. } => {
            let size = size_text(*size, args.human);
            say!("{} {size:>12} {}", time_text(*modified), printable(key));
        }
        Entry::Prefix(prefix) if args.remote.json => say!("{}", json!({"prefix": prefix})),
        Entry::Prefix(prefix) => say!("{:>20} {:>12} {}", "", "PRE", printable(prefix)),
    }
}

/// Shows how much there is below a prefix, and below each part of it.
pub(crate) async fn du(args: DuArgs) -> ExitCode {
    let json = args.remote.json;
    ended(usage(args).await, json)
}

async fn usage(args: DuArgs) -> Result<ExitCode> {
    let Remote { bucket, key } = Place::remote(&args.place)?;
    let entries = connect(&args.remote)?.bucket(&bucket)?.list(&key, ListOptions::default());
    pin_mut!(entries);
    // One line for each name below the prefix, as `du -d 1` has it.
    let mut sizes = BTreeMap::<String, (u64, u64)>::new();
    let (mut count, mut bytes) = (0_u64, 0_u64);
    while let Some(entry) = entries.next().await {
        let Entry::Object { key: found, size, .. } = entry? else { continue };
        let rest = found.strip_prefix(&key).unwrap_or(&found);
        let end = rest.find('/').map(|end| found.len() - rest.len() + end + 1);
        if let Some(end) = end {
            let part = sizes.entry(found[..end].to_owned()).or_default();
            *part = (part.0 + 1, part.1 + size);
        }
        (count, bytes) = (count + 1, bytes + size);
    }
    let what = format!("s3://{bucket}/{key}");
    if count == 0 && !key.is_empty() {
        return Err(Error::NotFound { what });
    }
    let whole = sizes.into_iter().map(|(part, sizes)| (format!("s3://{bucket}/{part}"), sizes));
    for (place, (count, bytes)) in whole.chain([(what, (count, bytes))]) {
        if args.remote.json {
            say!("{}", json!({"place": place, "objects": count, "bytes": bytes}));
        } else {
            say!("{:>12} {count:>9} {}", size_text(bytes, args.human), printable(&place));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows what is known of an object.
pub(crate) async fn stat(args: StatArgs) -> ExitCode {
    let json = args.remote.json;
    ended(describe(args).await, json)
}

async fn describe(args: StatArgs) -> Result<ExitCode> {
    let from = Place::object(&args.object)?;
    let meta = connect(&args.remote)?.bucket(&from.bucket)?.head(&from.key).await?;
    let facts = [
        ("key", json!(from.key)),
        ("size", json!(meta.size)),
        ("etag", json!(meta.version.etag)),
        ("version", json!(meta.version.bucket)),
        ("modified", json!(time_text(meta.modified))),
        ("contentType", json!(meta.content_type)),
        ("crc64nvme", json!(meta.crc64nvme)),
        ("metadata", json!(meta.metadata)),
    ];
    if args.remote.json {
        let facts = facts.into_iter().map(|(name, value)| (name.to_owned(), value));
        say!("{}", Value::Object(facts.collect()));
        return Ok(ExitCode::SUCCESS);
    }
    for (name, value) in facts {
        match value {
            Value::String(text) => say!("{name:<12} {}", printable(&text)),
            Value::Number(number) => say!("{name:<12} {number}"),
            Value::Object(pairs) => {
                for (name, value) in pairs {
                    let value = value.as_str().unwrap_or_default().to_owned();
                    say!("metadata     {} = {}", printable(&name), printable(&value));
                }
            }
            Value::Null | Value::Bool(_) | Value::Array(_) => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_have_whole_seconds() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        assert_eq!(time_text(Some(time)), "1970-01-01T00:00:01Z");
        assert_eq!(time_text(None), "-");
    }
}
