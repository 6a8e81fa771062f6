//! Reading what a link leads to, without being a member.

use std::{ops::Range, path::PathBuf};

use bytes::Bytes;
use fula_seal::{
    BodyKey, SealError,
    body::{FOOTER_BYTES, Footer, Layout, RangeReader},
    share::{FOLDER, Link, LinkKind, Manifest, ShareId},
};

use super::{VaultGet, VaultGetOptions};
use crate::{
    client::{Bucket, Client},
    credentials::Credentials,
    error::{Error, Result},
    get::{Get, GetOptions, Span},
    send::Meter,
};

/// Bytes at the end of a body that are read at once: footer and trailer, if the trailer is short.
const TAIL: u64 = 64 << 10;
/// Longest list of the files of a folder in bytes.
pub(super) const MANIFEST_MAX: usize = 32 << 20;

/// The end of a body, and which version it is of.
pub(super) struct Tail {
    bucket: Bucket,
    key: String,
    etag: String,
    /// Length of the body.
    pub(super) size: u64,
    bytes: Bytes,
}

impl Tail {
    pub(super) async fn read(bucket: &Bucket, key: &str) -> Result<Self> {
        let options = GetOptions { range: Some(Span::Last(TAIL)), ..GetOptions::default() };
        let get = bucket.get(key, options).await?;
        let (etag, size) = (get.meta.version.etag.clone(), get.meta.size);
        let bytes = get.bytes(1 << 20).await?;
        Ok(Self { bucket: bucket.clone(), key: key.to_owned(), etag, size, bytes })
    }

    /// Returns the footer and the sealed trailer.
    pub(super) async fn trailer(&self) -> Result<(Footer, Bytes)> {
        let footer = self.bytes.last_chunk::<FOOTER_BYTES>();
        let footer = footer.ok_or(SealError::Truncated { what: "the footer of the file" })?;
        let footer = Footer::parse(footer)?;
        let range = footer.trailer_range(self.size)?;
        // A server may say that a body is shorter than what it sent of it.
        let begin = self.size.checked_sub(self.bytes.len() as u64);
        let begin = begin.ok_or(SealError::Truncated { what: "the length of the file" })?;
        if let Some(start) = range.start.checked_sub(begin) {
            let at = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX);
            return Ok((footer, self.bytes.slice(at(start)..at(range.end - begin))));
        }
        Ok((footer, self.get(range, None).await?.bytes(2 << 20).await?))
    }

    async fn get(&self, range: Range<u64>, meter: Option<Meter>) -> Result<Get> {
        let options = GetOptions {
            range: Some(Span::Between(range.start, range.end)),
            if_match: Some(self.etag.clone()),
            if_none_match: None,
            meter,
        };
        self.bucket.get(&self.key, options).await
    }

    pub(super) async fn content(
        self,
        reader: RangeReader,
        size: u64,
        modified: Option<u64>,
        meter: Option<Meter>,
    ) -> Result<VaultGet> {
        let range = reader.range();
        let sealed = reader.sealed_range();
        let body =
            if sealed.is_empty() { None } else { Some((self.get(sealed, meter).await?, reader)) };
        Ok(VaultGet { size, modified, etag: self.etag, range, ready: Bytes::new(), body })
    }
}

/// How the server of a link is reached.
#[derive(Clone, Debug, Default)]
pub struct LinkOptions {
    /// Allows plain HTTP to other machines.
    pub allow_http: bool,
    /// Certificates that are trusted in place of those of the system.
    pub ca_bundle: Option<PathBuf>,
}

/// What a link leads to. No key of the vault, and no account at the server, is needed to read it.
#[derive(Clone, Debug)]
pub struct Shared {
    bucket: Bucket,
    /// Prefix of the vault.
    prefix: String,
    id: ShareId,
    key: BodyKey,
    kind: LinkKind,
    /// Name of the file or of the folder; the path below the folder for a file in one.
    pub name: String,
    /// Time of the last change, in nanoseconds since 1970.
    pub modified: Option<u64>,
    /// Size in bytes, for a file in a folder.
    pub size: Option<u64>,
}

impl Shared {
    /// Reads a link. Nothing is sent.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no link, and for plain HTTP to another machine; [`Error::Sealed`] with
    /// [`SealError::Malformed`] for a link that was altered or cut off.
    pub fn parse(url: &str, options: &LinkOptions) -> Result<Self> {
        let wrong = || {
            Error::Invalid(
                "this is no link to a file of a vault: https://host/bucket/…#…".to_owned(),
            )
        };
        let (url, secret) = url.split_once('#').ok_or_else(wrong)?;
        let host = url.find("://").map(|at| at + 3).ok_or_else(wrong)?;
        let path = url[host..].find('/').map(|at| host + at).ok_or_else(wrong)?;
        let link = Link::parse(secret)?;
        let mut parts: Vec<&str> = url[path + 1..].split('/').collect();
        let id = parts.pop().and_then(ShareId::parse).ok_or_else(wrong)?;
        if parts.len() < 2 || parts.pop() != Some(FOLDER.trim_end_matches('/')) {
            return Err(wrong());
        }
        let client = Client::builder()
            .endpoint(&url[..path])
            .credentials(Credentials::Anonymous)
            .allow_http(options.allow_http)
            .ca_bundle(options.ca_bundle.clone())
            .build()?;
        let decoded = |part: &&str| decoded(part).ok_or_else(wrong);
        let bucket = client.bucket(&decoded(&parts[0])?)?;
        let prefix =
            parts[1..].iter().map(|part| Ok(decoded(part)? + "/")).collect::<Result<_>>()?;
        let Link { kind, name, modified, key } = link;
        Ok(Self { bucket, prefix, id, key, kind, name, modified, size: None })
    }

    /// Returns whether the link leads to a folder.
    pub fn is_folder(&self) -> bool {
        self.kind == LinkKind::Folder
    }

    /// Checks that the server lets everyone read what the link leads to.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Denied`] if it does not, and as for every request.
    pub async fn check(&self) -> Result<()> {
        let key = format!("{}{}", self.prefix, self.id.key());
        self.bucket.head(&key).await.map(drop)
    }

    /// Reads a file. Every byte is verified before it is handed out.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the link was taken back; [`Error::Denied`] if the server does not let everyone read
    /// it; [`Error::Sealed`] if the server shows something else; [`Error::Invalid`] for a folder.
    pub async fn get(&self, options: VaultGetOptions) -> Result<VaultGet> {
        if self.is_folder() {
            let text = "the link leads to a folder: copy it with --recursive".to_owned();
            return Err(Error::Invalid(text));
        }
        self.read(options).await
    }

    async fn read(&self, options: VaultGetOptions) -> Result<VaultGet> {
        let key = format!("{}{}", self.prefix, self.id.key());
        let tail = Tail::read(&self.bucket, &key).await?;
        let (footer, sealed) = tail.trailer().await?;
        let layout = Layout::open_shared(&self.key, &footer, &sealed, tail.size)?;
        let size = layout.size();
        let range = options.range.unwrap_or(0..size);
        let reader = RangeReader::shared(&self.key, &footer, &layout, range)?;
        tail.content(reader, size, self.modified, options.meter).await
    }

    /// Returns the files of a folder, in order of their paths.
    ///
    /// # Errors
    /// As for [`Self::get`]; [`Error::Invalid`] for a file.
    pub async fn files(&self) -> Result<Vec<Self>> {
        if !self.is_folder() {
            return Err(Error::Invalid("the link leads to one file, and to no folder".to_owned()));
        }
        let content = self.read(VaultGetOptions::default()).await?.bytes(MANIFEST_MAX).await?;
        let entries = Manifest::decode(content.to_vec())?.0.into_iter();
        let files = entries.map(|entry| {
            let name = String::from_utf8(entry.path).map_err(|_| {
                Error::Invalid("the path of a file in the folder is not UTF-8".to_owned())
            })?;
            Ok(Self {
                bucket: self.bucket.clone(),
                prefix: self.prefix.clone(),
                id: entry.id,
                key: entry.key,
                kind: LinkKind::File,
                name,
                modified: entry.modified,
                size: Some(entry.size),
            })
        });
        files.collect()
    }
}

/// Decodes `%XX` in a part of a path.
fn decoded(part: &str) -> Option<String> {
    let (mut out, mut bytes) = (Vec::new(), part.bytes());
    while let Some(byte) = bytes.next() {
        out.push(if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            u8::try_from(digit()? << 4 | digit()?).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_paths_are_decoded() {
        assert_eq!(decoded("a%20b%2Fc").as_deref(), Some("a b/c"));
        for wrong in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(decoded(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_no_link_is_refused() {
        let secret = "AAAA";
        for wrong in [
            "https://a/b/s/c".to_owned(),
            format!("https://a#{secret}"),
            format!("b/s/c#{secret}"),
            format!("https://a/b/s/{}#{secret}", "a".repeat(32)),
        ] {
            assert!(Shared::parse(&wrong, &LinkOptions::default()).is_err(), "{wrong}");
        }
    }

    /// Returns the end of a body with a trailer of 10 bytes, of which the server says that it has `size` bytes.
    fn tail(size: u64) -> Tail {
        let credentials = Credentials::key("id", "secret");
        let client = Client::builder().endpoint("http://127.0.0.1:1").credentials(credentials);
        let mut footer = [0; FOOTER_BYTES];
        footer[..4].copy_from_slice(&10_u32.to_be_bytes());
        footer[8] = fula_seal::SUITE;
        footer[FOOTER_BYTES - 8..].copy_from_slice(b"FULASEAL");
        Tail {
            bucket: client.build().unwrap().bucket("bucket").unwrap(),
            key: "s/key".to_owned(),
            etag: "etag".to_owned(),
            size,
            bytes: [&[7; 100][..], &[8; 10], &footer].concat().into(),
        }
    }

    #[tokio::test]
    async fn a_body_that_is_said_to_be_shorter_than_its_end_is_refused() {
        let (_, trailer) = tail(162).trailer().await.unwrap();
        assert_eq!(*trailer, [8; 10]);
        let (_, trailer) = tail(500).trailer().await.unwrap();
        assert_eq!(*trailer, [8; 10], "the rest of the body was not sent");
        for (size, what) in [
            // Footer and trailer fit, and more bytes than that were sent.
            (62, "the length of the file"),
            (161, "the length of the file"),
            (61, "the trailer of the file"),
            (0, "the trailer of the file"),
        ] {
            let refused = tail(size).trailer().await.unwrap_err();
            let truncated = matches!(&refused, Error::Sealed(SealError::Truncated { what: found }) if *found == what);
            assert!(truncated, "{size}: {refused}");
        }
    }
}
