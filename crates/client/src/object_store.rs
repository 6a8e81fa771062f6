//! `object_store::ObjectStore` for a bucket, so that programs on that interface read and write it.
//!
//! Entity tags have quotes here, as they have in HTTP and in other implementations. What the interface has and this
//! does not, such as reading an old version, is an error and never left out.

mod multipart;

use std::{collections::HashMap, fmt, time::SystemTime};

use async_trait::async_trait;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use object_store::{
    Attribute, AttributeValue, Attributes, CopyMode, CopyOptions, Extensions, GetOptions, GetRange,
    GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, RenameTargetMode,
    Result, TagSet, UpdateVersion, path::Path,
};

use crate::{
    client::Bucket,
    copy,
    error::Error,
    get::{self, Span},
    list::{Entry, ListOptions},
    meta::{Meta, Version},
    put,
    remove::DELETE_MAX,
};

/// Name in errors.
const STORE: &str = "fula";

/// Requests in flight for deletions.
const DELETIONS: usize = 4;

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fula({})", self.name())
    }
}

/// Returns the error of the interface.
fn failed(path: &Path) -> impl FnOnce(Error) -> object_store::Error {
    let path = path.to_string();
    move |error| {
        let is_key = matches!(&error, Error::NotFound { what } if what.contains('/'));
        let source = Box::new(error);
        match &*source {
            Error::NotFound { .. } if is_key => object_store::Error::NotFound { path, source },
            Error::Exists { .. } => object_store::Error::AlreadyExists { path, source },
            Error::Changed { .. } => object_store::Error::Precondition { path, source },
            Error::NotModified { .. } => object_store::Error::NotModified { path, source },
            Error::Denied { .. } => object_store::Error::PermissionDenied { path, source },
            Error::Unsupported(_) => object_store::Error::NotSupported { source },
            _ => object_store::Error::Generic { store: STORE, source },
        }
    }
}

fn not_offered(operation: &str) -> object_store::Error {
    let (operation, implementer) = (operation.to_owned(), STORE.to_owned());
    object_store::Error::NotImplemented { operation, implementer }
}

fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

fn unquoted(etag: &str) -> String {
    etag.trim_matches('"').to_owned()
}

fn put_result(version: &Version) -> PutResult {
    PutResult { e_tag: Some(quoted(&version.etag)), version: None, extensions: Extensions::new() }
}

fn object_meta(location: &Path, meta: &Meta) -> ObjectMeta {
    ObjectMeta {
        location: location.clone(),
        last_modified: meta.modified.unwrap_or(SystemTime::UNIX_EPOCH).into(),
        size: meta.size,
        e_tag: Some(quoted(&meta.version.etag)),
        version: None,
    }
}

/// Headers of objects that the interface has attributes for.
const HEADERS: [(&str, Attribute); 4] = [
    ("cache-control", Attribute::CacheControl),
    ("content-disposition", Attribute::ContentDisposition),
    ("content-encoding", Attribute::ContentEncoding),
    ("content-language", Attribute::ContentLanguage),
];

/// Returns the options of a write.
fn described(attributes: &Attributes, tags: &TagSet) -> Result<put::PutOptions> {
    let mut options = put::PutOptions::default();
    for (attribute, value) in attributes {
        let value = value.to_string();
        match attribute {
            Attribute::ContentType => options.content_type = Some(value),
            Attribute::Metadata(name) => {
                options.metadata.insert(name.to_string(), value);
            }
            attribute => {
                let header = HEADERS.iter().find(|(_, known)| known == attribute);
                let (header, _) = header.ok_or_else(|| not_offered(&format!("{attribute:?}")))?;
                options.headers.insert((*header).to_owned(), value);
            }
        }
    }
    if !tags.encoded().is_empty() {
        options.headers.insert("x-amz-tagging".to_owned(), tags.encoded().to_owned());
    }
    Ok(options)
}

fn attributes(meta: &Meta) -> Attributes {
    let mut all = Attributes::new();
    if let Some(kind) = &meta.content_type {
        all.insert(Attribute::ContentType, kind.clone().into());
    }
    for (header, attribute) in HEADERS {
        if let Some(value) = meta.headers.get(header) {
            all.insert(attribute, value.clone().into());
        }
    }
    for (name, value) in &meta.metadata {
        let value: AttributeValue = value.clone().into();
        all.insert(Attribute::Metadata(name.clone().into()), value);
    }
    all
}

fn span(range: &GetRange) -> Span {
    match range {
        GetRange::Bounded(range) => Span::Between(range.start, range.end),
        GetRange::Offset(from) => Span::From(*from),
        GetRange::Suffix(count) => Span::Last(*count),
    }
}

/// Returns the only entity tag of a condition. Lists and `*` are compared here, with the answer.
fn single(condition: Option<&String>) -> Option<String> {
    let condition = condition.filter(|text| !text.contains([',', '*']));
    condition.map(|etag| unquoted(etag))
}

/// Returns the prefix of keys below a path.
fn below(prefix: Option<&Path>) -> String {
    match prefix {
        Some(prefix) if !prefix.as_ref().is_empty() => format!("{prefix}/"),
        _ => String::new(),
    }
}

fn listed(key: &str, size: u64, etag: &str, modified: Option<SystemTime>) -> Result<ObjectMeta> {
    Ok(ObjectMeta {
        location: Path::parse(key)?,
        last_modified: modified.unwrap_or(SystemTime::UNIX_EPOCH).into(),
        size,
        e_tag: Some(quoted(etag)),
        version: None,
    })
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let mut options = described(&opts.attributes, &opts.tags)?;
        match opts.mode {
            PutMode::Overwrite => {}
            PutMode::Create => options.if_absent = true,
            PutMode::Update(UpdateVersion { e_tag: Some(etag), version: None }) => {
                options.if_match = Some(unquoted(&etag));
            }
            PutMode::Update(_) => return Err(not_offered("an update without an entity tag alone")),
        }
        let put = self.put(location.as_ref(), bytes::Bytes::from(payload), options).await;
        Ok(put_result(&put.map_err(failed(location))?.version))
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let options = described(&opts.attributes, &opts.tags)?;
        Ok(Box::new(multipart::Parts::begin(self.clone(), location, options).await?))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.version.is_some() {
            return Err(not_offered("reading a version"));
        }
        if options.head {
            let meta = self.head(location.as_ref()).await.map_err(failed(location))?;
            let (about, attributes) = (object_meta(location, &meta), attributes(&meta));
            options.check_preconditions(&about)?;
            let range = match &options.range {
                None => 0..meta.size,
                Some(range) => range.as_range(meta.size).map_err(|error| {
                    object_store::Error::Generic { store: STORE, source: Box::new(error) }
                })?,
            };
            let payload = GetResultPayload::Stream(stream::empty().boxed());
            let extensions = Extensions::new();
            return Ok(GetResult { payload, meta: about, range, attributes, extensions });
        }
        let asked = get::GetOptions {
            range: options.range.as_ref().map(span),
            if_match: single(options.if_match.as_ref()),
            if_none_match: single(options.if_none_match.as_ref()),
            meter: None,
        };
        let get = self.get(location.as_ref(), asked).await.map_err(failed(location))?;
        let (about, attributes) = (object_meta(location, &get.meta), attributes(&get.meta));
        options.check_preconditions(&about)?;
        let (range, path) = (get.range.clone(), location.clone());
        let body = get.into_stream().map_err(move |error| failed(&path)(error));
        let (payload, extensions) = (GetResultPayload::Stream(body.boxed()), Extensions::new());
        Ok(GetResult { payload, meta: about, range, attributes, extensions })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let bucket = self.clone();
        let deleted = locations.try_chunks(DELETE_MAX).map(move |paths| {
            let bucket = bucket.clone();
            async move {
                let paths = paths.map_err(|error| error.1)?;
                let keys: Vec<String> = paths.iter().map(ToString::to_string).collect();
                let failures = bucket.delete_many(&keys).await;
                let failures = failures.map_err(failed(&Path::default()))?;
                let mut failures: HashMap<_, _> =
                    failures.into_iter().map(|failure| (failure.key, failure.error)).collect();
                let results =
                    paths.into_iter().map(move |path| match failures.remove(path.as_ref()) {
                        Some(error) => Err(failed(&path)(error)),
                        None => Ok(path),
                    });
                Ok::<_, object_store::Error>(stream::iter(results))
            }
        });
        deleted.buffered(DELETIONS).try_flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.cloned().unwrap_or_default();
        let found = self.list_with(&below(prefix), None).map(move |object| {
            let object = object.map_err(failed(&path))?;
            listed(&object.key, object.size, &object.etag, object.modified)
        });
        found.boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let path = prefix.cloned().unwrap_or_default();
        let start_after = Some(offset.to_string()).filter(|offset| !offset.is_empty());
        let options = ListOptions { start_after, ..ListOptions::default() };
        let found = Bucket::list(self, &below(prefix), options).filter_map(move |entry| {
            let object = match entry.map_err(failed(&path)) {
                Ok(Entry::Object { key, size, etag, modified }) => {
                    Some(listed(&key, size, &etag, modified))
                }
                Ok(Entry::Prefix(_)) => None,
                Err(error) => Some(Err(error)),
            };
            std::future::ready(object)
        });
        found.boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.cloned().unwrap_or_default();
        let options = ListOptions { delimiter: Some("/".to_owned()), ..ListOptions::default() };
        let mut found = std::pin::pin!(Bucket::list(self, &below(prefix), options));
        let (mut common_prefixes, mut objects) = (Vec::new(), Vec::new());
        while let Some(entry) = found.next().await {
            match entry.map_err(failed(&path))? {
                Entry::Prefix(prefix) => common_prefixes.push(Path::parse(prefix)?),
                Entry::Object { key, size, etag, modified } => {
                    objects.push(listed(&key, size, &etag, modified)?);
                }
            }
        }
        Ok(ListResult { common_prefixes, objects, extensions: Extensions::new() })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let if_absent = options.mode == CopyMode::Create;
        let options = copy::CopyOptions { if_absent, ..copy::CopyOptions::default() };
        match self.copy(self, from.as_ref(), to.as_ref(), options).await {
            Err(error @ Error::Exists { .. }) => {
                // A source that is missing counts more than a target that is there.
                self.head(from.as_ref()).await.map_err(failed(from))?;
                Err(failed(to)(error))
            }
            copied => copied.map(drop).map_err(failed(from)),
        }
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let if_absent = options.target_mode == RenameTargetMode::Create;
        let asked = copy::CopyOptions { if_absent, ..copy::CopyOptions::default() };
        match self.rename(from.as_ref(), to.as_ref(), asked).await {
            // Only a Fula gateway renames in one step.
            Err(Error::Unsupported(_)) => {
                let mode = if if_absent { CopyMode::Create } else { CopyMode::Overwrite };
                let copy = CopyOptions { mode, extensions: options.extensions };
                self.copy_opts(from, to, copy).await?;
                let deleted = self.delete(from.as_ref(), crate::remove::DeleteOptions::default());
                deleted.await.map(drop).map_err(failed(from))
            }
            renamed => renamed.map(drop).map_err(failed(if if_absent { to } else { from })),
        }
    }
}
