use bytes::Bytes;
use ipld_core::ipld::Ipld;
use proptest::prelude::*;

use super::{
    MAP, Reader, Writer,
    reader::{DEPTH_MAX, ENCLOSING_MAX},
};
use crate::id::{Cid, Codec};

fn write(value: &Ipld, out: &mut Writer) {
    match value {
        Ipld::Null => drop(out.null()),
        Ipld::Integer(n) => drop(out.uint(u64::try_from(*n).unwrap())),
        Ipld::Bytes(bytes) => drop(out.bytes(bytes)),
        Ipld::String(text) => drop(out.text(text)),
        Ipld::List(list) => {
            out.array(list.len());
            for item in list {
                write(item, out);
            }
        }
        Ipld::Map(map) => {
            out.map(map.len());
            let mut pairs: Vec<_> = map.iter().collect();
            pairs.sort_by_key(|(key, _)| (key.len(), (*key).clone()));
            for (key, item) in pairs {
                out.text(key);
                write(item, out);
            }
        }
        Ipld::Link(cid) => drop(out.link(&Cid::from_bytes(&cid.to_bytes()).unwrap())),
        other => panic!("not used: {other:?}"),
    }
}

fn values() -> impl Strategy<Value = Ipld> {
    let leaf = prop_oneof![
        Just(Ipld::Null),
        any::<u64>().prop_map(|n| Ipld::Integer(i128::from(n))),
        (0_u64..300).prop_map(|n| Ipld::Integer(i128::from(n))),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Ipld::Bytes),
        ".{0,30}".prop_map(Ipld::String),
        any::<u8>().prop_map(|seed| {
            let cid = Cid::of(Codec::DagCbor, &[seed]).to_bytes();
            Ipld::Link(cid::Cid::try_from(cid.as_slice()).unwrap())
        }),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Ipld::List),
            prop::collection::btree_map(".{0,6}", inner, 0..6).prop_map(Ipld::Map),
        ]
    })
}

proptest! {
    #[test]
    fn writes_what_the_reference_writes(value in values()) {
        let mut out = Writer::default();
        write(&value, &mut out);
        let ours = out.finish();
        let reference = serde_ipld_dagcbor::to_vec(&value).unwrap();
        prop_assert_eq!(&ours[..], &reference[..]);
        let mut reader = Reader::new(&ours);
        prop_assert_eq!(reader.raw().unwrap(), ours.clone());
        reader.end().unwrap();
        let mut links = Vec::new();
        Reader::links(&ours, &mut |cid| links.push(cid.to_string())).unwrap();
        let mut expected = Vec::new();
        value.references(&mut expected);
        let mut expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
        links.sort();
        expected.sort();
        prop_assert_eq!(links, expected);
    }

    #[test]
    fn accepts_nothing_the_reference_refuses(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let bytes = Bytes::from(bytes);
        let ours = Reader::links(&bytes, &mut |_| {});
        if ours.is_ok() {
            // The reader accepts map keys in any order and more than once; it is lenient in nothing else.
            let reference = serde_ipld_dagcbor::from_slice::<Ipld>(&bytes);
            let has_map = bytes.iter().any(|byte| byte >> 5 == MAP);
            prop_assert!(reference.is_ok() || has_map, "{:?}: {:?}", bytes, reference);
        }
    }
}

#[test]
fn a_value_that_is_stepped_over_has_links_that_can_be_followed() {
    let mut out = Writer::default();
    out.array(1).link(&Cid::of(Codec::Raw, b"x"));
    let good = out.finish();
    for at in [4, 5, 6] {
        let mut bytes = good.to_vec();
        bytes[at] ^= 1;
        let bytes = Bytes::from(bytes);
        assert!(Reader::new(&good).value().is_ok() && Reader::new(&bytes).value().is_err());
        assert!(Reader::links(&bytes, &mut |_| {}).is_err());
    }
}

#[test]
fn links_are_found_in_values_of_any_depth_that_is_read() {
    let mut out = Writer::default();
    for _ in 0..ENCLOSING_MAX + DEPTH_MAX - 1 {
        out.array(1);
    }
    out.link(&Cid::of(Codec::Raw, b"x"));
    let bytes = out.finish();
    assert!(Reader::at(&bytes, ENCLOSING_MAX).value().is_ok());
    assert!(Reader::at(&bytes, ENCLOSING_MAX - 1).value().is_err());
    let mut found = 0;
    Reader::links(&bytes, &mut |_| found += 1).unwrap();
    assert_eq!(found, 1);
}

#[test]
fn lengths_are_believed_only_when_the_bytes_are_there() {
    let huge = Bytes::from_static(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    assert!(Reader::new(&huge).array().is_err());
    let deep = Bytes::from(vec![0x81; 10_000]);
    assert!(Reader::new(&deep).raw().is_err());
    let long_zero = Bytes::from_static(&[0x18, 0x00]);
    assert!(Reader::new(&long_zero).uint().is_err());
}
