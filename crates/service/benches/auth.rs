//! Measures how long it takes to authenticate the bearer of a token that was verified before, and to decide
//! about a request by a large bucket policy.
//!
//! `cargo bench -p fula-service --bench auth` prints the median of several rounds.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::{hint::black_box, sync::Arc, time::Duration, time::Instant};

use fula_core::{BucketName, in_memory::MemoryMetadata};
use fula_identity::{Policy, eip712::Claims, wallet::WalletKey, wallet_token};
use fula_service::{
    access::Action,
    auth::{Authenticator, KeyRing, Revocations, SealingKey},
    policy::{Asked, Policy as BucketPolicy},
    system_random,
};

const ROUNDS: usize = 21;
const CALLS: u32 = 20_000;

/// Returns a policy of 100 statements in 20 KB, of which every one must be compared with each request.
fn large_policy() -> String {
    let statement = |n: usize| {
        format!(
            r#"{{"Sid":"s{n}","Effect":"Deny","Principal":"*","Action":"s3:*","Resource":"arn:aws:s3:::bucket/team-*/{n:03}/*/x","Condition":{{"StringLike":{{"aws:Referer":["https://*.example.com/{n:03}/*"]}}}}}}"#
        )
    };
    let statements: Vec<String> = (0..100).map(statement).collect();
    format!(r#"{{"Version":"2012-10-17","Statement":[{}]}}"#, statements.join(","))
}

/// Measures a decision, and prints its time.
fn decide() {
    let (text, bucket) = (large_policy(), BucketName::parse("bucket").unwrap());
    let policy = BucketPolicy::check(&text, &bucket).unwrap();
    let referer = vec!["https://a.example.com/x/y".to_owned()];
    let values = |key: &str| (key == "aws:referer").then(|| referer.clone());
    let resource = "bucket/team-a/100/some/long/key/of/an/object/x";
    let action = Action::GetObject.id();
    let asked = Asked { who: None, as_named: true, action, resource };
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for _ in 0..CALLS / 10 {
            black_box(policy.decide(black_box(&asked), &values));
        }
        rounds.push(started.elapsed().as_nanos() / u128::from(CALLS / 10));
    }
    rounds.sort_unstable();
    println!("policy of {} bytes        {} ns (<= 10000)", text.len(), rounds[ROUNDS / 2]);
}

fn main() {
    decide();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let metadata = Arc::new(MemoryMetadata::default());
        let sealing = SealingKey::parse(&"5a".repeat(32)).unwrap();
        let keys =
            KeyRing::new(Arc::clone(&metadata) as _, sealing, system_random(), Duration::ZERO);
        let revocations = Revocations::open(metadata, None).await.unwrap();
        let master = Authenticator::new(keys, revocations, Arc::new(|| 1_500_000));
        master.set_policy(Policy { eip712: true, v1: true, ..Policy::default() });
        let key = WalletKey::new(&[7; 32]).unwrap();
        let claims = Claims { wallet: key.address(), iat: 1000, exp: 2000, v2: None };
        let token = wallet_token::mint(&key, &claims);
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let started = Instant::now();
            for _ in 0..CALLS {
                black_box(master.bearer(black_box(&token)).unwrap());
            }
            rounds.push(started.elapsed().as_nanos() / u128::from(CALLS));
        }
        rounds.sort_unstable();
        println!("bearer, verified before   {} ns (<= 2000)", rounds[ROUNDS / 2]);
    });
}
