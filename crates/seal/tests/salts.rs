//! No salt and no nonce is used twice: not by a retry, not by a resumed upload, not by a change of the keyring.
//!
//! An upload is interrupted and goes on in other processes, each with its own journal and entropy. Everything
//! that was drawn, and every salt in what was sent, is recorded.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;

use fula_seal::{
    Entropy, FileId, Padding, SealError, VaultKeys, VaultPath,
    body::{FileSealer, Layout, Metadata, SEGMENT_RECORD_BYTES, Segment, open_whole},
    keyring::{Founder, Keyring},
    name::{Name, Sealed},
    slot::{Identity, SlotKind},
};

/// Random bytes, all of which are recorded.
#[derive(Default)]
struct Recorded {
    counter: u64,
    drawn: Vec<Vec<u8>>,
}

impl Entropy for Recorded {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), SealError> {
        self.counter += 1;
        blake3::Hasher::new().update(&self.counter.to_be_bytes()).finalize_xof().fill(out);
        self.drawn.push(out.to_vec());
        Ok(())
    }
}

/// What a process finds after it was interrupted.
struct Journal {
    epoch: u32,
    file: FileId,
    sent: Vec<[u8; SEGMENT_RECORD_BYTES]>,
}

/// Everything that was ever sent.
#[derive(Default)]
struct Wire {
    /// Salt and sealed bytes of every attempt at a segment.
    segments: Vec<(Vec<u8>, Vec<u8>)>,
    /// Ends of bodies, and names.
    others: Vec<Vec<u8>>,
}

impl Wire {
    /// Checks that every salt and nonce differs from all others.
    fn assert_no_salt_twice(&self) {
        let salts: HashSet<_> = self.segments.iter().map(|(salt, _)| salt).collect();
        assert_eq!(salts.len(), self.segments.len());
        assert!(self.segments.iter().all(|(salt, sealed)| sealed.starts_with(salt)));
        let ciphertexts: HashSet<_> =
            self.segments.iter().map(|(_, sealed)| &sealed[56..]).collect();
        assert_eq!(ciphertexts.len(), self.segments.len());
        assert_eq!(self.others.iter().collect::<HashSet<_>>().len(), self.others.len());
    }
}

const PLAIN: [&[u8]; 3] = [b"the first segment", b"the second segment", b"the third"];

fn attempt(sealer: &FileSealer, at: usize, wire: &mut Wire, entropy: &mut Recorded) -> Segment {
    let (segment, sealed) = sealer.seal_segment(at as u64, PLAIN[at], entropy).unwrap();
    wire.segments.push((segment.salt().to_vec(), sealed));
    segment
}

fn finish(
    keys: &VaultKeys,
    sealer: &FileSealer,
    segments: &[Segment],
    (device, wire, entropy): (&Identity, &mut Wire, &mut Recorded),
) -> (Vec<u8>, Sealed) {
    let path = VaultPath::new(b"path").unwrap();
    let size = PLAIN.concat().len() as u64;
    let layout = Layout::new(size, segments.to_vec()).unwrap();
    let mut ending = sealer.plan_end(&layout, &Metadata::of(path.clone()), entropy).unwrap();
    let anchor = ending.anchor;
    for segment in segments {
        let sent = wire.segments.iter().find(|(salt, _)| salt == segment.salt());
        ending.update(&sent.unwrap().1);
    }
    let ending = ending.sign(device.signing_key()).unwrap();
    let name = Name { path, size, modified: None, etag: None, clock: 1 };
    let sealed = name.seal(keys, &anchor, device.signing_key(), entropy).unwrap();
    wire.others.extend([ending.clone(), sealed.listed.clone().into_bytes()]);
    (ending, sealed)
}

#[test]
fn no_salt_is_used_twice_by_retries_and_resumed_uploads() {
    let (mut entropy, mut wire) = (Recorded::default(), Wire::default());
    let device = Identity::generate(&mut entropy).unwrap();
    let founder = Founder { identity: &device, kind: SlotKind::Device, label: "" };
    let keyring = Keyring::create(None, Padding::None, &[founder], &mut entropy).unwrap();
    let keys = keyring.keys();

    // The first process sends the first segment three times, the second one once, and dies.
    let sealer = FileSealer::new(keys, &mut entropy).unwrap();
    let attempts = [0, 0, 0, 1].map(|at| attempt(&sealer, at, &mut wire, &mut entropy));
    let sent = vec![attempts[2].to_bytes()];
    let journal = Journal { epoch: sealer.epoch(), file: sealer.file(), sent };
    drop(sealer);

    // Two processes go on from the same journal, and both finish. One has to try twice.
    let mut bodies = Vec::new();
    for tries in [1, 2] {
        let sealer = FileSealer::resume(keys, journal.epoch, journal.file).unwrap().unwrap();
        let mut segments: Vec<_> = journal.sent.iter().map(Segment::from_bytes).collect();
        segments.extend([1, 2].map(|at| attempt(&sealer, at, &mut wire, &mut entropy)));
        for _ in 0..tries {
            let to = (&device, &mut wire, &mut entropy);
            let (ending, _) = finish(keys, &sealer, &segments, to);
            let sealed = |segment: &Segment| {
                let found = wire.segments.iter().find(|(salt, _)| salt == segment.salt());
                found.unwrap().1.clone()
            };
            let body = [segments.iter().map(sealed).collect::<Vec<_>>().concat(), ending].concat();
            assert_eq!(open_whole(keys, &body).unwrap().content, PLAIN.concat());
            bodies.push(body);
        }
    }
    wire.assert_no_salt_twice();

    // A planned segment is sealed once, with the length that was planned.
    let sealer = FileSealer::new(keys, &mut entropy).unwrap();
    let (segment, planned) = sealer.plan_segment(0, 5, &mut entropy).unwrap();
    wire.segments.push((segment.salt().to_vec(), planned.seal(b"plain").unwrap()));
    let (_, planned) = sealer.plan_segment(0, 5, &mut entropy).unwrap();
    assert!(matches!(planned.seal(b"other length"), Err(SealError::Malformed { .. })));
    wire.assert_no_salt_twice();

    // With a newer epoch, an upload begins anew.
    let mut draft = keyring.edit(device.signing_key()).unwrap();
    draft.begin_epoch(&mut entropy).unwrap();
    let next = draft.seal(&mut entropy).unwrap();
    assert!(FileSealer::resume(next.keys(), journal.epoch, journal.file).unwrap().is_none());
    assert_eq!(
        FileSealer::resume(keys, 1, journal.file).unwrap_err(),
        SealError::UnknownEpoch { epoch: 1 }
    );
    // An older body, with the end of a newer attempt, is refused.
    let end =
        |body: &[u8]| PLAIN.iter().map(|plain| plain.len() + 72).sum::<usize>().min(body.len());
    let mixed = [&bodies[0][..end(&bodies[0])], &bodies[1][end(&bodies[1])..]].concat();
    assert_eq!(open_whole(keys, &mixed).unwrap_err(), SealError::Misplaced { what: "the content" });

    let drawn: HashSet<_> = entropy.drawn.iter().collect();
    assert_eq!(drawn.len(), entropy.drawn.len(), "something was drawn twice");
    for (salt, _) in &wire.segments {
        assert!(drawn.contains(salt), "a salt that was not drawn");
    }
}
