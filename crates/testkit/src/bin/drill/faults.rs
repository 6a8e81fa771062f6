//! The faults of a drill.

use std::{
    collections::BTreeMap,
    fmt, io,
    time::{Duration, Instant},
};

use fula_testkit::{cluster::Cluster, rng::Rng};
use tokio::time::{sleep, timeout};

/// What a gateway says whose data directory another process has.
const IN_USE: &str = "is in use by another fula process";

/// Longest time until a gateway is started again.
const LOOK: Duration = Duration::from_secs(1);

/// Longest time after the last fault until all gateways serve.
const REPAIR: Duration = Duration::from_mins(1);

/// The number of times that each fault was injected.
#[derive(Debug, Default)]
pub(crate) struct Done(BTreeMap<&'static str, u64>);

impl Done {
    fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: u64 = self.0.values().sum();
        write!(f, "{total}")?;
        for (what, times) in &self.0 {
            write!(f, ", {times} {what}")?;
        }
        Ok(())
    }
}

/// Injects faults for `length`, then repairs everything. Without `heavy` it injects none.
pub(crate) async fn inflict(
    cluster: &mut Cluster,
    rng: &mut Rng,
    length: Duration,
    heavy: bool,
) -> io::Result<Done> {
    let mut done = Done::default();
    let deadline = Instant::now() + length;
    if !heavy {
        sleep(length).await;
        return Ok(done);
    }
    for link in &cluster.client_links {
        link.drop_answers(20);
    }
    while Instant::now() < deadline {
        start_again(cluster, &mut done)?;
        sleep(Duration::from_millis(200 + rng.below(1_200))).await;
        let n = usize::try_from(rng.below(cluster.gateways.len() as u64)).unwrap_or(0);
        match rng.below(10) {
            0..3 => {
                done.count("gateways killed");
                cluster.gateways[n].kill()?;
                sleep(Duration::from_millis(rng.below(800))).await;
                cluster.gateways[n].launch()?;
            }
            3..5 => {
                done.count("gateways paused");
                cluster.gateways[n].pause()?;
                sleep(Duration::from_millis(200 + rng.below(6_000))).await;
                cluster.gateways[n].resume()?;
            }
            5 => {
                done.count("arbiter restarts");
                cluster.postgres.crash(rng.below(2) == 0)?;
                sleep(Duration::from_millis(rng.below(500))).await;
                cluster.postgres.launch()?;
            }
            6..8 => {
                done.count("arbiter links cut");
                cluster.arbiter_links[n].cut();
                sleep(Duration::from_millis(rng.below(3_000))).await;
                cluster.arbiter_links[n].mend();
            }
            8 => {
                done.count("arbiter answers swallowed for a while");
                cluster.arbiter_links[n].drop_answers(200);
                sleep(Duration::from_millis(rng.below(2_000))).await;
                cluster.arbiter_links[n].drop_answers(0);
            }
            _ => {
                done.count("slow arbiter links");
                cluster.arbiter_links[n].set_latency(Duration::from_millis(5 + rng.below(100)));
                sleep(Duration::from_millis(500)).await;
                cluster.arbiter_links[n].set_latency(Duration::ZERO);
            }
        }
    }
    for link in &cluster.client_links {
        link.drop_answers(0);
        for _ in 0..link.dropped() {
            done.count("answers to clients swallowed");
        }
    }
    for n in 0..cluster.gateways.len() {
        while timeout(LOOK, cluster.gateways[n].serving()).await.is_err() {
            if Instant::now() > deadline + REPAIR {
                return Err(io::Error::other(cluster.gateways[n].last_words()?));
            }
            start_again(cluster, &mut done)?;
        }
    }
    Ok(done)
}

/// Starts gateways again whose data directory was in use when they were started: a command that finds no gateway
/// works on the directory itself for a moment. A service manager does the same.
///
/// # Errors
/// An error when a gateway has ended for another reason.
fn start_again(cluster: &mut Cluster, done: &mut Done) -> io::Result<()> {
    for gateway in &mut cluster.gateways {
        if gateway.pid().is_none() || gateway.is_running()? {
            continue;
        }
        let said = gateway.last_words()?;
        if !said.contains(IN_USE) {
            return Err(io::Error::other(format!("a gateway ended by itself: {said}")));
        }
        done.count("gateways started again after a command");
        gateway.launch()?;
    }
    Ok(())
}
