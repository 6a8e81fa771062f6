//! Uploads in parts.

use std::time::Duration;

use bytes::Bytes;
use fula_client::{Error, GetOptions, Meter, PutOptions, Source};
use futures::stream;
use http::{Method, request::Parts};

use super::site::*;

const MIB: usize = 1 << 20;

fn in_parts() -> PutOptions {
    PutOptions { part_bytes: Some(5 * MIB), ..PutOptions::default() }
}

fn is_part(number: u32) -> impl Fn(&Parts) -> bool + Send + 'static {
    let wanted = format!("partNumber={number}&");
    move |parts| parts.uri.query().is_some_and(|query| query.starts_with(&wanted))
}

fn parts_of(site: &Site) -> usize {
    site.seen().iter().filter(|seen| seen.target.contains("partNumber")).count()
}

#[tokio::test]
async fn long_sources_are_sent_in_parts() {
    let site = Site::start().await;
    let (bucket, body) = (site.bucket(), pattern(17 * MIB + 3));
    let pieces: Vec<_> =
        body.chunks(700_001).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let sources = [
        Source::from(body.clone()),
        Source::stream(stream::iter(pieces), None),
        Source::reader(std::io::Cursor::new(body.clone()), Some(body.len() as u64)),
    ];
    for (n, source) in sources.into_iter().enumerate() {
        let meter = Meter::default();
        let options = PutOptions { meter: Some(meter.clone()), ..in_parts() };
        let put = bucket.put(&format!("k{n}"), source, options).await.unwrap();
        assert_eq!((put.size, meter.bytes()), (body.len() as u64, body.len() as u64));
        let get = bucket.get(&format!("k{n}"), GetOptions::default()).await.unwrap();
        assert_eq!(get.meta.version.etag, put.version.etag);
        assert!(get.meta.crc64nvme.is_some() && put.version.etag.ends_with("-4"));
        assert_eq!(get.bytes(body.len()).await.unwrap(), body);
    }
    // One part exactly, and a byte more, of unknown length.
    for (len, parts) in [(5 * MIB, true), (5 * MIB + 1, true), (5 * MIB - 1, false)] {
        let source = Source::reader(std::io::Cursor::new(body.slice(..len)), None);
        let put = bucket.put("edge", source, in_parts()).await.unwrap();
        assert_eq!((put.size, put.version.etag.contains('-')), (len as u64, parts));
    }
}

#[tokio::test]
async fn conditions_count_when_the_upload_is_completed() {
    let site = Site::start().await;
    let bucket = site.bucket();
    let fresh = || PutOptions { if_absent: true, ..in_parts() };
    // The answers to the creation, to a part and to the completion are lost.
    site.fail(1, Fault::Lost, is_part(2));
    site.fail(2, Fault::Lost, |parts| parts.method == Method::POST);
    bucket.put("k", pattern(6 * MIB), fresh()).await.unwrap();
    let error = bucket.put("k", pattern(6 * MIB), fresh()).await.unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    // An upload that failed leaves nothing behind.
    let seen = site.seen();
    assert_eq!(seen.last().unwrap().method, Method::DELETE, "{seen:?}");
}

#[tokio::test]
async fn an_upload_goes_on_where_it_was_interrupted() {
    let site = Site::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (path, journal) = (dir.path().join("file"), dir.path().join("state/journal"));
    let mut content = pattern(23 * MIB).to_vec();
    std::fs::write(&path, &content).unwrap();
    let options = || PutOptions { journal: Some(journal.clone()), ..in_parts() };
    let bucket = site.bucket();
    site.fail(1, Fault::Silent, is_part(4));
    let transfer = bucket.upload("k", Source::File(path.clone()), options());
    // The beginning, and every part but the one that is never answered.
    site.answered(5).await;
    transfer.cancel();
    assert!(matches!(transfer.wait().await, Err(Error::Canceled)));
    assert!(journal.exists());
    site.calm();
    let put = bucket.put("k", Source::File(path.clone()), options()).await.unwrap();
    assert_eq!((put.size, parts_of(&site)), (23 * MIB as u64, 1), "{:?}", site.seen());
    assert!(!journal.exists());
    let get = bucket.get("k", GetOptions::default()).await.unwrap();
    assert_eq!(get.bytes(24 * MIB).await.unwrap(), content);
    // A file that changed meanwhile is sent anew, and the old upload ends.
    site.fail(1, Fault::Silent, is_part(4));
    let transfer = bucket.upload("k", Source::File(path.clone()), options());
    while !journal.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    transfer.cancel();
    assert!(transfer.wait().await.is_err());
    content[7] ^= 1;
    content.push(0);
    std::fs::write(&path, &content).unwrap();
    site.calm();
    bucket.put("k", Source::File(path), options()).await.unwrap();
    assert_eq!(parts_of(&site), 5, "{:?}", site.seen());
    let get = bucket.get("k", GetOptions::default()).await.unwrap();
    assert_eq!(get.bytes(24 * MIB).await.unwrap(), content);
}
