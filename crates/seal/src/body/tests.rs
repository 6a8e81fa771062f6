//! Bodies, and every way in which a server may alter one.

use proptest::prelude::*;

use super::*;
use crate::{
    SealError, VaultKeys, VaultPath,
    cobblestone::{CHUNK_BYTES, HEADER_BYTES, SEALED_CHUNK_BYTES},
    key::Secret,
    name::Anchor,
    signature::{DeviceId, PublicKey, SigningKey},
    testing::{Recorded, vault},
};

const CONTENT: SealError = SealError::Damaged { what: "the content" };
const OTHER: SealError = SealError::Misplaced { what: "the content" };

pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) layout: Layout,
    pub(super) anchor: Anchor,
}

/// Seals content in segments of these lengths.
fn seal(keys: &VaultKeys, content: &[u8], lengths: &[usize], entropy: &mut Recorded) -> Body {
    let sealer = FileSealer::new(keys, entropy).unwrap();
    let (mut bytes, mut segments, mut at) = (Vec::new(), Vec::new(), 0);
    for (ordinal, length) in lengths.iter().enumerate() {
        let mut plain = content[at.min(content.len())..(at + length).min(content.len())].to_vec();
        plain.resize(*length, 0);
        let (segment, sealed) = sealer.seal_segment(ordinal as u64, &plain, entropy).unwrap();
        assert_eq!(segment.sealed_bytes(), sealed.len() as u64);
        segments.push(segment);
        bytes.extend(sealed);
        at += length;
    }
    let layout = Layout::new(content.len() as u64, segments).unwrap();
    let metadata = Metadata {
        modified: Some(1),
        etag: Some("abc".to_owned()),
        entries: [("content-type".to_owned(), "text/plain".to_owned())].into(),
        ..Metadata::of(VaultPath::new(b"secret-path/file").unwrap())
    };
    let ending = sealer.finish(&layout, &metadata, entropy).unwrap();
    bytes.extend(&ending.bytes);
    Body { bytes, layout, anchor: ending.anchor }
}

pub(super) fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251).to_le_bytes()[0]).collect()
}

/// Two segments of three chunks each, of which the last holds padding.
fn two_segments() -> (VaultKeys, Body) {
    let keys = vault(1);
    let lengths = [2 * CHUNK_BYTES + 9, 2 * CHUNK_BYTES + 40];
    let body = seal(&keys, &content(4 * CHUNK_BYTES + 20), &lengths, &mut Recorded::new(2));
    (keys, body)
}

fn why(keys: &VaultKeys, bytes: &[u8]) -> SealError {
    open_whole(keys, bytes).unwrap_err()
}

/// Reads a range of a body in pieces.
fn read(keys: &VaultKeys, body: &Body, range: std::ops::Range<u64>, piece: usize) -> Vec<u8> {
    let mut reader = RangeReader::new(keys, &body.anchor.footer(), &body.layout, range).unwrap();
    let sealed = reader.sealed_range();
    let (start, end) =
        (usize::try_from(sealed.start).unwrap(), usize::try_from(sealed.end).unwrap());
    let mut out = Vec::new();
    for piece in body.bytes[start..end].chunks(piece) {
        reader.push(piece, &mut out).unwrap();
    }
    reader.finish().unwrap();
    out
}

#[test]
fn a_body_alone_gives_content_and_metadata() {
    let (keys, body) = two_segments();
    let opened = open_whole(&keys, &body.bytes).unwrap();
    assert_eq!(opened.content, content(4 * CHUNK_BYTES + 20));
    assert_eq!(opened.metadata.path.as_bytes(), b"secret-path/file");
    assert_eq!(opened.metadata.entries["content-type"], "text/plain");
    let shown = [b"secret-path".as_slice(), b"text/plain"];
    assert!(shown.iter().all(|text| !body.bytes.windows(text.len()).any(|bytes| bytes == *text)));
}

#[test]
fn an_empty_file_is_authenticated_too() {
    let keys = vault(1);
    let mut body = seal(&keys, &[], &[0], &mut Recorded::new(2));
    assert!(open_whole(&keys, &body.bytes).unwrap().content.is_empty());
    body.bytes[HEADER_BYTES] ^= 1;
    assert_eq!(why(&keys, &body.bytes), CONTENT);
}

#[test]
fn no_salt_or_nonce_is_drawn_twice_also_not_for_the_same_segment() {
    let (keys, mut entropy) = (vault(1), Recorded::new(3));
    let sealer = FileSealer::new(&keys, &mut entropy).unwrap();
    let attempts = [0, 0, 1, 0]
        .map(|ordinal| sealer.seal_segment(ordinal, b"the same content", &mut entropy).unwrap());
    seal(&keys, b"again", &[5], &mut entropy);
    entropy.assert_all_different();
    for (at, (segment, sealed)) in attempts.iter().enumerate() {
        assert!(entropy.drawn.iter().any(|drawn| drawn == segment.salt()));
        for (other, bytes) in &attempts[..at] {
            assert!(
                segment.salt() != other.salt() && sealed[HEADER_BYTES..] != bytes[HEADER_BYTES..]
            );
        }
    }
}

#[test]
fn the_size_of_segments_follows_from_the_size_of_the_file() {
    assert_eq!(segment_bytes(0), 16_744_448);
    assert_eq!(segment_bytes(9000 * 16_744_448), 16_744_448);
    assert_eq!(segment_bytes(9000 * 16_744_448 + 1), 2 * 16_744_448);
    assert!((1_u64 << 48).div_ceil(segment_bytes(1 << 48)) <= 9000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_range_in_any_pieces_is_that_part_of_the_content(
        lengths in prop::collection::vec(0_usize..40_000, 1..4),
        cut in 0_usize..500,
        (start, len) in (0_u64..130_000, 0_u64..130_000),
        piece in 1_usize..70_000,
    ) {
        let keys = vault(1);
        let plain = content(lengths.iter().sum::<usize>().saturating_sub(cut));
        let body = seal(&keys, &plain, &lengths, &mut Recorded::new(4));
        prop_assert_eq!(&open_whole(&keys, &body.bytes).unwrap().content, &plain);
        let cut = |at: u64| usize::try_from(at).unwrap().min(plain.len());
        let found = read(&keys, &body, start..start + len, piece);
        prop_assert_eq!(&found[..], &plain[cut(start)..cut(start + len)]);
    }

    #[test]
    fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), footer in any::<bool>()) {
        if footer {
            bytes.extend(b"FULASEAL");
        }
        prop_assert!(open_whole(&vault(1), &bytes).is_err());
    }
}

#[test]
fn attack_alter_a_byte_anywhere() {
    let (keys, body) = two_segments();
    // Every byte of headers, tags, trailer and footer, and some of each chunk. What holds padding alone is
    // not read; the layout proves its length.
    let dense = body.bytes.len() - 600;
    for at in (0..dense).step_by(997).chain(0..HEADER_BYTES).chain(dense..body.bytes.len()) {
        let mut altered = body.bytes.clone();
        altered[at] ^= 1;
        assert!(open_whole(&keys, &altered).is_err(), "{at}");
    }
    let mut altered = body.bytes.clone();
    altered[HEADER_BYTES + 5] ^= 0x80;
    assert_eq!(why(&keys, &altered), CONTENT);
}

#[test]
fn a_reader_that_found_damage_never_says_that_all_is_well() {
    let (keys, mut body) = two_segments();
    body.bytes[HEADER_BYTES + 5] ^= 1;
    let range = 0..body.layout.size();
    let mut reader = RangeReader::new(&keys, &body.anchor.footer(), &body.layout, range).unwrap();
    let mut out = Vec::new();
    let end = usize::try_from(reader.sealed_range().end).unwrap();
    for piece in body.bytes[..end].chunks(5000) {
        let _ignored = reader.push(piece, &mut out);
    }
    assert!(out.is_empty());
    assert_eq!(reader.push(&[], &mut out), Err(CONTENT));
    assert_eq!(reader.finish(), Err(CONTENT));
}

#[test]
fn attack_reorder_chunks() {
    let (keys, mut body) = two_segments();
    let (first, second) = body.bytes[HEADER_BYTES..].split_at_mut(SEALED_CHUNK_BYTES);
    first.swap_with_slice(&mut second[..SEALED_CHUNK_BYTES]);
    assert_eq!(why(&keys, &body.bytes), CONTENT);
}

#[test]
fn attack_reorder_segments() {
    let keys = vault(1);
    let mut body = seal(&keys, &content(200), &[100, 100], &mut Recorded::new(2));
    let len = usize::try_from(body.layout.segments()[0].sealed_bytes()).unwrap();
    let (first, second) = body.bytes.split_at_mut(len);
    first.swap_with_slice(&mut second[..len]);
    assert_eq!(why(&keys, &body.bytes), OTHER);
}

#[test]
fn attack_truncate_or_extend() {
    let (keys, body) = two_segments();
    let end = body.bytes.len() - usize::try_from(body.anchor.footer().trailer_bytes).unwrap() - 52;
    for cut in [1, 16, SEALED_CHUNK_BYTES, end] {
        // The end is kept, so that only the length is wrong.
        let short = [&body.bytes[..end - cut], &body.bytes[end..]].concat();
        assert_eq!(why(&keys, &short), SealError::Truncated { what: "the content" }, "{cut}");
    }
    let long = [&body.bytes[..end], &[0; 16], &body.bytes[end..]].concat();
    assert_eq!(why(&keys, &long), SealError::Truncated { what: "the content" });
    for len in [0, 51, 52, 100, end, body.bytes.len() - 1] {
        assert!(open_whole(&keys, &body.bytes[..len]).is_err(), "{len}");
    }
    let footer = body.anchor.footer();
    let mut reader = RangeReader::new(&keys, &footer, &body.layout, 0..100).unwrap();
    let mut out = Vec::new();
    reader.push(&body.bytes[..HEADER_BYTES + 99], &mut out).unwrap();
    assert!(out.is_empty(), "no plaintext before the tag");
    assert_eq!(reader.finish(), Err(SealError::Truncated { what: "the content" }));
}

#[test]
fn attack_swap_segments_between_files() {
    let (keys, mut entropy) = (vault(1), Recorded::new(2));
    let mut one = seal(&keys, &content(100), &[100], &mut entropy);
    let two = seal(&keys, &content(100), &[100], &mut entropy);
    let len = usize::try_from(one.layout.sealed_bytes()).unwrap();
    one.bytes[..len].copy_from_slice(&two.bytes[..len]);
    assert_eq!(why(&keys, &one.bytes), OTHER);
}

#[test]
fn attack_mix_versions_or_attempts_of_one_file() {
    let (keys, mut entropy) = (vault(1), Recorded::new(2));
    let sealer = FileSealer::new(&keys, &mut entropy).unwrap();
    let (_, old) = sealer.seal_segment(0, b"transfer 1000", &mut entropy).unwrap();
    let (kept, new) = sealer.seal_segment(0, b"transfer 0001", &mut entropy).unwrap();
    let layout = Layout::new(13, vec![kept]).unwrap();
    let metadata = Metadata::of(VaultPath::new(b"a").unwrap());
    let ending = sealer.finish(&layout, &metadata, &mut entropy).unwrap();
    let body = |segment: Vec<u8>| [segment, ending.bytes.clone()].concat();
    assert_eq!(open_whole(&keys, &body(new)).unwrap().content, b"transfer 0001");
    assert_eq!(why(&keys, &body(old)), OTHER);
}

#[test]
fn attack_swap_whole_bodies_under_a_name() {
    let (keys, mut entropy) = (vault(1), Recorded::new(2));
    let [one, two] = [0, 1].map(|_| seal(&keys, &content(100), &[100], &mut entropy));
    let len = two.bytes.len() as u64;
    let footer = two.anchor.footer();
    let range = footer.trailer_range(len).unwrap();
    let trailer =
        &two.bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
    let misplaced = SealError::Misplaced { what: "the trailer of the file" };
    assert_eq!(Trailer::open(&keys, &footer, trailer, len, Some(&one.anchor)), Err(misplaced));
    assert!(Trailer::open(&keys, &footer, trailer, len, Some(&two.anchor)).is_ok());
    // A body of one segment is read without its trailer; the name says which segment it is.
    let single = one.anchor.single_segment(100, len).unwrap();
    let mut reader = RangeReader::new(&keys, &one.anchor.footer(), &single, 0..100).unwrap();
    let sealed = &two.bytes[..usize::try_from(reader.sealed_range().end).unwrap()];
    let mut out = Vec::new();
    assert_eq!(reader.push(sealed, &mut out), Err(OTHER));
    assert!(out.is_empty());
}

#[test]
fn attack_another_vault_or_a_foreign_key() {
    let (_, body) = two_segments();
    let damaged = SealError::Damaged { what: "the trailer of the file" };
    assert_eq!(why(&vault(9), &body.bytes), damaged);
    let footer = body.anchor.footer();
    let wrong = SealError::WrongKey { what: "the content" };
    assert_eq!(
        RangeReader::new(&vault(9), &footer, &body.layout, 20_000..20_001).unwrap_err(),
        wrong
    );
    let mut reader = RangeReader::new(&vault(9), &footer, &body.layout, 0..1).unwrap();
    assert_eq!(reader.push(&body.bytes[..HEADER_BYTES], &mut Vec::new()), Err(wrong));
}

#[test]
fn attack_downgrade_the_suite() {
    let (keys, body) = two_segments();
    let at = body.bytes.len() - FOOTER_BYTES + 8;
    for suite in [0, 2, 255] {
        let mut altered = body.bytes.clone();
        altered[at] = suite;
        assert_eq!(
            why(&keys, &altered),
            SealError::Unsupported { what: "the file", found: suite.into() }
        );
    }
    let mut flags = body.bytes;
    flags[at + 1] = 1;
    assert!(matches!(why(&keys, &flags), SealError::Malformed { .. }));
}

#[test]
fn a_removed_member_cannot_read_what_was_sealed_after() {
    let mut keys = vault(1);
    let removed = keys.clone();
    keys.begin_epoch(&mut Recorded::new(7)).unwrap();
    let after = seal(&keys, b"new plans", &[9], &mut Recorded::new(2));
    assert_eq!(why(&removed, &after.bytes), SealError::UnknownEpoch { epoch: 1 });
    let before = seal(&removed, b"old plans", &[9], &mut Recorded::new(3));
    assert_eq!(open_whole(&keys, &before.bytes).unwrap().content, b"old plans");
}

#[test]
fn a_layout_that_no_writer_makes_is_refused() {
    let segment = |ordinal, bytes| Segment { ordinal, bytes, salt: [0; 24], commitment: [0; 32] };
    let refused = |size, segments| Layout::new(size, segments).is_err();
    assert!(refused(0, vec![]));
    assert!(refused(11, vec![segment(0, 10)]));
    assert!(refused(1, vec![segment(1, 10), segment(1, 10)]));
    assert!(refused(1, vec![segment(2, 10), segment(1, 10)]));
    assert!(refused(1, vec![segment(0, u64::MAX), segment(1, 2)]));
    assert!(refused(1, vec![segment(0, 1); 10_001]));
    assert!(!refused(20, vec![segment(0, 10), segment(1 << 32, 10)]));
}

/// Seals a file of two segments with a proof, and what a member who may only read makes of it: other content under the
/// same salts and the same end.
fn proved(keys: &VaultKeys, entropy: &mut Recorded) -> (Body, Vec<u8>) {
    let (sealer, lengths) = (FileSealer::new(keys, entropy).unwrap(), [20_000, 30_000]);
    let plain = [content(20_000), content(30_000)];
    let (mut segments, mut sealed, mut forged) = (Vec::new(), Vec::new(), Vec::new());
    for (ordinal, plain) in (0..).zip(&plain) {
        let mut salts = Recorded::new(90 + ordinal);
        let (segment, bytes) = sealer.seal_segment(ordinal, plain, &mut salts).unwrap();
        let mut salts = Recorded::new(90 + ordinal);
        let other = vec![b'!'; plain.len()];
        forged.extend(sealer.seal_segment(ordinal, &other, &mut salts).unwrap().1);
        segments.push(segment);
        sealed.extend(bytes);
    }
    let layout = Layout::new(lengths.iter().sum(), segments).unwrap();
    let metadata = Metadata::of(VaultPath::new(b"file").unwrap());
    let mut ending = sealer.plan_end(&layout, &metadata, entropy).unwrap();
    let anchor = ending.anchor;
    for piece in sealed.chunks(4097) {
        ending.update(piece);
    }
    let end = ending.sign(&device(1)).unwrap();
    forged.extend(&end);
    (Body { bytes: [sealed, end].concat(), layout, anchor }, forged)
}

pub(super) fn device(seed: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::new([seed; 32]))
}

fn writer(id: DeviceId, _epoch: u32) -> Option<PublicKey> {
    (device(1).id() == id).then(|| device(1).public())
}

/// Returns the proof of a body.
pub(super) fn proof_of(keys: &VaultKeys, body: &Body) -> Result<Option<Proof>, SealError> {
    let footer = body.anchor.footer();
    let range = footer.trailer_range(body.bytes.len() as u64).unwrap();
    let at = |at: u64| usize::try_from(at).unwrap();
    let (trailer, rest) = body.bytes[at(range.start)..].split_at(at(range.end - range.start));
    Proof::open(keys.vault(), &footer, trailer, &rest[..footer.proof_bytes()], writer)
}

#[test]
fn attack_a_reader_and_the_server_replace_a_body() {
    let keys = vault(1);
    let (body, forged) = proved(&keys, &mut Recorded::new(2));
    let whole = [content(20_000), content(30_000)].concat();
    assert_eq!(open_named(&keys, &body.bytes, &body.anchor, writer).unwrap().content, whole);
    // All tags are right, so recovery, which has no name, cannot tell.
    assert_eq!(open_whole(&keys, &forged).unwrap().content, vec![b'!'; 50_000]);
    let replaced = SealError::Replaced { what: "the content" };
    assert_eq!(open_named(&keys, &forged, &body.anchor, writer).unwrap_err(), replaced);

    // While it arrives: nothing of the end of a segment is handed out before its hash matched.
    let proof = proof_of(&keys, &body).unwrap().unwrap();
    let reader = |range| {
        let reader = RangeReader::new(&keys, &body.anchor.footer(), &body.layout, range).unwrap();
        reader.proved_by(proof.clone())
    };
    let mut all = reader(0..50_000);
    let (mut out, mut error) = (Vec::new(), Ok(()));
    for piece in forged[..usize::try_from(all.sealed_range().end).unwrap()].chunks(1000) {
        error = error.and_then(|()| all.push(piece, &mut out));
    }
    assert_eq!((error, all.finish()), (Err(replaced), Err(replaced)));
    assert!(out.len() <= CHUNK_BYTES, "only the first segment, without its last chunk");
    // The second segment alone.
    let first = usize::try_from(body.layout.segments()[0].sealed_bytes()).unwrap();
    let mixed = [&body.bytes[..first], &forged[first..]].concat();
    assert_eq!(open_named(&keys, &mixed, &body.anchor, writer).unwrap_err(), replaced);
    // A download goes on with the second segment, and compares it.
    for (sealed, expected) in [(&body.bytes, Ok(())), (&forged, Err(replaced))] {
        let mut rest = reader(20_000..50_000);
        let range = rest.sealed_range();
        assert_eq!(range.start, first as u64);
        let end = usize::try_from(range.end).unwrap();
        assert_eq!(rest.push(&sealed[first..end], &mut out), expected);
        assert_eq!(rest.finish(), expected);
    }
    // A range has no hash.
    let mut part = reader(0..100);
    part.push(&forged[..HEADER_BYTES + SEALED_CHUNK_BYTES], &mut out).unwrap();
    assert_eq!(part.finish(), Ok(()));
}

#[test]
fn an_upload_that_goes_on_signs_what_was_sent_before() {
    let keys = vault(1);
    let (body, _) = proved(&keys, &mut Recorded::new(2));
    let sealer = FileSealer::resume(&keys, keys.epoch(), body.anchor.footer().file);
    let metadata = Metadata::of(VaultPath::new(b"file").unwrap());
    let plan = || sealer.as_ref().unwrap().as_ref().unwrap();
    let mut ending = plan().plan_end(&body.layout, &metadata, &mut Recorded::new(7)).unwrap();
    let first = usize::try_from(body.layout.segments()[0].sealed_bytes()).unwrap();
    let all = usize::try_from(body.layout.sealed_bytes()).unwrap();
    assert_eq!(ending.hash(0), None);
    ending.known(*blake3::hash(&body.bytes[..first]).as_bytes());
    ending.update(&body.bytes[first..all]);
    assert!(ending.hash(1).is_some() && ending.hash(2).is_none());
    let anchor = ending.anchor;
    let resumed = [&body.bytes[..all], &ending.sign(&device(1)).unwrap()].concat();
    let whole = [content(20_000), content(30_000)].concat();
    assert_eq!(open_named(&keys, &resumed, &anchor, writer).unwrap().content, whole);
}

#[test]
fn attack_take_the_proof_away_or_sign_another_one() {
    let keys = vault(1);
    let (body, forged) = proved(&keys, &mut Recorded::new(2));
    let proof = body.bytes.len() - FOOTER_BYTES - body.anchor.footer().proof_bytes();
    let mut entropy = Recorded::new(2);
    let sealer = FileSealer::new(&keys, &mut entropy).unwrap();
    let metadata = Metadata::of(VaultPath::new(b"file").unwrap());
    // The member seals the end anew, without a proof, or signs one.
    let without = sealer.finish(&body.layout, &metadata, &mut entropy).unwrap().bytes;
    let sealed = &forged[..usize::try_from(body.layout.sealed_bytes()).unwrap()];
    let stripped = [sealed, &without].concat();
    assert!(open_whole(&keys, &stripped).is_ok());
    let misplaced = SealError::Misplaced { what: "the trailer of the file" };
    assert_eq!(open_named(&keys, &stripped, &body.anchor, writer).unwrap_err(), misplaced);
    let mut ending = sealer.plan_end(&body.layout, &metadata, &mut Recorded::new(3)).unwrap();
    ending.update(sealed);
    let own = ending.sign(&device(2)).unwrap();
    assert_eq!(
        open_named(&keys, &[sealed, &own].concat(), &body.anchor, writer).unwrap_err(),
        misplaced
    );
    let not_signed = SealError::NotSigned { what: "the proof of the content" };
    let end = own.len() - FOOTER_BYTES - body.anchor.footer().proof_bytes();
    let signed = [&forged[..proof], &own[end..]].concat();
    assert_eq!(open_named(&keys, &signed, &body.anchor, writer).unwrap_err(), not_signed);
    for at in proof..body.bytes.len() - FOOTER_BYTES {
        let mut altered = body.bytes.clone();
        altered[at] ^= 1;
        let found = open_named(&keys, &altered, &body.anchor, writer).unwrap_err();
        assert_eq!(found, not_signed, "{at}");
    }
    // One that did not hash all of the content signs nothing.
    let ending = sealer.plan_end(&body.layout, &metadata, &mut Recorded::new(3)).unwrap();
    assert_eq!(ending.sign(&device(1)).unwrap_err(), SealError::Truncated { what: "the content" });
}

#[test]
fn a_body_of_a_client_without_proofs_stays_readable() {
    let (keys, body) = two_segments();
    assert_eq!(body.anchor.footer().hashes, 0);
    let opened = open_named(&keys, &body.bytes, &body.anchor, writer).unwrap();
    assert_eq!(opened, open_whole(&keys, &body.bytes).unwrap());
    assert_eq!(proof_of(&keys, &body), Ok(None));
}

#[test]
fn a_segment_is_sealed_in_pieces_of_any_size() {
    let (keys, plain) = (vault(1), content(40_000));
    let sealer = FileSealer::new(&keys, &mut Recorded::new(2)).unwrap();
    let plan = || sealer.plan_segment(0, 40_000, &mut Recorded::new(3)).unwrap().1;
    let whole = plan().seal(&plain).unwrap();
    for piece in [1, 999, CHUNK_BYTES, 39_999] {
        let mut pieces = plan().begin(7);
        plain.chunks(piece).for_each(|piece| pieces.push(piece).unwrap());
        let sealed = pieces.finish().unwrap();
        assert!(sealed == whole && sealed.capacity() >= whole.len() + 7, "{piece}");
    }
    assert!(plan().begin(0).finish().is_err());
    let mut long = plan().begin(0);
    long.push(&plain).unwrap();
    assert!(long.push(&[0]).is_err());
}
