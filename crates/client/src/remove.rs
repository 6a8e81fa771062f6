//! Deleting objects, one or many at a time.

use std::fmt::Write;

use http::Method;
use serde::Deserialize;

use crate::{
    checksum,
    client::Bucket,
    error::{Error, Result},
    meta::{Version, version},
    request::Request,
    xml,
};

/// Largest number of keys of one request.
pub const DELETE_MAX: usize = 1000;

/// Options of a deletion.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Entity tag that the object must have.
    pub if_match: Option<String>,
}

/// A key that could not be deleted.
#[derive(Debug)]
pub struct DeleteFailure {
    /// Key.
    pub key: String,
    /// Why not.
    pub error: Error,
}

#[derive(Deserialize)]
struct Deleted {
    #[serde(rename = "Error", default)]
    errors: Vec<Failed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failed {
    key: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Bucket {
    /// Deletes an object. To delete one that does not exist is no error, unless a version is named.
    ///
    /// # Errors
    /// [`Error::Changed`] if the object is another version, and as for every request.
    pub async fn delete(&self, key: &str, options: DeleteOptions) -> Result<Version> {
        let request = Request::of_object(Method::DELETE, self.name(), key)?
            .maybe("if-match", options.if_match.as_ref().map(|etag| format!("\"{etag}\"")));
        match self.client().send(&request).await {
            Ok(answer) => Ok(version(&answer.headers)),
            Err(Error::NotFound { what }) if options.if_match.is_some() => {
                Err(Error::Changed { what, current: None })
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes up to [`DELETE_MAX`] objects in one request. Returns those that could not be deleted.
    ///
    /// # Errors
    /// [`Error::Invalid`] for too many keys, and as for every request.
    pub async fn delete_many(&self, keys: &[String]) -> Result<Vec<DeleteFailure>> {
        let objects: Vec<_> = keys.iter().map(|key| (key.as_str(), None)).collect();
        self.delete_listed(&objects).await
    }

    /// Deletes up to [`DELETE_MAX`] objects in one request. One with an entity tag is deleted in this version only,
    /// by servers that compare it, and is [`Error::Changed`] otherwise. Returns those that could not be deleted.
    ///
    /// # Errors
    /// As for [`Self::delete_many`].
    pub(crate) async fn delete_listed(
        &self,
        objects: &[(&str, Option<&str>)],
    ) -> Result<Vec<DeleteFailure>> {
        if objects.len() > DELETE_MAX {
            return Err(Error::Invalid(format!(
                "{} keys are more than {DELETE_MAX}",
                objects.len()
            )));
        }
        // XML cannot carry every character of a key. Such keys are deleted one by one.
        let (mut body, mut alone) = (String::from("<Delete><Quiet>true</Quiet>"), Vec::new());
        let mut is_empty = true;
        for (key, etag) in objects {
            let tag = etag.map(|etag| xml::text(&format!("\"{etag}\""))).unwrap_or_default();
            match xml::text(key) {
                Some(text) if tag.is_some() == etag.is_some() => {
                    let tag = tag.map(|tag| format!("<ETag>{tag}</ETag>")).unwrap_or_default();
                    // Writing to a string cannot fail.
                    let _written = write!(body, "<Object><Key>{text}</Key>{tag}</Object>");
                    is_empty = false;
                }
                Some(_) | None => alone.push((*key, *etag)),
            }
        }
        body.push_str("</Delete>");
        let mut failures = Vec::new();
        if !is_empty {
            failures.extend(self.delete_in_xml(body).await?);
        }
        for (key, etag) in alone {
            let if_match = etag.map(str::to_owned);
            if let Err(error) = self.delete(key, DeleteOptions { if_match }).await {
                failures.push(DeleteFailure { key: key.to_owned(), error });
            }
        }
        Ok(failures)
    }

    async fn delete_in_xml(&self, body: String) -> Result<Vec<DeleteFailure>> {
        let crc = checksum::text(checksum::of(body.as_bytes()));
        let request = Request::of_bucket(Method::POST, self.name())
            .query("delete", "")
            .header("content-type", "application/xml")
            .header(checksum::HEADER, crc)
            .body(body);
        let answer = self.client().send(&request).await?;
        let deleted: Deleted = xml::read(self.name(), answer.status.as_u16(), &answer.body)?;
        Ok(deleted.errors.into_iter().map(|failed| self.failure(failed)).collect())
    }

    fn failure(&self, failed: Failed) -> DeleteFailure {
        let what = format!("{}/{}", self.name(), failed.key);
        let status = match failed.code.as_str() {
            "AccessDenied" => 403,
            "NoSuchKey" | "NoSuchVersion" => 404,
            "PreconditionFailed" | "ConditionalRequestConflict" => 412,
            _ => 500,
        };
        let error = Error::of_answer(&what, status, &failed.code, &failed.message, false);
        DeleteFailure { key: failed.key, error }
    }
}
