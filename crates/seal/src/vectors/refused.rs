//! What every reader must refuse, and with which error.

use serde_json::{Map, Value, json};

use super::{
    array, bytes, check, keyrings, keys_of,
    objects::{self, Object, Proved, content, device, seal},
    of_keys, text, writer,
};
use crate::{
    SealError, SealedKey, VaultKeys,
    body::{self, FOOTER_BYTES},
    cobblestone::HEADER_BYTES,
    key::Secret,
    keyring::{
        Checkpoint, Keyring, Role, SealedKeyring, Trust,
        testing::{admit_oneself, create, identity, signed_by_a_reader},
    },
    name::{Anchor, Kept, Opened},
    slot::Identity,
    testing::{Recorded, vault},
};

/// Vectors of one kind of thing: the fields that they share, and what was added.
struct Cases<'a> {
    shared: Value,
    all: &'a mut Vec<Value>,
}

impl Cases<'_> {
    fn add(&mut self, case: &str, error: &str, fields: Value) {
        let mut vector: Map<String, Value> = self.shared.as_object().unwrap().clone();
        vector.extend(fields.as_object().unwrap().clone());
        vector.insert("case".to_owned(), case.into());
        vector.insert("error".to_owned(), error.into());
        self.all.push(vector.into());
    }
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out[at] ^= 1;
    out
}

fn replaced(bytes: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out[at..at + with.len()].copy_from_slice(with);
    out
}

fn bodies(all: &mut Vec<Value>) {
    let (keys, device, mut entropy) = (objects::keys(), device(1), Recorded::new(21));
    let mut file = |len, lengths: &[usize]| {
        let content = content(len);
        seal(&keys, (b"path", 1), (&content, lengths, Proved::No), &device, &mut entropy)
    };
    let (object, other) = (file(1400, &[700, 700]), file(1400, &[700, 700]));
    let (body, ending) = (object.body(), object.ending.clone());
    let end = body.len() - ending.len();
    let footer = body.len() - FOOTER_BYTES;
    let joined = |segments: &[&[u8]]| [segments.concat(), ending.clone()].concat();
    let (first, second) = (object.segments[0].as_slice(), object.segments[1].as_slice());
    let mut chunks = body.clone();
    let (one, two) = chunks[HEADER_BYTES..].split_at_mut(300);
    one.swap_with_slice(&mut two[..300]);
    let mut cases = Cases { shared: json!({"open": "body", "keys": of_keys(&keys)}), all };
    let mut add = |case, error, body: &[u8]| cases.add(case, error, json!({"body": text(body)}));
    add("a chunk is altered", "Damaged", &flipped(&body, HEADER_BYTES + 5));
    add("a tag is altered", "Damaged", &flipped(&body, HEADER_BYTES + 700 + 15));
    add("bytes of a chunk change places", "Damaged", &chunks);
    add("the salt of a segment is altered", "Misplaced", &flipped(&body, 3));
    add("the commitment of a segment is altered", "Misplaced", &flipped(&body, 30));
    add("two segments change places", "Misplaced", &joined(&[second, first]));
    add("a segment twice", "Misplaced", &joined(&[first, first]));
    add("a segment of another file", "Misplaced", &joined(&[&other.segments[0], second]));
    add("the end of the content is missing", "Truncated", &joined(&[&body[..end - 1]]));
    add("a segment is missing", "Truncated", &joined(&[first]));
    add("there are bytes after the content", "Truncated", &joined(&[&body[..end], &[0; 16]]));
    add("there are bytes after the footer", "Malformed", &[&body[..], &[0]].concat());
    add("the footer is cut off", "Malformed", &body[..body.len() - 1]);
    add("there is no footer", "Truncated", &body[body.len() - FOOTER_BYTES + 1..]);
    add("nothing but a footer", "Truncated", &body[footer..]);
    add("the layout is altered", "Damaged", &flipped(&body, end + 40));
    add("the metadata is altered", "Damaged", &flipped(&body, footer - 20));
    add("a newer suite", "Unsupported", &replaced(&body, footer + 8, &[2]));
    add("an unknown flag", "Malformed", &replaced(&body, footer + 9, &[1]));
    add("an epoch that is not there yet", "UnknownEpoch", &replaced(&body, footer + 7, &[2]));
    add("an older epoch", "Damaged", &replaced(&body, footer + 7, &[0]));
    add("another file id", "Damaged", &flipped(&body, footer + 12));
    add("a trailer of 4 GiB", "TooLarge", &replaced(&body, footer, &[0xff; 4]));
    add(
        "the trailer of another file",
        "Damaged",
        &[&body[..end], &other.ending[..200], &ending[200..]].concat(),
    );
    cases.add(
        "the keys of another vault",
        "UnknownEpoch",
        json!({"keys": of_keys(&vault(9)), "body": text(&body)}),
    );
    let mut foreign = vault(9);
    foreign.begin_epoch(&mut Recorded::new(5)).unwrap();
    cases.add(
        "the keys of another vault in this epoch",
        "Damaged",
        json!({"keys": of_keys(&foreign), "body": text(&body)}),
    );
}

fn of_name(object: &Object) -> Value {
    json!({"s3_key": object.key, "fula_n": object.listed, "fula_k": object.kept})
}

fn altered(value: &str, at: usize) -> String {
    let mut out = value.as_bytes().to_vec();
    out[at] = if out[at] == b'A' { b'Q' } else { b'A' };
    String::from_utf8(out).unwrap()
}

fn names(all: &mut Vec<Value>) {
    let (keys, mut entropy) = (objects::keys(), Recorded::new(31));
    let (owner, reader) = (device(1), device(2));
    let mut named = |path: &[u8], clock, device| {
        seal(&keys, (path, clock), (b"content", &[7], Proved::No), device, &mut entropy)
    };
    let (name, newer) = (named(b"one", 4, &owner), named(b"one", 5, &owner));
    let (other, forged) = (named(b"two", 4, &owner), named(b"one", 6, &reader));
    let writers = json!([[text(&owner.public().0), Value::Null]]);
    let shared = json!({"open": "name", "keys": of_keys(&keys), "writers": writers, "clock": 0});
    let mut cases = Cases { shared, all };
    let with = |field: &str, value: Value| {
        let mut fields = of_name(&name);
        fields[field] = value;
        fields
    };
    let (listed, kept) = (name.listed.as_str(), name.kept.as_str());
    cases.add(
        "the name of another object",
        "Misplaced",
        with("fula_n", other.listed.clone().into()),
    );
    cases.add("the key of another object", "Misplaced", with("s3_key", other.key.into()));
    let mut foreign = vault(9);
    foreign.begin_epoch(&mut Recorded::new(5)).unwrap();
    cases.add("the keys of another vault", "Misplaced", with("keys", of_keys(&foreign)));
    cases.add(
        "a tag is altered",
        "Damaged",
        with("fula_n", altered(listed, listed.len() - 5).into()),
    );
    cases.add("a nonce is altered", "Damaged", with("fula_n", altered(listed, 30).into()));
    cases.add("the commitment is altered", "Misplaced", with("fula_n", altered(listed, 10).into()));
    cases.add("nothing but an epoch", "Truncated", with("fula_n", listed[..8].into()));
    cases.add(
        "it is no base64url",
        "Malformed",
        with("fula_n", format!("{}=", &listed[1..]).into()),
    );
    cases.add("the body of a newer version", "Misplaced", with("fula_k", newer.kept.into()));
    cases.add("the body of another object", "Misplaced", with("fula_k", other.kept.into()));
    cases.add("the signature is altered", "NotSigned", with("fula_k", altered(kept, 260).into()));
    cases.add("the record is cut off", "Malformed", with("fula_k", kept[..268].into()));
    let mut newer_suite = crate::text::read_base64url("", kept, 204).unwrap();
    newer_suite[4] = 2;
    let newer_suite = crate::text::base64url(&newer_suite);
    cases.add("a newer suite", "Unsupported", with("fula_k", newer_suite.into()));
    cases.add("a member that only reads", "NotSigned", of_name(&forged));
    let left = json!([[text(&owner.public().0), 1]]);
    cases.add("a writer that has left", "NotSigned", with("writers", left));
    cases.add("an older version", "Replayed", with("clock", 5.into()));
}

fn of_keyring(keyring: &Keyring, identity: &Identity) -> Value {
    json!({"keyring": text(keyring.sealed().as_bytes()), "seed": text(identity.seed().expose())})
}

fn keyring_vectors(all: &mut Vec<Value>) {
    let mut entropy = Recorded::new(41);
    let (owner, gone, reader, server) = (identity(1), identity(2), identity(3), identity(66));
    let first = create(&[&owner, &gone], &mut entropy);
    let mut draft = first.edit(owner.signing_key()).unwrap();
    draft.remove(&[first.sealed().slots()[1].id()], &[], &mut entropy).unwrap();
    let second = draft.seal(&mut entropy).unwrap();
    let fork = first.edit(gone.signing_key()).unwrap().seal(&mut entropy).unwrap();
    let further = fork.edit(gone.signing_key()).unwrap().seal(&mut entropy).unwrap();
    let mut draft = create(&[&server], &mut entropy).edit(server.signing_key()).unwrap();
    draft.invite(&owner.recipient(), "", &mut entropy).unwrap();
    let foreign = draft.seal(&mut entropy).unwrap();

    let shared = json!({"open": "keyring", "fingerprint": Value::Null, "seen": Value::Null});
    let mut cases = Cases { shared, all };
    let stored = first.sealed().as_bytes();
    let (len, seed) = (stored.len(), text(owner.seed().expose()));
    let mut add = |case, error, bytes: &[u8]| {
        cases.add(case, error, json!({"keyring": text(bytes), "seed": seed}));
    };
    add("the MAC is altered", "Damaged", &flipped(stored, len - 1));
    add("the signature is altered", "Damaged", &flipped(stored, len - 50));
    add("the last byte is missing", "Truncated", &stored[..len - 1]);
    add("nothing", "Truncated", &[]);
    add("a byte more", "Malformed", &[stored, &[0]].concat());
    add(
        "a number that is not in its shortest form",
        "Malformed",
        &[&stored[..1], &[0x18, 1], &stored[2..]].concat(),
    );
    add("a newer format", "Unsupported", &replaced(stored, 1, &[2]));
    add("a newer suite", "Unsupported", &replaced(stored, 19, &[2]));
    add("levels", "Unsupported", &replaced(stored, 20, &[1]));
    add("a vault of the server", "ForeignVault", foreign.sealed().as_bytes());
    add("a slot is altered", "Damaged", &flipped(stored, 2000));
    add(
        "signed by a member that only reads",
        "NotSigned",
        signed_by_a_reader(&first, reader.signing_key()).sealed().as_bytes(),
    );
    for (case, role) in [
        ("a writer that admitted itself", Role::Writer),
        ("an admin that admitted itself", Role::Admin),
    ] {
        add(
            case,
            "NotSigned",
            admit_oneself(&first, reader.signing_key(), role).sealed().as_bytes(),
        );
    }
    cases.add("no slot", "WrongKey", of_keyring(&first, &reader));
    cases.add("a member that was removed", "WrongKey", of_keyring(&second, &gone));
    let seen = |keyring: &Keyring, seen: &Keyring| {
        let mut fields = of_keyring(keyring, &owner);
        fields["seen"] = text(seen.sealed().as_bytes());
        fields
    };
    cases.add("an older generation", "RolledBack", seen(&first, &second));
    cases.add("another history", "Forked", seen(&fork, &second));
    cases.add("an admin that was removed", "Forked", seen(&further, &second));
    cases.add("another vault than before", "ForeignVault", seen(&foreign, &second));
    let mut fields = of_keyring(&first, &owner);
    fields["fingerprint"] = foreign.fingerprint().to_string().into();
    cases.add("another fingerprint", "ForeignVault", fields);
    let passphrases = keyrings::generations(&mut entropy)[0].sealed().as_bytes().to_vec();
    cases.add(
        "a wrong passphrase",
        "WrongPassphrase",
        json!({"keyring": text(&passphrases), "passphrase": "correct horse"}),
    );
    let checkpoint =
        Checkpoint::of(&first, 7, fula_core::Cid::of(fula_core::Codec::Raw, b"")).to_string();
    let mistyped = checkpoint.replacen('q', "p", 1);
    cases.add(
        "a checkpoint that was mistyped",
        "Malformed",
        json!({"open": "checkpoint", "text": mistyped}),
    );
}

/// Content that is replaced by members who may only read, with the help of the server.
fn proofs(all: &mut Vec<Value>) {
    let (keys, owner, reader) = (objects::keys(), device(1), device(2));
    let (old, new) = (content(1400), vec![b'!'; 1400]);
    let lengths = [700, 700];
    let file = |content, proved, device, seed| {
        let mut entropy = Recorded::new(seed);
        seal(&keys, (b"path", 1), (content, &lengths, proved), device, &mut entropy)
    };
    let object = file(&old, Proved::Yes, &owner, 51);
    // The same salts and the same file id: what a member can do who has the keys.
    let forged = file(&new, Proved::Yes, &reader, 51);
    let other = file(&old, Proved::Yes, &owner, 52);
    let end = object.ending.len() - FOOTER_BYTES;
    let proof = end - (2 * 32 + 8 + 64);
    let (segments, ending) = (object.segments.concat(), &object.ending);
    let (trailer, footer) = (&ending[..proof], &ending[end..]);
    let writers = json!([[text(&owner.public().0), Value::Null]]);
    let mut shared = of_name(&object);
    shared["open"] = "object".into();
    shared["keys"] = of_keys(&keys);
    shared["writers"] = writers;
    let mut cases = Cases { shared, all };
    let mut add = |case, error, parts: &[&[u8]]| {
        cases.add(case, error, json!({"body": text(&parts.concat())}));
    };
    let replaced = forged.segments.concat();
    add("a reader and the server replace a body", "Replaced", &[&replaced, ending]);
    add(
        "a reader and the server replace the last segment",
        "Replaced",
        &[&object.segments[0], &forged.segments[1], ending],
    );
    add(
        "a reader and the server replace a body and its proof",
        "NotSigned",
        &[&replaced, trailer, &forged.ending[proof..end], footer],
    );
    add(
        "a writer is named that did not sign",
        "NotSigned",
        &[&replaced, trailer, &forged.ending[proof..proof + 64], &ending[proof + 64..]],
    );
    let without = file(&new, Proved::No, &reader, 51).body();
    add("the proof is taken away", "Misplaced", &[&without]);
    add("the proof is cut off", "Misplaced", &[&segments, trailer, &ending[proof + 32..]]);
    add(
        "the proof of another body",
        "NotSigned",
        &[&segments, trailer, &other.ending[proof..end], footer],
    );
    add("a hash of the proof is altered", "NotSigned", &[&segments, &flipped(ending, proof + 3)]);
}

/// Opens what a vector describes.
fn open(vector: &Value) -> Result<(), SealError> {
    match vector["open"].as_str().unwrap() {
        "body" => body::open_whole(&keys_of(&vector["keys"]), &bytes(&vector["body"])).map(drop),
        "name" => open_name(&keys_of(&vector["keys"]), vector).map(drop),
        "object" => {
            let (keys, body) = (keys_of(&vector["keys"]), bytes(&vector["body"]));
            let key_of = |id, epoch| writer(&vector["writers"], id, epoch);
            body::open_named(&keys, &body, &open_name(&keys, vector)?, key_of).map(drop)
        }
        "keyring" => open_keyring(vector),
        _ => vector["text"].as_str().unwrap().parse::<Checkpoint>().map(drop),
    }
}

fn open_name(keys: &VaultKeys, vector: &Value) -> Result<Anchor, SealError> {
    let key = SealedKey::parse(vector["s3_key"].as_str().unwrap()).unwrap();
    let name = Opened::open(keys, key, vector["fula_n"].as_str().unwrap())?;
    let kept = Kept::parse(vector["fula_k"].as_str().unwrap())?;
    let anchor = name.verify(keys, &kept, |id, epoch| writer(&vector["writers"], id, epoch))?;
    name.check_clock(vector["clock"].as_u64().unwrap_or_default())?;
    Ok(anchor)
}

fn open_keyring(vector: &Value) -> Result<(), SealError> {
    let keyring = SealedKeyring::parse(&bytes(&vector["keyring"]))?;
    let identity = match vector["passphrase"].as_str() {
        Some(passphrase) => keyring.identity_of_passphrase(passphrase)?,
        None => Identity::from_seed(Secret::new(array(&vector["seed"]))),
    };
    let fingerprint = vector["fingerprint"].as_str().map(|text| text.parse().unwrap());
    let seen = vector["seen"].as_str();
    let seen = seen.map(|seen| SealedKeyring::parse(&hex::decode(seen).unwrap()).unwrap());
    keyring.open(&identity, &Trust { fingerprint, seen: seen.as_ref() }).map(drop)
}

#[test]
fn vectors_of_what_is_refused_are_unchanged_and_refused() {
    let mut vectors = Vec::new();
    bodies(&mut vectors);
    names(&mut vectors);
    keyring_vectors(&mut vectors);
    proofs(&mut vectors);
    assert!(vectors.len() >= 30);
    for vector in &vectors {
        let error = format!("{:?}", open(vector).expect_err(&vector["case"].to_string()));
        let variant = error.split(' ').next().unwrap();
        assert_eq!(variant, vector["error"], "{}: {error}", vector["case"]);
    }
    check("refused.json", &Value::Array(vectors));
}
