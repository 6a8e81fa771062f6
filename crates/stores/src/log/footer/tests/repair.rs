//! Tests of setting damaged segments aside.

use super::*;

/// A block is forgotten when neither its head nor the footer names it any more.
#[test]
fn a_block_without_a_name_is_forgotten_by_a_repair() {
    let disk = SimDisk::default();
    let log = open(&disk);
    (0..40).for_each(|n| append(&log, n).unwrap());
    let gone = slot_of(&log, &block(3).cid());
    hit_head(&log, &gone);
    let hit = Arc::clone(&log.segments.read()[&gone.segment]);
    let len = hit.len().unwrap();
    hit.write_at(&[0xff], len - 1).unwrap();
    assert_eq!(log.set_damaged_aside().unwrap(), 1);
    assert!(log.index().blocks.get(&block(3).cid()).is_none());
    assert_eq!(log.index().live_in(gone.segment), 0);
    for n in (0..40).filter(|n| *n != 3) {
        let slot = slot_of(&log, &block(n).cid());
        assert!(log.read_intact(&slot).unwrap().is_some(), "block {n}");
    }
}

/// A row is forgotten when its value is readable but nothing names it.
#[test]
fn a_row_without_a_name_is_forgotten_by_a_repair() {
    let disk = SimDisk::default();
    let log = open(&disk);
    let row = Record { kind: Kind::Root, key: b"once", value: b"value" };
    log.append(StreamName::Commit, &[row], Need::More).unwrap();
    (0..40).for_each(|n| append(&log, n).unwrap());
    let [gone, kept] = ["once", "row 0"].map(|row| Key::Row(Kind::Root, row.into()));
    let slot = log.index().get(&gone).unwrap();
    hit_head(&log, &slot);
    let hit = Arc::clone(&log.segments.read()[&slot.segment]);
    let len = hit.len().unwrap();
    hit.write_at(&[0xff], len - 1).unwrap();
    assert_eq!(log.set_damaged_aside().unwrap(), 1);
    assert_eq!(log.index().get(&gone), None);
    let slot = log.index().get(&kept).unwrap();
    assert!(log.read_whole(&kept, &slot).unwrap().is_some());
}

/// A block with a damaged head is moved, because its hash proves that it is intact. A row has no such
/// proof.
#[test]
fn a_block_whose_head_is_damaged_is_moved_and_a_row_is_not() {
    let disk = SimDisk::default();
    let log = open(&disk);
    (0..40).for_each(|n| append(&log, n).unwrap());
    let (hit, gone) = (block(3), block(4));
    hit_head(&log, &slot_of(&log, &hit.cid()));
    let slot = slot_of(&log, &gone.cid());
    hit_head(&log, &slot);
    log.segments.read()[&slot.segment].write_at(&[0xff], slot.value_offset() + 500).unwrap();
    drop(log);
    let log = open(&disk);
    assert_eq!(log.set_damaged_aside().unwrap(), 1);
    let moved = slot_of(&log, &hit.cid());
    assert_eq!(log.read_intact(&moved).unwrap(), Some(Bytes::clone(hit.bytes())));
    assert!(log.index().blocks.get(&gone.cid()).is_none());
    for n in (0..40).filter(|n| *n != 4) {
        let slot = slot_of(&log, &block(n).cid());
        assert!(log.read_intact(&slot).unwrap().is_some(), "block {n}");
    }
    let row = Key::Row(Kind::Root, b"row 1".to_vec());
    let slot = log.index().get(&row).unwrap();
    hit_head(&log, &slot);
    assert_eq!(log.read_whole(&row, &slot).unwrap(), None);
}
