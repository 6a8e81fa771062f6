//! Tests of signatures of version 4: AWS's examples, and refusals.

use http::{Method, Uri};

use super::*;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
/// The time of AWS's examples: 24 May 2013, midnight.
const NOW: Seconds = 1_369_353_600;
const ANY: Rules = Rules { region: None, presigned_v2: true };
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    map
}

fn checked(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    credential: Credential,
    now: Seconds,
) -> Result<bool, String> {
    let received = Received { method, uri, headers, host_bucket: None };
    let presented = Presented::of(&received, credential, &ANY, now).map_err(|refusal| {
        let text = refusal.error.message().unwrap_or_default().to_owned();
        format!("{}: {text}", refusal.error.code().as_str())
    })?;
    Ok(presented.verify(&received, SECRET).is_some())
}

const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
    SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
    Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";

fn example<'a>() -> Vec<(&'static str, &'a str)> {
    vec![
        ("host", "examplebucket.s3.amazonaws.com"),
        ("range", "bytes=0-9"),
        ("x-amz-content-sha256", EMPTY),
        ("x-amz-date", "20130524T000000Z"),
        ("authorization", AUTHORIZATION),
    ]
}

fn header_auth(pairs: &[(&'static str, &str)], now: Seconds) -> Result<bool, String> {
    let uri = Uri::from_static("/test.txt");
    checked(&Method::GET, &uri, &headers(pairs), Credential::Header, now)
}

#[test]
fn the_examples_of_aws_are_accepted() {
    assert_eq!(header_auth(&example(), NOW), Ok(true));
    let mut changed = example();
    changed[1].1 = "bytes=0-8";
    assert_eq!(header_auth(&changed, NOW), Ok(false));
    let uri = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524\
        %2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=\
        host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
    let host = headers(&[("host", "examplebucket.s3.amazonaws.com")]);
    let presigned = |uri: &str, now| {
        checked(&Method::GET, &uri.parse().unwrap(), &host, Credential::Presigned, now)
    };
    assert_eq!(presigned(uri, NOW + 86_400), Ok(true));
    assert_eq!(presigned(&uri.replace("test.txt", "test.tx"), NOW), Ok(false));
    assert!(presigned(uri, NOW + 86_401).unwrap_err().contains("Request has expired"));
    assert!(presigned(uri, NOW - 901).unwrap_err().contains("Request is not valid yet"));
    for (from, to, expected) in [
        ("86400", "x", "X-Amz-Expires should be a number"),
        ("86400", "18446744073709551615", "X-Amz-Expires should be a number"),
        ("86400", "-1", "X-Amz-Expires must be non-negative"),
        ("86400", "604801", "less than a week"),
        ("X-Amz-Expires=86400&", "", "requires the X-Amz-Algorithm"),
        (
            "X-Amz-Expires=86400&",
            "X-Amz-Expires=1&X-Amz-Expires=2&",
            "requires the X-Amz-Algorithm",
        ),
        ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512", "X-Amz-Algorithm only supports"),
        ("20130524T000000Z", "20130524", "X-Amz-Date must be in the ISO8601"),
        ("20130524T000000Z", "2013052%C3%A9000000Z", "X-Amz-Date must be in the ISO8601"),
        ("20130524T000000Z", "%C3%A9130524T00000Z", "X-Amz-Date must be in the ISO8601"),
        ("&X-Amz-Signature=", "&prefix=", "requires the X-Amz-Algorithm"),
        ("20130524T000000Z", "20130525T000000Z", "Invalid credential date \"20130524\""),
        ("%2F20130524", "%2F201305", "incorrect date format"),
        ("%2Fs3", "%2Fsts", "incorrect service \"sts\""),
    ] {
        let refused = presigned(&uri.replacen(from, to, 1), NOW).unwrap_err();
        assert!(refused.starts_with("AuthorizationQueryParametersError: "), "{refused}");
        assert!(refused.contains(expected), "{from} {to}: {refused}");
    }
}

#[test]
fn a_time_is_in_either_header() {
    let without = |name: &str| {
        let mut all = example();
        all.retain(|(found, _)| *found != name);
        all
    };
    let denied = "AccessDenied: AWS authentication requires a valid Date or x-amz-date header";
    assert_eq!(header_auth(&without("x-amz-date"), NOW), Err(denied.to_owned()));
    let with_date = |date: &'static str| {
        let mut all = without("x-amz-date");
        all.push(("date", date));
        header_auth(&all, NOW)
    };
    assert_eq!(with_date("yesterday"), Err(denied.to_owned()));
    // `x-amz-date` is in the list of signed headers, so the signature cannot be right.
    for date in ["Fri, 24 May 2013 00:00:00 GMT", "20130524T000000Z"] {
        assert_eq!(with_date(date), Ok(false), "{date}");
    }
    let mut both = example();
    both.push(("date", "Fri, 01 Jan 1999 00:00:00 GMT"));
    assert_eq!(header_auth(&both, NOW), Ok(true));
    for now in [NOW - 901, NOW + 901] {
        assert!(header_auth(&example(), now).unwrap_err().starts_with("RequestTimeTooSkewed"));
    }
}

#[test]
fn headers_that_count_are_signed() {
    let mut more = example();
    more.push(("x-amz-meta-a", "b"));
    assert!(header_auth(&more, NOW).unwrap_err().starts_with("AccessDenied: There were headers"));
    let mut more = example();
    more.push(("x-other", "b"));
    assert_eq!(header_auth(&more, NOW), Ok(true));
    let repeated = AUTHORIZATION.replace("host;", &"host;".repeat(2));
    let many: Vec<String> = (0..=SIGNED_HEADERS_MAX).map(|n| format!("h{n}")).collect();
    let many = AUTHORIZATION.replace("host;", &format!("{};host;", many.join(";")));
    for authorization in [&repeated, &many] {
        let mut wrong = example();
        wrong[4].1 = authorization;
        let told = header_auth(&wrong, NOW).unwrap_err();
        assert!(told.contains("the authorization component \"SignedHeaders\""), "{told}");
    }
    let mut wrong = example();
    wrong[2].1 = "short";
    assert!(header_auth(&wrong, NOW).unwrap_err().starts_with("InvalidArgument: x-amz-content"));
    for empty in ["", "  "] {
        let mut wrong = example();
        wrong[4].1 = empty;
        assert!(header_auth(&wrong, NOW).unwrap_err().starts_with("AccessDenied"));
    }
}

#[test]
fn the_host_is_signed() {
    let denied = Err("AccessDenied: The host header must be signed.".to_owned());
    let fields = |names: &str| {
        let credential = "Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request";
        let (names, signature) = (format!("SignedHeaders={names}"), format!("Signature={EMPTY}"));
        [
            format!("AWS4-HMAC-SHA256 {credential}, {names}, {signature}"),
            format!("AWS4-HMAC-SHA256 {names}, {credential}, {signature}"),
            format!("AWS4-HMAC-SHA256 {names},{credential},{signature}"),
            format!("AWS4-HMAC-SHA256 {credential},\u{a0}{names}, {signature}"),
        ]
    };
    let told = |authorization: &str| {
        let mut changed = example();
        changed[4].1 = authorization;
        header_auth(&changed, NOW)
    };
    for names in ["x-amz-date", "x-amz-date;hosts", "ahost;x-amz-date", ";x-amz-date"] {
        for authorization in fields(names) {
            assert_eq!(told(&authorization), denied, "{authorization}");
        }
    }
    for authorization in fields("x-amz-date;host") {
        assert_eq!(told(&authorization), Ok(false), "{authorization}");
    }
    let uri = |names: &str| -> Uri {
        let uri = format!(
            "/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&\
             X-Amz-Date=20130524T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders={names}&X-Amz-Signature={EMPTY}"
        );
        uri.parse().unwrap()
    };
    let host = headers(&[("host", "h")]);
    let presigned =
        |names: &str| checked(&Method::GET, &uri(names), &host, Credential::Presigned, NOW);
    for names in ["", "x-amz-date", "hosts", "ahost%3Bx-amz-date"] {
        assert_eq!(presigned(names), denied, "{names}");
    }
    assert_eq!(presigned("host"), Ok(false));
}

#[test]
fn paths_are_decoded() {
    assert_eq!(decoded("/a b/%41%zz%4").as_deref(), Some("/a b/A%zz%4"));
    assert_eq!(decoded("/%C3%A9").as_deref(), Some("/é"));
    assert_eq!(decoded("/%ff"), None);
}
