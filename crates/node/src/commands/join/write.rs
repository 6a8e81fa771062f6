//! What is written for a new master or storage node.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use fula_service::error::chain;

use crate::{
    cli::JoinHow,
    files,
    join::{Invitation, Role},
};

/// The services as packages have them.
const MASTER_UNIT: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/systemd/fula.service"));
const STORAGE_UNIT: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../deploy/systemd/fula-storage-node.service"
));

/// The files that are written, with their content. Secrets are among them: every file is for its owner alone.
pub(super) struct Plan {
    role: Role,
    dir: PathBuf,
    data_dir: PathBuf,
    files: BTreeMap<PathBuf, String>,
}

impl Plan {
    /// Returns what an invitation asks for.
    pub(super) fn of(role: Role, how: &JoinHow, invitation: &Invitation) -> Self {
        let dir = std::path::absolute(&how.config_dir).unwrap_or_else(|_| how.config_dir.clone());
        let usual = match role {
            Role::Master => "/var/lib/fula-gateway",
            Role::Storage => "/var/lib/fula-storage-node",
        };
        let data_dir = how.data_dir.as_deref().unwrap_or(Path::new(usual));
        let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        let mut plan = Self { role, dir, data_dir, files: BTreeMap::new() };
        for (name, content) in &invitation.files {
            plan.files.insert(plan.dir.join(name), content.clone());
        }
        let text = plan.settings(invitation);
        plan.files.insert(plan.settings_file(), text);
        plan.files.insert(plan.unit(), plan.service(how.data_dir.is_some(), invitation));
        plan
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
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

    fn settings(&self, invitation: &Invitation) -> String {
        let mut lines = vec!["# Written by fula join. One NAME=value a line.".to_owned()];
        let quoted = |value: &str| format!("'{}'", value.replace('\'', "'\\''"));
        lines.extend(
            invitation.settings.iter().map(|(name, value)| format!("{name}={}", quoted(value))),
        );
        for (variable, file) in secrets(invitation) {
            let path = self.dir.join(file).display().to_string();
            lines.push(format!("{variable}={}", quoted(&path)));
        }
        lines.push(format!("FULA_DATA_DIR={}", quoted(&self.data_dir.display().to_string())));
        lines.join("\n") + "\n"
    }

    /// Returns the service: that of the packages, with these settings, and secrets that systemd hands over.
    fn service(&self, has_own_dir: bool, invitation: &Invitation) -> String {
        let (unit, command) = match self.role {
            Role::Master => (MASTER_UNIT, "gateway"),
            Role::Storage => (STORAGE_UNIT, "storage-node"),
        };
        let program = std::env::current_exe().unwrap_or_else(|_| "/usr/bin/fula".into());
        let mut start = vec![format!("ExecStart={} {command}", program.display())];
        let mut credentials = Vec::new();
        for (variable, file) in secrets(invitation) {
            let flag = variable.trim_start_matches("FULA_").to_lowercase().replace('_', "-");
            start.push(format!("--{flag} %d/{file}"));
            credentials.push(format!("LoadCredential={file}:{}", self.dir.join(file).display()));
        }
        if has_own_dir {
            credentials.push(format!("ReadWritePaths={}", self.data_dir.display()));
        }
        let line = |line: &str| match line {
            _ if line.starts_with("ExecStart=") => {
                format!("{}\n{}", start.join(" "), credentials.join("\n"))
            }
            _ if line.starts_with("EnvironmentFile=") => {
                format!("EnvironmentFile={}", self.settings_file().display())
            }
            // The user of a service that has a directory of its own must not change from start to start.
            "DynamicUser=yes" if has_own_dir => String::new(),
            line => line.to_owned(),
        };
        let lines: Vec<String> =
            unit.lines().map(line).filter(|line| !line.is_empty() || !has_own_dir).collect();
        lines.join("\n") + "\n"
    }

    /// Writes the files. Those that are there with the same content stay.
    pub(super) fn write(&self) -> Result<(), String> {
        files::make_data_dir(&self.dir).map_err(|error| chain(&error))?;
        for (path, content) in &self.files {
            if fs::read(path).ok().as_deref() == Some(content.as_bytes()) {
                continue;
            }
            files::write_new(path, content).map_err(|error| chain(&error))?;
        }
        Ok(())
    }

    /// Returns the command that starts the process without systemd.
    pub(super) fn start(&self) -> String {
        let command = if self.role == Role::Master { "gateway" } else { "storage-node" };
        format!("set -a; . {}; fula {command}", self.settings_file().display())
    }

    /// Returns the command that starts the service.
    pub(super) fn start_service(&self) -> String {
        format!("systemctl enable --now {}", self.unit().display())
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
