//! The key set that verifies JWTs: read from a file or fetched from its issuer, and kept fresh.

use std::time::Duration;

use fula_identity::jwt::{KEY_SET_BYTES_MAX, KeySet};
use fula_service::auth::Authenticator;
use tokio::time::{Instant, sleep, timeout};

use crate::config::JwksSource;

/// Between reads.
const EVERY: Duration = Duration::from_mins(5);

/// Between reads at the least, however many tokens name unknown keys, and while none succeeds.
const AT_LEAST: Duration = Duration::from_secs(10);

/// How long keys count while none can be had.
const KEPT_FOR: Duration = Duration::from_hours(24);

/// How long an issuer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads the key set, and goes on doing so. An issuer that does not answer at the start is asked
/// again; until then no JWT is accepted.
pub(crate) async fn start(source: JwksSource, authenticator: Authenticator) -> Result<(), String> {
    let mut has_keys = true;
    match load(&source).await {
        Ok(keys) => authenticator.set_jwt_keys(keys),
        Err(error) if matches!(source, JwksSource::File(_)) => return Err(error),
        Err(error) => {
            tracing::warn!(error, "the key set of JWTs cannot be had yet");
            has_keys = false;
        }
    }
    tokio::spawn(async move {
        let mut last = Instant::now();
        loop {
            let read = Instant::now();
            if has_keys {
                drop(timeout(EVERY, authenticator.jwt_keys_wanted()).await);
            }
            sleep(AT_LEAST.saturating_sub(read.elapsed())).await;
            match load(&source).await {
                Ok(keys) => {
                    authenticator.set_jwt_keys(keys);
                    (has_keys, last) = (true, Instant::now());
                }
                Err(error) => {
                    tracing::warn!(error, "the key set of JWTs cannot be had");
                    // Keys may have been withdrawn for a reason.
                    if last.elapsed() > KEPT_FOR {
                        authenticator.set_jwt_keys(KeySet::default());
                        has_keys = false;
                    }
                }
            }
        }
    });
    Ok(())
}

async fn load(source: &JwksSource) -> Result<KeySet, String> {
    let text = match source {
        JwksSource::File(path) => {
            tokio::fs::read(path).await.map_err(|error| format!("{}: {error}", path.display()))?
        }
        JwksSource::Url(url) => match timeout(PATIENCE, fetch(url)).await {
            Ok(fetched) => fetched.map_err(|error| format!("{url}: {error}"))?,
            Err(_) => return Err(format!("{url} did not answer in time")),
        },
    };
    KeySet::parse(&text).map_err(|error| error.to_string())
}

/// Fetches a document of bounded size, from exactly there.
async fn fetch(url: &str) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    let mut response = client.get(url).send().await?.error_for_status()?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() + chunk.len() > KEY_SET_BYTES_MAX {
            return Err("the key set is too large".into());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
