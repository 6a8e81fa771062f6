//! What a file has beside content: its path, and what S3 calls metadata.

use std::collections::BTreeMap;

use fula_core::cbor::{Invalid, Reader, Writer};

use crate::{SealError, VaultPath};

const WHAT: &str = "the metadata of the file";
/// Most bytes of the names and values of all metadata.
const ENTRY_BYTES_MAX: usize = 64 * 1024;

/// The path and the metadata of a file, sealed in the trailer of its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Path at the time of the upload. A renamed object keeps it, and its name says the newer one.
    pub path: VaultPath,
    /// Time of the last change of the file, in nanoseconds since 1970.
    pub modified: Option<u64>,
    /// `ETag` of the content, as S3 writes it without quotes.
    pub etag: Option<String>,
    /// Headers and metadata of S3 by name.
    pub entries: BTreeMap<String, String>,
}

impl Metadata {
    /// Returns the metadata of a file of which nothing but its path is known.
    pub fn of(path: VaultPath) -> Self {
        Self { path, modified: None, etag: None, entries: BTreeMap::new() }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, SealError> {
        let bytes = self.entries.iter().map(|(name, value)| name.len() + value.len()).sum();
        SealError::limit("metadata (bytes)", bytes, ENTRY_BYTES_MAX)?;
        let mut out = Writer::with_capacity(self.path.as_bytes().len() + bytes + 64);
        out.array(4).bytes(self.path.as_bytes());
        write_optional_uint(&mut out, self.modified);
        write_optional_text(&mut out, self.etag.as_deref());
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by_key(|(name, _)| (name.len(), *name));
        out.map(entries.len());
        for (name, value) in entries {
            out.text(name).text(value);
        }
        Ok(out.written().to_vec())
    }

    pub(crate) fn decode(encoded: Vec<u8>) -> Result<Self, SealError> {
        let (encoded, malformed) = (encoded.into(), SealError::in_cbor(WHAT));
        let mut reader = Reader::new(&encoded);
        let (path, modified, etag, entries) = Self::read(&mut reader).map_err(malformed)?;
        Ok(Self { path: VaultPath::new(path)?, modified, etag, entries })
    }

    #[expect(clippy::type_complexity, reason = "the fields, before the path is checked")]
    fn read(
        reader: &mut Reader<'_>,
    ) -> Result<(Vec<u8>, Option<u64>, Option<String>, BTreeMap<String, String>), Invalid> {
        reader.tuple(4)?;
        let path = reader.byte_slice()?.to_vec();
        let modified = read_optional_uint(reader)?;
        let etag = read_optional_text(reader)?;
        let mut names = reader.names()?;
        let mut entries = BTreeMap::new();
        for _ in 0..names.count() {
            let name = names.next(reader)?.to_owned();
            entries.insert(name, reader.text()?.to_owned());
        }
        reader.end()?;
        Ok((path, modified, etag, entries))
    }
}

/// Writes a number or null.
pub(crate) fn write_optional_uint(out: &mut Writer, value: Option<u64>) {
    match value {
        Some(value) => out.uint(value),
        None => out.null(),
    };
}

/// Writes a text or null.
pub(crate) fn write_optional_text(out: &mut Writer, value: Option<&str>) {
    match value {
        Some(value) => out.text(value),
        None => out.null(),
    };
}

/// Reads a number or null.
pub(crate) fn read_optional_uint(reader: &mut Reader<'_>) -> Result<Option<u64>, Invalid> {
    if reader.null() { Ok(None) } else { reader.uint().map(Some) }
}

/// Reads a text or null.
pub(crate) fn read_optional_text(reader: &mut Reader<'_>) -> Result<Option<String>, Invalid> {
    if reader.null() { Ok(None) } else { reader.text().map(|text| Some(text.to_owned())) }
}
