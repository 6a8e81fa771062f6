//! Commands on objects and files: `fula cp`, `sync`, `ls`, `cat`, `put`, `rm`, `mv`, `du` and `stat`.

mod copy;
pub(in crate::commands) mod filter;
mod jobs;
mod list;
pub(in crate::commands) mod local;
pub(in crate::commands) mod place;
pub(in crate::commands) mod progress;
mod remove;
pub(in crate::commands) mod report;
mod single;
mod sync;
mod together;

use std::process::ExitCode;

use fula_client::{Client, Error, Result, Settings, vault::LinkOptions};

pub(in crate::commands) use self::{
    copy::{base, split},
    jobs::content_type,
    list::{size_text, time_text},
    single::{metadata_of, span, standard_input},
};
pub(crate) use self::{
    copy::{copy, rename},
    list::{du, ls, stat},
    remove::rm,
    single::{cat, put},
    sync::sync,
};
use crate::{cli::RemoteArgs, output::note};

/// Exit status when some of several items failed.
const SOME_FAILED: u8 = 1;

/// Returns the exit status of an error.
fn status_of(error: &Error) -> u8 {
    match error {
        Error::Invalid(_) => super::WRONG_USAGE,
        Error::NotFound { .. } => 3,
        Error::Exists { .. } | Error::Changed { .. } | Error::NotModified { .. } => 4,
        Error::Damaged { .. } | Error::Sealed(_) => 5,
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => 3,
        _ => SOME_FAILED,
    }
}

/// Prints an error, and returns the exit status.
fn failed(error: &Error, json: bool) -> ExitCode {
    if json {
        let line = serde_json::json!({"error": error.to_string(), "status": status_of(error)});
        crate::output::line(format_args!("{line}"));
    }
    note!("fula: {}", place::printable(&error.to_string()));
    ExitCode::from(status_of(error))
}

/// Returns the exit status of a command that ended with `done`.
pub(in crate::commands) fn ended(done: Result<ExitCode>, json: bool) -> ExitCode {
    done.unwrap_or_else(|error| failed(&error, json))
}

/// Returns how what a link leads to is read: without credentials.
///
/// # Errors
/// [`Error::Invalid`] for settings that are wrong.
pub(in crate::commands) fn link_options(args: &RemoteArgs) -> Result<LinkOptions> {
    #[expect(clippy::disallowed_methods, reason = "these variables are those of AWS tools")]
    let variable = |name: &str| std::env::var(name).ok();
    let ca_bundle = Settings::read(args.profile.as_deref(), variable)?.ca_bundle;
    Ok(LinkOptions { allow_http: args.allow_http, ca_bundle })
}

/// Returns a client of the gateway that options, environment and files name.
///
/// # Errors
/// [`Error::Invalid`] with what is missing or wrong.
pub(in crate::commands) fn connect(args: &RemoteArgs) -> Result<Client> {
    #[expect(clippy::disallowed_methods, reason = "these variables are those of AWS tools")]
    let variable = |name: &str| std::env::var(name).ok();
    let settings = Settings::read(args.profile.as_deref(), variable)?;
    let endpoint = args.endpoint_url.clone().or(settings.endpoint).ok_or_else(|| {
        Error::Invalid(
            "which gateway? set AWS_ENDPOINT_URL, or give --endpoint-url, such as http://127.0.0.1:9000"
                .to_owned(),
        )
    })?;
    let mut builder = Client::builder()
        .endpoint(endpoint)
        .credentials(settings.credentials)
        .allow_http(args.allow_http)
        .ca_bundle(settings.ca_bundle);
    if let Some(region) = args.region.clone().or(settings.region) {
        builder = builder.region(region);
    }
    builder.build()
}
