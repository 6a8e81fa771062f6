//! `fula export` and `fula import`: buckets as CAR files.

mod output;
mod source;

use std::{io::IsTerminal, os::fd::AsFd, path::Path, process::ExitCode};

use fula_core::error::io_text;
use fula_service::{Limits, error::chain};
use serde_json::Value;
use tokio::net::UnixStream;

use self::output::Output;
use super::{
    Failure, WRONG_USAGE,
    admin::{finish, say_if_slow, scratch_for},
    text::{bytes, text},
};
use crate::{
    admin::{
        Answer, Request,
        transfer::{self, Export, Import, Sink, Source},
    },
    cli::{AdminArgs, BlockSource, CasMode, ExportArgs, ImportCarArgs, TargetArgs},
    config::Backends,
    files::ScratchDir,
    node::{Node, Purpose},
    output::{note, say},
};

/// Who carries out a request.
enum Reached {
    /// The gateway that runs on the data directory.
    Gateway(UnixStream),
    /// This process, which has opened the stores.
    Here(Box<Node>, Option<ScratchDir>),
}

async fn reach(args: &AdminArgs, request: &Request) -> Result<Reached, Failure> {
    let key_file = args.secrets_key_file.clone();
    let backends = Backends::check(&args.data, args.shared.clone(), key_file, CasMode::Auto);
    let mut backends = backends?;
    let dir = backends.data_dir.clone();
    let scratch = scratch_for(&mut backends, request)?;
    if let Some(stream) = transfer::connect(&dir).await {
        return Ok(Reached::Gateway(stream?));
    }
    let opening = Node::open(&backends, Limits::default(), Purpose::Administer, false);
    let node = say_if_slow(opening, &backends).await.map_err(|error| chain(&error))?;
    Ok(Reached::Here(Box::new(node), scratch))
}

fn value_of(answer: Answer) -> Result<Value, Failure> {
    match answer {
        Answer::Ok(value) => Ok(value),
        Answer::Error(text) => Err(text.into()),
        Answer::Progress(_) | Answer::Data(_) => {
            Err("the gateway's answer is incomplete".to_owned().into())
        }
    }
}

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

async fn export_to(args: &ExportArgs, sink: Sink<'_>) -> Result<Value, Failure> {
    let request = Export {
        bucket: args.bucket.bucket.clone(),
        user: args.user.clone(),
        version: args.bucket.version,
        since: args.since,
        backup: None,
    };
    let answer = match reach(&args.common, &Request::Export(request.clone())).await? {
        Reached::Gateway(stream) => transfer::export_from(stream, request, sink).await?,
        Reached::Here(node, _scratch) => transfer::export_here(&node, &request, sink).await,
    };
    value_of(answer)
}

async fn export_to_output(args: &ExportArgs) -> Result<Value, Failure> {
    let output = std::io::stdout().as_fd().try_clone_to_owned();
    let output = output.map_err(|error| format!("standard output: {}", io_text(&error)))?;
    export_to(args, &mut tokio::fs::File::from_std(output.into())).await
}

async fn export_to_file(args: &ExportArgs, path: &Path) -> Result<Value, Failure> {
    let mut output = Output::create(path).await?;
    match export_to(args, &mut output).await {
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
        say!("bucket {bucket} of {owner} has this root already");
        return;
    }
    say!(
        "imported bucket {bucket} of {owner} at version {}: {} objects of {}, root {}",
        done["version"],
        done["objects"],
        bytes(&done["bytes"]),
        text(&done["root"]),
    );
    if done["root"] != done["file_root"] {
        say!("its root is a new one, over the same trees as {}", text(&done["file_root"]));
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
    let reached = reach(common, &Request::Import(request.clone())).await?;
    let source: Source = source::open(from, root).await?;
    let answer = match reached {
        Reached::Gateway(stream) => transfer::import_to(stream, request, source).await?,
        Reached::Here(node, _scratch) => transfer::import_here(&node, &request, source).await,
    };
    value_of(answer)
}
