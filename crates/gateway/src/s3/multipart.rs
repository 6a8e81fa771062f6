//! Multipart uploads.

use fula_core::bucket::ChecksumAlgorithm as Algorithm;
use fula_identity::identity::display;
use fula_service::{
    BegunUpload, CompletePart, CompleteRequest, CopyPartRequest, CreateUploadRequest,
    ListUploadsRequest, PutPartRequest, ServiceError, UploadInfo, UploadLine,
};
use http::{Extensions, HeaderMap, HeaderValue};
use s3s::{S3Error, S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    Api, caller,
    convert::{
        self, bucket_name, etag, object_facts, object_key, read_conditions, refuse_conditions,
        refuse_unoffered, set_checksums, url_encode, write_conditions,
    },
    lifecycle::set_end,
    listing::{Names, page_size},
    object::{copy_source, written_headers},
    sse, tags, versions,
};
use crate::{
    date::timestamp,
    digest::{Digests, algorithm_name, asked_algorithm, decode_checksum},
    error::{not_implemented, s3_error as to_s3},
    request::{HostBucket, Peer},
    xml::printable,
};

fn kind_name(info: UploadInfo) -> ChecksumType {
    let name = if info.composite { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT };
    ChecksumType::from_static(name)
}

fn named(info: UploadInfo) -> Option<ChecksumAlgorithm> {
    info.asked.then(|| ChecksumAlgorithm::from_static(algorithm_name(info.algorithm)))
}

/// Parses the checksum that an upload shall have. Composite is the default where it is possible.
fn asked_checksum(
    name: Option<&ChecksumAlgorithm>,
    kind: Option<&ChecksumType>,
) -> S3Result<Option<(Algorithm, bool)>> {
    let (Some(name), Some(algorithm)) = (name, asked_algorithm(name)?) else {
        return match kind {
            None => Ok(None),
            Some(_) => Err(s3_error!(
                InvalidRequest,
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm \
                 header."
            )),
        };
    };
    let composite = match kind.map(ChecksumType::as_str) {
        None => algorithm != Algorithm::Crc64Nvme,
        Some(ChecksumType::COMPOSITE) => true,
        Some(ChecksumType::FULL_OBJECT) => false,
        Some(_) => return Err(s3_error!(InvalidRequest, "Unknown checksum type.")),
    };
    let possible = match algorithm {
        Algorithm::Crc32 | Algorithm::Crc32c => true,
        Algorithm::Crc64Nvme => !composite,
        // Of the others, nothing about the whole follows from the parts.
        _ => composite,
    };
    if !possible {
        let (kind, name) = (if composite { "COMPOSITE" } else { "FULL_OBJECT" }, name.as_str());
        return Err(s3_error!(
            InvalidRequest,
            "The {kind} checksum type cannot be used with the {name} checksum algorithm."
        ));
    }
    Ok(Some((algorithm, composite)))
}

fn part_number(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

/// Parses `bytes=first-last`, the only form of a copy range.
fn copy_range(text: &str) -> S3Result<(u64, u64)> {
    let parsed = text.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let parsed = parsed.and_then(|(first, last)| Some((number(first)?, number(last)?)));
    parsed.filter(|(first, last)| first <= last).ok_or_else(|| {
        s3_error!(
            InvalidArgument,
            "The x-amz-copy-source-range value must be of the form bytes=first-last"
        )
    })
}

/// Maps an error of a copy. A range outside the source is an invalid argument.
fn copy_fault(error: ServiceError) -> S3Error {
    match error {
        ServiceError::InvalidRange { size } => s3_error!(
            InvalidArgument,
            "Range specified is not valid for source object of size: {size}"
        ),
        error => versions::copy_fault(error),
    }
}

fn complete_part(part: CompletedPart) -> S3Result<CompletePart> {
    let given = [
        (Algorithm::Crc32, part.checksum_crc32),
        (Algorithm::Crc32c, part.checksum_crc32c),
        (Algorithm::Crc64Nvme, part.checksum_crc64nvme),
        (Algorithm::Sha1, part.checksum_sha1),
        (Algorithm::Sha256, part.checksum_sha256),
        (Algorithm::Sha512, part.checksum_sha512),
        (Algorithm::Xxhash64, part.checksum_xxhash64),
        (Algorithm::Xxhash3, part.checksum_xxhash3),
        (Algorithm::Xxhash128, part.checksum_xxhash128),
    ];
    let mut checksum = None;
    for (algorithm, value) in given {
        if let Some(value) = value {
            let value = decode_checksum(algorithm, value.as_bytes()).map_err(to_s3)?;
            checksum = Some((algorithm, value));
        }
    }
    let number = part.part_number.ok_or_else(|| s3_error!(MalformedXML))?;
    if !(1..=10_000).contains(&number) {
        return Err(s3_error!(InvalidArgument, "PartNumber must be 1 to 10000"));
    }
    let etag = part.e_tag.ok_or_else(|| s3_error!(MalformedXML))?;
    Ok(CompletePart { number: part_number(number), etag: etag.value().to_owned(), checksum })
}

impl Api {
    pub(super) async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        refuse_unoffered(&request)?;
        refuse_conditions(&request.headers, &[])?;
        let input = &request.input;
        let checksum =
            asked_checksum(input.checksum_algorithm.as_ref(), input.checksum_type.as_ref())?;
        let bucket = bucket_name(&input.bucket)?;
        let create = CreateUploadRequest {
            key: object_key(&input.key)?,
            facts: object_facts(&request.headers)?,
            checksum,
        };
        let caller = &caller(&request)?;
        let created = self.service.create_upload(caller, &bucket, create).await;
        let BegunUpload { id, is_encrypted } = created.map_err(to_s3)?;
        let info =
            checksum.map(|(algorithm, composite)| UploadInfo { algorithm, composite, asked: true });
        let mut response = S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket.clone()),
            key: Some(input.key.clone()),
            upload_id: Some(id.to_string()),
            checksum_algorithm: info.and_then(named),
            checksum_type: info.map(kind_name),
            ..CreateMultipartUploadOutput::default()
        });
        sse::set(&mut response.headers, is_encrypted);
        Ok(response)
    }

    pub(super) async fn upload_part(
        &self,
        mut request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        refuse_unoffered(&request)?;
        sse::refuse(&request.headers)?;
        tags::refuse(&request.headers)?;
        refuse_conditions(&request.headers, &[])?;
        let length = request.input.content_length;
        let body = convert::body(request.input.body.take());
        let caller = caller(&request)?;
        let input = &request.input;
        let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
        let (id, number) = (input.upload_id.clone(), part_number(input.part_number));
        let info = self.service.upload_info(&caller, &bucket, &key, &id);
        let info = info.await.map_err(to_s3)?;
        check_algorithm(Digests::of(&request.headers)?.algorithm(), info)?;
        let body_facts = Self::body_facts(&mut request, length, Some(info.algorithm))?;
        let put = PutPartRequest { key, id, number, body, body_facts };
        let part = self.service.put_part(&caller, &bucket, put).await.map_err(to_s3)?;
        let mut output =
            UploadPartOutput { e_tag: Some(etag(&part.etag())), ..UploadPartOutput::default() };
        set_checksums!(output, &part.checksums);
        let mut response = S3Response::new(output);
        sse::set(&mut response.headers, part.salt.is_some());
        Ok(response)
    }

    pub(super) async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        refuse_unoffered(&request)?;
        sse::refuse(&request.headers)?;
        tags::refuse(&request.headers)?;
        refuse_conditions(&request.headers, &[])?;
        let input = &request.input;
        let conditions = read_conditions(&request.headers, "x-amz-copy-source-")?;
        let source = copy_source(&request.headers, &input.copy_source, conditions)?;
        let source_version = source.version;
        let range = input.copy_source_range.as_deref().map(copy_range).transpose()?;
        let caller = &caller(&request)?;
        let bucket = bucket_name(&input.bucket)?;
        let copy = CopyPartRequest {
            key: object_key(&input.key)?,
            id: input.upload_id.clone(),
            number: part_number(input.part_number),
            source,
            range,
        };
        let copied = self.service.copy_part(caller, &bucket, copy).await;
        let (part, time) = copied.map_err(copy_fault)?;
        let mut result = CopyPartResult {
            e_tag: Some(etag(&part.etag)),
            last_modified: Some(timestamp(time)),
            ..CopyPartResult::default()
        };
        set_checksums!(result, part.checksum.iter());
        let mut response = S3Response::new(UploadPartCopyOutput {
            copy_part_result: Some(result),
            copy_source_version_id: source_version.map(|version| version.to_string()),
            ..UploadPartCopyOutput::default()
        });
        sse::set(&mut response.headers, part.salt.is_some());
        Ok(response)
    }

    pub(super) async fn list_parts(
        &self,
        request: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        let input = &request.input;
        let limit = page_size(input.max_parts, "max-parts")?;
        let after = part_number(input.part_number_marker.unwrap_or(0));
        let caller = &caller(&request)?;
        let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
        let page = self.service.list_parts(caller, &bucket, &key, &input.upload_id, after, limit);
        let page = page.await.map_err(to_s3)?;
        let last = page.parts.last().map(|part| part.number);
        let parts = page.parts.iter().map(|part| {
            let mut out = Part {
                part_number: i32::try_from(part.number).ok(),
                e_tag: Some(etag(&part.record.etag)),
                size: i64::try_from(part.record.size).ok(),
                last_modified: Some(timestamp(part.record.time)),
                ..Part::default()
            };
            if page.info.asked {
                set_checksums!(out, part.record.checksum.iter());
            }
            out
        });
        let parts: Vec<_> = parts.collect();
        let initiator = Some(display(&page.initiator));
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket.clone()),
            key: Some(input.key.clone()),
            upload_id: Some(input.upload_id.clone()),
            part_number_marker: Some(input.part_number_marker.unwrap_or(0)),
            next_part_number_marker: last.and_then(|last| i32::try_from(last).ok()),
            max_parts: i32::try_from(limit).ok(),
            is_truncated: Some(page.truncated),
            parts: Some(parts).filter(|parts| !parts.is_empty()),
            checksum_algorithm: named(page.info),
            checksum_type: page.info.asked.then(|| kind_name(page.info)),
            initiator: Some(Initiator { display_name: initiator.clone(), id: initiator }),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            ..ListPartsOutput::default()
        }))
    }

    pub(super) async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = &request.input;
        let names = Names::new(input.encoding_type.clone())?;
        let limit = page_size(input.max_uploads, "max-uploads")?;
        let query = ListUploadsRequest {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().unwrap_or_default(),
            key_marker: input.key_marker.clone().filter(|marker| !marker.is_empty()),
            id_marker: input.upload_id_marker.clone().filter(|marker| !marker.is_empty()),
            limit,
        };
        let caller = &caller(&request)?;
        let bucket = bucket_name(&input.bucket)?;
        let page = self.service.list_uploads(caller, &bucket, &query).await.map_err(to_s3)?;
        let (mut next_key, mut next_id) = (None, None);
        if let Some(last) = page.lines.last().filter(|_| page.truncated) {
            (next_key, next_id) = match last {
                UploadLine::Upload { key, id, .. } => {
                    (Some(names.encode(key)), Some(id.to_string()))
                }
                UploadLine::Prefix(prefix) => (Some(names.encode(prefix)), Some(String::new())),
            };
        }
        let (mut uploads, mut prefixes) = (Vec::new(), Vec::new());
        for line in page.lines {
            match line {
                UploadLine::Upload { key, id, initiated, initiator, info } => {
                    let initiator = Some(display(&initiator));
                    uploads.push(MultipartUpload {
                        key: Some(names.encode(&key)),
                        upload_id: Some(id.to_string()),
                        initiated: Some(timestamp(initiated)),
                        initiator: Some(Initiator {
                            display_name: initiator.clone(),
                            id: initiator,
                        }),
                        checksum_algorithm: named(info),
                        checksum_type: info.asked.then(|| kind_name(info)),
                        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
                        ..MultipartUpload::default()
                    });
                }
                UploadLine::Prefix(prefix) => {
                    prefixes.push(CommonPrefix { prefix: Some(names.encode(&prefix)) });
                }
            }
        }
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket.clone()),
            prefix: Some(names.encode(&query.prefix)),
            delimiter: names.encode_opt(input.delimiter.as_ref()),
            key_marker: Some(names.encode(input.key_marker.as_deref().unwrap_or_default())),
            upload_id_marker: Some(printable(
                input.upload_id_marker.as_deref().unwrap_or_default(),
            )),
            next_key_marker: next_key,
            next_upload_id_marker: next_id,
            max_uploads: i32::try_from(limit).ok(),
            is_truncated: Some(page.truncated),
            uploads: Some(uploads).filter(|all| !all.is_empty()),
            common_prefixes: Some(prefixes).filter(|all| !all.is_empty()),
            encoding_type: names.encoding,
            ..ListMultipartUploadsOutput::default()
        }))
    }

    pub(super) async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        sse::refuse(&request.headers)?;
        let conditions = write_conditions(&request.headers)?;
        let checksum = whole_checksum(&request.headers)?;
        let caller = &caller(&request)?;
        let S3Request { input, headers, extensions, .. } = request;
        let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        if parts.is_empty() {
            return Err(s3_error!(MalformedXML));
        }
        let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
        if let Some(kind) = headers.get("x-amz-checksum-type") {
            let info = self.service.upload_info(caller, &bucket, &key, &input.upload_id);
            match info.await {
                Ok(info) => check_kind(kind, info)?,
                // The upload may be completed already. The answer is then given again.
                Err(ServiceError::NoSuchUpload) => {}
                Err(error) => return Err(to_s3(error)),
            }
        }
        let size = input.mpu_object_size.map(u64::try_from).transpose();
        let complete = CompleteRequest {
            key,
            id: input.upload_id,
            parts: parts.into_iter().map(complete_part).collect::<S3Result<_>>()?,
            conditions,
            checksum,
            size: size
                .map_err(|_| s3_error!(InvalidRequest, "x-amz-mp-object-size is negative"))?,
        };
        let location = self.location(&headers, &extensions, &input.bucket, &input.key);
        let completed = self.service.complete_upload(caller, &bucket, &complete).await;
        let record = completed.map_err(to_s3)?;
        let end = self.service.end_of_written(caller, &bucket, &complete.key, &record).await;
        let mut output = CompleteMultipartUploadOutput {
            location: Some(location),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(etag(&record.etag)),
            checksum_type: convert::checksum_type(&record.checksums),
            ..CompleteMultipartUploadOutput::default()
        };
        set_checksums!(output, &record.checksums);
        let mut response = S3Response::new(output);
        response.headers = written_headers(&record);
        set_end(&mut response.headers, end.as_ref());
        Ok(response)
    }

    /// Returns the URL of an object, with the host that the request names.
    fn location(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
        bucket: &str,
        key: &str,
    ) -> String {
        let is_tls = extensions.get::<Peer>().is_some_and(|peer| peer.is_tls);
        let scheme = if is_tls || self.config.tls_terminated { "https" } else { "http" };
        let host = headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        let (host, key) = (host.unwrap_or_default(), url_encode(key));
        if extensions.get::<HostBucket>().is_some() {
            return format!("{scheme}://{host}/{key}");
        }
        format!("{scheme}://{host}/{bucket}/{key}")
    }

    pub(super) async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        refuse_conditions(&request.headers, &[])?;
        let input = &request.input;
        if input.if_match_initiated_time.is_some() {
            return Err(not_implemented("The header x-amz-if-match-initiated-time"));
        }
        let caller = &caller(&request)?;
        let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
        let aborted = self.service.abort_upload(caller, &bucket, &key, &input.upload_id);
        aborted.await.map_err(to_s3)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}

/// Refuses a part with another checksum than the one that its upload was begun with. Where the checksum of
/// the whole is made of those that clients send, also refuses a part without one.
fn check_algorithm(sent: Option<Algorithm>, info: UploadInfo) -> S3Result<()> {
    let is_right = match sent {
        Some(sent) => sent == info.algorithm,
        None => !info.composite,
    };
    if is_right || !info.asked {
        return Ok(());
    }
    let name = |algorithm| algorithm_name(algorithm).to_lowercase();
    Err(s3_error!(
        InvalidRequest,
        "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
        name(info.algorithm),
        sent.map_or_else(|| "null".to_owned(), name)
    ))
}

/// Refuses a completion for another kind of checksum than the upload was begun with.
fn check_kind(kind: &HeaderValue, info: UploadInfo) -> S3Result<()> {
    let asked = kind_name(info);
    let is_same = kind.as_bytes().eq_ignore_ascii_case(asked.as_str().as_bytes());
    if is_same || !info.asked {
        return Ok(());
    }
    Err(s3_error!(
        InvalidRequest,
        "The upload was created using the {} checksum mode. The complete request must use the same \
         checksum mode.",
        asked.as_str()
    ))
}

/// Parses the checksum of a whole completed object. A composite one ends with the number of parts.
fn whole_checksum(headers: &HeaderMap) -> S3Result<Option<(Algorithm, bytes::Bytes)>> {
    let mut plain = http::HeaderMap::new();
    for (name, value) in headers {
        if !name.as_str().starts_with("x-amz-checksum-") {
            continue;
        }
        let text = value.to_str().unwrap_or_default();
        let digest = text.split_once('-').map_or(text, |(digest, _)| digest);
        let digest = http::HeaderValue::from_str(digest)
            .map_err(|_| to_s3(ServiceError::InvalidDigest("x-amz-checksum")))?;
        plain.insert(name, digest);
    }
    Ok(Digests::of(&plain)?.checksum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_beyond_the_source_is_a_wrong_argument() {
        let fault = copy_fault(ServiceError::InvalidRange { size: 5 });
        assert_eq!(fault.code().as_str(), "InvalidArgument");
        let text = "Range specified is not valid for source object of size: 5";
        assert_eq!(fault.message(), Some(text));
        assert_eq!(copy_fault(ServiceError::NoSuchKey).code().as_str(), "NoSuchKey");
    }
}
