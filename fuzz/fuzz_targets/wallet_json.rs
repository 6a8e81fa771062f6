//! Verifies any JSON in a token of the right form with the signature of a wallet. If it is accepted, its
//! claims are those that were signed.
#![no_main]

use fula_identity::{
    Policy,
    eip712::Claims,
    wallet::WalletKey,
    wallet_token,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let key = WalletKey::new(&[7; 32]).expect("a key");
    let claims = Claims { wallet: key.address(), iat: 1000, exp: 2000, v2: None };
    let good = wallet_token::mint(&key, &claims);
    let mut parts = good.split('.');
    let (prefix, _, signature) = (parts.next(), parts.next(), parts.next());
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut payload = String::new();
    for chunk in data.chunks(3) {
        let mut word = [0_u8; 4];
        word[1..=chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes(word);
        for n in 0..=chunk.len() {
            payload.push(char::from(alphabet[(word >> (18 - 6 * n)) as usize & 63]));
        }
    }
    let token = format!("{}.{payload}.{}", prefix.unwrap_or(""), signature.unwrap_or(""));
    let policy = Policy { eip712: true, v1: true, ..Policy::default() };
    if let Ok(verified) = policy.verify(&token, 1500) {
        assert_eq!((verified.issued, verified.expires), (1000, 2000));
        assert_eq!(verified.identity.user, key.address().to_string());
        assert_eq!(verified.digest.0, claims.digest());
    }
});
