//! What requests are authenticated with, and where AWS tools keep it.

use std::{fmt, path::PathBuf};

use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// What requests are authenticated with.
#[derive(Clone, Default)]
pub enum Credentials {
    /// Nothing: only what is open to everyone can be read.
    #[default]
    Anonymous,
    /// An access key, with which requests are signed.
    Key {
        /// Access key id.
        id: String,
        /// Secret access key.
        secret: Zeroizing<String>,
        /// Token of a session, for temporary keys.
        session: Option<String>,
    },
    /// A bearer token. It is sent over TLS and to this machine only.
    Bearer(Zeroizing<String>),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => write!(f, "Anonymous"),
            Self::Key { id, .. } => write!(f, "Key({id})"),
            Self::Bearer(_) => write!(f, "Bearer"),
        }
    }
}

impl Credentials {
    /// Returns an access key.
    pub fn key(id: impl Into<String>, secret: impl Into<String>) -> Self {
        Self::Key { id: id.into(), secret: Zeroizing::new(secret.into()), session: None }
    }

    /// Returns a bearer token.
    pub fn bearer(token: impl Into<String>) -> Self {
        Self::Bearer(Zeroizing::new(token.into()))
    }
}

/// What the environment says about the gateway, as AWS tools understand it.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, or `endpoint_url` of the profile.
    pub endpoint: Option<String>,
    /// `AWS_REGION`, `AWS_DEFAULT_REGION`, or `region` of the profile.
    pub region: Option<String>,
    /// The access key, or the token in the file of `AWS_WEB_IDENTITY_TOKEN_FILE`;
    /// [`Credentials::Anonymous`] if there is neither.
    pub credentials: Credentials,
    /// `AWS_CA_BUNDLE`: a file with certificates that are trusted in place of those of the system.
    pub ca_bundle: Option<PathBuf>,
}

impl Settings {
    /// Reads the variables and files of AWS tools: `variable` returns the value of an environment variable.
    /// `profile` is used instead of `AWS_PROFILE` if it is given.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a profile was named that no file has, or if half of an access key is missing;
    /// [`Error::Io`] if a file that was named cannot be read.
    pub fn read(profile: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let named = profile.map(str::to_owned).or_else(|| variable("AWS_PROFILE"));
        let name = named.clone().unwrap_or_else(|| "default".to_owned());
        let home = variable("HOME").map(PathBuf::from);
        let file = |setting: &str, usual: &str| {
            let path = variable(setting).map(PathBuf::from);
            let is_named = path.is_some();
            let path = path.or_else(|| home.as_ref().map(|home| home.join(usual)));
            path.map_or(Ok(String::new()), |path| read_file(&path, is_named))
        };
        let credentials = file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials")?;
        let config = file("AWS_CONFIG_FILE", ".aws/config")?;
        let section =
            |wanted: &str| wanted == name || wanted.strip_prefix("profile ") == Some(&*name);
        let (secrets, settings) = (values(&credentials, section), values(&config, section));
        if named.is_some() && secrets.is_none() && settings.is_none() {
            return Err(Error::Invalid(format!(
                "no profile {name} in ~/.aws/credentials or ~/.aws/config; check AWS_PROFILE"
            )));
        }
        let values: Vec<(String, String)> = secrets.into_iter().chain(settings).flatten().collect();
        let of_profile =
            |key: &str| values.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
        let from_variables = variable("AWS_ACCESS_KEY_ID").is_some() && profile.is_none();
        let part = |of_variable: &str, of_file: &str| {
            if from_variables { variable(of_variable) } else { of_profile(of_file) }
        };
        let id = part("AWS_ACCESS_KEY_ID", "aws_access_key_id");
        let secret = part("AWS_SECRET_ACCESS_KEY", "aws_secret_access_key");
        let session = part("AWS_SESSION_TOKEN", "aws_session_token");
        let credentials = match (id, secret) {
            (Some(id), Some(secret)) => {
                Credentials::Key { id, secret: Zeroizing::new(secret), session }
            }
            (None, None) => match variable("AWS_WEB_IDENTITY_TOKEN_FILE") {
                Some(path) => Credentials::bearer(read_file(path.as_ref(), true)?.trim()),
                None => Credentials::Anonymous,
            },
            _ => {
                return Err(Error::Invalid(
                    "an access key has an id and a secret, and one of them is missing; set \
                     AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                        .to_owned(),
                ));
            }
        };
        Ok(Self {
            endpoint: variable("AWS_ENDPOINT_URL_S3")
                .or_else(|| variable("AWS_ENDPOINT_URL"))
                .or_else(|| of_profile("endpoint_url")),
            region: variable("AWS_REGION")
                .or_else(|| variable("AWS_DEFAULT_REGION"))
                .or_else(|| of_profile("region")),
            credentials,
            ca_bundle: variable("AWS_CA_BUNDLE").map(PathBuf::from),
        })
    }
}

fn read_file(path: &std::path::Path, is_named: bool) -> Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_named => {
            Ok(String::new())
        }
        read => read.map_err(Error::io(path.display().to_string())),
    }
}

/// Returns the settings of the section for which `is_wanted`; `None` if there is none.
fn values(text: &str, is_wanted: impl Fn(&str) -> bool) -> Option<Vec<(String, String)>> {
    let (mut found, mut is_in) = (None, false);
    for line in text.lines() {
        let line = line.trim_end();
        if let Some(name) = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            is_in = is_wanted(name.trim());
            if is_in {
                found.get_or_insert_with(Vec::new);
            }
        } else if is_in
            && !line.starts_with(['#', ';', ' ', '\t'])
            && let (Some((name, value)), Some(found)) = (line.split_once('='), found.as_mut())
        {
            found.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(profile: Option<&str>, variables: &[(&str, &str)]) -> Result<Settings> {
        let find = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Settings::read(profile, find)
    }

    fn id(settings: &Settings) -> &str {
        match &settings.credentials {
            Credentials::Key { id, .. } => id,
            Credentials::Anonymous | Credentials::Bearer(_) => "",
        }
    }

    #[test]
    fn variables_go_before_files() {
        let dir = tempfile::tempdir().unwrap();
        let (credentials, config) = (dir.path().join("credentials"), dir.path().join("config"));
        let text = "[default]\naws_access_key_id = A\naws_secret_access_key=a=a\n# x\n[other]\naws_access_key_id=B\n\
                    aws_secret_access_key=b\naws_session_token=t\n";
        std::fs::write(&credentials, text).unwrap();
        let text = "[profile other]\nregion = eu\nendpoint_url = https://e\ns3 =\n  region = no\n";
        std::fs::write(&config, text).unwrap();
        let files = [
            ("AWS_SHARED_CREDENTIALS_FILE", credentials.to_str().unwrap()),
            ("AWS_CONFIG_FILE", config.to_str().unwrap()),
        ];
        let found = read(None, &files).unwrap();
        assert_eq!((id(&found), &found.region), ("A", &None));
        let Credentials::Key { secret, .. } = found.credentials else { panic!() };
        assert_eq!(*secret, "a=a");
        let found = read(Some("other"), &files).unwrap();
        assert_eq!((id(&found), found.region.as_deref()), ("B", Some("eu")));
        assert_eq!(found.endpoint.as_deref(), Some("https://e"));
        let variables =
            [("AWS_ACCESS_KEY_ID", "C"), ("AWS_SECRET_ACCESS_KEY", "c"), files[0], files[1]];
        assert_eq!(id(&read(None, &variables).unwrap()), "C");
        // A profile that was asked for goes before variables, as with AWS tools.
        assert_eq!(id(&read(Some("other"), &variables).unwrap()), "B");
        assert!(read(Some("third"), &files).is_err());
        assert!(read(None, &[("AWS_ACCESS_KEY_ID", "C")]).is_err());
        assert!(read(None, &[("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")]).is_err());
        assert_eq!(id(&read(None, &[]).unwrap()), "");
        let token = dir.path().join("token");
        std::fs::write(&token, "fula-eip712.x\n").unwrap();
        let found =
            read(None, &[("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap())]).unwrap();
        let Credentials::Bearer(token) = found.credentials else { panic!() };
        assert_eq!(*token, "fula-eip712.x");
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown =
            format!("{:?} {:?}", Credentials::key("ID", "s3cret"), Credentials::bearer("s3cret"));
        assert!(shown.contains("ID") && !shown.contains("s3cret"), "{shown}");
    }
}
