//! The service of a new master or storage node: that of the packages, with the settings of an invitation.

use std::path::Path;

use crate::join::Role;

/// The services as packages have them.
const MASTER_UNIT: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/systemd/fula.service"));
const STORAGE_UNIT: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../deploy/systemd/fula-storage-node.service"
));

/// Directories that `ProtectHome=yes` hides from a service, and those that `PrivateTmp=yes` replaces.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// What a service is made of.
pub(super) struct Service<'a> {
    pub(super) role: Role,
    /// The program that it starts.
    pub(super) program: &'a Path,
    /// File with its settings.
    pub(super) settings: &'a Path,
    /// Options that take the place of settings, and the files that systemd hands over for them: setting, name of the
    /// credential, file.
    pub(super) credentials: Vec<(&'static str, &'static str, &'a Path)>,
    /// Data directory, where it is not that of the package.
    pub(super) data_dir: Option<&'a Path>,
    /// User and group that own the data directory; `None` for root.
    pub(super) user: Option<(u32, u32)>,
}

impl Service<'_> {
    /// Returns the unit.
    pub(super) fn text(&self) -> String {
        let unit = if self.role == Role::Master { MASTER_UNIT } else { STORAGE_UNIT };
        let lines = unit.lines().skip_while(|line| line.starts_with('#'));
        let mut text = "# Written by fula join.\n".to_owned();
        for line in lines {
            for line in self.lines(line) {
                text.push_str(&line);
                text.push('\n');
            }
        }
        text
    }

    /// Returns what a line of the service of the package becomes.
    fn lines(&self, line: &str) -> Vec<String> {
        let (name, _) = line.split_once('=').unwrap_or((line, ""));
        let is_hidden = |dirs: &[&str]| {
            let paths = self.data_dir.into_iter().chain([self.program]);
            paths.into_iter().any(|path| dirs.iter().any(|dir| path.starts_with(dir)))
        };
        match (name, self.data_dir) {
            ("ExecStart", _) => self.start(),
            ("EnvironmentFile", _) => {
                vec![format!("EnvironmentFile={}", specifiers(self.settings))]
            }
            // The disk of the directory is mounted first: an empty mount point would be taken for a new directory.
            ("[Unit]", Some(dir)) => {
                vec![line.to_owned(), format!("RequiresMountsFor={}", quoted(dir))]
            }
            // The owner of a directory that systemd does not make must not change from start to start.
            ("DynamicUser", Some(_)) => self
                .user
                .map(|(user, group)| vec![format!("User={user}"), format!("Group={group}")])
                .unwrap_or_default(),
            ("StateDirectory" | "StateDirectoryMode", Some(_)) => Vec::new(),
            (name, Some(_)) if name.starts_with("# The data directory") => Vec::new(),
            ("ProtectHome", _) if is_hidden(&HOMES) => Vec::new(),
            ("PrivateTmp", _) if is_hidden(&TEMPORARY) => Vec::new(),
            _ => vec![line.to_owned()],
        }
    }

    fn start(&self) -> Vec<String> {
        let command = if self.role == Role::Master { "gateway" } else { "storage-node" };
        let mut start = format!("ExecStart={} {command}", quoted(self.program));
        let mut lines = Vec::new();
        for (setting, credential, file) in &self.credentials {
            let flag = setting.trim_start_matches("FULA_").to_lowercase().replace('_', "-");
            start.extend([" --", &flag, " %d/", credential]);
            lines.push(format!("LoadCredential={credential}:{}", specifiers(file)));
        }
        if let Some(dir) = self.data_dir {
            lines.push(format!("ReadWritePaths={}", quoted(dir)));
        }
        lines.insert(0, start);
        lines
    }
}

/// Returns a path for a setting that is one path, in which systemd replaces specifiers.
fn specifiers(path: &Path) -> String {
    path.display().to_string().replace('%', "%%")
}

/// Returns a path for a setting that is a list of words.
fn quoted(path: &Path) -> String {
    let text = specifiers(path).replace('\\', "\\\\").replace('"', "\\\"");
    if text.contains([' ', '"', '\\', '\'', ';']) { format!("\"{text}\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service<'a>(data_dir: Option<&'a str>, program: &'a str) -> Service<'a> {
        Service {
            role: Role::Master,
            program: Path::new(program),
            settings: Path::new("/etc/fula/gateway.env"),
            credentials: vec![(
                "FULA_SECRETS_KEY_FILE",
                "secrets.key",
                Path::new("/etc/fula/secrets.key"),
            )],
            data_dir: data_dir.map(Path::new),
            user: Some((1000, 100)),
        }
    }

    #[test]
    fn the_service_is_that_of_the_package_with_the_settings_of_the_invitation() {
        let text = service(None, "/usr/bin/fula").text();
        for line in [
            "ExecStart=/usr/bin/fula gateway --secrets-key-file %d/secrets.key",
            "LoadCredential=secrets.key:/etc/fula/secrets.key",
            "EnvironmentFile=/etc/fula/gateway.env",
            "StateDirectory=fula-gateway",
            "DynamicUser=yes",
            "ProtectHome=yes",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(!text.contains("RequiresMountsFor") && !text.contains("upgrade replaces"));
    }

    #[test]
    fn the_service_reaches_a_directory_of_its_own() {
        let text = service(Some("/srv/my data/100%"), "/usr/bin/fula").text();
        for line in [
            r#"RequiresMountsFor="/srv/my data/100%%""#,
            r#"ReadWritePaths="/srv/my data/100%%""#,
            "User=1000",
            "Group=100",
            "ProtectHome=yes",
            "PrivateTmp=yes",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(!text.contains("DynamicUser") && !text.contains("StateDirectory"));
        // What the protections would hide is not hidden.
        let at_home = service(None, "/root/.cargo/bin/fula").text();
        assert!(!at_home.contains("ProtectHome") && at_home.contains("PrivateTmp"));
        let temporary = service(Some("/tmp/x"), "/usr/bin/fula").text();
        assert!(!temporary.contains("PrivateTmp") && temporary.contains("ProtectHome"));
    }
}
