//! `fula cat`, `fula put` and `fula stat` in a vault.

use std::{
    collections::BTreeMap,
    fs::File,
    io::ErrorKind,
    os::fd::AsFd,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fula_client::{
    Error, Result, Source, Span,
    vault::{Condition, Shared, VaultGet, VaultGetOptions, VaultPutOptions},
};
use serde_json::{Value, json};

use super::place::{At, is_link};
use crate::{
    cli::{CatArgs, PutArgs, StatArgs},
    commands::objects::{
        content_type, ended, link_options, metadata_of,
        place::printable,
        progress::{Progress, Shown},
        span, standard_input, time_text,
    },
    output::say,
};

/// Prefix of the names of user metadata among the sealed entries of a file.
const METADATA: &str = "x-amz-meta-";
const CONTENT_TYPE: &str = "content-type";

/// Returns a time in nanoseconds since 1970, as vaults have it; `None` for one before.
pub(super) fn nanoseconds(time: Option<SystemTime>) -> Option<u64> {
    u64::try_from(time?.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()
}

/// Returns the time that a vault has of a file.
pub(super) fn time_of(nanoseconds: Option<u64>) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_nanos(nanoseconds?))
}

/// Returns the sealed entries for a media type and metadata.
pub(super) fn entries(
    kind: Option<String>,
    metadata: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let metadata = metadata.into_iter().map(|(name, value)| (format!("{METADATA}{name}"), value));
    metadata.chain(kind.map(|kind| (CONTENT_TYPE.to_owned(), kind))).collect()
}

/// Returns the media type and the metadata of sealed entries.
pub(super) fn of_entries(
    entries: BTreeMap<String, String>,
) -> (Option<String>, BTreeMap<String, String>) {
    let kind = entries.get(CONTENT_TYPE).cloned();
    let metadata = entries
        .into_iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(METADATA)?.to_owned(), value)));
    (kind, metadata.collect())
}

/// Writes a file to standard output.
pub(in crate::commands) async fn cat(args: CatArgs) -> ExitCode {
    let json = args.remote.json;
    ended(read(args).await, json)
}

async fn read(args: CatArgs) -> Result<ExitCode> {
    let wanted = args.range.as_deref().map(span).transpose()?;
    if is_link(&args.object) {
        return read_link(&args, wanted).await;
    }
    let at = At::open(&args.object, &args.remote).await?;
    let path = at.file()?;
    let range = match wanted {
        None => None,
        Some(Span::Between(from, to)) => Some(from..to),
        Some(Span::From(from)) => Some(from..u64::MAX),
        Some(Span::Last(count)) => {
            let size = named(at.vault.head(&path).await, &at)?.size;
            Some(size.saturating_sub(count)..size)
        }
    };
    let options = VaultGetOptions { range, meter: None };
    let get = named(at.vault.get(&path, options).await, &at)?;
    write_out(get).await.map(|()| ExitCode::SUCCESS)
}

async fn read_link(args: &CatArgs, wanted: Option<Span>) -> Result<ExitCode> {
    let shared = Shared::parse(&args.object, &link_options(&args.remote)?)?;
    let range = match wanted {
        None => None,
        Some(Span::Between(from, to)) => Some(from..to),
        Some(Span::From(from)) => Some(from..u64::MAX),
        Some(Span::Last(count)) => {
            let none = VaultGetOptions { range: Some(0..0), meter: None };
            let size = shared.get(none).await?.size;
            Some(size.saturating_sub(count)..size)
        }
    };
    let get = shared.get(VaultGetOptions { range, meter: None }).await?;
    write_out(get).await.map(|()| ExitCode::SUCCESS)
}

/// Gives an error the name of the place: the library knows where a vault lies, and not what it is called here.
pub(super) fn named<T>(done: Result<T>, at: &At) -> Result<T> {
    let what = at.to_string();
    done.map_err(|error| match error {
        Error::NotFound { .. } => Error::NotFound { what },
        Error::Exists { .. } => Error::Exists { what },
        Error::Changed { current, .. } => Error::Changed { what, current },
        error => error,
    })
}

/// Writes a file to standard output. A reader that closes its end, as `head` does, is no failure.
pub(super) async fn write_out(get: VaultGet) -> Result<()> {
    let shown = "standard output";
    let out = std::io::stdout().as_fd().try_clone_to_owned().map_err(Error::io(shown))?;
    match Box::pin(get.write_to(File::from(out), shown)).await {
        Err(Error::Io { what, source })
            if what == shown && source.kind() == ErrorKind::BrokenPipe =>
        {
            Ok(())
        }
        written => written.map(drop),
    }
}

/// Writes a file from a file or from standard input.
pub(in crate::commands) async fn put(args: PutArgs) -> ExitCode {
    let json = args.remote.json;
    ended(write(args).await, json)
}

async fn write(args: PutArgs) -> Result<ExitCode> {
    let metadata = metadata_of(&args.metadata)?;
    let (source, modified) = if args.file == Path::new("-") {
        (standard_input()?, None)
    } else {
        let found = std::fs::metadata(&args.file);
        let found = found.map_err(Error::io(args.file.display().to_string()))?;
        (Source::File(args.file.clone()), nanoseconds(found.modified().ok()))
    };
    let at = At::open(&args.object, &args.remote).await?;
    let path = at.file()?;
    let progress = Arc::<Progress>::default();
    progress.expect(0);
    let shown = Shown::begin(&progress, args.no_progress || args.remote.json);
    let condition = match args.if_match {
        Some(etag) => Condition::Version(etag.trim_matches('"').to_owned()),
        None if args.if_absent => Condition::Absent,
        None => Condition::None,
    };
    let kind = args.content_type.or_else(|| content_type(&at.path));
    let options = VaultPutOptions {
        condition,
        modified,
        entries: entries(kind, metadata),
        meter: Some(progress.moved.clone()),
    };
    let put = named(at.vault.put(&path, source, options).await, &at);
    drop(shown);
    let version = put?;
    if args.remote.json {
        say!("{}", json!({"path": at.path, "etag": version.etag, "version": version.bucket}));
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows what is known of a file.
pub(in crate::commands) async fn stat(args: StatArgs) -> ExitCode {
    let json = args.remote.json;
    ended(describe(args).await, json)
}

async fn describe(args: StatArgs) -> Result<ExitCode> {
    let at = At::open(&args.object, &args.remote).await?;
    let path = at.file()?;
    let (entry, entries) = named(at.vault.stat(&path).await, &at)?;
    let (kind, metadata) = of_entries(entries);
    let modified = entry.modified.map(|_| time_text(time_of(entry.modified)));
    let facts = [
        ("path", json!(at.path)),
        ("size", json!(entry.size)),
        ("etag", json!(entry.etag)),
        ("modified", json!(modified)),
        ("contentType", json!(kind)),
        ("metadata", json!(metadata)),
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
            _ => {}
        }
    }
    for (name, value) in metadata {
        say!("metadata     {} = {}", printable(&name), printable(&value));
    }
    Ok(ExitCode::SUCCESS)
}
