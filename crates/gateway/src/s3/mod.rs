//! S3 operations, translated to and from the service.

mod bucket;
mod commit;
mod convert;
mod multipart;
mod object;

use std::sync::Arc;

use async_trait::async_trait;
use fula_service::{Caller, Identity, Invocation, Seen, Service, keys::KeyRing};
use http::{Extensions, HeaderMap, Method, Uri};
use s3s::{
    S3, S3Request, S3Response, S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    dto::*,
    s3_error,
};

pub(crate) use self::{
    commit::{CommitRoute, is_commit},
    convert::{Digests, http_date},
};
use crate::{WireConfig, error, http::Operation};

/// Finds secrets for signature checks.
pub(crate) struct Auth {
    keys: KeyRing,
}

impl Auth {
    pub(crate) fn new(keys: KeyRing) -> Self {
        Self { keys }
    }
}

#[async_trait]
impl S3Auth for Auth {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.keys.find(access_key).await.map_err(error::s3_error)? {
            Some((secret, _)) => Ok(SecretKey::from(secret.expose())),
            None => Err(s3_error!(InvalidAccessKeyId)),
        }
    }
}

/// Says who a verified request is from; what they may do is the service's business.
pub(crate) struct Access {
    keys: KeyRing,
}

impl Access {
    pub(crate) fn new(keys: KeyRing) -> Self {
        Self { keys }
    }
}

/// Says who a request with a verified signature is from, on every route that takes one; `None` is
/// anonymous.
async fn admit(
    keys: &KeyRing,
    access_key: Option<&str>,
    headers: &HeaderMap,
    uri: &Uri,
) -> S3Result<Option<Identity>> {
    let query = uri.query().unwrap_or_default().to_ascii_lowercase();
    if headers.contains_key("x-amz-security-token") || query.contains("x-amz-security-token=") {
        return Err(s3_error!(InvalidToken, "Session tokens are not issued here yet."));
    }
    let Some(access_key) = access_key else { return Ok(None) };
    let found = keys.find(access_key).await.map_err(error::s3_error)?;
    // Revoked between the signature check and now.
    let (_, identity) = found.ok_or_else(|| s3_error!(InvalidAccessKeyId))?;
    let owner = identity.owner.to_string();
    // Only the caller's own buckets can be reached.
    for name in ["x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"] {
        if headers.get(name).is_some_and(|expected| *expected != *owner) {
            return Err(s3_error!(AccessDenied));
        }
    }
    Ok(Some(identity))
}

#[async_trait]
impl S3Access for Access {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let operation = cx.s3_op().name().to_owned();
        if let Some(slot) = cx.extensions_mut().get::<Arc<Operation>>() {
            slot.set(operation);
        }
        let access_key = cx.credentials().map(|credentials| credentials.access_key.clone());
        let identity = admit(&self.keys, access_key.as_deref(), cx.headers(), cx.uri()).await?;
        if let Some(identity) = identity {
            cx.extensions_mut().insert(identity);
        }
        Ok(())
    }
}

/// Who a request is from; `None` is anonymous.
fn identity(extensions: &Extensions) -> Option<&Identity> {
    extensions.get()
}

/// What a request says of itself, beside what it asks for.
fn caller<T>(request: &S3Request<T>) -> S3Result<Caller> {
    let headers = &request.headers;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let attempt = text("amz-sdk-request").and_then(|request| {
        let attempt = request.split(';').find_map(|part| part.trim().strip_prefix("attempt="));
        attempt?.trim().parse().ok()
    });
    let if_version = match headers.get("x-fula-if-version") {
        None => None,
        Some(_) if [Method::GET, Method::HEAD].contains(&request.method) => {
            return Err(error::not_implemented("The header x-fula-if-version on reads"));
        }
        Some(value) => {
            let number = value.to_str().ok().and_then(|text| text.parse().ok());
            let text = "x-fula-if-version is the number that x-fula-version answered with";
            Some(number.ok_or_else(|| s3_error!(InvalidArgument, "{text}"))?)
        }
    };
    Ok(Caller {
        identity: identity(&request.extensions).cloned(),
        invocation: text("amz-sdk-invocation-id")
            .and_then(|id| Invocation::new(id, attempt.unwrap_or(1))),
        if_version,
        seen: request.extensions.get::<Arc<Seen>>().cloned().unwrap_or_default(),
    })
}

/// The S3 operations on offer; every other one answers `NotImplemented` by itself.
pub(crate) struct Api {
    service: Service,
    config: WireConfig,
}

impl Api {
    pub(crate) fn new(service: Service, config: WireConfig) -> Self {
        Self { service, config }
    }
}

/// Forwards each operation to the method of the same name and maps its error.
macro_rules! operations {
    ($($name:ident: $input:ty => $output:ty),+ $(,)?) => {
        #[async_trait]
        impl S3 for Api {
            $(async fn $name(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                self.$name(request).await
            })+

            async fn post_object(
                &self,
                _: S3Request<PostObjectInput>,
            ) -> S3Result<S3Response<PostObjectOutput>> {
                Err(error::not_implemented("Browser-based upload (POST object)"))
            }
        }
    };
}

operations! {
    list_buckets: ListBucketsInput => ListBucketsOutput,
    create_bucket: CreateBucketInput => CreateBucketOutput,
    head_bucket: HeadBucketInput => HeadBucketOutput,
    delete_bucket: DeleteBucketInput => DeleteBucketOutput,
    get_bucket_location: GetBucketLocationInput => GetBucketLocationOutput,
    list_objects: ListObjectsInput => ListObjectsOutput,
    list_objects_v2: ListObjectsV2Input => ListObjectsV2Output,
    put_object: PutObjectInput => PutObjectOutput,
    get_object: GetObjectInput => GetObjectOutput,
    head_object: HeadObjectInput => HeadObjectOutput,
    delete_object: DeleteObjectInput => DeleteObjectOutput,
    delete_objects: DeleteObjectsInput => DeleteObjectsOutput,
    copy_object: CopyObjectInput => CopyObjectOutput,
    create_multipart_upload: CreateMultipartUploadInput => CreateMultipartUploadOutput,
    upload_part: UploadPartInput => UploadPartOutput,
    upload_part_copy: UploadPartCopyInput => UploadPartCopyOutput,
    list_parts: ListPartsInput => ListPartsOutput,
    list_multipart_uploads: ListMultipartUploadsInput => ListMultipartUploadsOutput,
    complete_multipart_upload: CompleteMultipartUploadInput => CompleteMultipartUploadOutput,
    abort_multipart_upload: AbortMultipartUploadInput => AbortMultipartUploadOutput,
}
