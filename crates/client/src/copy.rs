//! Copies and renames within the server.

use std::collections::BTreeMap;

use http::Method;
use serde::Deserialize;

use crate::{
    client::Bucket,
    encode,
    error::{Error, Result},
    meta::{Version, version},
    request::Request,
    xml,
};

/// Options of a copy or a rename.
#[derive(Clone, Debug, Default)]
pub struct CopyOptions {
    /// Metadata of the copy; that of the source by default.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Media type of the copy, together with `metadata`.
    pub content_type: Option<String>,
    /// Entity tag that the source must have.
    pub if_source_match: Option<String>,
    /// Entity tag that the present object at the target must have.
    pub if_match: Option<String>,
    /// Whether there must be no object at the target.
    pub if_absent: bool,
}

#[derive(Deserialize)]
struct Copied {
    #[serde(rename = "ETag", default)]
    etag: String,
}

fn quoted(etag: Option<&String>) -> Option<String> {
    etag.map(|etag| format!("\"{etag}\""))
}

impl Bucket {
    /// Copies the object `from` of the bucket `source` to `to` in this bucket. No byte passes the client.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the source; [`Error::Exists`] and [`Error::Changed`] for conditions.
    pub async fn copy(
        &self,
        source: &Bucket,
        from: &str,
        to: &str,
        options: CopyOptions,
    ) -> Result<Version> {
        let place = format!("/{}/{}", encode::path(source.name()), encode::path(from));
        let mut request = Request::of_object(Method::PUT, self.name(), to)?
            .header("x-amz-copy-source", place)
            .maybe("x-amz-copy-source-if-match", quoted(options.if_source_match.as_ref()))
            .maybe("if-match", quoted(options.if_match.as_ref()))
            .maybe("if-none-match", options.if_absent.then_some("*"));
        if let Some(metadata) = &options.metadata {
            request = request.header("x-amz-metadata-directive", "REPLACE");
            for (name, value) in metadata {
                request =
                    request.header(&format!("x-amz-meta-{}", name.to_ascii_lowercase()), value);
            }
            request = request.maybe("content-type", options.content_type.as_deref());
        }
        let answer = match self.client().send(&request).await {
            Err(Error::NotFound { .. }) => {
                return Err(Error::NotFound { what: format!("{}/{from}", source.name()) });
            }
            answer => answer?,
        };
        let copied: Copied = xml::read(to, answer.status.as_u16(), &answer.body)?;
        let etag = copied.etag.trim_matches('"').to_owned();
        Ok(Version { etag, ..version(&answer.headers) })
    }

    /// Renames an object in one step (`RenameObject`), which Fula offers in every bucket.
    ///
    /// # Errors
    /// [`Error::Unsupported`] from servers without the operation: copy, then delete. [`Error::NotFound`] for
    /// the source; [`Error::Exists`] and [`Error::Changed`] for conditions.
    pub async fn rename(&self, from: &str, to: &str, options: CopyOptions) -> Result<Version> {
        let request = Request::of_object(Method::PUT, self.name(), to)?
            .query("renameObject", "")
            .header("x-amz-rename-source", format!("/{}/{}", self.name(), encode::path(from)))
            .maybe("x-amz-rename-source-if-match", quoted(options.if_source_match.as_ref()))
            .maybe("if-match", quoted(options.if_match.as_ref()))
            .maybe("if-none-match", options.if_absent.then_some("*"));
        match self.client().send(&request).await {
            Err(Error::NotFound { .. }) => {
                Err(Error::NotFound { what: format!("{}/{from}", self.name()) })
            }
            answer => Ok(version(&answer?.headers)),
        }
    }
}
