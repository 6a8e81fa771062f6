//! Listings of objects: their parameters, and the pages of all three kinds of listing.
//!
//! A page is written straight into the body of the answer ([`AnswerBody`]), a line after the other. The output
//! type of `s3s` stays empty.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use fula_core::{
    OwnerId,
    bucket::{ObjectRecord, VersionId},
};
use fula_service::{Identity, ListRequest, Listing, ListingLine, acl::Acl, limits::PAGE_MAX};
use s3s::{S3Error, S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{
    Api, caller,
    convert::{bucket_name, checksum_type, url_encode},
};
use crate::{
    auth::identity,
    date::push_iso,
    digest::algorithm_name,
    error::s3_error as to_s3,
    request::AnswerBody,
    xml::{Writer, printable},
};

/// Bytes of a line, for the first size of the buffer.
const LINE: usize = 384;

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

pub(super) fn token_of(name: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(name)
}

/// Decodes a continuation token. A blank one counts as missing.
pub(super) fn name_of(token: &str) -> S3Result<Option<String>> {
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

pub(super) fn foreign_token() -> S3Error {
    s3_error!(InvalidArgument, "The continuation token provided is incorrect")
}

/// The owners of the lines of a page. Most objects belong to the owner of the bucket.
pub(super) struct Owners<'a> {
    request: &'a http::Extensions,
    bucket: OwnerId,
    /// Whether objects can have other owners.
    differ: bool,
    /// The element of the owner of the bucket.
    element: String,
}

impl<'a> Owners<'a> {
    pub(super) fn new(request: &'a http::Extensions, bucket: OwnerId, differ: bool) -> Self {
        Self { request, bucket, differ, element: owner_element(request, bucket) }
    }
}

fn owner_element(request: &http::Extensions, owner: OwnerId) -> String {
    let owner = owner_of(request, owner);
    let text = |text: &Option<String>| crate::xml::escape(text.as_deref().unwrap_or_default());
    let (id, name) = (text(&owner.id), text(&owner.display_name));
    format!("<Owner><ID>{id}</ID><DisplayName>{name}</DisplayName></Owner>")
}

/// A page that is being written.
pub(super) struct Page<'a> {
    xml: Writer,
    names: &'a Names,
}

impl<'a> Page<'a> {
    /// Begins a page with so many lines.
    pub(super) fn new(root: &'static str, names: &'a Names, lines: usize) -> Self {
        Self { xml: Writer::new(root, 1024 + lines * LINE), names }
    }

    /// Writes an element of the head of the page.
    pub(super) fn text(&mut self, name: &'static str, text: &str) {
        self.xml.element(name, text);
    }

    /// Writes an element with a name that the client may want encoded.
    pub(super) fn name(&mut self, name: &'static str, text: &str) {
        if self.names.encoding.is_some() {
            self.xml.element_with(name, |out| out.push_str(&url_encode(text)));
        } else {
            self.xml.element(name, text);
        }
    }

    /// Writes an element with a name, which is left out when it is missing or empty.
    pub(super) fn name_opt(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            self.name(name, text);
        }
    }

    pub(super) fn number(&mut self, name: &'static str, number: u64) {
        self.xml.value(name, number);
    }

    /// Writes the end of the head: the encoding of names, and whether more lines follow.
    pub(super) fn end_of_head(&mut self, truncated: bool) {
        if let Some(encoding) = &self.names.encoding {
            self.xml.element("EncodingType", encoding.as_str());
        }
        self.flag("IsTruncated", truncated);
    }

    /// Writes the end of the head of a listing of objects.
    fn end_of_objects(&mut self, query: &ListRequest, listing: &Listing) {
        self.number("MaxKeys", query.limit as u64);
        self.name_opt("Delimiter", Some(&query.delimiter));
        self.end_of_head(listing.truncated);
    }

    pub(super) fn flag(&mut self, name: &'static str, flag: bool) {
        self.xml.element_with(name, |out| out.push_str(if flag { "true" } else { "false" }));
    }

    pub(super) fn version(&mut self, version: VersionId) {
        self.xml.value("VersionId", version);
    }

    /// Begins a line: an element of the name, with a key.
    pub(super) fn start_line(&mut self, line: &'static str, key: &str) {
        self.xml.start(line);
        self.name("Key", key);
    }

    pub(super) fn end_line(&mut self, line: &'static str) {
        self.xml.end(line);
    }

    pub(super) fn prefix(&mut self, prefix: &str) {
        self.xml.start("CommonPrefixes");
        self.name("Prefix", prefix);
        self.xml.end("CommonPrefixes");
    }

    /// Writes the time of an object.
    pub(super) fn time(&mut self, record: &ObjectRecord) {
        self.xml.element_with("LastModified", |out| push_iso(out, record.time));
    }

    /// Writes what a listing tells of the content of an object.
    pub(super) fn content(&mut self, record: &ObjectRecord) {
        self.xml.value("ETag", format_args!("&quot;{}&quot;", record.etag));
        for checksum in &record.checksums {
            let name = algorithm_name(checksum.algorithm);
            self.xml.element_with("ChecksumAlgorithm", |out| out.push_str(name));
        }
        if let Some(kind) = checksum_type(&record.checksums) {
            self.xml.element("ChecksumType", kind.as_str());
        }
        self.number("Size", record.size);
    }

    /// Writes the owner of an object.
    pub(super) fn owner(&mut self, record: &ObjectRecord, owners: &Owners<'_>) {
        match &record.acl {
            Some(acl) if owners.differ => {
                let owner = Acl::owner_of(Some(acl), owners.bucket);
                self.xml.fragment(&owner_element(owners.request, owner));
            }
            _ => self.xml.fragment(&owners.element),
        }
    }

    pub(super) fn class(&mut self) {
        self.xml.element_with("StorageClass", |out| out.push_str(ObjectStorageClass::STANDARD));
    }

    /// Writes the lines of a listing of objects. `owners` is missing if the client did not ask for them.
    fn objects(&mut self, listing: &Listing, owners: Option<&Owners<'_>>) {
        for line in &listing.lines {
            match line {
                ListingLine::Object(key, record) => {
                    self.start_line("Contents", key);
                    self.time(record);
                    self.content(record);
                    if let Some(owners) = owners {
                        self.owner(record, owners);
                    }
                    self.class();
                    self.end_line("Contents");
                }
                ListingLine::Prefix(prefix) => self.prefix(prefix),
            }
        }
    }

    /// Returns the answer with this page as its body.
    pub(super) fn answer<T: Default>(self) -> S3Response<T> {
        let mut response = S3Response::new(T::default());
        response.extensions.insert(AnswerBody(self.xml.finish().into()));
        response
    }
}

/// Returns what a listing of either version asks for.
fn query_of(
    prefix: Option<&String>,
    delimiter: Option<&String>,
    after: Option<&String>,
    max_keys: Option<i32>,
) -> S3Result<ListRequest> {
    Ok(ListRequest {
        prefix: prefix.cloned().unwrap_or_default(),
        delimiter: delimiter.cloned().unwrap_or_default(),
        after: after.filter(|after| !after.is_empty()).cloned(),
        limit: page_size(max_keys, "max-keys")?,
    })
}

impl Api {
    /// Reads a page of objects, and begins the answer with the lines that both versions have.
    async fn page_of<'a, T>(
        &self,
        request: &S3Request<T>,
        bucket: &str,
        query: &ListRequest,
        names: &'a Names,
    ) -> S3Result<(Listing, Page<'a>)> {
        let (caller, name) = (caller(request)?, bucket_name(bucket)?);
        let listing = self.service.list_objects(&caller, &name, query).await.map_err(to_s3)?;
        let mut page = Page::new("ListBucketResult", names, listing.lines.len());
        page.text("Name", bucket);
        page.name("Prefix", &query.prefix);
        Ok((listing, page))
    }

    pub(super) async fn list_objects(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = &request.input;
        let names = Names::new(input.encoding_type.clone())?;
        let (prefix, delimiter) = (input.prefix.as_ref(), input.delimiter.as_ref());
        let query = query_of(prefix, delimiter, input.marker.as_ref(), input.max_keys)?;
        let (listing, mut page) = self.page_of(&request, &input.bucket, &query, &names).await?;
        page.name("Marker", input.marker.as_deref().unwrap_or_default());
        // AWS returns the next marker only when there is a delimiter; otherwise it is the last key.
        let next =
            listing.lines.last().filter(|_| listing.truncated && !query.delimiter.is_empty());
        page.name_opt("NextMarker", next.map(ListingLine::name));
        page.end_of_objects(&query, &listing);
        let owners = Owners::new(&request.extensions, listing.owner, listing.has_owners);
        page.objects(&listing, Some(&owners));
        Ok(page.answer())
    }

    pub(super) async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = &request.input;
        let names = Names::new(input.encoding_type.clone())?;
        let (prefix, delimiter) = (input.prefix.as_ref(), input.delimiter.as_ref());
        let token = input.continuation_token.as_deref().map(name_of).transpose()?.flatten();
        let after = token.as_ref().or(input.start_after.as_ref());
        let query = query_of(prefix, delimiter, after, input.max_keys)?;
        let (listing, mut page) = self.page_of(&request, &input.bucket, &query, &names).await?;
        page.name_opt("StartAfter", input.start_after.as_deref());
        if let Some(token) = &input.continuation_token {
            page.text("ContinuationToken", token);
        }
        if let Some(line) = listing.lines.last().filter(|_| listing.truncated) {
            page.text("NextContinuationToken", &token_of(line.name()));
        }
        page.number("KeyCount", listing.lines.len() as u64);
        page.end_of_objects(&query, &listing);
        let owners = Owners::new(&request.extensions, listing.owner, listing.has_owners);
        page.objects(&listing, Some(&owners).filter(|_| input.fetch_owner.unwrap_or_default()));
        Ok(page.answer())
    }
}
