//! Many small files in few requests, and following what others change.

use std::time::Duration;

use fula_client::{
    Error, Source,
    vault::{Condition, SmallFile, Vault, VaultChange},
};
use http::{Method, request::Parts};

use super::{site::*, vaults::*};

fn small(at: &str, content: &str, condition: Condition) -> SmallFile {
    SmallFile {
        path: path(at),
        source: Source::from(content.to_owned()),
        modified: Some(7),
        entries: std::collections::BTreeMap::new(),
        condition,
    }
}

#[tokio::test]
async fn small_files_share_a_request_and_each_counts_for_itself() {
    let (home, one) = Home::new().await;
    let two = home.open(2).await.unwrap();
    let etag = put(&two, "there", "old").await;
    let mut files: Vec<_> = (0..300)
        .map(|n| small(&format!("dir/{n}"), &format!("content {n}"), Condition::Absent))
        .collect();
    files.push(small("there", "x", Condition::Absent));
    files.push(small("no condition", "x", Condition::None));
    // The answer is lost, and the request is sent again.
    home.site.fail(1, Fault::Lost, |parts| parts.method == Method::POST);
    let results = one.put_small(files, None).await.unwrap();
    assert!(results[..300].iter().all(Result::is_ok), "{results:?}");
    assert!(matches!(results[300], Err(Error::Exists { .. })), "{:?}", results[300]);
    assert!(matches!(results[301], Err(Error::Invalid(_))));
    assert_eq!(home.site.seen().len(), 2, "one request, sent twice");
    assert_eq!(read(&two, "dir/299").await.unwrap(), "content 299");
    assert_eq!(two.head(&path("dir/0")).await.unwrap().modified, Some(7));

    let again = |condition| vec![small("there", "new", condition)];
    let changed = one.put_small(again(Condition::Version("other".to_owned())), None).await.unwrap();
    assert!(matches!(changed[0], Err(Error::Changed { .. })), "{changed:?}");
    one.list(b"").await.unwrap();
    let done = one.put_small(again(Condition::Version(etag)), None).await.unwrap();
    assert!(done[0].is_ok(), "{done:?}");
    assert_eq!(read(&two, "there").await.unwrap(), "new");
    let long = vec![small("long", &"x".repeat(1_000_000), Condition::Absent)];
    assert!(matches!(one.put_small(long, None).await.unwrap()[0], Err(Error::Invalid(_))));
    assert!(one.put_small(Vec::new(), None).await.unwrap().is_empty());
}

#[tokio::test]
async fn many_files_are_deleted_with_one_request_and_each_counts_for_itself() {
    let (home, one) = Home::new().await;
    let two = home.open(2).await.unwrap();
    let files = (0..300).map(|n| small(&format!("dir/{n}"), "content", Condition::Absent));
    one.put_small(files.collect(), None).await.unwrap();
    put(&one, "kept", "kept").await;
    let listed = one.list(b"dir/").await.unwrap().entries;
    let listed: Vec<_> = listed.into_iter().map(|entry| (entry.path, entry.etag)).collect();
    // Another device writes one of them and deletes another one.
    let at = |name: &str| listed.iter().position(|(file, _)| *file == path(name)).unwrap();
    put(&two, "dir/7", "newer").await;
    two.delete(&path("dir/8"), Condition::None).await.unwrap();
    home.site.fail(1, Fault::Lost, |parts| parts.method == Method::POST);
    let results = one.delete_many(&listed).await.unwrap();
    assert_eq!(home.site.seen().len(), 2, "one request, sent twice");
    for (n, result) in results.iter().enumerate() {
        let is_changed = n == at("dir/7") || n == at("dir/8");
        assert_eq!(matches!(result, Err(Error::Changed { .. })), is_changed, "{n}: {result:?}");
        assert_eq!(result.is_ok(), !is_changed, "{n}: {result:?}");
    }
    let left = one.list(b"").await.unwrap().entries;
    let left: Vec<_> = left.iter().map(|entry| entry.path.clone()).collect();
    assert_eq!(left, [path("dir/7"), path("kept")]);
    let many = vec![listed[0].clone(); 1001];
    assert!(matches!(one.delete_many(&many).await, Err(Error::Invalid(_))));
    assert!(one.delete_many(&[]).await.unwrap().is_empty());
}

/// Answers of servers other than Fula to a commit. Amazon answers a POST that is no form with 412.
const REFUSALS: [&[(&str, u16)]; 4] = [
    &[("fula-commit", 400)],
    &[("fula-commit", 405)],
    &[("fula-commit", 412)],
    &[("fula-commit", 501)],
];

/// Makes a vault on a server that answers requests with these queries with a status.
async fn on_another_server(refused: &'static [(&'static str, u16)]) -> (Home, Vault) {
    let site = Site::start_with(move |parts, _| match refused.iter().find(is_of(parts)) {
        Some((_, status)) => {
            let text = "<Error><Code>Refused</Code><Message>it is no Fula</Message></Error>";
            Reply::Answer(http::Response::builder().status(*status).body(text.into()).unwrap())
        }
        None => Reply::Pass,
    });
    Home::at(site.await).await
}

/// Deletes 40 files, of which another device has changed two, on such a server. Returns the requests that it got.
async fn delete_on_another_server(refused: &'static [(&'static str, u16)]) -> Vec<Seen> {
    let (home, one) = on_another_server(refused).await;
    let two = home.open(2).await.unwrap();
    for n in 0..40 {
        put(&one, &format!("dir/{n}"), "content").await;
    }
    let listed = one.list(b"dir/").await.unwrap().entries;
    let listed: Vec<_> = listed.into_iter().map(|entry| (entry.path, entry.etag)).collect();
    put(&two, "dir/7", "newer").await;
    two.delete(&path("dir/8"), Condition::None).await.unwrap();
    home.site.calm();
    let results = one.delete_many(&listed).await.unwrap();
    let seen = home.site.seen();
    for ((file, _), result) in listed.iter().zip(&results) {
        match result {
            Err(Error::Changed { what, .. }) => {
                assert!([path("dir/7"), path("dir/8")].contains(file), "{what}");
            }
            result => assert!(result.is_ok(), "{result:?}"),
        }
    }
    assert_eq!(results.iter().filter(|result| result.is_err()).count(), 2);
    let left = one.list(b"").await.unwrap().entries;
    assert_eq!(left.iter().map(|entry| &entry.path).collect::<Vec<_>>(), [&path("dir/7")]);
    assert_eq!(read(&one, "dir/7").await.unwrap(), "newer");
    seen
}

fn is_of(parts: &Parts) -> impl FnMut(&&(&'static str, u16)) -> bool {
    let query = parts.uri.query().unwrap_or_default().to_owned();
    move |(name, _)| query.starts_with(name)
}

#[tokio::test]
async fn other_servers_delete_many_files_with_one_request_of_s3() {
    for refused in REFUSALS {
        let seen = delete_on_another_server(refused).await;
        assert!(seen.len() == 2 && seen[1].target.contains("?delete"), "{refused:?}: {seen:?}");
    }
    let seen = delete_on_another_server(&[("fula-commit", 501), ("delete", 501)]).await;
    let alone = seen.iter().filter(|seen| seen.method == Method::DELETE).count();
    assert_eq!((alone, seen.len()), (40, 42), "{seen:?}");
}

#[tokio::test]
async fn other_servers_rename_files_one_by_one() {
    for refused in REFUSALS {
        let (home, one) = on_another_server(refused).await;
        for n in 0..3 {
            put(&one, &format!("dir/{n}"), "content").await;
        }
        home.site.calm();
        assert_eq!(one.rename_all(b"dir/", b"new/").await.unwrap(), 3, "{refused:?}");
        let count = |method| home.site.seen().iter().filter(|seen| seen.method == method).count();
        assert_eq!((count(Method::PUT), count(Method::DELETE)), (3, 3), "{refused:?}");
        let left = one.list(b"").await.unwrap().entries;
        let left: Vec<_> = left.into_iter().map(|entry| entry.path).collect();
        assert_eq!(left, [path("new/0"), path("new/1"), path("new/2")]);
        // There, too, none is replaced.
        let taken = one.rename(&path("new/0"), &path("new/1")).await;
        assert!(matches!(taken, Err(Error::Exists { .. })), "{refused:?}: {taken:?}");
    }
}

#[tokio::test]
async fn a_rename_that_a_fula_gateway_refuses_moves_no_file() {
    let (home, one) = Home::new().await;
    for n in 0..3 {
        put(&one, &format!("dir/{n}"), "content").await;
    }
    put(&one, "new/2", "there").await;
    home.site.calm();
    let taken = one.rename_all(b"dir/", b"new/").await;
    assert!(matches!(taken, Err(Error::Exists { .. } | Error::Changed { .. })), "{taken:?}");
    let seen = home.site.seen();
    assert!(seen.iter().all(|seen| seen.method != Method::PUT && seen.method != Method::DELETE));
    assert_eq!(one.list(b"").await.unwrap().entries.len(), 4);
}

#[tokio::test]
async fn changes_of_other_devices_are_followed() {
    let (home, one) = Home::new().await;
    let two = home.open(2).await.unwrap();
    put(&two, "a", "1").await;
    let mut follower = one.follow().await.unwrap();
    assert_eq!(follower.entries().count(), 1);
    assert!(follower.next(Duration::ZERO).await.unwrap().is_empty());
    // It waits for the write, and sees files of an epoch that it does not know.
    let (changes, ()) = tokio::join!(follower.next(Duration::from_secs(30)), async {
        two.change_keyring(|draft, entropy| draft.begin_epoch(entropy)).await.unwrap();
    });
    changes.unwrap();
    put(&two, "b", "2").await;
    two.rename(&path("a"), &path("c")).await.unwrap();
    let (mut written, mut removed) = (Vec::new(), Vec::new());
    while removed.is_empty() {
        for change in follower.next(Duration::from_secs(30)).await.unwrap() {
            match change {
                VaultChange::Written(entry) => written.push(entry.path),
                VaultChange::Removed(path) => removed.push(path),
                VaultChange::Refused(key, error) => panic!("{key}: {error}"),
            }
        }
    }
    written.sort();
    written.dedup();
    assert_eq!((written, removed), (vec![path("b"), path("c")], vec![path("a")]));
    assert_eq!(follower.entries().count(), 2);
    let key = home.keys().await.pop().unwrap();
    home.site.bucket().put(&key, "nonsense", fula_client::PutOptions::default()).await.unwrap();
    let changes = follower.next(Duration::from_secs(30)).await.unwrap();
    assert!(matches!(&changes[..], [VaultChange::Refused(refused, _)] if *refused == key));
}
