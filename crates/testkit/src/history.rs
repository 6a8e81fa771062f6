//! The requests of clients and their answers, as one line of JSON for each event.

use std::{
    io::{self, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

/// The operation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Write an object by put, copy or completed upload.
    Put,
    /// Delete an object.
    Delete,
    /// Read an object, or its metadata.
    Get,
    /// List the bucket.
    List,
}

/// The condition of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// `If-None-Match: *`.
    IfAbsent,
    /// `If-Match` with this entity tag.
    IfMatch(String),
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// It was carried out.
    Done,
    /// It was refused for its condition: with 412, or with 404 for a condition without an object.
    Refused,
    /// It certainly changed nothing.
    None,
    /// It is unknown.
    Unknown,
}

/// One request, from its first attempt to the last answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Number of the client.
    pub client: usize,
    /// The operation.
    pub op: Op,
    /// The key; for a listing, the prefix.
    pub key: String,
    /// Time at which the first attempt began, on the clock of the test, in nanoseconds.
    pub start_ns: u64,
    /// Time at which the last answer came.
    pub end_ns: u64,
    /// HTTP status; 0 without an answer.
    pub status: u16,
    /// Entity tag that was written or found.
    pub etag: Option<String>,
    /// Bucket version in the answer.
    pub version: Option<u64>,
    /// The outcome.
    pub outcome: Ending,
    /// The condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<Condition>,
    /// Keys and entity tags of a listing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listing: Vec<(String, String)>,
}

/// Writes events to a file.
///
/// # Errors
/// The error of the file.
pub fn save(events: &[Event], path: &Path) -> io::Result<()> {
    let mut out = io::BufWriter::new(std::fs::File::create(path)?);
    for event in events {
        serde_json::to_writer(&mut out, event)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Reads a file that [`save`] wrote.
///
/// # Errors
/// The error of the file, or an error for a line that is not an event.
pub fn load(path: &Path) -> io::Result<Vec<Event>> {
    let text = std::fs::read_to_string(path)?;
    text.lines().map(|line| serde_json::from_str(line).map_err(io::Error::other)).collect()
}
