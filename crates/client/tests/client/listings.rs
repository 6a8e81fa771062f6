//! Listings with a metadata value of each object.

use std::collections::BTreeMap;

use bytes::Bytes;
use fula_client::{Error, Listed, PutOptions, Told};
use futures::TryStreamExt;
use http::{Response, request::Parts};

use super::site::*;

async fn list(site: &Site, prefix: &str, value: Option<&str>) -> Result<Vec<Listed>, Error> {
    site.bucket().list_with(prefix, value).try_collect().await
}

fn is_stream(parts: &Parts) -> bool {
    parts.uri.query().is_some_and(|query| query.contains("fula-list"))
}

async fn fill(site: &Site, count: usize) {
    for n in 0..count {
        let value = (n % 2 == 0).then(|| ("mtime".to_owned(), format!("{n}.5")));
        let options = PutOptions { metadata: BTreeMap::from_iter(value), ..PutOptions::default() };
        site.bucket().put(&format!("k/{n:03}"), vec![0; n], options).await.unwrap();
    }
    site.bucket().put("z", "other", PutOptions::default()).await.unwrap();
    site.calm();
}

#[tokio::test]
async fn one_stream_has_all_objects_with_their_values() {
    let site = Site::start().await;
    fill(&site, 300).await;
    let found = list(&site, "k/", Some("mtime")).await.unwrap();
    assert_eq!((found.len(), site.seen().len()), (300, 1), "{:?}", site.seen());
    for (n, listed) in found.iter().enumerate() {
        assert_eq!((listed.key.as_str(), listed.size), (&*format!("k/{n:03}"), n as u64));
        let told = if n % 2 == 0 { Told::Value(format!("{n}.5")) } else { Told::Nothing };
        assert_eq!(listed.value, told);
    }
    let meta = site.bucket().head("k/007").await.unwrap();
    assert_eq!(found[7].etag, meta.version.etag);
    let seconds = |time: Option<std::time::SystemTime>| {
        time.unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
    };
    assert_eq!(seconds(found[7].modified), seconds(meta.modified));
    let found = list(&site, "", None).await.unwrap();
    assert!(found.len() == 301 && found.iter().all(|listed| listed.value == Told::Unasked));
    assert_eq!(list(&site, "nothing", None).await.unwrap(), []);
}

/// A stream that breaks off is continued behind the last object, with no object twice or missing.
#[tokio::test]
async fn a_stream_that_breaks_off_is_continued() {
    let site = Site::start().await;
    fill(&site, 300).await;
    let whole = list(&site, "k/", Some("mtime")).await.unwrap();
    site.fail(3, Fault::Cut(5_000), is_stream);
    assert_eq!(list(&site, "k/", Some("mtime")).await.unwrap(), whole);
    let targets: Vec<_> = site.seen().into_iter().map(|seen| seen.target).collect();
    assert!(targets.len() == 4 && targets[1..].iter().all(|target| target.contains("after=k%2F")));
    site.fail(20, Fault::Cut(10), is_stream);
    let error = list(&site, "k/", Some("mtime")).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    site.calm();
    let nowhere = site.client.bucket("no-such-bucket").unwrap();
    let error = nowhere.list_with("", None).try_collect::<Vec<_>>().await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

/// A server that does not know the stream refuses it, or answers as to a plain listing. A gateway refuses it to
/// callers without a credential.
#[tokio::test]
async fn other_servers_are_asked_for_pages() {
    let page =
        "<ListBucketResult><Contents><Key>wrong</Key><Size>1</Size></Contents></ListBucketResult>";
    for (status, body) in [(501, ""), (400, ""), (403, ""), (200, page)] {
        let script = move |parts: &Parts, _: &Bytes| {
            if !is_stream(parts) {
                return Reply::Pass;
            }
            let answer =
                Response::builder().status(status).header("content-type", "application/xml");
            Reply::Answer(answer.body(Bytes::from_static(body.as_bytes())).unwrap())
        };
        let site = Site::start_with(script).await;
        fill(&site, 5).await;
        let found = list(&site, "k/", Some("mtime")).await.unwrap();
        let keys: Vec<_> = found.iter().map(|listed| listed.key.as_str()).collect();
        assert_eq!(keys, ["k/000", "k/001", "k/002", "k/003", "k/004"]);
        assert!(found.iter().all(|listed| listed.value == Told::Unasked));
    }
}
