//! Measures how long it takes to authenticate the bearer of a token that was verified before.
//!
//! `cargo bench -p fula-service --bench auth` prints the median of several rounds.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::{hint::black_box, sync::Arc, time::Duration, time::Instant};

use fula_core::in_memory::MemoryMetadata;
use fula_identity::{Policy, eip712::Claims, wallet::WalletKey, wallet_token};
use fula_service::{
    auth::{Authenticator, KeyRing, Revocations, SealingKey},
    system_random,
};

const ROUNDS: usize = 21;
const CALLS: u32 = 20_000;

fn main() {
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
