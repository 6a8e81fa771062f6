//! What a command did with each item, for people and for programs.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
};

use fula_client::Error;
use serde_json::json;

use super::{SOME_FAILED, place::printable, status_of};
use crate::output::{note, say};

/// What was done with an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::commands) enum Action {
    Upload,
    Download,
    Copy,
    Move,
    Delete,
    Reseal,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
            Self::Copy => "copy",
            Self::Move => "move",
            Self::Delete => "delete",
            Self::Reseal => "reseal",
        }
    }
}

/// Prints a line for each item, and counts.
#[derive(Debug)]
pub(in crate::commands) struct Report {
    json: bool,
    dry_run: bool,
    done: AtomicU64,
    bytes: AtomicU64,
    same: AtomicU64,
    failed: AtomicU64,
    /// Exit status of the only failure, or of the worst one.
    status: AtomicU64,
}

impl Report {
    pub(in crate::commands) fn new(json: bool, dry_run: bool) -> Self {
        Self {
            json,
            dry_run,
            done: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            same: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            status: AtomicU64::new(0),
        }
    }

    /// Notes an item that is done, or would be.
    pub(in crate::commands) fn done(
        &self,
        action: Action,
        from: &str,
        to: Option<&str>,
        size: u64,
    ) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(size, Ordering::Relaxed);
        let name = action.name();
        if self.json {
            let status = if self.dry_run { "planned" } else { "done" };
            say!(
                "{}",
                json!({"action": name, "from": from, "to": to, "size": size, "status": status})
            );
            return;
        }
        let plan = if self.dry_run { "(dry run) " } else { "" };
        match to {
            Some(to) => say!("{plan}{name}: {} to {}", printable(from), printable(to)),
            None => say!("{plan}{name}: {}", printable(from)),
        }
    }

    /// Notes an item that is the same on both sides.
    pub(in crate::commands) fn same(&self) {
        self.same.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes an item that is left out.
    pub(in crate::commands) fn skipped(&self, what: &str, why: &str) {
        if self.json {
            say!("{}", json!({"skipped": what, "why": why}));
        } else {
            note!("fula: left out: {}: {why}", printable(what));
        }
    }

    /// Warns of something that did not fail the item.
    pub(in crate::commands) fn warned(&self, what: &str, error: &Error) {
        if self.json {
            say!("{}", json!({"warning": what, "why": error.to_string()}));
        } else {
            note!("fula: warning: {what}: {}", printable(&error.to_string()));
        }
    }

    /// Notes an item that failed.
    pub(in crate::commands) fn failed(&self, what: &str, error: &Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.status.fetch_max(u64::from(status_of(error)), Ordering::Relaxed);
        let text = error.to_string();
        if self.json {
            say!("{}", json!({"failed": what, "error": text}));
        }
        let (what, text) = (printable(what), printable(&text));
        if text.starts_with(&what) {
            note!("fula: failed: {text}");
        } else {
            note!("fula: failed: {what}: {text}");
        }
    }

    /// Returns whether anything failed.
    pub(in crate::commands) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed) > 0
    }

    /// Prints the numbers of a command on many items, and returns the exit status.
    pub(in crate::commands) fn end(&self, is_single: bool) -> ExitCode {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (done, same, failed) = (count(&self.done), count(&self.same), count(&self.failed));
        if self.json {
            let bytes = count(&self.bytes);
            say!(
                "{}",
                json!({"done": done, "bytes": bytes, "unchanged": same, "failures": failed})
            );
        } else if failed > 0 && !is_single {
            note!("fula: {failed} failed, {done} done, {same} unchanged");
        }
        match (failed, is_single) {
            (0, _) => ExitCode::SUCCESS,
            (_, true) => ExitCode::from(u8::try_from(count(&self.status)).unwrap_or(SOME_FAILED)),
            (_, false) => ExitCode::from(SOME_FAILED),
        }
    }
}
