//! Uploads whose parts a program sends by itself.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use object_store::{
    MultipartId, MultipartUpload, PutMultipartOptions, PutPayload, PutResult, Result, UploadPart,
    multipart::{MultipartStore, PartId},
    path::Path,
};
use parking_lot::Mutex;

use super::{described, failed, put_result};
use crate::{
    checksum,
    client::Bucket,
    error::Error,
    put::{PART_BYTES, PutOptions},
    upload::{Part, Upload},
};

/// An upload whose parts are numbered as they are handed over.
#[derive(Debug)]
pub(super) struct Parts {
    bucket: Bucket,
    path: Path,
    options: PutOptions,
    id: String,
    /// Number of parts that were handed over.
    count: u32,
    sent: Arc<Mutex<BTreeMap<u32, Part>>>,
}

fn upload<'a>(bucket: &'a Bucket, path: &'a Path, options: PutOptions) -> Upload<'a> {
    Upload::new(bucket, path.as_ref(), options, PART_BYTES)
}

/// Sends a part.
async fn send(bucket: &Bucket, path: &Path, id: &str, number: u32, bytes: Bytes) -> Result<Part> {
    let memory = bucket.client().memory(bytes.len()).await;
    let crc = checksum::of(&bytes);
    let upload = upload(bucket, path, PutOptions::default());
    let sent = upload.send_part(id, number, bytes, crc, memory).await;
    sent.map(|(_, part)| part).map_err(failed(path))
}

impl Parts {
    /// Begins an upload.
    pub(super) async fn begin(bucket: Bucket, path: &Path, options: PutOptions) -> Result<Self> {
        let id = upload(&bucket, path, options.clone()).initiate().await.map_err(failed(path))?;
        let (path, sent) = (path.clone(), Arc::default());
        Ok(Self { bucket, path, options, id, count: 0, sent })
    }
}

#[async_trait]
impl MultipartUpload for Parts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.count += 1;
        let (bucket, path, id) = (self.bucket.clone(), self.path.clone(), self.id.clone());
        let (number, sent) = (self.count, Arc::clone(&self.sent));
        let work = async move {
            let part = send(&bucket, &path, &id, number, data.into()).await?;
            sent.lock().insert(number, part);
            Ok(())
        };
        work.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let mut parts = self.sent.lock().clone();
        if parts.len() != self.count as usize {
            let text = "a part was not sent to its end";
            return Err(failed(&self.path)(Error::Invalid(text.to_owned())));
        }
        if parts.is_empty() {
            let part = send(&self.bucket, &self.path, &self.id, 1, Bytes::new()).await?;
            parts.insert(1, part);
        }
        let upload = upload(&self.bucket, &self.path, self.options.clone());
        let put = upload.complete(&self.id, &parts).await.map_err(failed(&self.path))?;
        Ok(put_result(&put.version))
    }

    async fn abort(&mut self) -> Result<()> {
        let upload = upload(&self.bucket, &self.path, PutOptions::default());
        upload.abort(&self.id).await.map_err(failed(&self.path))
    }
}

/// Returns a part as text: entity tag, checksum and length.
fn encode(part: &Part) -> String {
    format!("{}/{:016x}/{}", part.etag, part.crc, part.size)
}

fn decode(text: &str) -> Option<Part> {
    let (rest, size) = text.rsplit_once('/')?;
    let (etag, crc) = rest.rsplit_once('/')?;
    let crc = u64::from_str_radix(crc, 16).ok()?;
    Some(Part { etag: etag.to_owned(), crc, size: size.parse().ok()? })
}

#[async_trait]
impl MultipartStore for Bucket {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.create_multipart_opts(path, PutMultipartOptions::default()).await
    }

    async fn create_multipart_opts(
        &self,
        path: &Path,
        opts: PutMultipartOptions,
    ) -> Result<MultipartId> {
        let options = described(&opts.attributes, &opts.tags)?;
        upload(self, path, options).initiate().await.map_err(failed(path))
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        part_idx: usize,
        data: PutPayload,
    ) -> Result<PartId> {
        let number = u32::try_from(part_idx + 1).unwrap_or(u32::MAX);
        let part = send(self, path, id, number, data.into()).await?;
        Ok(PartId { content_id: encode(&part) })
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<PutResult> {
        let wrong = || Error::Invalid("a part has an id that is not one of this store".to_owned());
        let decoded = parts.iter().map(|part| decode(&part.content_id).ok_or_else(wrong));
        let decoded: Vec<Part> = decoded.collect::<crate::Result<_>>().map_err(failed(path))?;
        let mut parts: BTreeMap<u32, Part> = (1..).zip(decoded).collect();
        if parts.is_empty() {
            parts.insert(1, send(self, path, id, 1, Bytes::new()).await?);
        }
        let done = upload(self, path, PutOptions::default()).complete(id, &parts).await;
        Ok(put_result(&done.map_err(failed(path))?.version))
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        upload(self, path, PutOptions::default()).abort(id).await.map_err(failed(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_by_all_that_completion_needs() {
        let part = Part { etag: "e".to_owned(), crc: 7, size: 9 };
        let read = decode(&encode(&part)).unwrap();
        assert_eq!((read.etag.as_str(), read.crc, read.size), ("e", 7, 9));
        assert!(decode("e/7").is_none() && decode("e/x/9").is_none());
    }
}
