//! Secrets that are given by themselves or as files, and the credentials of a block store.

use std::{fmt, path::Path, sync::Arc};

use super::ConfigError;
use crate::files::{self, FileError};

/// Beginnings of the variables that block stores know.
const OF_STORES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// Returns a secret that stands in a setting or in a file.
///
/// # Errors
/// [`ConfigError::Twice`], [`ConfigError::File`], [`ConfigError::Secret`] for a file that is no text.
pub(super) fn secret(
    value: Option<String>,
    file: Option<&Path>,
    names: (&'static str, &'static str),
    of_file: &'static str,
) -> Result<Option<String>, ConfigError> {
    let file = match (value, file) {
        (Some(_), Some(_)) => return Err(ConfigError::Twice(names.0, names.1)),
        (value, None) => return Ok(value),
        (None, Some(file)) => file,
    };
    let bytes = files::read_secret(file).map_err(FileError::of_setting(of_file))?;
    let wrong = |why: &str| ConfigError::Secret(file.to_owned(), why.to_owned());
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong("it does not hold a text"))?;
    if text.is_empty() { Err(wrong("it is empty")) } else { Ok(Some(text.to_owned())) }
}

/// Returns the URL of the database, which stands in a setting or in a file.
///
/// # Errors
/// Those of [`secret`].
pub(crate) fn database_url(
    value: Option<String>,
    file: Option<&Path>,
) -> Result<Option<String>, ConfigError> {
    let names = ("FULA_DATABASE_URL", "FULA_DATABASE_URL_FILE");
    secret(value, file, names, "--database-url-file (FULA_DATABASE_URL_FILE)")
}

/// Names and values of variables that a block store knows. They win over the environment, and are never shown.
#[derive(Clone, Default)]
pub(crate) struct BlocksCredentials(Arc<Vec<(String, String)>>);

impl fmt::Debug for BlocksCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlocksCredentials").finish_non_exhaustive()
    }
}

impl BlocksCredentials {
    /// Reads a file with one NAME=VALUE a line.
    ///
    /// # Errors
    /// [`ConfigError::File`], [`ConfigError::Secret`] for a line that is something else.
    pub(super) fn read(file: &Path) -> Result<Self, ConfigError> {
        let name = "--blocks-credentials-file (FULA_BLOCKS_CREDENTIALS_FILE)";
        let bytes = files::read_secret(file).map_err(FileError::of_setting(name))?;
        let wrong = |line: usize, why: &str| {
            ConfigError::Secret(file.to_owned(), format!("line {line}: {why}"))
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| wrong(1, "it is no text"))?;
        let mut found = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // No part of the line is repeated: it may be a secret.
            let Some((name, value)) = line.split_once('=') else {
                return Err(wrong(number + 1, "a line is NAME=VALUE"));
            };
            if !OF_STORES.iter().any(|start| name.starts_with(start)) {
                let why = "the name begins with AWS_, GOOGLE_ or AZURE_";
                return Err(wrong(number + 1, why));
            }
            found.push((name.to_owned(), value.to_owned()));
        }
        Ok(Self(Arc::new(found)))
    }

    /// Returns names and values.
    pub(crate) fn variables(&self) -> &[(String, String)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::{cli::gateway_settings, config::GatewayConfig};

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    fn check(options: &[&str]) -> Result<GatewayConfig, String> {
        let settings = gateway_settings(options).map_err(|error| error.to_string())?;
        GatewayConfig::check(settings).map_err(|error| error.to_string())
    }

    #[test]
    fn secrets_may_stand_in_files_that_nobody_else_can_read() {
        let url = file("postgres://fula:hush@db/fula\n", 0o600);
        let url = url.path().to_str().unwrap();
        let key = file("hush-hush\n", 0o600);
        let key = key.path().to_str().unwrap();
        let shared = ["--blocks", "s3://b", "--secrets-key-file", "k", "--database-url-file", url];
        let first = ["--access-key-id", "A", "--secret-access-key-file", key];
        let config = check(&[&shared[..], &first[..]].concat()).unwrap();
        let database = config.backends.shared.as_ref().unwrap().database_url.clone();
        assert_eq!(database, "postgres://fula:hush@db/fula");
        assert_eq!(config.first_key.as_ref().unwrap().1.expose(), "hush-hush");
        assert!(!format!("{config:?}").contains("hush"));
        let twice = check(&[&shared[..], &["--database-url", "postgres://h/d"]].concat());
        assert!(twice.unwrap_err().contains("FULA_DATABASE_URL_FILE"));
        let open = file("hush", 0o644);
        let open =
            ["--access-key-id", "A", "--secret-access-key-file", open.path().to_str().unwrap()];
        let refused = check(&open).unwrap_err();
        assert!(refused.contains("chmod 600") && refused.contains("FULA_SECRET_ACCESS_KEY_FILE"));
        let empty = file("\n", 0o600);
        let empty =
            ["--access-key-id", "A", "--secret-access-key-file", empty.path().to_str().unwrap()];
        assert!(check(&empty).unwrap_err().contains("it is empty"));
    }

    #[test]
    fn credentials_of_a_block_store_are_variables_of_its_kind() {
        let read = |text: &str, mode| {
            let file = file(text, mode);
            let read = BlocksCredentials::read(file.path());
            read.map(|read| read.variables().to_vec()).map_err(|error| error.to_string())
        };
        let text = "# of the bucket\nAWS_ACCESS_KEY_ID=A\n\nAWS_SECRET_ACCESS_KEY=hush=\n";
        let expected = [("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", "hush=")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(read(text, 0o600).unwrap(), expected);
        for wrong in ["hush", "PATH=hush", "AWS_REGION=x\nhush"] {
            let refused = read(wrong, 0o600).unwrap_err();
            assert!(refused.contains("line ") && !refused.contains("hush"), "{refused}");
        }
        assert!(read(text, 0o644).unwrap_err().contains("chmod 600"));
    }
}
