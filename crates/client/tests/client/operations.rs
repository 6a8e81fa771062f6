//! What the operations do while nothing fails.

use bytes::Bytes;
use fula_client::{
    BatchPut, Client, CopyOptions, Credentials, DeleteOptions, Entry, Error, GetOptions,
    ListOptions, PutOptions, Span,
};
use futures::TryStreamExt;

use super::site::*;

/// Keys that URLs, XML and proxies treat in special ways.
const KEYS: [&str; 12] = [
    "plain",
    "a/b/c",
    "a/../b",
    "./x",
    "a//b/",
    "blank and + and %41 & <x> \"q\"",
    "é/日本/😀",
    "tab\tand\rline\nends",
    "?query#fragment",
    "trailing/..",
    "back\\slash",
    "~tilde*star'",
];

#[tokio::test]
async fn an_object_comes_back_as_it_was_written() {
    let site = Site::start().await;
    let bucket = site.bucket();
    let body = pattern(3 << 20);
    let metadata = [("Mtime", "1.5"), ("spaces", "a   b")];
    let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let options =
        PutOptions { content_type: Some("text/x".to_owned()), metadata, ..PutOptions::default() };
    let put = bucket.put("a/b", body.clone(), options).await.unwrap();
    assert!(put.size == 3 << 20 && put.version.bucket.is_some() && !put.version.etag.is_empty());
    let get = bucket.get("a/b", GetOptions::default()).await.unwrap();
    assert_eq!((get.meta.size, &get.meta.version.etag), (3 << 20, &put.version.etag));
    assert_eq!(get.meta.content_type.as_deref(), Some("text/x"));
    assert_eq!((&*get.meta.metadata["mtime"], &*get.meta.metadata["spaces"]), ("1.5", "a   b"));
    assert!(get.meta.crc64nvme.is_some() && get.meta.modified.is_some());
    assert_eq!(get.bytes(4 << 20).await.unwrap(), body);
    let head = bucket.head("a/b").await.unwrap();
    assert_eq!((head.size, head.metadata.len()), (3 << 20, 2));
    for (span, expected) in [
        (Span::Between(5, 10), 5..10),
        (Span::From((3 << 20) - 7), (3 << 20) - 7..3 << 20),
        (Span::Last(9), (3 << 20) - 9..3 << 20),
    ] {
        let options = GetOptions { range: Some(span), ..GetOptions::default() };
        let get = bucket.get("a/b", options).await.unwrap();
        assert_eq!(get.range, expected.start as u64..expected.end as u64);
        assert_eq!(get.bytes(10).await.unwrap(), body.slice(expected));
    }
    let too_small = bucket.get("a/b", GetOptions::default()).await.unwrap().bytes(10).await;
    assert!(matches!(too_small, Err(Error::Invalid(_))));
    let empty = bucket.put("empty", "", PutOptions::default()).await.unwrap();
    assert_eq!(empty.size, 0);
    let get = bucket.get("empty", GetOptions::default()).await.unwrap();
    assert_eq!(get.bytes(0).await.unwrap(), Bytes::new());
}

#[tokio::test]
async fn every_key_is_written_listed_copied_and_deleted() {
    let site = Site::start().await;
    let bucket = site.bucket();
    for key in KEYS {
        bucket.put(key, key.to_owned(), PutOptions::default()).await.unwrap();
    }
    for key in KEYS {
        let get = bucket.get(key, GetOptions::default()).await.unwrap();
        assert_eq!(get.bytes(100).await.unwrap(), key, "{key:?}");
        bucket.copy(&bucket, key, &format!("copy/{key}"), CopyOptions::default()).await.unwrap();
        let (from, to) = (format!("copy/{key}"), format!("moved/{key}"));
        bucket.rename(&from, &to, CopyOptions::default()).await.unwrap();
        assert_eq!(bucket.head(&to).await.unwrap().size, key.len() as u64);
    }
    let mut expected: Vec<_> =
        KEYS.iter().flat_map(|key| [(*key).to_owned(), format!("moved/{key}")]).collect();
    expected.sort();
    for page in [None, Some(5)] {
        let options = ListOptions { page, ..ListOptions::default() };
        let found: Vec<_> = bucket.list("", options).try_collect().await.unwrap();
        let found: Vec<_> = found.iter().map(Entry::name).collect();
        assert_eq!(found, expected);
    }
    let options = ListOptions { delimiter: Some("/".to_owned()), ..ListOptions::default() };
    let found: Vec<_> = bucket.list("moved/a/", options).try_collect().await.unwrap();
    let prefixes =
        ["moved/a/../", "moved/a//", "moved/a/b/"].map(|name| Entry::Prefix(name.to_owned()));
    assert_eq!(found, prefixes);
    assert!(bucket.delete_many(&expected).await.unwrap().is_empty());
    let left: Vec<_> = bucket.list("", ListOptions::default()).try_collect().await.unwrap();
    assert_eq!(left, []);
    assert!(matches!(bucket.put("", "x", PutOptions::default()).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn conditions_are_kept_and_told_apart() {
    let site = Site::start().await;
    let bucket = site.bucket();
    let fresh = || PutOptions { if_absent: true, ..PutOptions::default() };
    let on = |etag: &str| PutOptions { if_match: Some(etag.to_owned()), ..PutOptions::default() };
    assert!(matches!(bucket.put("k", "0", on("nothing")).await, Err(Error::Changed { .. })));
    let first = bucket.put("k", "1", fresh()).await.unwrap().version.etag;
    assert!(matches!(bucket.put("k", "2", fresh()).await, Err(Error::Exists { .. })));
    let second = bucket.put("k", "2", on(&first)).await.unwrap().version.etag;
    assert!(matches!(bucket.put("k", "3", on(&first)).await, Err(Error::Changed { .. })));
    let get = GetOptions { if_match: Some(first.clone()), ..GetOptions::default() };
    assert!(matches!(bucket.get("k", get).await, Err(Error::Changed { .. })));
    let get = GetOptions { if_none_match: Some(second.clone()), ..GetOptions::default() };
    assert!(matches!(bucket.get("k", get).await, Err(Error::NotModified { .. })));
    let delete = |etag: &str| DeleteOptions { if_match: Some(etag.to_owned()) };
    assert!(matches!(bucket.delete("k", delete(&first)).await, Err(Error::Changed { .. })));
    let copy = CopyOptions { if_absent: true, ..CopyOptions::default() };
    bucket.copy(&bucket, "k", "k2", copy.clone()).await.unwrap();
    assert!(matches!(bucket.copy(&bucket, "k", "k2", copy).await, Err(Error::Exists { .. })));
    bucket.delete("k", delete(&second)).await.unwrap();
    bucket.delete("k", DeleteOptions::default()).await.unwrap();
    assert!(matches!(bucket.head("k").await, Err(Error::NotFound { .. })));
    assert!(matches!(bucket.get("k", GetOptions::default()).await, Err(Error::NotFound { .. })));
    assert!(matches!(
        bucket.rename("k", "l", CopyOptions::default()).await,
        Err(Error::NotFound { .. })
    ));
    let nowhere = site.client.bucket("no-such-bucket").unwrap();
    assert!(matches!(
        nowhere.put("k", "x", PutOptions::default()).await,
        Err(Error::NotFound { .. })
    ));
}

#[tokio::test]
async fn a_batch_is_carried_out_as_a_whole() {
    let site = Site::start().await;
    let bucket = site.bucket();
    let old = bucket.put("old", "x", PutOptions::default()).await.unwrap().version.etag;
    let put = |body: &'static str| BatchPut { body: body.into(), ..BatchPut::default() };
    let batch = bucket.batch().put("a", put("1")).put("b", put("2")).delete("old", Some(&old));
    let done = batch.commit().await.unwrap();
    assert_eq!((done.etags.len(), &done.etags[2]), (3, &None));
    assert_eq!(bucket.head("a").await.unwrap().version.etag, done.etags[0].clone().unwrap());
    assert!(matches!(bucket.head("old").await, Err(Error::NotFound { .. })));
    let fresh = BatchPut { if_absent: true, ..put("3") };
    let batch = bucket.batch().put("c", put("3")).put("a", fresh);
    let error = batch.commit().await.unwrap_err();
    assert!(matches!(&error, Error::Exists { .. }), "{error}");
    assert!(matches!(bucket.head("c").await, Err(Error::NotFound { .. })));
    let stale = BatchPut { if_match: Some("nothing".to_owned()), ..put("3") };
    assert!(matches!(bucket.batch().put("a", stale).commit().await, Err(Error::Changed { .. })));
    assert!(matches!(bucket.batch().commit().await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn buckets_are_listed_and_credentials_are_checked() {
    let site = Site::start().await;
    let names: Vec<_> =
        site.client.buckets().await.unwrap().into_iter().map(|bucket| bucket.name).collect();
    assert_eq!(names, ["bucket"]);
    assert!(matches!(site.bucket().create().await, Ok(()) | Err(Error::Exists { .. })));
    for credentials in [Credentials::Anonymous, Credentials::key("AAAA", "wrong-secret")] {
        let client =
            Client::builder().endpoint(&site.url).credentials(credentials).build().unwrap();
        let bucket = client.bucket("bucket").unwrap();
        let error = bucket.put("k", "x", PutOptions::default()).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error}");
    }
    for name in ["a", "a/b", "A?b", "..", ".a.b"] {
        assert!(site.client.bucket(name).is_err(), "{name}");
    }
    let bearer = Client::builder().endpoint("http://192.0.2.1").allow_http(true);
    assert!(bearer.credentials(Credentials::bearer("t")).build().is_err());
}
