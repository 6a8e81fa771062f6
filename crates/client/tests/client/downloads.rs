//! Downloads into files.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use bytes::Bytes;
use fula_client::{Client, DownloadOptions, Error, MTIME, Meter, PutOptions};
use http::Response;

use super::site::*;

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_file_appears_as_a_whole_with_its_time() {
    let site = Site::start().await;
    let (bucket, dir) = (site.bucket(), tempfile::tempdir().unwrap());
    let metadata = BTreeMap::from([(MTIME.to_owned(), "1700000000.25".to_owned())]);
    let put = PutOptions { metadata, ..PutOptions::default() };
    let body = pattern(300_000);
    bucket.put("a/k", body.clone(), put).await.unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "old").unwrap();
    let meter = Meter::default();
    let options = DownloadOptions { meter: Some(meter.clone()), ..DownloadOptions::default() };
    bucket.download("a/k", &path, options).await.unwrap();
    assert_eq!((fs::read(&path).unwrap(), meter.bytes()), (body.to_vec(), 300_000));
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(since, Duration::from_millis(1_700_000_000_250));
    assert_eq!(files(dir.path()), ["file"]);
    bucket.put("empty", "", PutOptions::default()).await.unwrap();
    bucket.download("empty", &dir.path().join("empty"), DownloadOptions::default()).await.unwrap();
    assert_eq!(fs::read(dir.path().join("empty")).unwrap(), b"");
}

/// What arrived stays in a part, and the next call reads only the rest.
#[tokio::test]
async fn a_download_goes_on_where_it_was_interrupted() {
    let site = Site::start().await;
    let (bucket, dir) = (site.bucket(), tempfile::tempdir().unwrap());
    let (path, body) = (dir.path().join("file"), pattern(1 << 20));
    bucket.put("k", body.clone(), PutOptions::default()).await.unwrap();
    fs::write(&path, "old").unwrap();
    site.fail(1, Fault::Cut(700_000), is_get);
    site.fail(7, Fault::Busy(0), |parts| parts.headers.contains_key("range"));
    let error = bucket.download("k", &path, DownloadOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    // The old file is untouched, and the part stands beside it.
    let names = files(dir.path());
    assert_eq!((fs::read(&path).unwrap(), names.len()), (b"old".to_vec(), 2), "{names:?}");
    site.calm();
    bucket.download("k", &path, DownloadOptions::default()).await.unwrap();
    assert_eq!(
        (fs::read(&path).unwrap(), files(dir.path())),
        (body.to_vec(), vec!["file".to_owned()])
    );
    assert_eq!(site.seen().last().unwrap().range, "bytes=700000-");
    // A part whose bytes are wrong is found, and goes.
    site.fail(1, Fault::Cut(700_000), is_get);
    site.fail(7, Fault::Busy(0), |parts| parts.headers.contains_key("range"));
    bucket.download("k", &path, DownloadOptions::default()).await.unwrap_err();
    let part = files(dir.path()).into_iter().find(|name| name != "file").unwrap();
    let mut bytes = fs::read(dir.path().join(&part)).unwrap();
    bytes[5] ^= 1;
    fs::write(dir.path().join(&part), bytes).unwrap();
    let error = bucket.download("k", &path, DownloadOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert_eq!(files(dir.path()), ["file"]);
    bucket.download("k", &path, DownloadOptions::default()).await.unwrap();
    // An object that was overwritten is read anew, beside the part of the old one.
    bucket.put("k", "short", PutOptions::default()).await.unwrap();
    bucket.download("k", &path, DownloadOptions::default()).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"short");
}

/// A server may answer with a part of the object that nobody asked for. Without a checksum, only the length tells.
#[tokio::test]
async fn a_part_of_an_object_does_not_take_the_place_of_a_file() {
    let url = serve(|_, _| {
        let answer = Response::builder().status(206).header("content-range", "bytes 0-9/20");
        let answer = answer.header("etag", "\"e\"").body(Bytes::from_static(b"0123456789"));
        Reply::Answer(answer.unwrap())
    })
    .await;
    let bucket = Client::builder().endpoint(url).build().unwrap().bucket("bucket").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "old").unwrap();
    let error = bucket.download("k", &path, DownloadOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert_eq!(
        (fs::read(&path).unwrap(), files(dir.path())),
        (b"old".to_vec(), vec!["file".to_owned()])
    );
}
