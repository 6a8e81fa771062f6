//! A client of S3 gateways, made for Fula and good for others.
//!
//! 1. **A retried write counts once.** All attempts of a call carry one invocation id, by which a Fula gateway knows
//!    them (ADR 0006). An error says whether the write may have been carried out.
//! 2. **A read is whole, or an error.** A body that breaks off is continued from the same version, and the checksum
//!    of the whole is verified at its end.
//! 3. **Every write can have a condition:** puts, copies, renames, completed uploads and deletions.
//! 4. **Several keys change in one step,** or none of them, in a [`Batch`].
//! 5. **Memory is bounded.** Uploads share [`ClientBuilder::upload_memory`], a read holds one frame, a download
//!    into a file a few of them, and a file of a vault of up to 1 MiB is read at once.
//! 6. **A vault is sealed** before it is sent: see [`vault`].
//!
//! Start with [`Client`], which has the connections and the settings. [`Bucket`] has the operations on objects.
//! ADR 0052 has the reasons.
//!
//! # Contents
//!
//! | task | section |
//! |---|---|
//! | name the gateway and the key | [Connect](#connect) |
//! | write bytes, files and streams | [Write](#write) |
//! | read all, a range, or piece by piece | [Read](#read) |
//! | list keys and folders | [List](#list) |
//! | update without losing the update of somebody else | [Conditional writes](#conditional-writes) |
//! | change several keys at once | [Batches](#batches) |
//! | keep a cached object fresh | [Conditional reads](#conditional-reads) |
//! | send large files, show progress, resume | [Uploads](#uploads) |
//! | fetch into files | [Downloads](#downloads) |
//! | copy, rename, delete | [Copies, renames, deletions](#copies-renames-deletions) |
//! | decide what to do after a failure | [Errors and retries](#errors-and-retries) |
//! | share with nobody but your devices | [`vault`] |
//!
//! # Connect
//!
//! [`Settings::read`] reads the variables and files of AWS tools, so a program runs wherever the AWS CLI does. The
//! closure looks variables up:
//!
//! ```
//! # mod gateway { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/gateway.rs")); }
//! # #[tokio::main]
//! # async fn main() -> fula_client::Result<()> {
//! # let (url, credentials) = gateway::serve().await;
//! # let fula_client::Credentials::Key { id, secret, .. } = credentials else { unreachable!() };
//! # let variable = |name: &str| match name {
//! #     "AWS_ENDPOINT_URL" => Some(url.clone()),
//! #     "AWS_ACCESS_KEY_ID" => Some(id.clone()),
//! #     "AWS_SECRET_ACCESS_KEY" => Some(secret.to_string()),
//! #     _ => None,
//! # };
//! use fula_client::{Client, Settings};
//!
//! // In a program: `Settings::read(None, |name| std::env::var(name).ok())`.
//! let settings = Settings::read(None, variable)?;
//! let client = Client::builder()
//!     .endpoint(settings.endpoint.expect("AWS_ENDPOINT_URL is set"))
//!     .credentials(settings.credentials)
//!     .ca_bundle(settings.ca_bundle)
//!     .build()?;
//! assert_eq!(client.buckets().await?[0].name, "my-bucket");
//! # Ok(())
//! # }
//! ```
//!
//! A program can also name everything itself: [`ClientBuilder::endpoint`] and [`Credentials::key`], or
//! [`Credentials::bearer`] for the token of a wallet or a JWT. Plain HTTP goes to this machine alone unless
//! [`ClientBuilder::allow_http`] allows more, and a bearer token never goes further. Clones of a client share its
//! connections, so make one for each gateway.
//!
//! # Write
//!
//! [`Bucket::put`] takes bytes, text, files, streams and readers: everything that is a [`Source`]. An object becomes
//! visible as a whole, or not at all.
//!
//! ```
//! # mod gateway { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/gateway.rs")); }
//! # #[tokio::main]
//! # async fn main() -> fula_client::Result<()> {
//! # let bucket = gateway::bucket().await;
//! use fula_client::{PutOptions, Source};
//!
//! bucket.put("greeting", "hello", PutOptions::default()).await?;
//!
//! let options = PutOptions { content_type: Some("text/csv".into()), ..PutOptions::default() };
//! let lines = tokio::io::BufReader::new(std::io::Cursor::new("a,b\n1,2\n"));
//! let put = bucket.put("table.csv", Source::reader(lines, None), options).await?;
//! assert_eq!(put.size, 8);
//! # Ok(())
//! # }
//! ```
//!
//! # Read
//!
//! [`Bucket::get`] returns once the answer has begun. Read the body whole, up to a length that you choose, or piece by
//! piece:
//!
//! ```
//! # mod gateway { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/gateway.rs")); }
//! # #[tokio::main]
//! # async fn main() -> fula_client::Result<()> {
//! # let bucket = gateway::bucket().await;
//! use fula_client::{GetOptions, Span};
//!
//! bucket.put("poem", "roses are red", Default::default()).await?;
//!
//! let whole = bucket.get("poem", GetOptions::default()).await?.bytes(1 << 20).await?;
//! assert_eq!(whole, "roses are red");
//!
//! let options = GetOptions { range: Some(Span::Between(0, 5)), ..GetOptions::default() };
//! assert_eq!(bucket.get("poem", options).await?.bytes(5).await?, "roses");
//!
//! let mut get = bucket.get("poem", GetOptions::default()).await?;
//! let mut length = 0;
//! while let Some(chunk) = get.chunk().await? {
//!     length += chunk.len() as u64;
//! }
//! assert_eq!(length, get.meta.size);
//!
//! assert_eq!(bucket.head("poem").await?.size, 13);
//! # Ok(())
//! # }
//! ```
//!
//! [`Get::into_stream`] has the same bytes as a [`futures::Stream`].
//!
//! # List
//!
//! [`Bucket::list`] is a stream of entries in the order of their keys. Pages are requested while it is read. With a
//! delimiter, what lies below a folder is one entry:
//!
//! ```
//! # mod gateway { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/gateway.rs")); }
//! # #[tokio::main]
//! # async fn main() -> fula_client::Result<()> {
//! # let bucket = gateway::bucket().await;
//! use fula_client::{Entry, ListOptions};
//! use futures::TryStreamExt;
//!
//! for key in ["photos/2025/a.jpg", "photos/2026/b.jpg", "photos/cover.jpg"] {
//!     bucket.put(key, "…", Default::default()).await?;
//! }
//!
//! let all: Vec<Entry> = bucket.list("photos/", ListOptions::default()).try_collect().await?;
//! assert_eq!(all.len(), 3);
//!
//! let options = ListOptions { delimiter: Some("/".into()), ..ListOptions::default() };
//! let folders: Vec<Entry> = bucket.list("photos/", options).try_collect().await?;
//! let names: Vec<&str> = folders.iter().map(Entry::name).collect();
//! assert_eq!(names, ["photos/2025/", "photos/2026/", "photos/cover.jpg"]);
//! # Ok(())
//! # }
//! ```
//!
//! # Conditional writes
//!
//! Read an object, decide, and write with the entity tag that was read. If somebody else was faster, the write fails with
//! [`Error::Changed`], and the loop begins again. `if_absent` makes the first one:
//!
//! ```
//! # mod gateway { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/gateway.rs")); }
//! # #[tokio::main]
//! # async fn main() -> fula_client::Result<()> {
//! # let bucket = gateway::bucket().await;
//! use fula_client::{Bucket, Error, GetOptions, PutOptions, Result};
//!
//! async fn increment(bucket: &Bucket) -> Result<u64> {
//!     loop {
//!         let (count, condition) = match bucket.get("counter", GetOptions::default()).await {
//!             Ok(get) => {
//!                 let etag = get.meta.version.etag.clone();
//!                 let text = get.bytes(20).await?;
//!                 let count: u64 = std::str::from_utf8(&text).unwrap_or_default().parse().unwrap_or(0);
//!                 (count, PutOptions { if_match: Some(etag), ..PutOptions::default() })
//!             }
//!             Err(Error::NotFound { .. }) => (0, PutOptions { if_absent: true, ..PutOptions::default() }),
//!             Err(error) => return Err(error),
//!         };
//!         match bucket.put("counter", (count + 1).to_string(), condition).await {
//!             Ok(_) => return Ok(count + 1),
//!             Err(Error::Changed { .. } | Error::Exists { .. }) => {} // another writer was faster
//!             Err(error) => return Err(error),
//!         }
//!     }
//! }
//!
//! futures::future::try_join_all((0..10).map(|_| increment(&bucket))).await?;
//! assert_eq!(increment(&bucket).await?, 11);
//! # Ok(())
//! # }
//! ```
//!
//! # Batches
//!
//! A [`Batch`] is one commit: a reader sees all of its changes or none. Conditions are checked against the state before
//! it. Other servers answer [`Error::Unsupported`].
//!
//! ```
//! # mod gateway { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/gateway.rs")); }
//! # #[tokio::main]
//! # async fn main() -> fula_client::Result<()> {
//! # let bucket = gateway::bucket().await;
//! use fula_client::{BatchPut, Error};
//!
//! let text = |body: &'static str| BatchPut { body: body.into(), ..BatchPut::default() };
//! let fresh = BatchPut { if_absent: true, ..text("v1") };
//!
//! bucket.batch().put("data/1", text("…")).put("index", fresh.clone()).commit().await?;
//!
//! // The index is there now, so nothing of this is carried out.
//! let refused = bucket.batch().put("data/2", text("…")).put("index", fresh).commit().await;
//! assert!(matches!(refused, Err(Error::Exists { .. })));
//! assert!(matches!(bucket.head("data/2").await, Err(Error::NotFound { .. })));
//! # Ok(())
//! # }
//! ```
//!
//! # Conditional reads
//!
//! With `if_none_match`, an object that did not change sends no body:
//!
//! ```
//! # mod gateway { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/gateway.rs")); }
//! # #[tokio::main]
//! # async fn main() -> fula_client::Result<()> {
//! # let bucket = gateway::bucket().await;
//! use fula_client::{Error, GetOptions};
//!
//! let etag = bucket.put("config", "a = 1", Default::default()).await?.version.etag;
//!
//! let options = GetOptions { if_none_match: Some(etag), ..GetOptions::default() };
//! match bucket.get("config", options).await {
//!     Err(Error::NotModified { .. }) => { /* the cached bytes are current */ }
//!     Ok(get) => panic!("read the new ones: {} bytes", get.meta.size),
//!     Err(error) => return Err(error),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Uploads
//!
//! Sources of more than [`PART_BYTES`] are sent in parts, several at a time, and the object appears when the last one has
//! arrived. A [`Meter`] counts the bytes for a progress bar. With a `journal`, a process that comes later sends only the
//! parts that are missing:
//!
//! ```
//! # mod gateway { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/gateway.rs")); }
//! # #[tokio::main]
//! # async fn main() -> fula_client::Result<()> {
//! # let bucket = gateway::bucket().await;
//! # let folder = tempfile::tempdir().unwrap();
//! # let (path, journal) = (folder.path().join("video"), folder.path().join("video.upload"));
//! # std::fs::write(&path, vec![7; 12 << 20]).unwrap();
//! use fula_client::{Meter, PutOptions, Source};
//!
//! let meter = Meter::default();
//! let options = PutOptions {
//!     meter: Some(meter.clone()),
//!     journal: Some(journal),
//!     part_bytes: Some(5 << 20),
//!     ..PutOptions::default()
//! };
//! let put = bucket.put("video", Source::File(path), options).await?;
//! assert_eq!(meter.bytes(), put.size);
//! # Ok(())
//! # }
//! ```
//!
//! [`Bucket::upload`] does the same in the background: it returns a [`Transfer`] that can be watched and canceled.
//!
//! # Downloads
//!
//! [`Bucket::download`] writes a file that appears as a whole, verified and on stable storage. What arrived before an
//! interruption is kept for the next call:
//!
//! ```
//! # mod gateway { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/gateway.rs")); }
//! # #[tokio::main]
//! # async fn main() -> fula_client::Result<()> {
//! # let bucket = gateway::bucket().await;
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("report.txt");
//! bucket.put("report", "all is well", Default::default()).await?;
//!
//! let downloaded = bucket.download("report", &path, Default::default()).await?;
//! assert_eq!(downloaded.meta.size, 11);
//! assert_eq!(std::fs::read_to_string(&path).unwrap(), "all is well");
//! # Ok(())
//! # }
//! ```
//!
//! # Copies, renames, deletions
//!
//! No byte of a copy passes the client. A rename is one step, which Fula offers in every bucket:
//!
//! ```
//! # mod gateway { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/gateway.rs")); }
//! # #[tokio::main]
//! # async fn main() -> fula_client::Result<()> {
//! # let bucket = gateway::bucket().await;
//! bucket.put("draft", "text", Default::default()).await?;
//!
//! bucket.copy(&bucket, "draft", "backup", Default::default()).await?;
//! bucket.rename("draft", "final", Default::default()).await?;
//! bucket.delete("backup", Default::default()).await?;
//!
//! let failed = bucket.delete_many(&["final".to_owned(), "never-there".to_owned()]).await?;
//! assert!(failed.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! # Errors and retries
//!
//! An error says what to do next. [`RetryPolicy`] says how often a call is tried before it fails:
//!
//! | error | what to do |
//! |---|---|
//! | [`Error::NotFound`], [`Error::Exists`], [`Error::Changed`] | decide again: the state is another one than you thought |
//! | [`Error::Denied`], [`Error::Quota`], [`Error::Invalid`] | change the request, the key, or the limits |
//! | [`Error::Unavailable`] | try later; `outcome` says whether a write may have been carried out |
//! | [`Error::Damaged`], [`Error::Sealed`] | use nothing of what was read, and find out why |
//! | [`Error::Unsupported`] | take another way: this server has no such operation |
//!
//! ```
//! # mod gateway { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/gateway.rs")); }
//! # #[tokio::main]
//! # async fn main() -> fula_client::Result<()> {
//! use fula_client::{Client, Error, Outcome, RetryPolicy};
//!
//! # let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
//! # let url = format!("http://{}", free.local_addr().unwrap());
//! # drop(free);
//! let client = Client::builder()
//!     .endpoint(url) // nothing listens there
//!     .retry(RetryPolicy { attempts: 1, ..RetryPolicy::default() })
//!     .build()?;
//! match client.bucket("my-bucket")?.put("key", "body", Default::default()).await {
//!     Err(Error::Unavailable { outcome: Outcome::None, .. }) => { /* it can be sent again */ }
//!     Err(Error::Unavailable { outcome: Outcome::Unknown, .. }) => { /* read before you send it again */ }
//!     other => panic!("{other:?}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Invariants
//! - No part of an object is visible before all of it is.
//! - Bytes in memory are bounded by the memory for uploads, and a frame of each read.
//! - Plain HTTP goes to this machine alone, unless it is allowed explicitly. Bearer tokens never go further.

mod batch;
mod checksum;
mod client;
mod connect;
mod copy;
mod credentials;
mod date;
mod download;
mod encode;
mod endpoint;
mod error;
mod get;
mod ingest;
mod items;
mod journal;
mod list;
mod many;
mod meta;
#[cfg(feature = "object_store")]
mod object_store;
mod put;
mod remove;
mod request;
mod retry;
mod send;
pub mod sign;
mod snapshot;
mod source;
mod transfer;
mod upload;
pub mod vault;
mod xml;

pub use self::{
    batch::{BODY_MAX, Batch, BatchCopy, BatchPut, CHANGES_MAX, Committed, Independent},
    checksum::Crc,
    client::{Bucket, Client, ClientBuilder},
    copy::CopyOptions,
    credentials::{Credentials, Settings},
    download::{DownloadOptions, Downloaded, MTIME, mtime_of, mtime_text},
    encode::path as encode_path,
    endpoint::Endpoint,
    error::{Error, Outcome, Result},
    get::{Get, GetOptions, Span},
    ingest::StorageNodes,
    items::{Listed, Told},
    list::{BucketEntry, Entry, ListOptions},
    many::{FilePut, SMALL_MAX, TOGETHER_MAX},
    meta::{Meta, Version},
    put::{PART_BYTES, Put, PutOptions},
    remove::{DELETE_MAX, DeleteFailure, DeleteOptions},
    request::{Answer, Request},
    retry::RetryPolicy,
    send::Meter,
    source::Source,
    transfer::Transfer,
};
