//! `fula export` and `fula import`: buckets as CAR files.

mod output;
mod source;

use std::{fs::File, io::IsTerminal, os::fd::AsFd, path::Path, process::ExitCode};

use fula_core::error::io_text;
use serde_json::Value;

use self::output::Output;
use super::{
    Failure, WRONG_USAGE,
    admin::finish,
    reach::open_source,
    text::{bytes, counted, text},
};
use crate::{
    admin::{
        Request,
        transfer::{Export, Import, Sink, is_regular},
    },
    cli::{AdminArgs, BlockSource, ExportArgs, ImportCarArgs, TargetArgs},
    output::{note, say},
};

/// Runs `fula export`.
pub(crate) async fn export(args: ExportArgs) -> ExitCode {
    let is_file = args.output.is_some();
    let exported = match &args.output {
        Some(path) => export_to_file(&args, path).await,
        None if std::io::stdout().is_terminal() => {
            let text =
                "a CAR file is binary: name a file with --output, or redirect standard output";
            Err(Failure { text: text.to_owned(), status: WRONG_USAGE })
        }
        None => export_to_output(&args).await,
    };
    if !is_file {
        // The file itself is on standard output.
        return match exported {
            Ok(done) => {
                show_exported(&done);
                ExitCode::SUCCESS
            }
            Err(failure) => failure.report(),
        };
    }
    finish(args.common.json, exported, show_exported)
}

fn show_exported(done: &Value) {
    let since = done["since"].as_u64().map(|since| format!(" since version {since}"));
    note!(
        "Exported bucket {} at version {}{}: {}. Its root is {}",
        text(&done["bucket"]),
        done["version"],
        since.unwrap_or_default(),
        bytes(&done["file_bytes"]),
        text(&done["root"]),
    );
}

/// Exports to a file: to its descriptor if it is regular and a gateway runs, otherwise through `sink`.
async fn export_to(
    args: &ExportArgs,
    file: &File,
    written: impl FnMut(usize),
    sink: Sink<'_>,
) -> Result<Value, Failure> {
    let request = Export {
        bucket: args.bucket.bucket.clone(),
        user: args.user.clone(),
        version: args.bucket.version,
        since: args.since,
        backup: None,
    };
    let source = open_source(&args.common, &Request::Export(request.clone())).await?;
    if is_regular(file)
        && let Some(exported) = source.export_file(request.clone(), file, written).await
    {
        return Ok(exported?);
    }
    Ok(source.export(request, sink).await?)
}

async fn export_to_output(args: &ExportArgs) -> Result<Value, Failure> {
    let output = std::io::stdout().as_fd().try_clone_to_owned();
    let failed = |error: std::io::Error| format!("standard output: {}", io_text(&error));
    let output = File::from(output.map_err(failed)?);
    let mut sink = tokio::fs::File::from_std(output.try_clone().map_err(failed)?);
    export_to(args, &output, |_| {}, &mut sink).await
}

async fn export_to_file(args: &ExportArgs, path: &Path) -> Result<Value, Failure> {
    let mut output = Output::create(path).await?;
    let (file, mut progress) = output.file().await?;
    let exported = export_to(args, &file, |bytes| progress.written(bytes), &mut output).await;
    drop(progress);
    match exported {
        Ok(done) => {
            output.finish().await?;
            Ok(done)
        }
        Err(failure) => {
            output.discard().await;
            Err(failure)
        }
    }
}

/// Runs `fula import`.
pub(crate) async fn import(args: ImportCarArgs) -> ExitCode {
    let imported = import_from(&args.common, args.target, None, BlockSource::Car(args.file)).await;
    finish(args.common.json, imported, show_imported)
}

pub(super) fn show_imported(done: &Value) {
    let owner = match done["user"].as_str() {
        Some(user) => user.to_owned(),
        None => format!("owner {}", text(&done["owner"])),
    };
    let bucket = text(&done["bucket"]);
    if done["already"] == true {
        say!("The bucket {bucket} of {owner} has this root already.");
        return;
    }
    say!(
        "Made the bucket {bucket} of {owner} at version {}: {} of {}, root {}",
        done["version"],
        counted(&done["objects"], "object"),
        bytes(&done["bytes"]),
        text(&done["root"]),
    );
    if done["root"] != done["file_root"] {
        say!(
            "It has the content of the root {}, under a root block of its own.",
            text(&done["file_root"])
        );
    }
    if done["without_policy"] == true {
        say!(
            "It is private: the policy was written for another bucket and is left out. Set one if others are to use it."
        );
    }
}

/// Makes a bucket of what a source has.
///
/// # Errors
/// The reason why there is no such bucket now.
pub(super) async fn import_from(
    common: &AdminArgs,
    target: TargetArgs,
    root: Option<fula_core::Cid>,
    from: BlockSource,
) -> Result<Value, Failure> {
    let TargetArgs { bucket, user } = target;
    let root_text = root.map(|root| root.to_string());
    let request = Import { bucket, user, root: root_text, without_mapped: false };
    let reached = open_source(common, &Request::Import(request.clone())).await?;
    let source = source::open(from, root).await?;
    Ok(reached.import(request, source).await?)
}
