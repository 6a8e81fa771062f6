//! Wallets: the signature of a message is the secret.
//!
//! It works with wallets that sign deterministically (RFC 6979), and with no others: some hardware wallets
//! randomise signatures, and signatures of contract wallets change with their signers. So a wallet signs twice
//! before a slot is made, and a wallet is never the only slot.

use std::fmt::Write;

use ring::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use crate::{SealError, VaultId, key::Secret};

/// Half of the order of secp256k1: the highest `s` of a signature that wallets make (EIP-2).
const HALF_ORDER: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0x5d, 0x57, 0x6e, 0x73, 0x57, 0xa4, 0x50, 0x1d, 0xdf, 0xe9, 0x2f, 0x46, 0x68, 0x1b, 0x20, 0xa0,
];

const WHAT: &str = "the signature of the wallet";

/// The random salt of a wallet's slot. A signature that someone was tricked into opens the vault only together
/// with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalletSalt(pub [u8; 32]);

/// Returns the message for `eth_signTypedData_v4`, as JSON. Its domain is not the one of bearer tokens.
pub fn wallet_message(vault: VaultId, salt: &WalletSalt) -> String {
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut out, byte| {
            // Writing to a string does not fail.
            let _ = write!(out, "{byte:02x}");
            out
        })
    };
    format!(
        r#"{{"types":{{"EIP712Domain":[{{"name":"name","type":"string"}},{{"name":"version","type":"string"}}],"FulaVaultKey":[{{"name":"purpose","type":"string"}},{{"name":"vault","type":"bytes32"}},{{"name":"salt","type":"bytes32"}}]}},"primaryType":"FulaVaultKey","domain":{{"name":"Fula Vault","version":"1"}},"message":{{"purpose":"{PROMPT}","vault":"0x{}","salt":"0x{}"}}}}"#,
        hex(&[vault.0, [0; 16]].concat()),
        hex(&salt.0),
    )
}

/// What the wallet shows to the person who signs.
const PROMPT: &str = "Opens your vault. Anyone who has this signature and the vault can read all your files. \
                      Sign only in the Fula client.";

/// Derives the seed of a slot from a signature `r ‖ s ‖ v`.
pub(super) fn seed(
    vault: VaultId,
    salt: &WalletSalt,
    signature: &[u8; 65],
) -> Result<Secret, SealError> {
    if signature[32..64] > HALF_ORDER[..] {
        return Err(SealError::Malformed { what: WHAT, why: "its s is in the upper half" });
    }
    let mut out = Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, &salt.0)
        .extract(&signature[..64])
        .expand(&[b"fula 2026 wallet", &vault.0], HKDF_SHA256)
        .and_then(|okm| okm.fill(out.as_mut_slice()))
        .expect("32 bytes are what SHA-256 gives");
    Ok(Secret::new(*out))
}
