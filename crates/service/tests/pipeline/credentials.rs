//! Tests of credentials that end while a body is being received.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use fula_core::in_memory::MemoryMetadata;
use fula_identity::{Policy, Seconds, eip712::Claims, wallet::WalletKey, wallet_token};
use fula_service::auth::{
    Authenticator, COMMIT_ALLOWANCE, KeyRing, Proof, Revocations, SealingKey,
};

use super::*;

/// Times at which the token is issued and ends, in seconds since 1970.
const ISSUED: Seconds = 1_000_000;
const ENDS: Seconds = ISSUED + 3600;

/// Returns the proof of a token's bearer to a gateway with this clock.
async fn bearer(now: &Arc<AtomicU64>) -> Proof {
    let metadata = Arc::new(MemoryMetadata::default());
    let sealing = SealingKey::parse(&"5a".repeat(32)).unwrap();
    let random = system_random();
    let keys = KeyRing::new(Arc::clone(&metadata) as _, sealing, random, Duration::ZERO);
    let revocations = Revocations::open(metadata, None).await.unwrap();
    let now = Arc::clone(now);
    let clock = Arc::new(move || now.load(Ordering::SeqCst) * 1000);
    let authenticator = Authenticator::new(keys, revocations, clock);
    authenticator.set_policy(Policy { eip712: true, v1: true, ..Policy::default() });
    let key = WalletKey::new(&[3; 32]).unwrap();
    let claims = Claims { wallet: key.address(), iat: ISSUED, exp: ENDS, v2: None };
    authenticator.bearer(&wallet_token::mint(&key, &claims)).unwrap()
}

#[tokio::test]
async fn a_body_that_outlives_its_credential_is_not_committed() {
    let blocks = Arc::new(MemoryBlocks::default());
    let roots = FaultyRoots::new(&blocks);
    let now = Arc::new(AtomicU64::new(ISSUED));
    let proof = bearer(&now).await;
    let mut master = Master::new(&blocks, &roots, 1);
    master.user =
        Caller { credential_check: Some(proof.credential_check), ..Caller::of(proof.identity) };
    master.create().await;
    // The last part of the body arrives at `time`.
    let ending_at = |time: Seconds| -> BodyStream {
        let clock = Arc::clone(&now);
        let last = futures::stream::once(async move {
            clock.store(time, Ordering::SeqCst);
            Ok(Bytes::from_static(b"end"))
        });
        Box::pin(futures::stream::iter([Ok(Bytes::from(vec![7; 2 << 20]))]).chain(last))
    };
    let last = ENDS + COMMIT_ALLOWANCE - Limits::default().commit_deadline.as_secs();
    let put = async |time| {
        now.store(ISSUED, Ordering::SeqCst);
        master.put_stream("k", ending_at(time), WriteConditions::default()).await
    };
    put(last).await.unwrap();
    let (version, kept) = (master.version().await, master.get("k").await.unwrap());
    let late = put(last + 1).await;
    assert!(matches!(late, Err(ServiceError::CredentialExpired)), "{late:?}");
    assert_eq!(master.version().await, version);
    assert_eq!(master.get("k").await.unwrap(), kept);
    // Requests without a body are checked in the same way.
    for refused in [
        master.delete("k").await,
        master.service.create_bucket(&master.user, &bucket_name("other"), None).await,
        master.service.delete_bucket(&master.user, &bucket()).await,
    ] {
        assert!(matches!(refused, Err(ServiceError::CredentialExpired)), "{refused:?}");
    }
}
