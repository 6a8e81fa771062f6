//! Tests of the memory budget.

use futures::FutureExt;

use super::*;

const MIB: usize = 1 << 20;

#[tokio::test(start_paused = true)]
async fn what_is_taken_comes_back() {
    let budget = MemoryBudget::new(4 * MIB);
    let first = budget.take(3 * MIB, None).await.unwrap();
    let second = budget.take(MIB, None).await.unwrap();
    assert!(budget.take(MIB, None).now_or_never().is_none());
    assert!(budget.take(SMALL, None).now_or_never().is_some(), "small ones always find room");
    drop(first);
    let third = budget.take(3 * MIB, None).await.unwrap();
    drop((second, third));
    assert!(budget.bodies().all.is_empty());
    // A body that needs more than the whole budget takes all of it.
    budget.take(100 * MIB, None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_share_grows_with_its_body_and_waits_for_room() {
    let budget = MemoryBudget::new(4 * MIB);
    let left = || budget.0.free.available_permits() * UNIT;
    let mut permit = budget.take(0, None).await.unwrap();
    budget.grow(&mut permit, SMALL, None).await.unwrap();
    assert_eq!(left(), 4 * MIB, "small ones are not counted");
    for bytes in [MIB, MIB / 2, 2 * MIB] {
        budget.grow(&mut permit, bytes, None).await.unwrap();
    }
    assert_eq!(left(), 2 * MIB);

    let other = budget.take(2 * MIB, Some(&ConnectionCloser::default())).await.unwrap();
    {
        let growing = budget.grow(&mut permit, 3 * MIB, None);
        tokio::pin!(growing);
        assert!(growing.as_mut().now_or_never().is_none());
        drop(other);
        growing.await.unwrap();
    }
    assert_eq!(left(), MIB);
    drop(permit);
    assert_eq!(left(), 4 * MIB);
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_told_to_slow_down() {
    let budget = MemoryBudget::new(4 * MIB);
    let busy = budget.take(4 * MIB, Some(&ConnectionCloser::default())).await.unwrap();
    let begun = Instant::now();
    let waiting = budget.take(MIB, None);
    tokio::pin!(waiting);
    let refused = loop {
        tokio::select! {
            taken = &mut waiting => break taken,
            () = tokio::time::sleep(Duration::from_millis(100)) => busy.moved(STEP),
        }
    };
    assert!(matches!(refused, Err(ServiceError::Busy(Applied::None))));
    assert!(begun.elapsed() >= WAIT);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stands_still_makes_way() {
    let budget = MemoryBudget::new(4 * MIB);
    let (still, busy) = (ConnectionCloser::default(), ConnectionCloser::default());
    let stalled = budget.take(2 * MIB, Some(&still)).await.unwrap();
    let moving = budget.take(2 * MIB, Some(&busy)).await.unwrap();
    let connection = async {
        still.closed().await;
        drop(stalled);
    };
    let work = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            moving.moved(STEP / 20);
        }
    };
    let taken = tokio::select! {
        (taken, ()) = async { tokio::join!(budget.take(MIB, None), connection) } => taken,
        () = work => unreachable!("it works for ever"),
    };
    assert!(taken.is_ok());
    assert!(busy.closed().now_or_never().is_none(), "who goes on stays");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_trickles_makes_way() {
    let budget = MemoryBudget::new(4 * MIB);
    let slow = ConnectionCloser::default();
    let trickling = budget.take(4 * MIB, Some(&slow)).await.unwrap();
    let connection = async {
        loop {
            tokio::select! {
                () = slow.closed() => break,
                () = tokio::time::sleep(Duration::from_millis(100)) => trickling.moved(1024),
            }
        }
        drop(trickling);
    };
    let (taken, ()) = tokio::join!(budget.take(MIB, None), connection);
    assert!(taken.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_ended_once() {
    let budget = MemoryBudget::new(4 * MIB);
    let (first, second) = (ConnectionCloser::default(), ConnectionCloser::default());
    let _slow_to_end = budget.take(2 * MIB, Some(&first)).await.unwrap();
    let _other = budget.take(2 * MIB, Some(&second)).await.unwrap();
    tokio::time::advance(STALLED).await;
    let refused = budget.take(2 * MIB, None).await;
    assert!(matches!(refused, Err(ServiceError::Busy(Applied::None))));
    assert!(first.closed().now_or_never().is_some());
    // This body frees enough when it ends, so no other connection has to be closed, however long that
    // takes.
    assert!(first.closed().now_or_never().is_none());
    assert!(second.closed().now_or_never().is_none());
}

#[test]
fn frames_are_the_bytes() {
    let bytes = Bytes::from(vec![7; 2 * STEP + 5]);
    let lengths: Vec<usize> = frames(bytes).map(|frame| frame.len()).collect();
    assert_eq!(lengths, [STEP, STEP, 5]);
    assert_eq!(frames(Bytes::new()).count(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_reads_ends_at_last() {
    let budget = MemoryBudget::new(64 * MIB);
    let closer = ConnectionCloser::default();
    let _unread = budget.take(MIB, Some(&closer)).await.unwrap();
    tokio::time::advance(ABANDONED).await;
    drop(budget.take(MIB, None).await.unwrap());
    assert!(closer.closed().now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn bytes_count_until_they_are_sent() {
    let budget = MemoryBudget::new(4 * MIB);
    let permit = Arc::new(budget.take(4 * MIB, None).await.unwrap());
    let all = permit.hold(Bytes::from_static(b"on their way"));
    drop(permit);
    // A part of the bytes keeps all of them in memory, so it counts as all.
    let mut part = all.clone();
    drop(part.split_to(3));
    drop(all);
    assert_eq!(part, b"their way".as_slice());
    assert!(budget.take(MIB, None).now_or_never().is_none());
    drop(part);
    assert!(budget.take(MIB, None).now_or_never().is_some());

    let small = Arc::new(budget.take(SMALL, None).await.unwrap());
    let bytes = Bytes::from_static(b"small");
    assert_eq!(
        small.hold(bytes.clone()).as_ptr(),
        bytes.as_ptr(),
        "what is not counted stays as it is"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_counts_as_what_it_is_until_it_is_sent() {
    let budget = MemoryBudget::new(4 * MIB);
    let left = || budget.0.free.available_permits() * UNIT;
    let taken = async || budget.take(MIB, None).await.unwrap();
    let shorter = taken().await.send(Bytes::from(vec![1; MIB / 2])).unwrap();
    assert_eq!((left(), shorter.len()), (4 * MIB - MIB / 2, MIB / 2));
    let longer = taken().await.send(Bytes::from(vec![1; 2 * MIB])).unwrap();
    assert_eq!(left(), 4 * MIB - MIB / 2 - 2 * MIB);
    let refused = taken().await.send(Bytes::from(vec![1; 3 * MIB]));
    assert!(matches!(refused, Err(ServiceError::Busy(Applied::None))));
    assert_eq!(taken().await.send(Bytes::from_static(b"short")).unwrap(), "short");
    drop((shorter, longer));
    assert_eq!(left(), 4 * MIB);

    let closer = ConnectionCloser::default();
    let permit = budget.take(MIB, Some(&closer)).await.unwrap();
    permit.pause_stall_timer();
    let _unread = permit.send(Bytes::from(vec![1; 3 * MIB])).unwrap();
    tokio::time::advance(STALLED).await;
    assert!(budget.take(2 * MIB, None).now_or_never().is_none());
    assert!(closer.closed().now_or_never().is_some(), "nobody reads it, and others wait");
}

#[test]
fn a_body_holds_no_more_than_a_few_blocks() {
    assert_eq!(bytes_in(Some(10)), 10);
    assert_eq!(bytes_in(Some(1 << 40)), 2 * MIB);
    assert_eq!((bytes_in(None), bytes_out(1 << 40, &(0..1 << 40))), (2 * MIB, 3 * MIB));
    assert_eq!((bytes_out(1 << 40, &(5..6)), bytes_out(100, &(5..6))), (MIB, 100));
    assert_eq!(bytes_out(1 << 40, &(0..0)), 0);
}
