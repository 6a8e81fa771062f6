//! Operations on objects: put, get, head, delete, copy.

use std::ops;

use fula_core::bucket::{
    Checksum, ChecksumAlgorithm as Algorithm, ETag as StoredTag, ObjectRecord, PartSpan,
};
use fula_service::{
    AppendRequest, Caller, CopyRequest, CopySourceRequest, Object, PutRequest, ServiceError,
    body::BodyFacts, condition::ReadConditions, limits::PUT_BYTES_MAX,
};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use s3s::{S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    Api, bucket_owner, caller,
    convert::{
        self, DEFAULT_CONTENT_TYPE, bucket_name, checksum_type, etag, object_facts, object_key,
        read_conditions, refuse_unoffered, set_checksums, write_conditions, write_facts,
    },
    grants,
    lifecycle::set_end,
    shareable::Shareable,
    sse, tags,
    versions::{copy_fault, made_version, set_version, version_of},
};
use crate::{
    date::{parse_http_date, timestamp},
    digest::{self, Digests, asked_algorithm},
    error::{not_implemented, s3_error as to_s3, with_argument},
    range::ByteRange,
    signature::chunks::Trailers,
};

/// Returns the headers about what is stored of an object.
pub(super) fn stored_headers(record: &ObjectRecord) -> HeaderMap {
    let mut headers = HeaderMap::new();
    sse::set_of(&mut headers, record);
    if let Some(cid) = record.content
        && let Ok(value) = HeaderValue::from_str(&cid.to_string())
    {
        headers.insert("x-fula-cid", value);
    }
    headers
}

/// Returns the headers of the answer to a write.
pub(super) fn written_headers(record: &ObjectRecord) -> HeaderMap {
    let mut headers = stored_headers(record);
    headers.insert("x-amz-object-size", HeaderValue::from(record.size));
    // As on AWS, nothing names the null version that a write makes.
    if record.is_versioned {
        set_version(&mut headers, record.version_id());
    }
    headers
}

pub(super) fn copy_source(
    headers: &HeaderMap,
    source: &CopySource,
    conditions: ReadConditions,
) -> S3Result<CopySourceRequest> {
    match source {
        CopySource::Bucket { bucket, key, version_id } => {
            let version = version_id.as_ref().map(ToString::to_string);
            let version = version_of(version.as_ref())?;
            let owner = bucket_owner(headers, "x-amz-source-expected-bucket-owner");
            let (bucket, key) = (bucket_name(bucket)?, object_key(key)?);
            Ok(CopySourceRequest { owner, bucket, key, version, conditions })
        }
        _ => Err(not_implemented("A copy source given as an ARN")),
    }
}

impl Api {
    /// Returns what the headers of a request announce about its body. The stored checksum is the one that
    /// is sent, unless the caller decides otherwise.
    pub(super) fn body_facts<T>(
        request: &mut S3Request<T>,
        length: Option<i64>,
        keep: Option<Algorithm>,
    ) -> S3Result<BodyFacts> {
        let digests = Digests::of(&request.headers)?;
        let sent = digests.algorithm().or(keep).unwrap_or(Algorithm::Crc64Nvme);
        let length = length.map(u64::try_from).transpose();
        let trailers = request.extensions.remove::<Trailers>();
        Ok(BodyFacts {
            length: length.map_err(|_| s3_error!(InvalidArgument, "Content-Length is negative"))?,
            length_max: PUT_BYTES_MAX,
            md5: digests.md5,
            keep: keep.unwrap_or(sent),
            sent,
            checksum: digests.checksum.map(|(_, value)| value),
            trailer: digests.trailer.map(|named| digest::trailer(named, trailers)),
        })
    }

    pub(super) async fn put_object(
        &self,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        if convert::is_mapping(&request.headers) {
            return self.put_mapping(request).await;
        }
        let length = request.input.content_length;
        let body = request.input.body.take();
        let body = convert::body(body);
        let offset = take_write_offset(&mut request.headers)?;
        refuse_unoffered(&request)?;
        let facts = object_facts(&request.headers)?;
        let conditions = write_conditions(&request.headers)?;
        let caller = caller(&request)?;
        let body_facts = Self::body_facts(&mut request, length, None)?;
        let input = request.input;
        let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
        let named = key.clone();
        let put = if let Some(offset) = offset {
            let append = AppendRequest { key, offset, facts, conditions, body, body_facts };
            self.service.append_object(&caller, &bucket, append).await
        } else {
            let put = PutRequest { key, facts, conditions, body, body_facts };
            self.service.put_object(&caller, &bucket, put).await
        };
        let record = put.map_err(to_s3)?;
        let end = self.service.end_of_written(&caller, &bucket, &named, &record).await;
        let mut output = PutObjectOutput {
            e_tag: Some(etag(&record.etag)),
            checksum_type: checksum_type(&record.checksums),
            ..PutObjectOutput::default()
        };
        set_checksums!(output, &record.checksums);
        let mut response = S3Response::new(output);
        response.headers = written_headers(&record);
        set_end(&mut response.headers, end.as_ref());
        Ok(response)
    }

    pub(super) async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = &request.input;
        let version = version_of(input.version_id.as_ref())?;
        sse::refuse_on_read(&request.headers)?;
        let conditions = read_conditions(&request.headers, "")?;
        let caller = &caller(&request)?;
        check_overrides(caller, &request.uri)?;
        let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
        let found = self.service.get_version(caller, &bucket, &key, version, &conditions);
        let object = found.await.map_err(to_s3)?;
        let range = range_of(&request.headers, &object.record);
        let part = self.select(&object, range, input.part_number).await?;
        let range = part.range.clone();
        let length = range.end - range.start;
        let bytes = self.service.read(caller, &object.record, range).await.map_err(to_s3)?;
        let mut output = GetObjectOutput {
            body: Some(StreamingBlob::wrap(Shareable::new(bytes))),
            content_length: i64::try_from(length).ok(),
            content_range: part.content_range(object.record.size),
            parts_count: part.count,
            accept_ranges: Some("bytes".to_owned()),
            e_tag: Some(etag(&object.record.etag)),
            last_modified: Some(timestamp(object.record.time)),
            ..GetObjectOutput::default()
        };
        if wants_checksum(input.checksum_mode.as_ref()) {
            set_checksums!(output, &part.checksums);
            output.checksum_type = checksum_type(&part.checksums);
        }
        let mut response = S3Response::new(output);
        response.status = part.is_partial.then_some(StatusCode::PARTIAL_CONTENT);
        response.headers = object_headers(&object);
        response.headers.extend(response_overrides(&request.uri)?);
        Ok(response)
    }

    pub(super) async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = &request.input;
        let version = version_of(input.version_id.as_ref())?;
        sse::refuse_on_read(&request.headers)?;
        let conditions = read_conditions(&request.headers, "")?;
        let caller = &caller(&request)?;
        check_overrides(caller, &request.uri)?;
        let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
        let found = self.service.get_version(caller, &bucket, &key, version, &conditions);
        let object = found.await.map_err(to_s3)?;
        let range = range_of(&request.headers, &object.record);
        let part = self.select(&object, range, input.part_number).await?;
        let mut output = HeadObjectOutput {
            content_length: i64::try_from(part.range.end - part.range.start).ok(),
            content_range: part.content_range(object.record.size),
            parts_count: part.count,
            accept_ranges: Some("bytes".to_owned()),
            e_tag: Some(etag(&object.record.etag)),
            last_modified: Some(timestamp(object.record.time)),
            ..HeadObjectOutput::default()
        };
        if wants_checksum(input.checksum_mode.as_ref()) {
            set_checksums!(output, &part.checksums);
            output.checksum_type = checksum_type(&part.checksums);
        }
        let mut response = S3Response::new(output);
        response.status = part.is_partial.then_some(StatusCode::PARTIAL_CONTENT);
        response.headers = object_headers(&object);
        Ok(response)
    }

    /// Determines the bytes that a read returns.
    async fn select(
        &self,
        object: &Object,
        range: Option<ByteRange>,
        part_number: Option<i32>,
    ) -> S3Result<Selected> {
        let size = object.record.size;
        let checksums = object.record.checksums.clone();
        let whole = Selected { range: 0..size, is_partial: false, count: None, checksums };
        match (range, part_number) {
            (None, None) => Ok(whole),
            (Some(_), Some(_)) => {
                Err(s3_error!(InvalidRequest, "Cannot specify both Range header and partNumber"))
            }
            (Some(range), None) => {
                let range = range.within(size);
                let range = range.ok_or_else(|| to_s3(ServiceError::InvalidRange { size }))?;
                Ok(Selected { range, is_partial: true, count: None, checksums: Vec::new() })
            }
            (None, Some(number)) => {
                let parts = self.service.parts_of(&object.record).await.map_err(to_s3)?;
                part_range(&object.record, &parts, number)
            }
        }
    }

    pub(super) async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        refuse_unoffered(&request)?;
        let input = &request.input;
        let conditions = read_conditions(&request.headers, "x-amz-copy-source-")?;
        let replaces = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
            None | Some(MetadataDirective::COPY) => false,
            Some(MetadataDirective::REPLACE) => true,
            Some(_) => return Err(s3_error!(InvalidArgument, "Unknown metadata directive.")),
        };
        let copy = CopyRequest {
            source: copy_source(&request.headers, &input.copy_source, conditions)?,
            key: object_key(&input.key)?,
            replace: if replaces { Some(object_facts(&request.headers)?) } else { None },
            tags: tags::of_copy(&request.headers)?,
            acl: grants::in_headers(&request.headers)?,
            checksum: asked_algorithm(input.checksum_algorithm.as_ref())?,
            encrypt: sse::asked(&request.headers)?,
            conditions: write_conditions(&request.headers)?,
        };
        let caller = &caller(&request)?;
        let bucket = bucket_name(&input.bucket)?;
        let (source_version, named) = (copy.source.version, copy.key.clone());
        let copied = self.service.copy_object(caller, &bucket, copy).await;
        let record = copied.map_err(copy_fault)?;
        let end = self.service.end_of_written(caller, &bucket, &named, &record).await;
        let mut result = CopyObjectResult {
            e_tag: Some(etag(&record.etag)),
            last_modified: Some(timestamp(record.time)),
            checksum_type: checksum_type(&record.checksums),
            ..CopyObjectResult::default()
        };
        set_checksums!(result, &record.checksums);
        let output = CopyObjectOutput {
            copy_object_result: Some(result),
            copy_source_version_id: source_version.map(|version| version.to_string()),
            version_id: made_version(&record),
            ..CopyObjectOutput::default()
        };
        let mut response = S3Response::new(output);
        response.headers = stored_headers(&record);
        set_end(&mut response.headers, end.as_ref());
        Ok(response)
    }
}

/// Takes out of the headers the place in an object at which a body is added, if there is one.
fn take_write_offset(headers: &mut HeaderMap) -> S3Result<Option<u64>> {
    let Some(value) = headers.remove(WRITE_OFFSET) else { return Ok(None) };
    let offset = value.to_str().ok().and_then(|text| text.parse().ok());
    offset.map(Some).ok_or_else(|| with_argument(s3_error!(InvalidArgument), WRITE_OFFSET, &value))
}

/// Header that makes a put an append.
const WRITE_OFFSET: &str = "x-amz-write-offset-bytes";

/// The bytes that a read returns.
struct Selected {
    range: ops::Range<u64>,
    is_partial: bool,
    count: Option<i32>,
    /// Checksums of exactly these bytes.
    checksums: Vec<Checksum>,
}

impl Selected {
    fn content_range(&self, size: u64) -> Option<String> {
        let last = self.range.end.checked_sub(1).filter(|_| !self.range.is_empty())?;
        self.is_partial.then(|| format!("bytes {}-{last}/{size}", self.range.start))
    }
}

fn part_range(record: &ObjectRecord, parts: &[PartSpan], number: i32) -> S3Result<Selected> {
    let wanted = u32::try_from(number).ok().filter(|number| (1..=10_000).contains(number));
    let wanted =
        wanted.ok_or_else(|| s3_error!(InvalidArgument, "Part number must be 1 to 10000"))?;
    let none = || s3s::S3Error::new(s3s::S3ErrorCode::Custom("InvalidPartNumber".into()));
    let is_multipart = matches!(record.etag, StoredTag::Multipart(..)) && !parts.is_empty();
    if !is_multipart {
        return if wanted == 1 {
            let checksums = record.checksums.clone();
            Ok(Selected {
                range: 0..record.size,
                is_partial: record.size > 0,
                count: None,
                checksums,
            })
        } else {
            let mut error = none();
            error.set_status_code(StatusCode::RANGE_NOT_SATISFIABLE);
            Err(error)
        };
    }
    // Parts are counted in the order in which they lie in the object, whatever their numbers were.
    let index = wanted as usize - 1;
    let Some(part) = parts.get(index) else {
        let mut error = none();
        error.set_status_code(StatusCode::RANGE_NOT_SATISFIABLE);
        return Err(error);
    };
    let start: u64 = parts[..index].iter().map(|part| part.size).sum();
    let count = i32::try_from(parts.len()).ok();
    let checksums = part.checksum.iter().cloned().collect();
    Ok(Selected { range: start..start + part.size, is_partial: true, count, checksums })
}

fn wants_checksum(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str().eq_ignore_ascii_case(ChecksumMode::ENABLED))
}

fn object_headers(object: &Object) -> HeaderMap {
    let mut headers = stored_headers(&object.record);
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(DEFAULT_CONTENT_TYPE));
    // A browser must not interpret an object as a script or a page unless its owner declared it as one.
    headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    write_facts(&object.headers, &object.metadata, &mut headers);
    if let Some(version) = object.version {
        set_version(&mut headers, version);
    }
    set_end(&mut headers, object.end.as_ref());
    if !object.tags.is_empty() {
        headers.insert("x-amz-tagging-count", HeaderValue::from(object.tags.len()));
    }
    headers
}

/// Refuses `response-` parameters of an anonymous request. The author of a URL could otherwise decide how a
/// browser interprets a public object.
fn check_overrides(caller: &Caller, uri: &Uri) -> S3Result<()> {
    let mut names = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    if caller.identity.is_none() && names.any(|(name, _)| name.starts_with("response-")) {
        let text = "Request specific response headers cannot be used for anonymous GET requests.";
        return Err(s3_error!(InvalidRequest, "{text}"));
    }
    Ok(())
}

/// Returns the headers that `response-` parameters replace. Their values are free text.
fn response_overrides(uri: &Uri) -> S3Result<HeaderMap> {
    use http::header;
    let names = [
        ("response-cache-control", header::CACHE_CONTROL),
        ("response-content-disposition", header::CONTENT_DISPOSITION),
        ("response-content-encoding", header::CONTENT_ENCODING),
        ("response-content-language", header::CONTENT_LANGUAGE),
        ("response-content-type", header::CONTENT_TYPE),
        ("response-expires", header::EXPIRES),
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        let Some((_, header)) = names.iter().find(|(parameter, _)| *parameter == name) else {
            continue;
        };
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| s3_error!(InvalidArgument, "A response- parameter is no header"))?;
        headers.insert(header, value);
    }
    Ok(headers)
}

/// Returns the range of a read, unless its condition is about another state of the object (RFC 9110
/// 13.1.5). A resumed download must not join two objects.
fn range_of(headers: &HeaderMap, record: &ObjectRecord) -> Option<ByteRange> {
    let range = ByteRange::of(headers)?;
    let Some(condition) = headers.get(http::header::IF_RANGE) else { return Some(range) };
    let condition = condition.to_str().unwrap_or_default().trim();
    let is_same = match condition.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')) {
        Some(tag) => tag == record.etag.to_string(),
        // The date must be equal: an older object may have had other content of the same length.
        None => parse_http_date(condition) == Some(record.time / 1000),
    };
    is_same.then_some(range)
}
