//! Operations on buckets, and listings.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use fula_core::{BucketName, OwnerId, bucket::ObjectRecord};
use fula_service::{BucketPage, Identity, ListRequest, Listing, ListingLine, limits::PAGE_MAX};
use http::HeaderValue;
use s3s::{S3Error, S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    Api, caller,
    convert::{bucket_name, checksum_type, etag, refuse_conditions, refuse_unoffered, url_encode},
    grants::check_new_bucket,
    sse, tags,
};
use crate::{
    auth::identity,
    date::timestamp,
    digest::algorithm_name,
    error::{not_implemented, s3_error as to_s3},
    xml::printable,
};

/// Returns a page size. `None` means the largest; a negative number is an error.
pub(super) fn page_size(asked: Option<i32>, name: &str) -> S3Result<usize> {
    match usize::try_from(asked.unwrap_or(1000)) {
        Ok(size) => Ok(size.min(PAGE_MAX)),
        Err(_) => Err(s3_error!(InvalidArgument, "Argument {name} must not be negative")),
    }
}

/// Encodes the names of one response, if the client asked for that.
pub(super) struct Names {
    pub(super) encoding: Option<EncodingType>,
}

impl Names {
    pub(super) fn new(encoding: Option<EncodingType>) -> S3Result<Self> {
        match &encoding {
            Some(kind) if kind.as_str() != EncodingType::URL => {
                Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request"))
            }
            _ => Ok(Self { encoding }),
        }
    }

    pub(super) fn encode(&self, name: &str) -> String {
        if self.encoding.is_some() { url_encode(name) } else { printable(name) }
    }

    /// Encodes a name that answers leave out when it is empty.
    pub(super) fn encode_opt(&self, name: Option<&String>) -> Option<String> {
        name.filter(|name| !name.is_empty()).map(|name| self.encode(name))
    }
}

/// Returns an owner in the form of S3. The name of another owner than the caller is not known.
pub(super) fn owner_of(request: &http::Extensions, owner: OwnerId) -> Owner {
    let named = identity(request).filter(|identity| identity.owner == owner);
    let id = owner.to_string();
    let display_name = named.map_or_else(|| id.clone(), Identity::display);
    Owner { display_name: Some(display_name), id: Some(id) }
}

/// Returns the algorithms of the checksums of an object.
pub(super) fn algorithms(record: &ObjectRecord) -> Vec<ChecksumAlgorithm> {
    let name = |checksum: &fula_core::bucket::Checksum| {
        ChecksumAlgorithm::from_static(algorithm_name(checksum.algorithm))
    };
    record.checksums.iter().map(name).collect()
}

fn split(
    listing: &Listing,
    names: &Names,
    owner: Option<&Owner>,
) -> (Vec<Object>, Vec<CommonPrefix>) {
    let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
    for line in &listing.lines {
        match line {
            ListingLine::Object(key, record) => {
                let algorithms = algorithms(record);
                objects.push(Object {
                    key: Some(names.encode(key)),
                    e_tag: Some(etag(&record.etag)),
                    last_modified: Some(timestamp(record.time)),
                    size: i64::try_from(record.size).ok(),
                    storage_class: Some(ObjectStorageClass::from_static(
                        ObjectStorageClass::STANDARD,
                    )),
                    checksum_type: checksum_type(&record.checksums),
                    checksum_algorithm: Some(algorithms).filter(|all| !all.is_empty()),
                    owner: owner.cloned(),
                    ..Object::default()
                });
            }
            ListingLine::Prefix(prefix) => {
                prefixes.push(CommonPrefix { prefix: Some(names.encode(prefix)) });
            }
        }
    }
    (objects, prefixes)
}

pub(super) fn none_if_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}

fn token_of(name: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(name)
}

/// Decodes a continuation token. A blank one counts as missing.
fn name_of(token: &str) -> S3Result<Option<String>> {
    if token.is_empty() {
        return Ok(None);
    }
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .filter(|name| !name.is_empty())
        .ok_or_else(foreign_token)
        .map(Some)
}

fn foreign_token() -> S3Error {
    s3_error!(InvalidArgument, "The continuation token provided is incorrect")
}

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
        check_new_bucket(&request)?;
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
        let created = self.service.create_tagged_bucket(caller, name, location, &tags).await;
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

    pub(super) async fn list_objects(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = &request.input;
        let names = Names::new(input.encoding_type.clone())?;
        let limit = page_size(input.max_keys, "max-keys")?;
        let query = ListRequest {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().unwrap_or_default(),
            after: input.marker.clone().filter(|marker| !marker.is_empty()),
            limit,
        };
        let caller = &caller(&request)?;
        let bucket = bucket_name(&input.bucket)?;
        let listing = self.service.list_objects(caller, &bucket, &query).await.map_err(to_s3)?;
        let owner = owner_of(&request.extensions, listing.owner);
        let (contents, common_prefixes) = split(&listing, &names, Some(&owner));
        // AWS returns the next marker only when there is a delimiter; otherwise it is the last key.
        let next_marker = listing
            .lines
            .last()
            .filter(|_| listing.truncated && !query.delimiter.is_empty())
            .map(|line| names.encode(line.name()));
        Ok(S3Response::new(ListObjectsOutput {
            name: Some(input.bucket.clone()),
            prefix: Some(names.encode(&query.prefix)),
            marker: Some(names.encode(input.marker.as_deref().unwrap_or_default())),
            max_keys: i32::try_from(limit).ok(),
            is_truncated: Some(listing.truncated),
            contents: none_if_empty(contents),
            common_prefixes: none_if_empty(common_prefixes),
            delimiter: names.encode_opt(input.delimiter.as_ref()),
            next_marker,
            encoding_type: names.encoding,
            ..ListObjectsOutput::default()
        }))
    }

    pub(super) async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = &request.input;
        let names = Names::new(input.encoding_type.clone())?;
        let limit = page_size(input.max_keys, "max-keys")?;
        let after = match &input.continuation_token {
            Some(token) if !token.is_empty() => name_of(token)?,
            _ => input.start_after.clone().filter(|after| !after.is_empty()),
        };
        let query = ListRequest {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().unwrap_or_default(),
            after,
            limit,
        };
        let caller = &caller(&request)?;
        let bucket = bucket_name(&input.bucket)?;
        let listing = self.service.list_objects(caller, &bucket, &query).await.map_err(to_s3)?;
        let owner = owner_of(&request.extensions, listing.owner);
        let owner = Some(owner).filter(|_| input.fetch_owner.unwrap_or_default());
        let (contents, common_prefixes) = split(&listing, &names, owner.as_ref());
        let next = listing.lines.last().filter(|_| listing.truncated);
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket.clone()),
            prefix: Some(names.encode(&query.prefix)),
            max_keys: i32::try_from(limit).ok(),
            key_count: i32::try_from(listing.lines.len()).ok(),
            continuation_token: input.continuation_token.clone(),
            is_truncated: Some(listing.truncated),
            next_continuation_token: next.map(|line| token_of(line.name())),
            contents: none_if_empty(contents),
            common_prefixes: none_if_empty(common_prefixes),
            delimiter: names.encode_opt(input.delimiter.as_ref()),
            start_after: names.encode_opt(input.start_after.as_ref()),
            encoding_type: names.encoding,
            ..ListObjectsV2Output::default()
        }))
    }
}
