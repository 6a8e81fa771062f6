//! What clients asked for and were told, one line of JSON an event.

use std::{
    io::{self, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Write an object: by put, copy or completed upload.
    Put,
    /// Delete one.
    Delete,
    /// Read one, or its head.
    Get,
    /// List the bucket.
    List,
}

/// On what condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// `If-None-Match: *`.
    IfAbsent,
    /// `If-Match` with this entity tag.
    IfMatch(String),
}

/// What is known of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// It was carried out.
    Done,
    /// It was refused for its condition: 412, or 404 for a condition on nothing.
    Refused,
    /// Certainly nothing was changed.
    None,
    /// Nobody knows.
    Unknown,
}

/// One request, from its first attempt to the last answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Who asked.
    pub client: usize,
    /// What for.
    pub op: Op,
    /// Which key; for a listing, the prefix of what it lists.
    pub key: String,
    /// When the first attempt began, on the clock of the test.
    pub start_ns: u64,
    /// When the last answer came.
    pub end_ns: u64,
    /// HTTP status, or 0.
    pub status: u16,
    /// Entity tag that was written, or found.
    pub etag: Option<String>,
    /// Bucket version that the answer named.
    pub version: Option<u64>,
    /// How it ended.
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
/// Of the file.
pub fn save(events: &[Event], path: &Path) -> io::Result<()> {
    let mut out = io::BufWriter::new(std::fs::File::create(path)?);
    for event in events {
        serde_json::to_writer(&mut out, event)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Reads what [`save`] wrote.
///
/// # Errors
/// Of the file, or for a line that is no event.
pub fn load(path: &Path) -> io::Result<Vec<Event>> {
    let text = std::fs::read_to_string(path)?;
    text.lines().map(|line| serde_json::from_str(line).map_err(io::Error::other)).collect()
}
