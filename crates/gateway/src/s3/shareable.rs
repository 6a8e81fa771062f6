//! Streams as bodies of answers.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::{Stream, StreamExt};
use parking_lot::Mutex;

/// Makes a stream shareable between threads, as a response body must be. It is never locked.
pub(super) struct Shareable<S>(Mutex<S>);

impl<S> Shareable<S> {
    pub(super) fn new(stream: S) -> Self {
        Self(Mutex::new(stream))
    }
}

impl<S: Stream + Unpin> Stream for Shareable<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let stream = self.0.get_mut();
        stream.poll_next_unpin(context)
    }
}
