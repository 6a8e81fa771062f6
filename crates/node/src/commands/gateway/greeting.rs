//! The first access key, and what a gateway prints at its start.

use std::path::Path;

use fula_service::{
    Recovery,
    auth::{Revoked, user_of},
};
use tokio::net::TcpListener;

use super::StartError;
use crate::{
    cli,
    config::GatewayConfig,
    files,
    listeners::usable,
    node::{Node, host_name},
    output::say,
};

/// The user of the first access key.
const FIRST_USER: &str = "admin";

/// Makes sure that the first user has an access key, and that the credentials file holds it.
pub(super) async fn set_first_key(config: &GatewayConfig, node: &Node) -> Result<(), StartError> {
    let now = node.service.arbiter().now().await.map_err(StartError::FirstKey)?;
    if let Some((id, secret)) = &config.first_key {
        let revoked = Revoked::Key(id.clone());
        if node.authenticator.revocations().all().iter().any(|found| found.revoked == revoked) {
            return Err(StartError::RevokedKey(id.clone()));
        }
        let imported = node.authenticator.keys().import_own(FIRST_USER, id, secret, now).await;
        imported.map_err(StartError::FirstKey)?;
        return Ok(files::write_credentials(&config.backends.data_dir, id, secret)?);
    }
    if files::credentials_path(&config.backends.data_dir).exists() {
        return Ok(());
    }
    let made =
        node.authenticator.keys().create(FIRST_USER, now).await.map_err(StartError::FirstKey)?;
    Ok(files::write_credentials(&config.backends.data_dir, &made.0.id, &made.1)?)
}

/// Returns why nobody should use the key in the credentials file, if that is so.
pub(super) async fn credentials_fault(config: &GatewayConfig, node: &Node) -> Option<String> {
    let Some(id) = files::credentials_id(&config.backends.data_dir) else {
        return Some("the file has no access key".to_owned());
    };
    let (keys, revocations) = (node.authenticator.keys(), node.authenticator.revocations());
    // Where the arbiter does not answer, nothing is known about the key.
    let Some(found) = keys.find(&id).await.ok()? else {
        let was_revoked = keys.was_revoked(&id, None).await.unwrap_or(false);
        return Some(
            if was_revoked { "its key was revoked" } else { "its key is unknown here" }.to_owned(),
        );
    };
    let user = &found.identity.user;
    if revocations.refuses_key(user, found.created, Some(&id)) {
        return Some("its key was revoked".to_owned());
    }
    (*user != user_of(FIRST_USER))
        .then(|| format!("its key belongs to {user}, not to {FIRST_USER}"))
}

/// Prints where everything is. `fault` is the reason why nobody should use the key in the credentials file.
pub(super) fn greet(
    config: &GatewayConfig,
    node: &Node,
    listener: &TcpListener,
    admin: &TcpListener,
    fault: Option<&str>,
) {
    let address = |listener: &TcpListener| {
        listener.local_addr().map_or_else(|_| "?".to_owned(), |address| usable(address).to_string())
    };
    let data_dir = std::path::absolute(&config.backends.data_dir);
    let data_dir = data_dir.as_deref().unwrap_or(Path::new("?"));
    let credentials = files::credentials_path(data_dir);
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let name = node.recovery.as_ref().map(Recovery::name);
    let (note, credentials_line) = match fault {
        None => {
            let line = format!("  export AWS_SHARED_CREDENTIALS_FILE={}", credentials.display());
            (String::new(), line)
        }
        Some(fault) => {
            let make = format!(
                "  (echo '[default]'; fula keys create --user {FIRST_USER} --data-dir {}) > new-credentials\n\
                 \x20 export AWS_SHARED_CREDENTIALS_FILE=$PWD/new-credentials",
                data_dir.display()
            );
            (format!("  (do not use it: {fault})"), make)
        }
    };
    say!(
        "Fula {version} serves S3 on {scheme}://{s3}\n\n\
         \x20 data         {data}\n\
         {master}\
         \x20 arbiter      {arbiter}\n\
         \x20 blocks       {blocks}\n\
         \x20 credentials  {credentials}{note}\n\
         \x20 health       http://{admin}/healthz  /readyz  /metrics\n\
         {everywhere}\n\
         Paste this to use it:\n\n\
         \x20 export AWS_ENDPOINT_URL={scheme}://{s3} AWS_REGION={region} AWS_DEFAULT_REGION={region}\n\
         {credentials_line}\n\
         \x20 aws --endpoint-url $AWS_ENDPOINT_URL s3 mb s3://my-bucket\n\
         \x20 aws --endpoint-url $AWS_ENDPOINT_URL s3 cp README.md s3://my-bucket/\n",
        version = cli::VERSION,
        s3 = address(listener),
        admin = address(admin),
        data = data_dir.display(),
        everywhere = everywhere(listener, scheme),
        master = name.map(|name| format!("  master       {name}\n")).unwrap_or_default(),
        arbiter = config.backends.arbiter_name(),
        blocks = config.backends.blocks_name(),
        credentials = credentials.display(),
        region = config.wire.region,
    );
}

/// Returns the line that says how other machines reach this gateway, or nothing if they cannot.
fn everywhere(listener: &TcpListener, scheme: &str) -> String {
    match listener.local_addr() {
        Ok(address) if address.ip().is_unspecified() => {
            let host = Some(host_name()).filter(|host| !host.is_empty());
            let host = host.as_deref().unwrap_or("ADDRESS");
            let port = address.port();
            format!("  listens on   all addresses of this machine, e.g. {scheme}://{host}:{port}\n")
        }
        _ => String::new(),
    }
}
