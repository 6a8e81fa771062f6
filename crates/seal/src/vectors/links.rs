//! Links: what they open without the keys of a vault, and what every reader must refuse.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    bytes, check, keys_of,
    objects::{self, content, device},
    of_keys, text,
};
use crate::{
    BodyKey, SealError, VaultKeys, VaultPath,
    body::{FOOTER_BYTES, FileSealer, Footer, Layout, Metadata, RangeReader, Trailer},
    cobblestone::HEADER_BYTES,
    key::BODY_KEY_BYTES,
    share::{Link, LinkKind, Manifest, ShareId, SharedEntry},
    testing::{Recorded, vault},
    text::{base64url, read_base64url},
};

const TIME: u64 = 1_800_000_000_123_456_789;

/// A body that is sealed for a link alone.
struct Shared {
    id: ShareId,
    key: BodyKey,
    body: Vec<u8>,
    segments: Vec<Vec<u8>>,
}

/// Seals a body in segments of these lengths. `kind` is what its metadata calls it.
fn seal(
    keys: &VaultKeys,
    (path, kind): (&[u8], &str),
    (content, lengths): (&[u8], &[usize]),
    entropy: &mut Recorded,
) -> Shared {
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
    let layout = Layout::new(content.len() as u64, listed).unwrap();
    let metadata = Metadata {
        entries: [("fula-share".to_owned(), kind.to_owned())].into(),
        ..Metadata::of(VaultPath::new(path).unwrap())
    };
    let mut ending = sealer.plan_end(&layout, &metadata, entropy).unwrap();
    for segment in &segments {
        ending.update(segment);
    }
    let body = [segments.concat(), ending.sign(&device(1)).unwrap()].concat();
    Shared { id: ShareId::generate(entropy).unwrap(), key: sealer.key(), body, segments }
}

/// Returns the secret part of a link.
fn link(kind: LinkKind, name: &str, modified: Option<u64>, key: &BodyKey) -> String {
    let link = Link { kind, name: name.to_owned(), modified, key: key.clone() };
    link.to_text().unwrap().to_string()
}

/// A folder with two files, and the list of them.
struct Folder {
    files: Vec<(&'static str, Shared)>,
    list: Shared,
}

impl Folder {
    fn seal(keys: &VaultKeys, entropy: &mut Recorded) -> Self {
        let mut file = |path, len: usize| {
            (path, seal(keys, (b"docs/x", "part"), (&content(len), &[len]), entropy))
        };
        let files = vec![file("a/one", 20), file("two", 17_000)];
        let entry = |(path, file): &(&str, Shared), size| SharedEntry {
            path: path.as_bytes().to_vec(),
            id: file.id,
            key: file.key.clone(),
            size,
            modified: Some(TIME),
        };
        let entries = vec![entry(&files[0], 20), entry(&files[1], 17_000)];
        let list = Manifest(entries).encode().unwrap();
        let list = seal(keys, (b"docs", "folder"), (&list, &[list.len() + 7]), entropy);
        Self { files, list }
    }

    /// Returns everything that lies below `s/`.
    fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let all = self.files.iter().map(|(_, file)| file).chain([&self.list]);
        all.map(|shared| (shared.id.key(), shared.body.clone())).collect()
    }

    fn link(&self) -> String {
        link(LinkKind::Folder, "docs", None, &self.list.key)
    }
}

/// Returns a vector of what a link with a key leads to.
fn vector(link: &str, s3_key: &str, objects: &BTreeMap<String, Vec<u8>>) -> Value {
    let objects = objects.iter().map(|(key, body)| (key.clone(), text(body)));
    json!({"link": link, "s3_key": s3_key, "objects": objects.collect::<Map<_, _>>(), "error": null})
}

fn with(mut vector: Value, fields: Value) -> Value {
    vector.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    vector
}

fn of_file(shared: &Shared, link: &str) -> Value {
    vector(link, &shared.id.key(), &[(shared.id.key(), shared.body.clone())].into())
}

/// Files and a folder that links open.
fn opened(keys: &VaultKeys, entropy: &mut Recorded) -> Vec<Value> {
    let longest = "n".repeat(255);
    let cases = [
        ("a short file", "plan.txt", Some(TIME), content(13), vec![13]),
        ("an empty file without a time", "empty", None, content(0), vec![0]),
        ("a name that is not ASCII", "ä 日本.txt", Some(1), content(1001), vec![1024]),
        ("a file without a name", "", None, content(5), vec![5]),
        ("the longest name", longest.as_str(), None, content(5), vec![5]),
        ("two segments and padding", "two", Some(TIME), content(34_000), vec![16_500, 18_000]),
    ];
    let files = cases.iter().map(|(case, name, modified, content, lengths)| {
        let shared = seal(keys, (b"docs/x", "file"), (content, lengths), entropy);
        let fields = json!({
            "case": case, "keys": of_keys(keys), "kind": "file", "name": name, "modified": modified.map(|ns| ns.to_string()),
            "file_key": text(&*shared.key.to_bytes()), "files": [{"path": null, "content": text(content)}],
        });
        with(of_file(&shared, &link(LinkKind::File, name, *modified, &shared.key)), fields)
    });
    let mut all: Vec<_> = files.collect();
    let folder = Folder::seal(keys, entropy);
    let entry = |path: &str, len: usize| json!({"path": text(path.as_bytes()), "content": text(&content(len)), "modified": TIME.to_string()});
    all.push(with(
        vector(&folder.link(), &folder.list.id.key(), &folder.objects()),
        json!({
            "case": "a folder", "keys": of_keys(keys), "kind": "folder", "name": "docs", "modified": null,
            "file_key": text(&*folder.list.key.to_bytes()), "files": [entry("a/one", 20), entry("two", 17_000)],
        }),
    ));
    all
}

/// Returns a link of other bytes, whose checksum is right.
fn summed(bytes: &[u8]) -> String {
    base64url(&[bytes, &blake3::hash(bytes).as_bytes()[..4]].concat())
}

fn altered_text(link: &str, at: usize) -> String {
    let mut out = link.as_bytes().to_vec();
    out[at] = if out[at] == b'A' { b'Q' } else { b'A' };
    String::from_utf8(out).unwrap()
}

fn replaced(bytes: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out[at..at + with.len()].copy_from_slice(with);
    out
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    replaced(bytes, at, &[bytes[at] ^ 1])
}

/// Links that are not as they were made.
fn altered_links(file: &Shared, add: &mut dyn FnMut(&str, &str, Value)) {
    let good = link(LinkKind::File, "plan.txt", Some(TIME), &file.key);
    let body = read_base64url("the link", &good, 1000).unwrap();
    let body = &body[..body.len() - 4];
    let mut altered = |case, error, link: &str| add(case, error, of_file(file, link));
    altered("the end of the link is missing", "Malformed", &good[..good.len() - 4]);
    altered("nearly all of the link is missing", "Malformed", &good[..20]);
    altered("there is no link", "Malformed", "");
    altered("a character of the key in the link is altered", "Malformed", &altered_text(&good, 9));
    altered(
        "a character of the name in the link is altered",
        "Malformed",
        &altered_text(&good, 70),
    );
    altered(
        "a character of the link is none of base64url",
        "Malformed",
        &good.replacen('A', "+", 1),
    );
    altered("a link with padding", "Malformed", &format!("{good}="));
    altered("a link that is too long", "TooLarge", &"A".repeat(413));
    altered("a newer link", "Unsupported", &summed(&replaced(body, 0, &[2])));
    altered(
        "a link to neither a file nor a folder",
        "Unsupported",
        &summed(&replaced(body, 1, &[2])),
    );
    let bad_name = [&body[..2 + BODY_KEY_BYTES + 8], b"\xff"].concat();
    altered("a name in the link that is not UTF-8", "Malformed", &summed(&bad_name));
    // The checksum is no secret: everyone can make a link that has it.
    altered("another key in the link", "Misplaced", &summed(&flipped(body, 2)));
    altered("another body in the link", "Misplaced", &summed(&flipped(body, 2 + 32)));
}

/// Bodies that are not what was shared.
fn altered_bodies(
    keys: &VaultKeys,
    entropy: &mut Recorded,
    add: &mut dyn FnMut(&str, &str, Value),
) {
    let mut file =
        |keys: &VaultKeys| seal(keys, (b"docs/x", "file"), (&content(1400), &[700, 700]), entropy);
    let (shared, other, foreign) = (file(keys), file(keys), file(&vault(9)));
    let good = link(LinkKind::File, "plan.txt", Some(TIME), &shared.key);
    let body = &shared.body;
    let (first, second) = (shared.segments[0].as_slice(), shared.segments[1].as_slice());
    let end = first.len() + second.len();
    let (tail, footer) = (&body[end..], body.len() - FOOTER_BYTES);
    let mut stored = |case, error, body: &[u8]| {
        add(
            case,
            error,
            vector(&good, &shared.id.key(), &[(shared.id.key(), body.to_vec())].into()),
        );
    };
    stored("the body of another link", "Misplaced", &other.body);
    stored("a body of another vault", "Misplaced", &foreign.body);
    stored("the beginning of the body is missing", "Truncated", &body[1..]);
    stored("a segment of the body is missing", "Truncated", &[first, tail].concat());
    stored("the footer of the body is cut off", "Malformed", &body[..body.len() - 1]);
    stored("nothing but a footer is left of the body", "Truncated", &body[footer..]);
    stored("the body is shorter than a footer", "Truncated", &body[footer + 1..]);
    stored("the body is empty", "Truncated", &[]);
    stored("a byte of what is shared is altered", "Damaged", &flipped(body, HEADER_BYTES + 5));
    stored("the salt of what is shared is altered", "Misplaced", &flipped(body, 3));
    stored(
        "segments of what is shared change places",
        "Misplaced",
        &[second, first, tail].concat(),
    );
    stored(
        "a segment of another link",
        "Misplaced",
        &[other.segments[0].as_slice(), second, tail].concat(),
    );
    stored("the layout of what is shared is altered", "Damaged", &flipped(body, end + 40));
    stored("the footer names a later epoch", "Damaged", &replaced(body, footer + 7, &[9]));
    stored("the footer names another body", "Misplaced", &flipped(body, footer + 12));
    // The path in the URL leads to another body, which is there and genuine.
    let objects = [(shared.id.key(), body.clone()), (other.id.key(), other.body.clone())].into();
    add(
        "the path of the link leads to another body",
        "Misplaced",
        vector(&good, &other.id.key(), &objects),
    );
    // The one who has a link knows the id of its body, so a check of it can be made for any key.
    let forged = crate::key::Secret::new([7; 32]);
    let footer = Footer::parse(body.last_chunk().unwrap()).unwrap();
    let check = forged.derive("link", &[&footer.file.0]);
    let key = [&[7; 32][..], &check.expose()[..8]].concat();
    let wrong = [&[1, 0][..], &key, &[0; 8], b"x"].concat();
    add("a key of nobody that names this body", "Damaged", of_file(&shared, &summed(&wrong)));
    let folder = link(LinkKind::Folder, "docs", None, &shared.key);
    add("a link to a file says that it is a folder", "Malformed", of_file(&shared, &folder));
}

/// Folders that are not what was shared.
fn altered_folders(
    keys: &VaultKeys,
    entropy: &mut Recorded,
    add: &mut dyn FnMut(&str, &str, Value),
) {
    let (folder, other) = (Folder::seal(keys, entropy), Folder::seal(keys, entropy));
    let (list, objects) = (folder.list.id.key(), folder.objects());
    let (one, two) = (&folder.files[0].1, &folder.files[1].1);
    let mut stored = |case, error, changes: &[(&ShareId, &[u8])]| {
        let mut objects = objects.clone();
        objects.extend(changes.iter().map(|(id, body)| (id.key(), body.to_vec())));
        add(case, error, vector(&folder.link(), &list, &objects));
    };
    // Version, count, and the head of an entry come before the first path.
    let path = HEADER_BYTES + 5;
    stored(
        "a path in the list of a folder is altered",
        "Damaged",
        &[(&folder.list.id, &flipped(&folder.list.body, path))],
    );
    stored("the list of another folder", "Misplaced", &[(&folder.list.id, &other.list.body)]);
    stored(
        "files of a folder change places",
        "Misplaced",
        &[(&one.id, &two.body), (&two.id, &one.body)],
    );
    stored("a file of another folder", "Misplaced", &[(&two.id, &other.files[1].1.body)]);
    stored(
        "a file of the folder is altered",
        "Damaged",
        &[(&two.id, &flipped(&two.body, HEADER_BYTES + 16_999))],
    );
    stored("a file of the folder is cut off", "Truncated", &[(&two.id, &two.body[9..])]);
}

/// Reads a body with the key of a link.
fn read(key: &BodyKey, body: &[u8]) -> Result<Vec<u8>, SealError> {
    let footer = body.last_chunk::<FOOTER_BYTES>();
    let footer = Footer::parse(footer.ok_or(SealError::Truncated { what: "the footer" })?)?;
    let len = body.len() as u64;
    let at = |byte: u64| usize::try_from(byte).unwrap();
    let range = footer.trailer_range(len)?;
    let sealed = &body[at(range.start)..at(range.end)];
    let layout = Layout::open_shared(key, &footer, sealed, len)?;
    let mut reader = RangeReader::shared(key, &footer, &layout, 0..layout.size())?;
    let (range, mut out) = (reader.sealed_range(), Vec::new());
    reader.push(&body[at(range.start)..at(range.end)], &mut out)?;
    reader.finish().map(|()| out)
}

/// A path below a folder, none for a file, and a content.
type Files = Vec<(Option<Vec<u8>>, Vec<u8>)>;

/// Opens what a vector describes.
fn open(vector: &Value) -> Result<(Link, Files), SealError> {
    let link = Link::parse(vector["link"].as_str().unwrap())?;
    let body = |key: &str| bytes(&vector["objects"][key]);
    let content = read(&link.key, &body(vector["s3_key"].as_str().unwrap()))?;
    let files = match link.kind {
        LinkKind::File => vec![(None, content)],
        LinkKind::Folder => {
            let entries = Manifest::decode(content)?.0.into_iter();
            let files = entries.map(|entry| {
                let content = read(&entry.key, &body(&entry.id.key()))?;
                assert_eq!((content.len() as u64, entry.modified), (entry.size, Some(TIME)));
                Ok((Some(entry.path), content))
            });
            files.collect::<Result<_, SealError>>()?
        }
    };
    Ok((link, files))
}

fn check_opened(vector: &Value) {
    let (link, files) = open(vector).unwrap();
    let kind = if link.kind == LinkKind::File { "file" } else { "folder" };
    let modified = link.modified.map(|time| time.to_string());
    assert_eq!(
        json!([kind, link.name, modified]),
        json!([vector["kind"], vector["name"], vector["modified"]])
    );
    assert_eq!(link.key.to_bytes()[..], bytes(&vector["file_key"]));
    let expected = vector["files"].as_array().unwrap().iter();
    let expected = expected.map(|file| {
        let path = file["path"].as_str().map(|_| bytes(&file["path"]));
        (path, bytes(&file["content"]))
    });
    assert_eq!(files, expected.collect::<Vec<_>>());
    // A member sees what the body is.
    let body = bytes(&vector["objects"][vector["s3_key"].as_str().unwrap()]);
    let footer = Footer::parse(body.last_chunk().unwrap()).unwrap();
    let range = footer.trailer_range(body.len() as u64).unwrap();
    let at = |byte: u64| usize::try_from(byte).unwrap();
    let sealed = &body[at(range.start)..at(range.end)];
    let keys = keys_of(&vector["keys"]);
    let trailer = Trailer::open(&keys, &footer, sealed, body.len() as u64, None).unwrap();
    assert_eq!(trailer.metadata.entries["fula-share"], vector["kind"]);
}

#[test]
fn vectors_of_links_are_unchanged_and_open_or_are_refused() {
    let (keys, mut entropy) = (objects::keys(), Recorded::new(41));
    let mut vectors = opened(&keys, &mut entropy);
    vectors.iter().for_each(check_opened);
    let mut refused = Vec::new();
    let mut add = |case: &str, error: &str, vector: Value| {
        refused.push(with(vector, json!({"case": case, "error": error})));
    };
    let file = seal(&keys, (b"docs/x", "file"), (&content(13), &[13]), &mut entropy);
    altered_links(&file, &mut add);
    altered_bodies(&keys, &mut entropy, &mut add);
    altered_folders(&keys, &mut entropy, &mut add);
    entropy.assert_all_different();
    assert!(refused.len() >= 30);
    for vector in &refused {
        let found = open(vector).map(drop).expect_err(&vector["case"].to_string());
        let found = format!("{found:?}");
        let variant = found.split(' ').next().unwrap();
        assert_eq!(variant, vector["error"], "{}: {found}", vector["case"]);
    }
    vectors.extend(refused);
    check("links.json", &Value::Array(vectors));
}
