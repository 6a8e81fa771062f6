//! Tests of the answers to errors.

use super::*;

#[test]
fn a_client_is_told_to_slow_down_only_where_that_helps() {
    let unavailable = fula_core::StoreError::Unavailable {
        backend: "postgres",
        action: "get",
        source: "gone".into(),
    };
    let cid = fula_core::Cid::of(fula_core::Codec::Raw, b"x");
    let missing = fula_core::StoreError::Missing { cid };
    let text = "the masters remember states that exclude one another";
    let forked = ServiceError::Regressed(text.to_owned());
    for (error, code, retries) in [
        (ServiceError::Busy(Applied::None), "SlowDown", true),
        (unavailable.into(), "SlowDown", true),
        (ServiceError::Regressed(String::new()), "ServiceUnavailable", true),
        (forked, "ServiceUnavailable", false),
        (missing.into(), "InternalError", false),
    ] {
        let answer = s3_error(error);
        assert_eq!(answer.code().as_str(), code);
        let asks = answer.headers().is_some_and(|all| all.contains_key(header::RETRY_AFTER));
        assert_eq!(asks, retries, "{answer}");
        assert!(answer.status_code().is_some_and(|status| status.is_server_error()), "{answer}");
        assert!(answer.message().is_some_and(|text| text.len() > 40), "{answer}");
    }
}

#[test]
fn whether_a_retry_helps_and_what_became_of_a_write_follow_from_the_kind() {
    let unavailable =
        fula_core::StoreError::Unavailable { backend: "log", action: "get", source: "gone".into() };
    let cid = fula_core::Cid::of(fula_core::Codec::Raw, b"x");
    let damaged = fula_core::StoreError::Damaged { cid };
    let denied = Box::new(ServiceError::AccessDenied);
    for (error, status, retry_after, outcome) in [
        (ServiceError::Busy(Applied::Unknown), 503, Some("1"), Some("unknown")),
        (ServiceError::Busy(Applied::None), 503, Some("1"), Some("none")),
        (ServiceError::Regressed(String::new()), 503, Some("1"), Some("none")),
        (unavailable.into(), 503, Some("1"), Some("none")),
        (damaged.into(), 500, None, Some("none")),
        (ServiceError::Full, 507, None, Some("none")),
        (ServiceError::TooManyPublicBuckets(1), 400, None, None),
        (ServiceError::PreconditionFailed(ConditionName::IfMatch), 412, None, None),
        (ServiceError::InCommit { key: "k".to_owned(), error: denied }, 403, None, None),
    ] {
        let answer = s3_error(error);
        let header = |name| {
            let value = answer.headers().and_then(|headers| headers.get(name));
            value.and_then(|value| value.to_str().ok())
        };
        assert_eq!(answer.status_code().map(|code| code.as_u16()), Some(status), "{answer}");
        assert_eq!(header(header::RETRY_AFTER), retry_after, "{answer}");
        assert_eq!(header(OUTCOME_HEADER), outcome, "{answer}");
    }
}
