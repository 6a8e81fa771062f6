//! Sealed vaults on a gateway: several devices, lost answers, hostile servers, and what lies on the disk.

use std::{collections::BTreeMap, path::Path};

use fula_client::{
    Bucket, CopyOptions, Error, GetOptions, PutOptions, Source,
    vault::{Condition, CreateOptions, Place, Unlock, Vault, VaultGetOptions, VaultPutOptions},
};
use fula_seal::{
    Padding, SealError, VaultPath,
    key::Secret,
    keyring::{Founder, Role},
    slot::{Identity, PassphraseCost, SlotKind},
};

use super::site::*;

pub(crate) fn path(text: &str) -> VaultPath {
    VaultPath::new(text.as_bytes()).unwrap()
}

pub(crate) fn identity(seed: u8) -> Identity {
    Identity::from_seed(Secret::new([seed; 32]))
}

pub(crate) fn place(bucket: &Bucket) -> Place {
    Place::new(bucket.clone(), "vault").unwrap()
}

/// A site with a vault, whose admins are the devices 1 and 2. Each has a directory for its state.
pub(crate) struct Home {
    pub(crate) site: Site,
    pub(crate) directory: tempfile::TempDir,
}

impl Home {
    pub(crate) async fn new() -> (Self, Vault) {
        Self::at(Site::start().await).await
    }

    pub(crate) async fn at(site: Site) -> (Self, Vault) {
        let directory = tempfile::tempdir().unwrap();
        let devices = [identity(1), identity(2)];
        let founder =
            |at: usize, label| Founder { identity: &devices[at], kind: SlotKind::Device, label };
        let founders = [founder(0, "laptop"), founder(1, "phone")];
        let state = directory.path().join("1");
        let options = CreateOptions { padding: Padding::Padme, vault: None };
        let vault = Vault::create(place(&site.bucket()), options, &founders, &state);
        let vault = vault.await.unwrap();
        (Self { site, directory }, vault)
    }

    pub(crate) async fn open(&self, device: u8) -> Result<Vault, Error> {
        let unlock = Unlock::Identity(identity(device));
        let state = self.directory.path().join(device.to_string());
        Vault::open(place(&self.site.bucket()), unlock, None, &state).await
    }

    /// Returns the keys of all files of the vault.
    pub(crate) async fn keys(&self) -> Vec<String> {
        use futures::TryStreamExt;
        let listing = self.site.bucket().list("vault/", fula_client::ListOptions::default());
        let entries: Vec<_> = listing.try_collect().await.unwrap();
        let keys = entries.iter().map(|entry| entry.name().to_owned());
        keys.filter(|key| !key.ends_with("fula.vault")).collect()
    }
}

pub(crate) async fn put(vault: &Vault, at: &str, content: &str) -> String {
    let path = path(at);
    let put = vault.put(&path, content.to_owned(), VaultPutOptions::default());
    put.await.unwrap().etag
}

pub(crate) async fn read(vault: &Vault, at: &str) -> Result<String, Error> {
    let get = vault.get(&path(at), VaultGetOptions::default()).await?;
    Ok(String::from_utf8(get.bytes(1 << 20).await?.to_vec()).unwrap())
}

pub(crate) fn sealed(error: Error) -> SealError {
    match error {
        Error::Sealed(error) => error,
        other => panic!("{other}"),
    }
}

/// Returns everything below a directory.
fn everything(directory: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        all.extend(path.to_str().unwrap().as_bytes());
        if path.is_dir() {
            all.extend(everything(&path));
        } else {
            all.extend(std::fs::read(&path).unwrap());
        }
    }
    all
}

#[tokio::test]
async fn two_devices_read_what_each_of_them_wrote() {
    let (home, one) = Home::new().await;
    let two = home.open(2).await.unwrap();
    put(&one, "docs/plan.txt", "attack at dawn").await;
    assert_eq!(read(&two, "docs/plan.txt").await.unwrap(), "attack at dawn");
    put(&two, "docs/plan.txt", "attack at dusk").await;
    put(&two, "empty", "").await;
    assert_eq!(read(&one, "docs/plan.txt").await.unwrap(), "attack at dusk");
    assert_eq!(read(&one, "empty").await.unwrap(), "");
    let listing = one.list(b"").await.unwrap();
    let paths: Vec<_> = listing.entries.iter().map(|entry| entry.path.as_bytes()).collect();
    assert_eq!(paths, [b"docs/plan.txt".as_slice(), b"empty"]);
    assert_eq!(listing.entries[0].size, 14);
    assert!(listing.refused.is_empty());
    assert_eq!(one.list(b"docs/").await.unwrap().entries.len(), 1);
    one.delete(&path("empty"), Condition::None).await.unwrap();
    assert!(matches!(read(&two, "empty").await, Err(Error::NotFound { .. })));
    assert!(home.keys().await.iter().all(|key| key.len() == "vault/".len() + 32));
    // A file that one device deleted and the other one writes again is newer for both.
    put(&two, "empty", "again").await;
    assert_eq!(read(&one, "empty").await.unwrap(), "again");
}

#[tokio::test]
async fn conditions_hold_and_a_lost_answer_is_no_conflict() {
    let (home, one) = Home::new().await;
    let two = home.open(2).await.unwrap();
    let with = |condition| VaultPutOptions { condition, ..VaultPutOptions::default() };
    let file = path("counter");
    let first = one.put(&file, "0", with(Condition::Absent)).await.unwrap();
    assert!(matches!(
        two.put(&file, "x", with(Condition::Absent)).await,
        Err(Error::Exists { .. })
    ));
    let mut etag = first.etag.clone();
    for round in 0..20 {
        let vault = if round % 2 == 0 { &one } else { &two };
        home.site.fail(1, Fault::Lost, is_put);
        let condition = with(Condition::Version(etag.clone()));
        etag = vault.put(&file, round.to_string(), condition).await.unwrap().etag;
    }
    let stale = one.put(&file, "x", with(Condition::Version(first.etag))).await;
    assert!(matches!(stale, Err(Error::Changed { .. })), "{stale:?}");
    assert_eq!(read(&one, "counter").await.unwrap(), "19");
    // Writes without a condition that collide are all carried out.
    let writes = [&one, &two].map(|vault| async move {
        for round in 0..10 {
            put(vault, "both", &round.to_string()).await;
        }
    });
    futures::future::join_all(writes).await;
    assert_eq!(read(&one, "both").await.unwrap(), "9");
    // One that others outrun again and again is carried out, too.
    home.site.fail(20, Fault::Outrun, is_put);
    put(&one, "both", "last").await;
    assert_eq!(home.site.seen().iter().filter(|seen| seen.method == "PUT").count(), 21);
    assert_eq!(read(&two, "both").await.unwrap(), "last");
}

#[tokio::test]
async fn a_listing_that_breaks_off_is_read_again_as_a_whole() {
    let (home, one) = Home::new().await;
    for n in 0..30 {
        put(&one, &format!("file {n}"), "content").await;
    }
    let is_list = |parts: &http::request::Parts| {
        parts.uri.query().is_some_and(|query| query.contains("fula-list"))
    };
    home.site.fail(2, Fault::Cut(5000), is_list);
    let listing = one.list(b"").await.unwrap();
    assert_eq!((listing.entries.len(), listing.refused.len()), (30, 0));
    let seen = home.site.seen();
    let lists: Vec<_> = seen.iter().filter(|seen| seen.target.contains("fula-list")).collect();
    assert_eq!(lists.len(), 3);
    // The rest alone would be of another version: a file renamed meanwhile could be missing.
    assert!(lists.iter().all(|seen| !seen.target.contains("after=")), "{lists:?}");
    assert_eq!(seen.len(), 4, "the keyring, and nothing a name at a time: {seen:?}");
    home.site.fail(100, Fault::Cut(5000), is_list);
    assert!(matches!(one.list(b"").await, Err(Error::Unavailable { .. })));
}

#[tokio::test]
async fn a_file_of_several_segments_is_read_in_ranges() {
    let (home, one) = Home::new().await;
    let content = pattern((33 << 20) + 5);
    let file = home.directory.path().join("file");
    std::fs::write(&file, &content).unwrap();
    let options = VaultPutOptions { modified: Some(7), ..VaultPutOptions::default() };
    one.put(&path("large"), Source::File(file), options).await.unwrap();
    let two = home.open(2).await.unwrap();
    let get = two.get(&path("large"), VaultGetOptions::default()).await.unwrap();
    assert_eq!((get.size, get.modified), (content.len() as u64, Some(7)));
    assert_eq!(get.bytes(64 << 20).await.unwrap(), content);
    for range in [0..1, 16_744_440..16_744_460, 34_000_000..34_603_100, 5..5, 1 << 40..1 << 41] {
        let options = VaultGetOptions { range: Some(range.clone()), meter: None };
        let get = two.get(&path("large"), options).await.unwrap();
        let at = |at: u64| usize::try_from(at).unwrap().min(content.len());
        assert_eq!(
            get.bytes(1 << 20).await.unwrap(),
            content.slice(at(range.start)..at(range.end))
        );
    }
    // A stream whose length is unknown is taken up to a segment.
    let stream = |len| Source::reader(std::io::Cursor::new(vec![7; len]), None);
    one.put(&path("stream"), stream(1000), VaultPutOptions::default()).await.unwrap();
    let long = one.put(&path("stream"), stream(17 << 20), VaultPutOptions::default()).await;
    assert!(matches!(long, Err(Error::Unsupported(_))));
}

#[tokio::test]
async fn renames_move_no_content_and_replace_nothing() {
    let (home, one) = Home::new().await;
    let two = home.open(2).await.unwrap();
    for (at, content) in [("a/one", "1"), ("a/two", "2"), ("b/three", "3")] {
        put(&one, at, content).await;
    }
    one.rename(&path("b/three"), &path("c")).await.unwrap();
    assert_eq!(read(&two, "c").await.unwrap(), "3");
    assert!(matches!(read(&two, "b/three").await, Err(Error::NotFound { .. })));
    let taken = one.rename(&path("c"), &path("a/one")).await;
    assert!(matches!(taken, Err(Error::Exists { .. } | Error::Changed { .. })), "{taken:?}");
    assert_eq!(read(&one, "a/one").await.unwrap(), "1", "a rename that failed was seen by nobody");
    one.copy(&path("c"), &path("copy")).await.unwrap();
    one.copy(&path("a/one"), &path("copy")).await.unwrap();
    assert_eq!(read(&two, "copy").await.unwrap(), "1");
    one.delete(&path("copy"), Condition::None).await.unwrap();
    assert_eq!(two.rename_all(b"a/", b"d/e/").await.unwrap(), 2);
    let listing = one.list(b"").await.unwrap();
    let paths: Vec<_> = listing.entries.iter().map(|entry| entry.path.as_bytes()).collect();
    assert_eq!(paths, [b"c".as_slice(), b"d/e/one", b"d/e/two"]);
    assert_eq!(read(&one, "d/e/two").await.unwrap(), "2");
}

#[tokio::test]
async fn members_are_invited_admitted_and_removed() {
    let (home, one) = Home::new().await;
    let (guest, state) = (identity(3), home.directory.path().join("3"));
    put(&one, "old", "old").await;
    let recipient = guest.recipient();
    one.change_keyring(|draft, entropy| draft.invite(&recipient, "Bo", entropy)).await.unwrap();
    let open = |fingerprint| {
        let unlock = Unlock::Identity(identity(3));
        Vault::open(place(&home.site.bucket()), unlock, fingerprint, &state)
    };
    assert_eq!(sealed(open(None).await.unwrap_err()), SealError::ForeignVault);
    let three = open(Some(one.fingerprint())).await.unwrap();
    assert_eq!(read(&three, "old").await.unwrap(), "old");
    // It reads only: what it writes is accepted by nobody, also not by itself.
    put(&three, "forged", "x").await;
    let refused = SealError::NotSigned { what: "the name" };
    assert_eq!(sealed(read(&one, "forged").await.unwrap_err()), refused);
    let key = guest.signing_key().public();
    one.change_keyring(|draft, _| draft.admit(key, Role::Writer, "Bo")).await.unwrap();
    three.refresh().await.unwrap();
    put(&three, "by Bo", "hello").await;
    one.refresh().await.unwrap();
    assert_eq!(read(&one, "by Bo").await.unwrap(), "hello");
    let admin = three.change_keyring(|draft, _| draft.admit(key, Role::Admin, "Bo")).await;
    assert_eq!(sealed(admin.unwrap_err()), SealError::NotAdmin);

    // Two admins change the keyring at once.
    let two = home.open(2).await.unwrap();
    one.remove_member("Bo").await.unwrap();
    let words = identity(9);
    let enrol = |draft: &mut fula_seal::keyring::Draft<'_>,
                 entropy: &mut dyn fula_seal::Entropy| {
        draft.enrol(&words, (SlotKind::Mnemonic, "drawer"), Some(Role::Admin), entropy)
    };
    two.change_keyring(enrol).await.unwrap();
    put(&one, "new", "new").await;
    let gone = SealError::WrongKey { what: "the keyring" };
    assert_eq!(sealed(read(&three, "new").await.unwrap_err()), gone);
    assert_eq!(read(&two, "by Bo").await.unwrap(), "hello", "it was written before");
    assert_eq!(two.slots().len(), 3);
    assert_eq!(two.members().len(), 4);
    assert!(matches!(one.remove_member("Bo").await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_passphrase_opens_the_vault_on_a_new_machine() {
    let (home, one) = Home::new().await;
    put(&one, "file", "content").await;
    let cost = PassphraseCost::new(64 * 1024, 3, &mut Counter(0)).unwrap();
    let passphrase = Identity::from_passphrase("correct horse", &cost).unwrap();
    let slot = (SlotKind::Passphrase(cost), "head");
    one.change_keyring(|draft, entropy| draft.enrol(&passphrase, slot, Some(Role::Admin), entropy))
        .await
        .unwrap();
    let state = home.directory.path().join("new");
    let open =
        |text| Vault::open(place(&home.site.bucket()), Unlock::Passphrase(text), None, &state);
    assert_eq!(sealed(open("wrong horse").await.unwrap_err()), SealError::WrongPassphrase);
    let vault = open("correct horse").await.unwrap();
    assert_eq!(read(&vault, "file").await.unwrap(), "content");
}

struct Counter(u8);

impl fula_seal::Entropy for Counter {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), SealError> {
        self.0 += 1;
        out.fill(self.0);
        Ok(())
    }
}

#[tokio::test]
async fn nothing_local_is_in_the_clear_and_nobody_else_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let (home, one) = Home::new().await;
    put(&one, "secret-directory/secret-name.txt", "secret-content").await;
    read(&one, "secret-directory/secret-name.txt").await.unwrap();
    one.rename_all(b"secret-directory/", b"secret-other/").await.unwrap();
    one.list(b"").await.unwrap();
    let state = home.directory.path().join("1");
    let all = everything(&state);
    assert!(!all.is_empty());
    for clear in ["secret", "laptop", "phone", "bucket"] {
        assert!(!all.windows(clear.len()).any(|window| window == clear.as_bytes()), "{clear}");
    }
    assert!(!all.windows(32).any(|window| window == [1; 32]), "the seed of the device");
    for directory in std::fs::read_dir(&state).unwrap() {
        let directory = directory.unwrap().path();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        for file in std::fs::read_dir(&directory).unwrap() {
            assert_eq!(mode(&file.unwrap().path()), 0o600);
        }
    }
}

/// Copies an object within the bucket, with all its metadata, as a hostile server would.
async fn server_copies(bucket: &Bucket, from: &str, to: &str) {
    bucket.copy(bucket, from, to, CopyOptions::default()).await.unwrap();
}

#[tokio::test]
async fn attack_a_server_that_swaps_replays_or_drops_objects() {
    let (home, one) = Home::new().await;
    let bucket = home.site.bucket();
    put(&one, "one", "1").await;
    let first = home.keys().await.pop().unwrap();
    server_copies(&bucket, &first, "kept").await;
    put(&one, "two", "2").await;
    let second = home.keys().await.into_iter().find(|key| *key != first).unwrap();
    // An older version.
    put(&one, "one", "3").await;
    server_copies(&bucket, &first, "newer").await;
    server_copies(&bucket, "kept", &first).await;
    assert!(matches!(sealed(read(&one, "one").await.unwrap_err()), SealError::Replayed { .. }));
    assert_eq!(one.list(b"").await.unwrap().refused.len(), 1);
    // The file of another path.
    server_copies(&bucket, &second, &first).await;
    let misplaced = SealError::Misplaced { what: "the name" };
    assert_eq!(sealed(read(&one, "one").await.unwrap_err()), misplaced);
    // The body of the older version under the newer name.
    let newer = bucket.head("newer").await.unwrap().metadata;
    let old =
        bucket.get("kept", GetOptions::default()).await.unwrap().bytes(1 << 20).await.unwrap();
    let options = |metadata| PutOptions { metadata, ..PutOptions::default() };
    bucket.put(&first, old, options(newer.clone())).await.unwrap();
    let misplaced = SealError::Misplaced { what: "the trailer of the file" };
    assert_eq!(sealed(read(&one, "one").await.unwrap_err()), misplaced);
    // An altered body.
    let body = bucket.get("newer", GetOptions::default()).await.unwrap();
    let mut body = body.bytes(1 << 20).await.unwrap().to_vec();
    body[60] ^= 1;
    bucket.put(&first, body.clone(), options(newer.clone())).await.unwrap();
    let damaged = SealError::Damaged { what: "the content" };
    assert_eq!(sealed(read(&one, "one").await.unwrap_err()), damaged);
    // No name.
    bucket.put(&first, body, options(BTreeMap::new())).await.unwrap();
    let missing = SealError::Truncated { what: "the name" };
    assert_eq!(sealed(read(&one, "one").await.unwrap_err()), missing);
}

#[tokio::test]
async fn attack_a_server_that_shows_another_keyring() {
    let (home, one) = Home::new().await;
    let bucket = home.site.bucket();
    let keyring = "vault/fula.vault";
    server_copies(&bucket, keyring, "first").await;
    one.change_keyring(|draft, entropy| draft.begin_epoch(entropy)).await.unwrap();
    server_copies(&bucket, keyring, "second").await;
    server_copies(&bucket, "first", keyring).await;
    let back = SealError::RolledBack { what: "the keyring", seen: 2, found: 1 };
    assert_eq!(sealed(one.refresh().await.unwrap_err()), back);
    assert_eq!(sealed(home.open(1).await.unwrap_err()), back);
    // A vault of its own for the public keys of the victims.
    bucket.delete(keyring, fula_client::DeleteOptions::default()).await.unwrap();
    let (server, victim) = (identity(66), identity(2));
    let founders = [Founder { identity: &server, kind: SlotKind::Device, label: "" }];
    let state = home.directory.path().join("server");
    let own = Vault::create(place(&bucket), CreateOptions::default(), &founders, &state);
    let own = own.await.unwrap();
    let recipient = victim.recipient();
    own.change_keyring(|draft, entropy| draft.invite(&recipient, "", entropy)).await.unwrap();
    assert_eq!(sealed(home.open(2).await.unwrap_err()), SealError::ForeignVault);
    assert_eq!(sealed(one.refresh().await.unwrap_err()), SealError::ForeignVault);
    // Bytes that are no keyring.
    bucket.put(keyring, "nonsense", PutOptions::default()).await.unwrap();
    assert!(matches!(sealed(home.open(1).await.unwrap_err()), SealError::Malformed { .. }));
    server_copies(&bucket, "second", keyring).await;
    assert!(home.open(1).await.is_ok());
}

#[tokio::test]
async fn files_are_recovered_from_bodies_alone() {
    let (home, one) = Home::new().await;
    let bucket = home.site.bucket();
    put(&one, "docs/plan.txt", "attack at dawn").await;
    put(&one, "large", &"x".repeat(300_000)).await;
    put(&one, "../outside", "x").await;
    for key in home.keys().await {
        let body = bucket.get(&key, GetOptions::default()).await.unwrap();
        let body = body.bytes(1 << 20).await.unwrap();
        bucket.put(&key, body, PutOptions::default()).await.unwrap();
    }
    bucket
        .put(&format!("vault/{}", "a".repeat(32)), "nonsense", PutOptions::default())
        .await
        .unwrap();
    assert!(read(&one, "docs/plan.txt").await.is_err());
    let target = home.directory.path().join("recovered");
    let recovered = one.recover(&target).await.unwrap();
    assert_eq!((recovered.files.len(), recovered.failed.len()), (2, 2), "{recovered:?}");
    assert_eq!(std::fs::read(target.join("docs/plan.txt")).unwrap(), b"attack at dawn");
    assert_eq!(std::fs::read(target.join("large")).unwrap().len(), 300_000);
    assert!(!home.directory.path().join("outside").exists());
    // Nothing is replaced.
    assert_eq!(one.recover(&target).await.unwrap().files.len(), 0);
}

#[tokio::test]
async fn checkpoints_of_two_devices_agree_until_the_server_goes_back() {
    let (home, one) = Home::new().await;
    let two = home.open(2).await.unwrap();
    put(&one, "file", "1").await;
    let first = one.checkpoint().await.unwrap();
    assert_eq!(two.checkpoint().await.unwrap(), first);
    put(&two, "file", "2").await;
    let second = two.checkpoint().await.unwrap();
    second.check_follows(&first.to_string().parse().unwrap()).unwrap();
    assert!(matches!(first.check_follows(&second), Err(SealError::RolledBack { .. })));
}
