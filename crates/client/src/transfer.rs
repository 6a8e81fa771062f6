//! Uploads that run by themselves, and can be watched and canceled.

use tokio::task::JoinHandle;

use crate::{
    client::Bucket,
    error::{Error, Result},
    put::{Put, PutOptions},
    send::Meter,
    source::Source,
};

/// An upload that runs by itself. Dropping it cancels it.
#[derive(Debug)]
pub struct Transfer {
    task: JoinHandle<Result<Put>>,
    meter: Meter,
}

impl Bucket {
    /// Starts to write an object, as [`Bucket::put`] does.
    pub fn upload(&self, key: &str, body: impl Into<Source>, mut options: PutOptions) -> Transfer {
        let meter = options.meter.get_or_insert_default().clone();
        let (bucket, key, body) = (self.clone(), key.to_owned(), body.into());
        let task = tokio::spawn(async move { bucket.put(&key, body, options).await });
        Transfer { task, meter }
    }
}

impl Transfer {
    /// Returns the number of bytes that were sent so far. Bytes of an attempt that failed are taken back.
    pub fn sent(&self) -> u64 {
        self.meter.bytes()
    }

    /// Stops the upload. With a journal, a later upload goes on with it.
    pub fn cancel(&self) {
        self.task.abort();
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// [`Error::Canceled`] after [`Self::cancel`], and as for [`Bucket::put`].
    pub async fn wait(mut self) -> Result<Put> {
        match (&mut self.task).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Error::Canceled),
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
