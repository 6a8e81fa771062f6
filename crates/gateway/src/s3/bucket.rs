//! Operations on buckets.

use fula_core::BucketName;
use fula_service::{BucketPage, FirstSettings};
use http::HeaderValue;
use s3s::{S3Error, S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    Api, caller,
    convert::{bucket_name, refuse_conditions, refuse_unoffered},
    grants,
    listing::{foreign_token, name_of, owner_of, token_of},
    sse, tags,
};
use crate::{
    auth::identity,
    date::timestamp,
    error::{not_implemented, s3_error as to_s3},
    xml::printable,
};

impl Api {
    pub(super) async fn list_buckets(
        &self,
        request: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let input = &request.input;
        let limit = match input.max_buckets {
            Some(most) if !(1..=10_000).contains(&most) => {
                let text = "Argument max-buckets must be an integer between 1 and 10000";
                return Err(s3_error!(InvalidArgument, "{text}"));
            }
            most => usize::try_from(most.unwrap_or(10_000)).unwrap_or(10_000),
        };
        let after = input.continuation_token.as_deref().map(name_of).transpose()?.flatten();
        let after = after.map(|name| BucketName::parse(&name)).transpose();
        let after = after.map_err(|_| foreign_token())?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let caller = &caller(&request)?;
        let mut page = self.service.buckets(caller, &prefix, after, limit).await.map_err(to_s3)?;
        // All buckets are in the region of the gateway.
        if input.bucket_region.as_ref().is_some_and(|region| *region != self.config.region) {
            page = BucketPage::default();
        }
        // AWS returns the region only when the request has a parameter.
        let says_region = input.max_buckets.is_some()
            || input.prefix.is_some()
            || input.bucket_region.is_some()
            || input.continuation_token.is_some();
        let region = Some(self.config.region.clone()).filter(|_| says_region);
        let buckets = page.buckets.into_iter().map(|(name, created)| Bucket {
            name: Some(name.to_string()),
            creation_date: Some(timestamp(created)),
            bucket_region: region.clone(),
            ..Bucket::default()
        });
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(buckets.collect()),
            continuation_token: page.next.map(|name| token_of(name.as_str())),
            owner: identity(&request.extensions)
                .map(|identity| owner_of(&request.extensions, identity.owner)),
            prefix: request.input.prefix.as_deref().map(printable),
        }))
    }

    pub(super) async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let ownership = grants::ownership_in(&request.headers)?;
        let acl = grants::in_headers(&request.headers)?;
        refuse_unoffered(&request)?;
        sse::refuse(&request.headers)?;
        refuse_conditions(&request.headers, &[])?;
        let name = &bucket_name(&request.input.bucket)?;
        tags::refuse(&request.headers)?;
        let configuration = request.input.create_bucket_configuration.as_ref();
        let location = match configuration {
            Some(configuration) => self.location_of(configuration)?,
            None => None,
        };
        let tags = configuration.and_then(|configuration| configuration.tags.as_ref());
        let tags = tags::of_new_bucket(tags)?;
        let caller = &caller(&request)?;
        let first = FirstSettings { location, tags, ownership, acl };
        let created = self.service.create_bucket_with(caller, name, &first).await;
        created.map_err(to_s3)?;
        Ok(S3Response::new(CreateBucketOutput {
            location: Some(format!("/{name}")),
            bucket_arn: Some(format!("arn:aws:s3:::{name}")),
        }))
    }

    /// Returns the location that is requested for a new bucket. Refuses one that is not possible.
    fn location_of<'a>(
        &self,
        configuration: &'a CreateBucketConfiguration,
    ) -> S3Result<Option<&'a str>> {
        let CreateBucketConfiguration { bucket, location, location_constraint, .. } = configuration;
        if bucket.is_some() || location.is_some() {
            return Err(not_implemented("A directory bucket"));
        }
        let region = location_constraint.as_ref().map(BucketLocationConstraint::as_str);
        let Some(region) = region.filter(|region| !region.is_empty()) else { return Ok(None) };
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        if region == self.config.region {
            return Ok(Some(region));
        }
        if region.len() > 64 || !region.chars().all(is_name) {
            return Err(s3_error!(InvalidLocationConstraint));
        }
        if self.config.region_strict {
            return Err(s3_error!(
                IllegalLocationConstraintException,
                "The {region} location constraint is incompatible for the region specific endpoint \
                 this request was sent to."
            ));
        }
        Ok(Some(region))
    }

    pub(super) async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        let caller = &caller(&request)?;
        let name = bucket_name(&request.input.bucket)?;
        let found = self.service.bucket(caller, &name).await;
        found.map_err(|error| self.with_region(to_s3(error)))?;
        let bucket_region = Some(self.config.region.clone());
        Ok(S3Response::new(HeadBucketOutput { bucket_region, ..HeadBucketOutput::default() }))
    }

    /// Adds the region to a refusal. Clients that look for a bucket learn it from there.
    fn with_region(&self, mut error: S3Error) -> S3Error {
        if let Ok(region) = HeaderValue::from_str(&self.config.region) {
            let mut headers = error.headers().cloned().unwrap_or_default();
            headers.insert("x-amz-bucket-region", region);
            error.set_headers(headers);
        }
        error
    }

    pub(super) async fn delete_bucket(
        &self,
        request: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        refuse_conditions(&request.headers, &[])?;
        let caller = &caller(&request)?;
        let name = bucket_name(&request.input.bucket)?;
        self.service.delete_bucket(caller, &name).await.map_err(to_s3)?;
        Ok(S3Response::new(DeleteBucketOutput::default()))
    }

    pub(super) async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        let caller = &caller(&request)?;
        let name = bucket_name(&request.input.bucket)?;
        let kept = self.service.location(caller, &name).await.map_err(to_s3)?;
        let region = kept.unwrap_or_else(|| self.config.region.clone());
        // `us-east-1` is not named here, as on AWS.
        let region = Some(region).filter(|region| region != "us-east-1");
        Ok(S3Response::new(GetBucketLocationOutput {
            location_constraint: region.map(BucketLocationConstraint::from),
        }))
    }
}
