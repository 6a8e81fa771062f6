//! Tests of bodies in chunks: well-formed, malformed and forged ones.

use http_body_util::{BodyExt, StreamBody};
use s3s_sigv4::AmzDate;
use zeroize::Zeroizing;

use super::*;

/// Decodes a body that arrives in pieces of `piece` bytes.
async fn decode(
    body: &[u8],
    piece: usize,
    framing: Framing,
    key: Option<ChunkKey>,
    length: u64,
    announced: &'static str,
) -> Result<(Vec<u8>, Trailers), String> {
    let frames: Vec<_> = body
        .chunks(piece)
        .map(|part| Ok::<_, StdError>(Frame::data(Bytes::copy_from_slice(part))))
        .collect();
    let inner = Body::http_body_unsync(StreamBody::new(futures::stream::iter(frames)));
    let mut headers = HeaderMap::new();
    if !announced.is_empty() {
        headers.insert("x-amz-trailer", HeaderValue::from_static(announced));
    }
    let lent = Lent::default();
    let (body, trailers) =
        Decoded::decode(inner, framing, key, length, &headers, lent.clone()).unwrap();
    match body.collect().await {
        Ok(collected) => Ok((collected.to_bytes().to_vec(), trailers)),
        Err(error) => {
            let told = lent.take_fault().map(|fault| fault.code().as_str().to_owned());
            assert_eq!(is_forged(&error), told.is_none());
            Err(told.unwrap_or_else(|| error.to_string()))
        }
    }
}

#[tokio::test]
async fn chunks_without_signatures_are_taken_apart() {
    let body = b"3\r\nabc\r\n4\r\ndefg\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n";
    let name = "x-amz-checksum-crc32";
    for piece in [1, 2, 3, 7, 1000] {
        let decoded = decode(body, piece, Framing::Unsigned, None, 7, name);
        let (content, trailers) = decoded.await.unwrap();
        assert_eq!(content, b"abcdefg");
        assert_eq!(trailers.get(name).unwrap(), "AAAAAA==");
    }
    // Lines of the trailer may end in a single line feed, and their names in any case.
    let body = b"3\r\nabc\r\n0\r\nX-Amz-Checksum-CRC32: AAAAAA==\n\r\n\r\n";
    let (_, trailers) = decode(body, 5, Framing::Unsigned, None, 3, name).await.unwrap();
    assert_eq!(trailers.get(name).unwrap(), "AAAAAA==");
    // A trailer is optional.
    for body in [b"3\r\nabc\r\n0\r\n\r\n".as_slice(), b"3\r\nabc\r\n0\r\n"] {
        let (content, _) = decode(body, 4, Framing::Unsigned, None, 3, "").await.unwrap();
        assert_eq!(content, b"abc");
    }
    let (content, _) = decode(b"0\r\n\r\n", 4, Framing::Unsigned, None, 0, "").await.unwrap();
    assert!(content.is_empty());
}

#[tokio::test]
async fn malformed_chunks_fail() {
    let name = "x-amz-checksum-crc32";
    let long = format!("3\r\nabc\r\n0\r\n{name}:{}\r\n\r\n", "A".repeat(TRAILER_BYTES_MAX));
    let cases: &[(&[u8], u64, &'static str, &str)] = &[
        (b"", 3, "", "IncompleteBody"),
        (b"3\r\nabc\r\n", 3, "", "IncompleteBody"),
        (b"3\r\nab", 3, "", "IncompleteBody"),
        (b"3\r\nabcd\r\n0\r\n\r\n", 3, "", "IncompleteBody"),
        (b"3\nabc\r\n0\r\n\r\n", 3, "", "IncompleteBody"),
        (b"3\r\nabc\r\n0\r\n\r\n", 4, "", "IncompleteBody"),
        (b"3\r\nabc\r\n0\r\n\r\n", 2, "", "IncompleteBody"),
        (b"+3\r\nabc\r\n0\r\n\r\n", 3, "", "IncompleteBody"),
        (b"\r\nabc\r\n0\r\n\r\n", 3, "", "IncompleteBody"),
        (b"fffffffffffffffff\r\nabc", 3, "", "IncompleteBody"),
        (&[b'0'; HEAD_BYTES_MAX + 1], 3, "", "IncompleteBody"),
        (b"3\r\nabc\r\n0\r\n\r\n", 3, name, "MalformedTrailerError"),
        (b"3\r\nabc\r\n0\r\nx-amz-checksum-crc32:a\r\n\r\n", 3, "", "MalformedTrailerError"),
        (b"3\r\nabc\r\n0\r\nx-amz-checksum-sha1:a\r\n\r\n", 3, name, "MalformedTrailerError"),
        (b"3\r\nabc\r\n0\r\nx-amz-checksum-crc32 a\r\n\r\n", 3, name, "MalformedTrailerError"),
        (
            b"3\r\nabc\r\n0\r\nx-amz-checksum-crc32:a\r\nx-amz-checksum-crc32:b\r\n",
            3,
            name,
            "MalformedTrailerError",
        ),
        (long.as_bytes(), 3, name, "MalformedTrailerError"),
    ];
    for &(body, length, announced, expected) in cases {
        for piece in [1, 1000, 1 << 20] {
            let told = decode(body, piece, Framing::Unsigned, None, length, announced).await;
            let text = String::from_utf8_lossy(&body[..body.len().min(80)]);
            assert_eq!(told.unwrap_err(), expected, "{text:?}");
        }
    }
}

/// Returns the key of AWS's example of a body in chunks, and its signatures.
fn example() -> (ChunkKey, [&'static str; 3]) {
    let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    let date = AmzDate::parse("20130524T000000Z").unwrap();
    let key = s3s_sigv4::derive_signing_key(secret, &date, "us-east-1", "s3");
    let key = ChunkKey {
        key: Zeroizing::new(key),
        date,
        region: "us-east-1".to_owned(),
        service: "s3".to_owned(),
        seed: signature_of(b"4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9")
            .unwrap(),
    };
    let signatures = [
        "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    ];
    (key, signatures)
}

fn framed(signatures: [&str; 3]) -> Vec<u8> {
    let [first, second, last] = signatures;
    let mut body = format!("10000;chunk-signature={first}\r\n").into_bytes();
    body.extend(vec![b'a'; 65_536]);
    body.extend(format!("\r\n400;chunk-signature={second}\r\n").into_bytes());
    body.extend(vec![b'a'; 1024]);
    body.extend(format!("\r\n0;chunk-signature={last}\r\n\r\n").into_bytes());
    body
}

#[tokio::test]
async fn the_example_of_aws_is_accepted() {
    const SIGNED: Framing = Framing::Signed { has_trailer: false };
    let (key, signatures) = example();
    let body = framed(signatures);
    let (content, _) = decode(&body, 777, SIGNED, Some(key), 66_560, "").await.unwrap();
    assert_eq!(content, vec![b'a'; 66_560]);
    let signature = "the signature of a chunk is wrong";
    for place in 0..3 {
        let (key, mut wrong) = example();
        wrong[place] = signatures[(place + 1) % 3];
        let told = decode(&framed(wrong), 1 << 20, SIGNED, Some(key), 66_560, "").await;
        assert_eq!(told.unwrap_err(), signature);
    }
    let mut forged = body.clone();
    forged[100] = b'b';
    let told = decode(&forged, 777, SIGNED, Some(example().0), 66_560, "").await;
    assert_eq!(told.unwrap_err(), signature);
    // A chunk without a signature is refused, and an unsigned trailer.
    let plain = b"3\r\nabc\r\n0\r\n\r\n";
    let told = decode(plain, 777, SIGNED, Some(example().0), 3, "").await;
    assert_eq!(told.unwrap_err(), "IncompleteBody");
    let mut more = body.clone();
    more.truncate(body.len() - 2);
    more.extend(b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n");
    let told = decode(&more, 777, SIGNED, Some(example().0), 66_560, "x-amz-checksum-crc32");
    assert_eq!(told.await.unwrap_err(), "MalformedTrailerError");
}

#[test]
fn the_framing_is_read() {
    let of = |word: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-content-sha256", HeaderValue::from_static(word));
        Framing::of(&headers).map_err(|error| error.code().as_str().to_owned())
    };
    assert_eq!(of("STREAMING-UNSIGNED-PAYLOAD-TRAILER"), Ok(Some(Framing::Unsigned)));
    assert_eq!(of("UNSIGNED-PAYLOAD"), Ok(None));
    assert_eq!(of("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"), Err("NotImplemented".into()));
    assert_eq!(of("STREAMING-"), Err("InvalidArgument".into()));
}
