//! Tests on disks that fail or are full: the answers to callers, and the state afterwards.

use super::*;

/// Every disk call of an operation fails once, in each way. The answer must be true, and readers see
/// nothing that was not acknowledged.
#[test]
fn every_call_that_fails_is_answered_honestly() {
    let mut said = BTreeMap::new();
    for fault in [Fault::Full, Fault::Io] {
        for after in 0.. {
            let is_over = block_on(async {
                let mut case = Case::new(7);
                case.disk.fail(after, fault, false);
                let before = case.disk.calls();
                for n in 0..12 {
                    let root = case.block();
                    let put =
                        case.store.blocks.put(std::slice::from_ref(&root), Placement::Commit).await;
                    let synced = match put {
                        Ok(mark) => case.store.blocks.sync(mark).await,
                        Err(error) => Err(error),
                    };
                    if let Err(error) = synced {
                        let is_full = matches!(error, StoreError::Full { .. });
                        assert_eq!(is_full, fault == Fault::Full, "{error:?}");
                        *said.entry(is_full).or_insert(0) += 1;
                        break;
                    }
                    case.model.blocks.insert(root.cid(), root);
                    let is_done = case.swap().await
                        && case.write().await
                        && case.delete().await
                        && (n % 3 > 0 || case.store.seal(0).is_ok())
                        && (n % 3 > 0 || case.store.compact(1, &|| {}).is_ok());
                    if !is_done {
                        break;
                    }
                }
                let calls = case.disk.calls() - before;
                case.see_only_what_was_acknowledged().await;
                case.crash().await;
                after >= calls
            });
            if is_over {
                assert!(after > 120, "only {after} calls");
                break;
            }
        }
    }
    assert!(said.values().all(|times| *times > 0) && said.len() == 2, "{said:?}");
}

/// An error of the disk while a log is opened is reported as such, and the next start finds the log as it
/// was.
#[test]
fn an_error_while_opening_is_no_damage() {
    block_on(async {
        let mut case = Case::new(3);
        for n in 0..12 {
            while !(case.swap().await && case.write().await && case.put_in(Placement::Bulk).await) {
            }
            assert!(n % 4 > 0 || case.store.seal(0).is_ok());
        }
        let whole = case.disk.crash(&mut case.rng);
        let mut failed = 0;
        for after in 0.. {
            let disk = whole.crash(&mut Rng::new(1));
            let before = disk.calls();
            disk.fail(after, Fault::Io, false);
            let clock: Clock = Arc::new(|| 1);
            let opened = LocalStore::open_on(
                Path::new("sim"),
                Arc::new(disk.clone()),
                clock,
                false,
                Some(4096),
            );
            match &opened {
                Ok(store) => assert!(store.recovery.damaged.is_empty(), "{:?}", store.recovery),
                Err(_) => failed += 1,
            }
            let is_over = after >= disk.calls() - before;
            drop(opened);
            let mut again = Case { disk, ..Case::new(3) };
            again.model = case.model.clone();
            again.crash().await;
            if is_over {
                break;
            }
        }
        assert!(failed > 20, "only {failed} calls");
    });
}

/// The last free space of a nearly full disk is reserved for compaction, which frees more.
#[test]
fn a_full_disk_refuses_and_still_compacts() {
    block_on(async {
        let mut case = Case::new(5);
        for _ in 0..20 {
            assert!(case.put_in(Placement::Commit).await);
        }
        assert!(case.delete().await && case.store.seal(0).is_ok());
        let is_full = |put| matches!(put, Err(StoreError::Full { .. }));
        // Of the 64 MiB reserve, 16 MiB are for compaction alone.
        case.disk.set_room(Room { free: 67 << 20, size: 1 << 30 });
        let (mut puts, mut removals) = (0, 0);
        let block = |n| Block::new(Codec::Raw, vec![n; (1 << 20) - 64]);
        while !is_full(case.store.blocks.put(&[block(puts)], Placement::Bulk).await) {
            puts += 1;
        }
        assert!(is_full(case.store.blocks.put(&[block(puts)], Placement::Commit).await));
        // Deletions may use a part of the reserve.
        while !is_full(case.store.blocks.put(&[block(puts + removals)], Placement::Removal).await) {
            removals += 1;
        }
        // Of these 48 MiB, the beginning of another segment takes a little.
        assert_eq!((puts, removals), (3, 47));
        assert!(case.store.compact(1, &|| {}).unwrap() > 0);
        case.crash().await;
    });
}

/// A block that the disk cannot read, for now or for ever, can be put again.
#[test]
fn a_block_that_cannot_be_read_is_stored_anew_when_it_is_put() {
    block_on(async {
        let mut case = Case::new(1);
        let block = case.block();
        let put = async |case: &Case| {
            let mark = case.store.blocks.put(std::slice::from_ref(&block), Placement::Commit).await;
            case.store.blocks.sync(mark.unwrap()).await.unwrap();
        };
        put(&case).await;
        // The new copy must not lie in the same place.
        let between = Block::new(Codec::Raw, vec![1; 5000]);
        case.store.blocks.put(&[between], Placement::Commit).await.unwrap();
        case.disk.lose("commit-00000001.log", 100);
        let lost = case.store.blocks.get(&block.cid()).await;
        assert!(matches!(lost, Err(StoreError::Damaged { .. })), "{lost:?}");
        // The put fails while the disk has no space for it.
        case.disk.set_room(Room { free: 0, size: 1 << 30 });
        let full = case.store.blocks.put(std::slice::from_ref(&block), Placement::Commit).await;
        assert!(matches!(full, Err(StoreError::Full { .. })), "{full:?}");
        case.disk.set_room(Room { free: 1 << 29, size: 1 << 30 });
        let before = case.store.work().appended_bytes;
        // The put keeps the block from a collection that is running.
        let cut = case.store.blocks.advance_epoch();
        put(&case).await;
        sweep_all(&*case.store.blocks, cut, cut).await.unwrap();
        let appended = case.store.work().appended_bytes - before;
        assert!(appended >= block.bytes().len() as u64);
        // It is stored only once: the next put finds it there.
        let before = case.store.work().appended_bytes;
        put(&case).await;
        assert!(case.store.work().appended_bytes - before < block.bytes().len() as u64);
        assert_eq!(case.store.blocks.get(&block.cid()).await.unwrap(), Some(block));
    });
}

#[test]
fn a_repair_that_does_not_end_is_not_forgotten() {
    let case = Case::new(1);
    let open = |despite| {
        let disk = Arc::new(case.disk.crash(&mut Rng::new(1)));
        LocalStore::open_on(Path::new("sim"), disk, Arc::new(|| 1), despite, Some(4096))
    };
    assert_eq!(open(false).unwrap().recovery.pointers_at_risk(), 0);
    case.store.begin_repair().unwrap();
    case.store.begin_repair().unwrap();
    assert!(matches!(open(false), Err(OpenError::Damaged(_, 1))));
    assert_eq!(open(true).unwrap().recovery.pointers_at_risk(), 1);
    case.store.end_repair().unwrap();
    assert_eq!(open(false).unwrap().recovery.pointers_at_risk(), 0);
}
