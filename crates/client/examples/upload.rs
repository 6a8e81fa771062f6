//! Uploads a file with progress. If it is interrupted, the same command sends only what is missing.
//!
//! ```sh
//! cargo run --locked --ignore-rust-version -p fula-client --example upload -- FILE BUCKET KEY
//! ```
//!
//! Address and key come from the environment, as for every AWS tool: `AWS_ENDPOINT_URL`,
//! `AWS_SHARED_CREDENTIALS_FILE`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use fula_client::{Bucket, Client, Error, Meter, Put, PutOptions, Result, Settings, Source};

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, bucket, key] = arguments.as_slice() else {
        eprintln!("usage: upload FILE BUCKET KEY");
        return std::process::ExitCode::from(2);
    };
    match run(Path::new(file), bucket, key).await {
        Ok(put) => {
            eprintln!("{} bytes, ETag {}", put.size, put.version.etag);
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run(file: &Path, bucket: &str, key: &str) -> Result<Put> {
    #[expect(
        clippy::disallowed_methods,
        reason = "an example has no node that reads the environment"
    )]
    let settings = Settings::read(None, |name| std::env::var(name).ok())?;
    let endpoint =
        settings.endpoint.ok_or_else(|| Error::Invalid("set AWS_ENDPOINT_URL".into()))?;
    let client = Client::builder()
        .endpoint(endpoint)
        .credentials(settings.credentials)
        .ca_bundle(settings.ca_bundle)
        .build()?;
    upload(&client.bucket(bucket)?, key, file).await
}

/// Uploads a file in parts of 8 MiB, and shows how far it is twice a second.
async fn upload(bucket: &Bucket, key: &str, file: &Path) -> Result<Put> {
    let journal = PathBuf::from(format!("{}.upload", file.display()));
    let meter = Meter::default();
    let options =
        PutOptions { meter: Some(meter.clone()), journal: Some(journal), ..PutOptions::default() };
    let sending = bucket.put(key, Source::File(file.to_owned()), options);
    tokio::pin!(sending);
    loop {
        tokio::select! {
            done = &mut sending => return done,
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                eprintln!("{} MiB", meter.bytes() >> 20);
            }
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    mod gateway {
        include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/gateway.rs"));
    }

    #[tokio::test]
    async fn a_file_is_uploaded_and_its_journal_is_gone() {
        let (bucket, folder) = (gateway::bucket().await, tempfile::tempdir().unwrap());
        let file = folder.path().join("video");
        std::fs::write(&file, vec![7; 17 << 20]).unwrap();
        assert_eq!(upload(&bucket, "video", &file).await.unwrap().size, 17 << 20);
        assert_eq!(bucket.head("video").await.unwrap().size, 17 << 20);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
