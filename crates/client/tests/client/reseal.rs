//! New epochs: what is sealed again, who writes meanwhile, and what an interruption leaves.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use fula_client::{
    CopyOptions, Error, GetOptions, PutOptions,
    vault::{ResealOptions, Resealed, Resealing, Vault, VaultGetOptions, VaultPutOptions},
};
use fula_seal::SealError;

use super::{site::*, vaults::*};

async fn begin_epoch(vault: &Vault) {
    vault.change_keyring(|draft, entropy| draft.begin_epoch(entropy)).await.unwrap();
}

async fn reseal(vault: &Vault) -> Resealed {
    vault.reseal(&ResealOptions::default(), |_| {}).await.unwrap()
}

#[tokio::test]
async fn files_of_older_epochs_are_sealed_again_and_keep_what_they_have() {
    let (home, one) = Home::new().await;
    let options = VaultPutOptions {
        modified: Some(7),
        entries: BTreeMap::from([("content-type".to_owned(), "text/plain".to_owned())]),
        ..VaultPutOptions::default()
    };
    one.put(&path("a/file"), "content", options).await.unwrap();
    one.put(&path("large"), pattern(20 << 20), VaultPutOptions::default()).await.unwrap();
    put(&one, "renamed", "old").await;
    begin_epoch(&one).await;
    // The name of a renamed file is of the new epoch, and its content is not.
    one.rename(&path("renamed"), &path("b")).await.unwrap();
    put(&one, "new", "new").await;
    assert_eq!(one.outdated().await.unwrap(), 3);
    let two = home.open(2).await.unwrap();
    let done = reseal(&two).await;
    assert_eq!(done, Resealed { files: 3, bytes: 7 + (20 << 20) + 3, failed: 0 });
    assert_eq!((one.outdated().await.unwrap(), reseal(&one).await), (0, Resealed::default()));
    let (entry, entries) = one.stat(&path("a/file")).await.unwrap();
    assert_eq!((entry.size, entry.modified), (7, Some(7)));
    assert_eq!(entries["content-type"], "text/plain");
    assert_eq!(read(&one, "b").await.unwrap(), "old");
    let large = one.get(&path("large"), VaultGetOptions::default()).await.unwrap();
    assert_eq!(large.bytes(32 << 20).await.unwrap(), pattern(20 << 20));
}

#[tokio::test]
async fn what_removed_members_wrote_counts_until_it_is_sealed_again() {
    let (home, one) = Home::new().await;
    let two = home.open(2).await.unwrap();
    put(&two, "by two", "kept").await;
    put(&two, "late", "forged").await;
    let bucket = home.site.bucket();
    let forged = home.keys().await;
    one.remove_member("phone").await.unwrap();
    assert!(matches!(one.forget_removed().await, Err(Error::Invalid(_))), "files are left");
    for key in &forged {
        bucket.copy(&bucket, key, &format!("kept/{key}"), CopyOptions::default()).await.unwrap();
    }
    assert_eq!(reseal(&one).await.files, 2);
    one.forget_removed().await.unwrap();
    assert_eq!(read(&one, "by two").await.unwrap(), "kept");
    // A server that brings back what the removed member signed is refused, also by a client without a memory.
    for key in &forged {
        bucket.copy(&bucket, &format!("kept/{key}"), key, CopyOptions::default()).await.unwrap();
    }
    std::fs::remove_dir_all(home.directory.path().join("1")).unwrap();
    let fresh = home.open(1).await.unwrap();
    let refused = SealError::NotSigned { what: "the name" };
    assert_eq!(sealed(read(&fresh, "late").await.unwrap_err()), refused);
}

#[tokio::test]
async fn nothing_is_lost_when_others_write_and_the_process_is_killed() {
    const FILES: usize = 40;
    let (home, one) = Home::new().await;
    let two = home.open(2).await.unwrap();
    for n in 0..FILES {
        put(&one, &format!("file {n}"), "0").await;
    }
    begin_epoch(&one).await;
    // The other device goes on, with the older keyring at first.
    let (stop, round) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let writer = tokio::spawn({
        let (stop, round) = (Arc::clone(&stop), Arc::clone(&round));
        async move {
            while !stop.load(Ordering::Relaxed) {
                let now = round.fetch_add(1, Ordering::Relaxed) + 1;
                for n in (0..FILES).step_by(2) {
                    put(&two, &format!("file {n}"), &now.to_string()).await;
                }
                two.refresh().await.unwrap();
            }
        }
    });
    for _ in 0..3 {
        let (some, mut were_done) = tokio::sync::mpsc::channel(1);
        let interrupted = tokio::spawn({
            let one = one.clone();
            async move {
                // A message that is there already is enough.
                let note = |_: Resealing<'_>| {
                    let _sent = some.try_send(());
                };
                one.reseal(&ResealOptions::default(), note).await
            }
        });
        were_done.recv().await;
        interrupted.abort();
        drop(interrupted.await);
    }
    reseal(&one).await;
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    reseal(&one).await;
    assert_eq!(one.outdated().await.unwrap(), 0);
    let last = round.load(Ordering::Relaxed).to_string();
    for n in 0..FILES {
        let expected = if n % 2 == 0 { &*last } else { "0" };
        assert_eq!(read(&one, &format!("file {n}")).await.unwrap(), expected, "file {n}");
    }
}

#[tokio::test]
async fn a_damaged_file_stays_as_it_is_and_is_named() {
    let (home, one) = Home::new().await;
    put(&one, "good", "good").await;
    put(&one, "bad", "bad!").await;
    let bucket = home.site.bucket();
    let keys = home.keys().await;
    let mut bad = None;
    for key in &keys {
        let get = bucket.get(key, GetOptions::default()).await.unwrap();
        let (meta, mut body) = (get.meta.clone(), get.bytes(1 << 20).await.unwrap().to_vec());
        if bad.is_none() {
            body[60] ^= 1;
            let options = PutOptions { metadata: meta.metadata, ..PutOptions::default() };
            bucket.put(key, body, options).await.unwrap();
            bad = Some(key.clone());
        }
    }
    begin_epoch(&one).await;
    let failed = std::cell::RefCell::new(Vec::new());
    let note = |file: Resealing<'_>| {
        if let Resealing::Failed(key, error) = file {
            assert!(matches!(error, Error::Sealed(SealError::Damaged { .. })), "{error}");
            failed.borrow_mut().push(key.to_owned());
        }
    };
    let done = one.reseal(&ResealOptions::default(), note).await.unwrap();
    assert_eq!((done.files, done.failed), (1, 1));
    assert_eq!(failed.into_inner(), [bad.unwrap()]);
    assert_eq!(one.outdated().await.unwrap(), 1);
}
