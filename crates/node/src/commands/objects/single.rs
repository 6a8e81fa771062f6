//! `fula cat` and `fula put`.

use std::{collections::BTreeMap, os::fd::AsFd, path::Path, process::ExitCode, sync::Arc};

use fula_client::{Error, Get, GetOptions, MTIME, PutOptions, Result, Source, Span, mtime_text};
use serde_json::json;
use tokio::{fs::File, io::AsyncWriteExt};

use super::{
    connect, ended,
    jobs::content_type,
    place::Place,
    progress::{Progress, Shown},
};
use crate::{
    cli::{CatArgs, PutArgs},
    output::say,
};

/// Writes an object to standard output.
pub(crate) async fn cat(args: CatArgs) -> ExitCode {
    let json = args.remote.json;
    ended(read(args).await, json)
}

async fn read(args: CatArgs) -> Result<ExitCode> {
    let from = Place::object(&args.object)?;
    let range = args.range.as_deref().map(span).transpose()?;
    let bucket = connect(&args.remote)?.bucket(&from.bucket)?;
    let get = bucket.get(&from.key, GetOptions { range, ..GetOptions::default() }).await?;
    write_out(get).await.map(|()| ExitCode::SUCCESS)
}

/// Parses `FROM-TO`, `FROM-` or `-COUNT`.
pub(in crate::commands) fn span(text: &str) -> Result<Span> {
    let wrong = || {
        Error::Invalid(format!(
            "{text} is no range: write FROM-TO, FROM-, or -COUNT for the last bytes"
        ))
    };
    let (from, to) = text.split_once('-').ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    match (from, to) {
        ("", count) => Ok(Span::Last(number(count)?)),
        (from, "") => Ok(Span::From(number(from)?)),
        (from, to) => {
            let (from, to) = (number(from)?, number(to)?);
            let end = to.checked_add(1).filter(|end| from < *end).ok_or_else(wrong)?;
            Ok(Span::Between(from, end))
        }
    }
}

/// Writes a body to standard output. A reader that closes its end, as `head` does, is no failure.
pub(super) async fn write_out(mut get: Get) -> Result<()> {
    let out = std::io::stdout().as_fd().try_clone_to_owned();
    let mut out = File::from_std(out.map_err(Error::io("standard output"))?.into());
    let is_closed = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    while let Some(chunk) = get.chunk().await? {
        match out.write_all(&chunk).await {
            Err(error) if is_closed(&error) => return Ok(()),
            written => written.map_err(Error::io("standard output"))?,
        }
    }
    match out.flush().await {
        Err(error) if is_closed(&error) => Ok(()),
        flushed => flushed.map_err(Error::io("standard output")),
    }
}

/// Returns standard input as source.
///
/// # Errors
/// [`Error::Io`] if it is closed.
pub(in crate::commands) fn standard_input() -> Result<Source> {
    let input =
        std::io::stdin().as_fd().try_clone_to_owned().map_err(Error::io("standard input"))?;
    Ok(Source::reader(File::from_std(input.into()), None))
}

/// Parses metadata: `NAME=VALUE` each.
///
/// # Errors
/// [`Error::Invalid`] for anything else.
pub(in crate::commands) fn metadata_of(pairs: &[String]) -> Result<BTreeMap<String, String>> {
    let parsed = pairs.iter().map(|pair| {
        let (name, value) = pair
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| Error::Invalid(format!("--metadata {pair}: write NAME=VALUE")))?;
        Ok((name.to_ascii_lowercase(), value.to_owned()))
    });
    parsed.collect()
}

/// Writes an object from a file or from standard input.
pub(crate) async fn put(args: PutArgs) -> ExitCode {
    let json = args.remote.json;
    ended(write(args).await, json)
}

async fn write(args: PutArgs) -> Result<ExitCode> {
    let to = Place::object(&args.object)?;
    let mut metadata = BTreeMap::new();
    let source = if args.file == Path::new("-") {
        standard_input()?
    } else {
        let found =
            std::fs::metadata(&args.file).map_err(Error::io(args.file.display().to_string()))?;
        metadata.extend(found.modified().ok().map(|time| (MTIME.to_owned(), mtime_text(time))));
        Source::File(args.file.clone())
    };
    metadata.extend(metadata_of(&args.metadata)?);
    let bucket = connect(&args.remote)?.bucket(&to.bucket)?;
    let progress = Arc::<Progress>::default();
    progress.expect(0);
    let shown = Shown::begin(&progress, args.no_progress || args.remote.json);
    let options = PutOptions {
        content_type: args.content_type.or_else(|| content_type(&to.key)),
        metadata,
        if_match: args.if_match.map(|etag| etag.trim_matches('"').to_owned()),
        if_absent: args.if_absent,
        meter: Some(progress.moved.clone()),
        ..PutOptions::default()
    };
    let put = bucket.put(&to.key, source, options).await;
    drop(shown);
    let put = put?;
    if args.remote.json {
        let version = &put.version;
        say!(
            "{}",
            json!({"key": to.key, "size": put.size, "etag": version.etag, "version": version.bucket})
        );
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_count_as_in_http() {
        assert_eq!(span("0-4").unwrap(), Span::Between(0, 5));
        assert_eq!(span("7-").unwrap(), Span::From(7));
        assert_eq!(span("-3").unwrap(), Span::Last(3));
        for wrong in ["", "3", "4-3", "a-b", "0-18446744073709551615"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
