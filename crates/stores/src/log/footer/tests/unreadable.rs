//! Tests of places of the disk that cannot be read.

use super::*;

fn size(segment: &Segment) -> usize {
    usize::try_from(segment.len().unwrap()).unwrap()
}

/// Returns a log of three segments, of which the second has an unreadable place, and the blocks that may
/// lie there.
fn with_a_lost_place(disk: &SimDisk) -> (Log, Vec<Cid>) {
    let log = open(disk);
    (0..60).for_each(|n| append(&log, n).unwrap());
    let segment = Arc::clone(&segments(&log)[2]);
    let lost = disk.lose(segment.name(), size(&segment) / 2);
    let lies_there = |slot: &Slot| {
        let (from, to) = (slot.offset as usize, (slot.offset + slot.bytes()) as usize);
        slot.segment == segment.id && from < lost.end && lost.start < to
    };
    let cids = (0..60).map(|n| block(n).cid());
    let gone = cids.filter(|cid| lies_there(&slot_of(&log, cid))).collect();
    (log, gone)
}

#[test]
fn what_cannot_be_read_is_found_and_set_aside_with_nothing_else() {
    let disk = SimDisk::default();
    let (log, gone) = with_a_lost_place(&disk);
    let (lost, found) = (Arc::clone(&segments(&log)[2]), log.verify().unwrap());
    assert!(!found.is_empty() && found.iter().all(|damage| damage.segment == lost.name()));
    assert_eq!(log.set_damaged_aside().unwrap(), 1);
    assert_eq!(log.verify().unwrap(), []);
    for log in [log, open(&disk)] {
        let read = |cid: &Cid| log.index().blocks.get(cid).map(|slot| log.read(&slot).unwrap());
        let left: Vec<Cid> =
            (0..60).map(|n| block(n).cid()).filter(|cid| read(cid).is_none()).collect();
        assert!(!left.is_empty() && left.iter().all(|cid| gone.contains(cid)), "{left:?}");
    }
}

#[test]
fn what_cannot_be_read_keeps_no_other_segment_from_being_compacted() {
    let disk = SimDisk::default();
    let (log, gone) = with_a_lost_place(&disk);
    let lost = Arc::clone(&segments(&log)[2]);
    // This segment has fewer live records than any other, so it is compacted first.
    for n in 0..60 {
        let cid = block(n).cid();
        let is_there = slot_of(&log, &cid).segment == lost.id;
        if if is_there { cid != gone[0] } else { n % 3 == 0 } {
            log.index_mut().remove_block(&cid);
        }
    }
    let mut count = 0;
    while log.compact(20, &|| {}).unwrap() > 0 {
        count += 1;
    }
    assert!(segments(&log).iter().any(|segment| segment.id == lost.id));
    assert!(count > 1, "{count}");
}

#[test]
fn a_place_that_cannot_be_read_in_a_sealed_segment_is_damage() {
    let disk = SimDisk::default();
    let (log, _) = with_a_lost_place(&disk);
    let segment = Arc::clone(&segments(&log)[2]);
    // Its footer cannot be read either.
    disk.lose(segment.name(), size(&segment) - 1);
    drop(log);
    let (log, recovery) = try_open(&disk);
    assert!(!recovery.damaged.is_empty() && recovery.truncated.is_empty(), "{recovery:?}");
    assert!(recovery.damaged.iter().all(|damage| damage.segment == segment.name()));
    // These are left of sixty blocks and three rows.
    let left = all(&log).len();
    assert!((50..63).contains(&left), "{left}");
}

#[test]
fn a_header_that_cannot_be_read_is_damage() {
    let disk = SimDisk::default();
    let log = open(&disk);
    (0..60).for_each(|n| append(&log, n).unwrap());
    let segment = Arc::clone(&segments(&log)[2]);
    disk.lose(segment.name(), 0);
    drop(log);
    let (log, recovery) = try_open(&disk);
    assert_eq!(recovery.damaged.len(), 1, "{recovery:?}");
    assert_eq!(recovery.damaged[0].segment, segment.name());
    assert_eq!(log.set_damaged_aside().unwrap(), 1);
    drop(log);
    open(&disk);
}

/// A real disk takes seconds to report that it cannot read.
#[test]
fn what_cannot_be_read_is_asked_for_a_few_times() {
    let disk = SimDisk::default();
    let (log, _) = Log::open(Arc::new(disk.clone()), 1 << 20).unwrap();
    (0..200).for_each(|n| append(&log, n).unwrap());
    let segment = Arc::clone(&segments(&log)[0]);
    disk.lose(segment.name(), 100_000);
    disk.lose(segment.name(), 150_000);
    let before = disk.lost_reads();
    assert!(!log.verify().unwrap().is_empty());
    let times = disk.lost_reads() - before;
    assert!((2..8).contains(&times), "{times}");
}

/// A tail that cannot be read is not cut off: it may have been acknowledged, and only readable records tell
/// how far everything is durable.
#[test]
fn a_tail_that_cannot_be_read_is_not_cut_off() {
    let disk = SimDisk::default();
    let log = open(&disk);
    (0..5).for_each(|n| append(&log, n).unwrap());
    let tail = Arc::clone(&segments(&log)[0]);
    disk.lose(tail.name(), size(&tail) - 9);
    drop(log);
    let error = Log::open(Arc::new(disk.clone()), SEGMENT).unwrap_err();
    assert!(crate::log::is_lost(&error), "{error}");
}
