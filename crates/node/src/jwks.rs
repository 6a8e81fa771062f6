//! The key set that verifies JWTs. It is read from a file or fetched from its issuer, and read again at
//! intervals.

use std::time::Duration;

use fula_core::error::io_text;
use fula_identity::jwt::{KEY_SET_BYTES_MAX, KeySet};
use fula_service::{auth::Authenticator, error::chain};
use reqwest::Url;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::config::{Jwks, JwksSource};

/// Longest time between two reads.
const INTERVAL_MAX: Duration = Duration::from_mins(5);

/// Shortest time between two reads. It holds for any number of tokens with unknown keys, and while reads
/// fail.
const INTERVAL_MIN: Duration = Duration::from_secs(10);

/// Time limit for an answer of the issuer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads the key set, and starts a task that reads it again at intervals. If the issuer does not answer at
/// the start, its tokens are refused until it does.
///
/// # Errors
/// The reason why the file of the key set cannot be used, in words for the operator.
pub(crate) async fn start(jwks: Jwks, authenticator: Authenticator) -> Result<(), String> {
    let is_file = matches!(jwks.source, JwksSource::File(_));
    let mut reader = Reader { jwks, authenticator, last: None, failure: None };
    let (began, read) = (Instant::now(), load(&reader.jwks.source).await);
    if is_file && let Err(error) = &read {
        return Err(error.clone());
    }
    reader.authenticator.set_jwt_keys(None);
    reader.take(began, read);
    tokio::spawn(reader.run());
    Ok(())
}

/// Checks that a key set in a file can be used. One that is fetched is not asked for.
///
/// # Errors
/// The reason why it cannot be used, in words for the operator.
pub(crate) async fn check_file(jwks: &Jwks) -> Result<(), String> {
    match &jwks.source {
        JwksSource::File(_) => load(&jwks.source).await.map(drop),
        JwksSource::Url(_) => Ok(()),
    }
}

/// Keeps the key set of an authenticator fresh.
struct Reader {
    jwks: Jwks,
    authenticator: Authenticator,
    /// Start of the last read that succeeded; `None` when its keys are no longer in use.
    last: Option<Instant>,
    /// The reason why the last read failed, if it did.
    failure: Option<String>,
}

impl Reader {
    async fn run(mut self) {
        loop {
            let next = async {
                self.pause().await;
                (Instant::now(), load(&self.jwks.source).await)
            };
            let next = match self.last {
                Some(last) => timeout_at(last + self.jwks.keep, next).await.ok(),
                None => Some(next.await),
            };
            match next {
                Some((began, read)) => self.take(began, read),
                None => self.expire(),
            }
        }
    }

    /// Waits until the next read is due.
    async fn pause(&self) {
        let started = Instant::now();
        if self.failure.is_none() {
            // The set is read at least twice before its keys are too old.
            let interval = INTERVAL_MAX.min(self.jwks.keep / 2);
            drop(timeout(interval, self.authenticator.jwt_keys_wanted()).await);
        }
        sleep(INTERVAL_MIN.saturating_sub(started.elapsed())).await;
    }

    /// Replaces the keys with those that were read, or keeps them if the read failed.
    fn take(&mut self, began: Instant, read: Result<KeySet, String>) {
        let keys = match read {
            Ok(keys) => keys,
            Err(error) => {
                if self.failure.as_ref() != Some(&error) {
                    tracing::warn!(error, "the key set of FULA_JWKS cannot be read");
                }
                self.failure = Some(error);
                return;
            }
        };
        if self.failure.take().is_some() {
            tracing::info!("the key set of FULA_JWKS can be read again");
        }
        let count = keys.len();
        self.last = Some(began);
        report(count);
        if !self.authenticator.set_jwt_keys(Some(keys)) {
            return;
        }
        if count == 0 {
            tracing::warn!(
                "the key set of FULA_JWKS has no key for RS256, ES256 or EdDSA, so none of its \
                 tokens is accepted; if that is not intended, publish the issuer's keys there, or \
                 correct FULA_JWKS"
            );
        } else {
            tracing::info!(keys = count, "the key set of FULA_JWKS was read");
        }
    }

    /// Stops using keys that may have been withdrawn since they were read.
    fn expire(&mut self) {
        let keep_seconds = self.jwks.keep.as_secs();
        tracing::error!(
            keep_seconds,
            "the key set of FULA_JWKS could not be read for FULA_JWKS_KEEP; its tokens are \
             answered 503 until it can be read"
        );
        self.authenticator.set_jwt_keys(None);
        report(0);
        self.last = None;
    }
}

/// Sets the metric of the keys in use.
fn report(keys: usize) {
    metrics::gauge!("fula_jwks_keys").set(f64::from(u32::try_from(keys).unwrap_or(u32::MAX)));
}

async fn load(source: &JwksSource) -> Result<KeySet, String> {
    let text = match source {
        JwksSource::File(path) => {
            // A path with an @ may be a mistyped URL with a password, so it is not shown.
            let shown = path.to_str().filter(|path| !path.contains('@')).unwrap_or("the file");
            tokio::fs::read(path)
                .await
                .map_err(|error| format!("{shown}: {}; check the path", io_text(&error)))?
        }
        JwksSource::Url(url) => {
            let shown = format!("{}{}", url.origin().ascii_serialization(), url.path());
            match timeout(PATIENCE, fetch(url)).await {
                Ok(fetched) => fetched.map_err(|error| format!("{shown}: {error}"))?,
                Err(_) => return Err(format!("{shown} did not answer in time")),
            }
        }
    };
    KeySet::parse(&text).map_err(|error| error.to_string())
}

/// Fetches a document of bounded size, and follows no redirection. Errors do not repeat the URL, because its
/// query may hold a secret.
async fn fetch(url: &Url) -> Result<Vec<u8>, String> {
    let failed = |error: reqwest::Error| chain(&error.without_url());
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let client = client.build().map_err(failed)?;
    let response = client.get(url.clone()).send().await.map_err(failed)?;
    let mut response = response.error_for_status().map_err(failed)?;
    // A redirection is an error here, because it is not followed.
    if !response.status().is_success() {
        return Err(format!("it answered {}", response.status()));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if bytes.len() + chunk.len() > KEY_SET_BYTES_MAX {
            return Err("the key set is too large".to_owned());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use fula_core::in_memory::MemoryMetadata;
    use fula_identity::{Seconds, TokenError};
    use fula_service::auth::{KeyRing, Revocations, SealingKey};

    use super::*;

    /// A time at which the tokens of the vectors are valid, in seconds since 1970.
    const NOW: Seconds = 1500;

    /// Returns valid keys, and a token that one of them signed.
    fn vectors() -> (String, String) {
        let text = include_str!("../../identity/tests/vectors/vectors.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        let jwt = &vectors["jwt"];
        let keys = serde_json::json!({"keys": jwt["keys"]}).to_string();
        (keys, jwt["es256"].as_str().unwrap().to_owned())
    }

    async fn authenticator() -> Authenticator {
        let metadata = Arc::new(MemoryMetadata::default());
        let sealing = SealingKey::parse(&"5a".repeat(32)).unwrap();
        let random = fula_service::system_random();
        let keys = KeyRing::new(Arc::clone(&metadata) as _, sealing, random, Duration::ZERO);
        let revocations = Revocations::open(metadata, None).await.unwrap();
        Authenticator::new(keys, revocations, Arc::new(|| NOW * 1000))
    }

    fn of_file(path: &Path) -> Jwks {
        Jwks { source: JwksSource::File(path.to_owned()), keep: Duration::from_hours(1) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_that_was_read_replaces_the_old_one_and_is_kept_for_a_while() {
        let (keys, token) = vectors();
        let file = tempfile::NamedTempFile::new().unwrap();
        let publish = |text: &str| std::fs::write(file.path(), text).unwrap();
        publish(&keys);
        let authenticator = authenticator().await;
        start(of_file(file.path()), authenticator.clone()).await.unwrap();
        let verify = || authenticator.policy().verify(&token, NOW).map(drop);
        let read = INTERVAL_MAX + INTERVAL_MIN;
        assert_eq!(verify(), Ok(()));
        let gone = Err(TokenError::Invalid("no key here verifies it"));
        for none in [r#"{"keys": []}"#, r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#] {
            publish(none);
            sleep(read).await;
            assert_eq!(verify(), gone, "{none}");
            publish(&keys);
            sleep(read).await;
            assert_eq!(verify(), Ok(()));
        }
        // The last read that succeeded was at most one interval ago.
        publish("<html>");
        sleep(Duration::from_hours(1).saturating_sub(read)).await;
        assert_eq!(verify(), Ok(()));
        sleep(read).await;
        assert_eq!(verify(), Err(TokenError::KeysUnavailable));
        publish(&keys);
        sleep(INTERVAL_MIN * 2).await;
        assert_eq!(verify(), Ok(()));
    }

    #[tokio::test]
    async fn what_cannot_be_read_at_the_start_is_told_apart() {
        fula_gateway::tls::install_provider();
        let (_, token) = vectors();
        let authenticator = authenticator().await;
        let absent = of_file(Path::new("/nonexistent/jwks"));
        assert!(start(absent, authenticator.clone()).await.is_err());
        // Nobody listens there: the issuer may come back.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let source = JwksSource::parse(&format!("http://{closed}/jwks")).unwrap();
        let issuer = Jwks { source, keep: Duration::from_hours(1) };
        start(issuer, authenticator.clone()).await.unwrap();
        let refused = authenticator.policy().verify(&token, NOW).map(drop);
        assert_eq!(refused, Err(TokenError::KeysUnavailable));
    }
}
