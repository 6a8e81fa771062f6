//! Tests of lifecycle rules: what ends, in small commits, and never what was changed meanwhile.

use fula_core::{
    bucket::{ObjectKind, TextMap, VersionId, Versioning},
    in_memory::MemoryBlocks,
};
use fula_service::{
    CreateUploadRequest, Expiration, Filter, Lifecycle, LifecycleCursor, ListRequest,
    ListUploadsRequest, Noncurrent, Rule,
};

use super::*;
use crate::faults::Fault;

const DAY: u64 = 86_400_000;

fn rule(expiration: Option<Expiration>) -> Rule {
    Rule { id: "r".to_owned(), enabled: true, expiration, ..Rule::default() }
}

/// A master with an arbiter whose clock the test sets.
async fn world() -> (Arc<FaultyRoots>, [Master; 2]) {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let masters = [Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2)];
    roots.set_time(DAY);
    masters[0].create().await;
    (roots, masters)
}

/// Sets the clock of the arbiter, and lets both masters read it.
async fn set_time(roots: &FaultyRoots, masters: [&Master; 2], time: u64) {
    roots.set_time(time);
    for master in masters {
        master.version().await;
    }
}

impl Master {
    async fn set_rules(&self, rules: Vec<Rule>) {
        let lifecycle = Lifecycle { rules };
        self.service.set_lifecycle(&self.user, &bucket(), Some(&lifecycle)).await.unwrap();
    }

    /// Applies all rules of the bucket. Returns the number of pages with something that ended, and of what
    /// has ended.
    async fn work_off(&self) -> (usize, u64) {
        let (mut pages, mut ended) = (0, 0);
        let mut place = Some(LifecycleCursor::default());
        while let Some(from) = place {
            let page = self.service.expire_page(&self.address(), from).await.unwrap();
            pages += usize::from(page.ended > 0);
            ended += page.ended;
            place = page.next;
        }
        (pages, ended)
    }

    async fn keys(&self) -> Vec<String> {
        let request = ListRequest { limit: 1000, ..ListRequest::default() };
        let page = self.service.list_objects(&self.user, &bucket(), &request).await.unwrap();
        let key = |line: fula_service::ListingLine| match line {
            fula_service::ListingLine::Object(key, _) => key,
            fula_service::ListingLine::Prefix(prefix) => prefix,
        };
        page.lines.into_iter().map(key).collect()
    }

    /// Returns all versions: key, id, whether it is a marker.
    async fn versions(&self) -> Vec<(String, VersionId, bool)> {
        let request = ListRequest { limit: 1000, ..ListRequest::default() };
        let page = self.service.list_versions(&self.user, &bucket(), &request, None).await.unwrap();
        let line = |line| match line {
            fula_core::bucket::ListedVersion::Version { key, record, .. } => {
                Some((key, record.version_id(), record.kind == ObjectKind::DeleteMarker))
            }
            fula_core::bucket::ListedVersion::Prefix(_) => None,
        };
        page.lines.into_iter().filter_map(line).collect()
    }
}

#[tokio::test]
async fn objects_end_at_the_midnight_after_their_days() {
    let (roots, [one, two]) = world().await;
    set_time(&roots, [&one, &two], DAY + 5).await;
    one.put("in/old", b"x").await.unwrap();
    one.put("out", b"x").await.unwrap();
    set_time(&roots, [&one, &two], 2 * DAY + 5).await;
    one.put("in/new", b"x").await.unwrap();
    let filter = Filter { prefix: Some("in/".to_owned()), ..Filter::default() };
    one.set_rules(vec![Rule { filter, ..rule(Some(Expiration::Days(1))) }]).await;
    set_time(&roots, [&one, &two], 3 * DAY - 1).await;
    assert_eq!(two.work_off().await, (0, 0));
    set_time(&roots, [&one, &two], 3 * DAY).await;
    assert_eq!(two.work_off().await, (1, 1));
    assert_eq!(one.keys().await, ["in/new", "out"]);
    let (none, name) = (ReadConditions::default(), bucket());
    let found = one.service.get_object(&one.user, &name, &object_key("in/new"), &none).await;
    let end = found.unwrap().end.unwrap();
    assert_eq!((end.time, end.rule.as_str()), (4 * DAY, "r"));
    // A rule that is removed ends nothing.
    one.service.set_lifecycle(&one.user, &bucket(), None).await.unwrap();
    set_time(&roots, [&one, &two], 30 * DAY).await;
    assert_eq!(two.work_off().await, (0, 0));
}

#[tokio::test]
async fn a_bucket_is_worked_off_in_small_commits() {
    let (roots, [one, two]) = world().await;
    for n in 0..1200 {
        one.put(&format!("k{n:04}"), b"x").await.unwrap();
    }
    one.set_rules(vec![rule(Some(Expiration::Date(DAY)))]).await;
    set_time(&roots, [&one, &two], 2 * DAY).await;
    let before = one.version().await;
    // Another master goes on where the first one stopped.
    let page = one.service.expire_page(&one.address(), LifecycleCursor::default()).await.unwrap();
    assert_eq!(page.ended, 500);
    let text = serde_json::to_string(&page.next).unwrap();
    let mut place: Option<LifecycleCursor> = serde_json::from_str(&text).unwrap();
    let mut ended = page.ended;
    while let Some(from) = place {
        let page = two.service.expire_page(&one.address(), from).await.unwrap();
        ended += page.ended;
        place = page.next;
    }
    assert_eq!((ended, one.version().await), (1200, before + 3));
    assert!(one.keys().await.is_empty());
}

#[tokio::test]
async fn versions_and_markers_end_as_on_aws() {
    let (roots, [one, two]) = world().await;
    one.service.set_versioning(&one.user, &bucket(), Versioning::Enabled).await.unwrap();
    for n in 0..4_u64 {
        set_time(&roots, [&one, &two], DAY * (n + 1)).await;
        one.put("k", &[u8::try_from(n).unwrap()]).await.unwrap();
    }
    one.put("gone", b"x").await.unwrap();
    let noncurrent = Some(Noncurrent { days: 1, keep: 1 });
    one.set_rules(vec![
        Rule { noncurrent, ..rule(Some(Expiration::Days(10))) },
        Rule { id: "markers".to_owned(), ..rule(Some(Expiration::Markers(true))) },
    ])
    .await;
    let before = one.versions().await;
    assert_eq!(before.len(), 5);
    // Each version was replaced a day before the next one. The newest of those that were replaced is kept.
    assert_eq!(two.work_off().await.1, 2);
    set_time(&roots, [&one, &two], DAY * 6).await;
    assert_eq!(two.work_off().await.1, 0);
    let left = one.versions().await;
    assert_eq!(left, [before[0].clone(), before[1].clone(), before[2].clone()]);
    // The current objects end: markers take their place. Then the versions end, and at last the markers.
    set_time(&roots, [&one, &two], DAY * 14).await;
    assert_eq!(two.work_off().await.1, 2);
    assert!(one.keys().await.is_empty());
    let markers = one.versions().await.iter().filter(|(.., is_marker)| *is_marker).count();
    assert_eq!(markers, 2);
    one.set_rules(vec![
        Rule { noncurrent: Some(Noncurrent { days: 1, keep: 0 }), ..rule(None) },
        Rule { id: "markers".to_owned(), ..rule(Some(Expiration::Markers(true))) },
    ])
    .await;
    set_time(&roots, [&one, &two], DAY * 20).await;
    assert_eq!(two.work_off().await.1, 3);
    assert_eq!(two.work_off().await.1, 2);
    assert!(one.versions().await.is_empty());
    one.service.delete_bucket(&one.user, &bucket()).await.unwrap();
}

#[tokio::test]
async fn what_was_changed_meanwhile_does_not_end() {
    let (roots, [one, two]) = world().await;
    let tag = |value: &str| TextMap::from([("t".to_owned(), value.to_owned())]);
    for key in ["a", "b", "c"] {
        one.put(key, b"x").await.unwrap();
        let (user, name) = (&one.user, bucket());
        one.service.tag_object(user, &name, object_key(key), None, tag("old")).await.unwrap();
    }
    let filter = Filter { tags: tag("old"), ..Filter::default() };
    one.set_rules(vec![Rule { filter, ..rule(Some(Expiration::Date(DAY))) }]).await;
    set_time(&roots, [&one, &two], 2 * DAY).await;
    // Before the swap of the page, another master changes two of the three.
    roots.plan([Fault::Held]);
    let work = async {
        let (address, from) = (one.address(), LifecycleCursor::default());
        one.service.expire_page(&address, from).await.unwrap()
    };
    let change = async {
        roots.held.notified().await;
        two.put("a", b"new").await.unwrap();
        let (user, name) = (&two.user, bucket());
        two.service.tag_object(user, &name, object_key("b"), None, tag("new")).await.unwrap();
        roots.go_on.notify_one();
    };
    tokio::join!(work, change);
    assert_eq!(one.keys().await, ["a", "b"]);
    assert_eq!(one.get("a").await.unwrap(), b"new");
}

#[tokio::test]
async fn uploads_in_progress_end() {
    let (roots, [one, two]) = world().await;
    let begin = async |key: &str| {
        let facts = ObjectFacts::default();
        let request = CreateUploadRequest { key: object_key(key), facts, checksum: None };
        one.service.create_upload(&one.user, &bucket(), request).await.unwrap()
    };
    for n in 0..40 {
        begin(&format!("in/{n:02}")).await;
    }
    begin("out").await;
    let filter = Filter { prefix: Some("in/".to_owned()), ..Filter::default() };
    one.set_rules(vec![Rule { filter, abort_days: Some(2), ..rule(None) }]).await;
    set_time(&roots, [&one, &two], 3 * DAY - 1).await;
    assert_eq!(two.work_off().await, (0, 0));
    // Clocks of masters go on from the time that was set, so the last upload began later than the first one.
    set_time(&roots, [&one, &two], 3 * DAY + DAY / 24).await;
    assert_eq!(two.work_off().await, (3, 40));
    let request = ListUploadsRequest { limit: 100, ..ListUploadsRequest::default() };
    let left = one.service.list_uploads(&one.user, &bucket(), &request).await.unwrap();
    assert_eq!(left.lines.len(), 1);
}
