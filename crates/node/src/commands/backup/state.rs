//! The state of the arbiter apart from buckets, in a backup: a line of JSON for each revocation and each access key.

use std::path::PathBuf;

use bytes::BytesMut;
use fula_core::error::io_text;
use fula_service::auth::{Revoked, SealingKey};
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use zeroize::Zeroizing;

use crate::{
    admin::{Request, State},
    backup::{Manifest, Meter, Place, Source, StateLine, Volume, read_volumes, store},
    cli::AdminArgs,
    config, files,
};

/// Longest line in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Largest number of access keys or revocations that are put back at a time.
const AT_ONCE: usize = 500;

/// What was written of the state.
pub(super) struct Written {
    pub(super) volumes: Vec<Volume>,
    pub(super) keys: u64,
    pub(super) revocations: u64,
    pub(super) secrets_key: String,
}

/// Writes the state.
///
/// # Errors
/// The reason why it cannot be read or written.
pub(super) async fn write(
    source: &Source,
    place: &Place,
    id: &str,
    secrets_key: Option<Zeroizing<String>>,
    meter: &Meter,
) -> Result<Written, String> {
    let facts = source.ask(Request::BackupFacts).await?;
    let fingerprint = facts["secrets_key"].as_str().unwrap_or_default().to_owned();
    if let Some(key) = &secrets_key {
        let key = SealingKey::parse(key).map_err(|error| error.to_string())?;
        if !key.use_line(&fingerprint) {
            return Err("secrets.key lacks the key that encrypts the access keys".to_owned());
        }
    }
    let revocations: Vec<(Revoked, u64)> = serde_json::from_value(facts["revocations"].clone())
        .map_err(|_| "the gateway's answer is incomplete".to_owned())?;
    let (write, read) = tokio::io::duplex(64 << 10);
    let sending = async move {
        let mut write = write;
        let count = revocations.len() as u64;
        for (revoked, at) in revocations {
            send(&mut write, &StateLine::Revoked(revoked, at)).await?;
        }
        if let Some(key) = secrets_key {
            send(&mut write, &StateLine::SecretsKey(key.to_string())).await?;
        }
        let keys = send_keys(source, &mut write).await?;
        Ok::<_, String>((keys, count))
    };
    let name = format!("data/{id}/state");
    let (sent, stored) = tokio::join!(sending, store(place, &name, read, meter));
    let volumes = stored?;
    let (keys, revocations) = sent?;
    Ok(Written { volumes, keys, revocations, secrets_key: fingerprint })
}

async fn send_keys(source: &Source, write: &mut tokio::io::DuplexStream) -> Result<u64, String> {
    let (mut count, mut after) = (0, None);
    loop {
        let page = source.ask(Request::BackupKeys { after: after.clone() }).await?;
        let page: Vec<(String, String)> = serde_json::from_value(page)
            .map_err(|_| "the gateway's answer is incomplete".to_owned())?;
        let Some((last, _)) = page.last() else { return Ok(count) };
        after = Some(last.clone());
        count += page.len() as u64;
        for (id, record) in page {
            send(write, &StateLine::Key { id, record }).await?;
        }
    }
}

async fn send(write: &mut tokio::io::DuplexStream, line: &StateLine) -> Result<(), String> {
    let mut text = serde_json::to_vec(line).map_err(|error| error.to_string())?;
    text.push(b'\n');
    write.write_all(&text).await.map_err(|error| io_text(&error))
}

/// Reads the key that encrypts the access keys, from the file that a gateway uses.
///
/// # Errors
/// The reason why it cannot be read.
pub(crate) fn own_secrets_key(args: &AdminArgs) -> Result<Zeroizing<String>, String> {
    let file: PathBuf = if let Some(file) = &args.secrets_key_file {
        file.clone()
    } else {
        let dir = config::data_dir(&args.data).map_err(|error| error.to_string())?;
        files::own_sealing_key(&dir)
    };
    let text = files::read_secret(&file).map_err(|error| {
        format!("{error}; --secrets-key-file (FULA_SECRETS_KEY_FILE) names the key of the masters")
    })?;
    let text = String::from_utf8(text.to_vec()).map(Zeroizing::new);
    text.map_err(|_| files::FileError::NotAKey(file).to_string())
}

/// Returns the lines of the state in a backup.
pub(crate) fn lines(
    place: &Place,
    manifest: &Manifest,
) -> BoxStream<'static, Result<StateLine, String>> {
    let state = (read_volumes(place, &manifest.state), BytesMut::new());
    let lines = stream::try_unfold(state, |(mut pieces, mut waiting)| async move {
        loop {
            if let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
                let line = waiting.split_to(end + 1);
                let line = serde_json::from_slice(&line);
                let line = line.map_err(|_| "the state in the backup is damaged".to_owned())?;
                return Ok(Some((line, (pieces, waiting))));
            }
            match pieces.try_next().await? {
                Some(piece) if waiting.len() + piece.len() <= LINE_BYTES_MAX => {
                    waiting.extend_from_slice(&piece);
                }
                None if waiting.is_empty() => return Ok(None),
                _ => return Err("the state in the backup is damaged".to_owned()),
            }
        }
    });
    lines.boxed()
}

/// Returns the key that encrypts the access keys, if the backup has it.
///
/// # Errors
/// The reason why the state cannot be read.
pub(super) async fn secrets_key(
    place: &Place,
    manifest: &Manifest,
) -> Result<Option<Zeroizing<String>>, String> {
    let mut lines = lines(place, manifest);
    let mut found = None;
    while let Some(line) = lines.try_next().await? {
        if let StateLine::SecretsKey(key) = line {
            found = Some(Zeroizing::new(key));
        }
    }
    Ok(found)
}

/// What of the state is put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Revocations,
    Keys,
}

/// Puts back what the arbiter lacks of a part of the state. Calls `told` with the answers.
///
/// # Errors
/// The reason why not all is back.
pub(crate) async fn put_back(
    source: &Source,
    place: &Place,
    manifest: &Manifest,
    part: Part,
    mut told: impl FnMut(&Value),
) -> Result<(), String> {
    let mut lines = lines(place, manifest);
    let mut state = State::default();
    loop {
        let line = lines.try_next().await?;
        let is_end = line.is_none();
        match line {
            Some(StateLine::Revoked(revoked, at)) if part == Part::Revocations => {
                state.revocations.push((revoked, at));
            }
            Some(StateLine::Key { id, record }) if part == Part::Keys => {
                state.keys.push((id, record));
            }
            _ => {}
        }
        let count = state.revocations.len() + state.keys.len();
        if count >= AT_ONCE || (is_end && count > 0) {
            let batch = std::mem::take(&mut state);
            told(&source.ask(Request::PutBack(batch)).await?);
        }
        if is_end {
            return Ok(());
        }
    }
}
