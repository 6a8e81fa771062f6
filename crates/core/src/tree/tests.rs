//! Tests of the tree against a `BTreeMap`, and of what docs/format.md promises.

mod in_memory;
mod nodes;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::executor::block_on;
use proptest::prelude::*;

use super::*;
use crate::{
    block::{Block, Placement, list_all},
    id::Codec,
    in_memory::MemoryBlocks,
};

type Model = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

const SALT: Salt = Salt([7; 32]);

fn nodes() -> Nodes {
    Nodes::new(Arc::new(MemoryBlocks::default()), 64 << 20)
}

fn record(bytes: &[u8]) -> Bytes {
    let mut out = cbor::Writer::default();
    out.bytes(bytes);
    out.finish()
}

fn store(nodes: &Nodes, blocks: &[Block]) {
    block_on(nodes.blocks().put(blocks, Placement::Commit)).unwrap();
}

fn apply(nodes: &Nodes, tree: &Tree, edits: &Edits) -> Tree {
    let edited = block_on(edit(nodes, &SALT, tree, edits)).unwrap();
    store(nodes, &edited.blocks);
    edited.tree
}

fn set(key: &[u8], weight: u64, value: &[u8]) -> (Bytes, Option<(u64, Bytes)>) {
    (Bytes::copy_from_slice(key), Some((weight, record(value))))
}

fn build(nodes: &Nodes, model: &Model) -> Tree {
    let edits = model.iter().map(|(key, (weight, value))| set(key, *weight, value)).collect();
    apply(nodes, &Tree::default(), &edits)
}

fn scan(nodes: &Nodes, tree: &Tree, from: &[u8]) -> Vec<Entry> {
    let mut cursor = Cursor::new(nodes, tree);
    block_on(async {
        cursor.seek(from).await.unwrap();
        let mut all = Vec::new();
        while let Some(entry) = cursor.next().await.unwrap() {
            all.push(entry);
        }
        all
    })
}

fn check(nodes: &Nodes, tree: &Tree, model: &Model) {
    let entries = scan(nodes, tree, b"");
    let found: Vec<_> =
        entries.iter().map(|e| (e.key.to_vec(), e.weight, e.value.clone())).collect();
    let expected: Vec<_> =
        model.iter().map(|(key, (weight, value))| (key.clone(), *weight, record(value))).collect();
    let keys = |all: &[(Vec<u8>, u64, Bytes)]| all.iter().map(|e| e.0.len()).collect::<Vec<_>>();
    assert_eq!(keys(&found), keys(&expected));
    assert!(found == expected);
    assert_eq!(tree.count, model.len() as u64);
    assert_eq!(tree.bytes, model.values().map(|(weight, _)| weight).sum::<u64>());
}

/// Returns the height of the tree, and the length of its largest node in bytes.
fn shape(nodes: &Nodes, at: &Cid) -> (u8, usize) {
    let node = block_on(nodes.load(at)).unwrap();
    let bytes = block_on(nodes.blocks().size(at)).unwrap().unwrap();
    let bytes = usize::try_from(bytes).unwrap();
    if node.level() == 0 {
        return (0, bytes);
    }
    let below = (0..node.len()).map(|index| shape(nodes, &node.child(index)).1).max();
    (node.level(), bytes.max(below.unwrap()))
}

fn keys() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[a-d]{1,4}(/[a-d]{1,3}){0,2}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 1..40),
        1 => (any::<u8>(), 900_usize..1024).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

/// A key, and the value to set; `None` removes the key.
type Op = (Vec<u8>, Option<(u64, Vec<u8>)>);

fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
    let value = (0_u64..10_000, prop::collection::vec(any::<u8>(), 0..400));
    prop::collection::vec((keys(), prop::option::weighted(0.7, value)), 0..most)
}

/// Draws from a few bytes, among them the smallest and the largest.
fn few() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![0, b'a', 255])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Equal sets with the same salt have the same root, whatever the batches and removals before.
    #[test]
    fn shape_depends_on_the_set_alone(ops in ops(300), batch in 1_usize..60) {
        let nodes = nodes();
        let (mut tree, mut model) = (Tree::default(), Model::new());
        for chunk in ops.chunks(batch) {
            let mut edits = Edits::new();
            for (key, change) in chunk {
                if let Some((weight, value)) = change {
                    model.insert(key.clone(), (*weight, value.clone()));
                    let (key, change) = set(key, *weight, value);
                    edits.insert(key, change);
                } else {
                    model.remove(key);
                    edits.insert(Bytes::copy_from_slice(key), None);
                }
            }
            tree = apply(&nodes, &tree, &edits);
        }
        check(&nodes, &tree, &model);
        prop_assert_eq!(tree, build(&nodes, &model));
    }

    /// A tree that was cut by another rule, as by an earlier release, is edited like any other.
    #[test]
    fn a_tree_cut_elsewhere_can_be_edited(ops in ops(300), changes in ops(60)) {
        let nodes = nodes();
        let mut model = Model::new();
        model.extend(ops.into_iter().filter_map(|(key, change)| Some((key, change?))));
        let all = model.iter().map(|(key, (weight, value))| set(key, *weight, value)).collect();
        let made = block_on(edit(&nodes, &Salt([8; 32]), &Tree::default(), &all)).unwrap();
        store(&nodes, &made.blocks);
        let mut edits = Edits::new();
        for (key, change) in &changes {
            let value = change.as_ref().map(|(weight, value)| (*weight, record(value)));
            edits.insert(Bytes::copy_from_slice(key), value);
            match change {
                Some(change) => drop(model.insert(key.clone(), change.clone())),
                None => drop(model.remove(key)),
            }
        }
        let tree = apply(&nodes, &made.tree, &edits);
        check(&nodes, &tree, &model);
        let mut reread = Vec::new();
        for key in model.keys() {
            reread.extend(block_on(tree.get(&nodes, key)).unwrap());
        }
        prop_assert_eq!(reread.len(), model.len());
    }

    /// A search in a node finds the same item as a linear search.
    #[test]
    fn search_agrees_with_order(ops in ops(200), near in prop::collection::vec(any::<u8>(), 0..3)) {
        let mut model = Model::new();
        model.extend(ops.into_iter().filter_map(|(key, change)| Some((key, change?))));
        let edits = model.iter().map(|(key, (weight, value))| set(key, *weight, value)).collect();
        let made = block_on(edit(&nodes(), &SALT, &Tree::default(), &edits)).unwrap();
        for block in made.blocks {
            let node = Node::decode(block.bytes()).unwrap();
            for key in model.keys() {
                let tried =
                    [key.clone(), [&key[..], &near].concat(), key[..key.len() / 2].to_vec()];
                for key in tried {
                    let smaller = (0..node.len()).filter(|index| node.key(*index) < &key[..]).count();
                    let is_there = smaller < node.len() && node.key(smaller) == key;
                    prop_assert_eq!(node.find(&key), if is_there { Ok(smaller) } else { Err(smaller) });
                }
            }
        }
    }

    /// It does so too where keys share a prefix, end within it, or end with zeroes.
    #[test]
    fn search_agrees_beside_a_prefix(
        prefix in prop::collection::vec(few(), 0..12),
        keys in prop::collection::btree_set(prop::collection::vec(few(), 1..4), 1..12),
        tried in prop::collection::vec(prop::collection::vec(few(), 0..14), 40),
    ) {
        let with_prefix = |key: &Vec<u8>| [&prefix[..], key].concat();
        let edits = keys.iter().map(|key| set(&with_prefix(key), 1, b"v")).collect();
        let made = block_on(edit(&nodes(), &SALT, &Tree::default(), &edits)).unwrap();
        let begun = (0..=prefix.len()).map(|len| prefix[..len].to_vec());
        let tried: Vec<_> = tried.iter().cloned().chain(tried.iter().map(with_prefix)).chain(begun).collect();
        for block in made.blocks {
            let node = Node::decode(block.bytes()).unwrap();
            for key in &tried {
                let smaller = (0..node.len()).filter(|index| node.key(*index) < &key[..]).count();
                let is_there = smaller < node.len() && node.key(smaller) == key;
                prop_assert_eq!(node.find(key), if is_there { Ok(smaller) } else { Err(smaller) });
            }
        }
    }

    /// The difference of two trees is the difference of their sets.
    #[test]
    fn diff_is_set_difference(old in ops(200), new in ops(40)) {
        let nodes = nodes();
        let mut before = Model::new();
        before.extend(old.into_iter().filter_map(|(key, change)| Some((key, change?))));
        let mut after = before.clone();
        for (key, change) in new {
            match change {
                Some(change) => drop(after.insert(key, change)),
                None => drop(after.remove(&key)),
            }
        }
        let changes =
            block_on(diff(&nodes, &build(&nodes, &before), &build(&nodes, &after))).unwrap();
        let mut patched = before.clone();
        for change in &changes {
            match change {
                Change::Added(entry) => {
                    prop_assert!(!before.contains_key(entry.key.as_ref()));
                }
                Change::Removed(entry) => {
                    prop_assert!(before.contains_key(entry.key.as_ref()));
                    patched.remove(entry.key.as_ref());
                }
                Change::Changed { old, new } => prop_assert_ne!(old, new),
            }
            if let Change::Added(new) | Change::Changed { new, .. } = change {
                let mut reader = cbor::Reader::new(&new.value);
                patched.insert(new.key.to_vec(), (new.weight, reader.bytes().unwrap().to_vec()));
            }
        }
        prop_assert_eq!(patched, after);
    }

    /// The pages of a difference are the part of it in a range of keys, whatever their size.
    #[test]
    fn pages_of_a_difference_join(
        old in ops(200),
        new in ops(40),
        from in keys(),
        until in proptest::option::of(keys()),
        limit in 1_usize..7,
    ) {
        let nodes = nodes();
        let mut before = Model::new();
        before.extend(old.into_iter().filter_map(|(key, change)| Some((key, change?))));
        let mut after = before.clone();
        for (key, change) in new {
            match change {
                Some(change) => drop(after.insert(key, change)),
                None => drop(after.remove(&key)),
            }
        }
        let trees = (&build(&nodes, &before), &build(&nodes, &after));
        let until = until.as_deref();
        let mut expected = block_on(diff(&nodes, trees.0, trees.1)).unwrap();
        expected.retain(|change| {
            change.key() >= &from[..] && until.is_none_or(|until| change.key() < until)
        });
        let (mut found, mut next) = (Vec::new(), from.clone());
        loop {
            let page = block_on(diff_page(&nodes, trees, (&next, until), limit)).unwrap();
            prop_assert!(page.changes.len() <= limit);
            found.extend(page.changes);
            if !page.truncated {
                break;
            }
            next = found.last().unwrap().key().to_vec();
            next.push(0);
        }
        prop_assert_eq!(found, expected);
    }

    /// Lookups and scans from any key agree with the model.
    #[test]
    fn reads_agree_with_the_model(ops in ops(200), probe in keys()) {
        let nodes = nodes();
        let mut model = Model::new();
        model.extend(ops.into_iter().filter_map(|(key, change)| Some((key, change?))));
        let tree = build(&nodes, &model);
        let found = block_on(tree.get(&nodes, &probe)).unwrap().map(|entry| entry.value);
        prop_assert_eq!(found, model.get(&probe).map(|(_, value)| record(value)));
        let from: Vec<_> = scan(&nodes, &tree, &probe).iter().map(|e| e.key.to_vec()).collect();
        let expected: Vec<_> = model.range(probe..).map(|(key, _)| key.clone()).collect();
        prop_assert_eq!(from, expected);
    }

    #[test]
    fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(Node::decode(&bytes.into()));
    }

    /// A node that decodes can be read in full: items are read again from their encoded form.
    #[test]
    fn what_decodes_can_be_read(ops in ops(60), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let nodes = nodes();
        let model = ops.into_iter().filter_map(|(key, change)| Some((key, change?))).collect();
        build(&nodes, &model);
        for (cid, _) in block_on(list_all(nodes.blocks().as_ref())).unwrap() {
            let block = block_on(require(nodes.blocks().as_ref(), &cid)).unwrap();
            let mut bytes = block.bytes().to_vec();
            let changed = at.index(bytes.len());
            bytes[changed] = byte;
            let bytes = bytes.into();
            let Ok(node) = Node::decode(&bytes) else { continue };
            prop_assert_eq!(node.to_block(), Block::new(Codec::DagCbor, bytes));
            for index in 0..node.len() {
                prop_assert_eq!(node.find(node.key(index)), Ok(index));
                node.totals(index);
                if node.level() == 0 { drop(node.entry(index)) } else { node.child(index); }
            }
            node.sum();
        }
    }
}

fn numbered(count: u32) -> Model {
    (0..count)
        .map(|n| {
            (
                format!("dir{:02}/file-{n:08}", n % 37).into_bytes(),
                (4096, vec![n.to_le_bytes()[0]; 200]),
            )
        })
        .collect()
}

#[test]
fn changing_one_key_rewrites_its_path_and_little_else() {
    let nodes = nodes();
    let model = numbered(20_000);
    let tree = build(&nodes, &model);
    let depth = f64::from(shape(&nodes, &tree.root.unwrap()).0) + 1.0;
    let (mut replaced, mut inserted) = (0, 0);
    for n in 0..500_u32 {
        let (key, _) = model.iter().nth(n as usize * 37).unwrap();
        let one = |key: &[u8]| Edits::from([set(key, 1, &[9; 200])]);
        replaced += block_on(edit(&nodes, &SALT, &tree, &one(key))).unwrap().blocks.len();
        let beside = [key.as_slice(), b"+"].concat();
        inserted += block_on(edit(&nodes, &SALT, &tree, &one(&beside))).unwrap().blocks.len();
    }
    // A replaced record moves no boundary. An inserted record may split its node or shift a few.
    assert!((f64::from(u32::try_from(replaced).unwrap()) / 500.0 - depth).abs() < 1e-9);
    let mean = f64::from(u32::try_from(inserted).unwrap()) / 500.0;
    assert!(mean <= depth * 1.25, "{mean} nodes per insertion at depth {depth}");
}

#[test]
fn leaves_are_about_four_kib_and_inner_nodes_half_of_that() {
    let nodes = nodes();
    let tree = build(&nodes, &numbered(20_000));
    let (mut leaves, mut inner) = (Vec::new(), Vec::new());
    for (cid, bytes) in block_on(list_all(nodes.blocks().as_ref())).unwrap() {
        match block_on(nodes.load(&cid)).unwrap().level() {
            0 => leaves.push(bytes),
            _ => inner.push(bytes),
        }
    }
    let mean = |sizes: &[u64]| sizes.iter().sum::<u64>() / sizes.len() as u64;
    let (leaf, above) = (mean(&leaves), mean(&inner));
    assert!((3000..5500).contains(&leaf), "mean leaf is {leaf} bytes");
    assert!((1500..2800).contains(&above), "mean inner node is {above} bytes");
    assert!(shape(&nodes, &tree.root.unwrap()).0 <= 3);
}

#[test]
fn cap_and_height_hold_for_hostile_keys() {
    // Keys that never end a node, as an attacker who knew the salt would choose them.
    let never: Vec<Vec<u8>> = (0_u32..)
        .map(|n| format!("{n:010}").into_bytes())
        .filter(|key| !SALT.ends(0, key) && !SALT.ends(1, key) && !SALT.ends(2, key))
        .take(20_000)
        .collect();
    // Keys that always end a node, and keys of the largest length.
    let always: Vec<Vec<u8>> = (0_u32..)
        .map(|n| format!("{n:010}").into_bytes())
        .filter(|key| SALT.ends(0, key) && SALT.ends(1, key))
        .take(2_000)
        .collect();
    let long: Vec<Vec<u8>> = (0..2_000).map(|n| format!("{n:01024}").into_bytes()).collect();
    for (keys, height_max, resynchronises) in
        [(never, 3, true), (always, 6, false), (long, 6, true)]
    {
        let nodes = nodes();
        let model: Model = keys.into_iter().map(|key| (key, (1, vec![0; 100]))).collect();
        let tree = build(&nodes, &model);
        let (height, largest) = shape(&nodes, &tree.root.unwrap());
        assert!(height <= height_max, "height {height}");
        assert!(largest <= NODE_BYTES_MAX + 16, "{largest} bytes");
        if !resynchronises {
            continue; // Every key ends a node: who knows the salt can make one key shift them all.
        }
        // Forced ends resynchronise: one more key rewrites a few nodes and not the whole level.
        let middle = model.keys().nth(model.len() / 2).unwrap();
        let beside = [middle.as_slice(), b"!"].concat();
        let edits = Edits::from([set(&beside[beside.len().saturating_sub(1024)..], 1, &[1; 100])]);
        let edited = block_on(edit(&nodes, &SALT, &tree, &edits)).unwrap();
        assert!(edited.blocks.len() <= 3 * (usize::from(height) + 1), "{}", edited.blocks.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Nodes stay below the limit for small and large items in any order.
    #[test]
    fn the_cap_holds_for_any_mix_of_sizes(
        sizes in prop::collection::vec(prop_oneof![3 => 50_usize..300, 2 => 2_000_usize..7_900], 1..200),
        seed in any::<u8>(),
    ) {
        let nodes = nodes();
        // For keys that end no node, the limit is the only rule.
        let keys = (0_u32..).map(|n| format!("{seed}/{n:08}").into_bytes());
        let mut quiet = keys.filter(|key| !SALT.ends(0, key));
        let model: Model =
            sizes.iter().map(|size| (quiet.next().unwrap(), (1, vec![seed; *size]))).collect();
        let tree = build(&nodes, &model);
        prop_assert!(shape(&nodes, &tree.root.unwrap()).1 <= NODE_BYTES_MAX + 16);
        check(&nodes, &tree, &model);
    }
}

#[test]
fn oversized_records_are_refused() {
    let nodes = nodes();
    let edits = Edits::from([set(b"k", 1, &[0; ITEM_BYTES_MAX])]);
    let refused = block_on(edit(&nodes, &SALT, &Tree::default(), &edits));
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
}

#[test]
fn vectors_of_the_format() {
    let nodes = nodes();
    let tree = build(&nodes, &Model::from([(b"a".to_vec(), (5, b"x".to_vec()))]));
    let block = block_on(nodes.blocks().get(&tree.root.unwrap())).unwrap().unwrap();
    assert_eq!(hex::encode(block.bytes()), "820081834161054178");
    let tree = build(&nodes, &numbered(1_000));
    assert_eq!((tree.count, tree.bytes), (1_000, 4_096_000));
    assert_eq!(
        tree.root.unwrap().to_string(),
        "bafyr4ierlmxdb52hvia3fhacdelm7h3w7yoeha7zjesl4polk2gh23ch6a"
    );
}

#[test]
fn prefixes_have_successors() {
    assert_eq!(after_prefix(b"a/"), Some(Bytes::from_static(b"a0")));
    assert_eq!(after_prefix(&[b'a', 0xff]), Some(Bytes::from_static(b"b")));
    assert_eq!(after_prefix(&[0xff, 0xff]), None);
    assert_eq!(after_prefix(b""), None);
}
