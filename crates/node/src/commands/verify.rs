//! `fula verify`: reads from a server that need not be trusted.

mod proof;
mod sign;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use bytes::Bytes;
use fula_core::{bucket::ObjectRecord, error::io_text};
use fula_service::error::chain;
use reqwest::{Response, Url};
use serde_json::json;
use time::OffsetDateTime;

use self::proof::{Pieces, Proof};
use super::text::{bytes, when};
use crate::{
    cli::{ProofArgs, VerifyArgs, VerifyCommand},
    files,
    output::{note, say},
};

/// Exit status for a key of which it is proved that there is no object.
const ABSENT: u8 = 1;

/// Exit status where nothing could be proved.
const NOT_PROVED: u8 = 2;

/// Longest time for a connection, and without a byte.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest part of an error of a server that is repeated, in characters.
const SHOWN_CHARS: usize = 300;

impl Pieces for Response {
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        let broken = |error: reqwest::Error| {
            format!("the server broke the proof off: {}", chain(&error.without_url()))
        };
        self.chunk().await.map_err(broken)
    }
}

/// Runs `fula verify`.
pub(crate) async fn run(args: VerifyArgs) -> ExitCode {
    let done = match args.command {
        VerifyCommand::Get { url, output, how } => get(&url, output.as_deref(), &how).await,
        VerifyCommand::List { url, prefix, start_after, max_keys, json, how } => {
            let limit = usize::try_from(max_keys).unwrap_or(usize::MAX);
            let after = start_after.as_deref();
            list(&url, &prefix, after, limit, json, &how).await
        }
    };
    done.unwrap_or_else(|text| {
        note!("fula: {text}");
        ExitCode::from(NOT_PROVED)
    })
}

/// Returns bucket and key of a URL.
fn place_of(url: &Url) -> Result<(String, String), String> {
    let path = url.path().trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    let wrong = || "the URL is http://HOST/BUCKET/KEY, or http://HOST/BUCKET for a list".to_owned();
    let bucket = decode(bucket).filter(|bucket| !bucket.is_empty()).ok_or_else(wrong)?;
    Ok((bucket, decode(key).ok_or_else(wrong)?))
}

/// Decodes a part of a path.
fn decode(text: &str) -> Option<String> {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let digits = rest.get(..2)?;
            out.extend(hex::decode(digits).ok()?);
            rest = &rest[2..];
        } else {
            out.push(*byte);
        }
    }
    String::from_utf8(out).ok()
}

/// Asks for a proof. `query` is in order of name.
async fn ask(
    url: &Url,
    bucket: &str,
    query: &[(&str, &str)],
    how: &ProofArgs,
) -> Result<Proof<Response>, String> {
    let pairs = query.iter().map(|(name, value)| {
        format!("{}={}", sign::encode(name, false), sign::encode(value, false))
    });
    let (path, query) =
        (format!("/{}", sign::encode(bucket, true)), pairs.collect::<Vec<_>>().join("&"));
    let mut at = url.clone();
    at.set_path(&path);
    at.set_query(Some(&query));
    at.set_fragment(None);
    let client = reqwest::Client::builder()
        .connect_timeout(PATIENCE)
        .read_timeout(PATIENCE)
        .redirect(reqwest::redirect::Policy::none());
    let client = client.build().map_err(|error| chain(&error))?;
    let host = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    };
    let mut request = client.get(at);
    if let Some(file) = &how.credentials {
        let key = sign::Key::read(file)?;
        let now = OffsetDateTime::now_utc();
        for (name, value) in sign::headers(&key, &how.region, &host, &path, &query, now) {
            request = request.header(name, value);
        }
    }
    if let Some(file) = &how.token_file {
        let token = files::read_secret(file).map_err(|error| error.to_string())?;
        request = request.bearer_auth(String::from_utf8_lossy(&token));
    }
    let sent = request.send().await;
    let response =
        sent.map_err(|error| format!("{host} does not answer: {}", chain(&error.without_url())))?;
    let status = response.status();
    if status.is_success() {
        return Ok(Proof::new(response));
    }
    let text = response.text().await.unwrap_or_default();
    let text: String = text.chars().take(SHOWN_CHARS).collect();
    Err(format!("{host} answers {status}, and proves nothing: {text}"))
}

async fn get(url: &Url, output: Option<&Path>, how: &ProofArgs) -> Result<ExitCode, String> {
    let (bucket, key) = place_of(url)?;
    if key.is_empty() {
        return Err("the URL of an object is http://HOST/BUCKET/KEY".to_owned());
    }
    let root = how.root.to_string();
    let query = [("fula-proof", ""), ("key", key.as_str()), ("root", root.as_str())];
    let mut proof = ask(url, &bucket, &query, how).await?;
    let found = proof.root(how.root).await?;
    let Some(record) = proof.find(&found, &key).await? else {
        note!("Proved: under {root}, there is no object {key}");
        return Ok(ExitCode::from(ABSENT));
    };
    if record.sse.is_some() {
        return Err(format!(
            "under {root}, the object {key} has {} bytes and is encrypted: what is stored of it can be proved, \
             and not what it says; read it from a gateway that has the key",
            record.size
        ));
    }
    if let Some(path) = output {
        write_file(&mut proof, &record, path).await?;
    } else {
        let mut out = std::io::stdout();
        let failed = |error: std::io::Error| format!("standard output: {}", io_text(&error));
        proof.content(&record, |piece| out.write_all(piece).map_err(failed)).await?;
        out.flush().map_err(failed)?;
    }
    note!(
        "Proved: under {root}, the object {key} has {} bytes and the ETag {}",
        record.size,
        record.etag
    );
    Ok(ExitCode::SUCCESS)
}

/// Writes the content beside its place, and moves it there once all of it was verified.
async fn write_file(
    proof: &mut Proof<Response>,
    record: &ObjectRecord,
    path: &Path,
) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {}", path.display(), io_text(&error));
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut file = std::fs::File::create(&part).map_err(failed)?;
    let written = proof.content(record, |piece| file.write_all(piece).map_err(failed)).await;
    let moved = written
        .and_then(|()| file.sync_all().and_then(|()| std::fs::rename(&part, path)).map_err(failed));
    if moved.is_err() {
        drop(std::fs::remove_file(&part));
    }
    moved
}

async fn list(
    url: &Url,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
    as_json: bool,
    how: &ProofArgs,
) -> Result<ExitCode, String> {
    let (bucket, key) = place_of(url)?;
    if !key.is_empty() {
        return Err(
            "the URL of a bucket is http://HOST/BUCKET; name a prefix with --prefix".to_owned()
        );
    }
    let (root, most) = (how.root.to_string(), limit.to_string());
    let mut query =
        vec![("fula-proof", ""), ("max-keys", &most), ("prefix", prefix), ("root", &root)];
    query.extend(after.map(|after| ("start-after", after)));
    let mut proof = ask(url, &bucket, &query, how).await?;
    let found = proof.root(how.root).await?;
    let (objects, is_more) = proof.page(&found, prefix, after, limit).await?;
    if as_json {
        let lines = objects.iter().map(|(key, record)| {
            json!({"key": key, "size": record.size, "etag": record.etag.to_string(), "time_ms": record.time})
        });
        let page = json!({"root": root, "objects": lines.collect::<Vec<_>>(), "more": is_more});
        say!("{page:#}");
        return Ok(ExitCode::SUCCESS);
    }
    for (key, record) in &objects {
        say!(
            "{}  {:>11}  {:<36}  {key}",
            when(&json!(record.time)),
            bytes(&json!(record.size)),
            record.etag
        );
    }
    let more = if is_more { "more follow" } else { "no more follow" };
    note!(
        "Proved: under {root}, these are {} keys with none between them, and {more}",
        objects.len()
    );
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_and_keys_are_read_out_of_urls() {
        let place = |text: &str| place_of(&text.parse().unwrap());
        let both = |bucket: &str, key: &str| Ok((bucket.to_owned(), key.to_owned()));
        assert_eq!(place("http://h/b/a/b%20c%2F"), both("b", "a/b c/"));
        assert_eq!(place("http://h:1/b"), both("b", ""));
        assert!(place("http://h/").is_err() && place("http://h/b/%f0").is_err());
        assert_eq!(sign::encode("a b/ü~", true), "a%20b/%C3%BC~");
        assert_eq!(sign::encode("a/b", false), "a%2Fb");
    }
}
