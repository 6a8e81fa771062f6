//! Listings, page by page.

use std::{collections::VecDeque, time::SystemTime};

use futures::{Stream, stream};
use http::Method;
use serde::Deserialize;

use crate::{
    client::{Bucket, Client},
    date, encode,
    error::{Error, Result},
    request::Request,
    xml,
};

/// Options of a listing.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Text that ends the names that are listed: what follows it is one [`Entry::Prefix`].
    pub delimiter: Option<String>,
    /// Key after which the listing begins.
    pub start_after: Option<String>,
    /// Largest number of entries of a page; that of the server by default.
    pub page: Option<u16>,
}

/// An entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// An object.
    Object {
        /// Key.
        key: String,
        /// Length of the content in bytes.
        size: u64,
        /// Entity tag, without quotes.
        etag: String,
        /// Time of the last write.
        modified: Option<SystemTime>,
    },
    /// All objects whose keys begin with this.
    Prefix(String),
}

impl Entry {
    /// Returns the key or the prefix, by which entries are in order.
    pub fn name(&self) -> &str {
        match self {
            Self::Object { key, .. } => key,
            Self::Prefix(prefix) => prefix,
        }
    }
}

/// A bucket in the list of buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketEntry {
    /// Name.
    pub name: String,
    /// Time at which it was made.
    pub created: Option<SystemTime>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    contents: Vec<Content>,
    #[serde(default)]
    common_prefixes: Vec<CommonPrefix>,
    #[serde(default)]
    is_truncated: bool,
    next_continuation_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Content {
    key: String,
    size: u64,
    #[serde(rename = "ETag", default)]
    etag: String,
    #[serde(default)]
    last_modified: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CommonPrefix {
    prefix: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BucketsPage {
    #[serde(default)]
    buckets: Buckets,
    continuation_token: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Buckets {
    #[serde(default)]
    bucket: Vec<ListedBucket>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedBucket {
    name: String,
    #[serde(default)]
    creation_date: String,
}

/// A listing under way.
struct Listing {
    bucket: Bucket,
    prefix: String,
    options: ListOptions,
    token: Option<String>,
    entries: VecDeque<Entry>,
    is_done: bool,
}

impl Listing {
    async fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.entries.pop_front() {
                return Ok(Some(entry));
            }
            if self.is_done {
                return Ok(None);
            }
            self.read_page().await?;
        }
    }

    async fn read_page(&mut self) -> Result<()> {
        let mut request = Request::of_bucket(Method::GET, self.bucket.name())
            .query("list-type", "2")
            .query("encoding-type", "url")
            .query("prefix", &self.prefix);
        if let Some(delimiter) = &self.options.delimiter {
            request = request.query("delimiter", delimiter);
        }
        if let Some(page) = self.options.page {
            request = request.query("max-keys", page.to_string());
        }
        match (&self.token, &self.options.start_after) {
            (Some(token), _) => request = request.query("continuation-token", token),
            (None, Some(after)) => request = request.query("start-after", after),
            (None, None) => {}
        }
        let what = self.bucket.name();
        let answer = self.bucket.client().send(&request).await?;
        let page: Page = xml::read(what, answer.status.as_u16(), &answer.body)?;
        let name =
            |text: &str| encode::decode(text).ok_or_else(|| strange(what, "a key is not UTF-8"));
        let mut entries = Vec::with_capacity(page.contents.len() + page.common_prefixes.len());
        for content in page.contents {
            entries.push(Entry::Object {
                key: name(&content.key)?,
                size: content.size,
                etag: content.etag.trim_matches('"').to_owned(),
                modified: date::iso(&content.last_modified),
            });
        }
        for common in page.common_prefixes {
            entries.push(Entry::Prefix(name(&common.prefix)?));
        }
        entries.sort_by(|a, b| a.name().cmp(b.name()));
        self.entries = entries.into();
        match page.next_continuation_token {
            Some(token) if page.is_truncated => {
                if self.token.as_ref() == Some(&token) {
                    return Err(strange(what, "the pages of the listing do not end"));
                }
                self.token = Some(token);
            }
            _ => self.is_done = true,
        }
        Ok(())
    }
}

fn strange(what: &str, why: &str) -> Error {
    let code = "InvalidAnswer".to_owned();
    Error::Http { what: what.to_owned(), status: 200, code, why: why.to_owned() }
}

impl Bucket {
    /// Lists the objects whose keys begin with `prefix`, in order of their keys.
    pub fn list(
        &self,
        prefix: &str,
        options: ListOptions,
    ) -> impl Stream<Item = Result<Entry>> + Send + use<> {
        let listing = Listing {
            bucket: self.clone(),
            prefix: prefix.to_owned(),
            options,
            token: None,
            entries: VecDeque::new(),
            is_done: false,
        };
        stream::try_unfold(listing, |mut listing| async {
            let entry = listing.next().await?;
            Ok(entry.map(|entry| (entry, listing)))
        })
    }

    /// Makes the bucket.
    ///
    /// # Errors
    /// [`Error::Exists`], and as for every request.
    pub async fn create(&self) -> Result<()> {
        self.client().send(&Request::of_bucket(Method::PUT, self.name())).await.map(drop)
    }

    /// Deletes the bucket, which must be empty.
    ///
    /// # Errors
    /// [`Error::NotFound`], and as for every request.
    pub async fn remove(&self) -> Result<()> {
        self.client().send(&Request::of_bucket(Method::DELETE, self.name())).await.map(drop)
    }
}

impl Client {
    /// Lists the buckets of the caller.
    ///
    /// # Errors
    /// As for every request.
    pub async fn buckets(&self) -> Result<Vec<BucketEntry>> {
        let (mut buckets, mut token) = (Vec::new(), None::<String>);
        loop {
            let mut request = Request::of_path(Method::GET, "/");
            if let Some(token) = &token {
                request = request.query("continuation-token", token);
            }
            let answer = self.send(&request).await?;
            let page: BucketsPage = xml::read("the buckets", answer.status.as_u16(), &answer.body)?;
            buckets.extend(page.buckets.bucket.into_iter().map(|bucket| BucketEntry {
                name: bucket.name,
                created: date::iso(&bucket.creation_date),
            }));
            match page
                .continuation_token
                .filter(|next| !next.is_empty() && token.as_ref() != Some(next))
            {
                Some(next) => token = Some(next),
                None => return Ok(buckets),
            }
        }
    }
}
