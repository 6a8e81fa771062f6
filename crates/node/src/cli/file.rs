//! The settings file: a TOML file whose values stand beneath flags and environment.

use std::path::{Path, PathBuf};

use toml::Value;

use crate::files::{self, FileError};

/// A settings file that cannot be used. No message repeats a value: it may be a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsFileError {
    /// Mend the file.
    #[error("cannot read the settings in {0}: {1}")]
    Unreadable(PathBuf, String),
    /// Mend the name.
    #[error(
        "{0}: there is no setting `{1}`; the names are those of `fula gateway --help`, in lower case \
         and without FULA_"
    )]
    Unknown(PathBuf, String),
    /// Mend the value.
    #[error("{0}: `{1}` is a text, a whole number, true or false")]
    Type(PathBuf, String),
    /// Protect the file: it holds a secret.
    #[error(transparent)]
    Open(#[from] FileError),
}

/// Makes the values in the file at `path` the defaults of the options of `command`, so that flags
/// and the environment win. Returns the names of the settings as well.
pub(super) fn layer(
    mut command: clap::Command,
    path: &Path,
) -> Result<(clap::Command, Vec<String>), SettingsFileError> {
    let mut names = Vec::new();
    for (name, value) in read(path)? {
        let is_setting = |arg: &clap::Arg| {
            arg.get_id() == name.as_str() && arg.get_env().is_some() && name != "config"
        };
        if !command.get_arguments().any(is_setting) {
            return Err(SettingsFileError::Unknown(path.to_owned(), name));
        }
        command = command.mut_arg(&name, |arg| arg.default_value(value));
        names.push(name);
    }
    Ok((command, names))
}

/// Returns names and values in a settings file.
fn read(path: &Path) -> Result<Vec<(String, String)>, SettingsFileError> {
    let unreadable = |why| SettingsFileError::Unreadable(path.to_owned(), why);
    let setting = FileError::of_setting("--config (FULA_CONFIG)");
    let text = files::read_text(path).map_err(setting)?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| {
        // The message alone: the line it points at may hold a secret.
        let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
        unreadable(format!("line {line}: {}{}", error.message(), hint(&text, line)))
    })?;
    let is_secret = |(name, value): (&String, &Value)| match name.as_str() {
        "secret_access_key" => true,
        "database_url" => value.as_str().is_some_and(may_hold_password),
        _ => false,
    };
    if table.iter().any(is_secret) {
        files::check_private(path)?;
    }
    let plain = |(name, value)| match value {
        Value::String(text) => Ok((name, text)),
        Value::Integer(number) => Ok((name, number.to_string())),
        Value::Boolean(is_on) => Ok((name, if is_on { "on" } else { "off" }.to_owned())),
        _ => Err(SettingsFileError::Type(path.to_owned(), name)),
    };
    table.into_iter().map(plain).collect()
}

/// Returns the advice about a text without quotes, as the end of a message.
fn hint(text: &str, line: usize) -> &'static str {
    let line = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let value = line.split_once('=').map(|(_, value)| value.trim()).unwrap_or_default();
    let is_word = value.starts_with(|first: char| first.is_alphabetic() || "/.~:*".contains(first));
    let is_number = value.starts_with(|first: char| first.is_ascii_digit())
        && value.contains(|other: char| !other.is_ascii_digit());
    if (is_word && !["true", "false"].contains(&value)) || is_number {
        "; a text, a size with a unit and a time stand in double quotes"
    } else {
        ""
    }
}

/// Returns whether there may be a password in a database URL.
fn may_hold_password(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return true };
    let userinfo = rest.rsplit_once('@').map(|(userinfo, _)| userinfo);
    userinfo.is_some_and(|userinfo| userinfo.contains(':')) || rest.contains("password")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_quotes_is_told_from_other_mistakes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, is_about_quotes) in [
            ("log = \"json\"\nregion = us-east-1\n", true),
            ("data_dir = /srv/fula\n", true),
            ("cache_bytes = 64M\n", true),
            ("region \"x\"\n", false),
            ("[section\n", false),
        ] {
            std::fs::write(file.path(), text).unwrap();
            let refused = read(file.path()).unwrap_err().to_string();
            assert_eq!(refused.contains("double quotes"), is_about_quotes, "{text}: {refused}");
            assert!(refused.contains("line "), "{refused}");
        }
    }

    #[test]
    fn settings_with_a_secret_must_be_private() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        let load = |text: &str, mode| {
            std::fs::write(file.path(), text).unwrap();
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            read(file.path()).map(drop).map_err(|error| error.to_string())
        };
        for secret in [
            "secret_access_key = \"hush-hush\"",
            "database_url = \"postgres://fula:hush@db/fula\"",
            "database_url = \"postgres://fula@db/fula?password=hush\"",
            "database_url = \"fula:hush@db/fula\"",
        ] {
            let refused = load(secret, 0o644).unwrap_err();
            assert!(refused.contains("chmod 600") && !refused.contains("hush"), "{refused}");
            assert_eq!(load(secret, 0o600), Ok(()), "{secret}");
        }
        for other in ["region = \"x\"", "database_url = \"postgres://fula@db/fula\""] {
            assert_eq!(load(other, 0o644), Ok(()), "{other}");
        }
    }
}
