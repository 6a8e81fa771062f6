//! How far a request has come that takes long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::task::JoinHandle;

/// Between two reports, and before the first.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// What the work says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    doing: Mutex<String>,
    /// Blocks read so far.
    blocks: Arc<AtomicU64>,
}

impl Progress {
    /// Says what is done now.
    pub(super) fn say(&self, doing: String) {
        *self.0.doing.lock() = doing;
    }

    /// Returns what counts the blocks that were read.
    pub(super) fn blocks(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0.blocks)
    }

    fn text(&self) -> String {
        let doing = self.0.doing.lock().clone();
        match self.0.blocks.load(Ordering::Relaxed) {
            0 => doing,
            blocks => format!("{doing}: {blocks} blocks read so far"),
        }
    }

    /// Begins `work`, and watches how far it comes.
    pub(crate) fn watch<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Watched<T> {
        // A task of its own: parts of it keep their thread while they read the disk.
        Watched { work: tokio::spawn(work), progress: self.clone(), said: String::new() }
    }
}

/// Work that is watched; it is given up when this is dropped.
#[derive(Debug)]
pub(crate) struct Watched<T> {
    work: JoinHandle<T>,
    progress: Progress,
    said: String,
}

/// What became of watched work since the last look.
#[derive(Debug)]
pub(crate) enum Step<T> {
    /// It goes on, and says so.
    Report(String),
    /// It is done.
    Done(T),
}

impl<T> Watched<T> {
    /// Returns a report after a few seconds, or what the work came to.
    pub(crate) async fn next(&mut self) -> Step<T> {
        loop {
            match tokio::time::timeout(REPORT_EVERY, &mut self.work).await {
                Ok(Ok(done)) => return Step::Done(done),
                Ok(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
                Err(_) => {}
            }
            let text = self.progress.text();
            if !text.is_empty() && text != self.said {
                self.said.clone_from(&text);
                return Step::Report(text);
            }
        }
    }
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        self.work.abort();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_takes_long_is_reported_and_only_now_and_then() {
        let reports = async |millis: u64| {
            let progress = Progress::default();
            let of_work = progress.clone();
            let mut work = progress.watch(async move {
                for n in 0..10 {
                    of_work.say(format!("step {n}"));
                    sleep(Duration::from_millis(millis / 10)).await;
                }
            });
            let mut reports = Vec::new();
            while let Step::Report(text) = work.next().await {
                reports.push(text);
            }
            reports
        };
        assert!(reports(4_000).await.is_empty());
        assert_eq!(reports(21_000).await, ["step 2", "step 4", "step 7", "step 9"]);
    }
}
