//! A task that wakes itself goes on at once.
//!
//! A body travels from hyper's connection to whoever answers through a channel, both of them in one task:
//! to ask for it wakes the task that is just running. Tokio takes that as a wish to let others
//! go first: it queues the task again and wakes another thread for it. docs/adr/0024.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;

/// Polls in a row before others have their turn.
const POLLS_MAX: u32 = 8;

/// Nobody polls: a wake is for the scheduler.
const IDLE: u8 = 0;
/// The future is being polled.
const POLLED: u8 = 1;
/// It was woken meanwhile.
const WOKEN: u8 = 2;

/// Polls a future again at once when it was woken while it was polled.
#[derive(Debug)]
pub(crate) struct Eager<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    waker: Waker,
}

/// Where the future's wakes arrive.
#[derive(Debug)]
struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let noted = self.state.compare_exchange(POLLED, WOKEN, Ordering::AcqRel, Ordering::Acquire);
        if noted == Err(IDLE) {
            self.task.wake();
        }
    }
}

impl<F> Eager<F> {
    pub(crate) fn new(future: F) -> Self {
        let bell = Arc::new(Bell { state: AtomicU8::new(IDLE), task: AtomicWaker::new() });
        let waker = Waker::from(Arc::clone(&bell));
        Self { future: Box::pin(future), bell, waker }
    }
}

impl<F: Future> Future for Eager<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, bell, waker } = &mut *self;
        bell.task.register(cx.waker());
        for _ in 0..POLLS_MAX {
            bell.state.store(POLLED, Ordering::Release);
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(waker)) {
                return Poll::Ready(output);
            }
            let is_idle =
                bell.state.compare_exchange(POLLED, IDLE, Ordering::AcqRel, Ordering::Acquire);
            if is_idle.is_ok() {
                return Poll::Pending;
            }
        }
        bell.state.store(IDLE, Ordering::Release);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize, time::Duration};

    use futures::executor::block_on;
    use tokio::sync::mpsc;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Wakes itself `times` times before it is ready, and counts polls.
    fn waking(times: u32) -> impl Future<Output = u32> {
        let mut polls = 0;
        poll_fn(move |cx| {
            polls += 1;
            if polls > times {
                return Poll::Ready(polls);
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    fn poll<F: Future>(eager: &mut Eager<F>, count: &Arc<Count>) -> Poll<F::Output> {
        Pin::new(eager).poll(&mut Context::from_waker(&Waker::from(Arc::clone(count))))
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_again_without_the_scheduler() {
        let count = Arc::new(Count::default());
        assert_eq!(poll(&mut Eager::new(waking(3)), &count), Poll::Ready(4));
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn one_that_never_rests_lets_others_go_first() {
        let count = Arc::new(Count::default());
        let mut eager = Eager::new(waking(POLLS_MAX + 2));
        assert_eq!(poll(&mut eager, &count), Poll::Pending);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(poll(&mut eager, &count), Poll::Ready(POLLS_MAX + 3));
    }

    #[test]
    fn a_wake_while_nobody_polls_reaches_the_task() {
        let count = Arc::new(Count::default());
        let (send, mut receive) = mpsc::channel(1);
        let mut eager = Eager::new(async move { receive.recv().await });
        assert_eq!(poll(&mut eager, &count), Poll::Pending);
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        send.try_send(7).expect("there is room");
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(poll(&mut eager, &count), Poll::Ready(Some(7)));
    }

    /// Two threads that sleep until the other one wakes them: a wake that got lost ends in the timeout.
    #[test]
    fn no_wake_from_another_thread_is_lost() {
        const MESSAGES: u32 = 50_000;
        let (there, mut arrived) = mpsc::channel(1);
        let (back, mut returned) = mpsc::channel(1);
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            block_on(Eager::new(async move {
                while let Some(n) = arrived.recv().await {
                    back.send(n).await.expect("it is still wanted");
                }
            }));
        });
        std::thread::spawn(move || {
            block_on(Eager::new(async move {
                for n in 0..MESSAGES {
                    there.send(n).await.expect("it echoes");
                    assert_eq!(returned.recv().await, Some(n));
                }
            }));
            done.send(()).expect("it is waited for");
        });
        ended.recv_timeout(Duration::from_mins(1)).expect("a wake was lost");
    }
}
