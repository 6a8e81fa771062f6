//! What answers say about an object.

use std::{collections::BTreeMap, time::SystemTime};

use http::HeaderMap;

use crate::{checksum, date, request::header};

/// Headers that S3 keeps with an object beside its media type.
const KEPT: [&str; 5] =
    ["cache-control", "content-disposition", "content-encoding", "content-language", "expires"];

/// The version of an object that conditions take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Version {
    /// Entity tag, without quotes.
    pub etag: String,
    /// Version of the bucket at which the answer was made (`x-fula-version`); `None` from other servers.
    pub bucket: Option<u64>,
}

/// What is known of an object without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Length of the content in bytes.
    pub size: u64,
    /// Version.
    pub version: Version,
    /// Time of the last write.
    pub modified: Option<SystemTime>,
    /// Media type.
    pub content_type: Option<String>,
    /// Metadata of the user, by name in lower case.
    pub metadata: BTreeMap<String, String>,
    /// Headers of the object that S3 keeps, by name in lower case: `cache-control`, `content-disposition`,
    /// `content-encoding`, `content-language` and `expires`.
    pub headers: BTreeMap<String, String>,
    /// CRC-64/NVME of the whole content in base64, where the server keeps it.
    pub crc64nvme: Option<String>,
}

/// Returns an entity tag without quotes.
pub(crate) fn etag(headers: &HeaderMap) -> String {
    header(headers, "etag").unwrap_or_default().trim_matches('"').to_owned()
}

/// Returns the version that an answer names.
pub(crate) fn version(headers: &HeaderMap) -> Version {
    let bucket = header(headers, "x-fula-version").and_then(|text| text.parse().ok());
    Version { etag: etag(headers), bucket }
}

impl Meta {
    /// Reads the headers of an answer about an object of `size` bytes.
    pub(crate) fn of(headers: &HeaderMap, size: u64) -> Self {
        let metadata = headers.iter().filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix("x-amz-meta-")?;
            Some((name.to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        });
        let kept = KEPT
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), header(headers, name)?.to_owned())));
        // The checksum of a part, or of checksums of parts, says nothing about the whole.
        let is_whole =
            header(headers, "x-amz-checksum-type").is_none_or(|kind| kind == "FULL_OBJECT");
        let crc = header(headers, checksum::HEADER).filter(|text| is_whole && !text.contains('-'));
        Self {
            size,
            version: version(headers),
            modified: header(headers, "last-modified").and_then(date::http),
            content_type: header(headers, "content-type").map(str::to_owned),
            metadata: metadata.collect(),
            headers: kept.collect(),
            crc64nvme: crc.map(str::to_owned),
        }
    }
}
