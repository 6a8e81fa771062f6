//! Unit tests of the module.

use super::*;

#[test]
fn errors_name_the_resource_and_the_request() {
    let body = Bytes::from_static(b"<?xml?><Error><Code>NoSuchKey</Code></Error>");
    let mended = mend_xml(&body, "<Region>r</Region>", "ID", "/b/<&>").unwrap();
    assert_eq!(
        mended,
        "<?xml?><Error><Code>NoSuchKey</Code><Region>r</Region>\
         <Resource>/b/&lt;&amp;&gt;</Resource><RequestId>ID</RequestId></Error>"
    );
    assert!(mend_xml(&Bytes::from_static(b"not xml"), "", "ID", "/").is_none());
}

#[test]
fn request_ids_do_not_repeat() {
    let ids = RequestIds { seed: 7, next: AtomicU64::new(0) };
    let drawn: std::collections::HashSet<_> = (0..10_000).map(|_| ids.draw()).collect();
    assert_eq!(drawn.len(), 10_000);
}
