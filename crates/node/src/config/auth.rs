//! Checks the settings of authentication: accepted tokens, sessions, the key set of JWTs, and rate limits.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use fula_gateway::Rates;
use fula_identity::{Address, Policy, jwt::JwtPolicy};
use reqwest::Url;

use fula_service::auth::SESSIONS_MAX;

use super::ConfigError;
use crate::{cli::AuthSettings, files};

/// Returns the most sessions that one owner may have at the same time.
pub(super) fn sessions_max(auth: &AuthSettings) -> Result<usize, ConfigError> {
    let max = auth.sessions_per_owner;
    if (1..=SESSIONS_MAX).contains(&max) {
        return Ok(max);
    }
    let (name, expected) = ("--sessions-per-owner", "it is a number from 1 to 1000");
    Err(ConfigError::Value { name, value: max.to_string(), expected })
}

/// Returns the rate limits for users and addresses. A setting of 0 means no limit.
pub(super) fn rates(auth: &AuthSettings) -> Rates {
    Rates {
        user: NonZeroU32::new(auth.rate_per_user),
        address: NonZeroU32::new(auth.rate_per_address),
    }
}

/// The key set of JWTs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Jwks {
    /// Place of the key set.
    pub(crate) source: JwksSource,
    /// Time for which its keys are used while it cannot be read.
    pub(crate) keep: Duration,
}

/// Least value of `FULA_JWKS_KEEP`. The key set is read at least twice in that time.
const JWKS_KEEP_MIN: Duration = Duration::from_mins(1);

/// Returns the key set, if one is configured.
pub(super) fn jwks(auth: &AuthSettings) -> Result<Option<Jwks>, ConfigError> {
    let Some(source) = &auth.jwks else { return Ok(None) };
    let keep = auth.jwks_keep;
    if keep.0 < JWKS_KEEP_MIN {
        let (name, expected) = ("--jwks-keep", "keys are kept for at least 1m");
        return Err(ConfigError::Value { name, value: keep.to_string(), expected });
    }
    Ok(Some(Jwks { source: JwksSource::parse(source)?, keep: keep.0 }))
}

/// The place of the key set of JWTs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JwksSource {
    /// A file on this machine.
    File(PathBuf),
    /// A URL of the issuer.
    Url(Url),
}

impl JwksSource {
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let wrong = |why| Err(ConfigError::Jwks(why));
        if !has_scheme(text) {
            return Ok(Self::File(text.into()));
        }
        let Ok(url) = Url::parse(text) else { return wrong("the URL is malformed") };
        if !url.username().is_empty() || url.password().is_some() {
            return wrong("a URL must not contain a user name or a password");
        }
        // Anybody on the way could replace keys that come unencrypted.
        let host = url.host_str().unwrap_or_default();
        let is_local = ["127.0.0.1", "localhost", "[::1]"].contains(&host);
        match url.scheme() {
            "https" => Ok(Self::Url(url)),
            "http" if is_local => Ok(Self::Url(url)),
            _ => wrong(
                "a key set comes over https, or over http from this machine; a file is named with a \
                 / in front of any colon",
            ),
        }
    }
}

/// Returns whether a text begins with a scheme as a URL does, or with a mistyped one.
fn has_scheme(text: &str) -> bool {
    let start = text.split_once(':').map(|(start, _)| start);
    start.is_some_and(|start| !start.starts_with(['/', '.']))
}

/// Checks the settings of tokens, and returns the policy that they describe.
pub(super) fn policy(auth: &AuthSettings) -> Result<Policy, ConfigError> {
    let eip712 = auth.eip712_auth;
    for (name, is_set) in [
        ("FULA_AUDIENCE", auth.audience.is_some()),
        ("FULA_WALLETS", auth.wallets.is_some()),
        ("FULA_EIP712_V1=off", !auth.eip712_v1),
    ] {
        if is_set && !eip712 {
            return Err(ConfigError::Without(name, "FULA_EIP712_AUTH=on"));
        }
    }
    let takes_jwts = auth.jwt_secret_file.is_some() || auth.jwks.is_some();
    for (name, is_set) in [
        ("FULA_JWT_ISSUER", auth.jwt_issuer.is_some()),
        ("FULA_JWT_AUDIENCE", auth.jwt_audience.is_some()),
    ] {
        if is_set && !takes_jwts {
            return Err(ConfigError::Without(name, "FULA_JWT_SECRET_FILE or FULA_JWKS"));
        }
    }
    let names = |text: &Option<String>| -> Vec<String> {
        let names = text.iter().flat_map(|text| text.split(','));
        names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
    };
    let wallet = |text: String| {
        let expected = "a wallet is 0x and 40 hex digits";
        Address::parse(&text).ok_or(ConfigError::Value { name: "--wallets", value: text, expected })
    };
    let wallets = match &auth.wallets {
        Some(_) => Some(names(&auth.wallets).into_iter().map(wallet).collect::<Result<_, _>>()?),
        None => None,
    };
    let mut jwt = JwtPolicy::new(auth.jwt_issuer.clone(), auth.jwt_audience.clone());
    if let Some(path) = &auth.jwt_secret_file {
        let setting = files::FileError::of_setting("--jwt-secret-file (FULA_JWT_SECRET_FILE)");
        let secret = files::read_secret(path).map_err(setting)?;
        jwt = jwt
            .with_secret(&secret)
            .map_err(|error| ConfigError::Secret(path.clone(), error.to_string()))?;
    }
    Ok(Policy {
        eip712,
        v1: auth.eip712_v1,
        audiences: names(&auth.audience),
        wallets,
        jwt: jwt.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::gateway_settings, config::GatewayConfig};

    fn with(options: &[&str]) -> Result<GatewayConfig, String> {
        let settings = gateway_settings(options).map_err(|error| error.to_string())?;
        GatewayConfig::check(settings).map_err(|error| error.to_string())
    }

    fn wrong(options: &[&str]) -> String {
        with(options).unwrap_err()
    }

    const ON: [&str; 2] = ["--eip712-auth", "on"];

    #[test]
    fn tokens_are_accepted_where_it_is_said() {
        assert!(!with(&[]).unwrap().policy.accepts_any());
        let on = |more: [&'static str; 2]| with(&[ON, more].concat());
        let policy = on(["--audience", "here, federation"]).unwrap().policy;
        assert!(policy.eip712 && policy.v1 && policy.wallets.is_none());
        assert_eq!(policy.audiences, ["here", "federation"]);
        // An empty list admits no wallet.
        assert_eq!(on(["--wallets", ""]).unwrap().policy.wallets.unwrap().len(), 0);
        assert!(on(["--wallets", "0x1"]).unwrap_err().contains("40 hex digits"));
        assert!(wrong(&["--audience", "x"]).contains("FULA_EIP712_AUTH"));
        assert!(wrong(&["--eip712-v1", "off"]).contains("FULA_EIP712_AUTH"));
        assert!(on(["--jwt-issuer", "x"]).unwrap_err().contains("FULA_JWKS"));
        for max in ["0", "1001"] {
            let refused = on(["--sessions-per-owner", max]).unwrap_err();
            assert!(refused.contains("from 1 to 1000"), "{refused}");
        }
        assert_eq!(with(&ON).unwrap().sessions_max, 1000);
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret.path(), "too short").unwrap();
        let refused = wrong(&["--jwt-secret-file", secret.path().to_str().unwrap()]);
        assert!(refused.contains("32 bytes"), "{refused}");
    }

    #[test]
    fn key_sets_come_from_where_nobody_can_change_them() {
        assert!(wrong(&["--jwks", "http://issuer.example/jwks"]).contains("https"));
        assert!(with(&["--jwks", "http://127.0.0.1:80/jwks"]).is_ok());
        for mistyped in [
            "https://user:hush@issuer.example/jwks",
            "https://user:hush@issuer.example:port/jwks",
            "https:/user:hush@issuer.example/jwks",
            "htps://user:hush@issuer.example/jwks",
            "http://127.0.0.1:80@hush.example/jwks",
            "http://localhost:hush@issuer.example/jwks",
            "user:hush@issuer.example/jwks",
            "https://hush@issuer.example/jwks",
            "ftp://hush/jwks",
        ] {
            let refused = wrong(&["--jwks", mistyped]);
            assert!(refused.contains("FULA_JWKS") && !refused.contains("hush"), "{refused}");
        }
        let set = ["--jwks", "jwks.json"];
        assert_eq!(with(&set).unwrap().jwks.unwrap().keep, Duration::from_hours(1));
        let short = [set, ["--jwks-keep", "59s"]].concat();
        assert!(wrong(&short).contains("at least 1m"));
    }

    #[test]
    fn the_start_warns_of_tokens_that_were_meant_for_others() {
        let warns = |options: &[&[&str]], name: &str| {
            let warnings = with(&options.concat()).unwrap().warnings();
            warnings.iter().any(|warning| warning.contains(name))
        };
        let (on, set): (&[&str], &[&str]) = (&ON, &["--jwks", "jwks.json"]);
        assert!(warns(&[on], "FULA_EIP712_V1"));
        assert!(!warns(&[on, &["--eip712-v1", "off"]], "FULA_EIP712_V1"));
        assert!(warns(&[set], "FULA_JWT_AUDIENCE") && !warns(&[set], "FULA_EIP712_V1"));
        assert!(!warns(&[set, &["--jwt-audience", "fula"]], "FULA_JWT_AUDIENCE"));
        assert!(!warns(&[on], "FULA_JWT_AUDIENCE") && !warns(&[on], "FULA_TLS_TERMINATED"));
        let open: &[&str] = &["--listen", "0.0.0.0:9000"];
        assert!(warns(&[on, open], "FULA_TLS_TERMINATED"));
        assert!(!warns(&[on, open, &["--tls-terminated", "on"]], "FULA_TLS_TERMINATED"));
    }
}
