//! Tests of tokens on connections that others can read.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use fula_core::{
    WriterId,
    in_memory::{MemoryBlocks, MemoryMetadata, MemoryRoots},
    tree::Nodes,
};
use fula_gateway::{Gateway, Peer, Rates, WireConfig, WireLimits};
use fula_identity::{Policy, eip712::Claims, wallet::WalletKey, wallet_token};
use fula_service::{
    Arbiter, Limits, NamePolicy, RollbackGuard, Service,
    auth::{Authenticator, KeyRing, Revocations, SealingKey},
    system_random,
};
use hmac::{Hmac, KeyInit, Mac};
use http::{Method, Request, header};
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};

/// Time of the tests in seconds since 1970.
const NOW: u64 = 1_000_000;

async fn gateway(tls_terminated: bool) -> Gateway {
    let limits = Limits::default();
    let nodes = Arc::new(Nodes::new(Arc::new(MemoryBlocks::default()), limits.cache_bytes));
    let (roots, guard) = (Arc::new(MemoryRoots::default()), RollbackGuard::new(None, true));
    let arbiter = Arbiter::new(nodes, roots, WriterId([1; 16]), &limits, guard);
    let service = Service::new(arbiter, limits, system_random(), NamePolicy::PerOwner);
    let metadata = Arc::new(MemoryMetadata::default());
    let sealing = SealingKey::parse(&"5a".repeat(32)).unwrap();
    let keys = KeyRing::new(Arc::clone(&metadata) as _, sealing, system_random(), Duration::ZERO);
    let revocations = Revocations::open(metadata, None).await.unwrap();
    let authenticator = Authenticator::new(keys, revocations, Arc::new(|| NOW * 1000));
    authenticator.set_policy(Policy { eip712: true, v1: true, ..Policy::default() });
    let config = WireConfig {
        region: "us-east-1".to_owned(),
        region_strict: false,
        presigned_v2: true,
        domain: None,
        tls_terminated,
        rates: Rates::default(),
        limits: WireLimits::default(),
    };
    fula_gateway::gateway(service, authenticator, config)
}

/// Host that the requests name.
const HOST: &str = "gateway.example";

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.chain_update(text).finalize().into_bytes().to_vec()
}

/// Returns a request for the list of buckets that is signed with a token as access key.
fn signed(token: &str) -> Request<s3s::Body> {
    let now = time::OffsetDateTime::from_unix_timestamp(NOW.cast_signed()).unwrap();
    let ((year, month, day), (hour, minute, second)) = (now.to_calendar_date(), now.to_hms());
    let date = format!("{year:04}{:02}{day:02}", u8::from(month));
    let stamp = format!("{date}T{hour:02}{minute:02}{second:02}Z");
    let payload = hex::encode(Sha256::digest(""));
    let names = "host;x-amz-content-sha256;x-amz-date";
    let canonical = format!(
        "GET\n/\n\nhost:{HOST}\nx-amz-content-sha256:{payload}\nx-amz-date:{stamp}\n\n{names}\n{payload}"
    );
    let scope = [date.as_str(), "us-east-1", "s3", "aws4_request"];
    let secret = format!("AWS4{}", fula_identity::secret_of(token)).into_bytes();
    let key = scope.iter().fold(secret, |key, part| mac(&key, part));
    let (scope, digest) = (scope.join("/"), hex::encode(Sha256::digest(canonical)));
    let signature =
        hex::encode(mac(&key, &format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}")));
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={token}/{scope}, SignedHeaders={names}, Signature={signature}"
    );
    let request = Request::builder().method(Method::GET).uri("/");
    let request = request.header(header::AUTHORIZATION, authorization);
    let request = request.header("x-amz-content-sha256", payload).header("x-amz-date", stamp);
    request.body(s3s::Body::empty()).unwrap()
}

/// Sends a token as bearer to an S3 route and to a route of the gateway, in exchange for a session, and as
/// an access key. Returns the answers.
async fn shown(gateway: &Gateway, peer: Peer) -> [(u16, String); 4] {
    let wallet = WalletKey::new(&[3; 32]).unwrap();
    let claims = Claims { wallet: wallet.address(), iat: NOW, exp: NOW + 3600, v2: None };
    let token = wallet_token::mint(&wallet, &claims);
    let bearer = |path: &str| {
        let request = Request::builder().method(Method::GET).uri(path);
        let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        request.body(s3s::Body::empty()).unwrap()
    };
    let form = format!(
        "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleSessionName=test&WebIdentityToken={token}"
    );
    let kind = "application/x-www-form-urlencoded";
    let sts = Request::builder().method(Method::POST).uri("/").header(header::CONTENT_TYPE, kind);
    let sts = sts.header(header::CONTENT_LENGTH, form.len());
    let sts = sts.body(s3s::Body::from(Bytes::from(form))).unwrap();
    let mut answers = Vec::new();
    for mut request in [bearer("/"), bearer("/fula/whoami"), sts, signed(&token)] {
        request.extensions_mut().insert(peer);
        request.headers_mut().insert(header::HOST, HOST.parse().unwrap());
        let response = gateway.handle(request).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        answers.push((status, String::from_utf8(body.to_vec()).unwrap()));
    }
    answers.try_into().unwrap()
}

#[tokio::test]
async fn a_token_is_accepted_where_nobody_can_read_along() {
    let (plain, behind_proxy) = (gateway(false).await, gateway(true).await);
    let peer = |address: &str, is_tls| Peer { address: address.parse::<IpAddr>().unwrap(), is_tls };
    for (gateway, peer) in [
        (&plain, peer("127.0.0.1", false)),
        (&plain, peer("::1", false)),
        (&plain, peer("192.0.2.1", true)),
        (&behind_proxy, peer("192.0.2.1", false)),
    ] {
        let answers = shown(gateway, peer).await;
        assert!(answers.iter().all(|(status, _)| *status == 200), "{peer:?}: {answers:?}");
    }
    for remote in ["192.0.2.1", "10.0.0.1", "2001:db8::1"] {
        let answers = shown(&plain, peer(remote, false)).await;
        let statuses = answers.each_ref().map(|(status, _)| *status);
        assert_eq!(statuses, [403, 401, 403, 403], "{remote}: {answers:?}");
        for (_, text) in answers {
            assert!(text.contains("TLS") && text.contains("FULA_TLS_TERMINATED"), "{text}");
        }
    }
}
