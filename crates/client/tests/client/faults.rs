//! What happens when networks and servers fail.

use std::{collections::HashSet, time::Duration};

use fula_client::{BatchPut, Error, GetOptions, Outcome, PutOptions, RetryPolicy, Span};

use super::site::*;

/// A write whose answer was lost is sent again under the same invocation id, and is carried out once: its own
/// first attempt does not fail its condition.
#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let site = Site::start().await;
    let bucket = site.bucket();
    site.fail(3, Fault::Lost, is_put);
    let options = PutOptions { if_absent: true, ..PutOptions::default() };
    let put = bucket.put("k", "once", options).await.unwrap();
    let seen = site.seen();
    let ids: HashSet<_> = seen.iter().map(|seen| &seen.invocation).collect();
    assert_eq!((seen.len(), ids.len()), (4, 1), "{seen:?}");
    assert!(seen[3].attempt.starts_with("attempt=4;"), "{seen:?}");
    assert_eq!(bucket.head("k").await.unwrap().version.etag, put.version.etag);
    site.fail(1, Fault::Lost, |parts| parts.uri.query() == Some("fula-commit="));
    let change = BatchPut { body: "b".into(), if_absent: true, ..BatchPut::default() };
    bucket.batch().put("in-batch", change).commit().await.unwrap();
    // Another call is another invocation.
    let options = PutOptions { if_absent: true, ..PutOptions::default() };
    assert!(matches!(bucket.put("k", "once", options).await, Err(Error::Exists { .. })));
}

#[tokio::test]
async fn a_busy_server_is_given_the_time_that_it_asks_for() {
    let site = Site::start().await;
    site.fail(1, Fault::Busy(1), is_put);
    let began = tokio::time::Instant::now();
    site.bucket().put("k", "x", PutOptions::default()).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_failure_that_stays_says_whether_anything_may_have_happened() {
    let site = Site::start().await;
    let retry =
        RetryPolicy { attempts: 3, base: Duration::from_millis(1), ..RetryPolicy::default() };
    let builder = fula_client::Client::builder().endpoint(&site.url).retry(retry);
    let client = builder.credentials(site.credentials.clone()).build().unwrap();
    let bucket = client.bucket("bucket").unwrap();
    for (fault, expected) in [(Fault::Busy(0), Outcome::None), (Fault::Lost, Outcome::Unknown)] {
        site.fail(3, fault, is_put);
        let error = bucket.put("k", "x", PutOptions::default()).await.unwrap_err();
        assert!(
            matches!(&error, Error::Unavailable { outcome, .. } if *outcome == expected),
            "{error}"
        );
        assert_eq!(site.seen().len(), 3);
    }
    // Nobody listens there, so nothing was sent.
    let nobody =
        fula_client::Client::builder().endpoint("http://127.0.0.1:1").retry(retry).build().unwrap();
    let error =
        nobody.bucket("bucket").unwrap().put("k", "x", PutOptions::default()).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { outcome: Outcome::None, .. }), "{error}");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_continued() {
    let site = Site::start().await;
    let (bucket, body) = (site.bucket(), pattern(2 << 20));
    bucket.put("k", body.clone(), PutOptions::default()).await.unwrap();
    site.fail(4, Fault::Cut(300_000), is_get);
    let get = bucket.get("k", GetOptions::default()).await.unwrap();
    assert_eq!(get.bytes(2 << 20).await.unwrap(), body);
    let ranges: Vec<_> = site.seen().into_iter().map(|seen| seen.range).collect();
    let expected = ["", "bytes=300000-2097151", "bytes=600000-2097151"];
    assert_eq!((ranges.len(), &ranges[..3]), (5, &expected.map(str::to_owned)[..]));
    // Within a range, too.
    site.fail(1, Fault::Cut(10), is_get);
    let options = GetOptions { range: Some(Span::Between(1000, 1100)), ..GetOptions::default() };
    let get = bucket.get("k", options).await.unwrap();
    assert_eq!(get.bytes(100).await.unwrap(), body.slice(1000..1100));
    assert_eq!(site.seen()[1].range, "bytes=1010-1099");
}

/// Bytes of two versions are never mixed.
#[tokio::test]
async fn a_body_is_not_continued_with_another_version() {
    let site = Site::start().await;
    let bucket = site.bucket();
    bucket.put("k", pattern(2 << 20), PutOptions::default()).await.unwrap();
    site.fail(1, Fault::Cut(500_000), is_get);
    let mut get = bucket.get("k", GetOptions::default()).await.unwrap();
    get.chunk().await.unwrap().unwrap();
    bucket.put("k", vec![0; 2 << 20], PutOptions::default()).await.unwrap();
    let error = loop {
        match get.chunk().await {
            Ok(chunk) => assert!(chunk.is_some()),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Changed { .. }), "{error}");
}

#[tokio::test]
async fn a_byte_that_changed_on_its_way_is_found() {
    let site = Site::start().await;
    let bucket = site.bucket();
    bucket.put("k", pattern(100_000), PutOptions::default()).await.unwrap();
    site.fail(1, Fault::Flipped, is_get);
    let get = bucket.get("k", GetOptions::default()).await.unwrap();
    let error = get.bytes(100_000).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_stands_still_is_asked_again() {
    let site = Site::start().await;
    let bucket = site.impatient(Duration::from_millis(300));
    site.fail(1, Fault::Silent, is_put);
    bucket.put("k", "x", PutOptions::default()).await.unwrap();
    site.fail(1, Fault::Refused, is_get);
    let get = bucket.get("k", GetOptions::default()).await.unwrap();
    assert_eq!(get.bytes(1).await.unwrap(), "x");
}
