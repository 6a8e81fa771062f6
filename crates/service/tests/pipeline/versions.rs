//! Tests of versions: every answer is that of a naive list of versions.

use std::collections::BTreeMap;

use fula_core::{
    bucket::{ListedVersion, ObjectKind, VersionId, Versioning},
    in_memory::MemoryBlocks,
};
use fula_service::{BucketOwner, CopyRequest, CopySourceRequest, Deleted, Invocation, ListRequest};
use proptest::prelude::*;

use super::*;

/// A version in the model. `body` is `None` for a delete marker.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    id: VersionId,
    body: Option<Vec<u8>>,
}

/// What a bucket with versions is, straight from its definition: the versions of each key, newest first.
#[derive(Default)]
struct Model {
    state: Option<Versioning>,
    keys: BTreeMap<String, Vec<Version>>,
}

impl Model {
    /// Adds a version. In a bucket that does not keep versions it takes the place of the null version.
    fn push(&mut self, key: &str, id: VersionId, body: Option<Vec<u8>>) {
        let versions = self.keys.entry(key.to_owned()).or_default();
        if id == VersionId::Null {
            versions.retain(|version| version.id != VersionId::Null);
        }
        versions.insert(0, Version { id, body });
    }

    fn current(&self, key: &str) -> Option<&Vec<u8>> {
        self.keys.get(key)?.first()?.body.as_ref()
    }

    fn lines(&self) -> Vec<(String, VersionId, bool, bool)> {
        let of_key = |(key, versions): (&String, &Vec<Version>)| {
            let line = |(n, version): (usize, &Version)| {
                (key.clone(), version.id, version.body.is_none(), n == 0)
            };
            versions.iter().enumerate().map(line).collect::<Vec<_>>()
        };
        self.keys.iter().flat_map(of_key).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize, u8),
    Delete(usize),
    /// Removes the nth version of a key.
    Remove(usize, usize),
    RemoveNull(usize),
    /// Copies the nth version of a key onto the key.
    Restore(usize, usize),
    Tag(usize, usize),
    Set(bool),
}

const KEYS: [&str; 3] = ["a", "a\0", "b"];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_usize, any::<u8>()).prop_map(|(key, body)| Step::Put(key, body)),
        3 => (0..3_usize).prop_map(Step::Delete),
        4 => (0..3_usize, 0..4_usize).prop_map(|(key, n)| Step::Remove(key, n)),
        1 => (0..3_usize).prop_map(Step::RemoveNull),
        1 => (0..3_usize, 0..4_usize).prop_map(|(key, n)| Step::Restore(key, n)),
        1 => (0..3_usize, 0..4_usize).prop_map(|(key, n)| Step::Tag(key, n)),
        2 => any::<bool>().prop_map(Step::Set),
    ]
}

/// Returns two masters on one arbiter, and a bucket.
async fn two_masters() -> [Master; 2] {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let masters = [Master::new(&blocks, &roots, 1), Master::new(&blocks, &roots, 2)];
    masters[0].create().await;
    masters
}

impl Master {
    async fn body_of(&self, key: &str, id: Option<VersionId>) -> Result<Vec<u8>, ServiceError> {
        let none = ReadConditions::default();
        let found =
            self.service.get_version(&self.user, &bucket(), &object_key(key), id, &none).await?;
        let record = found.record;
        let parts: Vec<Bytes> =
            self.service.read(&self.user, &record, 0..record.size).await?.try_collect().await?;
        Ok(parts.concat())
    }

    async fn remove(
        &self,
        caller: &Caller,
        key: &str,
        version: Option<VersionId>,
    ) -> Result<Deleted, ServiceError> {
        let request = DeleteKey { key: object_key(key), conditions: WriteConditions::default() };
        self.service.delete_version(caller, &bucket(), request, version).await
    }

    async fn set(&self, versioning: Versioning) {
        self.service.set_versioning(&self.user, &bucket(), versioning).await.unwrap();
    }

    /// Returns all versions: key, id, whether it is a marker, whether it is the newest.
    async fn lines(&self) -> Vec<(String, VersionId, bool, bool)> {
        let (mut lines, mut after) = (Vec::new(), None);
        loop {
            let (key, version) = after.unzip();
            let request = ListRequest { after: key, limit: 3, ..ListRequest::default() };
            let page = self.service.list_versions(&self.user, &bucket(), &request, version).await;
            let page = page.unwrap();
            for line in page.lines {
                let ListedVersion::Version { key, record, is_latest } = line else {
                    panic!("there is no delimiter")
                };
                let is_marker = record.kind == ObjectKind::DeleteMarker;
                lines.push((key, record.version_id(), is_marker, is_latest));
            }
            if !page.truncated {
                return lines;
            }
            after = lines.last().map(|(key, id, ..)| (key.clone(), *id));
        }
    }

    async fn apply(&self, model: &mut Model, step: &Step) {
        let nth = |model: &Model, key: usize, n: usize| {
            model.keys.get(KEYS[key]).and_then(|versions| versions.get(n)).cloned()
        };
        match *step {
            Step::Put(key, body) => {
                let key = KEYS[key];
                let record = self.put(key, &[body]).await.unwrap();
                assert_eq!(record.is_versioned, model.state == Some(Versioning::Enabled));
                model.push(key, record.version_id(), Some(vec![body]));
            }
            Step::Delete(key) => {
                let key = KEYS[key];
                match self.remove(&self.user, key, None).await.unwrap() {
                    Deleted::MadeMarker(id) => {
                        assert!(model.state.is_some());
                        model.push(key, id, None);
                    }
                    other => {
                        assert_eq!((other, model.state), (Deleted::Plain, None));
                        model.keys.remove(key);
                    }
                }
            }
            Step::Remove(key, n) => {
                let Some(version) = nth(model, key, n) else { return };
                self.remove_one(model, KEYS[key], version).await;
            }
            Step::RemoveNull(key) => {
                let absent = Version { id: VersionId::Null, body: Some(Vec::new()) };
                let versions = model.keys.get(KEYS[key]).cloned().unwrap_or_default();
                let found = versions.into_iter().find(|version| version.id == VersionId::Null);
                self.remove_one(model, KEYS[key], found.unwrap_or(absent)).await;
            }
            Step::Restore(key, n) => {
                let Some(version) = nth(model, key, n).filter(|version| version.body.is_some())
                else {
                    return;
                };
                let source = CopySourceRequest {
                    owner: BucketOwner::default(),
                    bucket: bucket(),
                    key: object_key(KEYS[key]),
                    version: Some(version.id),
                    conditions: ReadConditions::default(),
                };
                let copy = CopyRequest {
                    source,
                    key: object_key(KEYS[key]),
                    replace: None,
                    tags: None,
                    acl: None,
                    checksum: None,
                    encrypt: false,
                    conditions: WriteConditions::default(),
                };
                let copied = self.service.copy_object(&self.user, &bucket(), copy).await.unwrap();
                model.push(KEYS[key], copied.version_id(), version.body);
            }
            Step::Tag(key, n) => {
                let Some(version) = nth(model, key, n) else { return };
                let tags = [("t".to_owned(), "1".to_owned())].into();
                let key = object_key(KEYS[key]);
                let (name, id) = (bucket(), Some(version.id));
                let tagged = self.service.tag_object(&self.user, &name, key, id, tags).await;
                assert_eq!(tagged.is_ok(), version.body.is_some());
            }
            Step::Set(is_enabled) => {
                let versioning =
                    if is_enabled { Versioning::Enabled } else { Versioning::Suspended };
                self.set(versioning).await;
                model.state = Some(versioning);
            }
        }
    }

    async fn remove_one(&self, model: &mut Model, key: &str, version: Version) {
        let removed = self.remove(&self.user, key, Some(version.id)).await.unwrap();
        let is_marker = version.body.is_none();
        assert_eq!(removed, if is_marker { Deleted::RemovedMarker } else { Deleted::Plain });
        if let Some(versions) = model.keys.get_mut(key) {
            versions.retain(|other| other.id != version.id);
            if versions.is_empty() {
                model.keys.remove(key);
            }
        }
    }

    async fn agrees(&self, model: &Model) {
        assert_eq!(self.lines().await, model.lines());
        for key in KEYS {
            let current = model.current(key);
            match self.body_of(key, None).await {
                Ok(body) => assert_eq!(Some(&body), current),
                Err(ServiceError::NoSuchKey) => assert!(!model.keys.contains_key(key)),
                Err(ServiceError::DeleteMarker { id, is_named: false, .. }) => {
                    let newest = &model.keys[key][0];
                    assert_eq!((id, &newest.body), (newest.id, &None));
                }
                Err(error) => panic!("{error}"),
            }
            let versions = model.keys.get(key).cloned().unwrap_or_default();
            for version in &versions {
                match self.body_of(key, Some(version.id)).await {
                    Ok(body) => assert_eq!(Some(body), version.body),
                    Err(ServiceError::DeleteMarker { is_named: true, .. }) => {
                        assert_eq!(version.body, None);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            if versions.iter().all(|version| version.id != VersionId::Null) {
                let absent = self.body_of(key, Some(VersionId::Null)).await;
                assert!(matches!(absent, Err(ServiceError::NoSuchVersion)), "{absent:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn versions_agree_with_a_naive_list(steps in prop::collection::vec((any::<bool>(), step()), 1..40)) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let masters = two_masters().await;
            let mut model = Model::default();
            for (second, step) in &steps {
                masters[usize::from(*second)].apply(&mut model, step).await;
                masters[usize::from(!*second)].agrees(&model).await;
            }
        });
    }
}

#[tokio::test]
async fn a_bucket_with_versions_is_not_empty() {
    let [one, _] = two_masters().await;
    one.set(Versioning::Enabled).await;
    let record = one.put("k", b"x").await.unwrap();
    let Deleted::MadeMarker(marker) = one.remove(&one.user, "k", None).await.unwrap() else {
        panic!("no marker was made")
    };
    for id in [record.version_id(), marker] {
        let refused = one.service.delete_bucket(&one.user, &bucket()).await;
        assert!(matches!(refused, Err(ServiceError::BucketNotEmpty)), "{refused:?}");
        one.remove(&one.user, "k", Some(id)).await.unwrap();
    }
    one.service.delete_bucket(&one.user, &bucket()).await.unwrap();
    // A new life of the name has its own setting.
    one.create().await;
    assert_eq!(one.service.versioning(&one.user, &bucket()).await.unwrap(), None);
}

#[tokio::test]
async fn a_retried_deletion_makes_one_marker() {
    let [one, two] = two_masters().await;
    one.set(Versioning::Enabled).await;
    let attempt = |master: &Master, id: &str, number| Caller {
        invocation: Invocation::new(id, number),
        ..master.user.clone()
    };
    let body = |text: &'static [u8]| -> BodyStream {
        Box::pin(futures::stream::iter([Ok(Bytes::from_static(text))]))
    };
    let put = async |master: &Master, id, number, text| {
        let conditions = WriteConditions::default();
        master.put_as(&attempt(master, id, number), "k", body(text), conditions).await.unwrap()
    };
    let first = put(&one, "p", 1, b"x").await;
    let second = put(&one, "q", 1, b"y").await;
    assert_eq!(put(&two, "p", 2, b"x").await.version_id(), first.version_id());
    let made = one.remove(&attempt(&one, "d", 1), "k", None).await.unwrap();
    assert!(matches!(made, Deleted::MadeMarker(_)), "{made:?}");
    assert_eq!(two.remove(&attempt(&two, "d", 2), "k", None).await.unwrap(), made);
    let Deleted::MadeMarker(marker) = made else { return };
    let key = |version| {
        (DeleteKey { key: object_key("k"), conditions: WriteConditions::default() }, version)
    };
    let many = async |master: &Master, number| {
        let keys = vec![key(Some(marker)), key(None), key(Some(first.version_id()))];
        let (caller, name) = (attempt(master, "m", number), bucket());
        let deleted = master.service.delete_versions(&caller, &name, keys).await.unwrap();
        deleted.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    };
    let outcomes = many(&one, 1).await;
    assert_eq!((outcomes[0], outcomes[2]), (Deleted::RemovedMarker, Deleted::Plain));
    assert_eq!(many(&two, 2).await, outcomes);
    let Deleted::MadeMarker(newest) = outcomes[1] else { panic!("no marker: {outcomes:?}") };
    let expected =
        [("k".to_owned(), newest, true, true), ("k".to_owned(), second.version_id(), false, false)];
    assert_eq!(two.lines().await, expected);
}
