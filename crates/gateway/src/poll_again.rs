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

/// Polls in a row before others have their turn: a small body takes three.
const POLLS_MAX: u32 = 3;

/// Nobody polls: a wake is for the scheduler.
const IDLE: u8 = 0;
/// The future is being polled.
const POLLED: u8 = 1;
/// It was woken since.
const WOKEN: u8 = 2;

/// Polls a future again at once when it was woken while it was polled.
#[derive(Debug)]
pub(crate) struct PollAgainOnWake<F> {
    future: Pin<Box<F>>,
    flag: Arc<WakeFlag>,
    waker: Waker,
}

/// Where the future's wakes arrive.
#[derive(Debug)]
struct WakeFlag {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Always written: whoever polls next then sees what the wake is about, even if the wake
        // before was noted already.
        if self.state.swap(WOKEN, Ordering::AcqRel) == IDLE {
            self.task.wake();
        }
    }
}

impl<F> PollAgainOnWake<F> {
    pub(crate) fn new(future: F) -> Self {
        let flag = Arc::new(WakeFlag { state: AtomicU8::new(IDLE), task: AtomicWaker::new() });
        let waker = Waker::from(Arc::clone(&flag));
        Self { future: Box::pin(future), flag, waker }
    }
}

impl<F: Future> Future for PollAgainOnWake<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, flag, waker } = &mut *self;
        flag.task.register(cx.waker());
        for _ in 0..POLLS_MAX {
            flag.state.swap(POLLED, Ordering::AcqRel);
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(waker)) {
                return Poll::Ready(output);
            }
            let is_idle =
                flag.state.compare_exchange(POLLED, IDLE, Ordering::AcqRel, Ordering::Acquire);
            if is_idle.is_ok() {
                return Poll::Pending;
            }
        }
        flag.state.swap(IDLE, Ordering::AcqRel);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize};

    use tokio::sync::{mpsc, oneshot};

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

    fn poll<F: Future>(eager: &mut PollAgainOnWake<F>, count: &Arc<Count>) -> Poll<F::Output> {
        Pin::new(eager).poll(&mut Context::from_waker(&Waker::from(Arc::clone(count))))
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_again_without_the_scheduler() {
        let count = Arc::new(Count::default());
        assert_eq!(
            poll(&mut PollAgainOnWake::new(waking(POLLS_MAX - 1)), &count),
            Poll::Ready(POLLS_MAX)
        );
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn one_that_never_rests_lets_others_go_first() {
        let count = Arc::new(Count::default());
        let mut eager = PollAgainOnWake::new(waking(POLLS_MAX + 2));
        assert_eq!(poll(&mut eager, &count), Poll::Pending);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(poll(&mut eager, &count), Poll::Ready(POLLS_MAX + 3));
    }

    #[test]
    fn a_wake_while_nobody_polls_reaches_the_task() {
        let count = Arc::new(Count::default());
        let (send, mut receive) = mpsc::channel(1);
        let mut eager = PollAgainOnWake::new(async move { receive.recv().await });
        assert_eq!(poll(&mut eager, &count), Poll::Pending);
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        send.try_send(7).expect("there is room");
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(poll(&mut eager, &count), Poll::Ready(Some(7)));
    }

    #[test]
    fn a_wake_from_another_thread_while_it_is_polled_is_not_lost() {
        let count = Arc::new(Count::default());
        let (send, mut answer) = oneshot::channel();
        let mut send = Some(send);
        let looking = poll_fn(move |cx| {
            let found = Pin::new(&mut answer).poll(cx);
            // It looked too early: the answer comes before this poll ends.
            if let Some(send) = send.take() {
                let answering = std::thread::spawn(move || send.send(7));
                answering.join().expect("it does not panic").expect("it is waited for");
            }
            found
        });
        assert_eq!(poll(&mut PollAgainOnWake::new(looking), &count), Poll::Ready(Ok(7)));
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
    }
}
