//! A member who may only read, and who has the help of the server.

use fula_client::{
    Bucket, Error, GetOptions, PutOptions,
    vault::{Vault, VaultGetOptions, VaultPutOptions},
};
use fula_seal::{
    Entropy, SealError, VaultKeys,
    body::{FOOTER_BYTES, FileSealer, Footer, Trailer},
    keyring::{Keyring, SealedKeyring, Trust},
};

use super::{site::*, vaults::*};

const REPLACED: SealError = SealError::Replaced { what: "the content" };

/// Gives out a salt that was drawn before.
struct Again([u8; 24]);

impl Entropy for Again {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), SealError> {
        out.copy_from_slice(&self.0);
        Ok(())
    }
}

/// Opens the keyring as device 3, which reads only.
async fn keyring_of_a_reader(bucket: &Bucket, vault: &Vault) -> Keyring {
    let recipient = identity(3).recipient();
    vault.change_keyring(|draft, entropy| draft.invite(&recipient, "Bo", entropy)).await.unwrap();
    let stored = bucket.get("vault/fula.vault", GetOptions::default()).await.unwrap();
    let sealed = SealedKeyring::parse(&stored.bytes(1 << 20).await.unwrap()).unwrap();
    let trust = Trust { fingerprint: Some(vault.fingerprint()), seen: None };
    sealed.open(&identity(3), &trust).unwrap()
}

fn key_of(keyring: &Keyring, file: &str) -> String {
    format!("vault/{}", keyring.keys().sealed_key(&path(file)).as_str())
}

/// Replaces the content of a body. Everything else of the object stays as it is, and all tags are right.
async fn replace(bucket: &Bucket, key: &str, keys: &VaultKeys) {
    let get = bucket.get(key, GetOptions::default()).await.unwrap();
    let metadata = get.meta.metadata.clone();
    let mut body = get.bytes(64 << 20).await.unwrap().to_vec();
    let footer = Footer::parse(body.last_chunk::<FOOTER_BYTES>().unwrap()).unwrap();
    let range = footer.trailer_range(body.len() as u64).unwrap();
    let at = |at: u64| usize::try_from(at).unwrap();
    let sealed = &body[at(range.start)..at(range.end)];
    let trailer = Trailer::open(keys, &footer, sealed, body.len() as u64, None).unwrap();
    let sealer = FileSealer::resume(keys, footer.epoch, footer.file).unwrap().unwrap();
    let mut start = 0;
    for (ordinal, segment) in (0..).zip(trailer.layout.segments()) {
        let record = segment.to_bytes();
        let length = u64::from_be_bytes(record[8..16].try_into().unwrap());
        let (other, mut salt) = (vec![b'!'; at(length)], Again(*segment.salt()));
        let (same, forged) = sealer.seal_segment(ordinal, &other, &mut salt).unwrap();
        assert_eq!(same, *segment, "the layout is the same");
        body[start..start + forged.len()].copy_from_slice(&forged);
        start += forged.len();
    }
    let content_type = Some("application/octet-stream".to_owned());
    let options = PutOptions { metadata, content_type, ..PutOptions::default() };
    bucket.put(key, body, options).await.unwrap();
}

#[tokio::test]
async fn attack_a_reader_and_the_server_replace_a_body() {
    let (home, one) = Home::new().await;
    let bucket = home.site.bucket();
    let keyring = keyring_of_a_reader(&bucket, &one).await;
    let to = home.directory.path().join("file");
    // One that is read at once, one whose name has its segment, and one of two segments.
    for size in [1000, 3 << 20, (17 << 20) + 5] {
        let content = pattern(size);
        let name = format!("file of {size} bytes");
        let file = path(&name);
        one.put(&file, content.clone(), VaultPutOptions::default()).await.unwrap();
        let get = || one.get(&file, VaultGetOptions::default());
        assert_eq!(get().await.unwrap().bytes(64 << 20).await.unwrap(), content);
        let key = key_of(&keyring, &name);
        replace(&bucket, &key, keyring.keys()).await;

        match get().await {
            Err(error) => assert_eq!((sealed(error), size), (REPLACED, 1000), "before any byte"),
            Ok(get) => {
                assert!(size > 1000);
                assert_eq!(sealed(get.bytes(64 << 20).await.unwrap_err()), REPLACED);
            }
        }
        std::fs::write(&to, "kept").unwrap();
        let refused = Box::pin(one.download(&file, &to, None)).await.unwrap_err();
        assert_eq!(sealed(refused), REPLACED);
        assert_eq!(std::fs::read(&to).unwrap(), b"kept", "the file is not replaced");
        let left = std::fs::read_dir(home.directory.path()).unwrap();
        let parts = left.filter(|entry| {
            entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with(".fula")
        });
        assert_eq!(parts.count(), 0);
        // A range cannot be compared: only the tags of its chunks are verified.
        let options = VaultGetOptions { range: Some(5..9), meter: None };
        let range = one.get(&file, options).await.unwrap().bytes(100).await.unwrap();
        assert_eq!(range, "!!!!");
        // Nobody signs the wrong content by sealing it again.
        assert!(matches!(one.share(&file).await, Err(Error::Sealed(REPLACED))));
        one.put(&file, content.clone(), VaultPutOptions::default()).await.unwrap();
        assert_eq!(get().await.unwrap().bytes(64 << 20).await.unwrap(), content);
    }
}

#[tokio::test]
async fn what_was_replaced_is_not_sealed_again() {
    use fula_client::vault::{ResealOptions, Resealing};
    let (home, one) = Home::new().await;
    let bucket = home.site.bucket();
    let keyring = keyring_of_a_reader(&bucket, &one).await;
    put(&one, "good", "good").await;
    put(&one, "bad", "bad").await;
    let key = key_of(&keyring, "bad");
    replace(&bucket, &key, keyring.keys()).await;
    one.remove_member("Bo").await.unwrap();
    let failed = std::sync::Mutex::new(Vec::new());
    let note = |file: Resealing<'_>| {
        if let Resealing::Failed(key, error) = file {
            failed.lock().unwrap().push((key.to_owned(), error.to_string()));
        }
    };
    let done = one.reseal(&ResealOptions::default(), note).await.unwrap();
    assert_eq!((done.files, done.failed), (1, 1));
    let failed = failed.into_inner().unwrap();
    assert_eq!(failed, [(key, REPLACED.to_string())]);
    // Recovery has no name, and the proof in the body still says that no writer sealed it.
    let folder = home.directory.path().join("recovered");
    let recovered = one.recover(&folder).await.unwrap();
    assert_eq!((recovered.files.len(), recovered.failed.len()), (1, 1));
    assert!(matches!(recovered.failed[0].1, Error::Sealed(REPLACED)));
    assert_eq!(std::fs::read(folder.join("good")).unwrap(), b"good");
    assert!(!folder.join("bad").exists());
}
