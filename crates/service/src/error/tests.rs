//! Unit tests of the module.

use super::*;

#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Layer {
    text: &'static str,
    source: Option<Box<Layer>>,
}

#[test]
fn what_an_error_says_of_its_source_is_said_once() {
    let layer = |text, source: Option<Layer>| Layer { text, source: source.map(Box::new) };
    let server = layer("permission denied for table t", None);
    let driver = layer("error of the database: permission denied for table t", Some(server));
    let error = layer("cannot migrate", Some(driver));
    let text = "cannot migrate: error of the database: permission denied for table t";
    assert_eq!(chain(&error), text);
}

#[test]
fn an_outage_says_which_part_is_away() {
    let unavailable = |backend, source: &str| {
        let source = source.to_owned().into();
        ServiceError::from(StoreError::Unavailable { backend, action: "read", source })
    };
    let below = fula_core::error::SwapError::NotSent(StoreError::Unavailable {
        backend: "postgres",
        action: "cas_root",
        source: "refused".into(),
    });
    let cid = fula_core::Cid::of(fula_core::Codec::Raw, b"x");
    for (error, outage) in [
        (unavailable("postgres", "refused"), Outage::Arbiter { is_late: false }),
        (unavailable("postgres", "deadline has elapsed"), Outage::Arbiter { is_late: true }),
        (ServiceError::unavailable(below), Outage::Arbiter { is_late: false }),
        (ServiceError::late("block store", "get"), Outage::Blocks { is_late: true }),
        (unavailable("object store", "403 Forbidden"), Outage::Blocks { is_late: false }),
        (unavailable("log", "input/output error"), Outage::OwnDisk),
        (ServiceError::Regressed("its pointer went back".into()), Outage::InDoubt),
        (ServiceError::Regressed(FORKED.into()), Outage::Forked),
        (StoreError::Missing { cid }.into(), Outage::BlockMissing),
        (StoreError::Damaged { cid }.into(), Outage::BlockDamaged),
        (ServiceError::unavailable("stopped"), Outage::Other),
    ] {
        assert_eq!(error.outage(), Some(outage), "{error}");
    }
    assert_eq!(ServiceError::NoSuchKey.outage(), None);
}
