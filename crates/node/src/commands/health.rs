//! `fula health`: asks a running gateway or storage node whether it is ready. It is for health checks of
//! containers and for scripts, where no other HTTP client may be there.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use fula_service::error::chain;

use super::Failure;
use crate::{cli::HealthArgs, listeners::usable, output::say};

/// Time limit for the answer. It is longer than what the check behind `/readyz` may take.
const PATIENCE: Duration = Duration::from_secs(8);

/// Largest part of an answer that is shown, in bytes.
const SHOWN_MAX: usize = 4096;

/// Runs `fula health`.
pub(crate) async fn run(args: HealthArgs) -> ExitCode {
    let path = if args.live { "/healthz" } else { "/readyz" };
    match ask(args.admin_listen, path).await {
        Ok(text) => {
            say!("{text}");
            ExitCode::SUCCESS
        }
        Err(why) => Failure::from(why).report(),
    }
}

/// Returns the answer of the admin listener, if its status is 200.
pub(super) async fn ask(address: SocketAddr, path: &str) -> Result<String, String> {
    let url = format!("http://{}{path}", usable(address));
    let away = |error: reqwest::Error| {
        let why = chain(&error.without_url());
        format!("nothing answers on {url}: {why}; check that it runs with this FULA_ADMIN_LISTEN")
    };
    // A proxy for other machines must not get in between.
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().map_err(away)?;
    let mut response = client.get(&url).send().await.map_err(away)?;
    let is_well = response.status() == reqwest::StatusCode::OK;
    let mut body = Vec::new();
    while body.len() < SHOWN_MAX
        && let Some(chunk) = response.chunk().await.map_err(away)?
    {
        body.extend_from_slice(&chunk);
    }
    body.truncate(SHOWN_MAX);
    let text = String::from_utf8_lossy(&body).trim().to_owned();
    if is_well { Ok(text) } else { Err(text) }
}
