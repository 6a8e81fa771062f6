//! Tests of access keys.

use fula_core::in_memory::MemoryMetadata;

use super::*;
use crate::auth::tests::Cut;

fn ring() -> (Arc<MemoryMetadata>, KeyRing) {
    let metadata = Arc::new(MemoryMetadata::default());
    let sealing = SealingKey::parse(&"5a".repeat(32)).unwrap();
    let ring = KeyRing::new(metadata.clone(), sealing, crate::system_random(), Duration::ZERO);
    (metadata, ring)
}

#[tokio::test]
async fn keys_are_made_found_listed_and_revoked() {
    let (_, ring) = ring();
    let (info, secret) = ring.create("alice", 5).await.unwrap();
    assert_eq!(info.user, "key:alice");
    let found = ring.find(&info.id).await.unwrap().unwrap();
    assert_eq!(found.secret.expose(), secret.expose());
    assert_eq!(found.identity, Identity::of_user("key:alice"));
    ring.create("bob", 6).await.unwrap();
    assert_eq!(ring.list(Some("alice")).await.unwrap(), std::slice::from_ref(&info));
    assert_eq!(ring.list(None).await.unwrap().len(), 2);
    assert!(ring.revoke(&info.id, Some("bob")).await.is_err());
    assert!(ring.revoke(&info.id, Some("alice")).await.unwrap());
    assert!(!ring.revoke(&info.id, None).await.unwrap());
    assert!(ring.find(&info.id).await.unwrap().is_none());
    // It stays on the list without its secret, and cannot be stored again.
    let listed = ring.list(Some("alice")).await.unwrap();
    assert_eq!(listed, [KeyInfo { is_revoked: true, ..info.clone() }]);
    assert!(ring.was_revoked(&info.id, None).await.unwrap());
    assert!(!ring.exists(&info.id, None).await.unwrap());
    let refused = ring.import("alice", &info.id, &secret, 7).await.unwrap_err().to_string();
    assert!(refused.contains("was revoked"), "{refused}");
}

#[tokio::test]
async fn a_key_says_where_it_was_made_and_older_records_say_nothing() {
    let (metadata, ring) = ring();
    let (before, _) = ring.create("alice", 5).await.unwrap();
    assert_eq!(before.made_on, None);
    let entry = metadata.read(Table::Keys, &before.id).await.unwrap().unwrap();
    assert!(!String::from_utf8_lossy(&entry.value.unwrap()).contains("made_on"));
    ring.set_made_on("web1/0123".to_owned());
    let (after, secret) = ring.create("alice", 5).await.unwrap();
    assert_eq!(after.made_on.as_deref(), Some("web1/0123"));
    // Storing it again elsewhere does not change that.
    ring.set_made_on("web2".to_owned());
    let again = ring.import("alice", &after.id, &secret, 6).await.unwrap();
    assert_eq!(again, after);
    assert!(ring.list(None).await.unwrap().contains(&after));
    assert!(ring.find(&before.id).await.unwrap().is_some());
}

#[tokio::test]
async fn a_user_may_have_so_many_keys() {
    let (_, ring) = ring();
    ring.set_keys_max(2);
    let (first, _) = ring.create("alice", 5).await.unwrap();
    ring.create("alice", 5).await.unwrap();
    let refused = ring.create("alice", 5).await.unwrap_err().to_string();
    assert!(refused.contains("FULA_KEYS_PER_USER") && refused.contains("fula keys revoke"));
    ring.create("bob", 5).await.unwrap();
    ring.revoke(&first.id, None).await.unwrap();
    ring.create("alice", 5).await.unwrap();
    // A key that the operator chose is stored whatever the number of keys.
    ring.import("alice", "AKIDEXAMPLE", &Secret::new("first-secret".into()), 5).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_revoked_elsewhere_is_refused_in_time() {
    let metadata = Arc::new(MemoryMetadata::default());
    let ring = |_| {
        let sealing = SealingKey::parse(&"5a".repeat(32)).unwrap();
        KeyRing::new(metadata.clone(), sealing, crate::system_random(), Duration::from_secs(2))
    };
    let [here, there] = [0, 1].map(ring);
    let (info, _) = there.create("alice", 5).await.unwrap();
    assert!(here.find(&info.id).await.unwrap().is_some());
    there.revoke(&info.id, None).await.unwrap();
    assert!(there.find(&info.id).await.unwrap().is_none());
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(here.find(&info.id).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn known_keys_count_for_a_while_without_the_directory() {
    let metadata = Arc::new(Cut::default());
    let sealing = SealingKey::parse(&"5a".repeat(32)).unwrap();
    let fresh = Duration::from_secs(2);
    let ring = KeyRing::new(metadata.clone(), sealing, crate::system_random(), fresh);
    let (info, _) = ring.create("alice", 5).await.unwrap();
    ring.find(&info.id).await.unwrap().unwrap();
    metadata.1.store(true, std::sync::atomic::Ordering::SeqCst);
    tokio::time::advance(Duration::from_mins(10)).await;
    assert!(ring.find(&info.id).await.unwrap().is_some());
    assert!(ring.find("UNKNOWN").await.is_err());
    tokio::time::advance(Duration::from_mins(10)).await;
    assert!(ring.find(&info.id).await.is_err(), "it is trusted for ever");
    metadata.1.store(false, std::sync::atomic::Ordering::SeqCst);
    assert!(ring.find(&info.id).await.unwrap().is_some());
}

#[tokio::test]
async fn secrets_are_sealed_at_rest_and_bound_to_their_id() {
    let (metadata, ring) = ring();
    let (info, secret) = ring.create("alice", 5).await.unwrap();
    let entry = metadata.read(Table::Keys, &info.id).await.unwrap().unwrap();
    let text = String::from_utf8(entry.value.clone().unwrap().to_vec()).unwrap();
    assert!(!text.contains(secret.expose()));
    assert!(!text.contains(&hex::encode(secret.expose())));
    // The same encrypted secret does not open under another id.
    metadata.write(Table::Keys, "STOLEN", 0, entry.value).await.unwrap();
    assert!(ring.find("STOLEN").await.is_err());
    assert_eq!(format!("{secret:?}"), "Secret(…)");
}

#[tokio::test]
async fn importing_again_changes_the_secret_and_nothing_else() {
    let (_, ring) = ring();
    let secret = |text: &str| Secret::new(text.to_owned());
    ring.import("me", "AKIDEXAMPLE", &secret("first-secret"), 1).await.unwrap();
    ring.import("me", "AKIDEXAMPLE", &secret("other-secret"), 2).await.unwrap();
    let found = ring.find("AKIDEXAMPLE").await.unwrap().unwrap();
    assert_eq!(found.secret.expose(), "other-secret");
    let other = ring.import("you", "AKIDEXAMPLE", &secret("third-secret"), 3).await;
    assert!(matches!(other, Err(ServiceError::InvalidArgument(_))));
}

#[tokio::test]
async fn a_key_that_was_made_here_never_gets_another_secret() {
    let [(_, one), (_, two)] = [ring(), ring()];
    let (info, secret) = one.create("alice", 1).await.unwrap();
    let other = Secret::new("other-secret".into());
    // The id accepts no other secret where the key is unknown or deleted either.
    assert!(one.import("alice", &info.id, &other, 2).await.is_err());
    assert!(two.import("alice", &info.id, &other, 2).await.is_err());
    two.import("alice", &info.id, &secret, 2).await.unwrap();
    two.revoke(&info.id, None).await.unwrap();
    let refused = two.import("alice", &info.id, &other, 3).await.unwrap_err();
    assert!(refused.to_string().contains("choose another id"), "{refused}");
}

#[tokio::test]
async fn the_key_of_the_settings_comes_back_if_the_arbiter_loses_it() {
    let (metadata, ring) = ring();
    let secret = Secret::new("chosen-secret".into());
    let backup = metadata.backup();
    ring.import_own("admin", "AKIDEXAMPLE", &secret, 5).await.unwrap();
    ring.import("admin", "AKIDOTHER", &secret, 5).await.unwrap();
    // Then it has neither this key nor another one that was chosen.
    metadata.restore(backup);
    let found = ring.find("AKIDEXAMPLE").await.unwrap().unwrap();
    assert_eq!((found.secret.expose(), found.created), ("chosen-secret", 5));
    assert!(ring.find("AKIDOTHER").await.unwrap().is_none());
    // What was revoked is not brought back.
    ring.revoke("AKIDEXAMPLE", None).await.unwrap();
    assert!(ring.find("AKIDEXAMPLE").await.unwrap().is_none());
}
