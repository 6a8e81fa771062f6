//! Tests of the node cache: which nodes it holds, and when nodes are read.

use super::*;

#[test]
fn replaced_nodes_stay_in_memory_until_they_are_forgotten() {
    let nodes = nodes();
    let all = numbered(2_000);
    let all = all.iter().map(|(key, (weight, value))| set(key, *weight, value)).collect();
    let old = block_on(edit(&nodes, &SALT, &Tree::default(), &all)).unwrap().tree;
    let key = b"dir05/file-00000042";
    let made = block_on(edit(&nodes, &SALT, &old, &Edits::from([set(key, 1, b"new")]))).unwrap();
    let weight = |tree: &Tree| block_on(tree.get(&nodes, key)).map(|entry| entry.unwrap().weight);
    assert_eq!((weight(&old).unwrap(), weight(&made.tree).unwrap()), (4096, 1));
    nodes.forget(&made.replaced);
    let lost = weight(&old).unwrap_err();
    assert!(matches!(lost, StoreError::Missing { .. }), "{lost}");
    assert_eq!(scan(&nodes, &made.tree, b"").len(), 2_000);
}

/// Returns how many of the tree's leaves and inner nodes are cached, and how many there are.
fn kept(nodes: &Nodes, stored: &Nodes) -> [(usize, usize); 2] {
    let mut counts = [(0, 0); 2];
    for (cid, _) in block_on(list_all(stored.blocks().as_ref())).unwrap() {
        let is_inner = block_on(stored.load(&cid)).unwrap().level() > 0;
        let (kept, all) = &mut counts[usize::from(is_inner)];
        *kept += usize::from(nodes.cache.peek(&cid).is_some());
        *all += 1;
    }
    counts
}

#[test]
fn leaves_do_not_crowd_out_inner_nodes() {
    let stored = nodes();
    let model = numbered(20_000);
    let tree = build(&stored, &model);
    let nodes = Nodes::new(Arc::clone(stored.blocks()), 2 << 20);
    let keys: Vec<_> = model.keys().collect();
    // Each key once, in an order in which neighbours are far apart.
    for n in 0..keys.len() {
        assert!(block_on(tree.get(&nodes, keys[n * 7_919 % keys.len()])).unwrap().is_some());
    }
    let [(leaves_kept, leaves), (inner_kept, inner)] = kept(&nodes, &stored);
    assert!(inner > 40 && leaves_kept < leaves / 2, "{leaves_kept} of {leaves} leaves kept");
    assert_eq!(inner_kept, inner);
}

#[test]
fn a_tree_that_is_written_to_is_in_memory_whatever_was_asked_for_before() {
    let stored = nodes();
    let nodes = Nodes::new(Arc::clone(stored.blocks()), 2 << 20);
    let asked_for = numbered(20_000);
    let other = build(&stored, &asked_for);
    for key in asked_for.keys() {
        assert!(block_on(other.get(&nodes, key)).unwrap().is_some());
    }
    let model = numbered(2_000);
    let mut tree = build(&stored, &model);
    let keys: Vec<_> = model.keys().collect();
    let mut write_all = |value: &[u8]| {
        let before = nodes.reads();
        for n in 0..keys.len() {
            let edits = Edits::from([set(keys[n * 7_919 % keys.len()], 1, value)]);
            let edited = block_on(edit(&nodes, &SALT, &tree, &edits)).unwrap();
            store(&nodes, &edited.blocks);
            tree = edited.tree;
            nodes.forget(&edited.replaced);
        }
        nodes.reads() - before
    };
    assert!(write_all(&[1; 200]) > 0);
    assert_eq!(write_all(&[2; 200]), 0);
}

#[test]
fn nothing_is_read_ahead_while_memory_has_all_that_is_asked_for() {
    let stored = nodes();
    let model = numbered(2_000);
    let tree = build(&stored, &model);
    let nodes = Nodes::new(Arc::clone(stored.blocks()), 64 << 20);
    let key = model.keys().next().unwrap();
    let read = |tree: &Tree| {
        let before = nodes.reads();
        block_on(tree.read_ahead(&nodes, key));
        nodes.reads() - before
    };
    let quiet = |calls| (0..calls).for_each(|_| assert_eq!(read(&tree), 0, "it is in memory"));
    assert!(read(&tree) > 1, "memory was empty");
    quiet(UNREAD_MAX - 1);
    assert!(read(&build(&stored, &numbered(1_000))) > 0, "not for long enough");
    quiet(UNREAD_MAX);
    let other = build(&stored, &numbered(500));
    assert_eq!(read(&other), 0, "memory had everything for long");
    assert!(block_on(other.get(&nodes, key)).unwrap().is_some());
    assert!(read(&build(&stored, &numbered(200))) > 0, "something was read since");
}
