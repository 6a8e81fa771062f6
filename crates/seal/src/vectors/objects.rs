//! Objects that open: keys, salts and content, and the bytes that they give.

use serde_json::{Value, json};

use super::{bytes, check, keys_of, of_keys, text, writer};
use crate::{
    Padding, SealedKey, VaultKeys, VaultPath,
    body::{self, FileSealer, Layout, Metadata},
    key::Secret,
    name::{Kept, Name, Opened},
    signature::SigningKey,
    testing::{Recorded, vault},
};

/// A sealed object, with everything that was drawn for it.
pub(super) struct Object {
    pub(super) segments: Vec<Vec<u8>>,
    pub(super) ending: Vec<u8>,
    pub(super) key: String,
    pub(super) listed: String,
    pub(super) kept: String,
    file: Vec<u8>,
    salts: Vec<Value>,
}

impl Object {
    pub(super) fn body(&self) -> Vec<u8> {
        [self.segments.concat(), self.ending.clone()].concat()
    }
}

pub(super) fn device(seed: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::new([seed; 32]))
}

pub(super) fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251).to_le_bytes()[0]).collect()
}

/// Whether a body has a proof of its content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Proved {
    Yes,
    No,
}

/// Seals a file in segments of these lengths.
pub(super) fn seal(
    keys: &VaultKeys,
    (path, clock): (&[u8], u64),
    (content, lengths, proved): (&[u8], &[usize], Proved),
    device: &SigningKey,
    entropy: &mut Recorded,
) -> Object {
    let path = VaultPath::new(path).unwrap();
    let sealer = FileSealer::new(keys, entropy).unwrap();
    let (mut listed, mut segments, mut at) = (Vec::new(), Vec::new(), 0);
    for (ordinal, length) in lengths.iter().enumerate() {
        let mut plain = content[at.min(content.len())..(at + length).min(content.len())].to_vec();
        plain.resize(*length, 0);
        let (segment, sealed) = sealer.seal_segment(ordinal as u64, &plain, entropy).unwrap();
        listed.push(segment);
        segments.push(sealed);
        at += length;
    }
    let salts = listed.iter().map(|segment| text(segment.salt())).collect();
    let layout = Layout::new(content.len() as u64, listed).unwrap();
    let metadata = Metadata {
        modified: Some(1_800_000_000_123_456_789),
        etag: Some("d41d8cd98f00b204e9800998ecf8427e".to_owned()),
        entries: [("content-type", "text/plain"), ("x-amz-meta-a", "ä")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..Metadata::of(path.clone())
    };
    let (ending, anchor) = match proved {
        Proved::No => {
            let ending = sealer.finish(&layout, &metadata, entropy).unwrap();
            (ending.bytes, ending.anchor)
        }
        Proved::Yes => {
            let mut ending = sealer.plan_end(&layout, &metadata, entropy).unwrap();
            for segment in &segments {
                ending.update(segment);
            }
            let (bytes, anchor) = (ending.sealed_bytes(), ending.anchor);
            let ending = ending.sign(device).unwrap();
            assert_eq!(ending.len(), bytes);
            (ending, anchor)
        }
    };
    let Metadata { modified, etag, .. } = metadata;
    let name = Name { path, size: content.len() as u64, modified, etag, clock };
    let sealed = name.seal(keys, &anchor, device, entropy).unwrap();
    Object {
        segments,
        ending,
        key: sealed.key.as_str().to_owned(),
        listed: sealed.listed,
        kept: sealed.kept,
        file: sealer.file().0.to_vec(),
        salts,
    }
}

/// Returns a vault in its second epoch.
pub(super) fn keys() -> VaultKeys {
    let mut keys = vault(1);
    keys.begin_epoch(&mut Recorded::new(2)).unwrap();
    keys
}

#[test]
fn vectors_of_objects_are_unchanged_and_open() {
    let (keys, device) = (keys(), device(1));
    let padded =
        |size: usize| usize::try_from(Padding::Padme.padded(size as u64)).expect("a few bytes");
    let (yes, no) = (Proved::Yes, Proved::No);
    let cases = [
        ("an empty file", b"empty".as_slice(), content(0), vec![0], no),
        ("a short file", b"docs/plan.txt", content(13), vec![13], no),
        ("a file with padding", b"a\xff\x00b", content(1001), vec![padded(1001)], no),
        ("a chunk and nothing", b"chunk", content(16_384), vec![16_384], no),
        ("two segments of two chunks", &[b'x'; 300], content(34_000), vec![16_500, 18_000], no),
        ("an empty file with a proof", b"empty", content(0), vec![0], yes),
        ("a short file with a proof", b"docs/plan.txt", content(13), vec![13], yes),
        ("two segments with a proof", b"two", content(34_000), vec![16_500, 18_000], yes),
        ("chunks of padding with a proof", b"padded", content(70), vec![40, 33_000, 9], yes),
    ];
    let mut entropy = Recorded::new(3);
    let mut vectors = Vec::new();
    for (at, (case, path, content, lengths, proved)) in cases.iter().enumerate() {
        let clock = at as u64 + 1;
        let content = (content.as_slice(), lengths.as_slice(), *proved);
        let object = seal(&keys, (path, clock), content, &device, &mut entropy);
        let (is_proved, content) = (*proved == yes, content.0);
        vectors.push(json!({
            "proof": is_proved, "case": case, "keys": of_keys(&keys), "device_seed": text(&[1; 32]), "path": text(path),
            "clock": clock, "content": text(content), "segment_bytes": lengths,
            "file": text(&object.file), "salts": object.salts, "modified": "1800000000123456789",
            "s3_key": object.key, "fula_n": object.listed, "fula_k": object.kept, "body": text(&object.body()),
        }));
    }
    entropy.assert_all_different();
    let vectors = Value::Array(vectors);
    check("objects.json", &vectors);

    for vector in vectors.as_array().unwrap() {
        let keys = keys_of(&vector["keys"]);
        let opened = body::open_whole(&keys, &bytes(&vector["body"])).unwrap();
        assert_eq!(opened.content, bytes(&vector["content"]));
        let key = SealedKey::parse(vector["s3_key"].as_str().unwrap()).unwrap();
        let name = Opened::open(&keys, key, vector["fula_n"].as_str().unwrap()).unwrap();
        let kept = Kept::parse(vector["fula_k"].as_str().unwrap()).unwrap();
        let writers = json!([[text(&device.public().0), Value::Null]]);
        let key_of = |id, epoch| writer(&writers, id, epoch);
        let anchor = name.verify(&keys, &kept, key_of).unwrap();
        let named = body::open_named(&keys, &bytes(&vector["body"]), &anchor, key_of).unwrap();
        assert!(named == opened);
        assert_eq!(name.name.path.as_bytes(), bytes(&vector["path"]));
    }
}
