use std::collections::BTreeMap;

use fula_core::Codec;

use super::*;

fn cid(n: u32) -> Cid {
    let codec = [Codec::Raw, Codec::DagPb, Codec::DagCbor][n as usize % 3];
    Cid::of(codec, &(n / 3).to_be_bytes())
}

fn slot(n: u32) -> Slot {
    Slot { segment: n, offset: n * 8 + 16, value_len: n + 1, key_len: 36 }
}

/// Returns the bounds of a sweep of blocks that were not marked in the collection of an epoch and were put
/// before it.
fn cut(epoch: u32) -> SweepBounds {
    let epoch = Epoch(epoch);
    SweepBounds { marked: epoch, put_before: epoch, now: epoch }
}

fn sweep(blocks: &mut Blocks, cut: SweepBounds, limit: u32) -> Vec<u32> {
    let (mut gone, mut from) = (Vec::new(), Some(Position::default()));
    while let Some(position) = from {
        let before = gone.len();
        from = blocks.sweep(position, limit, cut, |slot| gone.push(slot.segment));
        assert!(gone.len() - before <= limit as usize);
    }
    gone.sort_unstable();
    gone
}

#[test]
fn it_holds_what_an_ordered_map_holds() {
    let (mut blocks, mut model) = (Blocks::default(), BTreeMap::new());
    let mut random = 1_u32;
    for step in 0..60_000 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let cid = cid((random >> 8) % 20_000);
        if random >> 30 == 0 {
            assert_eq!(blocks.remove(&cid), model.remove(&cid));
        } else {
            let old = blocks.insert(&cid, slot(step), Epoch(step));
            assert_eq!(old, model.insert(cid, slot(step)));
        }
        assert_eq!(blocks.get(&cid), model.get(&cid).copied());
    }
    assert!((0..20_000).all(|n| blocks.get(&cid(n)) == model.get(&cid(n)).copied()));
}

#[test]
fn moving_a_block_is_not_putting_it() {
    let mut blocks = Blocks::default();
    blocks.insert(&cid(1), slot(1), Epoch(4));
    blocks.insert(&cid(2), slot(2), Epoch(4));
    assert_eq!(mark(&mut blocks, 2, 6), Some(true));
    for n in [1, 2] {
        blocks.insert(&cid(n), slot(n + 10), Epoch(6));
    }
    assert_eq!(sweep(&mut blocks, cut(6), 10), [11]);
    assert_eq!(blocks.get(&cid(2)), Some(slot(12)));
}

#[test]
fn a_sweep_in_steps_takes_what_is_neither_marked_nor_new() {
    let mut blocks = Blocks::default();
    for n in 0..9_000 {
        blocks.insert(&cid(n), slot(n), Epoch(1 + n / 3000));
    }
    for n in (0..9_000).step_by(2) {
        assert_eq!(mark(&mut blocks, n, 4), Some(true));
        assert_eq!(mark(&mut blocks, n, 4), Some(false));
    }
    let at = blocks.find(&cid(1)).unwrap();
    assert_eq!(blocks.renew(at, Epoch(3)), slot(1));
    assert_eq!(mark(&mut blocks, 9_000, 4), None);
    let odd: Vec<u32> = (3..6_000).step_by(2).collect();
    assert_eq!(sweep(&mut blocks, SweepBounds { put_before: Epoch(3), ..cut(4) }, 3), odd);
    assert!((0..9_000).all(|n| blocks.get(&cid(n)).is_none() == odd.contains(&n)));
}

#[test]
fn a_sweep_takes_each_block_once_whatever_its_steps() {
    for (count, limit) in (0..20).flat_map(|count| (1..6).map(move |limit| (count, limit))) {
        let mut blocks = Blocks::default();
        for round in 1..3 {
            (0..count).for_each(|n| assert_eq!(blocks.insert(&cid(n), slot(n), Epoch(1)), None));
            assert_eq!(blocks.entries.end(), count, "round {round}, steps of {limit}");
            assert!(sweep(&mut blocks, cut(2), limit).into_iter().eq(0..count));
            assert!(sweep(&mut blocks, cut(3), limit).is_empty());
        }
    }
}

#[test]
fn a_block_put_between_two_steps_of_a_sweep_stays() {
    let mut blocks = Blocks::default();
    (0..4).for_each(|n| assert_eq!(blocks.insert(&cid(n), slot(n), Epoch(1)), None));
    let mut gone = 0;
    let next = blocks.sweep(Position(0), 2, cut(2), |_| gone += 1).unwrap();
    // New blocks get the numbers of the removed ones.
    (4..6).for_each(|n| assert_eq!(blocks.insert(&cid(n), slot(n), Epoch(2)), None));
    assert_eq!(blocks.entries.end(), 4);
    assert_eq!(blocks.sweep(next, 2, cut(2), |_| gone += 1), None);
    assert_eq!(gone, 4);
    assert!(sweep(&mut blocks, cut(2), 2).is_empty());
    assert_eq!(sweep(&mut blocks, cut(3), 2), [4, 5]);
}

#[test]
fn what_every_sweep_passes_is_never_marked_by_chance() {
    let mut blocks = Blocks::default();
    blocks.insert(&cid(1), slot(1), Epoch(0));
    let At(number) = blocks.find(&cid(1)).unwrap();
    // The block is never marked, and put again before each sweep.
    for epoch in 1..3000 {
        assert!(!blocks.entries.at(number).is_marked(Epoch(epoch)), "{epoch}");
        blocks.renew(At(number), Epoch(epoch));
        assert!(sweep(&mut blocks, cut(epoch), 10).is_empty());
    }
}

#[test]
fn entries_of_blocks_that_are_gone_are_used_again() {
    let mut blocks = Blocks::default();
    for round in 0..3 {
        for n in 0..5_000 {
            blocks.insert(&cid(n), slot(n), Epoch(round));
        }
        for n in 0..5_000 {
            assert_eq!(blocks.remove(&cid(n)), Some(slot(n)));
        }
    }
    assert_eq!(blocks.entries.slabs(), 2);
    assert!(blocks.tables.tables.iter().all(HashTable::is_empty));
}

#[test]
fn the_blocks_of_a_segment_are_forgotten_together() {
    let mut blocks = Blocks::default();
    for n in 0..1000 {
        blocks.insert(&cid(n), Slot { segment: n % 4, ..slot(n) }, Epoch(1));
    }
    let mut lay = Vec::new();
    blocks.forget(3, |slot| lay.push(slot.segment));
    assert_eq!(lay, [3; 250]);
    assert!((0..1000).all(|n| blocks.get(&cid(n)).is_none() == (n % 4 == 3)));
}

#[test]
fn tables_hold_from_once_to_twice_as_many() {
    let mut blocks = Blocks::default();
    for n in 0..1_000_000 {
        blocks.insert(&cid(n), slot(n), Epoch(1));
    }
    let held: Vec<usize> = blocks.tables.tables.iter().map(HashTable::len).collect();
    let (quarter, all) = (held.len() / 4, held.iter().sum::<usize>());
    let (first, last): (usize, usize) =
        (held[..quarter].iter().sum(), held[3 * quarter..].iter().sum());
    // These are 2^(1/4) - 1 and 2 - 2^(3/4) of all.
    assert!((185..194).contains(&(first * 1000 / all)), "{first} of {all}");
    assert!((313..323).contains(&(last * 1000 / all)), "{last} of {all}");
    assert!(held.iter().all(|held| (450..1700).contains(held)), "{held:?}");
}

#[test]
fn a_sweep_gives_back_the_memory_of_what_is_gone_and_keeps_what_stays() {
    let slabs = 40_u32;
    let count = slabs * u32::try_from(slabs::SLAB_ENTRIES).unwrap();
    let mut blocks = Blocks::default();
    (0..count).for_each(|n| assert_eq!(blocks.insert(&cid(n), slot(n), Epoch(1)), None));
    let room =
        |blocks: &Blocks| blocks.tables.tables.iter().map(HashTable::capacity).sum::<usize>();
    let full = room(&blocks);
    // A few blocks in each slab stay; those that stay in the last ones must move.
    let stays = |n: u32| n % 64 == 5;
    let kept: Vec<_> = (0..count).filter(|n| stays(*n)).collect();
    for n in &kept {
        assert_eq!(mark(&mut blocks, *n, 2), Some(true));
    }
    let gone = sweep(&mut blocks, cut(2), 256);
    assert_eq!(gone.len() + kept.len(), count as usize);
    assert_eq!(blocks.entries.slabs(), 4, "one in use, as much again, and two");
    assert!(room(&blocks) < full / 8, "{} of {full}", room(&blocks));
    assert!((0..count).all(|n| blocks.get(&cid(n)) == stays(n).then(|| slot(n))));
    // Marks move with entries, and new blocks find room.
    assert!(sweep(&mut blocks, SweepBounds { now: Epoch(3), ..cut(2) }, 256).is_empty());
    for n in 0..count {
        blocks.insert(&cid(n), slot(n), Epoch(3));
    }
    assert_eq!(blocks.entries.slabs(), slabs as usize);
    assert_eq!(sweep(&mut blocks, cut(9), 256).len(), count as usize);
    assert_eq!(blocks.entries.slabs(), 2);
}

/// Marks one block. Returns whether it was not marked before; `None` if it is not stored.
fn mark(blocks: &mut Blocks, n: u32, epoch: u32) -> Option<bool> {
    let mut marks = mark_all(blocks, &[cid(n)], epoch);
    match marks.pop().unwrap() {
        Mark::New(found) => Some(found == slot(n) || found == slot(n + 10)),
        Mark::Known => Some(false),
        Mark::Missing => None,
    }
}

fn mark_all(blocks: &mut Blocks, cids: &[Cid], epoch: u32) -> Vec<Mark> {
    let (mut marks, mut told) = (Vec::new(), Vec::new());
    blocks.mark(cids, Epoch(epoch), |cid, mark| {
        told.push(*cid);
        marks.push(mark);
    });
    assert_eq!(told, cids);
    marks
}

#[test]
fn many_blocks_are_marked_as_one_by_one() {
    let mut blocks = Blocks::default();
    for n in 0..5_000 {
        blocks.insert(&cid(n), slot(n), Epoch(1));
    }
    // Some are not there, and some come twice.
    let wanted: Vec<_> = (0..6_000).step_by(7).chain([3, 3, 5_999]).collect();
    let cids: Vec<_> = wanted.iter().map(|n| cid(*n)).collect();
    let expected = wanted.iter().enumerate().map(|(at, n)| match (*n, wanted[..at].contains(n)) {
        (5_000.., _) => Mark::Missing,
        (_, true) => Mark::Known,
        (n, false) => Mark::New(slot(n)),
    });
    assert_eq!(mark_all(&mut blocks, &cids, 2), expected.collect::<Vec<_>>());
    for (n, mark) in wanted.iter().zip(mark_all(&mut blocks, &cids, 2)) {
        assert_eq!(mark, if *n < 5_000 { Mark::Known } else { Mark::Missing });
    }
}

#[test]
fn a_block_is_found_beside_one_whose_hash_is_the_same() {
    let mut blocks = Blocks::default();
    blocks.insert(&cid(1), slot(1), Epoch(1));
    // A place with the hash of another block, as one of billions has.
    let tag = blocks.hasher.tag(&cid(2));
    let place = Place { number: 0, hash: tag.hash() };
    blocks.tables.of_mut(tag).insert_unique(spread(tag.hash()), place, |place| spread(place.hash));
    assert_eq!(mark_all(&mut blocks, &[cid(2)], 2), [Mark::Missing]);
    blocks.insert(&cid(2), slot(2), Epoch(1));
    assert_eq!(mark_all(&mut blocks, &[cid(2), cid(1)], 2), [2, 1].map(|n| Mark::New(slot(n))));
}
