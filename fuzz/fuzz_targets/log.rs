//! Recovers logs of valid, nonsensical and damaged records. Recovery must end, return only what was
//! written, and return the same again.
//!
//! The segments are encoded here independently, as docs/format.md describes them, because a fuzzer cannot
//! guess the keyed hash over a head.
#![no_main]

use std::{fs, path::Path, sync::Arc};

use fula_core::{
    BlockStore, Cid, Codec, OwnerId, RootPointerStore, block::list_all, root::RootRow,
};
use fula_stores::{LocalStore, Recovery};
use libfuzzer_sys::fuzz_target;

const SEED: [u8; 16] = [7; 16];

/// Takes bytes from the input, and zeros when it is used up.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }
}

/// Computes the CRC-32C bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ ((crc & 1) * 0x82f6_3b78))
    })
}

fn header(prefix: &str, id: u32) -> Vec<u8> {
    let mut copy = b"FULALOG\x01".to_vec();
    copy.extend(id.to_le_bytes());
    copy.extend(&prefix.as_bytes()[..4]);
    copy.extend(SEED);
    copy.extend(&blake3::hash(&copy).as_bytes()[..8]);
    copy.repeat(2)
}

fn append_record(kind: u8, key: &[u8], value: &[u8], durable_to: u64, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend(0x3146_4c52_u32.to_le_bytes());
    out.extend(crc32c(value).to_le_bytes());
    out.extend((value.len() as u32).to_le_bytes());
    out.extend((key.len() as u16).to_le_bytes());
    out.extend([kind, 0]);
    out.extend(durable_to.to_le_bytes());
    let mut hash_key = [0; 32];
    hash_key[..16].copy_from_slice(&SEED);
    let mut hasher = blake3::Hasher::new_keyed(&hash_key);
    hasher.update(&(start as u64).to_le_bytes()).update(&out[start..]).update(key);
    out.extend(&hasher.finalize().as_bytes()[..8]);
    out.extend(key);
    out.extend(value);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// Writes a segment: records, and then damage to some of their bytes.
fn segment(prefix: &str, id: u32, input: &mut Input<'_>) -> Vec<u8> {
    let mut out = header(prefix, id);
    for _ in 0..input.byte() % 8 {
        let (kind, shape, len) = (input.byte() % 7, input.byte(), usize::from(input.byte()));
        let durable_to = match shape % 4 {
            0 => 0,
            1 => out.len() as u64,
            2 => u64::from(input.byte()) * 8,
            _ => u64::MAX,
        };
        let value = input.take(len);
        let key = match (kind, shape / 4 % 4) {
            (1, 0) => Cid::of(Codec::Raw, &value).to_bytes().to_vec(),
            (1, 1) => Cid::of(Codec::DagCbor, &value).to_bytes().to_vec(),
            // The address of other content.
            (1, _) => Cid::of(Codec::Raw, &[shape]).to_bytes().to_vec(),
            _ => input.take(usize::from(shape / 16)),
        };
        append_record(kind, &key, &value, durable_to, &mut out);
    }
    for _ in 0..input.byte() % 4 {
        let at = usize::from(u16::from_be_bytes([input.byte(), input.byte()]));
        let change = input.byte();
        if let Some(byte) = out.get_mut(at) {
            *byte ^= change;
        }
    }
    match input.byte() % 8 {
        0 => out.truncate(usize::from(u16::from_be_bytes([input.byte(), input.byte()]))),
        1 => out.extend(input.take(64)),
        _ => {}
    }
    out
}

/// The content that a log returns.
#[derive(Debug, PartialEq)]
struct Found {
    /// All blocks that it has, and whether they are intact.
    blocks: Vec<(Cid, bool)>,
    rows: Vec<RootRow>,
    recovery: Recovery,
}

async fn open(dir: &Path) -> Found {
    let store = LocalStore::open(dir, Arc::new(|| 1), true).expect("a log opens despite damage");
    let mut blocks = Vec::new();
    for (cid, len) in list_all(&*store.blocks).await.expect("a list") {
        let is_sound = match store.blocks.get(&cid).await {
            Ok(Some(block)) => {
                assert_eq!((block.cid(), block.bytes().len() as u64), (cid, len));
                assert_eq!(Cid::of(cid.codec(), block.bytes()), cid);
                true
            }
            Ok(None) => panic!("a block that is listed is not there"),
            Err(_) => false,
        };
        blocks.push((cid, is_sound));
    }
    blocks.sort();
    let rows = store.roots.list_roots(OwnerId([1; 16]), None, 1000).await.expect("rows").value;
    Found { blocks, rows, recovery: store.recovery.clone() }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    fs::create_dir(dir.path().join("log")).expect("a directory");
    for id in 1..=u32::from(input.byte() % 3) + 1 {
        let prefix = if input.byte() % 2 == 0 { "commit" } else { "bulk" };
        let bytes = segment(prefix, id, &mut input);
        fs::write(dir.path().join(format!("log/{prefix}-{id:08}.log")), bytes).expect("a segment");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (first, second) =
        runtime.block_on(async { (open(dir.path()).await, open(dir.path()).await) });
    assert_eq!(second.recovery.truncated, [], "what was cut off is cut off again");
    assert_eq!(second.blocks, first.blocks);
    assert_eq!(second.rows, first.rows);
    assert_eq!(second.recovery.damaged, first.recovery.damaged);
});
