//! `fula invite`.

use std::{collections::BTreeMap, ffi::OsString, process::ExitCode, time::Duration};

use fula_service::{error::chain, system_random};
use zeroize::Zeroizing;

use super::super::{Failure, WRONG_USAGE, admin::perform, backup::own_secrets_key};
use crate::{
    admin::Request,
    cli::{self, InviteArgs, VERSION},
    config::{Backends, database_url},
    files,
    join::{self, Invitation, Role},
    output::{note, say},
};

/// Longest time for which an invitation can be used.
const LIFE_MAX: Duration = Duration::from_hours(24);

/// Settings that all masters of an arbiter share.
const OF_MASTERS: [&str; 27] = [
    "FULA_BLOCKS",
    "FULA_BUCKET_NAMES",
    "FULA_BUCKET_QUOTA",
    "FULA_BUCKET_ROOT_CAS",
    "FULA_BUCKETS_PER_OWNER",
    "FULA_DOMAIN",
    "FULA_EIP712_AUTH",
    "FULA_AUDIENCE",
    "FULA_EIP712_V1",
    "FULA_INGEST_COPY",
    "FULA_JWKS",
    "FULA_JWT_AUDIENCE",
    "FULA_JWT_ISSUER",
    "FULA_KEYS_PER_USER",
    "FULA_LIFECYCLE_EVERY",
    "FULA_OWNER_QUOTA",
    "FULA_PUBLIC_BUCKETS_PER_OWNER",
    "FULA_REGION",
    "FULA_REGION_STRICT",
    "FULA_REMOTE_CID_PUT",
    "FULA_RETENTION",
    "FULA_RETENTION_BYTES",
    "FULA_SESSIONS_PER_OWNER",
    "FULA_SIGV2",
    "FULA_STALE_READS",
    "FULA_STORAGE_NODES",
    "FULA_WALLETS",
];

/// Settings that storage nodes share with masters.
const OF_NODES: [&str; 7] = [
    "FULA_EIP712_AUTH",
    "FULA_AUDIENCE",
    "FULA_EIP712_V1",
    "FULA_JWKS",
    "FULA_JWT_AUDIENCE",
    "FULA_JWT_ISSUER",
    "FULA_WALLETS",
];

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
    let start = start(&args)?;
    let settings = settings(&args, &start)?;
    let (settings, mut files) = match args.role {
        Role::Master => (settings, secrets(&args)?),
        Role::Storage => (of_node(&args, settings)?, BTreeMap::new()),
    };
    if let Some(file) = value_of(&start, "FULA_JWT_SECRET_FILE") {
        let text = files::read_secret(file.as_ref()).map_err(|error| chain(&error))?;
        files.insert("jwt-secret".to_owned(), String::from_utf8_lossy(&text).into_owned());
    }
    let life_ms = u64::try_from(args.expires.0.as_millis()).unwrap_or(u64::MAX);
    let request = Request::Invite { id: id.clone(), life_ms };
    let told = perform(&args.common, request).await?;
    let expires_ms = told["expires_ms"].as_u64().unwrap_or_default();
    let invitation = Invitation { id, version: VERSION.to_owned(), settings, files };
    let sealed = join::seal(&invitation, args.role, &to, expires_ms, &random)?;
    note!("The invitation can be used once, within {}.", args.expires);
    Ok(sealed)
}

/// Returns the settings of the gateway, as its start would find them.
fn start(args: &InviteArgs) -> Result<Vec<cli::Setting>, Failure> {
    let mut line: Vec<OsString> = args.start.clone();
    if let Some(dir) = &args.common.data.data_dir {
        line.extend(["--data-dir".into(), dir.clone().into_os_string()]);
    }
    Ok(cli::start(line).map_err(|error| error.to_string())?.settings)
}

fn value_of(settings: &[cli::Setting], name: &str) -> Option<OsString> {
    let found = settings.iter().find(|setting| setting.name == name)?;
    found.value().map(ToOwned::to_owned)
}

/// Returns the settings that are not as they are by default, of those that are common.
fn settings(
    args: &InviteArgs,
    settings: &[cli::Setting],
) -> Result<BTreeMap<String, String>, Failure> {
    let known: &[&str] = if args.role == Role::Master { &OF_MASTERS } else { &OF_NODES };
    let is_common = |setting: &&cli::Setting| {
        known.contains(&setting.name.as_str())
            && !["default", "unset"].contains(&setting.origin.name())
    };
    let mut found = BTreeMap::new();
    for setting in settings.iter().filter(is_common) {
        let value = setting.value().and_then(|value| value.to_str()).unwrap_or_default();
        if value.contains(['\n', '\r']) {
            return Err(format!(
                "{} has a line end, which no settings file can hold",
                setting.name
            )
            .into());
        }
        found.insert(setting.name.clone(), value.to_owned());
    }
    // What was given as an option of this command is not among the options of the gateway.
    if args.role == Role::Master
        && let Some(blocks) = &args.common.shared.blocks
    {
        found.insert("FULA_BLOCKS".to_owned(), blocks.clone());
    }
    if let Some(jwks) = found.get("FULA_JWKS").filter(|jwks| !jwks.contains("://")) {
        note!("fula: FULA_JWKS names the file {jwks}: copy it to the new machine");
    }
    Ok(found)
}

/// Returns the files with secrets.
fn secrets(args: &InviteArgs) -> Result<BTreeMap<String, String>, Failure> {
    let common = &args.common;
    let key_file = common.secrets_key_file.clone();
    let mode = cli::CasMode::Auto;
    let backends = Backends::check(&common.data, common.shared.clone(), key_file, mode)?;
    let url = database_url(
        common.shared.database_url.clone(),
        common.shared.database_url_file.as_deref(),
    )?;
    let url = url.ok_or_else(|| {
        "this master's arbiter is its own, so no other master can join: set FULA_DATABASE_URL, and move the buckets \
         with `fula roots import`"
            .to_owned()
    })?;
    let mut files = BTreeMap::new();
    files.insert("database-url".to_owned(), format!("{url}\n"));
    files.insert("secrets.key".to_owned(), format!("{}\n", own_secrets_key(common)?.trim()));
    match &common.shared.blocks_credentials_file {
        Some(file) => {
            let text = files::read_secret(file).map_err(|error| chain(&error))?;
            let text = Zeroizing::new(String::from_utf8_lossy(&text).into_owned());
            files.insert("blocks-credentials".to_owned(), format!("{}\n", text.trim_end()));
        }
        None if backends.blocks_url.as_deref().is_some_and(|url| !url.starts_with("file:")) => {
            note!(
                "fula: the credentials of the block store are not in the invitation: set them on the new machine, or name \
                 their file here with FULA_BLOCKS_CREDENTIALS_FILE"
            );
        }
        None => {}
    }
    Ok(files)
}

/// Adds the address and the key of this master to the settings of a storage node.
fn of_node(
    args: &InviteArgs,
    mut settings: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Failure> {
    let key = own_secrets_key(&args.common)?;
    let key = fula_service::auth::SealingKey::parse(&key).map_err(|error| error.to_string())?;
    let url = args.url.as_deref().unwrap_or_default().trim_end_matches('/');
    let masters = format!("master={url}#{}", key.ticket_key().public());
    crate::config::PeerAddress::parse_list("--url", &masters)?;
    settings.insert("FULA_MASTERS".to_owned(), masters);
    Ok(settings)
}
