//! Mappings under faults that a seed draws, and rules that are left out.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
};

use fula_ingest::faults::Fault as NodeFault;
use fula_testkit::rng::Rng;

use super::world::*;
use crate::*;

/// Runs requests and faults that `seed` draws. Returns the first promise that was broken.
async fn run(seed: u64, fault: Option<NodeFault>) -> Result<(), String> {
    let world = World::new(fault, false).await;
    let (mut rng, mut lost) = (Rng::new(seed), HashSet::new());
    let (users, mut sent) = ([world.user().clone(), other_user()], HashSet::new());
    world.masters[0].service.create_bucket(&users[1], &bucket(), None).await.unwrap();
    let mut objects: HashMap<(usize, String), (u64, u8)> = HashMap::new();
    for _ in 0..80 {
        let (who, n, site) =
            (usize_below(&mut rng, 2), rng.below(6), 1 + u8::from(rng.below(2) == 1));
        let key = format!("k{}", rng.below(4));
        match rng.below(10) {
            0..=2 => {
                world.send(site, &users[who], &block(n)).await;
                sent.insert((who, n, site));
            }
            3..=5 => {
                let is_lost = rng.below(2) == 0;
                world.sites.site(site).loses_pins.store(is_lost, Ordering::Relaxed);
                let mapped = of_block(&block(n), Vec::new());
                let none = WriteConditions::default();
                if world.map_as(&users[who], &key, &mapped, none).await.is_ok() {
                    if ![1, 2].iter().any(|site| sent.contains(&(who, n, *site))) {
                        return Err("a user mapped a block that they have never sent".to_owned());
                    }
                    objects.insert((who, key), (n, site));
                }
            }
            6 => {
                let request =
                    DeleteKey { key: object_key(&key), conditions: WriteConditions::default() };
                let master = &world.masters[usize_below(&mut rng, 2)];
                master.service.delete_object(&users[who], &bucket(), request).await.unwrap();
                objects.remove(&(who, key));
            }
            7 => {
                let asked = [None, Some(0), Some(1)][usize_below(&mut rng, 3)];
                let ms = rng.below(30) * HOUR;
                world.pass(ms, asked).await;
            }
            8 => world.sites.away(site, rng.below(2) == 0),
            _ if rng.below(20) == 0 => {
                world.sites.wipe(site).await;
                lost.insert(site);
                sent.retain(|(_, _, at)| *at != site);
            }
            _ => {}
        }
        if !lost.is_empty()
            || [1, 2].iter().any(|n| world.sites.site(*n).is_away.load(Ordering::Relaxed))
        {
            continue;
        }
        for ((who, key), (n, _)) in &objects {
            let master = Master {
                service: world.masters[usize_below(&mut rng, 2)].service.clone(),
                user: users[*who].clone(),
            };
            match master.get(key).await {
                Ok(found) if found == *block(*n).bytes() => {}
                other => return Err(format!("{key} of user {who}: {other:?}")),
            }
        }
    }
    Ok(())
}

fn usize_below(rng: &mut Rng, n: u64) -> usize {
    usize::try_from(rng.below(n)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn acknowledged_mappings_stay_readable_under_any_faults() {
    for seed in 0..60 {
        assert_eq!(run(seed, None).await, Ok(()), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ends_without_a_question_and_presence_as_proof_are_found() {
    for fault in [NodeFault::ReleaseWithoutAsking, NodeFault::PresenceIsReceipt] {
        let mut found = None;
        for seed in 0..60 {
            found = found.or(run(seed, Some(fault)).await.err());
        }
        assert!(found.is_some(), "{fault:?} was not noticed");
    }
}
