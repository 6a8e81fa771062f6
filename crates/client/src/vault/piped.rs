//! A stream that is read while it is sent.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use parking_lot::Mutex;

use crate::{
    error::{Error, Result},
    source::Source,
};

/// A stream as the source of a write. The reason why the stream fails is that of the write.
#[derive(Debug)]
pub struct Piped {
    source: Source,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Piped {
    /// Takes a stream of `len` bytes.
    pub fn new(stream: impl Stream<Item = Result<Bytes>> + Send + 'static, len: u64) -> Self {
        let failure = Arc::<Mutex<Option<Error>>>::default();
        let noted = Arc::clone(&failure);
        let stream = stream.map_err(move |error| {
            let text = error.to_string();
            noted.lock().replace(error);
            io::Error::other(text)
        });
        Self { source: Source::stream(stream, Some(len)), failure }
    }

    /// Sends the stream with `send`.
    ///
    /// # Errors
    /// That of the stream, or that of `send`.
    pub async fn through<T, F: Future<Output = Result<T>>>(
        self,
        send: impl FnOnce(Source) -> F,
    ) -> Result<T> {
        let done = send(self.source).await;
        match self.failure.lock().take() {
            Some(error) if done.is_err() => Err(error),
            _ => done,
        }
    }
}
