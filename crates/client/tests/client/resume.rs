//! Uploads of large files that are interrupted.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fula_client::{
    Error, Source,
    vault::{Condition, Vault, VaultGetOptions, VaultPutOptions},
};
use http::{Method, request::Parts};
use parking_lot::Mutex;

use super::{site::*, vaults::*};

/// Six segments.
const LEN: usize = 90 << 20;

/// Hashes of the parts that arrived, by their salts.
type Salts = Arc<Mutex<BTreeMap<Vec<u8>, BTreeSet<[u8; 32]>>>>;

/// Returns the number of the part that a request sends.
fn number(query: &str) -> Option<u32> {
    query.split("partNumber=").nth(1)?.split('&').next()?.parse().ok()
}

fn is_part(wanted: u32) -> impl Fn(&Parts) -> bool + Send + 'static {
    move |parts| parts.method == Method::PUT && parts.uri.query().and_then(number) == Some(wanted)
}

/// Returns a vault in front of which all salts are recorded, and a file.
async fn home() -> (Home, Vault, Salts, PathBuf) {
    let salts = Salts::default();
    let recorded = Arc::clone(&salts);
    let record = move |parts: &Parts, body: &Bytes| {
        if parts.method == Method::PUT && parts.uri.query().and_then(number).is_some() {
            let hash = *blake3::hash(body).as_bytes();
            recorded.lock().entry(body[..24].to_vec()).or_default().insert(hash);
        }
        Reply::Pass
    };
    let (home, vault) = Home::at(Site::start_with(record).await).await;
    let file = home.directory.path().join("file");
    std::fs::write(&file, pattern(LEN)).unwrap();
    (home, vault, salts, file)
}

/// Returns the numbers of the parts that were sent since the last rule, in their order.
fn sent(home: &Home) -> Vec<u32> {
    let puts = home.site.seen().into_iter().filter(|seen| seen.method == Method::PUT);
    let mut numbers: Vec<_> = puts.filter_map(|seen| number(&seen.target)).collect();
    numbers.sort_unstable();
    numbers
}

fn options(condition: Condition) -> VaultPutOptions {
    VaultPutOptions { condition, modified: Some(7), ..VaultPutOptions::default() }
}

async fn upload(vault: &Vault, file: &Path) -> Result<String, Error> {
    let path = path("large");
    let put = vault.put(&path, Source::File(file.to_owned()), options(Condition::None));
    put.await.map(|version| version.etag)
}

async fn content(vault: &Vault) -> Bytes {
    let get = vault.get(&path("large"), VaultGetOptions::default()).await.unwrap();
    get.bytes(LEN * 2).await.unwrap()
}

/// Returns the notes about uploads in the state of the first device.
fn notes(home: &Home) -> Vec<PathBuf> {
    let directory = std::fs::read_dir(home.directory.path().join("1")).unwrap();
    let vault = directory.map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
    let files = std::fs::read_dir(vault).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("upload-"))
        .collect()
}

/// Ends an upload in the middle: the server has its first four parts, and the fifth is on its way.
async fn interrupt(home: &Home, vault: &Vault, file: &Path) {
    home.site.fail(1000, Fault::Silent, is_part(5));
    let (one, source) = (vault.clone(), file.to_owned());
    let running = tokio::spawn(async move { upload(&one, &source).await });
    let noted = || {
        let text = notes(home).first().map(|note| std::fs::read_to_string(note).unwrap());
        text.filter(|text| text.matches("\"part\"").count() == 4)
    };
    let reached = async {
        loop {
            match noted().filter(|_| sent(home).contains(&6)) {
                Some(text) => break text,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let text = tokio::time::timeout(Duration::from_mins(1), reached).await.unwrap();
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    home.site.calm();
    for clear in ["large", &LEN.to_string()] {
        assert!(!text.contains(clear), "{text}");
    }
}

#[tokio::test]
async fn only_parts_that_the_server_lacks_are_sent_again_and_with_new_salts() {
    let (home, one, salts, file) = home().await;
    interrupt(&home, &one, &file).await;
    assert!(home.keys().await.is_empty(), "nothing is visible before the end");
    // Another process goes on.
    drop(one);
    let one = home.open(1).await.unwrap();
    home.site.calm();
    let etag = upload(&one, &file).await.unwrap();
    assert_eq!(sent(&home), [5, 6]);
    assert!(notes(&home).is_empty());
    assert_eq!(content(&one).await, pattern(LEN));
    let two = home.open(2).await.unwrap();
    assert_eq!(content(&two).await, pattern(LEN));
    let entry = two.head(&path("large")).await.unwrap();
    assert_eq!((entry.etag, entry.size, entry.modified), (etag, LEN as u64, Some(7)));
    assert_eq!(two.list(b"").await.unwrap().entries.len(), 1);
    let salts = salts.lock();
    assert!(
        salts.len() >= 6 && salts.values().all(|bodies| bodies.len() == 1),
        "a salt was used twice"
    );
}

#[tokio::test]
async fn a_file_that_changed_is_sent_anew() {
    let (home, one, salts, file) = home().await;
    interrupt(&home, &one, &file).await;
    let mut other = pattern(LEN).to_vec();
    other[7] ^= 1;
    std::fs::write(&file, &other).unwrap();
    upload(&one, &file).await.unwrap();
    assert_eq!(sent(&home), [1, 2, 3, 4, 5, 6]);
    assert_eq!(content(&one).await, other);

    // The same size and time, and another content in one segment.
    interrupt(&home, &one, &file).await;
    let time = file.metadata().unwrap().modified().unwrap();
    other[20 << 20] ^= 1;
    std::fs::write(&file, &other).unwrap();
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    upload(&one, &file).await.unwrap();
    assert_eq!(sent(&home), [2, 5, 6]);
    assert_eq!(content(&one).await, other);

    // A newer epoch: what was sent could be read with older keys.
    interrupt(&home, &one, &file).await;
    one.change_keyring(|draft, entropy| draft.begin_epoch(entropy)).await.unwrap();
    home.site.calm();
    upload(&one, &file).await.unwrap();
    assert_eq!(sent(&home), [1, 2, 3, 4, 5, 6]);
    assert_eq!(one.outdated().await.unwrap(), 0);
    assert!(salts.lock().values().all(|bodies| bodies.len() == 1), "a salt was used twice");
}

#[tokio::test]
async fn after_a_conflict_only_the_end_is_sent_again() {
    let (home, one, salts, file) = home().await;
    // Another device is first, once: the upload cannot be completed.
    let is_end = |parts: &Parts| {
        parts.method == Method::POST
            && parts.uri.query().is_some_and(|query| query.contains("uploadId"))
    };
    home.site.fail(1, Fault::Outrun, is_end);
    upload(&one, &file).await.unwrap();
    assert_eq!(sent(&home), [1, 2, 3, 4, 5, 6, 6]);
    assert_eq!(content(&one).await, pattern(LEN));
    assert!(notes(&home).is_empty() && salts.lock().values().all(|bodies| bodies.len() == 1));
    // With a condition the caller gets the error, and nothing stays behind.
    home.site.fail(1, Fault::Outrun, is_end);
    let etag = one.head(&path("large")).await.unwrap().etag;
    let options = options(Condition::Version(etag));
    let refused = one.put(&path("large"), Source::File(file), options).await;
    assert!(matches!(refused, Err(Error::Changed { .. })), "{refused:?}");
    assert!(notes(&home).is_empty());
    assert_eq!(home.site.seen().last().unwrap().method, Method::DELETE);
}
