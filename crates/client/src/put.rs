//! Options and results of writes.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{error::Error, ingest::StorageNodes, meta::Version, request::Request, send::Meter};

/// Length of the parts of an upload in bytes, unless the object needs larger ones.
pub const PART_BYTES: usize = 8 << 20;

/// Options of a write.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// Media type.
    pub content_type: Option<String>,
    /// Metadata of the user. Names are compared without case.
    pub metadata: BTreeMap<String, String>,
    /// Further headers that the object gets, by name in lower case, such as `cache-control` and `x-amz-tagging`.
    pub headers: BTreeMap<String, String>,
    /// Entity tag that the present object must have.
    pub if_match: Option<String>,
    /// Whether there must be no object.
    pub if_absent: bool,
    /// Counts the bytes that are sent.
    pub meter: Option<Meter>,
    /// Storage nodes that get the bytes, so that the gateway gets a mapping alone (ADR 0043). It counts for files
    /// and bytes of 1 MiB to 4 GiB, and for gateways that take mappings; everything else goes to the gateway.
    pub storage_nodes: Option<StorageNodes>,
    /// File in which an upload of a file in parts notes its id, with mode 0600. If the process ends before the
    /// upload, a later call with the same journal sends only the parts that are missing.
    pub journal: Option<PathBuf>,
    /// Length of the parts; [`PART_BYTES`] by default. An object of up to one part is sent in one request.
    pub part_bytes: Option<usize>,
}

/// What a write has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Version of the new object.
    pub version: Version,
    /// Length of the content in bytes.
    pub size: u64,
}

impl PutOptions {
    /// Adds the headers of the object.
    pub(crate) fn describe(&self, mut request: Request) -> Request {
        for (name, value) in &self.metadata {
            let name = format!("x-amz-meta-{}", name.to_ascii_lowercase());
            request = request.header(&name, value);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.maybe("content-type", self.content_type.as_deref())
    }

    /// Adds the conditions.
    pub(crate) fn conditions(&self, request: Request) -> Request {
        request
            .maybe("if-match", self.if_match.as_ref().map(|etag| format!("\"{etag}\"")))
            .maybe("if-none-match", self.if_absent.then_some("*"))
    }
}

/// Returns the error of a write. One that names a version of an object that is gone is a failed condition.
pub(crate) fn not_there(error: Error, options: &PutOptions) -> Error {
    match error {
        Error::NotFound { what } if options.if_match.is_some() && what.contains('/') => {
            Error::Changed { what, current: None }
        }
        error => error,
    }
}
