use bytes::Bytes;
use fula_core::cbor::Writer;
use fula_service::{BatchAction, limits::COMMIT_CHANGES_MAX};

use super::*;

fn json(text: &str) -> S3Result<(bool, Vec<BatchChange>)> {
    parse(&Bytes::copy_from_slice(text.as_bytes()), false)
}

/// Writes one change of each kind, as [`SAME`] has it.
fn sample() -> Bytes {
    let mut out = Writer::with_capacity(512);
    out.map(2).text("each").boolean(true).text("changes").array(5);
    out.map(1).text("put").map(5).text("key").text("a").text("bytes").bytes(b"body");
    out.text("metadata").map(1).text("m").text("1").text("contentType").text("text/plain");
    out.text("ifNoneMatch").text("*");
    out.map(1).text("put").map(3).text("key").text("b");
    out.text("upload").map(2).text("id").text("u").text("parts").array(1);
    out.map(2).text("etag").text("\"e\"").text("number").uint(1);
    out.text("metadata").map(0);
    out.map(1).text("copy").map(3).text("key").text("c");
    out.text("from").map(3).text("key").text("k").text("bucket").text("other").text("ifMatch");
    out.text("t").text("ifMatch").text("x");
    out.map(1).text("check").map(2).text("key").text("d").text("ifMatch").text("y");
    out.map(1).text("delete").map(1).text("key").text("e");
    out.finish()
}

const SAME: &str = r#"{"each": true, "changes": [
    {"put": {"key": "a", "text": "body", "metadata": {"m": "1"}, "contentType": "text/plain", "ifNoneMatch": "*"}},
    {"put": {"key": "b", "upload": {"id": "u", "parts": [{"etag": "\"e\"", "number": 1}]}, "metadata": {}}},
    {"copy": {"key": "c", "from": {"key": "k", "bucket": "other", "ifMatch": "t"}, "ifMatch": "x"}},
    {"check": {"key": "d", "ifMatch": "y"}},
    {"delete": {"key": "e"}}]}"#;

#[test]
fn both_encodings_mean_the_same() {
    let (from_json, from_cbor) = (json(SAME).unwrap(), parse(&sample(), true).unwrap());
    assert_eq!(format!("{from_json:?}"), format!("{from_cbor:?}"));
    let (each, changes) = from_cbor;
    assert!(each);
    assert!(matches!(&changes[1].action, BatchAction::Complete { replace: Some(facts), .. }
        if facts.metadata.is_empty()));
    assert!(matches!(&changes[2].action, BatchAction::Copy { replace: None, .. }));
}

#[test]
fn a_commit_that_is_cut_off_or_goes_on_is_refused() {
    let whole = sample();
    for end in 0..whole.len() {
        let error = parse(&whole.slice(..end), true).unwrap_err();
        assert_eq!(error.code().as_str(), "InvalidArgument", "{end}");
    }
    let longer = [&whole[..], &[0xf6]].concat();
    assert!(parse(&Bytes::from(longer), true).is_err());
}

#[test]
fn a_commit_in_dag_cbor_has_one_form() {
    let refused = |write: &dyn Fn(&mut Writer)| {
        let mut out = Writer::with_capacity(64);
        out.map(1).text("changes").array(1);
        write(&mut out);
        let error = parse(&out.finish(), true).unwrap_err();
        assert_eq!(error.code().as_str(), "InvalidArgument");
        error.message().unwrap_or_default().to_owned()
    };
    let text = refused(&|out| {
        out.map(1).text("move").map(1).text("key").text("a");
    });
    assert!(text.contains("\"move\" is unknown"), "{text}");
    let text = refused(&|out| {
        out.map(1).text("delete").map(2).text("key").text("a").text("force").text("yes");
    });
    assert!(text.contains("\"force\" is unknown"), "{text}");
    // A condition that this action does not have.
    let text = refused(&|out| {
        out.map(1).text("delete").map(2).text("key").text("a").text("ifNoneMatch").text("*");
    });
    assert!(text.contains("\"ifNoneMatch\" is unknown"), "{text}");
    let text = refused(&|out| {
        out.map(2).text("put").map(1).text("key").text("a");
        out.text("check").map(1).text("key").text("a");
    });
    assert!(text.contains("a change has one of"), "{text}");
    let text = refused(&|out| {
        out.map(0);
    });
    assert!(text.contains("a change has one of"), "{text}");
    let text = refused(&|out| {
        out.map(1).text("check").map(2).text("ifMatch").text("x").text("key").text("a");
    });
    assert!(text.contains("do not ascend"), "{text}");
    let text = refused(&|out| {
        out.map(1).text("delete").map(2).text("key").text("a").text("key").text("b");
    });
    assert!(text.contains("do not ascend"), "{text}");
    let text = refused(&|out| {
        out.map(1).text("delete").map(0);
    });
    assert!(text.contains("field key is missing"), "{text}");
    let text = refused(&|out| {
        out.map(1).text("copy").map(1).text("key").text("a");
    });
    assert!(text.contains("field from is missing"), "{text}");
    // The length of a text in two bytes where one would do, an array of any length, and a float.
    for bad in [&b"\xa1\x66delete\xa1\x63key\x78\x01a"[..], b"\x9f\xff", b"\xfb\0\0\0\0\0\0\0\0"] {
        let _ = refused(&|out| {
            out.raw(bad);
        });
    }
}

#[test]
fn a_put_has_one_content() {
    for changes in [
        r#"[{"put": {"key": "a"}}]"#,
        r#"[{"put": {"key": "a", "text": "", "base64": ""}}]"#,
        r#"[{"put": {"key": "a", "text": "", "upload": {"id": "u", "parts": []}}}]"#,
    ] {
        let error = json(&format!(r#"{{"changes": {changes}}}"#)).unwrap_err();
        assert!(error.message().unwrap().contains("a put has one of"), "{changes}");
    }
}

#[test]
fn a_list_that_is_too_long_is_not_kept() {
    let change = r#"{"delete": {"key": "a"}},"#;
    let many = change.repeat(3 * COMMIT_CHANGES_MAX);
    let (_, kept) = json(&format!(r#"{{"changes": [{}]}}"#, many.trim_end_matches(','))).unwrap();
    // One more than is allowed, so that the service refuses it.
    assert_eq!(kept.len(), COMMIT_CHANGES_MAX + 1);
    let mut out = Writer::with_capacity(1 << 16);
    out.map(1).text("changes").array(COMMIT_CHANGES_MAX + 1);
    for _ in 0..=COMMIT_CHANGES_MAX {
        out.map(1).text("delete").map(1).text("key").text("a");
    }
    let error = parse(&out.finish(), true).unwrap_err();
    assert!(error.message().unwrap().contains("1 to 1000 changes"));
    // Items that need more memory than they have bytes are counted.
    let mut out = Writer::with_capacity(1 << 20);
    out.map(1).text("changes").array(1).map(1).text("put").map(2).text("key").text("a");
    out.text("map").map(1).text("nodes").array(1 << 19);
    for _ in 0..1 << 19 {
        out.bytes(b"");
    }
    let error = parse(&out.finish(), true).unwrap_err();
    assert!(error.message().unwrap().contains("items"), "{error:?}");
}

#[test]
fn the_content_type_decides_how_a_body_is_read() {
    let of = |kind: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        is_cbor(&headers)
    };
    assert!(of("application/vnd.ipld.dag-cbor") && of("Application/CBOR; a=b"));
    assert!(!of("application/json") && !of("application/x-www-form-urlencoded"));
    assert!(!is_cbor(&HeaderMap::new()));
}
