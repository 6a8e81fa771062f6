//! The mapping PUT: an empty body, and headers that say which content the key means (docs/format.md).

use fula_core::{Cid, Codec, block::BLOCK_BYTES_MAX};
use fula_ingest::mapping::Offered;
use fula_service::MapRequest;
use futures::StreamExt;
use http::{HeaderMap, HeaderName};
use s3s::{S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    Api, caller,
    convert::{
        self, CID, SIZE, bucket_name, etag, object_facts, object_key, refuse_unoffered,
        write_conditions,
    },
    object::written_headers,
};
use crate::error::s3_error as to_s3;

/// Header with a receipt for the content.
const RECEIPT: HeaderName = HeaderName::from_static("x-fula-receipt");

/// Returns content and length that the headers name.
fn named(headers: &HeaderMap) -> S3Result<(Cid, u64)> {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let cid: Option<Cid> = text(&CID).and_then(|text| text.parse().ok());
    let cid = cid.filter(|cid| cid.codec() == Codec::Raw).ok_or_else(|| {
        s3_error!(InvalidRequest, "{CID} is a CIDv1 with the codec raw and the hash BLAKE3-256.")
    })?;
    let size = text(&SIZE).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let size = size.and_then(|text| text.parse().ok());
    let size: u64 =
        size.ok_or_else(|| s3_error!(InvalidRequest, "{SIZE} is the length in bytes."))?;
    if size > BLOCK_BYTES_MAX as u64 {
        return Err(s3_error!(
            InvalidRequest,
            "A block has at most 1 MiB; map a file with ?fula-commit."
        ));
    }
    Ok((cid, size))
}

impl Api {
    pub(super) async fn put_mapping(
        &self,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        if !self.service.accepts_mappings() {
            let text = "Mappings are off here: send the content. The operator sets FULA_REMOTE_CID_PUT=on.";
            return Err(s3_error!(InvalidRequest, "{text}"));
        }
        refuse_unoffered(&request)?;
        let (cid, size) = named(&request.headers)?;
        let mut body = convert::body(request.input.body.take());
        while let Some(bytes) = body.next().await {
            if !bytes.map_err(to_s3)?.is_empty() {
                return Err(s3_error!(InvalidRequest, "A mapping has no body."));
            }
        }
        let receipt = request.headers.get(RECEIPT).and_then(|value| value.to_str().ok());
        let blocks = vec![(cid, u32::try_from(size).unwrap_or(u32::MAX))];
        let offered = receipt.map(|receipt| Offered { receipt: receipt.to_owned(), blocks });
        let map = MapRequest {
            cid,
            size,
            nodes: Vec::new(),
            receipts: offered.into_iter().collect(),
            source: None,
            facts: object_facts(&request.headers)?,
        };
        let conditions = write_conditions(&request.headers)?;
        let caller = caller(&request)?;
        let input = &request.input;
        let (bucket, key) = (bucket_name(&input.bucket)?, object_key(&input.key)?);
        let mapped = self.service.map_object(&caller, &bucket, key, &map, conditions).await;
        let record = mapped.map_err(to_s3)?;
        let output =
            PutObjectOutput { e_tag: Some(etag(&record.etag)), ..PutObjectOutput::default() };
        let mut response = S3Response::new(output);
        response.headers = written_headers(&record);
        Ok(response)
    }
}
