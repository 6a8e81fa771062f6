//! What is written for a new master or storage node.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use fula_service::error::chain;

use super::unit::Service;
use crate::{
    cli::{self, Command, JoinHow},
    files,
    join::{Invitation, Role},
};

/// Mode of the service file. It has no secret, and systemd warns of one that not everybody can read.
const UNIT_MODE: u32 = 0o644;

/// The files that are written, with their content. All but the service have secrets: they are for their owner alone.
pub(super) struct Plan {
    role: Role,
    dir: PathBuf,
    data_dir: PathBuf,
    /// Settings that the process starts with.
    settings: BTreeMap<String, String>,
    /// Addresses of the S3 listener, or that for blocks, and of the admin listener.
    listeners: [SocketAddr; 2],
    files: BTreeMap<PathBuf, String>,
}

impl Plan {
    /// Returns what an invitation asks for, with the settings of this machine.
    ///
    /// # Errors
    /// The reason why these settings cannot be used, in words for the operator.
    pub(super) fn of(role: Role, how: &JoinHow, invitation: &Invitation) -> Result<Self, String> {
        let dir = std::path::absolute(&how.config_dir).unwrap_or_else(|_| how.config_dir.clone());
        let usual = match role {
            Role::Master => "/var/lib/fula-gateway",
            Role::Storage => "/var/lib/fula-storage-node",
        };
        let data_dir = how.data_dir.as_deref().unwrap_or(Path::new(usual));
        let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        let mut settings = invitation.settings.clone();
        for setting in &how.set {
            let (name, value) = own_setting(role, setting, invitation)?;
            settings.insert(name, value);
        }
        for (variable, file) in secrets(invitation) {
            settings.insert(variable.to_owned(), dir.join(file).display().to_string());
        }
        settings.insert("FULA_DATA_DIR".to_owned(), data_dir.display().to_string());
        let listeners = listeners(role, &settings)?;
        let mut plan = Self { role, dir, data_dir, settings, listeners, files: BTreeMap::new() };
        for (name, content) in &invitation.files {
            plan.files.insert(plan.dir.join(name), content.clone());
        }
        plan.files.insert(plan.settings_file(), plan.settings_text());
        let unit = plan.service(how.data_dir.is_some(), invitation);
        plan.files.insert(plan.unit(), unit);
        Ok(plan)
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Returns the settings that the process starts with, by name of their variable.
    pub(super) fn settings(&self) -> &BTreeMap<String, String> {
        &self.settings
    }

    /// Returns the addresses of the listener for clients and of the admin listener.
    pub(super) fn listeners(&self) -> [SocketAddr; 2] {
        self.listeners
    }

    /// Returns the setting that names the address for clients.
    pub(super) fn listen_variable(&self) -> &'static str {
        if self.role == Role::Master { "FULA_LISTEN" } else { "FULA_NODE_LISTEN" }
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    /// Returns the files that are there with other content.
    pub(super) fn in_the_way(&self) -> Vec<&Path> {
        let is_other = |(path, content): &(&PathBuf, &String)| {
            fs::symlink_metadata(path).is_ok()
                && fs::read(path).ok().as_deref() != Some(content.as_bytes())
        };
        self.files.iter().filter(is_other).map(|(path, _)| path.as_path()).collect()
    }

    fn settings_file(&self) -> PathBuf {
        let name = if self.role == Role::Master { "gateway.env" } else { "storage-node.env" };
        self.dir.join(name)
    }

    pub(super) fn unit_name(&self) -> &'static str {
        if self.role == Role::Master { "fula.service" } else { "fula-storage-node.service" }
    }

    pub(super) fn unit(&self) -> PathBuf {
        self.dir.join(self.unit_name())
    }

    /// Returns the subcommand of the process.
    pub(super) fn command(&self) -> &'static str {
        command(self.role)
    }

    fn settings_text(&self) -> String {
        let mut lines = vec!["# Written by fula join. One NAME=value a line.".to_owned()];
        let quoted = |value: &str| format!("'{}'", value.replace('\'', "'\\''"));
        lines.extend(self.settings.iter().map(|(name, value)| format!("{name}={}", quoted(value))));
        lines.join("\n") + "\n"
    }

    fn service(&self, has_own_dir: bool, invitation: &Invitation) -> String {
        let program = std::env::current_exe().unwrap_or_else(|_| "/usr/bin/fula".into());
        let files: Vec<_> = secrets(invitation)
            .map(|(setting, name)| (setting, name, self.dir.join(name)))
            .collect();
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        let service = Service {
            role: self.role,
            program: &program,
            settings: &self.settings_file(),
            credentials: files.iter().map(|(a, b, file)| (*a, *b, file.as_path())).collect(),
            data_dir: has_own_dir.then_some(&self.data_dir),
            user: (!user.is_root()).then(|| (user.as_raw(), group.as_raw())),
        };
        service.text()
    }

    /// Writes the files, and makes a data directory that the service does not make itself. Files that are there with
    /// the same content stay.
    pub(super) fn write(&self, has_own_dir: bool) -> Result<(), String> {
        files::make_data_dir(&self.dir).map_err(|error| chain(&error))?;
        for (path, content) in &self.files {
            if fs::read(path).ok().as_deref() == Some(content.as_bytes()) {
                continue;
            }
            files::write_new(path, content).map_err(|error| chain(&error))?;
        }
        let unit = self.unit();
        fs::set_permissions(&unit, fs::Permissions::from_mode(UNIT_MODE)).map_err(|error| {
            format!("{}: {}", unit.display(), fula_core::error::io_text(&error))
        })?;
        if has_own_dir {
            files::make_data_dir(&self.data_dir).map_err(|error| chain(&error))?;
        }
        Ok(())
    }

    /// Returns the command that starts the process without systemd.
    pub(super) fn start(&self) -> String {
        format!("set -a; . {}; fula {}", self.settings_file().display(), self.command())
    }

    /// Returns the command that starts the service.
    pub(super) fn start_service(&self) -> String {
        format!("systemctl enable --now {}", self.unit().display())
    }
}

fn command(role: Role) -> &'static str {
    if role == Role::Master { "gateway" } else { "storage-node" }
}

/// Parses `NAME=VALUE`, which must be a setting that each machine has for itself.
fn own_setting(
    role: Role,
    text: &str,
    invitation: &Invitation,
) -> Result<(String, String), String> {
    let wrong = |why: &str| format!("--set {text}: {why}");
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| wrong("it must be NAME=VALUE, such as FULA_LISTEN=:9000"))?;
    if invitation.settings.contains_key(name) {
        return Err(format!("--set {name}: this setting comes with the invitation"));
    }
    if ["FULA_DATA_DIR", "FULA_CONFIG"].contains(&name) {
        return Err(format!("--set {name}: give --data-dir and --config-dir instead"));
    }
    if value.contains(['\n', '\r']) {
        return Err(format!(
            "--set {name}: the value has a line end, which no settings file can hold"
        ));
    }
    if !cli::own_of(command(role)).contains(name) {
        return Err(not_of_one_machine(role, name));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Returns why a setting cannot be set for one machine, and which one was meant if the role has another name for it.
fn not_of_one_machine(role: Role, name: &str) -> String {
    let (machine, meant) = match (role, name) {
        (Role::Master, "FULA_NODE_LISTEN") => ("a master", "FULA_LISTEN"),
        (Role::Storage, "FULA_LISTEN") => ("a storage node", "FULA_NODE_LISTEN"),
        _ => {
            return format!(
                "--set {name}: it is not a setting of one machine; `fula {} --help` lists those",
                command(role)
            );
        }
    };
    format!("--set {name}: {machine} has {meant} instead")
}

/// Checks settings as a start would, and returns the addresses of the listeners.
fn listeners(role: Role, settings: &BTreeMap<String, String>) -> Result<[SocketAddr; 2], String> {
    let flags = cli::flags_of(command(role));
    let mut line: Vec<OsString> = vec![command(role).into()];
    for (name, value) in settings {
        let flag = flags.get(name).ok_or_else(|| {
            format!("{name} of the invitation is no setting here: use the version of the master that invites")
        })?;
        line.push(format!("{flag}={value}").into());
    }
    let wrong = |error: cli::CliError| {
        format!("the settings cannot be used: {}", error.to_string().trim_start_matches("error: "))
    };
    match cli::start(line).map_err(wrong)?.command {
        Command::Gateway(settings) => Ok([settings.listen, settings.admin_listen]),
        Command::StorageNode(settings) => Ok([settings.listen, settings.admin_listen]),
        _ => Err("the settings are those of another command".to_owned()),
    }
}

/// Returns the settings that name secret files, and the names of those files.
fn secrets(invitation: &Invitation) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
    [
        ("FULA_SECRETS_KEY_FILE", "secrets.key"),
        ("FULA_DATABASE_URL_FILE", "database-url"),
        ("FULA_BLOCKS_CREDENTIALS_FILE", "blocks-credentials"),
        ("FULA_JWT_SECRET_FILE", "jwt-secret"),
    ]
    .into_iter()
    .filter(|(_, file)| invitation.files.contains_key(*file))
}
