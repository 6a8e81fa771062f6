//! Changes of many keys in one request, and small files in them.

use std::{collections::BTreeMap, collections::HashSet, path::Path};

use bytes::Bytes;
use fula_client::{
    BatchPut, Client, Credentials, Error, FilePut, GetOptions, Meter, Outcome, PutOptions,
    RetryPolicy, SMALL_MAX, TOGETHER_MAX,
};
use http::{Method, Response, request::Parts};

use super::site::*;

fn is_commit(parts: &Parts) -> bool {
    parts.uri.query().is_some_and(|query| query.starts_with("fula-commit"))
}

/// Makes files, and returns them as objects of the same names.
fn files(dir: &Path, content: &[(&str, usize)]) -> Vec<FilePut> {
    let make = |(name, len): &(&str, usize)| {
        let path = dir.join(name);
        std::fs::write(&path, pattern(*len)).unwrap();
        let metadata = BTreeMap::from([("mtime".to_owned(), "5.5".to_owned())]);
        let content_type = Some("text/x".to_owned());
        FilePut { path, key: (*name).to_owned(), content_type, metadata }
    };
    content.iter().map(make).collect()
}

/// Returns the number of requests of each kind: commits, and single writes.
fn writes(site: &Site) -> (usize, usize) {
    let seen = site.seen();
    let commits = seen.iter().filter(|seen| seen.target.contains("fula-commit")).count();
    (commits, seen.iter().filter(|seen| seen.method == Method::PUT).count())
}

#[tokio::test]
async fn independent_changes_have_a_result_each() {
    let site = Site::start().await;
    let bucket = site.bucket();
    let put = |body: &'static str| BatchPut { body: body.into(), ..BatchPut::default() };
    let old = bucket.put("old", "x", PutOptions::default()).await.unwrap().version.etag;
    let stale = || BatchPut { if_match: Some("nothing".to_owned()), ..put("3") };
    let batch = bucket
        .batch()
        .put("a", put("1"))
        .put("old", stale())
        .put("gone", stale())
        .put("fresh", BatchPut { if_absent: true, ..put("2") })
        .delete("old", Some(&old));
    // A key that occurs twice is refused with all that the request has.
    assert!(matches!(batch.each().await, Err(Error::Http { status: 400, .. })));
    let batch = bucket
        .batch()
        .put("a", put("1"))
        .put("old", BatchPut { if_absent: true, ..put("2") })
        .put("gone", stale())
        .delete("nothing", None);
    let done = batch.each().await.unwrap();
    assert!(done.version.is_some());
    let [first, second, third, fourth] = <[_; 4]>::try_from(done.results).unwrap();
    assert_eq!(first.unwrap().unwrap(), bucket.head("a").await.unwrap().version.etag);
    assert!(matches!(second, Err(Error::Exists { what }) if what == "bucket/old"));
    assert!(matches!(third, Err(Error::Changed { what, .. }) if what == "bucket/gone"));
    assert_eq!(fourth.unwrap(), None);
    let read = bucket.get("old", GetOptions::default()).await.unwrap();
    assert_eq!(read.bytes(10).await.unwrap(), "x");
}

#[tokio::test]
async fn small_files_go_up_in_one_request() {
    let (site, dir) = (Site::start().await, tempfile::tempdir().unwrap());
    let bucket = site.bucket();
    let content =
        [("a", 3), ("b", 0), ("c", SMALL_MAX), ("d", SMALL_MAX + 1), ("gone", 1), ("é &<", 70_000)];
    let files = files(dir.path(), &content);
    std::fs::remove_file(dir.path().join("gone")).unwrap();
    // The answer is lost twice. It is one call all the same, and is carried out once.
    site.fail(2, Fault::Lost, is_commit);
    let meter = Meter::default();
    let done = bucket.put_files(files, Some(&meter)).await.unwrap();
    let commits: Vec<_> =
        site.seen().into_iter().filter(|seen| seen.target.contains("fula-commit")).collect();
    let ids: HashSet<_> = commits.iter().map(|seen| &seen.invocation).collect();
    assert_eq!((commits.len(), ids.len()), (3, 1), "{commits:?}");
    let mut bytes = 0;
    for ((name, len), done) in content.iter().zip(done) {
        if *name == "gone" {
            assert!(matches!(done, Err(Error::Io { .. })));
            continue;
        }
        let put = done.unwrap();
        let get = bucket.get(name, GetOptions::default()).await.unwrap();
        assert_eq!((put.size, &put.version.etag), (*len as u64, &get.meta.version.etag), "{name}");
        assert_eq!(get.meta.content_type.as_deref(), Some("text/x"));
        assert_eq!(
            (get.meta.metadata["mtime"].as_str(), put.version.bucket.is_some()),
            ("5.5", true)
        );
        assert_eq!(get.bytes(1 << 20).await.unwrap(), pattern(*len));
        bytes += *len as u64;
    }
    assert_eq!(meter.bytes(), bytes);
}

/// What does not fit into a commit is sent alone.
#[tokio::test]
async fn the_files_of_a_commit_are_bounded() {
    let (site, dir) = (Site::start().await, tempfile::tempdir().unwrap());
    let names: Vec<String> = (0..20).map(|n| format!("f{n}")).collect();
    let content: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), SMALL_MAX)).collect();
    let files = files(dir.path(), &content);
    site.calm();
    let done = site.bucket().put_files(files, None).await.unwrap();
    assert!(done.iter().all(Result::is_ok));
    assert_eq!(writes(&site), (1, 20 - TOGETHER_MAX / SMALL_MAX));
    let many = vec![FilePut::default(); 1001];
    assert!(matches!(site.bucket().put_files(many, None).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_failure_of_the_request_is_one_of_all_its_files() {
    let (site, dir) = (Site::start().await, tempfile::tempdir().unwrap());
    let retry = RetryPolicy { attempts: 2, ..RetryPolicy::default() };
    let client = Client::builder().endpoint(&site.url).retry(retry);
    let client = client.credentials(site.credentials.clone()).build().unwrap();
    let bucket = client.bucket("bucket").unwrap();
    for (fault, expected) in [(Fault::Lost, Outcome::Unknown), (Fault::Busy(0), Outcome::None)] {
        site.fail(2, fault, is_commit);
        let files = files(dir.path(), &[("a", 1), ("b", 2)]);
        let error = bucket.put_files(files, None).await.unwrap_err();
        let Error::Unavailable { outcome, .. } = error else { panic!("{error}") };
        assert_eq!((outcome, writes(&site)), (expected, (2, 0)));
    }
    // A bucket that is not there is not asked for once for each file.
    site.calm();
    let files = files(dir.path(), &[("a", 1), ("b", 2)]);
    let nowhere = site.client.bucket("no-such-bucket").unwrap();
    assert!(matches!(nowhere.put_files(files, None).await, Err(Error::NotFound { .. })));
    assert_eq!(writes(&site), (1, 0));
}

#[tokio::test]
async fn servers_without_commits_get_one_request_for_each_file() {
    for status in [400, 405, 501] {
        let script = move |parts: &Parts, _: &Bytes| {
            if !is_commit(parts) {
                return Reply::Pass;
            }
            Reply::Answer(Response::builder().status(status).body(Bytes::new()).unwrap())
        };
        let (site, dir) = (Site::start_with(script).await, tempfile::tempdir().unwrap());
        site.calm();
        let files = files(dir.path(), &[("a", 1), ("b", 2), ("c", 3)]);
        let done = site.bucket().put_files(files, None).await.unwrap();
        assert!(done.iter().all(Result::is_ok) && writes(&site) == (1, 3), "{:?}", site.seen());
        assert_eq!(site.bucket().head("c").await.unwrap().size, 3);
    }
    // A server says by itself whether it is one of ours.
    let site = Site::start().await;
    assert!(site.client.is_fula().await);
    let other =
        serve(|_, _| Reply::Answer(Response::builder().status(404).body(Bytes::new()).unwrap()));
    let other = Client::builder().endpoint(other.await).credentials(Credentials::Anonymous);
    assert!(!other.build().unwrap().is_fula().await);
}
