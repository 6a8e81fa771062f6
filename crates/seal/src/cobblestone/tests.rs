//! The vectors of Wycheproof for Cobblestone-256 (github.com/C2SP/wycheproof, Apache-2.0).

use super::*;

/// Opens a whole message.
fn open(key: &[u8; 32], context: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    let (header, chunks) = message.split_first_chunk::<HEADER_BYTES>()?;
    let salt: Salt = header[..SALT_BYTES].try_into().ok()?;
    let commitment: Commitment = header[SALT_BYTES..].try_into().ok()?;
    let keys = Message::derive(key, &salt, &[context]);
    if !keys.commits_to(&commitment) {
        return None;
    }
    plain_bytes(message.len() as u64)?;
    let (mut out, last) = (Vec::new(), chunks.len() / SEALED_CHUNK_BYTES);
    for chunk in 0..=last {
        let end = chunks.len().min((chunk + 1) * SEALED_CHUNK_BYTES);
        let mut sealed = chunks[chunk * SEALED_CHUNK_BYTES..end].to_vec();
        keys.open_chunk(chunk as u64, &mut sealed, &mut out).ok()?;
    }
    Some(out)
}

#[test]
fn every_vector_of_wycheproof_is_opened_or_refused() {
    let file = include_str!("../../tests/vectors/wycheproof_cobblestone_256.json");
    let file: serde_json::Value = serde_json::from_str(file).unwrap();
    let (mut opened, mut refused) = (0, 0);
    for test in file["testGroups"][0]["tests"].as_array().unwrap() {
        let bytes = |name: &str| hex::decode(test[name].as_str().unwrap()).unwrap();
        let message = miniz_oxide::inflate::decompress_to_vec_zlib(&bytes("ct")).unwrap();
        let key: Result<[u8; 32], _> = bytes("key").try_into();
        let found = key.ok().and_then(|key| open(&key, &bytes("ctx"), &message));
        let case = &test["comment"];
        assert_eq!(found.is_some(), test["result"] == "valid", "{case}");
        let Some(found) = found else {
            refused += 1;
            continue;
        };
        opened += 1;
        let hash = ring::digest::digest(&ring::digest::SHA512, &found);
        assert_eq!(hash.as_ref(), bytes("msgSha512"), "{case}");
        // What is sealed again, with the same salt, is the same message.
        let salt: Salt = message[..SALT_BYTES].try_into().unwrap();
        let key = bytes("key").try_into().unwrap();
        let keys = Message::derive(&key, &salt, &[&bytes("ctx")]);
        assert!(keys.seal(&salt, &found) == message, "{case}");
    }
    assert_eq!((opened, refused), (10, 25));
}

#[test]
fn lengths_of_messages_follow_from_lengths_of_plaintext() {
    for plain in [0, 1, 16_383, 16_384, 16_385, 1022 * 16_384, 1 << 40] {
        let sealed = sealed_bytes(plain);
        assert_eq!(plain_bytes(sealed), Some(plain));
    }
    assert_eq!(sealed_bytes(1022 * 16_384), 16_760_872);
    for none in [0, 55, 56, 71, 56 + 16_400, 56 + 16_400 + 15] {
        assert_eq!(plain_bytes(none), None, "{none}");
    }
}
