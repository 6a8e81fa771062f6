//! SIGHUP: reads the settings and the files that they name again, and takes over what can change while requests
//! are served. If anything cannot be used, all stays as it was.

use std::{fs::File, path::PathBuf};

use fula_gateway::{Rates, tls::Certificate};
use fula_identity::Policy;
use fula_service::{Service, auth::Authenticator, error::chain};
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix;

use crate::{
    cli::{self, CliError, Command, Setting, Start},
    config::{GatewayConfig, StorageNodeConfig},
    files::{self, FileError},
};

/// Settings that are taken over. The others count after a restart.
const TAKEN_OVER: [&str; 18] = [
    "FULA_TLS_CERT",
    "FULA_TLS_KEY",
    "FULA_BUCKETS_PER_OWNER",
    "FULA_PUBLIC_BUCKETS_PER_OWNER",
    "FULA_BUCKET_QUOTA",
    "FULA_OWNER_QUOTA",
    "FULA_EIP712_AUTH",
    "FULA_EIP712_V1",
    "FULA_AUDIENCE",
    "FULA_WALLETS",
    "FULA_JWT_SECRET_FILE",
    "FULA_JWT_ISSUER",
    "FULA_JWT_AUDIENCE",
    "FULA_SESSIONS_PER_OWNER",
    "FULA_KEYS_PER_USER",
    "FULA_RATE_PER_USER",
    "FULA_RATE_PER_ADDRESS",
    "FULA_CONFIG",
];

/// Files of a certificate chain and of its key.
type TlsFiles = Option<(PathBuf, PathBuf)>;

/// Why the settings cannot be taken over. Everything stays as it was.
#[derive(Debug, thiserror::Error)]
enum ReloadError {
    #[error(transparent)]
    Cli(#[from] CliError),
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot set up TLS")]
    Tls(#[from] fula_gateway::tls::TlsError),
}

/// The parts of a process that take over settings.
pub(crate) struct Parts {
    pub(crate) authenticator: Authenticator,
    /// The certificate of the listener, if it has one.
    pub(crate) certificate: Option<Certificate>,
    /// Sets the rate limits.
    pub(crate) set_rates: Box<dyn Fn(Rates) + Send + Sync>,
    /// The service of a gateway.
    pub(crate) service: Option<Service>,
}

/// What both roles take over.
struct Taken {
    tls: TlsFiles,
    policy: Policy,
    rates: Rates,
}

/// Waits for SIGHUP.
pub(crate) struct Hangups {
    signal: unix::Signal,
    /// The settings of the start.
    begun_with: Vec<Setting>,
    /// Whether the process was started from a terminal, whose end is a SIGHUP, too.
    had_terminal: bool,
}

impl Hangups {
    /// Begins to wait. From now on SIGHUP does not end the process.
    pub(crate) fn begin() -> std::io::Result<Self> {
        let signal = unix::signal(unix::SignalKind::hangup())?;
        let begun_with =
            cli::start_of(std::env::args_os()).map_or_else(|_| Vec::new(), |it| it.settings);
        Ok(Self { signal, begun_with, had_terminal: has_terminal() })
    }

    /// Takes settings over into `parts` at every SIGHUP. Where the terminal of the process is gone, the process
    /// is stopped instead.
    pub(crate) async fn serve(mut self, parts: Parts) {
        while self.signal.recv().await.is_some() {
            if self.had_terminal && !has_terminal() {
                tracing::info!("the terminal is gone");
                let _sent = kill_process(getpid(), Signal::TERM);
                return;
            }
            match self.take_over(&parts) {
                Ok(()) => tracing::info!("the settings were read again"),
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(
                        error,
                        "the settings cannot be used; the old ones stay in effect"
                    );
                }
            }
        }
    }

    fn take_over(&self, parts: &Parts) -> Result<(), ReloadError> {
        let Start { command, settings } = cli::start_of(std::env::args_os())?;
        match command {
            Command::Gateway(settings) => {
                let config = GatewayConfig::check(*settings)?;
                let rates = config.wire.rates;
                parts.take(Taken { tls: config.tls, policy: config.policy, rates })?;
                parts.authenticator.set_sessions_max(config.sessions_max);
                parts.authenticator.keys().set_keys_max(config.keys_max);
                if let Some(service) = &parts.service {
                    service.set_bucket_limits(&config.limits);
                }
            }
            Command::StorageNode(settings) => {
                let config = StorageNodeConfig::check(*settings)?;
                let rates = config.routes.rates;
                parts.take(Taken { tls: config.tls, policy: config.policy, rates })?;
            }
            _ => {}
        }
        for name in changed(&self.begun_with, &settings) {
            tracing::warn!("{name} has changed; it takes effect only after a restart");
        }
        Ok(())
    }
}

impl Parts {
    /// Takes over what both roles have. The certificate comes first, because it alone can be refused.
    fn take(&self, taken: Taken) -> Result<(), ReloadError> {
        if let (Some(certificate), Some((cert, key))) = (&self.certificate, &taken.tls) {
            files::check_private(key).map_err(FileError::of_setting("--tls-key (FULA_TLS_KEY)"))?;
            if certificate.read_again(cert, key)? {
                tracing::info!("new connections get the new certificate");
            }
        } else if self.certificate.is_some() != taken.tls.is_some() {
            tracing::warn!("TLS is turned on or off after a restart only");
        }
        self.authenticator.replace_policy(taken.policy);
        self.authenticator.want_jwt_keys();
        (self.set_rates)(taken.rates);
        Ok(())
    }
}

/// Returns the settings that have changed and are not taken over.
fn changed<'a>(before: &'a [Setting], now: &'a [Setting]) -> impl Iterator<Item = &'a str> {
    let changed = before.iter().filter(|old| now.iter().any(|new| old.differs_from(new)));
    changed.map(|setting| setting.name.as_str()).filter(|name| !TAKEN_OVER.contains(name))
}

/// Returns whether this process has a terminal from which signals come.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_over_are_settings() {
        let all = cli::start(Vec::new()).unwrap().settings;
        for name in TAKEN_OVER {
            assert!(all.iter().any(|setting| setting.name == name), "{name}");
        }
    }

    #[test]
    fn changes_that_need_a_restart_are_named() {
        let of = |line: &[&str]| {
            let line = line.iter().map(std::ffi::OsString::from);
            cli::start(line).unwrap().settings
        };
        let before = of(&["--region", "a", "--audience", "a"]);
        let now = of(&["--region", "b", "--audience", "b", "--retention", "1h"]);
        let found: Vec<&str> = changed(&before, &now).collect();
        assert_eq!(found, ["FULA_REGION", "FULA_RETENTION"].map(|name| name));
        assert_eq!(changed(&before, &before).count(), 0);
    }
}
