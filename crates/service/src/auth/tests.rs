use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use fula_core::{
    MetadataStore, StoreError,
    in_memory::MemoryMetadata,
    metadata::{Entry, Table, WriteOutcome},
};
use fula_identity::{
    Grant,
    eip712::{Claims, V2},
    wallet::{Address, WalletKey},
    wallet_token,
};

use super::*;

/// Time at which the tests begin, in seconds since 1970.
const NOW: Seconds = 1_000_000;

/// A metadata store that can be cut off.
#[derive(Debug, Default)]
pub(super) struct Cut(pub(super) MemoryMetadata, pub(super) AtomicBool);

impl Cut {
    fn reach(&self) -> Result<(), StoreError> {
        if self.1.load(Ordering::SeqCst) {
            let source = "cut".into();
            return Err(StoreError::Unavailable { backend: "test", action: "any", source });
        }
        Ok(())
    }
}

#[async_trait]
impl MetadataStore for Cut {
    async fn read(&self, table: Table, name: &str) -> Result<Option<Entry>, StoreError> {
        self.reach()?;
        self.0.read(table, name).await
    }

    async fn write(
        &self,
        table: Table,
        name: &str,
        expected: u64,
        value: Option<Bytes>,
    ) -> Result<WriteOutcome, StoreError> {
        self.reach()?;
        self.0.write(table, name, expected, value).await
    }

    async fn list(
        &self,
        table: Table,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Entry)>, StoreError> {
        self.reach()?;
        self.0.list(table, after, limit).await
    }
}

/// Masters that share a metadata store and a clock.
struct Federation {
    metadata: Arc<Cut>,
    now: Arc<AtomicU64>,
}

impl Federation {
    fn new() -> Self {
        Self { metadata: Arc::default(), now: Arc::new(AtomicU64::new(NOW)) }
    }

    async fn master(&self) -> Authenticator {
        let metadata: Arc<dyn MetadataStore> = Arc::clone(&self.metadata) as _;
        let sealing = SealingKey::parse(&"5a".repeat(32)).unwrap();
        let random = crate::system_random();
        let fresh = Duration::from_secs(2);
        let keys = KeyRing::new(Arc::clone(&metadata), sealing, random, fresh);
        let disk = Arc::new(MemoryMetadata::default());
        let revocations = Revocations::open(metadata, Some(disk)).await.unwrap();
        let now = Arc::clone(&self.now);
        let clock: Clock = Arc::new(move || now.load(Ordering::SeqCst) * 1000);
        let master = Authenticator::new(keys, revocations, clock);
        master.set_policy(Policy { eip712: true, v1: true, ..Policy::default() });
        master
    }

    fn pass(&self, seconds: Seconds) {
        self.now.fetch_add(seconds, Ordering::SeqCst);
    }
}

fn token(life: Seconds, scope: &[&str]) -> String {
    let key = WalletKey::new(&[3; 32]).unwrap();
    let v2 = V2 {
        audience: "*".into(),
        scope: scope.iter().map(ToString::to_string).collect(),
        nonce: [0; 32],
        session: Address::ZERO,
    };
    let claims = Claims { wallet: key.address(), iat: NOW, exp: NOW + life, v2: Some(v2) };
    wallet_token::mint(&key, &claims)
}

async fn exchange(
    master: &Authenticator,
    token: &str,
    life: Seconds,
) -> Result<SessionKeys, AuthError> {
    let verified = master.inspect(token)?;
    master.begin_session(&verified, life).await
}

fn signed(session: &SessionKeys) -> Signed<'_> {
    Signed {
        access_key: &session.id,
        session_token: Some(session.token.expose()),
        url_expires: None,
        is_private: false,
    }
}

#[tokio::test]
async fn a_token_that_is_remembered_still_ends() {
    let federation = Federation::new();
    let master = federation.master().await;
    let token = token(100, &["admin:*"]);
    for _ in 0..2 {
        assert_eq!(master.bearer(&token).unwrap().method, AuthMethod::Bearer);
    }
    federation.pass(99);
    master.bearer(&token).unwrap();
    federation.pass(1);
    assert!(matches!(master.bearer(&token), Err(AuthError::Token(TokenError::Expired))));
    // A cached token that a changed policy does not accept is refused too.
    federation.now.store(NOW, Ordering::SeqCst);
    master.bearer(&token).unwrap();
    master.set_policy(Policy::default());
    assert!(matches!(master.bearer(&token), Err(AuthError::Token(TokenError::NotAccepted(_)))));
}

#[tokio::test]
async fn a_session_begun_on_one_master_is_good_on_another() {
    let federation = Federation::new();
    let [one, two] = [federation.master().await, federation.master().await];
    let session = exchange(&one, &token(10_000, &["read:abc/p"]), 3600).await.unwrap();
    assert_eq!(session.expires, NOW + 3600);
    assert_eq!(two.secret_of(&session.id, None).await.unwrap().expose(), session.secret.expose());
    let proof = two.admit(signed(&session)).await.unwrap();
    assert_eq!(
        (proof.method, proof.credential.as_str()),
        (AuthMethod::Session, session.id.as_str())
    );
    assert_eq!(proof.identity.grant, Grant::parse(Some(&["read:abc/p"])).unwrap());
    for session_token in [None, Some("other")] {
        let refused = two.admit(Signed { session_token, ..signed(&session) }).await;
        assert!(matches!(refused, Err(AuthError::SessionToken)));
    }
    // A master that does not accept the token does not accept its session either.
    two.set_policy(Policy::default());
    let refused = two.admit(signed(&session)).await;
    assert!(matches!(refused, Err(AuthError::Token(TokenError::NotAccepted(_)))));
    two.set_policy((*one.policy()).clone());
    federation.pass(3600);
    assert!(matches!(two.admit(signed(&session)).await, Err(AuthError::SessionExpired)));
    // This id has the right form, but does not exist.
    let mut unknown = session.clone();
    unknown.id.replace_range(30.., "AAAAAA");
    assert!(matches!(two.secret_of(&unknown.id, None).await, Err(AuthError::UnknownKey)));
    assert!(matches!(two.secret_of("FULTé", None).await, Err(AuthError::UnknownKey)));
}

#[tokio::test]
async fn a_write_is_not_committed_long_after_its_credential_ended() {
    let federation = Federation::new();
    let master = federation.master().await;
    let deadline = Duration::from_secs(10);
    let session = exchange(&master, &token(10_000, &["admin:*"]), 900).await.unwrap();
    let (key, secret) = master.keys().create("alice", NOW * 1000).await.unwrap();
    drop(secret);
    let by_key = |url_expires| Signed {
        access_key: &key.id,
        session_token: None,
        url_expires,
        is_private: false,
    };
    let in_url = |session, url_expires| Signed { url_expires, ..signed(session) };
    let bearer = master.bearer(&token(500, &["admin:*"])).unwrap();
    let proofs = [
        (bearer, Some(NOW + 500)),
        (master.admit(signed(&session)).await.unwrap(), Some(NOW + 900)),
        (master.admit(in_url(&session, Some(NOW + 60))).await.unwrap(), Some(NOW + 60)),
        (master.admit(in_url(&session, Some(NOW + 5000))).await.unwrap(), Some(NOW + 900)),
        (master.admit(by_key(Some(NOW + 70))).await.unwrap(), Some(NOW + 70)),
        (master.admit(by_key(None)).await.unwrap(), None),
    ];
    for (proof, ends) in &proofs {
        let at = |now: Seconds, deadline| {
            federation.now.store(now, Ordering::SeqCst);
            proof.credential_check.check(deadline)
        };
        let Some(ends) = ends else {
            at(NOW + 1_000_000, deadline).unwrap();
            continue;
        };
        // The commit itself may take as long as its deadline.
        let last = ends + COMMIT_ALLOWANCE - 10;
        at(last, deadline).unwrap();
        assert!(matches!(at(last + 1, deadline), Err(ServiceError::CredentialExpired)));
        // However long the deadline is, a credential that has not ended is accepted.
        at(*ends, Duration::from_hours(1)).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn slots_are_used_again_and_are_bounded() {
    let federation = Federation::new();
    let master = federation.master().await;
    let token = token(80_000, &["admin:*"]);
    let mut first = None;
    for _ in 0..3 {
        first = Some(exchange(&master, &token, 900).await.unwrap());
    }
    let count = async || federation.metadata.list(Table::Sessions, None, 2000).await.unwrap().len();
    assert_eq!(count().await, 3);
    federation.pass(900);
    for _ in 0..3 {
        exchange(&master, &token, 40_000).await.unwrap();
    }
    assert_eq!(count().await, 3, "ended sessions keep their slots");
    // The key of the earlier session in the slot is not accepted any more.
    tokio::time::advance(Duration::from_secs(3)).await;
    let old = master.secret_of(&first.unwrap().id, None).await;
    assert!(matches!(old, Err(AuthError::UnknownKey)));
}

/// Returns whose limit refused a session.
fn refused_by(begun: Result<SessionKeys, AuthError>) -> (&'static str, usize) {
    match begun {
        Err(AuthError::TooManySessions { of, max }) => (of, max),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn sessions_are_limited_per_token_and_per_owner() {
    let federation = Federation::new();
    let [one, two] = [federation.master().await, federation.master().await];
    for master in [&one, &two] {
        master.set_sessions_max(5);
    }
    let tokens = [80_000, 80_001, 80_002].map(|life| token(life, &["admin:*"]));
    let mut begun = Vec::new();
    for (n, count) in [(0, 3), (1, 2)] {
        for _ in 0..count {
            begun.push(exchange(&one, &tokens[n], 900 + 900 * n as Seconds).await.unwrap());
        }
    }
    // The limit holds on every master.
    for master in [&one, &two] {
        assert_eq!(refused_by(exchange(master, &tokens[2], 900).await), ("the owner", 5));
    }
    // A revoked session frees its slot, for a token that is below its own limit.
    let revoked = begun.pop().unwrap().id;
    one.revoke(Revoked::Key(revoked)).await.unwrap();
    assert_eq!(refused_by(exchange(&one, &tokens[0], 900).await), ("the token", 3));
    exchange(&one, &tokens[2], 900).await.unwrap();
    assert_eq!(refused_by(exchange(&one, &tokens[2], 900).await), ("the owner", 5));
    // A session that has ended does so too.
    federation.pass(900);
    exchange(&one, &tokens[0], 900).await.unwrap();
    // No slot was added in the meantime.
    assert_eq!(federation.metadata.list(Table::Sessions, None, 100).await.unwrap().len(), 5);
    // A lowered limit also applies to existing slots.
    one.set_sessions_max(1);
    assert_eq!(refused_by(exchange(&one, &tokens[2], 900).await), ("the owner", 1));
}

#[tokio::test]
async fn masters_that_begin_sessions_at_once_take_different_slots() {
    let federation = Federation::new();
    let masters = [federation.master().await, federation.master().await];
    let token = token(10_000, &["admin:*"]);
    let begun = (0..16).map(|n| exchange(&masters[n % 2], &token, 3600));
    let begun = futures::future::join_all(begun).await;
    for (n, session) in begun.iter().enumerate() {
        let session = session.as_ref().unwrap();
        masters[n % 2].admit(signed(session)).await.unwrap();
    }
    let slots: std::collections::BTreeSet<_> =
        begun.iter().map(|begun| begun.as_ref().unwrap().id[..22].to_owned()).collect();
    assert_eq!(slots.len(), 16);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_let_in_once_revocations_are_too_old() {
    let federation = Federation::new();
    let master = federation.master().await;
    let token = token(10_000, &["admin:*"]);
    federation.metadata.1.store(true, Ordering::SeqCst);
    tokio::time::advance(Duration::from_mins(14)).await;
    assert!(master.revocations().look().await.is_err());
    master.bearer(&token).unwrap();
    tokio::time::advance(Duration::from_mins(2)).await;
    let refused = master.bearer(&token);
    assert!(matches!(refused, Err(AuthError::Service(ServiceError::Unavailable(_)))));
    federation.metadata.1.store(false, Ordering::SeqCst);
    master.revocations().look().await.unwrap();
    master.bearer(&token).unwrap();
}

#[tokio::test]
async fn a_token_as_access_key_is_bound_to_private_connections() {
    let federation = Federation::new();
    let master = federation.master().await;
    let [wide, narrow] = [token(100, &["admin:*"]), token(100, &["read:abc=k"])];
    let ask = |access_key, is_private, is_presigned: bool| Signed {
        access_key,
        session_token: None,
        url_expires: is_presigned.then_some(NOW + 100),
        is_private,
    };
    assert_eq!(
        master.secret_of(&wide, None).await.unwrap().expose(),
        fula_identity::secret_of(&wide)
    );
    assert_eq!(master.admit(ask(&wide, true, false)).await.unwrap().method, AuthMethod::TokenKey);
    let refused = master.admit(ask(&wide, false, false)).await;
    assert!(matches!(refused, Err(AuthError::NotPrivate)));
    let refused = master.admit(ask(&wide, true, true)).await;
    assert!(matches!(refused, Err(AuthError::Presigned)));
    master.admit(ask(&narrow, true, true)).await.unwrap();
    assert_eq!(redacted(&wide), "token");
    assert_eq!(redacted("AKID\nEXAMPLE"), "AKIDEXAMPLE");
    assert_eq!(redacted_unknown(&wide), "token");
    assert_eq!(redacted_unknown("wJalr\nXUtnFEMI"), "wJalrXUt…");
    assert_eq!(redacted_unknown("12345678"), "12345678");
}
