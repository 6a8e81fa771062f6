//! What can be wrong with sealed data, or with the key for it.

use fula_core::cbor::Invalid;

/// Why something was not opened or not sealed. `what` names the thing: "the name", "segment 3".
///
/// No variant carries plaintext or keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The bytes are not of this format. They were written by something else, or are damaged.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// The thing.
        what: &'static str,
        /// The rule that the bytes break.
        why: &'static str,
    },
    /// A newer program wrote it: update this one.
    #[error("{what} is of version {found}, which this program does not know: update it")]
    Unsupported {
        /// The thing.
        what: &'static str,
        /// The version, suite or number of levels.
        found: u64,
    },
    /// The key opens nothing here: use the right one.
    #[error("the key does not open {what}")]
    WrongKey {
        /// The thing.
        what: &'static str,
    },
    /// The passphrase opens no slot: type it again.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// The bytes were altered after they were sealed: read them again, then restore a copy.
    #[error("{what} is damaged: its authentication tag does not match")]
    Damaged {
        /// The thing.
        what: &'static str,
    },
    /// Bytes are missing at the end: read them again, then restore a copy.
    #[error("{what} is cut off")]
    Truncated {
        /// The thing.
        what: &'static str,
    },
    /// It is genuine and lies in the wrong place. A tool or the server moved or mixed objects.
    #[error("{what} belongs to another object, another vault, or another version of this object")]
    Misplaced {
        /// The thing.
        what: &'static str,
    },
    /// It is not signed by a device that may write.
    #[error("{what} is not signed by a writer of this vault")]
    NotSigned {
        /// The thing.
        what: &'static str,
    },
    /// It opens with the keys of the vault, and is not what its writer sealed: someone who has the keys replaced it, and
    /// the server helped. The caller refuses it, and restores a copy.
    #[error(
        "{what} was replaced by someone who may only read, with the help of the server: no writer signed it"
    )]
    Replaced {
        /// The thing.
        what: &'static str,
    },
    /// The vault was made by someone else: a server can make one for any public key. The caller refuses it, or
    /// passes the fingerprint from an invitation.
    #[error(
        "the vault is another one than expected, or nothing proves who made it: open it with the fingerprint of \
         the invitation"
    )]
    ForeignVault,
    /// The server shows a version of a file that was replaced. The caller refuses it, or asks a person.
    #[error(
        "{what} is an older version: this client saw change {seen}, and the server shows change {found}"
    )]
    Replayed {
        /// The thing.
        what: &'static str,
        /// The highest number of changes seen before.
        seen: u64,
        /// The number found now.
        found: u64,
    },
    /// The server shows an older state than it showed before. The caller refuses it, or asks a person.
    #[error("{what} went back from {seen} to {found}: the server shows an older state")]
    RolledBack {
        /// The thing.
        what: &'static str,
        /// The highest number seen before.
        seen: u64,
        /// The number found now.
        found: u64,
    },
    /// It is not the state that follows the one seen before. The caller refuses it, or asks a person.
    #[error("{what} does not follow the state that this client saw before")]
    Forked {
        /// The thing.
        what: &'static str,
    },
    /// The vault has a newer epoch than the keys at hand: read the keyring again.
    #[error("epoch {epoch} is unknown: read the keyring of the vault again")]
    UnknownEpoch {
        /// The epoch.
        epoch: u32,
    },
    /// It exceeds a limit of the format.
    #[error("{what} has {found}, the limit is {max}")]
    TooLarge {
        /// The thing, and the unit of the numbers: "a path (bytes)".
        what: &'static str,
        /// How large it is.
        found: u64,
        /// How large it may be.
        max: u64,
    },
    /// The key may not change the keyring: an admin of the vault does that.
    #[error("this key is no admin of the vault: an admin changes the keyring")]
    NotAdmin,
    /// The change would lock somebody out for good, or is none that a keyring can have.
    #[error("the keyring cannot be changed so: {why}")]
    NotAllowed {
        /// The rule.
        why: &'static str,
    },
    /// The wallet signs the same message differently each time, so its signature can be no key.
    #[error("the wallet gave two different signatures for one message: use another kind of slot")]
    UnstableWallet,
    /// There are no random bytes: nothing was sealed.
    #[error("the system gave no random bytes")]
    NoEntropy,
}

impl SealError {
    /// Returns a function that makes an error of a broken rule of dag-cbor.
    pub(crate) fn in_cbor(what: &'static str) -> impl Fn(Invalid) -> Self + Copy {
        move |invalid| match invalid {
            Invalid::CUT_OFF => Self::Truncated { what },
            Invalid(why) => Self::Malformed { what, why },
        }
    }

    /// Checks a limit.
    pub(crate) fn limit(what: &'static str, found: usize, max: usize) -> Result<(), Self> {
        if found <= max {
            return Ok(());
        }
        Err(Self::TooLarge { what, found: found as u64, max: max as u64 })
    }
}
