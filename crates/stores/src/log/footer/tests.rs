mod repair;
mod unreadable;

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use fula_core::{Block, Cid, Codec, block::Position};

use super::*;
use crate::log::{
    Log, Need, Recovery, StreamName,
    sim_disk::{Fault, SimDisk},
};

const SEGMENT: u64 = 16 << 10;

fn try_open(disk: &SimDisk) -> (Log, Recovery) {
    Log::open(Arc::new(disk.clone()), SEGMENT).unwrap()
}

fn open(disk: &SimDisk) -> Log {
    let (log, recovery) = try_open(disk);
    assert!(recovery.damaged.is_empty() && recovery.truncated.is_empty(), "{recovery:?}");
    log
}

fn block(n: u64) -> Block {
    let mut bytes = n.to_be_bytes().to_vec();
    bytes.resize(900, 7);
    Block::new(Codec::Raw, bytes)
}

fn put(log: &Log, name: StreamName, block: &Block) {
    let key = block.cid().to_bytes();
    let record = Record { kind: Kind::Block, key: &key, value: block.bytes() };
    log.append(name, &[record], Need::More).unwrap();
}

/// Appends a block, a row, and a mark of how far everything is durable.
fn append(log: &Log, n: u64) -> io::Result<()> {
    let block = block(n);
    let cid = block.cid().to_bytes();
    let row = format!("row {}", n % 3);
    let records = [
        Record { kind: Kind::Block, key: &cid, value: block.bytes() },
        Record { kind: Kind::Root, key: row.as_bytes(), value: b"value" },
        Record { kind: Kind::Mark, key: &[], value: &[] },
    ];
    log.append(StreamName::Commit, &records, Need::More)?;
    log.flush(StreamName::Commit)
}

fn segments(log: &Log) -> Vec<Arc<Segment>> {
    log.segments.read().values().cloned().collect()
}

fn told(segment: &Segment, len: u64) -> Told {
    read(segment, len).unwrap().1
}

/// Returns all indexed records, in order of their place.
fn all(log: &Log) -> Vec<String> {
    let all = segments(log).into_iter();
    let mut slots: Vec<_> = all.flat_map(|segment| log.records_in(&segment).unwrap()).collect();
    slots.sort_by_key(|(_, slot)| (slot.segment, slot.offset));
    slots.into_iter().map(|found| format!("{found:?}")).collect()
}

fn slot_of(log: &Log, cid: &Cid) -> Slot {
    log.index().blocks.get(cid).unwrap()
}

/// Overwrites a part of the record's head that its check covers.
fn hit_head(log: &Log, slot: &Slot) {
    let segments = log.segments.read();
    segments[&slot.segment].write_at(&[0xff; 4], u64::from(slot.offset) + 8).unwrap();
}

#[test]
fn the_end_of_a_segment_matches_the_vector() {
    let mut footer = SegmentFooter::empty();
    footer.add(Kind::Root, b"row", 5);
    let end = footer.end(&Seed([7; 16]), 120, 80).unwrap();
    assert_eq!(hex::encode(end), VECTOR);
}

/// A footer of two records: the entries, and the position at which they begin.
const VECTOR: &str = "524c4631455d665b0a0000000000050050000000000000004d6b07d4bc1b97e805000000030002726f77000000000000\
     524c46310000000000000000080005005000000000000000ce6945c9f27a148b7800000000000000";

#[test]
fn opening_reads_what_is_told_and_no_values() {
    let disk = SimDisk::default();
    let before = {
        let log = open(&disk);
        (0..400).for_each(|n| append(&log, n).unwrap());
        all(&log)
    };
    let read = disk.read_bytes();
    let log = open(&disk);
    let read = disk.read_bytes() - read;
    assert_eq!(all(&log), before);
    // The two segments that are written to are read in full.
    let (len, _) = log.sizes().unwrap();
    assert!(len > 400 << 10 && read < 2 * SEGMENT + len / 10, "read {read} of {len}");
    assert!(log.hold_footers_against_scans() > 20);
}

#[test]
fn no_changed_byte_of_what_is_told_is_believed() {
    let disk = SimDisk::default();
    let log = open(&disk);
    (0..40).for_each(|n| append(&log, n).unwrap());
    let before = all(&log);
    let segment = segments(&log).swap_remove(0);
    let len = segment.len().unwrap();
    let whole = told(&segment, len).expect("it tells");
    let begin = len - segment.footer_bytes();
    let mut refused = 0;
    for at in begin..len {
        let mut byte = [0];
        segment.read_at(&mut byte, at).unwrap();
        segment.write_at(&[byte[0] ^ 0x20], at).unwrap();
        match told(&segment, len) {
            Some(found) => assert_eq!(found, whole, "byte {at} of {begin}..{len}"),
            None => refused += 1,
        }
        if at < len - LAST_BYTES as u64 {
            // This is not a loss: the listed records can be read.
            let again = open(&disk);
            assert_eq!(all(&again), before, "byte {at} of {begin}..{len}");
            assert_eq!(again.verify().unwrap(), []);
        }
        segment.write_at(&byte, at).unwrap();
    }
    // The check fails for all bytes but the zeros that fill a record up.
    assert!(refused > len - begin - ALIGN, "{refused} of {}", len - begin);
    // A footer is not believed in a segment of another length either.
    for cut in 1..=len - begin {
        assert_eq!(told(&segment, len - cut), None);
    }
}

fn is_contents(segment: &Segment, at: u64) -> bool {
    let mut head = [0; HEAD_BYTES];
    segment.read_at(&mut head, at).unwrap();
    Head::parse(&head).is_some_and(|head| head.kind == Kind::Footer)
}

#[test]
fn a_segment_that_goes_on_after_its_contents_tells_them_again() {
    let disk = SimDisk::default();
    let log = open(&disk);
    append(&log, 1).unwrap();
    append(&log, 2).unwrap();
    // Writing and syncing the footer succeeds; creating the next segment fails.
    disk.fail(2, Fault::Full, false);
    assert_eq!(log.seal(0).unwrap_err().kind(), io::ErrorKind::StorageFull);
    append(&log, 3).unwrap();
    let first = segments(&log).swap_remove(0);
    assert_eq!(told(&first, first.len().unwrap()), None);
    // Nothing depends on those records any more.
    let begin = (0..).step_by(8).find(|at| is_contents(&first, *at)).unwrap();
    first.write_at(&[0xff], begin + HEAD_BYTES as u64).unwrap();
    drop(log);
    let log = open(&disk);
    log.seal(0).unwrap();
    append(&log, 4).unwrap();
    let before = all(&log);
    assert_eq!(log.hold_footers_against_scans(), 1);
    drop(log);
    assert_eq!(all(&open(&disk)), before);
}

/// Appends until the next append would begin another segment, and returns the full one.
fn fill_first(log: &Log) -> Arc<Segment> {
    let first = segments(log).swap_remove(0);
    for n in 0.. {
        if first.len().unwrap() >= SEGMENT {
            break;
        }
        append(log, n).unwrap();
    }
    first
}

/// A full segment is ended once, however often creating the next one fails.
#[test]
fn a_full_segment_does_not_grow_while_the_next_cannot_be_made() {
    let disk = SimDisk::default();
    let log = open(&disk);
    let first = fill_first(&log);
    let mut lens = Vec::new();
    for _ in 0..3 {
        // The first time, the footer is written as well.
        let calls = if lens.is_empty() { 2 } else { 1 };
        disk.fail(calls, Fault::Io, false);
        append(&log, 99).unwrap_err();
        lens.push(first.len().unwrap());
    }
    assert!(lens[0] > SEGMENT && lens.iter().all(|len| *len == lens[0]), "{lens:?}");
    append(&log, 99).unwrap();
    assert!(told(&first, lens[0]).is_some());
}

/// Where a footer does not fit, a mark does, and nothing is reported.
#[test]
fn contents_that_do_not_fit_are_left_out() {
    let disk = SimDisk::default();
    let log = open(&disk);
    let first = fill_first(&log);
    // This is the write of the footer.
    disk.fail(0, Fault::Full, false);
    append(&log, 99).unwrap();
    let before = all(&log);
    assert_eq!(told(&first, first.len().unwrap()), None);
    drop(log);
    assert_eq!(all(&open(&disk)), before);
}

/// A power cut may keep the footer and lose the records that it lists.
#[test]
fn contents_that_a_crash_left_behind_are_not_believed() {
    let disk = SimDisk::default();
    let log = open(&disk);
    // Each block is put twice, so that the segment is worth sealing.
    let first = block(1);
    put(&log, StreamName::Bulk, &first);
    put(&log, StreamName::Bulk, &first);
    let slot = slot_of(&log, &first.cid());
    disk.fail(2, Fault::Full, false);
    log.seal(0).unwrap_err();
    let segment = Arc::clone(&log.segments.read()[&slot.segment]);
    assert!(told(&segment, segment.len().unwrap()).is_some(), "it tells");
    drop(log);
    // The record that counts is lost together with its head.
    let lost = vec![0; usize::try_from(slot.bytes()).unwrap()];
    segment.write_at(&lost, slot.offset.into()).unwrap();

    let (log, recovery) = try_open(&disk);
    assert_eq!(recovery.truncated.len(), 1, "{recovery:?}");
    {
        let stream = log.stream(StreamName::Bulk);
        log.roll(stream, &mut stream.tail.lock()).unwrap();
    }
    // Otherwise the file is not a segment yet, and the one before continues.
    put(&log, StreamName::Bulk, &block(2));
    let kept = all(&log);
    drop(log);
    assert_eq!(all(&open(&disk)), kept);
}

#[test]
fn more_than_is_kept_in_memory_is_not_told() {
    let mut footer = SegmentFooter::empty();
    let key = [7; 36];
    let most = ENTRIES_BYTES_MAX / (ENTRY_BYTES + key.len());
    (0..most).for_each(|_| footer.add(Kind::Block, &key, 0));
    let seed = Seed([1; 16]);
    let told = footer.end(&seed, 800, 0).expect("it tells");
    let entries = entries(&seed, 800, &told).expect("intact");
    assert_eq!(entries.len(), most * (ENTRY_BYTES + key.len()));
    footer.add(Kind::Block, &key, 0);
    assert!(footer.end(&seed, 800, 0).is_none());
}

#[test]
fn contents_of_more_than_one_record_are_read() {
    let disk = SimDisk::default();
    let before = {
        let log = Log::open(Arc::new(disk.clone()), 4 << 20).unwrap().0;
        let blocks: Vec<_> =
            (0..30_000_u32).map(|n| Block::new(Codec::Raw, n.to_be_bytes().to_vec())).collect();
        let keys: Vec<_> = blocks.iter().map(|block| block.cid().to_bytes()).collect();
        let records: Vec<_> = (blocks.iter().zip(&keys))
            .map(|(block, key)| Record { kind: Kind::Block, key, value: block.bytes() })
            .collect();
        log.append(StreamName::Commit, &records, Need::More).unwrap();
        {
            let stream = log.stream(StreamName::Commit);
            log.roll(stream, &mut stream.tail.lock()).unwrap();
        }
        put(&log, StreamName::Commit, &block(1));
        let first = segments(&log).swap_remove(0);
        assert!(first.footer_bytes() > CHUNK_BYTES as u64);
        all(&log)
    };
    let log = open(&disk);
    assert_eq!(all(&log), before);
    assert_eq!(log.hold_footers_against_scans(), 1);
}

/// Entries that leave a record out, reach beyond it, or are malformed are not believed.
#[test]
fn entries_that_do_not_fill_the_segment_are_not_believed() {
    let mut footer = SegmentFooter::empty();
    footer.add(Kind::Block, &[7; 36], 100);
    footer.add(Kind::Root, b"row", 5);
    let entries = footer.0.unwrap();
    let end = HEADER_BYTES + 168 + 40;
    assert_eq!(slots(1, &entries, end).unwrap().len(), 2);
    for other in [end - 8, end + 8, end + 40] {
        assert_eq!(slots(1, &entries, other), None);
    }
    for cut in 1..entries.len() {
        assert_eq!(slots(1, &entries[..cut], end), None);
    }
    let mut huge = entries.clone();
    huge[..4].fill(0xff);
    assert_eq!(slots(1, &huge, u64::MAX), None);
    let mut unnamed = entries;
    unnamed[6] = 9;
    assert_eq!(slots(1, &unnamed, end), None);
}

#[test]
fn a_walk_lists_every_block_though_all_are_moved_after_each_step() {
    let disk = SimDisk::default();
    let log = open(&disk);
    (0..200).for_each(|n| append(&log, n).unwrap());
    (0..200).step_by(2).for_each(|n| log.index_mut().remove_block(&block(n).cid()));
    let (mut found, mut from, mut moved) = (HashSet::new(), Some(Position::default()), 0);
    while let Some(position) = from {
        let listed = log.list(position).unwrap();
        found.extend(listed.blocks.into_iter().map(|(cid, _)| cid));
        from = listed.next;
        moved += log.compact(20, &|| {}).unwrap();
    }
    assert!(moved > 0);
    assert_eq!(found, (1..200).step_by(2).map(|n| block(n).cid()).collect());
}

/// A segment without records in use is deleted, however long its footer is.
#[test]
fn what_a_dead_segment_tells_does_not_keep_it() {
    let disk = SimDisk::default();
    let log = open(&disk);
    let mut counts = Vec::new();
    for n in 0..5 {
        // A collection leaves it like this: other records in bulk, and a mark.
        append(&log, n).unwrap();
        log.index_mut().remove_block(&block(n).cid());
        while log.compact(20, &|| {}).unwrap() > 0 {}
        log.seal(20).unwrap();
        while log.compact(20, &|| {}).unwrap() > 0 {}
        counts.push(segments(&log).len());
    }
    assert!(counts[4] <= counts[0], "{counts:?}");
}

#[test]
fn nothing_is_told_after_a_failed_sync() {
    let disk = SimDisk::default();
    let log = open(&disk);
    append(&log, 1).unwrap();
    append(&log, 2).unwrap();
    disk.fail(0, Fault::Io, false);
    log.flush(StreamName::Commit).unwrap_err();
    let first = segments(&log).swap_remove(0);
    let len = first.len().unwrap();
    log.seal(0).unwrap_err();
    assert_eq!(first.len().unwrap(), len);
}
