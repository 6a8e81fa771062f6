//! Forms that browsers post (`POST /{bucket}`, multipart/form-data).
//!
//! `parts` reads the fields and streams the file, `policy` holds the form to the policy that was signed.
//! The rest of the request is a `PutObject`: the same checks, the same pipeline.

mod parts;
mod policy;

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header, request::Parts,
};
use s3s::{Body, S3Error, S3Result, s3_error};

pub(crate) use self::parts::Form;
use self::policy::Policy;
use crate::{
    error::with_argument,
    request_body::Lent,
    signature::FormSignature,
    xml::{escape, printable},
};

/// Returns whether a request is a form.
pub(crate) fn is_form(parts: &Parts) -> bool {
    let value = parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    parts.method == Method::POST
        && value.is_some_and(|value| has_prefix(value, b"multipart/form-data"))
}

fn has_prefix(value: &[u8], prefix: &[u8]) -> bool {
    value.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Fields that become headers of the same name, in addition to those that begin with `x-amz-`.
const HEADERS: [&str; 6] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
];

/// Fields of the signature, which no header stands for.
const SIGNATURE: [&str; 4] =
    ["x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature"];

fn missing(name: &'static str) -> S3Error {
    let text = format!(
        "Bucket POST must contain a field named '{name}'.  If it is specified, please check the order \
         of the fields."
    );
    with_argument(s3_error!(InvalidArgument, "{text}"), name, &HeaderValue::from_static(""))
}

/// What a form asks for, once its file is on its way.
pub(crate) struct Upload {
    pub(crate) key: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    answer: Answer,
}

/// The form in which the browser wants its answer.
struct Answer {
    redirect: Option<Uri>,
    status: StatusCode,
}

impl Form {
    /// Returns the signature of the form; `None` for a form without any.
    ///
    /// # Errors
    /// 400 `InvalidArgument` for a signature that lacks a field.
    pub(crate) fn signature(&self) -> S3Result<Option<FormSignature<'_>>> {
        if self.field("awsaccesskeyid").is_some() || self.field("signature").is_some() {
            return Err(crate::signature::unsupported());
        }
        let named = SIGNATURE.iter().any(|name| self.field(name).is_some());
        if self.field("policy").is_none() && !named {
            return Ok(None);
        }
        let need = |name: &'static str, shown| self.field(name).ok_or_else(|| missing(shown));
        Ok(Some(FormSignature {
            policy: need("policy", "policy")?,
            algorithm: need("x-amz-algorithm", "X-Amz-Algorithm")?,
            credential: need("x-amz-credential", "X-Amz-Credential")?,
            date: need("x-amz-date", "X-Amz-Date")?,
            signature: need("x-amz-signature", "X-Amz-Signature")?,
            session_token: self.field("x-amz-security-token"),
        }))
    }

    /// Returns the policy that was signed.
    ///
    /// # Errors
    /// 400 `InvalidPolicyDocument`.
    pub(crate) fn policy(&self) -> S3Result<Policy> {
        let text = self.field("policy").unwrap_or_default();
        let bytes = BASE64_STANDARD.decode(text.split_whitespace().collect::<String>());
        let bytes = bytes.map_err(|_| {
            s3_error!(InvalidPolicyDocument, "Invalid Policy: Invalid Base64 encoding.")
        })?;
        Policy::parse(&bytes)
    }

    /// Holds the form to its policy, and returns the upload.
    ///
    /// # Errors
    /// 403 `AccessDenied` for a field that the policy does not allow; 400 `InvalidArgument` for a field
    /// that is malformed.
    pub(crate) fn upload(
        mut self,
        bucket: &str,
        policy: &Policy,
        now: u64,
        lent: &Lent,
    ) -> S3Result<Upload> {
        let key = self.field("key").ok_or_else(|| missing("key"))?;
        let key = key.replace("${filename}", self.file_name());
        self.set("key", key.clone());
        policy.check(&self, bucket, now)?;
        let mut headers = HeaderMap::new();
        for (name, value) in self.fields() {
            let name = match name {
                "acl" => "x-amz-acl",
                "tagging" => {
                    headers.insert("x-amz-tagging", tags_header(value)?);
                    continue;
                }
                name if HEADERS.contains(&name) => name,
                name if name.starts_with("x-amz-") && !SIGNATURE.contains(&name) => name,
                _ => continue,
            };
            let malformed =
                || s3_error!(InvalidArgument, "The field {} is malformed.", printable(name));
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| malformed())?;
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| malformed())?;
            headers.append(header, value);
        }
        headers.remove("x-amz-security-token");
        let redirect = self.field("success_action_redirect").or_else(|| self.field("redirect"));
        let redirect = redirect.and_then(|text| text.parse::<Uri>().ok());
        let status = match self.field("success_action_status") {
            Some("200") => StatusCode::OK,
            Some("201") => StatusCode::CREATED,
            _ => StatusCode::NO_CONTENT,
        };
        let answer = Answer {
            redirect: redirect.filter(|uri| {
                uri.authority().is_some() && matches!(uri.scheme_str(), Some("http" | "https"))
            }),
            status,
        };
        let body = self.file(policy.length(), lent.clone());
        Ok(Upload { key, headers, body, answer })
    }
}

/// Returns the header for tags that a field has as XML.
fn tags_header(xml: &str) -> S3Result<HeaderValue> {
    use s3s::dto::Tagging;
    let mut reader = s3s::xml::Deserializer::new(xml.as_bytes());
    let tagging: Tagging =
        s3s::xml::Deserialize::deserialize(&mut reader).map_err(|_| s3_error!(MalformedXML))?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    for tag in tagging.tag_set {
        query.append_pair(&tag.key.unwrap_or_default(), &tag.value.unwrap_or_default());
    }
    HeaderValue::from_str(&query.finish()).map_err(|_| s3_error!(MalformedXML))
}

/// Percent-encodes a key for a path. Slashes stay.
pub(crate) fn path_of(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for &byte in key.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&hex::encode_upper([byte]));
        }
    }
    out
}

impl Upload {
    /// Returns the answer to a form whose object was stored. `location` is the address of the object.
    pub(crate) fn answer(
        answer: &FormAnswer,
        stored: Response<Body>,
        location: &str,
    ) -> Response<Body> {
        let (mut parts, _) = stored.into_parts();
        let etag = parts.headers.get(header::ETAG).and_then(|etag| etag.to_str().ok());
        let etag = etag.unwrap_or_default().to_owned();
        let FormAnswer { bucket, key, answer } = answer;
        parts.headers.remove(header::CONTENT_LENGTH);
        let mut body = Body::empty();
        if let Some(redirect) = &answer.redirect {
            parts.status = StatusCode::SEE_OTHER;
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("bucket", bucket).append_pair("key", key).append_pair("etag", &etag);
            let sign = if redirect.query().is_some() { '&' } else { '?' };
            let target = format!("{redirect}{sign}{}", query.finish());
            if let Ok(target) = HeaderValue::from_str(&target) {
                parts.headers.insert(header::LOCATION, target);
            }
            return Response::from_parts(parts, body);
        }
        parts.status = answer.status;
        if let Ok(location) = HeaderValue::from_str(location) {
            parts.headers.insert(header::LOCATION, location);
        }
        if answer.status == StatusCode::CREATED {
            body = Body::from(format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<PostResponse><Location>{}</Location>\
                 <Bucket>{}</Bucket><Key>{}</Key><ETag>{}</ETag></PostResponse>",
                escape(location),
                escape(bucket),
                escape(key),
                escape(&etag),
            ));
        }
        Response::from_parts(parts, body)
    }
}

/// What is needed to answer a form after its upload.
pub(crate) struct FormAnswer {
    bucket: String,
    key: String,
    answer: Answer,
}

impl FormAnswer {
    /// Takes the answer out of an upload.
    pub(crate) fn of(bucket: &str, upload: Upload) -> (Self, HeaderMap, Body) {
        let Upload { key, headers, body, answer } = upload;
        (Self { bucket: bucket.to_owned(), key, answer }, headers, body)
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }
}
