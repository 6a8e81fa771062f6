//! `GetObjectAttributes`.

use fula_core::bucket::{ObjectRecord, PartSpan};
use fula_service::access::Property;
use http::HeaderMap;
use s3s::{S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    Api, caller,
    convert::{bucket_name, checksum_type, etag, object_key, set_checksums},
    versions::version_of,
};
use crate::{date::timestamp, error::s3_error as to_s3};

/// The largest and the default number of parts in one answer.
const PARTS_MAX: u32 = 1000;

/// The attributes that a request asks for.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is asked for by itself")]
struct Asked {
    etag: bool,
    checksum: bool,
    parts: bool,
    class: bool,
    size: bool,
}

impl Asked {
    fn of(headers: &HeaderMap) -> S3Result<Self> {
        let named = headers.get("x-amz-object-attributes").and_then(|value| value.to_str().ok());
        let named = named.unwrap_or_default();
        if named.trim().is_empty() {
            let text = "The x-amz-object-attributes header specifying the attributes to be retrieved \
                        is either missing or empty";
            return Err(s3_error!(InvalidRequest, "{text}"));
        }
        let mut asked = Self::default();
        for name in named.split(',') {
            let field = match name.trim() {
                ObjectAttributes::ETAG => &mut asked.etag,
                ObjectAttributes::CHECKSUM => &mut asked.checksum,
                ObjectAttributes::OBJECT_PARTS => &mut asked.parts,
                ObjectAttributes::STORAGE_CLASS => &mut asked.class,
                ObjectAttributes::OBJECT_SIZE => &mut asked.size,
                _ => return Err(s3_error!(InvalidArgument, "Invalid attribute name specified.")),
            };
            *field = true;
        }
        Ok(asked)
    }
}

fn number(headers: &HeaderMap, name: &str) -> S3Result<Option<u32>> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse::<i32>().ok());
    let number = number.and_then(|number| u32::try_from(number).ok());
    let wrong = || s3_error!(InvalidArgument, "{name} must be an integer between 0 and 2147483647");
    number.ok_or_else(wrong).map(Some)
}

/// Returns a page of the parts of an object that a multipart upload made. AWS leaves out the parts if they
/// have no checksums.
fn parts_page(parts: &[PartSpan], headers: &HeaderMap) -> S3Result<GetObjectAttributesParts> {
    let most = number(headers, "x-amz-max-parts")?.unwrap_or(PARTS_MAX).min(PARTS_MAX);
    let marker = number(headers, "x-amz-part-number-marker")?.unwrap_or(0);
    let count = |count: usize| i32::try_from(count).ok();
    let mut page = GetObjectAttributesParts {
        total_parts_count: count(parts.len()),
        ..GetObjectAttributesParts::default()
    };
    if !parts.iter().all(|part| part.checksum.is_some()) {
        return Ok(page);
    }
    let after = parts.partition_point(|part| part.number <= marker);
    let listed: Vec<_> = parts[after..].iter().take(most as usize).collect();
    page.is_truncated = Some(after + listed.len() < parts.len());
    page.max_parts = i32::try_from(most).ok();
    page.part_number_marker = i32::try_from(marker).ok();
    page.next_part_number_marker =
        listed.last().map_or(Some(0), |part| i32::try_from(part.number).ok());
    let listed = listed.into_iter().map(|part| {
        let mut found = ObjectPart {
            part_number: i32::try_from(part.number).ok(),
            size: i64::try_from(part.size).ok(),
            ..ObjectPart::default()
        };
        set_checksums!(found, part.checksum.iter());
        found
    });
    page.parts = Some(listed.collect());
    Ok(page)
}

fn checksum_of(record: &ObjectRecord) -> Option<Checksum> {
    if record.checksums.is_empty() {
        return None;
    }
    let mut found =
        Checksum { checksum_type: checksum_type(&record.checksums), ..Checksum::default() };
    set_checksums!(found, &record.checksums);
    Some(found)
}

impl Api {
    pub(super) async fn get_object_attributes(
        &self,
        request: S3Request<GetObjectAttributesInput>,
    ) -> S3Result<S3Response<GetObjectAttributesOutput>> {
        let input = &request.input;
        let version = version_of(input.version_id.as_ref())?;
        let asked = Asked::of(&request.headers)?;
        let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
        let (caller, property) = (caller(&request)?, Property::Attributes);
        let found = self.service.object_properties(&caller, &bucket, &key, version, property).await;
        let found = found.map_err(to_s3)?.1;
        let (record, version) = (found.record, found.version);
        let object_parts = if asked.parts && record.parts.is_some() {
            let parts = self.service.parts_of(&record).await.map_err(to_s3)?;
            Some(parts_page(&parts, &request.headers)?)
        } else {
            None
        };
        let class = StorageClass::from_static(StorageClass::STANDARD);
        Ok(S3Response::new(GetObjectAttributesOutput {
            checksum: checksum_of(&record).filter(|_| asked.checksum),
            e_tag: asked.etag.then(|| etag(&record.etag)),
            last_modified: Some(timestamp(record.time)),
            object_parts,
            object_size: i64::try_from(record.size).ok().filter(|_| asked.size),
            storage_class: asked.class.then_some(class),
            version_id: version.map(|version| version.to_string()),
            ..GetObjectAttributesOutput::default()
        }))
    }
}
