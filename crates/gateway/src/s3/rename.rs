//! `RenameObject`.

use fula_service::{Caller, Invocation, RenameRequest};
use http::HeaderValue;
use s3s::{S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    Api, caller,
    convert::{bucket_name, object_key, read_conditions, refuse_conditions, write_conditions},
    object::written_headers,
};
use crate::error::s3_error as to_s3;

/// Longest client token, in bytes.
const TOKEN_BYTES_MAX: usize = 64;

/// Returns the context of a rename. Requests with one client token are attempts of one call.
fn caller_of(request: &S3Request<RenameObjectInput>) -> S3Result<Caller> {
    let caller = caller(request)?;
    let Some(token) = request.headers.get("x-amz-client-token") else { return Ok(caller) };
    let token = token.to_str().ok().filter(|token| (1..=TOKEN_BYTES_MAX).contains(&token.len()));
    let wrong = || s3_error!(InvalidArgument, "x-amz-client-token must have 1 to 64 characters");
    let invocation = Invocation::new(&format!("client token {}", token.ok_or_else(wrong)?), 2);
    Ok(Caller { invocation, ..caller })
}

/// Returns the key of the source: a key, or a bucket and a key, escaped as in a path.
fn source_key(value: Option<&HeaderValue>, bucket: &str) -> S3Result<String> {
    let missing = || s3_error!(InvalidArgument, "x-amz-rename-source must name the source object");
    let text = value.and_then(|value| value.to_str().ok()).ok_or_else(missing)?;
    // Only a form turns plus signs into blanks.
    let query = format!("k={}", text.replace('+', "%2B").replace('&', "%26"));
    let (_, key) = form_urlencoded::parse(query.as_bytes()).next().ok_or_else(missing)?;
    let within = key.strip_prefix('/').and_then(|rest| rest.strip_prefix(bucket));
    let key = within.and_then(|rest| rest.strip_prefix('/')).unwrap_or(&key);
    Ok(key.to_owned())
}

impl Api {
    pub(super) async fn rename_object(
        &self,
        request: S3Request<RenameObjectInput>,
    ) -> S3Result<S3Response<RenameObjectOutput>> {
        let (headers, input) = (&request.headers, &request.input);
        refuse_conditions(headers, &["if-match", "if-none-match"])?;
        let bucket = bucket_name(&input.bucket)?;
        let rename = RenameRequest {
            from: object_key(&source_key(headers.get("x-amz-rename-source"), bucket.as_str())?)?,
            to: object_key(&input.key)?,
            source: read_conditions(headers, "x-amz-rename-source-")?,
            conditions: write_conditions(headers)?,
        };
        let renamed = self.service.rename_object(&caller_of(&request)?, &bucket, rename).await;
        let mut response = S3Response::new(RenameObjectOutput::default());
        response.headers = written_headers(&renamed.map_err(to_s3)?);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_key_with_or_without_its_bucket() {
        for (text, expected) in [
            ("a/b", "a/b"),
            ("/bucket/a%20b", "a b"),
            ("bucket/a", "bucket/a"),
            ("/other/a", "/other/a"),
            ("a+b%2B%26&c", "a+b+&&c"),
            ("%C3%A9", "é"),
        ] {
            let value = HeaderValue::from_str(text).unwrap();
            assert_eq!(source_key(Some(&value), "bucket").unwrap(), expected, "{text}");
        }
        assert!(source_key(None, "bucket").is_err());
    }
}
