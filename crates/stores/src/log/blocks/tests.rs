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

fn sweep(blocks: &mut Blocks, epochs: [Epoch; 3], limit: u32) -> Vec<u32> {
    let (mut gone, mut from) = (Vec::new(), Some(Position::default()));
    while let Some(position) = from {
        let before = gone.len();
        from = blocks.sweep(position, limit, epochs, |slot| gone.push(slot.segment));
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
    assert_eq!(blocks.mark(&cid(2), Epoch(6)), Some(true));
    for n in [1, 2] {
        blocks.insert(&cid(n), slot(n + 10), Epoch(6));
    }
    assert_eq!(sweep(&mut blocks, [Epoch(6); 3], 10), [11]);
    assert_eq!(blocks.get(&cid(2)), Some(slot(12)));
}

#[test]
fn a_sweep_in_steps_takes_what_is_neither_marked_nor_new() {
    let mut blocks = Blocks::default();
    for n in 0..9_000 {
        blocks.insert(&cid(n), slot(n), Epoch(1 + n / 3000));
    }
    for n in (0..9_000).step_by(2) {
        assert_eq!(blocks.mark(&cid(n), Epoch(4)), Some(true));
        assert_eq!(blocks.mark(&cid(n), Epoch(4)), Some(false));
    }
    let at = blocks.find(&cid(1)).unwrap();
    assert_eq!(blocks.renew(at, Epoch(3)), slot(1));
    assert_eq!(blocks.mark(&cid(9_000), Epoch(4)), None);
    let odd: Vec<u32> = (3..6_000).step_by(2).collect();
    assert_eq!(sweep(&mut blocks, [Epoch(4), Epoch(3), Epoch(4)], 3), odd);
    assert!((0..9_000).all(|n| blocks.get(&cid(n)).is_none() == odd.contains(&n)));
}

#[test]
fn what_every_sweep_passes_is_never_marked_by_chance() {
    let mut blocks = Blocks::default();
    blocks.insert(&cid(1), slot(1), Epoch(0));
    let At(number) = blocks.find(&cid(1)).unwrap();
    // It is never marked, and put anew before each sweep.
    for cut in (1..3000).map(Epoch) {
        assert!(!blocks.entries.at(number).is_marked(cut), "{cut:?}");
        blocks.renew(At(number), cut);
        assert!(sweep(&mut blocks, [cut; 3], 10).is_empty());
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
    assert_eq!(blocks.entries.slabs.len(), 2);
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
    // 2^(1/4) - 1 and 2 - 2^(3/4) of all.
    assert!((185..194).contains(&(first * 1000 / all)), "{first} of {all}");
    assert!((313..323).contains(&(last * 1000 / all)), "{last} of {all}");
    assert!(held.iter().all(|held| (500..1700).contains(held)), "{held:?}");
}
