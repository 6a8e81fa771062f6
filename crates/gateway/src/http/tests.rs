//! Unit tests of the module.

use super::*;

#[test]
fn request_ids_do_not_repeat() {
    let ids = RequestIds { seed: 7, next: AtomicU64::new(0) };
    let drawn: std::collections::HashSet<_> = (0..10_000).map(|_| ids.draw()).collect();
    assert_eq!(drawn.len(), 10_000);
}
