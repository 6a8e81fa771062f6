//! The public access block of a bucket.

use fula_service::PublicAccessBlock;
use s3s::{S3Request, S3Response, S3Result, dto::*};

use super::{Api, caller, convert::bucket_name, settings::not_set};
use crate::error::s3_error as to_s3;

impl Api {
    pub(super) async fn get_public_access_block(
        &self,
        request: S3Request<GetPublicAccessBlockInput>,
    ) -> S3Result<S3Response<GetPublicAccessBlockOutput>> {
        let bucket = bucket_name(&request.input.bucket)?;
        let found = self.service.public_access(&caller(&request)?, &bucket).await;
        let Some(block) = found.map_err(to_s3)? else {
            let text = "The public access block configuration was not found";
            let code = "NoSuchPublicAccessBlockConfiguration";
            return Err(not_set(code, text, &request.input.bucket));
        };
        let configuration = PublicAccessBlockConfiguration {
            block_public_acls: Some(block.block_acls),
            block_public_policy: Some(block.block_policy),
            ignore_public_acls: Some(block.ignore_acls),
            restrict_public_buckets: Some(block.restrict_buckets),
        };
        Ok(S3Response::new(GetPublicAccessBlockOutput {
            public_access_block_configuration: Some(configuration),
        }))
    }

    pub(super) async fn put_public_access_block(
        &self,
        request: S3Request<PutPublicAccessBlockInput>,
    ) -> S3Result<S3Response<PutPublicAccessBlockOutput>> {
        let bucket = bucket_name(&request.input.bucket)?;
        let asked = &request.input.public_access_block_configuration;
        let block = PublicAccessBlock {
            block_acls: asked.block_public_acls.unwrap_or_default(),
            ignore_acls: asked.ignore_public_acls.unwrap_or_default(),
            block_policy: asked.block_public_policy.unwrap_or_default(),
            restrict_buckets: asked.restrict_public_buckets.unwrap_or_default(),
        };
        let put = self.service.set_public_access(&caller(&request)?, &bucket, Some(block)).await;
        put.map_err(to_s3)?;
        Ok(S3Response::new(PutPublicAccessBlockOutput::default()))
    }

    pub(super) async fn delete_public_access_block(
        &self,
        request: S3Request<DeletePublicAccessBlockInput>,
    ) -> S3Result<S3Response<DeletePublicAccessBlockOutput>> {
        let bucket = bucket_name(&request.input.bucket)?;
        let put = self.service.set_public_access(&caller(&request)?, &bucket, None).await;
        put.map_err(to_s3)?;
        Ok(S3Response::new(DeletePublicAccessBlockOutput::default()))
    }
}
