//! Tags of objects and buckets, as a subresource.

use std::sync::Arc;

use fula_core::bucket::TextMap;
use fula_service::access::Property;
use http::StatusCode;
use s3s::{S3Request, S3Response, S3Result, dto::*};

use super::{
    Api, caller,
    convert::{bucket_name, object_key},
    settings::not_set,
    tags::{BUCKET_TAGS_MAX, OBJECT_TAGS_MAX, of_set, to_set},
    versions::version_of,
};
use crate::{error::s3_error as to_s3, request::AnswerStatus};

impl Api {
    pub(super) async fn get_object_tagging(
        &self,
        request: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<S3Response<GetObjectTaggingOutput>> {
        let input = &request.input;
        let version = version_of(input.version_id.as_ref())?;
        let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
        let (caller, property) = (caller(&request)?, Property::Tags);
        let found = self.service.object_properties(&caller, &bucket, &key, version, property).await;
        let found = found.map_err(to_s3)?.1;
        let version_id = found.version.map(|version| version.to_string());
        let tag_set = to_set(found.tags);
        Ok(S3Response::new(GetObjectTaggingOutput { tag_set, version_id }))
    }

    pub(super) async fn put_object_tagging(
        &self,
        request: S3Request<PutObjectTaggingInput>,
    ) -> S3Result<S3Response<PutObjectTaggingOutput>> {
        let input = &request.input;
        let version = version_of(input.version_id.as_ref())?;
        let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
        let tags = of_set(&input.tagging.tag_set, OBJECT_TAGS_MAX)?;
        let mut caller = caller(&request)?;
        caller.request_tags = Some(Arc::new(tags.clone()));
        let put = self.service.tag_object(&caller, &bucket, key, version, tags).await;
        let version_id = put.map_err(to_s3)?.map(|version| version.to_string());
        Ok(S3Response::new(PutObjectTaggingOutput { version_id }))
    }

    pub(super) async fn delete_object_tagging(
        &self,
        request: S3Request<DeleteObjectTaggingInput>,
    ) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
        let input = &request.input;
        let version = version_of(input.version_id.as_ref())?;
        let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
        let none = TextMap::new();
        let put = self.service.tag_object(&caller(&request)?, &bucket, key, version, none).await;
        let version_id = put.map_err(to_s3)?.map(|version| version.to_string());
        Ok(S3Response::new(DeleteObjectTaggingOutput { version_id }))
    }

    pub(super) async fn get_bucket_tagging(
        &self,
        request: S3Request<GetBucketTaggingInput>,
    ) -> S3Result<S3Response<GetBucketTaggingOutput>> {
        let bucket = bucket_name(&request.input.bucket)?;
        let tags = self.service.bucket_tags(&caller(&request)?, &bucket).await.map_err(to_s3)?;
        if tags.is_empty() {
            let text = "The TagSet does not exist";
            return Err(not_set("NoSuchTagSet", text, &request.input.bucket));
        }
        Ok(S3Response::new(GetBucketTaggingOutput { tag_set: to_set(tags) }))
    }

    pub(super) async fn put_bucket_tagging(
        &self,
        request: S3Request<PutBucketTaggingInput>,
    ) -> S3Result<S3Response<PutBucketTaggingOutput>> {
        let bucket = bucket_name(&request.input.bucket)?;
        let tags = of_set(&request.input.tagging.tag_set, BUCKET_TAGS_MAX)?;
        let put = self.service.tag_bucket(&caller(&request)?, &bucket, &tags).await;
        put.map_err(to_s3)?;
        let mut response = S3Response::new(PutBucketTaggingOutput::default());
        response.extensions.insert(AnswerStatus(StatusCode::NO_CONTENT));
        Ok(response)
    }

    pub(super) async fn delete_bucket_tagging(
        &self,
        request: S3Request<DeleteBucketTaggingInput>,
    ) -> S3Result<S3Response<DeleteBucketTaggingOutput>> {
        let bucket = bucket_name(&request.input.bucket)?;
        let none = TextMap::new();
        let put = self.service.tag_bucket(&caller(&request)?, &bucket, &none).await;
        put.map_err(to_s3)?;
        Ok(S3Response::new(DeleteBucketTaggingOutput::default()))
    }
}
