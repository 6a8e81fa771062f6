//! Bucket policies, with which an owner decides what others may do.

use http::{HeaderName, HeaderValue};
use s3s::{S3Request, S3Response, S3Result, dto::*};

use super::{Api, caller, convert::bucket_name};
use crate::error::s3_error as to_s3;

/// Whether a public bucket holds its global name: `held`, or `taken` if another bucket does.
const GLOBAL_NAME: HeaderName = HeaderName::from_static("x-fula-global-name");

impl Api {
    pub(super) async fn put_bucket_policy(
        &self,
        request: S3Request<PutBucketPolicyInput>,
    ) -> S3Result<S3Response<PutBucketPolicyOutput>> {
        let caller = &caller(&request)?;
        let input = &request.input;
        let bucket = bucket_name(&input.bucket)?;
        let put = self.service.set_policy(caller, &bucket, Some(&input.policy));
        let holds_name = put.await.map_err(to_s3)?;
        let mut response = S3Response::new(PutBucketPolicyOutput::default());
        if let Some(holds_name) = holds_name {
            let state = if holds_name { "held" } else { "taken" };
            response.headers.insert(GLOBAL_NAME, HeaderValue::from_static(state));
        }
        Ok(response)
    }

    pub(super) async fn get_bucket_policy(
        &self,
        request: S3Request<GetBucketPolicyInput>,
    ) -> S3Result<S3Response<GetBucketPolicyOutput>> {
        let caller = &caller(&request)?;
        let bucket = bucket_name(&request.input.bucket)?;
        let policy = self.service.policy(caller, &bucket).await.map_err(to_s3)?;
        Ok(S3Response::new(GetBucketPolicyOutput { policy: Some(policy) }))
    }

    pub(super) async fn get_bucket_policy_status(
        &self,
        request: S3Request<GetBucketPolicyStatusInput>,
    ) -> S3Result<S3Response<GetBucketPolicyStatusOutput>> {
        let (caller, bucket) = (&caller(&request)?, bucket_name(&request.input.bucket)?);
        let is_public = self.service.policy_status(caller, &bucket).await.map_err(to_s3)?;
        let status = PolicyStatus { is_public: Some(is_public) };
        Ok(S3Response::new(GetBucketPolicyStatusOutput { policy_status: Some(status) }))
    }

    pub(super) async fn delete_bucket_policy(
        &self,
        request: S3Request<DeleteBucketPolicyInput>,
    ) -> S3Result<S3Response<DeleteBucketPolicyOutput>> {
        let caller = &caller(&request)?;
        let bucket = bucket_name(&request.input.bucket)?;
        self.service.set_policy(caller, &bucket, None).await.map_err(to_s3)?;
        Ok(S3Response::new(DeleteBucketPolicyOutput::default()))
    }
}
