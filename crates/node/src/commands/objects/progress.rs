//! Progress on standard error: one line that is redrawn on a terminal, a line every ten seconds elsewhere.

use std::{
    io::{IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fula_client::Meter;

use super::place::human;

/// Time between two drawings on a terminal.
const REDRAW: Duration = Duration::from_millis(200);

/// Time between two lines elsewhere.
const EVERY: Duration = Duration::from_secs(10);

/// How far a command is.
#[derive(Debug, Default)]
pub(in crate::commands) struct Progress {
    /// Bytes that were transferred.
    pub(in crate::commands) moved: Meter,
    bytes: AtomicU64,
    files: AtomicU64,
    done: AtomicU64,
    is_known: std::sync::atomic::AtomicBool,
}

impl Progress {
    /// Adds a file that will be transferred.
    pub(in crate::commands) fn expect(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that everything that will be transferred is known.
    pub(in crate::commands) fn all_known(&self) {
        self.is_known.store(true, Ordering::Relaxed);
    }

    /// Counts a file that is done.
    pub(in crate::commands) fn done(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    fn line(&self, elapsed: Duration) -> String {
        let (moved, all) = (self.moved.bytes(), self.bytes.load(Ordering::Relaxed));
        let (done, files) = (self.done.load(Ordering::Relaxed), self.files.load(Ordering::Relaxed));
        let rate = u64::try_from(u128::from(moved) * 1000 / elapsed.as_millis().max(1))
            .unwrap_or(u64::MAX);
        let more = if self.is_known.load(Ordering::Relaxed) { "" } else { "+" };
        let mut line = format!(
            "{done}/{files}{more} files, {}/{}{more}, {}/s",
            human(moved),
            human(all.max(moved)),
            human(rate)
        );
        if more.is_empty() && rate > 0 && all > moved {
            line.extend([", ", &(all - moved).div_ceil(rate).to_string(), " s left"]);
        }
        line
    }
}

/// Shows progress until it is dropped.
pub(in crate::commands) struct Shown(Option<(tokio::task::JoinHandle<()>, bool)>);

impl Shown {
    /// Begins to show `progress`, unless `is_off`.
    pub(in crate::commands) fn begin(progress: &Arc<Progress>, is_off: bool) -> Self {
        if is_off {
            return Self(None);
        }
        let (progress, is_terminal) = (Arc::clone(progress), std::io::stderr().is_terminal());
        let began = Instant::now();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(if is_terminal { REDRAW } else { EVERY }).await;
                let line = progress.line(began.elapsed());
                let (before, after) = if is_terminal { ("\r\u{1b}[K", "") } else { ("", "\n") };
                // Where standard error is gone, nobody looks at progress.
                let _gone = write!(std::io::stderr().lock(), "{before}{line}{after}");
            }
        });
        Self(Some((task, is_terminal)))
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some((task, is_terminal)) = self.0.take() {
            task.abort();
            if is_terminal {
                let _gone = write!(std::io::stderr().lock(), "\r\u{1b}[K");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_long() {
        let progress = Progress::default();
        progress.expect(4 << 20);
        progress.expect(0);
        progress.done();
        assert_eq!(progress.line(Duration::from_secs(1)), "1/2+ files, 0 B/4.0 MiB+, 0 B/s");
        progress.all_known();
        assert_eq!(progress.line(Duration::from_secs(1)), "1/2 files, 0 B/4.0 MiB, 0 B/s");
    }
}
