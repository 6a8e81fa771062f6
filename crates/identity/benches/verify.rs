//! Measures how long it takes to verify a wallet token, compared with a bare recovery of the signer.
//!
//! `cargo bench -p fula-identity` prints medians of interleaved rounds.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::{hint::black_box, time::Instant};

use fula_identity::{
    Policy,
    eip712::{Claims, V2},
    wallet::{Address, WalletKey},
    wallet_token,
};
use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};

const ROUNDS: usize = 21;
const CALLS: u32 = 200;

fn nanos(mut call: impl FnMut()) -> u128 {
    let started = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    started.elapsed().as_nanos() / u128::from(CALLS)
}

fn main() {
    let key = WalletKey::new(&[7; 32]).unwrap();
    let claims = Claims { wallet: key.address(), iat: 1000, exp: 2000, v2: None };
    let v2 = V2 {
        audience: "*".into(),
        scope: vec!["read:photos/2026/".into(), "write:own".into()],
        nonce: [1; 32],
        session: Address::ZERO,
    };
    let policy = Policy { eip712: true, v1: true, ..Policy::default() };
    let first = wallet_token::mint(&key, &claims);
    let second = wallet_token::mint(&key, &Claims { v2: Some(v2), ..claims.clone() });
    let (digest, bytes) = (claims.digest(), key.sign(&claims.digest()));
    let signature = Signature::from_slice(&bytes[..64]).unwrap();
    let id = RecoveryId::from_byte(bytes[64] - 27).unwrap();
    let mut rounds = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        rounds[0].push(nanos(|| {
            let recovered = VerifyingKey::recover_from_prehash(black_box(&digest), &signature, id);
            black_box(recovered.unwrap());
        }));
        for (slot, token) in [(1, &first), (2, &second)] {
            rounds[slot].push(nanos(|| {
                black_box(policy.verify(black_box(token), 1500).unwrap());
            }));
        }
    }
    let medians = rounds.map(|mut round| {
        round.sort_unstable();
        round[ROUNDS / 2]
    });
    let [bare, v1, v2] = medians;
    let ratio = |nanos: u128| {
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of one call")]
        let ratio = nanos as f64 / bare as f64;
        ratio
    };
    println!("bare recovery          {:>8.1} us", us(bare));
    println!("token of version 1     {:>8.1} us  {:.2} x bare (<= 2)", us(v1), ratio(v1));
    println!("token of version 2     {:>8.1} us  {:.2} x bare", us(v2), ratio(v2));
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of one call")]
fn us(nanos: u128) -> f64 {
    nanos as f64 / 1000.0
}
