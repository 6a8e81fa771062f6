//! Which tokens are accepted, and how often anyone may ask.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use fula_gateway::Rates;
use fula_identity::{Address, Policy, jwt::JwtPolicy};
use reqwest::Url;

use fula_service::{auth::SESSIONS_MAX, limits::KEYS_PER_USER};

use super::{ConfigError, FileSettings, duration, limits::at_least_one};
use crate::{
    cli::{AuthArgs, Switch},
    files,
};

/// Returns what was typed, and what the file says where nothing was.
pub(super) fn merge(args: AuthArgs, file: &mut FileSettings) -> AuthArgs {
    AuthArgs {
        eip712_auth: args.eip712_auth.or(file.eip712_auth),
        eip712_v1: args.eip712_v1.or(file.eip712_v1),
        audience: args.audience.or(file.audience.take()),
        wallets: args.wallets.or(file.wallets.take()),
        jwt_secret_file: args.jwt_secret_file.or(file.jwt_secret_file.take()),
        jwks: args.jwks.or(file.jwks.take()),
        jwks_keep: args.jwks_keep.or(file.jwks_keep.take()),
        jwt_issuer: args.jwt_issuer.or(file.jwt_issuer.take()),
        jwt_audience: args.jwt_audience.or(file.jwt_audience.take()),
        sessions_per_owner: args.sessions_per_owner.or(file.sessions_per_owner),
        keys_per_user: args.keys_per_user.or(file.keys_per_user),
        rate_per_user: args.rate_per_user.or(file.rate_per_user),
        rate_per_address: args.rate_per_address.or(file.rate_per_address),
    }
}

/// Returns how many sessions one owner may have at a time.
pub(super) fn sessions_max(auth: &AuthArgs) -> Result<usize, ConfigError> {
    let max = auth.sessions_per_owner.unwrap_or(SESSIONS_MAX);
    if (1..=SESSIONS_MAX).contains(&max) {
        return Ok(max);
    }
    let (name, expected) = ("--sessions-per-owner", "it is a number from 1 to 1000");
    Err(ConfigError::Value { name, value: max.to_string(), expected })
}

/// Returns how many access keys one user may have.
pub(super) fn keys_max(auth: &AuthArgs) -> Result<usize, ConfigError> {
    match auth.keys_per_user {
        Some(0) => Err(at_least_one("--keys-per-user")),
        max => Ok(max.unwrap_or(KEYS_PER_USER)),
    }
}

/// Returns how often anyone may ask; 0 is without bound.
pub(super) fn rates(auth: &AuthArgs) -> Rates {
    Rates {
        user: auth.rate_per_user.and_then(NonZeroU32::new),
        address: auth.rate_per_address.and_then(NonZeroU32::new),
    }
}

/// The key set of JWTs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Jwks {
    /// Where it is.
    pub(crate) source: JwksSource,
    /// How long its keys are used while it cannot be read.
    pub(crate) keep: Duration,
}

/// Shortest time that keys can be kept: the set is read at least twice in it.
const JWKS_KEEP_MIN: Duration = Duration::from_mins(1);

/// Returns the key set, if one is configured.
pub(super) fn jwks(auth: &AuthArgs) -> Result<Option<Jwks>, ConfigError> {
    let Some(source) = &auth.jwks else {
        let is_kept = auth.jwks_keep.is_some();
        return if is_kept {
            Err(ConfigError::Without("FULA_JWKS_KEEP", "FULA_JWKS"))
        } else {
            Ok(None)
        };
    };
    let keep = match &auth.jwks_keep {
        None => Duration::from_hours(1),
        Some(text) => {
            let keep = duration("--jwks-keep", text.clone())?;
            if keep < JWKS_KEEP_MIN {
                let expected = "keys are kept for at least 1m";
                return Err(ConfigError::Value {
                    name: "--jwks-keep",
                    value: text.clone(),
                    expected,
                });
            }
            keep
        }
    };
    Ok(Some(Jwks { source: JwksSource::parse(source)?, keep }))
}

/// Where the key set of JWTs is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JwksSource {
    /// Here.
    File(PathBuf),
    /// At its issuer.
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
        // Keys that came unencrypted could be anybody's.
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

/// Returns whether a text begins as a URL does, or may have been meant to.
fn has_scheme(text: &str) -> bool {
    let start = text.split_once(':').map(|(start, _)| start);
    start.is_some_and(|start| !start.starts_with(['/', '.']))
}

/// Checks which tokens are to be accepted.
pub(super) fn policy(auth: &AuthArgs) -> Result<Policy, ConfigError> {
    let eip712 = auth.eip712_auth == Some(Switch::On);
    for (name, is_set) in [
        ("FULA_AUDIENCE", auth.audience.is_some()),
        ("FULA_WALLETS", auth.wallets.is_some()),
        ("FULA_EIP712_V1", auth.eip712_v1.is_some()),
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
        let secret = files::read_secret(path)
            .map_err(|error| ConfigError::Secret(path.clone(), error.to_string()))?;
        jwt = jwt
            .with_secret(&secret)
            .map_err(|error| ConfigError::Secret(path.clone(), error.to_string()))?;
    }
    Ok(Policy {
        eip712,
        v1: auth.eip712_v1 != Some(Switch::Off),
        audiences: names(&auth.audience),
        wallets,
        jwt: jwt.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::{DataDirArgs, GatewayArgs},
        config::GatewayConfig,
    };

    #[test]
    fn tokens_are_accepted_where_it_is_said() {
        let with = |auth| {
            GatewayConfig::load({
                let data = DataDirArgs { data_dir: Some("/tmp/x".into()) };
                GatewayArgs { data, auth, ..GatewayArgs::default() }
            })
        };
        assert!(!with(AuthArgs::default()).unwrap().policy.accepts_any());
        let on = || AuthArgs { eip712_auth: Some(Switch::On), ..AuthArgs::default() };
        let named = AuthArgs { audience: Some("here, federation".into()), ..on() };
        let policy = with(named).unwrap().policy;
        assert!(policy.eip712 && policy.v1 && policy.wallets.is_none());
        assert_eq!(policy.audiences, ["here", "federation"]);
        // A list that admits nobody admits nobody.
        let none = AuthArgs { wallets: Some(String::new()), ..on() };
        assert_eq!(with(none).unwrap().policy.wallets.unwrap().len(), 0);
        let wrong = |auth| with(auth).unwrap_err().to_string();
        let off = || AuthArgs { eip712_auth: Some(Switch::Off), ..AuthArgs::default() };
        assert!(wrong(AuthArgs { wallets: Some("0x1".into()), ..on() }).contains("40 hex digits"));
        assert!(
            wrong(AuthArgs { audience: Some("x".into()), ..off() }).contains("FULA_EIP712_AUTH")
        );
        assert!(wrong(AuthArgs { jwt_issuer: Some("x".into()), ..on() }).contains("FULA_JWKS"));
        let plain = Some("http://issuer.example/jwks".into());
        assert!(wrong(AuthArgs { jwks: plain, ..on() }).contains("https"));
        let local = Some("http://127.0.0.1:80/jwks".into());
        assert!(with(AuthArgs { jwks: local, ..on() }).is_ok());
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
            let refused = wrong(AuthArgs { jwks: Some(mistyped.into()), ..on() });
            assert!(refused.contains("FULA_JWKS") && !refused.contains("hush"), "{refused}");
        }
        for max in [0, 1001] {
            let sessions = AuthArgs { sessions_per_owner: Some(max), ..on() };
            assert!(wrong(sessions).contains("from 1 to 1000"));
        }
        assert_eq!(with(on()).unwrap().sessions_max, 1000);
        let keys = |keys_per_user| AuthArgs { keys_per_user, ..AuthArgs::default() };
        assert!(wrong(keys(Some(0))).contains("--keys-per-user"));
        assert_eq!(with(keys(Some(7))).unwrap().keys_max, 7);
        assert_eq!(with(keys(None)).unwrap().keys_max, 100);
        let set = || AuthArgs { jwks: Some("jwks.json".into()), ..AuthArgs::default() };
        assert_eq!(with(set()).unwrap().jwks.unwrap().keep, Duration::from_hours(1));
        let keep = |text: &str| Some(text.to_owned());
        assert!(wrong(AuthArgs { jwks_keep: keep("59s"), ..set() }).contains("at least 1m"));
        assert!(wrong(AuthArgs { jwks_keep: keep("2h"), ..on() }).contains("FULA_JWKS"));
        let warns = |auth, name: &str| {
            let warnings = with(auth).unwrap().warnings();
            warnings.iter().any(|warning| warning.contains(name))
        };
        assert!(warns(on(), "FULA_EIP712_V1"));
        assert!(!warns(AuthArgs { eip712_v1: Some(Switch::Off), ..on() }, "FULA_EIP712_V1"));
        assert!(warns(set(), "FULA_JWT_AUDIENCE") && !warns(set(), "FULA_EIP712_V1"));
        let named = AuthArgs { jwt_audience: Some("fula".into()), ..set() };
        assert!(!warns(named, "FULA_JWT_AUDIENCE"));
        assert!(!warns(on(), "FULA_JWT_AUDIENCE") && !warns(on(), "FULA_TLS_TERMINATED"));
        let warns = |tls_terminated| {
            let data = DataDirArgs { data_dir: Some("/tmp/x".into()) };
            let listen = Some(([0, 0, 0, 0], 9000).into());
            let args =
                GatewayArgs { data, listen, tls_terminated, auth: on(), ..GatewayArgs::default() };
            let warnings = GatewayConfig::load(args).unwrap().warnings();
            warnings.iter().any(|warning| warning.contains("FULA_TLS_TERMINATED"))
        };
        assert!(warns(None) && !warns(Some(Switch::On)));
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret.path(), "too short").unwrap();
        let file = Some(secret.path().to_owned());
        assert!(wrong(AuthArgs { jwt_secret_file: file, ..on() }).contains("32 bytes"));
    }
}
