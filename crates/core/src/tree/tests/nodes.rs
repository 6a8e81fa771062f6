//! Nodes that are not what their parents say, and nodes of many items.

use super::*;

/// An edit of a key that is covered only by the entry of a forged parent fails instead of looping.
#[test]
fn a_child_that_ends_before_its_parent_says_is_an_error() {
    let nodes = nodes();
    let honest = build(&nodes, &numbered(200));
    let root = block_on(nodes.load(&honest.root.unwrap())).unwrap();
    assert!(root.level() == 1 && root.len() > 1);
    let beyond = |more: &[u8]| [root.key(0), more].concat();
    let mut chunker = boundary::Chunker::new(&SALT, 1);
    chunker.push(node::Item::inner(&beyond(b"~"), &root.child(0), 1, 1));
    chunker.push(node::Item::inner(root.key(1), &root.child(1), 1, 1));
    let forged = chunker.finish().remove(0).to_block();
    store(&nodes, std::slice::from_ref(&forged));
    let edits = Edits::from([set(&beyond(b"!"), 1, &[1])]);
    assert!(block_on(edit(&nodes, &SALT, &honest, &edits)).is_ok());
    let tree = Tree { root: Some(forged.cid()), ..honest };
    let refused = block_on(edit(&nodes, &SALT, &tree, &edits)).map(drop).unwrap_err();
    assert!(matches!(refused, StoreError::Malformed { .. }), "{refused}");
}

/// A tree with a child of a wrong level is refused, however it is walked.
#[test]
fn a_child_of_another_level_is_an_error() {
    let nodes = nodes();
    let model = Model::from([(b"key".to_vec(), (1, vec![0]))]);
    let leaf = build(&nodes, &model).root.unwrap();
    let mut chunker = boundary::Chunker::new(&SALT, 2);
    chunker.push(node::Item::inner(b"key", &leaf, 1, 1));
    let forged = chunker.finish().remove(0).to_block();
    store(&nodes, std::slice::from_ref(&forged));
    let tree = Tree { root: Some(forged.cid()), count: 1, bytes: 1 };
    let is_malformed = |error| matches!(error, StoreError::Malformed { .. });
    assert!(block_on(tree.get(&nodes, b"key")).is_err_and(is_malformed));
    assert!(block_on(Cursor::new(&nodes, &tree).seek(b"")).is_err_and(is_malformed));
    let edits = Edits::from([set(b"other", 1, &[1])]);
    assert!(block_on(edit(&nodes, &SALT, &tree, &edits)).is_err_and(is_malformed));
    assert!(block_on(diff(&nodes, &build(&nodes, &model), &tree)).is_err());
}

/// A node whose block and table together are longer than 64 KiB is searched correctly.
#[test]
fn a_node_of_many_items_is_searched_where_its_table_does_not_fit_into_16_bits() {
    const ITEMS: u16 = 5_400;
    let mut out = cbor::Writer::default();
    out.array(2).uint(0).array(ITEMS.into());
    for n in 0..ITEMS {
        out.array(3).bytes(&n.to_be_bytes()[..]).uint(u64::from(n % 24)).null();
    }
    let bytes = out.finish();
    let node = Node::decode(&bytes).unwrap();
    assert!(node.memory_bytes() > usize::from(u16::MAX));
    assert_eq!(node.to_block().bytes(), &bytes);
    for n in 0..ITEMS {
        assert_eq!(node.find(&n.to_be_bytes()), Ok(n.into()));
        assert_eq!(node.totals(n.into()), (1, u64::from(n % 24)));
        assert_eq!(node.entry(n.into()).value, [0xf6].as_slice());
    }
}
