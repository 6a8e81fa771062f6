//! Hostile servers in front of a vault: each attack is refused with an error of its own, and nothing of what was not
//! verified is handed out.

use std::sync::Arc;

use bytes::Bytes;
use fula_client::{
    Error, GetOptions, PutOptions,
    vault::{LinkOptions, Shared, Vault, VaultGetOptions},
};
use fula_core::{Cid, Codec, cbor::Writer};
use fula_seal::SealError;
use http::{Method, Response, request::Parts};
use parking_lot::Mutex;

use super::{site::*, vaults::*};

/// What the server answers to a listing in place of the gateway.
type Answers = Arc<Mutex<Option<Bytes>>>;

/// Returns a vault whose server may answer listings by itself, and everything that it received.
async fn home() -> (Home, Vault, Answers, Arc<Mutex<Vec<u8>>>) {
    let (answers, received) = (Answers::default(), Arc::new(Mutex::new(Vec::new())));
    let (own, all) = (Arc::clone(&answers), Arc::clone(&received));
    let script = move |parts: &Parts, body: &Bytes| {
        let mut all = all.lock();
        all.extend(parts.uri.to_string().as_bytes());
        for value in parts.headers.values() {
            all.extend(value.as_bytes());
        }
        all.extend(body);
        let is_listing = parts.uri.query().is_some_and(|query| query.contains("fula-list"));
        match &*own.lock() {
            Some(answer) if is_listing && parts.method == Method::GET => Reply::Answer(
                Response::builder()
                    .header("content-type", "application/cbor-seq")
                    .body(answer.clone())
                    .unwrap(),
            ),
            _ => Reply::Pass,
        }
    };
    let (home, vault) = Home::at(Site::start_with(script).await).await;
    (home, vault, answers, received)
}

/// Returns the only file of a vault as it lies on the server: key, body and metadata.
async fn stored(home: &Home) -> (String, Vec<u8>, std::collections::BTreeMap<String, String>) {
    let key = home.keys().await.pop().unwrap();
    let get = home.site.bucket().get(&key, GetOptions::default()).await.unwrap();
    let metadata = get.meta.metadata.clone();
    (key, get.bytes(4 << 20).await.unwrap().to_vec(), metadata)
}

#[tokio::test]
async fn attack_show_an_older_state_of_the_bucket() {
    let (home, one, answers, _) = home().await;
    put(&one, "file", "content").await;
    let version = one.list(b"").await.unwrap().version.unwrap();
    let listing = |version| {
        let mut out = Writer::default();
        out.array(5).uint(0).uint(version).link(&Cid::of(Codec::DagCbor, b"root")).null().map(0);
        out.array(3).uint(3).uint(0).map(0);
        out.finish()
    };
    // An empty state that is as new as the one that was seen cannot be told from one in which the file is gone.
    *answers.lock() = Some(listing(version - 1));
    let back = SealError::RolledBack { what: "the bucket", seen: version, found: version - 1 };
    assert_eq!(sealed(one.list(b"").await.unwrap_err()), back);
    drop(one);
    let one = home.open(1).await.unwrap();
    assert_eq!(sealed(one.list(b"").await.unwrap_err()), back, "it is remembered");
    assert_eq!(sealed(one.rename_all(b"", b"new/").await.unwrap_err()), back);
    *answers.lock() = None;
    assert_eq!(one.list(b"").await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn attack_answer_a_listing_with_something_else() {
    let (_home, one, answers, _) = home().await;
    put(&one, "file", "content").await;
    let endless = {
        let mut out = Writer::default();
        out.array(8).uint(1).text(&"k".repeat(100_000));
        out.finish()
    };
    for answer in [
        Bytes::from_static(b"\xff\xff\xff"),
        // The end of a listing, and nothing before it.
        Bytes::from_static(&[0x83, 3, 0, 0xa0]),
        // An item that is longer than any can be.
        endless,
    ] {
        *answers.lock() = Some(answer.clone());
        let refused = one.list(b"").await.unwrap_err();
        let is_named = matches!(&refused, Error::Http { code, .. } if code == "InvalidAnswer");
        assert!(is_named, "{:?}: {refused}", &answer[..3]);
    }
    *answers.lock() = Some(Bytes::new());
    assert!(matches!(one.list(b"").await.unwrap_err(), Error::Unavailable { .. }));
}

#[tokio::test]
async fn no_plaintext_is_handed_out_before_its_tag() {
    let (home, one, ..) = home().await;
    let content = "0123456789abcdef".repeat(4096);
    put(&one, "file", &content).await;
    let (key, body, metadata) = stored(&home).await;
    let target = home.directory.path().join("target");
    std::fs::create_dir(&target).unwrap();
    // A byte in each of the five chunks of 16 KiB.
    for chunk in 0..4 {
        let mut altered = body.clone();
        altered[56 + chunk * (16 * 1024 + 16) + 5] ^= 1;
        let options = PutOptions { metadata: metadata.clone(), ..PutOptions::default() };
        home.site.bucket().put(&key, altered, options).await.unwrap();
        let mut handed_out = Vec::new();
        let failed = match one.get(&path("file"), VaultGetOptions::default()).await {
            Ok(mut get) => loop {
                match get.chunk().await {
                    Ok(Some(bytes)) => handed_out.extend(bytes),
                    Ok(None) => panic!("an altered file was read"),
                    Err(error) => break error,
                }
            },
            Err(error) => error,
        };
        assert_eq!(sealed(failed), SealError::Damaged { what: "the content" });
        assert!(handed_out.len() <= chunk * 16 * 1024, "{chunk}: {}", handed_out.len());
        assert!(content.as_bytes().starts_with(&handed_out));
        let down = Box::pin(one.download(&path("file"), &target.join("file"), None)).await;
        assert_eq!(sealed(down.unwrap_err()), SealError::Damaged { what: "the content" });
        assert!(std::fs::read_dir(&target).unwrap().next().is_none(), "nothing is left behind");
    }
}

#[tokio::test]
async fn each_bad_input_is_an_error_of_its_own() {
    let (home, one, ..) = home().await;
    put(&one, "file", "content").await;
    assert!(matches!(sealed(home.open(7).await.unwrap_err()), SealError::WrongKey { .. }));
    let (key, body, metadata) = stored(&home).await;
    let bucket = home.site.bucket();
    let put_back = |body: Vec<u8>| {
        let options = PutOptions { metadata: metadata.clone(), ..PutOptions::default() };
        let (bucket, key) = (bucket.clone(), key.clone());
        async move { drop(bucket.put(&key, body, options).await.unwrap()) }
    };
    let error = |error: Error| format!("{:?}", sealed(error));
    let mut seen = Vec::new();
    // Cut off at the end, and in the middle.
    for len in [body.len() - 1, 70, 10] {
        put_back(body[..len].to_vec()).await;
        let refused = error(read(&one, "file").await.unwrap_err());
        assert!(
            refused.starts_with("Truncated")
                || refused.starts_with("Misplaced")
                || refused.starts_with("Malformed"),
            "{len}: {refused}"
        );
        seen.push(refused);
    }
    assert!(seen.iter().any(|refused| refused.starts_with("Truncated")), "{seen:?}");
    let mut damaged = body.clone();
    damaged[60] ^= 1;
    put_back(damaged).await;
    assert!(error(read(&one, "file").await.unwrap_err()).starts_with("Damaged"));
    put_back(body.clone()).await;
    assert_eq!(read(&one, "file").await.unwrap(), "content");
    // A body and a name of another vault at the same place.
    let place = fula_client::vault::Place::new(bucket.clone(), "other").unwrap();
    let founder = identity(1);
    let founders = [fula_seal::keyring::Founder {
        identity: &founder,
        kind: fula_seal::slot::SlotKind::Device,
        label: "",
    }];
    let state = home.directory.path().join("other");
    let other =
        Vault::create(place, fula_client::vault::CreateOptions::default(), &founders, &state);
    let other = other.await.unwrap();
    put(&other, "file", "foreign").await;
    let listing = bucket.list("other/", fula_client::ListOptions::default());
    let entries: Vec<_> = futures::TryStreamExt::try_collect(listing).await.unwrap();
    let entries: Vec<fula_client::Entry> = entries;
    let foreign =
        entries.iter().map(fula_client::Entry::name).find(|name| !name.ends_with("fula.vault"));
    bucket
        .copy(&bucket, foreign.unwrap(), &key, fula_client::CopyOptions::default())
        .await
        .unwrap();
    assert!(error(read(&one, "file").await.unwrap_err()).starts_with("Misplaced"));
}

#[tokio::test]
async fn attack_a_server_that_hopes_for_the_key_of_a_link() {
    let (home, one, _, received) = home().await;
    put(&one, "plan.txt", "attack at dawn").await;
    let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*",
        "Action":"s3:GetObject","Resource":"arn:aws:s3:::bucket/vault/s/*"}]}"#;
    let request =
        fula_client::Request::of_bucket(Method::PUT, "bucket").query("policy", "").body(policy);
    home.site.bucket().client().send(&request).await.unwrap();
    received.lock().clear();
    let share = one.share(&path("plan.txt")).await.unwrap();
    let url = share.url.to_string();
    let shared = Shared::parse(&url, &LinkOptions::default()).unwrap();
    let get = shared.get(VaultGetOptions::default()).await.unwrap();
    assert_eq!(get.bytes(100).await.unwrap(), "attack at dawn");
    let (place, secret) = url.split_once('#').unwrap();
    let received = received.lock();
    let has = |text: &[u8]| received.windows(text.len()).any(|window| window == text);
    assert!(has(place.rsplit('/').next().unwrap().as_bytes()), "the requests were recorded");
    assert!(!has(secret.as_bytes()) && !has(&secret.as_bytes()[10..50]));
}
