//! Reports of the progress of long requests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::task::JoinHandle;

/// Time between two reports, and before the first one.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// The progress of a request, which the work updates and the reports read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    doing: Mutex<String>,
    /// Blocks read so far.
    blocks: Arc<AtomicU64>,
}

impl Progress {
    /// Sets the text that describes the current step.
    pub(super) fn say(&self, doing: String) {
        *self.0.doing.lock() = doing;
    }

    /// Returns the counter of the blocks read.
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

    /// Starts `work` as a task, and returns a handle that reports its progress.
    pub(crate) fn watch<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Watched<T> {
        // It is a separate task, because parts of it block their thread while they read the disk.
        Watched { work: tokio::spawn(work), progress: self.clone(), said: String::new() }
    }
}

/// Work in a task whose progress is reported. Dropping this aborts the work.
#[derive(Debug)]
pub(crate) struct Watched<T> {
    work: JoinHandle<T>,
    progress: Progress,
    said: String,
}

/// An event of watched work.
#[derive(Debug)]
pub(crate) enum Step<T> {
    /// The work continues, and this text describes its progress.
    Report(String),
    /// The work has ended with this result.
    Done(T),
}

impl<T> Watched<T> {
    /// Waits for the next report, or for the result of the work.
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
