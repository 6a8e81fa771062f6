//! Collections of garbage during a drill: one after another, on every master in turn.

use std::{
    fmt,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fula_testkit::cluster::Cluster;
use serde_json::Value;
use tokio::{task::JoinHandle, time::sleep};

/// Tries of the collection after the faults. A master that was killed is waited for.
const TRIES: usize = 30;

/// What the collections of a drill did.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    done: u64,
    failed: u64,
    deleted_bytes: u64,
}

impl fmt::Display for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { done, failed, deleted_bytes } = self;
        write!(f, "{done} done, {failed} ended early, {deleted_bytes} bytes deleted")
    }
}

impl Collected {
    fn note(&mut self, output: &std::process::Output) {
        let found: Option<Value> = serde_json::from_slice(&output.stdout).ok();
        let collection = found.filter(|_| output.status.success());
        match collection.as_ref().map(|found| &found["collection"]) {
            Some(found) if found.is_object() => {
                self.done += 1;
                self.deleted_bytes += found["deleted_bytes"].as_u64().unwrap_or_default();
            }
            _ => self.failed += 1,
        }
    }
}

const COLLECT: [&str; 3] = ["gc", "--now", "--json"];

/// Collects until `stop` is set.
pub(crate) fn run(cluster: &Cluster, stop: &Arc<AtomicBool>) -> JoinHandle<Collected> {
    let commands: Vec<Command> =
        cluster.gateways.iter().map(|gateway| gateway.command(&COLLECT)()).collect();
    let stop = Arc::clone(stop);
    tokio::spawn(async move {
        let mut collected = Collected::default();
        let mut commands: Vec<_> =
            commands.into_iter().map(tokio::process::Command::from).collect();
        for n in 0.. {
            sleep(Duration::from_millis(500)).await;
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let count = commands.len();
            // A collection waits for masters that are paused or dead.
            if let Ok(output) = commands[n % count].output().await {
                collected.note(&output);
            }
        }
        collected
    })
}

/// Collects once more when everything is calm. Returns what is wrong with it.
pub(crate) async fn last(cluster: &Cluster) -> Vec<String> {
    let mut said = String::new();
    for _ in 0..TRIES {
        match cluster.gateways[1].fula(&COLLECT) {
            Ok(_) => return Vec::new(),
            Err(error) => said = error.to_string(),
        }
        sleep(Duration::from_secs(5)).await;
    }
    vec![format!("a collection fails when all is calm: {said}")]
}
