//! `fula config`: checks the settings of a start, or shows them.

use std::process::ExitCode;

use fula_service::error::chain;
use serde_json::json;

use super::{WRONG_USAGE, gateway::tls_of};
use crate::{
    cli::{
        self, CliError, Command, ConfigArgs, ConfigCommand, GatewaySettings, Setting, Start,
        StorageNodeSettings, Why,
    },
    config::{Backends, GatewayConfig, Jwks, StorageNodeConfig},
    files::{self, DataDir},
    jwks,
    output::{note, say},
};

/// Runs `fula config`.
pub(crate) async fn run(args: ConfigArgs) -> ExitCode {
    let (ConfigCommand::Check { start } | ConfigCommand::Print { start, .. }) = &args.command;
    let start = match cli::start(start.clone()) {
        Ok(start) => start,
        Err(CliError::Typed(error)) => error.exit(),
        Err(error) => {
            note!("fula: {error}");
            return ExitCode::from(if error.is_wrong_usage() { WRONG_USAGE } else { 1 });
        }
    };
    match args.command {
        ConfigCommand::Check { .. } => check(start).await,
        ConfigCommand::Print { json, .. } => {
            print(&start.settings, json);
            for text in variables(&start.command).remarks() {
                note!("fula: {text}");
            }
            ExitCode::SUCCESS
        }
    }
}

/// What is said of variables that have no effect.
struct Variables {
    /// Those that no command knows.
    unknown: Vec<String>,
    /// Those of other commands.
    of_others: Vec<String>,
}

impl Variables {
    fn remarks(self) -> impl Iterator<Item = String> {
        self.unknown.into_iter().chain(self.of_others)
    }
}

fn variables(command: &Command) -> Variables {
    let role = role(command);
    let mut said = Variables { unknown: Vec::new(), of_others: Vec::new() };
    for found in cli::ineffective(std::env::vars_os().map(|(name, _)| name), role) {
        let text = found.text(role);
        match found.why {
            Why::Unknown(_) => said.unknown.push(text),
            Why::OfOthers(_) => said.of_others.push(text),
        }
    }
    said
}

fn role(command: &Command) -> &'static str {
    if matches!(command, Command::StorageNode(_)) { "storage-node" } else { "gateway" }
}

fn print(settings: &[Setting], as_json: bool) {
    if as_json {
        let all: Vec<_> = settings
            .iter()
            .map(|setting| {
                json!({
                    "name": setting.name,
                    "flag": setting.flag,
                    "value": setting.shown,
                    "origin": setting.origin.name(),
                })
            })
            .collect();
        say!("{:#}", serde_json::Value::from(all));
        return;
    }
    let width = settings.iter().map(|setting| setting.name.len()).max().unwrap_or(0);
    for setting in settings {
        let value = setting.shown.as_deref().unwrap_or("-");
        say!("{:<width$}  {:<11}  {value}", setting.name, setting.origin.name());
    }
}

/// What a check has found.
#[derive(Default)]
struct Findings {
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Findings {
    /// Adds the error of a part, if there is one, and returns its value otherwise.
    fn take<T, E: std::error::Error + 'static>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.problems.push(chain(&error))).ok()
    }
}

async fn check(start: Start) -> ExitCode {
    let said = variables(&start.command);
    let set = start
        .settings
        .iter()
        .filter(|setting| !matches!(setting.origin.name(), "default" | "unset"));
    let (set, all) = (set.count(), start.settings.len());
    let mut findings = match start.command {
        Command::Gateway(settings) => of_gateway(*settings).await,
        Command::StorageNode(settings) => of_storage_node(*settings).await,
        _ => Findings::default(),
    };
    findings.problems.extend(said.unknown);
    findings.warnings.extend(said.of_others);
    for warning in &findings.warnings {
        note!("fula: warning: {warning}");
    }
    for problem in &findings.problems {
        note!("fula: {problem}");
    }
    if !findings.problems.is_empty() {
        return ExitCode::FAILURE;
    }
    say!("The settings can be used: {set} of {all} are set.");
    ExitCode::SUCCESS
}

async fn of_gateway(settings: GatewaySettings) -> Findings {
    let mut found = Findings::default();
    let Some(config) = found.take(GatewayConfig::check(settings)) else { return found };
    found.warnings.extend(config.warnings().into_iter().map(str::to_owned));
    found.take(tls_of(config.tls.as_ref()));
    check_files(&mut found, &config.backends, config.jwks.as_ref()).await;
    found
}

async fn of_storage_node(settings: StorageNodeSettings) -> Findings {
    let mut found = Findings::default();
    let Some(config) = found.take(StorageNodeConfig::check(settings)) else { return found };
    found.take(tls_of(config.tls.as_ref()));
    check_files(&mut found, &config.backends, config.jwks.as_ref()).await;
    found
}

/// Checks what settings of both roles name.
async fn check_files(found: &mut Findings, backends: &Backends, jwks: Option<&Jwks>) {
    found.take(files::check_sealing_key(&backends.data_dir, backends.secrets_key_file.as_deref()));
    let data_dir = &backends.data_dir;
    match found.take(files::look_at(data_dir)) {
        Some(DataDir::Foreign(_)) => drop(found.take(files::check_not_foreign(data_dir))),
        Some(_) => drop(found.take(files::check_own(data_dir))),
        None => {}
    }
    if let Some(jwks) = jwks
        && let Err(why) = jwks::check_file(jwks).await
    {
        found.problems.push(format!("FULA_JWKS: {why}"));
    }
}
