//! `fula invite`.

use std::{ffi::OsString, path::Path, process::ExitCode, time::Duration};

use fula_service::{error::chain, system_random};

use super::super::{Failure, WRONG_USAGE, admin::perform};
use crate::{
    admin::{self, Answer, Request},
    cli::{self, InviteArgs, VERSION},
    config,
    join::{self, Given, Invitation, Role},
    output::{note, say},
};

/// Longest time for which an invitation can be used.
const LIFE_MAX: Duration = Duration::from_hours(24);

/// Runs `fula invite`.
pub(crate) async fn run(args: InviteArgs) -> ExitCode {
    match invite(args).await {
        Ok(text) => {
            say!("{text}");
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report(),
    }
}

async fn invite(args: InviteArgs) -> Result<String, Failure> {
    let wrong = |text: String| Failure { text, status: WRONG_USAGE };
    let to = join::public_key(&args.key).map_err(|why| wrong(format!("--for: {why}")))?;
    if args.expires.0.is_zero() || args.expires.0 > LIFE_MAX {
        return Err(wrong("--expires is a time of at most 1d".to_owned()));
    }
    let random = system_random();
    let mut id = [0; 16];
    random(&mut id);
    let id = hex::encode(id);
    let given = given(&args).await?;
    for text in &given.notes {
        note!("fula: {text}");
    }
    let life_ms = u64::try_from(args.expires.0.as_millis()).unwrap_or(u64::MAX);
    let request = Request::Invite { id: id.clone(), life_ms };
    let told = perform(&args.common, request).await?;
    let expires_ms = told["expires_ms"].as_u64().unwrap_or_default();
    let Given { settings, files, .. } = given;
    let invitation = Invitation { id, version: VERSION.to_owned(), settings, files };
    let sealed = join::seal(&invitation, args.role, &to, expires_ms, &random)?;
    note!("The invitation can be used once, within {}.", args.expires);
    Ok(sealed)
}

/// Returns what the new machine gets: by the settings of the gateway that runs on the data directory, or by those
/// that a start of it would find here.
async fn given(args: &InviteArgs) -> Result<Given, Failure> {
    let dir = config::data_dir(&args.common.data)?;
    if args.start.is_empty()
        && let Some(given) = of_gateway(&dir, args.role, args.url.clone()).await?
    {
        return Ok(given);
    }
    let start = cli::start(start_line(args)).map_err(|error| error.to_string())?;
    let is_shared = |setting: &cli::Setting| {
        setting.name.starts_with("FULA_DATABASE_URL") && setting.value().is_some()
    };
    if args.role == Role::Master && !start.settings.iter().any(is_shared) {
        return Err(format!(
            "no gateway runs on {}: run the command on a master that runs, and name its --data-dir",
            dir.display()
        )
        .into());
    }
    Ok(Given::of(args.role, &start.settings, args.url.as_deref())?)
}

/// Asks the gateway that runs on a data directory. Returns `None` if none does.
///
/// # Errors
/// The reason why it does not tell, in words for the operator.
pub(super) async fn of_gateway(
    dir: &Path,
    role: Role,
    url: Option<String>,
) -> Result<Option<Given>, String> {
    let Some(answer) = admin::ask(dir, &Request::Given { role, url }, |_| {}).await else {
        return Ok(None);
    };
    match answer? {
        Answer::Ok(value) if !value.is_null() => {
            serde_json::from_value(value).map(Some).map_err(|error| chain(&error))
        }
        Answer::Error(text) => Err(text),
        _ => Err("the gateway's answer is incomplete".to_owned()),
    }
}

/// Returns the start of the gateway: the options after `--`, and those of this command that a gateway has, too.
fn start_line(args: &InviteArgs) -> Vec<OsString> {
    let (common, mut line) = (&args.common, args.start.clone());
    let shared = &common.shared;
    let files = [
        ("--data-dir", &common.data.data_dir),
        ("--database-url-file", &shared.database_url_file),
        ("--blocks-credentials-file", &shared.blocks_credentials_file),
        ("--secrets-key-file", &common.secrets_key_file),
    ];
    let files = files.map(|(flag, file)| (flag, file.clone().map(Into::into)));
    let texts = [("--database-url", &shared.database_url), ("--blocks", &shared.blocks)];
    let texts = texts.map(|(flag, text)| (flag, text.clone().map(OsString::from)));
    for (flag, value) in files.into_iter().chain(texts) {
        if let Some(value) = value.filter(|_| !line.iter().any(|word| word == flag)) {
            line.extend([flag.into(), value]);
        }
    }
    line
}
