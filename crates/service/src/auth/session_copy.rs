//! Copies of sessions in their own session tokens. With them a session outlives the loss of its record
//! (docs/adr/0062).
//!
//! The arbiter keeps the record of a session. An arbiter that is restored from a backup has no records of the
//! sessions that began later, and SDKs use the keys of a session until it ends. So a session token is a random
//! text, a dot, and the record, encrypted with the key of the masters.
//!
//! # Invariants
//! - A copy is bound to its access key id and to the random text. It cannot be moved to another session.
//! - It counts only on a master whose own disk has held the revocations since the session began.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::{SealingKey, Secret};
use crate::error::ServiceError;

/// Longest encrypted copy in bytes. A session with more scopes has none.
const COPY_BYTES_MAX: usize = 2048;

fn bound_to(id: &str, drawn: &str) -> String {
    format!("session {id} {drawn}")
}

/// Returns a session token with a copy of `record`. `drawn` is its random text, which has no dot.
///
/// # Errors
/// [`ServiceError::Internal`] if the cipher fails.
pub(super) fn token(
    sealing: &SealingKey,
    nonce: [u8; 12],
    (id, drawn): (&str, &str),
    record: &[u8],
) -> Result<Secret, ServiceError> {
    let sealed = sealing.seal_bytes(nonce, &bound_to(id, drawn), record)?;
    if sealed.len() > COPY_BYTES_MAX {
        return Ok(Secret::new(drawn.to_owned()));
    }
    Ok(Secret::new(format!("{drawn}.{}", BASE64_URL_SAFE_NO_PAD.encode(sealed))))
}

/// Returns the record in a session token; `None` if it has none, or one of another session or another key.
pub(super) fn record_in(sealing: &SealingKey, id: &str, token: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (drawn, copy) = token.split_once('.')?;
    if copy.len() > COPY_BYTES_MAX.div_ceil(3) * 4 {
        return None;
    }
    sealing.open_bytes(&bound_to(id, drawn), &BASE64_URL_SAFE_NO_PAD.decode(copy).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_opens_for_its_session_alone() {
        let key = |digits: &str| SealingKey::parse(&digits.repeat(32)).unwrap();
        let (ours, theirs) = (key("5a"), key("5b"));
        let made = token(&ours, [1; 12], ("FULT1", "drawn"), b"record").unwrap();
        let made = made.expose();
        assert_eq!(record_in(&ours, "FULT1", made).unwrap().as_slice(), b"record");
        let (drawn, copy) = made.split_once('.').unwrap();
        for (sealing, id, text) in [
            (&theirs, "FULT1", made.to_owned()),
            (&ours, "FULT2", made.to_owned()),
            (&ours, "FULT1", format!("other.{copy}")),
            (&ours, "FULT1", format!("{drawn}.{}", &copy[1..])),
            (&ours, "FULT1", format!("{drawn}.")),
            (&ours, "FULT1", drawn.to_owned()),
            (&ours, "FULT1", format!("{drawn}.{}", "A".repeat(1 << 20))),
        ] {
            assert!(record_in(sealing, id, &text).is_none(), "{text}");
        }
        let long = token(&ours, [1; 12], ("FULT1", "drawn"), &[7; 4000]).unwrap();
        assert_eq!(long.expose(), "drawn");
    }
}
