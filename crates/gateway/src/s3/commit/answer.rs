//! Answers of commits.

use bytes::Bytes;
use fula_core::{ObjectKey, bucket::ETag, cbor::Writer};
use s3s::S3Error;

/// A key, and the entity tag of its new object or the reason why the change was refused.
pub(super) type Answered = (ObjectKey, Result<Option<ETag>, S3Error>);

fn quoted(etag: ETag) -> String {
    format!("\"{etag}\"")
}

/// Returns code, status and message of an error.
fn parts_of(error: &S3Error) -> (&str, u16, &str) {
    let status = error.status_code().map_or(500, |status| status.as_u16());
    (error.code().as_str(), status, error.message().unwrap_or_default())
}

/// Returns an answer in JSON.
pub(super) fn json(version: Option<u64>, results: &[Answered]) -> Bytes {
    let result = |(key, result): &Answered| match result {
        Ok(etag) => serde_json::json!({"key": key.as_str(), "etag": etag.map(quoted)}),
        Err(error) => {
            let (code, status, message) = parts_of(error);
            let error = serde_json::json!({"code": code, "status": status, "message": message});
            serde_json::json!({"key": key.as_str(), "error": error})
        }
    };
    let results: Vec<_> = results.iter().map(result).collect();
    Bytes::from(serde_json::json!({"version": version, "results": results}).to_string())
}

/// Returns an answer in dag-cbor.
pub(super) fn cbor(version: Option<u64>, results: &[Answered]) -> Bytes {
    let mut out = Writer::with_capacity(64 * (results.len() + 1));
    out.map(2).text("results").array(results.len());
    for (key, result) in results {
        out.map(2).text("key").text(key.as_str());
        match result {
            Ok(None) => out.text("etag").null(),
            Ok(Some(etag)) => out.text("etag").text(&quoted(*etag)),
            Err(error) => {
                let (code, status, message) = parts_of(error);
                out.text("error").map(3).text("code").text(code);
                out.text("status").uint(u64::from(status)).text("message").text(message)
            }
        };
    }
    out.text("version");
    match version {
        Some(version) => out.uint(version),
        None => out.null(),
    };
    out.finish()
}
